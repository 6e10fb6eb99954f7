"""Callbacks under Stable-Baselines3's names.

In the host loop `on_step` runs after every step of the vector environment; in the compiled loop once per segment,
read-only. `num_timesteps` counts environment steps in both.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.envs.base import success_of
from actrix.envs.vec.normalize import sync_envs_normalization
from actrix.loops.evaluate import evaluate_policy, playable


class BaseCallback:
    """Override `_on_step` (return False to stop training) and, if needed, the other `_on_…` methods."""

    # Of the class, for an __init__ that does not call this one.
    verbose = n_calls = num_timesteps = 0
    model: Any = None
    parent: BaseCallback | None = None

    def __init__(self, verbose: int = 0):
        self.verbose = verbose
        self.locals: dict[str, Any] = {}
        self.globals: dict[str, Any] = {}

    @property
    def logger(self) -> Any:
        """The model's logger: `self.logger.record("my/value", 1.0)`."""
        return self.model.logger

    @property
    def training_env(self) -> Any:
        """The environment trained on, as Stable-Baselines3's `VecEnv` (`Model.get_env`)."""
        return self.model.get_env()

    @property
    def children(self) -> Sequence[BaseCallback]:
        """The callbacks that this one calls."""
        return ()

    def init_callback(self, model: Any) -> None:
        """Called once before training; what a list holds has the list's own parent."""
        self.model = model
        for child in self.children:
            child.parent = self if isinstance(self, EventCallback) else self.parent
            child.init_callback(model)
        self._init_callback()

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """Called when `learn` starts; `locals_["model"]` is the model."""
        self.locals, self.globals = locals_, globals_
        self.num_timesteps = self.model.num_timesteps
        for child in self.children:
            child.on_training_start(locals_, globals_)
        self._on_training_start()

    def on_rollout_start(self) -> None:
        """Called before a chunk is collected."""
        self._on_rollout_start()

    def on_step(self) -> bool:
        """Called after each step (host) or segment (compiled); False stops training."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        go_on: bool | None = self._on_step()
        if go_on is None:
            name = type(self).__name__
            warnings.warn(
                f"{name}._on_step returned None, which stops training: return True to go on.", stacklevel=2
            )
        return bool(go_on)

    def on_rollout_end(self) -> None:
        """Called after a chunk was collected, before it is learned from (compiled: after a segment)."""
        self._on_rollout_end()

    def on_training_end(self) -> None:
        """Called when `learn` ends, also after an error."""
        self._on_training_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Put what the last step returned into `self.locals` (host loop only)."""
        self.locals.update(locals_)
        for child in self.children:
            child.update_locals(locals_)

    def _init_callback(self) -> None: ...

    def _on_training_start(self) -> None: ...

    def _on_rollout_start(self) -> None: ...

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None: ...

    def _on_training_end(self) -> None: ...


class CallbackList(BaseCallback):
    """Several callbacks in order; training goes on while all of them return True."""

    def __init__(self, callbacks: Sequence[BaseCallback]):
        super().__init__()
        self.callbacks = list(callbacks)

    @property
    def children(self) -> Sequence[BaseCallback]:
        return self.callbacks

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def _on_step(self) -> bool:
        answers = [callback.on_step() for callback in self.callbacks]  # `all` would stop at the first False
        return all(answers)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()


class ConvertCallback(BaseCallback):
    """A plain function `f(locals, globals) -> bool | None` as a callback."""

    def __init__(self, callback: Callable[[dict, dict], bool | None], verbose: int = 0):
        super().__init__(verbose)
        self.callback = callback

    def _on_step(self) -> bool:
        return self.callback(self.locals, self.globals) is not False


class _Every(BaseCallback):
    """Fires when `num_timesteps` crosses a multiple of `freq` calls of the vector environment."""

    _last = 0
    """`num_timesteps` at the last call."""

    def _crossed(self, freq: int) -> bool:
        before, self._last = self._last, self.num_timesteps
        if freq <= 0:
            return False
        calls = freq * self.model.n_envs
        return self.num_timesteps // calls > before // calls

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        super().on_training_start(locals_, globals_)
        self._last = self.num_timesteps


class EventCallback(_Every):
    """A callback that triggers another."""

    def __init__(self, callback: BaseCallback | None = None, verbose: int = 0):
        super().__init__(verbose)
        self.callback = callback
        for child in self.children:
            child.parent = self

    @property
    def children(self) -> Sequence[BaseCallback]:
        return [] if self.callback is None else [self.callback]

    def _on_event(self) -> bool:
        return True if self.callback is None else self.callback.on_step()


class CheckpointCallback(_Every):
    """Save the model every `save_freq` calls to `save_path/<name_prefix>_<steps>_steps.safetensors`.

    On request also the replay memory (`…_replay_buffer_<steps>_steps.safetensors`) and the statistics of `VecNormalize`
    (`…_vecnormalize_<steps>_steps.npz`; a model's file holds those of the observations too), where there are any.
    """

    def __init__(
        self, save_freq: int, save_path: str | os.PathLike, name_prefix: str = "rl_model",
        save_replay_buffer: bool = False, save_vecnormalize: bool = False, verbose: int = 0,
    ):  # fmt: skip
        super().__init__(verbose)
        self.save_freq, self.save_path, self.name_prefix = save_freq, Path(save_path), name_prefix
        self.save_replay_buffer, self.save_vecnormalize = save_replay_buffer, save_vecnormalize

    def _on_step(self) -> bool:
        if self._crossed(self.save_freq):
            written = [self.model.save(self._path(""))]
            if self.save_replay_buffer and self.model.replay_buffer is not None:
                written.append(self.model.save_replay_buffer(self._path("replay_buffer_")))
            normalize = self.model.get_vec_normalize_env()
            if self.save_vecnormalize and normalize is not None:
                written.append(Path(f"{self._path('vecnormalize_')}.npz"))
                normalize.save(written[-1])
            if self.verbose:
                print(f"saved {', '.join(map(str, written))}")
        return True

    def _path(self, what: str) -> Path:
        return self.save_path / f"{self.name_prefix}_{what}{self.num_timesteps}_steps"


class EvalCallback(EventCallback):
    """Evaluate every `eval_freq` calls; keeps the best model and `evaluations.npz` as Stable-Baselines3 does.

    Give it an environment of its own (the training environment is refused with ValueError). Evaluation leaves the
    training stream untouched.
    """

    def __init__(
        self, eval_env: Any, callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None, n_eval_episodes: int = 5, eval_freq: int = 10000,
        log_path: str | os.PathLike | None = None, best_model_save_path: str | os.PathLike | None = None,
        deterministic: bool = True, render: bool = False, verbose: int = 1, warn: bool = True,
    ):  # fmt: skip
        self.callback_on_new_best = callback_on_new_best
        super().__init__(callback_after_eval, verbose)
        if render:
            raise ValueError("render=True is not offered during training; take `actrix video` afterwards.")
        self.eval_env, self.deterministic = eval_env, deterministic
        self.n_eval_episodes, self.eval_freq = n_eval_episodes, eval_freq
        self.log_path = Path(log_path) / "evaluations.npz" if log_path is not None else None
        self.best_model_save_path = Path(best_model_save_path) if best_model_save_path is not None else None
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.evaluations_timesteps: list[int] = []
        self.evaluations_results: list[list[float]] = []
        self.evaluations_length, self.evaluations_successes = list[list[int]](), list[list[float]]()

    def init_callback(self, model: Any) -> None:
        if model.trains_on(self.eval_env):
            raise ValueError(
                "eval_env is the environment trained on, whose episodes evaluation would break off: "
                "give EvalCallback an environment of its own."
            )
        self._played = playable(model, self.eval_env)
        super().init_callback(model)

    @property
    def children(self) -> Sequence[BaseCallback]:
        return [child for child in (*super().children, self.callback_on_new_best) if child is not None]

    def _on_step(self) -> bool:
        if not self._crossed(self.eval_freq):
            return True
        self._is_success_buffer: list[float] = []
        sync_envs_normalization(self.training_env, self.eval_env)
        rewards, lengths = evaluate_policy(
            self.model, self._played, self.n_eval_episodes, self.deterministic,
            callback=self._log_success_callback, return_episode_rewards=True,
        )  # fmt: skip
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(rewards)
        self.evaluations_length.append(lengths)
        self._keep()
        self.last_mean_reward, std = (mean := float(np.mean(rewards))), float(np.std(rewards))
        self.logger.record("eval/mean_reward", mean)
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if self._is_success_buffer:
            self.logger.record("eval/success_rate", float(np.mean(self._is_success_buffer)))
        self.logger.dump(self.num_timesteps)
        if self.verbose:
            print(f"Eval num_timesteps={self.num_timesteps}, episode_reward={mean:.2f} +/- {std:.2f}")
        go_on = True
        if mean > self.best_mean_reward:
            self.best_mean_reward = mean
            if self.best_model_save_path is not None:
                self.model.save(self.best_model_save_path / "best_model")
            if self.callback_on_new_best is not None:
                go_on = self.callback_on_new_best.on_step()
        return go_on and self._on_event()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """Called after each step of an evaluation: note what the environment says of an episode that ends."""
        if locals_["done"] and not np.isnan(told := success_of(locals_["info"])):
            self._is_success_buffer.append(told)

    def _keep(self) -> None:
        """Write `evaluations.npz`, with what was said of success, and NaN for episodes of which nothing was."""
        told: dict[str, Any] = {}
        if known := self._is_success_buffer:
            self.evaluations_successes.append([*known, *[np.nan] * (self.n_eval_episodes - len(known))])
            told = {"successes": _table(self.evaluations_successes)}
        if self.log_path is not None:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                self.log_path, timesteps=self.evaluations_timesteps, results=_table(self.evaluations_results),
                ep_lengths=_table(self.evaluations_length), **told,
            )  # fmt: skip


def _table(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """[evaluations, episodes]; NaN ends the row of one whose endless episodes were cut, which plays fewer."""
    return np.array(list(itertools.zip_longest(*rows, fillvalue=np.nan))).T


class EveryNTimesteps(EventCallback):
    """Trigger a callback every `n_steps` environment steps."""

    def __init__(self, n_steps: int, callback: BaseCallback):
        super().__init__(callback)
        self.n_steps = n_steps
        self.last_time_trigger = 0

    def _on_training_start(self) -> None:
        self.last_time_trigger = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last_time_trigger >= self.n_steps:
            self.last_time_trigger = self.num_timesteps
            return self._on_event()
        return True


class LogEveryNTimesteps(EveryNTimesteps):
    """Write the log every `n_steps` environment steps, whatever `log_interval` says."""

    def __init__(self, n_steps: int):
        super().__init__(
            n_steps, ConvertCallback(lambda locals_, _: locals_["self"].logger.dump(self.num_timesteps))
        )


class ProgressBarCallback(BaseCallback):
    """Shows progress: for `learn(progress_bar=True)`, which is the same."""

    def __init__(self) -> None:
        raise ValueError(
            "ProgressBarCallback is learn(…, progress_bar=True) here: leave it out and say that."
        )


def as_callback(callback: Any) -> BaseCallback | None:
    """None, a callback, a list of them, or a function `f(locals, globals)`."""
    if callback is None or isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, Sequence):
        return CallbackList([c for c in map(as_callback, callback) if c is not None])
    if callable(callback):
        return ConvertCallback(callback)
    raise TypeError(
        f"callback must be a BaseCallback, a list of them or a function, not {type(callback).__name__}."
    )
