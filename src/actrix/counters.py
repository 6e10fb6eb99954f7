"""How far a model's training is, under the names that Stable-Baselines3's scripts read."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np

from actrix.algorithms import settings as settings_
from actrix.settable import Settable


class Counters(Settable):
    """The part of a model that tells of its training."""

    run: Any
    num_timesteps: Any
    num_episodes: Any
    stats_window_size: int
    start_time: int = 0
    """When the last `learn` began, in nanoseconds (`time.time_ns`)."""
    acting: Any
    _policy_kwargs: Any = None
    _acting: Any = None
    _explored: Any = None
    """What acts with a rate of exploration that was set."""

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """As they were given, or as a model's file has them."""
        return dict(self._policy_kwargs or {})

    @property
    def _n_updates(self) -> int:
        """The log's `train/n_updates`: passes over chunks, or gradient steps from a memory."""
        if self.runner is None:
            return 0
        training = self.runner.learners[0].training
        try:
            return int(training.update) * int(settings_.value_of(self.algorithm, "n_epochs"))
        except KeyError:
            return int(vars(training).get("gradient_steps", training.update))

    @property
    def _current_progress_remaining(self) -> float:
        """The share of the budget of `learn` that is left, 1 → 0."""
        if self.runner is None:
            return 1.0
        total = float(self.runner.learners[0].training.total_steps)
        return max(0.0, 1.0 - self.num_timesteps / total)

    @property
    def _num_timesteps_at_start(self) -> int:
        """`num_timesteps` when `learn` was called."""
        return self.run.start_steps

    @property
    def _episode_num(self) -> int:
        """`num_episodes`."""
        return self.num_episodes

    @property
    def exploration_rate(self) -> float:
        """ε now, of algorithms that explore so; AttributeError for others.

        Set, `predict(deterministic=False)` explores with it until training goes on, by its schedule as ever.
        """
        if self._explored is not None and self._explored is self._acting:
            return float(self._explored.explore.epsilon)
        found: dict[str, Any] = {}
        if (actor := settings_.parts_of(self.algorithm).get("actor")) is not None:
            numbers = actor.numbers(np.float32(1.0 - self._current_progress_remaining))
            found = {} if numbers is None else actor.number_metrics(numbers)
        if "rollout/exploration_rate" not in found:
            raise AttributeError(
                f"{type(self).__name__} has no exploration_rate: no ε-greedy actor is among its answers."
            )
        return float(found["rollout/exploration_rate"])

    @exploration_rate.setter
    def exploration_rate(self, value: float) -> None:
        _ = self.exploration_rate  # AttributeError without one
        if not 0 <= value <= 1:
            raise ValueError(f"exploration_rate={value!r} must lie in [0, 1].")
        acting = self.acting
        explore = dataclasses.replace(acting.explore, epsilon=np.float32(value))
        self._acting = self._explored = dataclasses.replace(acting, explore=explore)

    @property
    def ep_info_buffer(self) -> deque[dict[str, float]]:
        """Return `r`, length `l` and `t` of the last `stats_window_size` training episodes.

        `t` is when it was counted, in seconds since the model or, with `reset_num_timesteps`, `learn` began; 0 before a
        resume.
        """
        run = self.run
        rows = zip(run.returns, run.lengths, run.ends, strict=True)
        return deque(({"r": r, "l": n, "t": t} for r, n, t in rows), maxlen=self.stats_window_size)
