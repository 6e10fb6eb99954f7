"""The score function: the actor whose gradient is the policy gradient itself."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jax.lax import stop_gradient

from actrix.actors.policy_gradient import PolicyGradient, Samples
from actrix.actors.psi import ActionValue, Psi, RewardToGo, theorem_weights
from actrix.core.fields import switch


def score_function(*, log_prob: Samples, psi: Samples) -> Samples:
    """log π(a_t|s_t)·sg[ψ_t], whose gradient is ∇log π(a_t|s_t) ψ_t.

    ψ_t may be R(τ), or γ^t times one of G_t, G_t − b(s_t), Q, A, δ_t; leaving out γ^t (`psi.discount_weights`) is
    the custom, and biased for γ < 1. Only the gradient means something, and only at the policy that sampled
    the actions. Williams (1992); Sutton et al., "Policy Gradient Methods for RL with Function Approximation"
    (1999).
    """
    return log_prob * stop_gradient(psi)


@dataclasses.dataclass(frozen=True)
class Score(PolicyGradient):
    """log π(a_t|s_t) ψ_t, whose gradient is E[∇log π ψ] (Williams 1992). One pass over each chunk."""

    gamma_weight: bool = dataclasses.field(default=False, metadata={"flag": "gamma"})
    """Multiply ψ_t by γ^t, as the policy gradient theorem has it (never R(τ)); customarily left out."""

    name: ClassVar[str] = "score"
    default_psi: ClassVar[dict[str, type[Psi]]] = {"none": RewardToGo, "Q of a policy": ActionValue}

    def __post_init__(self) -> None:
        super().__post_init__()
        switch(self, "gamma_weight")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, from_start=self.gamma_weight)

    def remember(self, critic, view, kept, rows, est):
        memo = super().remember(critic, view, kept, rows, est)
        return memo | {"psi": memo["psi"] * theorem_weights(rows)} if self.gamma_weight else memo

    def objective(self, view, kept, rows, psi, memo, progress):
        return score_function(log_prob=view.log_prob, psi=psi), {}
