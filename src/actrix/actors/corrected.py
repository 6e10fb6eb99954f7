"""Actors that learn from what other policies did: Off-PAC, ACER, PGQL, importance-weighted trajectories."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float, Int

from actrix.actors.policy_gradient import Memory, PolicyGradient
from actrix.actors.psi import Psi, WholeReturn
from actrix.actors.score import score_function
from actrix.core.distributions import Distribution, importance_ratio
from actrix.core.fields import choose, positive
from actrix.core.optim import copied, polyak
from actrix.critics.corrected import KINDS, ratio, trajectory_weights
from actrix.critics.value import td_target


@dataclasses.dataclass(frozen=True)
class OffPAC(PolicyGradient):
    """Ascend E_μ[min(ρ_max, ρ_t) ψ_t ∇log π(a_t|s_t)], ρ_t = π/μ (Degris et al. 2012).

    A semi-gradient of Σ d^μ(s) V^π(s) that drops π∇Q^π: it is not ∇J. The bound ρ_max is ours.
    """

    rho_max: float = 10.0

    name: ClassVar[str] = "off-pac"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rho_max")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, corrects=True)

    def objective(self, view, kept, rows, psi, memo, progress):
        rho = jnp.minimum(importance_ratio(view.log_prob, rows.log_prob), self.rho_max)
        rho = jax.lax.stop_gradient(rho)
        return rho * score_function(log_prob=view.log_prob, psi=psi), {"train/rho": rows.mean(rho)}


@dataclasses.dataclass(frozen=True)
class ACER(PolicyGradient):
    """Truncated importance weights with bias correction, held near a running average policy (Wang et al. 2017)."""

    truncation: float = 10.0
    """c: ratios beyond it are cut, and what that loses is put back as an expectation over Q."""
    trust_region: float = 1.0
    """δ: bound on the step's inner product with ∇KL(average policy ‖ π), in the space of the logits."""
    average_decay: float = 0.99

    name: ClassVar[str] = "acer"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "truncation", "trust_region")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay={self.average_decay} must lie in [0, 1).")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, takes=("Q of a policy",), corrects=True, needs_q=True)

    def own_init(self, net, params):
        return copied(params["net"])

    def restart(self, kept, params):
        return Memory(copied(params["net"]), kept.psi)

    def own_memo(self, view, kept, rows, est):
        return {"average": view({"net": kept}).dist, "q_advantage": est.q_advantage}

    def objective(self, view, kept, rows, psi, memo, progress):
        step, scale = acer_step(
            view.dist.logits, rows.dist.logits, memo["average"].logits, action=view.action, advantage=psi,
            q_advantage=memo["q_advantage"], truncation=self.truncation, trust_region=self.trust_region,
        )  # fmt: skip
        # The gradient of this objective with respect to the logits is the step itself.
        objective = jnp.sum(jax.lax.stop_gradient(step) * view.dist.logits, axis=-1)
        return objective, {"train/trust_scale": jnp.mean(scale)}

    def own_after(self, kept, view, rows):
        return polyak(kept, view.params["net"], 1 - self.average_decay)


@dataclasses.dataclass(frozen=True)
class PGQL(PolicyGradient):
    """Policy gradient on fresh data and Q-learning on replayed data, of one network (O'Donoghue et al. 2017).

    At the fixed point of the entropy-regularised gradient Q(s, a) = α(log π(a|s) + H(π(·|s))) + V(s), α = `ent_coef`:
    the replayed updates fit this Q to r + γ max_a Q(s′, a). The target comes from the same network, not from a copy.
    """

    eta: float = 0.5
    """Weight of the Q-learning loss; the policy gradient's is 1 − η."""

    name: ClassVar[str] = "pgql"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eta < 1:
            raise ValueError(f"eta={self.eta} must lie between 0 and 1.")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, takes=("V",), corrects=True, learns_q=True)

    def check(self, spec, config):
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(f"pgql needs a Discrete action space, not {spec.action_space}: use a2c or ppo.")
        if not self.ent_coef > 0:
            raise ValueError(f"ent_coef={self.ent_coef} must be positive: it is the temperature of pgql's Q.")

    def q_values(self, dist: Distribution, value: jax.Array) -> jax.Array:
        """Q(s, ·) = α(log π + H) + V."""
        return self.ent_coef * (dist.logits + dist.entropy()[..., None]) + value[..., None]  # type: ignore[union-attr]

    def remember(self, critic, view, kept, rows, est):
        if not rows.replayed:
            return super().remember(critic, view, kept, rows, est)
        return {"target": td_target(rows, jnp.max(self.q_values(view.next_dist, est.next_value), axis=-1))}

    def objective(self, view, kept, rows, psi, memo, progress):
        return score_function(log_prob=view.log_prob, psi=psi), {}

    def loss(self, critic, view, kept, rows, memo, progress, key):
        if not rows.replayed:
            # The whole regularised gradient has the share 1 − η: else the α that π settles at is not the α of its Q.
            loss, metrics = super().loss(critic, view, kept, rows, memo, progress, key)
            return (1 - self.eta) * loss, metrics
        q = self.q_values(view.dist, view.out)
        taken = jnp.take_along_axis(q, view.action[..., None], axis=-1)[..., 0]
        return self.eta * 0.5 * (memo["target"] - taken) ** 2, {}

    def critic_share(self, rows):
        return 0.0 if rows.replayed else 1.0


@dataclasses.dataclass(frozen=True)
class ImportanceScore(PolicyGradient):
    """The exact off-policy gradient of whole trajectories, E_μ[Σ_t ∇log π ψ_t], ψ_t weighted by products of ratios.

    'ordinary' ρ_{0:T−1} R(τ), 'weighted' divides it by the batch's mean ratio (biased, consistent), 'per-decision'
    Σ_{t′≥t} γ^{t′} ρ_{0:t′} r_{t′}. Precup et al. (2000); their variance grows exponentially with the horizon.
    """

    kind: str = "per-decision"

    name: ClassVar[str] = "score-is"
    default_psi: ClassVar[dict[str, type[Psi]]] = {"none": WholeReturn}

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self, kind=KINDS)
        if self.aggregate != "token":
            raise ValueError(f"aggregate={self.aggregate!r}: score-is weighs whole trajectories as it is.")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, takes=("none",), corrects=True, weighs_rewards=True)

    def remember(self, critic, view, kept, rows, est):
        return {"psi": trajectory_weights(self.kind, ratio(view, rows), rows)}

    def objective(self, view, kept, rows, psi, memo, progress):
        return score_function(log_prob=view.log_prob, psi=psi), {}


def acer_step(
    log_probs: Float[Array, "*B A"],
    behaviour: Float[Array, "*B A"],
    average: Float[Array, "*B A"],
    *,
    action: Int[Array, "*B"],
    advantage: Float[Array, "*B"],
    q_advantage: Float[Array, "*B A"],
    truncation: float,
    trust_region: float,
) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
    """ACER's ascent direction in the logits, and the share of it that the trust region left (Wang et al. 2017).

    g = min(c, ρ_t) Â_t ∇log π(a_t|s_t) + Σ_a π(a|s_t) [1 − c/ρ_t(a)]₊ (Q(s_t, a) − V(s_t)) ∇log π(a|s_t)
    z* = g − max(0, (kᵀg − δ)/‖k‖²) k,  k = ∇KL(average ‖ π) = π − average

    The three policies are given as log-probabilities `[*B, A]`; gradients are with respect to the logits, where
    ∇log π(a) = e_a − π. `advantage` is Q^ret − V (eq. 4 and 12 of the paper). The returned share is 1 where the
    trust region did not bind, else z*·g/‖g‖².
    """
    pi, mu = jnp.exp(log_probs), jnp.exp(behaviour)
    taken = jax.nn.one_hot(action, pi.shape[-1], dtype=pi.dtype)
    rho_a = pi / jnp.maximum(mu, 1e-10)
    rho = jnp.sum(taken * rho_a, axis=-1, keepdims=True)
    first = jnp.minimum(rho, truncation) * advantage[..., None] * (taken - pi)
    lost = jnp.maximum(1 - truncation / jnp.maximum(rho_a, 1e-10), 0.0) * pi * q_advantage
    g = first + lost - pi * jnp.sum(lost, axis=-1, keepdims=True)
    k = pi - jnp.exp(average)
    size = jnp.sum(k * k, axis=-1, keepdims=True)
    excess = jnp.maximum(
        (jnp.sum(k * g, axis=-1, keepdims=True) - trust_region) / jnp.maximum(size, 1e-10), 0.0
    )
    step = g - excess * k
    share = jnp.sum(step * g, axis=-1) / jnp.maximum(jnp.sum(g * g, axis=-1), 1e-10)
    return step, jnp.where(excess[..., 0] > 0, share, 1.0)
