"""No critic."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from actrix.core.answers import Critic, CriticFacts
from actrix.core.fit import Joint
from actrix.critics.value import Estimate


@dataclasses.dataclass(frozen=True)
class NoCritic(Critic):
    """None: V = 0, ψ is a return."""

    name: ClassVar[str] = "none"
    fit: ClassVar[Any] = Joint
    turns: ClassVar[tuple[str, ...]] = ("actor",)

    @property
    def facts(self):
        return CriticFacts(gives="none", whole_episodes=True)

    def build(self, config, spec, key, actor):
        return actor.build(config, spec, key)

    def network_settings(self, config, spec, actor):
        return actor.network_settings(config, spec)

    def estimate(self, view, kept, rows, actor, progress, key):
        zero = jnp.zeros_like(rows.reward)
        return Estimate(zero, zero, zero, zero, zero)

    def loss(self, view, rows, est, key):
        zero = jnp.zeros_like(rows.reward)
        return zero, zero, {"train/value_loss": jnp.zeros(())}

    def report(self, est, rows):
        return {"train/explained_variance": jnp.full((), jnp.nan)}
