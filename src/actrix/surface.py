"""What else Stable-Baselines3's scripts read of a model."""

from __future__ import annotations

import dataclasses
import glob
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.actors.pathwise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from actrix.algorithms.settings import setting_names
from actrix.core.schedules import evaluate
from actrix.core.types import Spec
from actrix.counters import Counters
from actrix.envs.vec.names import set_random_seed
from actrix.envs.vec.normalize import VecNormalize, unwrap_vec_normalize
from actrix.files.memories import Memory
from actrix.hooks import NoLogger
from actrix.loops.runner import Runner
from actrix.show.log import Logger
from actrix.show.stats import amount


class Device(str):
    """The name of the platform that JAX runs on."""

    @property
    def type(self) -> str:
        """The name itself, as PyTorch's devices have it."""
        return str(self)


def get_device(device: Any = "auto") -> Device:
    """The platform that JAX runs on; ValueError where that is not the one asked for."""
    platform, asked = jax.default_backend(), str(device)
    if asked not in ("auto", platform, {"gpu": "cuda"}.get(platform, platform)):
        raise ValueError(f"device={device!r}: JAX runs on {platform!r} here; use device='auto'.")
    return Device(platform)


class Surface(Counters):
    """Counters, statistics, the memory and random numbers of a model."""

    runner: Runner | None
    _env: Any
    env_id: str | None
    seed: int
    n_envs: int
    verbose: int
    tensorboard_log: Any
    logger: Any
    set_env: Callable
    get_env: Callable
    _vec: Any
    _acting: Any
    _policy: Any
    _open_steps: int
    _open_episodes: int
    _given_logger: bool
    _known_spec: Callable[[], Spec]

    def __repr__(self) -> str:
        """What learns where, and how far it is: a notebook shows it of a cell that ends with a model."""
        name = type(self).__name__
        if self.runner is None and self._acting is None:
            return f"<{name} without an environment>"
        where = self.env_id or "an environment of your own"
        copies = "" if self._env is None else f", {amount(self.n_envs, 'environment')}"
        return f"<{name} on {where}: {self.num_timesteps:,} steps learned{copies}, seed {self.seed}>"

    @property
    def env(self) -> Any:
        """`get_env()`; setting it is `set_env`."""
        return self.get_env()

    @env.setter
    def env(self, env: Any) -> None:
        self.set_env(env)

    @property
    def observation_space(self) -> Any:
        """The observation space of one environment."""
        return self._known_spec().observation_space

    @property
    def action_space(self) -> Any:
        """The action space of one environment."""
        return self._known_spec().action_space

    @property
    def num_timesteps(self) -> int:
        """Environment steps taken so far; where a number is set, counting and schedules go on from there."""
        return self.run.steps + self._open_steps

    @num_timesteps.setter
    def num_timesteps(self, steps: int) -> None:
        self.run.steps = int(steps) - self._open_steps
        if self.runner is not None:
            self.runner.set_training(steps=int(steps))

    @property
    def num_episodes(self) -> int:
        """Episodes finished so far."""
        return self.run.episodes + self._open_episodes

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """The `VecNormalize` that the model was given, if it was."""
        return unwrap_vec_normalize(self._vec)

    def set_statistics(self, obs_moments: Any, return_moments: Any = None) -> None:
        """Go on with these running statistics (`core.normalize.Moments`), of observations and discounted returns."""
        assert self.runner is not None
        learner = self.runner.learners[0]
        acting, scale = learner.acting, learner.training.reward_scale
        if obs_moments is not None:
            acting = dataclasses.replace(acting, obs_moments=obs_moments)
        if return_moments is not None and scale is not None:
            scale = dataclasses.replace(scale, moments=return_moments)
        training = dataclasses.replace(learner.training, reward_scale=scale)
        learner = dataclasses.replace(learner, acting=acting, training=training)
        self.runner.set_learners([learner], [self.run.iterations])
        self._acting = self._policy = None

    @property
    def lr_schedule(self) -> Any:
        """The step size as a function of the remaining progress, 1 → 0."""
        rate = self.learning_rate
        return lambda remaining: float(evaluate(rate, 1.0 - remaining))

    @property
    def action_noise(self) -> NormalActionNoise | None:
        """The noise of `noise_type` and `noise_std`; None without. The program depends on it: AttributeError to set."""
        if "noise_type" not in setting_names(self.algorithm) or self.noise_type == "none":
            return None
        kind = NormalActionNoise if self.noise_type == "normal" else OrnsteinUhlenbeckActionNoise
        zeros = np.zeros(self._known_spec().action_space.shape or ())
        return kind(zeros, zeros + self.noise_std)

    @action_noise.setter
    def action_noise(self, noise: Any) -> None:
        raise AttributeError(
            "action_noise: the program depends on it; give it to the constructor, or to load."
        )

    @property
    def ep_success_buffer(self) -> deque[float]:
        """`info["is_success"]` of the last `stats_window_size` training episodes that told."""
        return deque(self.run.successes, maxlen=self.stats_window_size)

    @property
    def replay_buffer(self) -> Memory | None:
        """How full the memory is; None for algorithms without one. Its file: `save_replay_buffer`."""
        rows = getattr(self._learner_memory(), "rows", None)
        size = self.algorithm.data.buffer_size
        return None if rows is None or size is None else Memory(rows, size, self.n_envs)

    def _learner_memory(self) -> Any:
        return None if self.runner is None else self.runner.learners[0].memory

    def set_random_seed(self, seed: int | None = None) -> None:
        """Go on from another seed: new streams of actions, batches and environments, which begin new episodes.

        Python's and NumPy's global random numbers are seeded too.
        """
        if seed is None:
            return
        set_random_seed(seed)
        self.seed = self.run.seed = seed
        if self._env is not None:
            self.set_env(self._vec if self._vec is not None else self._env)

    def set_logger(self, logger: Any) -> None:
        """Log to this `Logger` (`actrix.configure`), also in every further `learn`; who made it closes it.

        The model's own log until then is closed. TypeError for anything else.
        """
        if not isinstance(logger, Logger):
            raise TypeError(
                "set_logger takes what actrix.configure(folder, formats) makes, or an actrix.Logger, not a "
                f"{type(logger).__name__}."
            )
        if not self._given_logger:
            self.logger.close()
        self.logger, self._given_logger = logger, True

    def _next_logger(self, name: str | None, reset: bool) -> Logger:
        """The log of a `learn`: the given one, the one that goes on, or a new one in the next folder."""
        if self._given_logger or not (reset or isinstance(self.logger, NoLogger)):
            return self.logger
        self.logger.close()
        folder = self._tb_folder(name, reset)
        goes_on = folder is not None and not reset and folder.exists()
        return Logger(
            tensorboard=folder, verbose=self.verbose, resume_step=self.run.steps if goes_on else None
        )

    def _tb_folder(self, name: str | None, reset: bool) -> Path | None:
        """`<log>/<name>_<number>`: the next number, or the last one where counting goes on."""
        if self.tensorboard_log is None:
            return None
        base, name = Path(self.tensorboard_log), name or type(self).__name__
        numbers = (p.name.rpartition("_")[2] for p in base.glob(f"{glob.escape(name)}_*"))
        last = max((int(n) for n in numbers if n.isdigit()), default=0)
        return base / f"{name}_{last + 1 if reset or not last else last}"
