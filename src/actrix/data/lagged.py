"""Chunks of an older policy, as in a system of many actors and one learner."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from actrix.core.answers import DataFacts
from actrix.core.fields import whole
from actrix.core.optim import flatten
from actrix.data.chunk import OnPolicy


@dataclasses.dataclass(frozen=True)
class Lagged(OnPolicy):
    """The policy of `lag` updates ago acts (IMPALA's situation); its chunks are learned from like fresh ones."""

    lag: int = 8

    name: ClassVar[str] = "lag"
    positional: ClassVar[tuple[str, ...]] = ("lag",)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "lag", least=0)

    @property
    def facts(self):
        return DataFacts(on_policy=False, whole_episodes=self.whole_episodes, lag=self.lag)

    def hold(self, net):
        return jnp.tile(flatten(net)[0], (self.lag, 1)) if self.lag else None

    def acting(self, net, held):
        return flatten(net)[1](held[0]) if self.lag else net

    def release(self, held, net):
        # The oldest parameters go, and those that were just replaced come.
        return jnp.concatenate([held[1:], flatten(net)[0][None]]) if self.lag else held
