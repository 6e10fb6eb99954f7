"""Stable-Baselines3's other names for environments: what they are here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from actrix.envs.build import of_functions
from actrix.envs.vec.vecenv import VecEnv


class DummyVecEnv(VecEnv):
    """Environments from functions, stepped one after the other in this process.

    Raises TypeError for what is no function, EnvError where two functions give one object.
    """

    gymnasium = SyncVectorEnv

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]):
        super().__init__(of_functions(_functions(env_fns, "DummyVecEnv")))


class SubprocVecEnv(VecEnv):
    """Environments from functions, each in a process of its own: Gymnasium's AsyncVectorEnv.

    A script needs `if __name__ == "__main__":`. `make_vec_env(id, n, workers=True)` has named errors, restarts and
    exact resume besides. ValueError for a `start_method`: the library chooses one in which JAX cannot deadlock.
    """

    gymnasium = AsyncVectorEnv

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], start_method: str | None = None):
        check_start_method(start_method)
        super().__init__(of_functions(_functions(env_fns, "SubprocVecEnv"), AsyncVectorEnv))


def check_start_method(name: str | None) -> None:
    """ValueError for another way to start processes than the library's."""
    if name not in (None, "forkserver"):
        raise ValueError(f"start_method={name!r}: leave it out, the library takes one that is safe with JAX.")


def _functions(env_fns: Any, who: str) -> list[Callable[[], gym.Env]]:
    functions = list(env_fns)
    if not functions or not all(callable(fn) and not isinstance(fn, gym.Env) for fn in functions):
        raise TypeError(f"{who} takes functions that make an environment each: [lambda: gym.make(...), ...].")
    return functions


def set_random_seed(seed: int, using_cuda: bool = False) -> None:
    """Seed Python's and NumPy's global random numbers. (A model draws from streams of its own, by its `seed`.)"""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - that of environments that draw from the global stream


class VecCheckNan:
    """The environments as they are: non-finite numbers are always refused here, by name of environment and step."""

    def __new__(
        cls, venv: Any, raise_exception: bool = True, warn_once: bool = True, check_inf: bool = True
    ) -> Any:
        """`venv`; ValueError for `raise_exception=False`."""
        if not raise_exception:
            raise ValueError(
                "raise_exception=False: a non-finite number always ends training here, with what was learned kept."
            )
        return venv


class VecTransposeImage:
    """The environments as they are: images may be channels first or last."""

    def __new__(cls, venv: Any, skip: bool = False) -> Any:
        """`venv`."""
        return venv


class VecMonitor:
    """The environments as they are: training counts their returns."""

    def __new__(cls, venv: Any, filename: str | None = None, info_keywords: tuple[str, ...] = ()) -> Any:
        """`venv`; ValueError for a file or keywords."""
        if filename is not None or info_keywords:
            raise ValueError(
                "VecMonitor writes no file here: make_vec_env(…, monitor_dir=FOLDER, monitor_kwargs=…) does."
            )
        return venv


def is_vecenv_wrapped(env: Any, vec_wrapper_class: type) -> bool:
    """Whether `env` is, or wraps, such a vector environment."""
    while env is not None:
        if isinstance(env, vec_wrapper_class):
            return True
        env = getattr(env, "venv", None)
    return False


INSTEAD = {
    "VecVideoRecorder": "record a trained model with actrix.record_video, or `actrix video RUN`",
    "VecExtractDictObs": "use wrapper_class=lambda env: gymnasium.wrappers.FilterObservation(env, [key])",
    "plot_results": "use actrix.show.plot.plot_run, or `actrix plot RUN`",
    "ts2xy": "take the columns of load_results(folder): 'l'.cumsum() and 'r'",
    "results_plotter": "use actrix.show.plot, or `actrix plot RUN`",
    "ReplayBuffer": "the memory is the learner's: settings data='replay' and buffer_size; see model.save_replay_buffer",
    "RolloutBuffer": "the chunk is the loop's: see the page Concepts",
    "MaskablePPO": "PPO finds action masks by itself",
    "RecurrentPPO": "write PPO('MlpLstmPolicy', …)",
    "ActorCriticPolicy": "networks are made by policy_kwargs, or by a function: the page Your own network",
    "BaseFeaturesExtractor": "a features_extractor_class is an equinox module: the page Your own network",
    "ActionMasker": "give the environment a method action_masks(): masks are found by themselves",
}
"""Names that Stable-Baselines3's scripts import and that are something else here."""
