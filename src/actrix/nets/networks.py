"""The network of a policy and a value branch, and `NetworkConfig`, which builds it; written for ONE observation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeGuard

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array

from actrix.core.distributions import ActionHead, DiagGaussian, Distribution, SquashedGaussian, action_head
from actrix.core.fields import choose, finite, switch, whole
from actrix.core.host import split
from actrix.core.spaces import space_leaves
from actrix.core.types import Key, PyTree, Spec, record
from actrix.nets.exploration import Explores, StateNoise
from actrix.nets.memory import apply
from actrix.nets.memory.cells import Memory
from actrix.nets.memory.decoder import Shape, Tokens, Transformer
from actrix.nets.memory.recurrent import KINDS, recurrent
from actrix.nets.memory.weights import pretrained
from actrix.nets.obeyed import CELLS, SDE, SHAPE
from actrix.nets.torso import MLP, SQRT2, Encoder, Linear, resolve_activation
from actrix.nets.view import JointView


@record
class Output:
    """What an actor-critic network says of one observation."""

    dist: Distribution
    value: Array
    """V(s) as a scalar, or Q(s, ·) as a vector for a Q critic."""
    features: Array | None = None
    """φ(s), the policy's last hidden layer, where its exploration depends on it."""


class ActorCriticNet(Explores, eqx.Module):
    """Encoder → optional memory → separate policy and value MLPs → heads.

    The hidden layers have gain √2, the policy head 0.01, the value head 1; `log_std` does not depend on the
    state, but the deviation does where exploration does (`sde`). One encoder (and memory) serves both branches
    unless `share_features_extractor=False`.
    """

    encoder: Any
    vf_encoder: Any
    cell: Any
    pi: MLP
    vf: MLP
    pi_head: Linear
    vf_head: Linear
    log_std: Array | None
    head: ActionHead = eqx.field(static=True)
    q_values: bool = eqx.field(static=True)
    sde: StateNoise | None = eqx.field(static=True)
    squash: bool = eqx.field(static=True)

    view: ClassVar[type] = JointView

    def __init__(
        self,
        observation_space: gym.Space, head: ActionHead, key: Key, *,
        net_arch: Mapping[str, Sequence[int]] | Sequence[int] | None = None, activation_fn: str | Callable = "tanh",
        ortho_init: bool = True, log_std_init: float = 0.0, share_features_extractor: bool = True,
        features_extractor_class: Callable = Encoder, features_extractor_kwargs: Mapping[str, Any] | None = None,
        memory: Callable[[int, Key], Memory] | None = None, layer_norm: bool = False,
        q_values: bool = False, sde: StateNoise | None = None, squash: bool = False,
    ):  # fmt: skip
        keys = split(key, 8)
        activation = resolve_activation(activation_fn)
        build = functools.partial(features_extractor_class, **(features_extractor_kwargs or {}))
        self.encoder = build(observation_space, keys[0])
        self.vf_encoder = None if share_features_extractor else build(observation_space, keys[7])
        size = jax.eval_shape(self.encoder, observation_space.sample()).shape[-1]
        has_cnn = not isinstance(self.encoder, Encoder) or any(c is not None for c in self.encoder.cnns)
        if net_arch is None:
            net_arch = [] if has_cnn and len(space_leaves(observation_space)) == 1 else [64, 64]
        arch = net_arch if isinstance(net_arch, Mapping) else {"pi": net_arch, "vf": net_arch}
        self.cell = None if memory is None else memory(size, keys[1])
        size = size if self.cell is None else self.cell.outputs
        gain = SQRT2 if ortho_init else 1.0
        self.pi = MLP(size, arch["pi"], activation, gain, keys[2], layer_norm=layer_norm)
        self.vf = MLP(size, arch["vf"], activation, gain, keys[3], layer_norm=layer_norm)
        self.pi_head = Linear([size, *arch["pi"]][-1], head.size, 0.01 if ortho_init else 1.0, keys[4])
        self.vf_head = Linear([size, *arch["vf"]][-1], head.size if q_values else 1, 1.0, keys[5])
        self.log_std = jnp.zeros(head.size) + log_std_init if head.continuous else None
        if sde is not None:
            self.log_std = sde.parameters([size, *arch["pi"]][-1], head.size, log_std_init)
        self.head, self.q_values, self.sde, self.squash = head, q_values, sde, squash

    @property
    def recurrent(self) -> bool:
        """Whether there is a memory."""
        return self.cell is not None

    @property
    def drops(self) -> bool:
        """Whether parts of what is remembered are dropped while it is learned."""
        return self.cell is not None and self.cell.drops

    def seen(self, obs: PyTree) -> Array:
        """What a memory sees of one observation: the features, the critic's own behind the policy's."""
        each = (self.encoder, self.vf_encoder)
        return jnp.concatenate([encoder(obs) for encoder in each if encoder is not None])

    def policy(self, obs: PyTree, carry: PyTree, mask: Array | None) -> tuple[Distribution, PyTree]:
        """(π(·|s), memory) for a batch."""
        out, carry = apply(self, obs, carry, mask)
        return out.dist, carry

    def draw(self, key: Key, shape: tuple[int, int]) -> PyTree:
        return super().draw(key, shape) if self.sde is None else self.sde.draw(key, shape)

    def explore(self, obs: PyTree, carry: PyTree, mask: Array | None, noise: PyTree) -> tuple:
        out, carry = apply(self, obs, carry, mask)
        if self.sde is not None and self.log_std is not None:
            noise = self.sde.normal(noise, out.features, self.log_std, out.dist.log_std)
        return out.dist, noise, carry

    def policy_part(self) -> ActorCriticNet:
        """The network without the critic's own layers: what a step of the policy alone moves."""
        nothing = (None,) * len(self.critic_part())
        return eqx.tree_at(_own_layers(self), self, nothing, is_leaf=lambda x: x is None)

    def critic_part(self) -> tuple:
        """The layers that only the critic uses."""
        return _own_layers(self)(self)

    def of_parts(self, policy: ActorCriticNet, critic: tuple) -> ActorCriticNet:
        """The network of these two parts."""
        return eqx.tree_at(_own_layers(self), policy, critic, is_leaf=lambda x: x is None)

    def critic_only(self) -> ActorCriticNet:
        """The same network, through which gradients reach the critic's own layers only."""
        return self.of_parts(jax.lax.stop_gradient(self), self.critic_part())

    def initial_carry(self, batch: tuple[int, ...]) -> PyTree:
        """Zero memory `[*batch, ...]`, or None without one."""
        return None if self.cell is None else self.cell.initial(batch)

    def __call__(self, obs: PyTree, carry: PyTree, mask: Array | None) -> tuple[Output, PyTree]:
        """(dist, value) at one observation, and the memory after it."""
        if self.cell is not None:
            said, carry = self.cell(self.seen(obs), carry)
            features, vf_features = self.cell.branches(said)
        else:
            features = self.encoder(obs)
            vf_features = features if self.vf_encoder is None else self.vf_encoder(obs)
        return self.say(features, vf_features, mask), carry

    def say(self, features: Array, vf_features: Array, mask: Array | None) -> Output:
        """(dist, value) by what the two branches get."""
        features = self.pi(features)
        value = self.vf_head(self.vf(vf_features))
        kept = None if self.sde is None else features
        return Output(self._dist(features, mask), value if self.q_values else value[0], kept)

    def _dist(self, features: Array, mask: Array | None) -> Distribution:
        out = self.pi_head(features)
        if self.sde is None or self.log_std is None:
            return self.head(out, self.log_std, mask)
        kind = SquashedGaussian if self.squash else DiagGaussian
        return kind(out, self.sde.log_std(features, self.log_std, self.head.size))


def _own_layers(net: Any) -> Callable[[Any], tuple]:
    """Where a network of this one's structure has the layers that only the critic uses."""
    apart = net.cell is not None and bool(net.cell.critic_part)
    return lambda net: (net.vf, net.vf_head, net.vf_encoder, *(net.cell.critic_part if apart else ()))


class CustomNet(Explores, eqx.Module):
    """Adapter around a user's equinox module `obs -> (logits or mean, value)`; feed-forward only.

    Its leaves that are not arrays (activation functions) are held apart as static data.
    """

    arrays: PyTree
    log_std: Array | None
    static: Any = eqx.field(static=True)
    head: ActionHead = eqx.field(static=True)
    q_values: bool = eqx.field(static=True)

    def __init__(
        self, module: eqx.Module, head: ActionHead, q_values: bool = False, log_std_init: float = 0.0
    ):
        self.arrays, self.static = eqx.partition(module, eqx.is_array)
        self.log_std = jnp.zeros(head.size) + log_std_init if head.continuous else None
        self.head = head
        self.q_values = q_values

    view: ClassVar[type] = JointView
    recurrent: ClassVar[bool] = False
    drops: ClassVar[bool] = False
    policy = ActorCriticNet.policy

    def initial_carry(self, batch: tuple[int, ...]) -> None:
        return None

    def __call__(self, obs: PyTree, carry: None, mask: Array | None) -> tuple[Output, None]:
        out, value = eqx.combine(self.arrays, self.static)(obs)
        value = jnp.asarray(value)
        return Output(self.head(out, self.log_std, mask), value if self.q_values else value.reshape(())), None


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """How to build the network: `policy_kwargs` by their Stable-Baselines3 names, hashable and JSON-ready."""

    pi: tuple[int, ...] | None = None
    vf: tuple[int, ...] | None = None
    """Hidden layers of the two branches; None = 64, 64 (nothing after a CNN)."""
    activation_fn: str | Callable = "tanh"
    ortho_init: bool = True
    log_std_init: float | None = None
    """None = 0; of a soft actor's state-dependent exploration −3."""
    use_sde: bool = False
    """Explore by a linear function of the last hidden layer that stays for many steps (`nets.exploration`)."""
    sde_sample_freq: int = -1
    """Steps after which that function is drawn anew; −1 = at the start of a chunk only."""
    full_std: bool = True
    """A deviation for each feature and action; else one for each feature."""
    use_expln: bool = False
    """Deviations that grow slowly above 1, in place of exp."""
    squash_output: bool = False
    """Squash the actions of state-dependent exploration by tanh; a soft actor does so in any case."""
    clip_mean: float = 2.0
    """Bound of a soft actor's mean before tanh under state-dependent exploration; 0 = none."""
    share_features_extractor: bool = True
    features_extractor_class: Callable | None = None
    features_extractor_kwargs: tuple[tuple[str, Any], ...] = ()
    cnn: bool = False
    """Use the CNN for float images too (uint8 images always get it)."""
    normalize_images: bool = True
    """Divide images by 255; else they are as other numbers, of which there may be statistics (`normalize_obs`)."""
    layer_norm: bool = False
    """Layer norm after each hidden layer."""
    dropout: float = 0.0
    """Dropout rate, while they learn, of the off-policy critics' hidden layers, or between the cells of a memory."""
    cell: str | None = None
    """'lstm', 'gru' or 'transformer': a policy with memory."""
    hidden_size: int = 64
    n_lstm_layers: int = 1
    """Cells one on the other; between them `dropout` while they are learned."""
    enable_critic_lstm: bool = False
    """A cell of its own for the critic."""
    shared_lstm: bool | None = None
    """Without one, the critic hears the policy's and trains it, too (True); False: it sees what is at hand alone."""
    n_layers: int = Shape.n_layers
    n_heads: int = Shape.n_heads
    n_kv_heads: int | None = Shape.n_kv_heads
    d_model: int = Shape.d_model
    d_ff: int | None = Shape.d_ff
    context: int = Shape.context
    rope_theta: float = Shape.rope_theta
    head_dim: int | None = Shape.head_dim
    norm_eps: float = Shape.norm_eps
    qkv_bias: bool = Shape.qkv_bias
    """The sizes of a transformer (`nets.memory.decoder.Shape`)."""
    weights: str | None = None
    """A folder whose decoder it starts from (`nets.memory.weights`)."""
    module: Callable | None = None
    """The user's `(spec, key) -> equinox module`, called as `module(obs) -> (logits or mean, value)`."""

    def __post_init__(self) -> None:
        switch(
            self,
            "use_sde",
            "full_std",
            "use_expln",
            "squash_output",
            "enable_critic_lstm",
            "normalize_images",
        )
        whole(self, "n_lstm_layers")
        choose(self, shared_lstm=(None, True, False))
        if self.shared_lstm and self.enable_critic_lstm:
            raise ValueError(
                "shared_lstm=True: a critic hears the policy's cell, or has its own (enable_critic_lstm)."
            )
        if self.cell in KINDS and not self.share_features_extractor and self._critic_hears == "policy":
            raise ValueError(
                "share_features_extractor=False: a critic that hears the policy's cell sees its features."
            )
        finite(self, "clip_mean", least=0)
        choose(self, cell=tuple(CELLS))
        _ = self.shape
        if self.log_std_init is not None:
            finite(self, "log_std_init")
        if self.sde_sample_freq != -1:
            whole(self, "sde_sample_freq")
        given = [
            n for n in (*SDE[1:], "squash_output", "clip_mean") if getattr(self, n) != getattr(type(self), n)
        ]
        if given and not self.use_sde:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])!r} is of state-dependent exploration: set use_sde=True."
            )

    @property
    def shape(self) -> Shape:
        """The sizes of a transformer."""
        return Shape(**{name: getattr(self, name) for name in SHAPE})

    def memory(self, space: gym.Space) -> Callable[[int, Key], Memory] | None:
        """What builds the memory for so many features of an observation; None where there is none.

        A transformer has a row of its embedding for each value of a Discrete observation: a token.
        """
        if self.cell == "transformer":
            tokens = int(space.n) if self._sees_tokens(space) else None
            return lambda inputs, key: Transformer(inputs, self.shape, key, tokens=tokens)
        if self.cell is None:
            return None
        kind, features = KINDS[self.cell], "same" if self.share_features_extractor else "apart"
        return recurrent(
            kind, self.hidden_size, self.n_lstm_layers, self.dropout, self._critic_hears, features
        )

    @property
    def _critic_hears(self) -> str:
        if self.enable_critic_lstm:
            return "own"
        return "none" if self.shared_lstm is False else "policy"

    def _sees_tokens(self, space: gym.Space) -> TypeGuard[spaces.Discrete]:
        own = self.features_extractor_class is not None
        return self.cell == "transformer" and isinstance(space, spaces.Discrete) and not own

    @property
    def encoder(self) -> Callable:
        """What builds the encoder of an observation, from a space and a key."""
        own = self.features_extractor_class
        return own or functools.partial(Encoder, cnn=self.cnn, normalize_images=self.normalize_images)

    def noise(self, *, learn_features: bool) -> StateNoise | None:
        """State-dependent exploration, where there is any."""
        if not self.use_sde:
            return None
        return StateNoise(self.sde_sample_freq, self.full_std, self.use_expln, learn_features)

    def refuse_unused(self, *used: str) -> None:
        """Raise ValueError for a setting that differs from its default and is none of those `used`."""
        wrong = [
            f.name
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default and f.name not in used
        ]
        if "use_sde" in wrong:
            raise ValueError(
                "use_sde=True: state-dependent exploration is of a Gaussian policy: a Box action space, an actor that "
                "samples (of PPO, A2C, TRPO, SAC, TQC, …) and no module of your own."
            )
        if wrong:
            raise ValueError(
                f"policy_kwargs {wrong[0]}={getattr(self, wrong[0])!r} would have no effect here: leave it out."
            )

    @property
    def custom(self) -> bool:
        """Holds code of the user's, so a file can only be loaded with a template."""
        return (
            self.module is not None
            or self.features_extractor_class is not None
            or not isinstance(self.activation_fn, str)
        )

    def build(self, spec: Spec, key: Key, q_values: bool = False) -> Any:
        """The network for one environment's spaces."""
        head = action_head(spec.action_space)
        if self.module is not None:
            return CustomNet(self.module(spec, key), head, q_values, self.log_std_init or 0.0)
        seen = spec.observation_space
        if self.weights is not None and not self._sees_tokens(seen):
            raise ValueError(
                f"weights: a decoder reads tokens, observations of a Discrete space, not a {type(seen).__name__}."
            )
        bare = self.pi is None and self.vf is None and self.cell != "transformer"
        arch = None if bare else {"pi": self.pi or (), "vf": self.vf or ()}
        net = ActorCriticNet(
            seen, head, key, net_arch=arch, activation_fn=self.activation_fn, ortho_init=self.ortho_init,
            log_std_init=self.log_std_init or 0.0, share_features_extractor=self.share_features_extractor,
            features_extractor_class=Tokens if self._sees_tokens(seen) else self.encoder,
            features_extractor_kwargs=dict(self.features_extractor_kwargs), memory=self.memory(seen),
            layer_norm=self.layer_norm, q_values=q_values, sde=self.noise(learn_features=False),
            squash=self.squash_output,
        )  # fmt: skip
        return net if self.weights is None else pretrained(net, self.weights, key)
