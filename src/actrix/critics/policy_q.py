"""Critics Q(s, ·) of the policy that acted: every estimator of V, of V = Σ_a π Q."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.critics.value import MC, TD, Estimate, NStep, TDLambda, ValueCritic


class PolicyQ(ValueCritic):
    """Q(s, ·) of the policy in place of V(s): V(s) = Σ_a π(a|s) Q(s, a), so every estimator serves it (expected SARSA
    for TD). Mixed into an estimator; the advantage is Q(s_t, a_t) − V(s_t)."""

    @property
    def facts(self):
        return dataclasses.replace(super().facts, gives="Q of a policy")

    def check(self, spec, config):
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(f"critic {self.name} needs a Discrete action space, not {spec.action_space}.")

    def build(self, config, spec, key, actor):
        return config.build(spec, key, q_values=True)

    def estimate(self, view, kept, rows, actor, progress, key):
        v, v_next = expectation(view.dist, view.out), expectation(view.next_dist, view.next_out)
        target, taken = self.target(rows, v, v_next, view), self.prediction(view)
        q_advantage = view.out - v[..., None]
        return Estimate(
            target, v, v_next, taken, self.q_psi(rows, v, v_next, view, target, taken), q_advantage
        )

    def q_psi(self, rows, v, v_next, view, target, taken) -> jax.Array:
        """A(s_t, a_t)."""
        return taken - v

    def prediction(self, view):
        return jnp.take_along_axis(view.out, view.action[..., None], axis=-1)[..., 0]


def expectation(dist: Any, q: jax.Array) -> jax.Array:
    """Σ_a π(a|s) Q(s, a)."""
    return jnp.sum(jnp.exp(dist.logits) * q, -1)


def of_q(estimator: type[ValueCritic]) -> type[ValueCritic]:
    """The critic Q(s, ·) of a policy with this estimator, named q-…."""
    cls: Any = type(f"Q{estimator.__name__}", (PolicyQ, estimator), {"name": f"q-{estimator.name}"})
    cls.__doc__ = f"Q(s, ·) of the policy, V = Σ_a π Q, fitted to: {estimator.__doc__}"
    return dataclasses.dataclass(frozen=True)(cls)


QMC, QTD, QNStep, QTDLambda = of_q(MC), of_q(TD), of_q(NStep), of_q(TDLambda)
