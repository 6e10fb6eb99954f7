"""Actors that follow the gradient of a critic through their own action: deterministic and soft.

Question 2 answered by `Deterministic` (DDPG, TD3) or `Soft` (SAC and its relatives), and the losses of both.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from actrix.actors.greedy import explore, ou_step
from actrix.core.answers import Actor, ActorFacts
from actrix.core.distributions import legal_actions
from actrix.core.fields import choose, finite, positive_or_none, share, switch
from actrix.core.host import full
from actrix.core.optim import copied, polyak
from actrix.core.types import Key, record
from actrix.nets.obeyed import SDE
from actrix.nets.q_networks import bounded, build_actor

NOISES = ("none", "normal", "ornstein-uhlenbeck")
OU_THETA, OU_DT = 0.15, 1e-2
"""Ornstein–Uhlenbeck noise as in Stable-Baselines3."""


@record
class Explore:
    """The behaviour policy's numbers."""

    random: jax.Array
    """Probability of a uniformly random action: 1 in the random phase."""


@record
class Noise:
    """One chunk's randomness, `[T, N, ...]`."""

    action: jax.Array
    """What `explore` of the network takes."""
    uniform: jax.Array
    """Uniformly random actions in [−1, 1] (Gumbel noise for discrete ones)."""
    switch: jax.Array


def draw(net: Any, key: Key, shape: tuple[int, int]) -> Noise:
    """All the randomness of a chunk's actions, drawn at once."""
    head, (k1, k2, k3) = net.head, jax.random.split(key, 3)
    uniform = head.draw(k2, shape)
    if head.continuous:
        uniform = jax.random.uniform(k2, (*shape, head.size), minval=-1.0)
    return Noise(net.draw(k1, shape), uniform, jax.random.uniform(k3, shape))


class RandomPhase(Actor):
    """Uniformly random before the first update, and not after it."""

    def numbers(self, progress):
        return Explore(jnp.zeros(()))

    def at_random(self, numbers):
        return Explore(jnp.ones(()))

    def noise(self, net, key, shape):
        return draw(net, key, shape)


@dataclasses.dataclass(frozen=True)
class Pathwise(RandomPhase):
    """A network of its own beside critics Q(s, a); uniformly random in the random phase."""

    noise_type: str = "none"
    """'normal', 'ornstein-uhlenbeck' or 'none': noise that is added to the action that is tried."""
    noise_std: float = 0.1
    """σ in policy coordinates, where [−1, 1] spans the action's bounds. The spread of Ornstein–Uhlenbeck noise is
    1.83σ, and it forgets within about 670 steps (θ = 0.15, dt = 0.01, as in Stable-Baselines3)."""

    structural: ClassVar[tuple[str, ...]] = ("noise_std",)
    needs: ClassVar[dict[str, str]] = {"noise_std": "noise_type:a noise_type"}
    behaves_by: ClassVar[tuple[str, ...]] = ("noise_type", "noise_std")

    def __post_init__(self) -> None:
        choose(self, noise_type=NOISES)
        finite(self, "noise_std", least=0)

    @property
    def facts(self) -> ActorFacts:
        return ActorFacts(takes=("Q(s, a)",), singly=True, ascends=True)

    def act(self, critic, net, numbers, carry, obs, mask, noise):
        out, xi, _ = net.explore(obs, None, mask, noise.action)
        action, carry = self.behave(out, carry, xi, noise.uniform)
        if net.head.continuous:
            action = jnp.where((noise.switch < numbers.random)[:, None], noise.uniform, action)
        else:
            action = explore(action, numbers.random, noise.switch, noise.uniform, mask)
        return action, None, None, carry

    @abc.abstractmethod
    def behave(self, out: Any, carry: Any, noise: jax.Array, uniform: jax.Array) -> tuple[Any, Any]:
        """(the action that is tried, carry) from what the network says; in the random phase `uniform` replaces it."""

    def carry(self, net, num_envs):
        """The state of Ornstein–Uhlenbeck noise."""
        return jnp.zeros((num_envs, net.head.size)) if self.noise_type == "ornstein-uhlenbeck" else None

    def disturbed(self, action: jax.Array, carry: Any, noise: jax.Array) -> tuple[jax.Array, Any]:
        """(the action with the noise of exploration, the noise's state), of `noise` ~ N(0, 1)."""
        if self.noise_type == "ornstein-uhlenbeck":
            carry = ou_step(carry, noise, theta=OU_THETA, sigma=self.noise_std, dt=OU_DT)
            return jnp.clip(action + carry, -1.0, 1.0), carry
        scale = self.noise_std if self.noise_type == "normal" else 0.0
        return jnp.clip(action + scale * noise, -1.0, 1.0), carry

    def weighs(self, rows):
        return rows.alike()


@dataclasses.dataclass(frozen=True)
class Deterministic(Pathwise):
    """a = f_φ(s), ascending Q(s, f_φ(s)) (Silver et al. 2014); explores by noise added to the action."""

    noise_type: str = "normal"
    target_policy_noise: float = 0.2
    """Standard deviation of the noise that smooths the target action (Fujimoto et al. 2018); 0 = none."""
    target_noise_clip: float = 0.5
    bc_alpha: float | None = None
    """TD3+BC: minimise −λQ + (f_φ(s) − a)² with λ = bc_alpha / mean|Q| (Fujimoto & Gu 2021); None = off."""
    tau: float = 0.005
    """Polyak coefficient of the target actor."""

    name: ClassVar[str] = "deterministic"
    has_targets: ClassVar[bool] = True
    needs: ClassVar[dict[str, str]] = {"target_noise_clip": "target_policy_noise"}
    positional: ClassVar[tuple[str, ...]] = ("noise_std",)

    @property
    def facts(self):
        return dataclasses.replace(super().facts, density=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(self, "target_policy_noise", "target_noise_clip", least=0)
        positive_or_none(self, "bc_alpha")
        share(self, "tau")

    def check(self, spec, config):
        space = spec.action_space
        if isinstance(space, spaces.Box):
            _finite_bounds(space)
        else:
            hint = "use discrete-sac or dqn" if isinstance(space, spaces.Discrete) else "use ppo"
            raise ValueError(f"a {self.name} actor needs a Box action space, not {space}: {hint}.")

    def build(self, config, spec, key):
        return build_actor(config, spec, key, stochastic=False)

    def behave(self, out, carry, noise, uniform):
        return self.disturbed(out, carry, noise)

    def policy(self, critic, net, numbers, carry, obs, mask, noise):
        return net.policy(obs, None, mask)[0], carry

    def init(self, net, params):
        return copied(params["actor"])

    def restart(self, kept, params):
        return copied(params["actor"])

    def follow(self, kept, params):
        return polyak(kept, params["actor"], self.tau)

    def backup(self, view, kept, rows, q, key):
        target = view({"actor": kept.actor})
        xi = target.net.head.draw(key, rows.reward.shape)
        smoothing = jnp.clip(self.target_policy_noise * xi, -self.target_noise_clip, self.target_noise_clip)
        return q(jnp.clip(target.policy("next_obs") + smoothing, -1.0, 1.0)), jnp.zeros(rows.reward.shape)

    def loss(self, critic, view, kept, rows, memo, progress, key):
        dropout, _ = jax.random.split(jax.random.split(key, 5)[2])
        action = view.policy()
        q = critic.ascended(view, action, dropout)
        if self.bc_alpha is None:
            return -q, {}
        cloning = jnp.mean((action - view.action) ** 2, axis=-1)
        return cloning - behaviour_cloning_weight(q, self.bc_alpha) * q, {}


@dataclasses.dataclass(frozen=True)
class Soft(Pathwise):
    """π fitted to exp(Q/α): minimises E[α log π − Q] through the reparametrised action (Haarnoja et al. 2018)."""

    ent_coef: float | str = "auto"
    """α; 'auto' (or 'auto_0.1' to start there) is adapted so that the entropy stays at `target_entropy`."""
    target_entropy: float | str = "auto"
    """'auto' = −dim(A) for continuous actions, ½ log |A| for discrete ones (0.98 log |A| in Christodoulou 2019,
    which keeps a two-action policy near uniform)."""
    discrete: bool = False
    """Discrete actions: values and policy loss are exact sums over the actions (Christodoulou 2019)."""
    use_sde_at_warmup: bool = False
    """Act by the policy and its state-dependent exploration in the random phase, too."""

    name: ClassVar[str] = "soft"
    needs: ClassVar[dict[str, str]] = {"target_entropy": "adapted:ent_coef=auto"}
    positional: ClassVar[tuple[str, ...]] = ("ent_coef",)
    own_names: ClassVar[dict[str, str]] = {"log_alpha": "ent_coef"}

    def __post_init__(self) -> None:
        super().__post_init__()
        switch(self, "discrete", "use_sde_at_warmup")
        text = self.ent_coef
        try:
            initial = -1.0 if isinstance(text, bool) else self.initial_coef
        except (TypeError, ValueError):
            initial = -1.0
        if not (0 < initial < math.inf or (text == 0 and not self.adapted)):
            raise ValueError(f"ent_coef={text!r}: write 'auto', 'auto_<number>' or a number of at least 0.")
        if self.target_entropy != "auto":
            try:
                target = math.nan if isinstance(self.target_entropy, bool) else float(self.target_entropy)
            except (TypeError, ValueError):
                target = math.nan
            if not math.isfinite(target):
                raise ValueError(f"target_entropy={self.target_entropy!r}: write 'auto' or a number.")
            object.__setattr__(self, "target_entropy", target)

    @property
    def adapted(self) -> bool:
        """Whether α is learned."""
        return isinstance(self.ent_coef, str)

    @property
    def initial_coef(self) -> float:
        """α at the start."""
        if not isinstance(self.ent_coef, str):
            return self.ent_coef
        kind, *number = self.ent_coef.split("_")
        if kind != "auto" or len(number) > 1:
            raise ValueError(self.ent_coef)
        return float(number[0]) if number else 1.0

    @property
    def facts(self):
        return dataclasses.replace(super().facts, warms_up=self.use_sde_at_warmup)

    def at_random(self, numbers):
        return numbers if self.use_sde_at_warmup else super().at_random(numbers)

    def settings_beside_q(self, config, spec):
        if self.discrete:
            return ()
        return (*SDE, "log_std_init", "clip_mean") if config.use_sde else SDE

    def check(self, spec, config):
        space = spec.action_space
        if self.use_sde_at_warmup and not config.use_sde:
            raise ValueError(
                "use_sde_at_warmup=True needs use_sde=True, whose exploration it lets begin earlier."
            )
        if isinstance(space, spaces.Box):
            _finite_bounds(space)
            if self.discrete:
                raise ValueError(f"discrete SAC needs a Discrete action space, not {space}: use sac.")
        elif self.noise_type != "none":
            raise ValueError(f"noise_type={self.noise_type!r} is added to continuous actions, not {space}.")
        elif not isinstance(space, spaces.Discrete):
            raise ValueError(f"a {self.name} actor needs a Box action space, not {space}: use ppo.")
        elif not self.discrete:
            raise ValueError(
                f"a soft actor needs a Box action space, not {space}: set discrete=True, or use discrete-sac or dqn."
            )

    def build(self, config, spec, key):
        return build_actor(config, spec, key, stochastic=True)

    def behave(self, out, carry, noise, uniform):
        action = out.sample(noise)
        if self.noise_type == "none":
            return action, carry
        # What the random phase draws is free after it.
        normal = math.sqrt(2) * jax.scipy.special.erfinv(jnp.clip(uniform, -1 + 1e-6, 1 - 1e-6))
        return self.disturbed(action, carry, normal)

    def policy(self, critic, net, numbers, carry, obs, mask, noise):
        if noise is None:
            return net.policy(obs, None, mask)[0].mode(), carry
        out, xi, _ = net.explore(obs, None, mask, noise.action)
        return out.sample(xi), carry

    # ------------------------------------------------------------------ learning

    def own(self):
        return {"log_alpha": full(1, math.log(self.initial_coef), jnp.float32)} if self.adapted else {}

    def alpha(self, view: Any) -> jax.Array:
        """α."""
        if not self.adapted:
            return jnp.asarray(self.initial_coef, jnp.float32)
        return jnp.exp(view.params["log_alpha"][0])

    def backup(self, view, kept, rows, q, key):
        out, alpha = view.policy("next_obs"), self.alpha(view)
        if self.discrete:
            value = discrete_soft_value(out.logits, q(None), alpha)
            return value[:, None, None], jnp.zeros(rows.reward.shape)
        action, log_prob = out.sample_with_log_prob(view.net.head.draw(key, rows.reward.shape))
        return q(action), alpha * log_prob

    def loss(self, critic, view, kept, rows, memo, progress, key):
        dropout, key = jax.random.split(jax.random.split(key, 5)[2])
        out, alpha = view.policy(), self.alpha(view)
        if self.discrete:
            q = jax.lax.stop_gradient(critic.ascended(view, None, dropout))
            loss, entropy = discrete_soft_policy_loss(out.logits, q, alpha), out.entropy()
        else:
            action, log_prob = out.sample_with_log_prob(view.net.head.draw(key, rows.reward.shape))
            q = critic.ascended(view, action, dropout)
            loss, entropy = soft_policy_loss(log_prob, q, alpha), -log_prob
        return loss, {"entropy": entropy, "train/ent_coef": alpha, "train/entropy": jnp.mean(entropy)}

    def also(self, view, rows, metrics):
        target = self._target_entropy(view.net.head, rows.mask)
        return {"log_alpha": temperature_loss(view.params["log_alpha"][0], metrics["entropy"], target)}

    def _target_entropy(self, head: Any, mask: jax.Array | None) -> float | jax.Array:
        """H̄: as given, or −dim A; of discrete actions half the largest entropy, ½ log of how many are legal."""
        if not isinstance(self.target_entropy, str):
            return self.target_entropy
        if head.continuous:
            return -float(head.size)
        if mask is None:
            return 0.5 * math.log(head.size)
        return 0.5 * jnp.log(jnp.sum(legal_actions(jnp.zeros(mask.shape), mask), axis=-1))


def _finite_bounds(space: spaces.Box) -> None:
    if not bounded(space):
        raise ValueError(f"the action space {space} has infinite bounds: a tanh actor needs finite ones.")


@dataclasses.dataclass(frozen=True, eq=False)
class NormalActionNoise:
    """Gaussian action noise as Stable-Baselines3 writes it; the mean must be 0 and sigma one number for all dimensions.

    `sigma` is in policy coordinates, where [−1, 1] spans the action's bounds, as it is there.
    """

    mean: ArrayLike
    sigma: ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeckActionNoise(NormalActionNoise):
    """Correlated action noise as Stable-Baselines3 writes it, with its θ = 0.15 and dt = 0.01."""


def soft_policy_loss(
    log_prob: Float[Array, "*B"], q: Float[Array, "*B"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """α log π(a|s) − Q(s, a) at a reparametrised action a = f_φ(s, ξ) (Haarnoja et al. 2018, eq. 7)."""
    return alpha * log_prob - q


def discrete_soft_policy_loss(
    log_probs: Float[Array, "*B A"], q: Float[Array, "*B A"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """Σ_a π(a|s)[α log π(a|s) − Q(s, a)], with gradients through both factors π (Christodoulou 2019)."""
    return jnp.sum(jnp.exp(log_probs) * (alpha * log_probs - q), axis=-1)


def discrete_soft_value(
    log_probs: Float[Array, "*B A"], q: Float[Array, "*B A"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """V(s) = Σ_a π(a|s)[Q(s, a) − α log π(a|s)], the exact expectation over discrete actions."""
    return jnp.sum(jnp.exp(log_probs) * (q - alpha * log_probs), axis=-1)


def temperature_loss(
    log_alpha: jax.Array, entropy: Float[Array, "*B"], target_entropy: float | Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """log α · (H(π(·|s)) − H̄): α falls while the entropy exceeds its target.

    The paper has α in place of log α (Haarnoja et al. 2018b, eq. 18); implementations, and this one, use log α,
    whose gradient does not vanish with α. `entropy` may be a sample −log π(a|s).
    """
    return log_alpha * jax.lax.stop_gradient(entropy - target_entropy)


def behaviour_cloning_weight(q: Float[Array, " B"], alpha: float) -> jax.Array:
    """λ = α / mean|Q|, which balances TD3's −λQ against the cloning term (Fujimoto & Gu 2021, eq. 5)."""
    return alpha / jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-6)
