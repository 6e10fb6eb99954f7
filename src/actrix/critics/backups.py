"""What Q(s, ·) is backed up to: V(s′) as a target network's Q(s′, ·) is read.

Each is one class and one entry of `BACKUPS`; the formulas are those of `critics.q_targets`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from actrix.core.answers import Actor
from actrix.core.distributions import greedy_action, legal_actions
from actrix.core.fields import finite, rate, share
from actrix.core.rows import Rows
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key
from actrix.critics import q_targets

Online = Callable[[], jax.Array]
"""Q(s′, ·) of the network that learns."""


class Backup(abc.ABC):
    """V(s′) from the target network's Q(s′, ·)."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()
    picks: ClassVar[bool] = False
    """It takes the value of one action, so that a whole distribution of returns can be backed up."""
    asks_behaviour: ClassVar[bool] = False
    """It reads the behaviour policy as it is now."""

    @abc.abstractmethod
    def value(
        self, q: jax.Array, online: Online, rows: Rows, actor: Actor, progress: Any, key: Key
    ) -> jax.Array:
        """V(s′) `[*B]`; `actor` is asked for its behaviour."""

    def action(self, q: jax.Array, online: Online, rows: Rows) -> jax.Array:
        """The action whose value is taken."""
        raise NotImplementedError

    def bonus(self, q: Online, rows: Rows, progress: Any) -> jax.Array | None:
        """What is added to the reward of s, a from the target network's Q(s, ·); None = nothing."""
        return None


@dataclasses.dataclass(frozen=True)
class Max(Backup):
    """max_a Q⁻(s′, a) (Watkins & Dayan 1992; Mnih et al. 2015)."""

    name: ClassVar[str] = "max"
    picks: ClassVar[bool] = True

    def value(self, q, online, rows, actor, progress, key):
        return q_targets.greedy_value(q, rows.next_mask)

    def action(self, q, online, rows):
        return greedy_action(q, rows.next_mask)


@dataclasses.dataclass(frozen=True)
class Double(Backup):
    """Q⁻(s′, argmax_a Q(s′, a)) (van Hasselt et al. 2016)."""

    name: ClassVar[str] = "double"
    picks: ClassVar[bool] = True

    def value(self, q, online, rows, actor, progress, key):
        return q_targets.double_value(online(), q, rows.next_mask)

    def action(self, q, online, rows):
        return greedy_action(online(), rows.next_mask)


@dataclasses.dataclass(frozen=True)
class ExpectedSarsa(Backup):
    """Σ_a μ(a|s′) Q⁻(s′, a) with the current behaviour μ (van Seijen et al. 2009)."""

    name: ClassVar[str] = "expected-sarsa"
    asks_behaviour: ClassVar[bool] = True

    def value(self, q, online, rows, actor, progress, key):
        behaviour = actor.probabilities(online(), actor.numbers(progress), rows.next_mask)
        return q_targets.expected_value(q, behaviour)


@dataclasses.dataclass(frozen=True)
class Sarsa(Backup):
    """Q⁻(s′, a′) with the action that was taken; one that never was (a truncated end, the newest row) is drawn from the
    current behaviour (Rummery & Niranjan 1994)."""

    name: ClassVar[str] = "sarsa"
    asks_behaviour: ClassVar[bool] = True

    def value(self, q, online, rows, actor, progress, key):
        behaviour = actor.probabilities(online(), actor.numbers(progress), rows.next_mask)
        drawn = jnp.argmax(jnp.log(behaviour) + jax.random.gumbel(key, q.shape), axis=-1)
        taken, known = rows.followed()
        return q_targets.sarsa_value(q, jnp.where(known, taken, drawn))


@dataclasses.dataclass(frozen=True)
class Soft(Backup):
    """τ log Σ_a exp(Q⁻(s′, a)/τ)/n over the n legal actions (Haarnoja et al. 2017; Schulman et al. 2017a)."""

    temperature: Schedule = 1.0
    """τ, in units of return."""

    name: ClassVar[str] = "soft"
    positional: ClassVar[tuple[str, ...]] = ("temperature",)

    def __post_init__(self) -> None:
        rate(self, "temperature")

    def value(self, q, online, rows, actor, progress, key):
        temperature = jnp.asarray(evaluate(self.temperature, progress), jnp.float32)
        return q_targets.soft_value(q, temperature, mask=rows.next_mask)


@dataclasses.dataclass(frozen=True)
class Munchausen(Backup):
    """Soft values of π = softmax(Q⁻/τ), and α [τ log π(a|s)] within [l₀, 0] beside the reward (Vieillard et al. 2020).

    V(s′) = Σ_a π(a|s′)(Q⁻(s′, a) − τ log π(a|s′)). On n-step rows the bonus is that of the first step alone.
    """

    entropy_tau: float = 0.03
    """τ, in units of return."""
    munchausen_alpha: float = 0.9
    """α, in [0, 1]."""
    log_bound: float = -1.0
    """l₀."""

    name: ClassVar[str] = "munchausen"
    positional: ClassVar[tuple[str, ...]] = ("entropy_tau", "munchausen_alpha", "log_bound")

    def __post_init__(self) -> None:
        finite(self, "entropy_tau", "log_bound")
        share(self, "munchausen_alpha")
        if not (self.entropy_tau > 0 and self.log_bound < 0):
            raise ValueError(
                f"entropy_tau={self.entropy_tau} must be positive, and log_bound={self.log_bound} negative."
            )

    def _log_policy(self, q: jax.Array, mask: jax.Array | None) -> jax.Array:
        legal = legal_actions(q, mask)
        return jax.nn.log_softmax(jnp.where(legal, q, -jnp.inf) / self.entropy_tau, axis=-1)

    def value(self, q, online, rows, actor, progress, key):
        log_pi = self._log_policy(q, rows.next_mask)
        pi, finite_log = jnp.exp(log_pi), jnp.where(jnp.isfinite(log_pi), log_pi, 0)
        return q_targets.expected_value(q - self.entropy_tau * finite_log, pi)

    def bonus(self, q, rows, progress):
        log_pi = q_targets.sarsa_value(self._log_policy(q(), rows.mask), rows.action)
        return self.munchausen_alpha * jnp.clip(self.entropy_tau * log_pi, self.log_bound, 0.0)


BACKUPS = (Max, Double, ExpectedSarsa, Sarsa, Soft, Munchausen)
