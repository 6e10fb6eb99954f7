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
from actrix.envs.workers.process import check_start_method


class DummyVecEnv(VecEnv):
    """Environments from functions, stepped one after the other in this process.

    Their action space may be any; a model takes those in which a policy can act. Raises TypeError for what is no
    function, EnvError where two functions give one object.
    """

    gymnasium = SyncVectorEnv

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]):
        super().__init__(of_functions(_functions(env_fns, "DummyVecEnv"), any_actions=True))


class SubprocVecEnv(VecEnv):
    """Environments from functions, each in a process of its own: Gymnasium's AsyncVectorEnv.

    A script needs `if __name__ == "__main__":`. `make_vec_env(id, n, workers=True)` has named errors, restarts and
    exact resume besides. `start_method`: None = "forkserver"; of "fork" JAX warns (RuntimeWarning), as it may deadlock.
    ValueError for one that the system lacks.
    """

    gymnasium = AsyncVectorEnv

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], start_method: str | None = None):
        functions, kind = _functions(env_fns, "SubprocVecEnv"), started_by(start_method)
        super().__init__(of_functions(functions, kind, any_actions=True))


def started_by(method: str | None) -> type[AsyncVectorEnv]:
    """`AsyncVectorEnv` with processes of this start method; ValueError where there is none of that name."""
    if method is None:
        return AsyncVectorEnv
    check_start_method(method)
    return type("AsyncVectorEnv", (AsyncVectorEnv,), {"start_method": method})


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


def is_vecenv_wrapped(env: Any, vec_wrapper_class: type) -> bool:
    """Whether `env` is, or wraps, such a vector environment."""
    return unwrap_vec_wrapper(env, vec_wrapper_class) is not None


def unwrap_vec_wrapper(env: Any, vec_wrapper_class: type) -> Any:
    """`env` or the outermost vector environment in it that is such a one; None without."""
    while env is not None and not isinstance(env, vec_wrapper_class):
        env = getattr(env, "venv", None)
    return env


class ActionMasker(gym.Wrapper):
    """The environment with a method `action_masks()`: a function of the environment, or the name of a method of its."""

    def __init__(self, env: gym.Env, action_mask_fn: str | Callable[[gym.Env], np.ndarray]):
        super().__init__(env)
        if isinstance(action_mask_fn, str) and not callable(getattr(env, action_mask_fn, None)):
            raise ValueError(
                f"action_mask_fn={action_mask_fn!r}: the environment has no method of that name."
            )
        self._find = action_mask_fn

    def action_masks(self) -> np.ndarray:
        """The legal actions now."""
        return getattr(self.env, self._find)() if isinstance(self._find, str) else self._find(self.env)


def is_masking_supported(env: Any) -> bool:
    """Whether the environment, or each of a `VecEnv`, has a method `action_masks`."""
    return env.has_attr("action_masks") if isinstance(env, VecEnv) else env.has_wrapper_attr("action_masks")


def get_action_masks(env: Any) -> np.ndarray:
    """What the method `action_masks` says now: of one environment, or `[N, n]` of a `VecEnv`."""
    return env.action_masks() if isinstance(env, VecEnv) else env.get_wrapper_attr("action_masks")()
