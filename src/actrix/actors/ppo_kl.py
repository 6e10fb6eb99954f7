"""PPO with a penalty in place of the clip: the actor that adapts its own weight β."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array

from actrix.actors.policy_gradient import Number, PolicyGradient, Samples
from actrix.core.fields import positive


def ppo_kl(
    *, log_prob: Samples, old_log_prob: Samples, advantage: Samples, kl: Samples, beta: Number
) -> Samples:
    """ρ_t Â_t − β KL_t, with KL_t = KL(π_old(·|s_t) ‖ π(·|s_t)) differentiable in π.

    Schulman et al. (2017), eq. 8. `adapt_beta` moves β.
    """
    rho = jnp.exp(log_prob - stop_gradient(old_log_prob))
    return rho * stop_gradient(advantage) - beta * kl


def adapt_beta(beta: Number, kl: Number, target_kl: Number) -> Array:
    """β/2 if kl < target/1.5, 2β if kl > 1.5·target, else β. Schulman et al. (2017), §4."""
    factor = jnp.where(kl < target_kl / 1.5, 0.5, jnp.where(kl > target_kl * 1.5, 2.0, 1.0))
    return beta * factor.astype(jnp.result_type(beta, float))


@dataclasses.dataclass(frozen=True)
class PPOKL(PolicyGradient):
    """ρÂ − β KL(old ‖ new) with β adapted after each chunk towards KL = `kl_target` (Schulman et al. 2017, §4).

    KL behaves as β⁻², so β may cycle around the target.
    """

    kl_target: float = 0.01
    initial_beta: float = 1.0

    name: ClassVar[str] = "ppo-kl"
    structural: ClassVar[tuple[str, ...]] = ("initial_beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "kl_target", "initial_beta")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, ratio=True)

    def own_init(self, net, params):
        return jnp.full((), self.initial_beta, jnp.float32)

    def objective(self, view, kept, rows, psi, memo, progress):
        kl = stop_gradient(rows.dist).kl(view.dist)
        objective = ppo_kl(
            log_prob=view.log_prob, old_log_prob=rows.log_prob, advantage=psi, kl=kl, beta=kept
        )
        return objective, {}

    def own_after(self, kept, view, rows):
        kl = rows.mean(rows.dist.kl(view.dist))
        return jnp.clip(adapt_beta(kept, kl, self.kl_target), 1e-6, 1e6)  # never stuck at 0 or ∞

    def report(self, kept):
        return {"train/beta": kept.own}
