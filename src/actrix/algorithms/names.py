"""Stable-Baselines3's names for what is a setting here: scripts import them and hand them on."""

from __future__ import annotations

import dataclasses
from typing import Any


class _Word(type):
    """A class that stands for a setting's value; making one raises TypeError with what to write."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{cls.__name__} is only a name here: {cls.__doc__}")


class ReplayBuffer(metaclass=_Word):
    """the memory is the learner's (settings data='replay', buffer_size); model.save_replay_buffer writes it."""


class DictReplayBuffer(ReplayBuffer):
    """the memory is the learner's, of Dict observations, too; model.save_replay_buffer writes it."""


class NStepReplayBuffer(ReplayBuffer):
    """write n_steps=…, or replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs={'n_steps': …}."""


class HerReplayBuffer(DictReplayBuffer):
    """write data='hindsight', or replay_buffer_class=HerReplayBuffer."""


class RolloutBuffer(metaclass=_Word):
    """a chunk is the loop's and learned from at once: see the page Concepts."""


class DictRolloutBuffer(RolloutBuffer):
    """a chunk is the loop's, of Dict observations, too, and learned from at once: see the page Concepts."""


class RMSpropTFLike(metaclass=_Word):
    """write policy_kwargs={'optimizer_class': RMSpropTFLike}, or optimizer='rmsprop'."""


class GoalSelectionStrategy:
    """Whose goals hindsight takes: words of `goal_selection_strategy`."""

    FUTURE, FINAL, EPISODE = "future", "final", "episode"


@dataclasses.dataclass(frozen=True)
class LinearSchedule:
    """From `start` to `end` while the first `end_fraction` of training passes, then `end`: of the remaining progress.

    (As SB3's functions are, it is read off at 101 points; `Linear(start, end)` is exact.)
    """

    start: float
    end: float
    end_fraction: float

    def __call__(self, progress_remaining: float) -> float:
        spent = 1.0 - progress_remaining
        if spent > self.end_fraction:
            return self.end
        return self.start + spent * (self.end - self.start) / self.end_fraction


@dataclasses.dataclass(frozen=True)
class ConstantSchedule:
    """Always `val`."""

    val: float

    def __call__(self, progress_remaining: float) -> float:
        return self.val


get_linear_fn = LinearSchedule
