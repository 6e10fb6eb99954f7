"""What the training loop calls on behalf of a model's callbacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from actrix.callbacks import BaseCallback
from actrix.loops.host import HostRunner


class Hooks:
    """Runs a model's callbacks from the training loop, while `learn` is in it; the log is written at the end."""

    def __init__(self, model: Any, callback: BaseCallback | None):
        self.model, self.callback = model, callback
        self._learner: Any = None

    def __enter__(self) -> Hooks:
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.stopped = False
        if self.callback is None:
            return self
        self.callback.init_callback(self.model)
        self.callback.on_training_start({"self": self.model, "model": self.model}, {})
        self.callback.on_rollout_start()
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.on_step = self._on_step
        return self

    def _on_step(self, step: Any) -> bool:
        model, callback = self.model, self.callback
        assert callback is not None
        done = (step.terminated | step.truncated) & step.valid
        model._open_steps = model._open_steps + int(np.sum(step.valid))
        model._open_episodes = model._open_episodes + int(np.sum(done))
        if model.runner.learner is not self._learner:  # it was updated since the last step
            self._learner = model.runner.learner
            model._acting, model._policy = None, None
        callback.update_locals({"new_obs": step.obs, "rewards": step.reward, "dones": done})
        return callback.on_step()

    def on_update(self) -> bool:
        """A chunk (host) or segment (compiled) was learned from; False stops training."""
        model, callback = self.model, self.callback
        model._open_steps = model._open_episodes = 0
        model._acting, model._policy = None, None
        if callback is None:
            return True
        go_on = True
        if not isinstance(model.runner, HostRunner):
            go_on = callback.on_step()
        callback.on_rollout_end()
        if go_on:
            callback.on_rollout_start()
        return go_on

    def __exit__(self, *error: object) -> None:
        self.model._acting, self.model._policy = None, None
        self.model._open_steps = self.model._open_episodes = 0
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.on_step = None
        if self.callback is not None:
            self.callback.on_training_end()
        self.model.logger.sync()


class NoLogger:
    """Records nothing: a model's logger before the first `learn`."""

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
