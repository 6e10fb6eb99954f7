"""EnvPool's C++ environments behind the host contract, in synchronous mode."""

from __future__ import annotations

import contextlib
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
    unsupported = "EnvPool does not give the state of its environments"

    def __init__(self, env_id: str, num_envs: int, seed: int | None = None, **kwargs: Any):
        """`kwargs` go to `envpool.make_gymnasium`. Raises ValueError where EnvPool has no equal of the id."""
        if not has_envpool(env_id):
            raise ValueError(f"EnvPool has no environment that matches Gymnasium's {env_id!r}.")
        self._set_up(env_id, _registry_spec(env_id), num_envs, seed, kwargs)

    def _set_up(
        self, pool_id: str, spec: Spec, num_envs: int, seed: int | None, kwargs: dict[str, Any]
    ) -> None:
        self.env_id: str | None = pool_id
        self.pool_id, self.spec, self.num_envs, self.kwargs, self.steps = pool_id, spec, num_envs, kwargs, 0
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
            obs, reward, terminated, truncated, info = self.envs.step(self._to_env(action))
            obs = next_obs = own(obs)
            terminated = self._read(next_obs, np.array(terminated), info)
            truncated = truncated & ~terminated
            rows = np.flatnonzero(terminated | truncated)
            if rows.size:
                first, info = self._restart(rows)
                obs = next_obs.copy()
                obs[info["env_id"]] = first
        except (AssertionError, RuntimeError, ValueError) as error:
            raise EnvError(f"EnvPool's {self.pool_id} failed at step {self.steps}: {error}") from error
        return Step(obs, next_obs, np.array(reward, np.float32), terminated, truncated)

    def close(self) -> None:
        self.envs.close()

    def _read(self, obs: np.ndarray, terminated: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Put right, in place, what a step returned; return which rows terminated."""
        return terminated

    def _restart(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations and info of new episodes in the rows that ended."""
        return self.envs.reset(rows)

    def _build(self, seeds: list[int]) -> None:
        import envpool

        options = {"num_threads": min(len(os.sched_getaffinity(0)), self.num_envs)}
        if self.spec.max_episode_steps is not None:
            options["max_episode_steps"] = self.spec.max_episode_steps
        before = _threads()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that float32 cannot hold
            self.envs = envpool.make_gymnasium(
                self.pool_id, num_envs=self.num_envs, seed=seeds, **{**options, **self.kwargs}
            )
            _ = self.envs.observation_space  # made, and kept, at its first use
        placed = "thread_affinity_offset" in self.kwargs  # the user says where they run
        self.threads = () if placed else tuple(_threads() - before)


class EnvPoolAtari(EnvPoolEnvs):
    """N copies of EnvPool's preprocessed Atari game ('Pong-v5') as a `HostEnv`; frames [stack, height, width].

    What EnvPool does otherwise is put right here: a life's first observation repeats its first frame (EnvPool
    keeps the frames of the life before), and an end that falls on the time limit is a termination. A new life
    begins by EnvPool's own reset in `step`, sent to the ended rows only: its `reset` would start a new game.
    Left as it is: the last picture of a game that ends in the first half of a frame skip is the step's before.
    """

    def __init__(self, pool_id: str, num_envs: int, seed: int | None = None, **kwargs: Any):
        """`kwargs` are EnvPool's own options. `max_episode_steps` counts over the lives of a game."""
        import envpool

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = envpool.make_spec(pool_id, **kwargs)
        config, actions = theirs.config, theirs.gymnasium_action_space.n
        self._frames, self._life_ends = config.stack_num, config.episodic_life
        shape = (self._frames, config.img_height, config.img_width)
        spec = Spec(
            spaces.Box(0, 255, shape, np.uint8),
            spaces.Discrete(actions),
            config.max_episode_steps,
            frame_stack=self._frames,
        )
        self._set_up(pool_id, spec, num_envs, seed, kwargs)

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[np.ndarray, None]:
        """Start a new game everywhere; return (obs [N, stack, height, width], None)."""
        self._age, self._lives = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        return super().reset(seeds)

    def _read(self, obs: np.ndarray, terminated: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        self._age += 1
        for i in np.flatnonzero(self._age < self._frames - 1):
            first = self._frames - 1 - self._age[i]  # where the episode's first frame stands
            obs[i, :first] = obs[i, first]
        lives, over = info["lives"], info["terminated"].astype(bool)
        lost = (lives > 0) & (lives < self._lives) & self._life_ends
        self._lives = lives.copy()
        return terminated | over | lost

    def _restart(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        obs, *_, info = self.envs.step(np.zeros(rows.size, np.int32), rows)
        self._age[rows], self._lives[info["env_id"]] = 0, info["lives"]
        return np.repeat(obs[:, -1:], self._frames, axis=1), info


def _threads() -> set[int]:
    """The native ids of this process's threads; empty where they cannot be had."""
    with contextlib.suppress(OSError):
        return {int(name) for name in os.listdir("/proc/self/task")}
    return set()


@functools.cache
def atari_pool_id(env_id: str) -> str | None:
    """EnvPool's id of the game of 'ALE/<Game>-v5', or None (no such game, EnvPool not installed)."""
    try:
        import envpool
    except (ImportError, OSError):
        return None
    pool_ids = {name.lower(): name for name in envpool.list_all_envs()}
    pool_id = pool_ids.get(env_id.removeprefix("ALE/").lower())  # TicTacToe3D is TicTacToe3d there
    return pool_id if pool_id and "noop_max" in envpool.make_spec(pool_id)._config_keys else None


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
