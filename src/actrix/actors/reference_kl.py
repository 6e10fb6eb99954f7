"""KL to a reference policy π̄ (a temperature τ): two objectives, and how it is estimated."""

from __future__ import annotations

from typing import Any

from jax.lax import stop_gradient
from jaxtyping import Array, Float

from actrix.critics import kl_estimators

Samples = Float[Array, "*B"]
Number = float | Float[Array, "..."]


def kl_reward(*, reward: Samples, kl: Samples, tau: Number) -> Samples:
    """KL in the reward: r_t − τ·sg[KL_t], the soft return Σ_t γ^t (r_t − τ KL(π(·|s_t) ‖ π̄(·|s_t))).

    The policy then pays for KL it will meet later. The gradient is exact in one of two forms, never in a mix
    of them:
    - `kl` = log π(a_t|s_t) − log π̄(a_t|s_t) of the action taken, and `score_function` alone: ∇log π (Q − τ
      log π/π̄);
    - `kl` = the exact KL_t, plus `kl_penalty` in the objective: ∇log π Q − τ∇KL.
    Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning" (2017).
    """
    return reward - tau * stop_gradient(kl)


def kl_penalty(*, kl: Samples, tau: Number) -> Samples:
    """−τ·KL_t, to be added to an objective; `kl` is the exact KL(π(·|s_t) ‖ π̄(·|s_t)), differentiable in π.

    Together with `kl_reward` of the same exact KL it completes the soft return's gradient. Alone it is
    another objective, which keeps π near π̄ at the states met but does not pay for future KL. A sampled
    log-ratio does not do here: its gradient has mean 0.
    """
    return -tau * kl


KL: dict[str, Any] = {
    "exact": None, "k1": kl_estimators.k1, "k2": kl_estimators.k2, "k3": kl_estimators.k3,
}  # fmt: skip
"""Of log π(a|s) and log π̄(a|s), by name."""
