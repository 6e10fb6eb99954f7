"""Networks of the off-policy methods: action values of discrete actions, actors and critic ensembles.

Like `nets.networks` they are written for ONE observation; `nets.view.apply` maps them over a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.core.distributions import ActionHead, Categorical, TanhGaussian, action_head
from actrix.core.host import split
from actrix.core.types import Key, PyTree, Spec
from actrix.nets.exploration import Explores, StateNoise
from actrix.nets.torso import MLP, SQRT2, Encoder, ImageCNN, Linear, NoisyLinear, resolve_activation
from actrix.nets.view import ApartView, QView, apply

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class QNet(eqx.Module):
    """Q(s, ·) for discrete actions, or the `atoms` numbers per action that describe its distribution.

    `dueling` (Wang et al. 2016) splits the last hidden layer into a value and an advantage stream,
    Q = V + A − mean_a A (per atom). `quantile_dim` > 0 makes an implicit quantile network (Dabney et al. 2018b):
    the features are multiplied by an embedding of each τ, ψ(τ) = relu(Linear(cos(π i τ))), i < quantile_dim.
    """

    encoder: Any
    body: MLP
    embedding: Linear | None
    value: MLP | None
    value_head: Linear | NoisyLinear | None
    advantage: MLP
    advantage_head: Linear | NoisyLinear
    head: ActionHead = eqx.field(static=True)
    atoms: int = eqx.field(static=True)
    quantile_dim: int = eqx.field(static=True)

    view: ClassVar[type] = QView

    def __init__(
        self,
        space: gym.Space,
        head: ActionHead,
        config: Any,
        key: Key,
        *,
        atoms: int = 1,
        dueling: bool = False,
        noisy: bool = False,
        quantile_dim: int = 0,
    ):
        keys = split(key, 7)
        self.encoder = build_encoder(config, space, keys[0])
        widths = hidden_widths(config.vf, self.encoder, (64, 64))
        gain = SQRT2 if config.ortho_init else None
        activation = resolve_activation(config.activation_fn)
        layer: Any = dict(layer_norm=config.layer_norm, dropout=config.dropout, noisy=noisy)
        # Dueling streams have a hidden layer each: the last of the given widths.
        shared, own = (widths[:-1], widths[-1:]) if dueling else (widths, ())
        self.body = MLP(self.encoder.size, shared, activation, gain, keys[1], **layer)
        size = [self.encoder.size, *shared][-1]
        self.embedding = Linear(quantile_dim, size, gain, keys[2]) if quantile_dim else None
        self.value = MLP(size, own, activation, gain, keys[3], **layer) if dueling else None
        self.advantage = MLP(size, own, activation, gain, keys[4], **layer)
        size = [size, *own][-1]

        def out(n: int, k: Key) -> Linear | NoisyLinear:
            return (
                NoisyLinear(size, n, k) if noisy else Linear(size, n, 1.0 if config.ortho_init else None, k)
            )

        self.value_head = out(atoms, keys[5]) if dueling else None
        self.advantage_head = out(head.size * atoms, keys[6])
        self.head, self.atoms, self.quantile_dim = head, atoms, quantile_dim

    def __call__(self, obs: PyTree, taus: Float[Array, " m"] | None = None) -> Array:
        """[A] (atoms = 1), [A, atoms], or [A, m] for an implicit quantile network at `taus`."""
        features = self.body(self.encoder(obs))
        if self.embedding is None:
            out = self._streams(features)
            return out[:, 0] if self.atoms == 1 else out
        assert taus is not None
        cosines = jnp.cos(jnp.pi * taus[:, None] * jnp.arange(self.quantile_dim)[None, :])
        embedded = jax.nn.relu(jax.vmap(self.embedding)(cosines))
        return jax.vmap(self._streams)(features[None, :] * embedded)[..., 0].T

    def _streams(self, features: Array) -> Array:
        advantage = self.advantage_head(self.advantage(features)).reshape(self.head.size, self.atoms)
        if self.value_head is None or self.value is None:
            return advantage
        value = self.value_head(self.value(features))
        return value[None, :] + advantage - jnp.mean(advantage, axis=0, keepdims=True)


class Actor(eqx.Module):
    """A policy of its own network: deterministic, tanh-Gaussian, or categorical for discrete actions."""

    encoder: Any
    body: MLP
    out: Linear
    log_std: Array | None
    head: ActionHead = eqx.field(static=True)
    stochastic: bool = eqx.field(static=True)
    sde: StateNoise | None = eqx.field(static=True)
    clip_mean: float = eqx.field(static=True)

    def __init__(self, space: gym.Space, head: ActionHead, config: Any, stochastic: bool, key: Key):
        keys = split(key, 3)
        self.encoder = build_encoder(config, space, keys[0])
        widths = hidden_widths(config.pi, self.encoder)
        gain = SQRT2 if config.ortho_init else None
        self.body = MLP(
            self.encoder.size, widths, resolve_activation(config.activation_fn), gain, keys[1],
            layer_norm=config.layer_norm and not config.dropout,  # DroQ regularises its critics only
        )  # fmt: skip
        features = [self.encoder.size, *widths][-1]
        self.sde = config.noise(learn_features=True) if head.continuous and stochastic else None
        size = head.size * (2 if head.continuous and stochastic and self.sde is None else 1)
        self.out = Linear(features, size, None, keys[2])
        init = -3.0 if config.log_std_init is None else config.log_std_init
        self.log_std = None if self.sde is None else self.sde.parameters(features, head.size, init)
        self.head, self.stochastic, self.clip_mean = head, stochastic, config.clip_mean

    def __call__(self, obs: PyTree, mask: Array | None = None) -> Array | TanhGaussian | Categorical:
        """The action in [−1, 1]^d, or the distribution of the action."""
        return self.decide(self.features(obs), mask)

    def features(self, obs: PyTree) -> Array:
        """The last hidden layer."""
        return self.body(self.encoder(obs))

    def decide(self, features: Array, mask: Array | None = None) -> Array | TanhGaussian | Categorical:
        """The same from the last hidden layer."""
        out = self.out(features)
        if not self.head.continuous:
            return self.head(out, None, mask)  # type: ignore[return-value]
        if not self.stochastic:
            return jnp.tanh(out)
        if self.sde is not None and self.log_std is not None:
            mean = jnp.clip(out, -self.clip_mean, self.clip_mean) if self.clip_mean else out
            return TanhGaussian(mean, self.sde.log_std(features, self.log_std, self.head.size))
        mean, log_std = jnp.split(out, 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))


class Critics(eqx.Module):
    """An ensemble of Q(s, a) `[E, atoms]`, or of Q(s, ·) `[E, A]` for discrete actions, on one encoder.

    The members are separate networks: two matrix products of ordinary size are faster on a CPU than one
    batched product.
    """

    encoder: Any
    members: tuple[tuple[MLP, Linear], ...]
    discrete: bool = eqx.field(static=True)

    def __init__(self, space: gym.Space, head: ActionHead, config: Any, count: int, atoms: int, key: Key):
        keys = split(key, 2 * count + 1)
        self.encoder = build_encoder(config, space, keys[0])
        self.discrete = not head.continuous
        widths = hidden_widths(config.vf, self.encoder)
        inputs = self.encoder.size + (0 if self.discrete else head.size)
        gain = SQRT2 if config.ortho_init else None
        activation = resolve_activation(config.activation_fn)
        self.members = tuple(
            (
                MLP(inputs, widths, activation, gain, keys[2 * i + 1], layer_norm=config.layer_norm,
                    dropout=config.dropout),
                Linear([inputs, *widths][-1], head.size if self.discrete else atoms, None, keys[2 * i + 2]),
            )
            for i in range(count)
        )  # fmt: skip

    def __call__(self, obs: PyTree, action: Array | None, key: Key | None = None) -> Array:
        """Every member's output; `key` switches dropout on."""
        x = self.inputs(obs, action)
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(self.members))]
        return jnp.stack([out(body(x, k)) for (body, out), k in zip(self.members, keys, strict=True)])

    def inputs(self, obs: PyTree, action: Array | None) -> Array:
        """What the members read."""
        x = self.encoder(obs)
        if self.discrete:
            return x
        assert action is not None
        return jnp.concatenate([x, action], axis=-1)

    @property
    def dropout(self) -> float:
        """Its rate while they learn."""
        return self.members[0][0].dropout

    def first(self) -> Critics:
        """The first member alone: XLA would compute the others' gradients even where only it is used."""
        return eqx.tree_at(lambda c: c.members, self, self.members[:1])


class ActorCritics(Explores, eqx.Module):
    """An actor and its critics: what a deterministic or soft actor-critic saves and acts with."""

    actor: Actor
    critics: Critics

    view: ClassVar[type] = ApartView

    @property
    def head(self) -> ActionHead:
        """How actions of the space are encoded."""
        return self.actor.head

    def policy(self, obs: PyTree, carry: None, mask: Array | None) -> tuple[Any, None]:
        """(π(·|s) or the action, no memory) for a batch."""
        return apply(self.actor, obs, mask), carry

    def draw(self, key: Key, shape: tuple[int, int]) -> PyTree:
        return super().draw(key, shape) if self.actor.sde is None else self.actor.sde.draw(key, shape)

    def explore(self, obs: PyTree, carry: None, mask: Array | None, noise: PyTree) -> tuple:
        actor = self.actor
        if actor.sde is None or actor.log_std is None:
            return super().explore(obs, carry, mask, noise)
        features = apply(actor.features, obs)
        dist = apply(actor.decide, features, mask)
        return dist, actor.sde.normal(noise, features, actor.log_std, dist.log_std), carry

    def initial_carry(self, batch: tuple[int, ...]) -> None:
        """It remembers nothing."""

    def parts(self) -> dict[str, Any]:
        """What descends apart, by name."""
        return {"actor": self.actor, "critic": self.critics}

    def joined(self, parts: dict[str, Any]) -> ActorCritics:
        """The network of these parts."""
        return ActorCritics(parts["actor"], parts["critic"])


def build_q_net(config: Any, spec: Spec, key: Key, **options: Any) -> QNet:
    """A `QNet` for one environment's spaces."""
    return QNet(spec.observation_space, action_head(spec.action_space), config, key, **options)


def build_actor_critics(
    config: Any, spec: Spec, key: Key, *, actor: Callable[..., Any], n_critics: int, atoms: int = 1
) -> ActorCritics:
    """What `actor(config, spec, key)` builds and `n_critics` critics for one environment's spaces."""
    actor_key, critic_key = split(key)
    space, head = spec.observation_space, action_head(spec.action_space)
    return ActorCritics(
        actor(config, spec, actor_key), Critics(space, head, config, n_critics, atoms, critic_key)
    )


def build_actor(config: Any, spec: Spec, key: Key, stochastic: bool) -> Actor:
    """A policy of its own network."""
    return Actor(spec.observation_space, action_head(spec.action_space), config, stochastic, key)


def build_encoder(config: Any, space: gym.Space, key: Key) -> Any:
    """The observation encoder that `policy_kwargs` asks for."""
    if config.module is not None or config.cell is not None:
        what = "a module of your own" if config.module is not None else f"cell={config.cell!r}"
        raise ValueError(f"policy_kwargs: {what} is offered by the on-policy algorithms only.")
    kwargs = dict(config.features_extractor_kwargs)
    if config.features_extractor_class is not None:
        return _Sized(config.features_extractor_class(space, key, **kwargs), space)
    return config.encoder(space, key, **kwargs)


class _Sized(eqx.Module):
    """A user's feature extractor with the length of what it returns."""

    extractor: Any
    size: int = eqx.field(static=True)

    def __init__(self, extractor: Any, space: gym.Space):
        self.extractor = extractor
        self.size = jax.eval_shape(extractor, jax.tree.map(jnp.asarray, space.sample())).shape[-1]

    def __call__(self, obs: PyTree) -> Array:
        return self.extractor(obs)


def hidden_widths(
    given: tuple[int, ...] | None, encoder: Any, default: tuple[int, ...] = (256, 256)
) -> tuple[int, ...]:
    """Hidden layers after the encoder; None = the default, and nothing after a CNN."""
    if given is not None:
        return given
    has_cnn = isinstance(encoder, Encoder) and any(isinstance(c, ImageCNN) for c in encoder.cnns)
    return () if has_cnn else default


def bounded(space: gym.Space) -> bool:
    """Whether every action of a Box has finite bounds, so that [−1, 1] spans them."""
    return isinstance(space, spaces.Box) and space.is_bounded("both")
