"""What the training loop calls on behalf of a model's callbacks, and what it tells them of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from actrix.callbacks import BaseCallback
from actrix.core.spaces import to_env_action
from actrix.envs.base import Step, episode_info, infos_with_ends
from actrix.loops.host import HostRunner


class StepLocals(dict):
    """A callback's `locals`: what the last step returned under Stable-Baselines3's names, the costly made when asked.

    Always `self`, `model`; after a step of the host loop `new_obs`, `rewards`, `dones` `[N]`, and on demand `infos` (a
    dict for each environment, with SB3's "episode", "terminal_observation" and "TimeLimit.truncated" where one
    ended), `actions` (in the environment's units), `values`, `log_probs`, and `obs_tensor`, the observations acted on.
    KeyError says what there is.
    """

    def __init__(self, values: dict[str, Any]):
        super().__init__(values)
        self._made: dict[str, Callable[[], Any]] = {}

    def step(self, values: dict[str, Any], made: dict[str, Callable[[], Any]]) -> None:
        """Hold another step; what was made for the last one goes."""
        for name in self._made:
            self.pop(name, None)
        self.update(values)
        self._made = made

    def __missing__(self, name: str) -> Any:
        if name in self._made:
            self[name] = self._made[name]()
            return self[name]
        if not self._made:
            raise KeyError(
                f"locals has no {name!r}: it has {', '.join(self)}; what a step returns is known after a step of the "
                'host loop (backend="gymnasium", without actors or groups) only.'
            )
        raise KeyError(f"locals has no {name!r}: it has {', '.join(dict.fromkeys([*self, *self._made]))}.")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._made

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict, what is made on demand included."""
        return self[name] if name in self else default  # noqa: SIM401 - `get` would ask itself


class Hooks:
    """Runs a model's callbacks from the training loop, while `learn` is in it; the log is written at the end."""

    def __init__(self, model: Any, callback: BaseCallback | None):
        self.model, self.callback = model, callback
        self.locals = StepLocals({"self": model, "model": model})
        self._version: Any = None
        self._each_step = False
        """Whether the callback runs after each step; else after each update."""

    def __enter__(self) -> Hooks:
        runner, self.model.start_time = self.model.runner, time.time_ns()
        if isinstance(runner, HostRunner):
            runner.stopped = False
        self._each_step = isinstance(runner, HostRunner) and runner.each_step
        if self.callback is None:
            return self
        self.callback.init_callback(self.model)
        self.callback.on_training_start(self.locals, {})
        if self._each_step:
            n = runner.num_envs
            self._return, self._length = np.zeros(n), np.zeros(n, np.int64)
            runner.on_step, runner.on_rollout = self._on_step, self._on_rollout
        else:
            self.callback.on_rollout_start()
        return self

    def _on_rollout(self, moment: str) -> None:
        assert self.callback is not None
        self.callback.on_rollout_start() if moment == "start" else self.callback.on_rollout_end()

    def _on_step(self, step: Step, action: np.ndarray, obs: Any) -> bool:
        model, callback = self.model, self.callback
        assert callback is not None
        done = (step.terminated | step.truncated) & step.valid
        model._open_steps = model._open_steps + int(np.sum(step.valid))
        model._open_episodes = model._open_episodes + int(np.sum(done))
        if model.runner.version is not self._version:  # it was updated since the last step
            self._version = model.runner.version
            model._acting, model._policy = None, None
        self._return += np.where(step.valid, step.reward, 0.0)
        self._length += step.valid
        ended = self._return.copy(), self._length.copy()
        self._return[done], self._length[done] = 0.0, 0
        made = {
            "infos": lambda: _infos(model.runner.env, step, done, *ended, began=model.run.began),
            "actions": lambda: to_env_action(model.action_space, action),
            "obs_tensor": lambda: obs,
            "values": lambda: model.policy.predict_values(obs),
            "log_probs": lambda: model.policy.evaluate_actions(obs, self.locals["actions"])[1],
        }
        self.locals.step({"new_obs": step.obs, "rewards": step.reward, "dones": done}, made)
        callback.update_locals(self.locals)
        return callback.on_step()

    def on_update(self) -> bool:
        """A chunk (host) or segment (compiled) was learned from; False stops training."""
        model, callback = self.model, self.callback
        model._open_steps = model._open_episodes = 0
        model._acting, model._policy = None, None
        if callback is None or self._each_step:
            return True
        go_on = callback.on_step()
        callback.on_rollout_end()
        if go_on:
            callback.on_rollout_start()
        return go_on

    def __exit__(self, *error: object) -> None:
        self.model._acting, self.model._policy = None, None
        self.model._open_steps = self.model._open_episodes = 0
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.on_step = self.model.runner.on_rollout = None
        if self.callback is not None:
            self.callback.on_training_end()
        self.model.logger.sync()


def _infos(
    env: Any, step: Step, done: np.ndarray, returns: np.ndarray, lengths: np.ndarray, began: float
) -> list[dict]:
    """The infos of a step as Stable-Baselines3's vector environments and its `Monitor` give them."""
    infos = infos_with_ends(env, step, done)
    for i in np.flatnonzero(done).tolist():
        infos[i].setdefault("episode", episode_info(returns[i], lengths[i], began))
    return infos


class NoLogger:
    """Records nothing: a model's logger before the first `learn`."""

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
