"""`VecTransposeImage`: environments whose images are shown with the channels first, as PyTorch's networks want them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import channels_last, is_image
from actrix.envs.base import HostEnv, Step
from actrix.envs.make import as_host_env
from actrix.envs.vec.around import Around
from actrix.envs.vec.names import is_vecenv_wrapped
from actrix.envs.vec.vecenv import VecEnv


class ChannelsFirst(Around):
    """A `HostEnv` around another, whose images have their channels first; nothing is copied."""

    env_id = None  # an id alone makes them as they are
    unsupported = "the state of VecTransposeImage is not saved"

    def __init__(self, host: HostEnv):
        super().__init__(host)
        self.spec = dataclasses.replace(host.spec, observation_space=_space(host.spec.observation_space))

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """As the environments'."""
        obs, mask = self.inner.reset(seeds)
        return self._first(obs), mask

    def step(self, action: np.ndarray) -> Step:
        """As the environments'."""
        step = self.inner.step(action)
        obs = self._first(step.obs)
        same = step.next_obs is step.obs
        return step._replace(obs=obs, next_obs=obs if same else self._first(step.next_obs))

    def _first(self, obs: Any) -> Any:
        return moved(self.inner.spec.observation_space, obs)


def moved(space: gym.Space, obs: Any) -> Any:
    """A batch of observations `[N, …]` with the channels of its images first."""
    if isinstance(space, spaces.Dict):
        return {key: moved(part, obs[key]) for key, part in space.spaces.items()}
    return np.moveaxis(obs, -1, 1) if channels_last(space) else obs


def _space(space: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _space(part) for key, part in space.spaces.items()})
    if not channels_last(space):
        return space
    low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=space.dtype.type)


class VecTransposeImage(VecEnv):
    """Environments that show images with the channels first; where they are so already, or with `skip`, as they are.

    It is for scripts that look at observations: a network here takes images either way, so a model trains on what is
    inside, and `predict` takes both. ValueError where nothing is an image.
    """

    def __init__(self, venv: Any, skip: bool = False):
        host = as_host_env(venv)
        space = host.spec.observation_space
        super().__init__(host if skip else ChannelsFirst(host), getattr(venv, "trained", None) or host)
        self.venv, self.skip = venv, skip
        if not skip and not has_images(space):
            raise ValueError(f"VecTransposeImage: the observations are {space}, without an image.")


def has_images(space: gym.Space, last: bool = False) -> bool:
    """Whether it is an image or a Dict with one (`last`: with the channels last)."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(channels_last(part) or (not last and is_image(part)) for part in parts)


def as_shown(env: VecEnv | None) -> VecEnv | None:
    """What a model's `get_env` shows of `env`: images with the channels first, as Stable-Baselines3's models do."""
    if (
        env is None
        or not has_images(env.observation_space, last=True)
        or is_vecenv_wrapped(env, VecTransposeImage)
    ):
        return env
    return VecTransposeImage(env)
