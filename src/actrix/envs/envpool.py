"""EnvPool's C++ environments behind the host contract, in synchronous mode."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import check_action_space, check_observation_space
from actrix.core.types import Spec
from actrix.envs.base import Step
from actrix.envs.guard import EnvError, env_seeds
from actrix.envs.gymnasium import action_map, own, quiet_make


class EnvPoolEnvs:
    """N environments of an EnvPool id as a `HostEnv`; every row is a transition.

    EnvPool resets a finished environment in the step after its end; here finished rows are reset right after
    the step, so that step never comes. Spaces and time limit are Gymnasium's (EnvPool's bounds are partly
    wrong). EnvPool ignores seeds given to `reset`, so `reset(seeds)` builds the pool anew; `seed` serves the
    first one.
    """

    backend = "envpool"

    def __init__(self, env_id: str, num_envs: int, seed: int | None = None, **kwargs: Any):
        """`kwargs` go to `envpool.make_gymnasium`. Raises ValueError where EnvPool has no equal of the id."""
        if not has_envpool(env_id):
            raise ValueError(f"EnvPool has no environment that matches Gymnasium's {env_id!r}.")
        self.env_id, self.num_envs, self.kwargs, self.steps = env_id, num_envs, kwargs, 0
        self.spec = _registry_spec(env_id)
        check_observation_space(self.spec.observation_space)
        check_action_space(self.spec.action_space)
        self._to_env = action_map(self.spec.action_space)
        self._build(env_seeds(seed, num_envs))

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, None]:
        """Start a new episode everywhere; return (obs [N, ...], None)."""
        if seeds is not None:
            self.envs.close()
            self._build([int(seed) % 2**31 for seed in seeds])
        return own(self.envs.reset()[0]), None

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] in policy coordinates."""
        self.steps += 1
        try:
            obs, reward, terminated, truncated, _ = self.envs.step(self._to_env(action))
            terminated, truncated = np.array(terminated), truncated & ~terminated
            obs = next_obs = own(obs)
            rows = np.flatnonzero(terminated | truncated)
            if rows.size:
                first, info = self.envs.reset(rows)
                obs = next_obs.copy()
                obs[info["env_id"]] = first
        except (AssertionError, RuntimeError, ValueError) as error:
            raise EnvError(f"EnvPool's {self.env_id} failed at step {self.steps}: {error}") from error
        return Step(obs, next_obs, np.array(reward, np.float32), terminated, truncated)

    def close(self) -> None:
        self.envs.close()

    def _build(self, seeds: list[int]) -> None:
        import envpool

        options = {"num_threads": min(len(os.sched_getaffinity(0)), self.num_envs)}
        if self.spec.max_episode_steps is not None:
            options["max_episode_steps"] = self.spec.max_episode_steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that float32 cannot hold
            self.envs = envpool.make_gymnasium(
                self.env_id, num_envs=self.num_envs, seed=seeds, **{**options, **self.kwargs}
            )
            _ = self.envs.observation_space  # made, and kept, at its first use


@functools.cache
def has_envpool(env_id: str) -> bool:
    """Whether EnvPool is installed and has this id with Gymnasium's shapes (array observations only)."""
    if env_id not in gym.registry:
        return False
    try:
        import envpool
    except (ImportError, OSError):
        return False
    if env_id not in envpool.list_all_envs():
        return False
    try:
        ours = _registry_spec(env_id)
        theirs = envpool.make_spec(env_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that float32 cannot hold
            observation_space, action_space = (
                theirs.gymnasium_observation_space,
                theirs.gymnasium_action_space,
            )
    except Exception:  # any failure to build either side means: not usable
        return False
    return _alike(ours.observation_space, observation_space) and _alike(ours.action_space, action_space)


def _alike(ours: gym.Space, theirs: gym.Space) -> bool:
    if isinstance(ours, spaces.Discrete):
        return isinstance(theirs, spaces.Discrete) and (ours.n, ours.start) == (theirs.n, theirs.start)
    return isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box) and ours.shape == theirs.shape


@functools.cache
def _registry_spec(env_id: str) -> Spec:
    env = quiet_make(env_id)
    spec = Spec(env.observation_space, env.action_space, gym.spec(env_id).max_episode_steps)
    env.close()
    return spec
