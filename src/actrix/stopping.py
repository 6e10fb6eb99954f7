"""Callbacks that stop training, under Stable-Baselines3's names."""

from __future__ import annotations

import numpy as np

from actrix.callbacks import BaseCallback
from actrix.show.stats import amount


def _told(callback: BaseCallback, go_on: bool, why: str) -> bool:
    """`go_on`; where training stops and the callback is `verbose`, a line says why."""
    if callback.verbose and not go_on:
        print(f"Stopping training because {why}")
    return go_on


class StopTrainingOnRewardThreshold(BaseCallback):
    """Stop when the best mean reward of the parent `EvalCallback` reaches the threshold."""

    def __init__(self, reward_threshold: float, verbose: int = 0):
        super().__init__(verbose)
        self.reward_threshold = reward_threshold

    def _on_step(self) -> bool:
        if self.parent is None:
            raise ValueError(
                "StopTrainingOnRewardThreshold must be the callback_on_new_best of an EvalCallback."
            )
        best = self.parent.best_mean_reward  # type: ignore[attr-defined]
        why = f"the mean reward {best:.2f} reaches the threshold {self.reward_threshold}"
        return _told(self, bool(best < self.reward_threshold), why)


class StopTrainingOnNoModelImprovement(BaseCallback):
    """Stop after more than `max_no_improvement_evals` evaluations in a row without a new best."""

    def __init__(self, max_no_improvement_evals: int, min_evals: int = 0, verbose: int = 0):
        super().__init__(verbose)
        self.max_no_improvement_evals, self.min_evals = max_no_improvement_evals, min_evals
        self.last_best_mean_reward, self.no_improvement_evals = -np.inf, 0

    def _on_step(self) -> bool:
        if self.parent is None:
            raise ValueError(
                "StopTrainingOnNoModelImprovement must be the callback_after_eval of an EvalCallback."
            )
        best = self.parent.best_mean_reward  # type: ignore[attr-defined]
        go_on = True
        if self.n_calls > self.min_evals:
            self.no_improvement_evals = (
                0 if best > self.last_best_mean_reward else self.no_improvement_evals + 1
            )
            go_on = self.no_improvement_evals <= self.max_no_improvement_evals
        self.last_best_mean_reward = best
        return _told(
            self, go_on, f"there was no new best model in {self.no_improvement_evals} evaluations in a row"
        )


class StopTrainingOnMaxEpisodes(BaseCallback):
    """Stop after `max_episodes` finished episodes per environment."""

    def __init__(self, max_episodes: int, verbose: int = 0):
        super().__init__(verbose)
        self.max_episodes = max_episodes
        self.n_episodes = 0

    def _on_step(self) -> bool:
        self.n_episodes = self.model.num_episodes
        go_on = self.n_episodes < self.max_episodes * self.model.n_envs
        return _told(self, go_on, f"{amount(self.n_episodes, 'episode')} ended")
