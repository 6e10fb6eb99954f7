"""Action masks of Gymnasium environments: where they come from, and how they are kept."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv


def find_masks(envs: VectorEnv) -> str:
    """Where masks come from: 'method' (of the environments), 'vector' (of the vector environment, for all of them at
    once), 'info' or 'none'. Resets the first environment (all where it cannot).

    Of AsyncVectorEnv one more environment is made to look at: asking a worker for a method it lacks kills it.
    """
    if isinstance(envs.single_action_space, spaces.Box):
        return "none"
    base: Any = envs.unwrapped
    if isinstance(base, SyncVectorEnv):
        return find_masks_of(base.envs[0])
    if isinstance(base, AsyncVectorEnv):
        one = base.env_fns[0]()
        try:
            return find_masks_of(one)
        finally:
            one.close()
    if any(hasattr(env, "action_masks") for env in (envs, base)):
        return "vector"
    result = envs.reset()
    infos = result[1] if isinstance(result, tuple) and len(result) == 2 else {}
    return "info" if isinstance(infos, dict) and "action_mask" in infos else "none"


def vector_masks(envs: VectorEnv) -> Any:
    """The masks `[N, n]` that a vector environment has for all its environments, as attribute or method."""
    holder = envs if hasattr(envs, "action_masks") else envs.unwrapped
    found: Any = holder.action_masks  # type: ignore[attr-defined]
    return found() if callable(found) else found


def find_masks_of(env: gym.Env) -> str:
    """The same for one environment, which is reset."""
    if isinstance(env.action_space, spaces.Box):
        return "none"
    if env.has_wrapper_attr("action_masks"):
        return "method"
    return "info" if "action_mask" in env.reset()[1] else "none"


class MaskKeeper(gym.Wrapper):
    """Remembers the legal actions of the current state in `mask` (flat bool, None where there are no masks)."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._source = find_masks_of(env)
        self.mask: np.ndarray | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._note(info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._note(info)
        return obs, reward, terminated, truncated, info

    def sample_legal(self) -> Any:
        """A uniformly random legal action."""
        space = self.action_space
        if self.mask is None:
            return space.sample()
        if isinstance(space, spaces.Discrete):
            return space.sample(mask=self.mask.astype(np.int8))
        parts = np.split(self.mask.astype(np.int8), np.cumsum(space.nvec)[:-1])  # type: ignore[attr-defined]
        return space.sample(mask=tuple(parts))

    def _note(self, info: dict[str, Any]) -> None:
        if self._source == "none":
            return
        found = info["action_mask"] if self._source == "info" else self.get_wrapper_attr("action_masks")
        found = found() if callable(found) else found
        self.mask = np.asarray(found, bool).reshape(-1)


def mask_of(info: dict[str, Any]) -> np.ndarray | None:
    """A copy: environments may share the array, or write to it again."""
    mask = info.get("action_mask")
    return None if mask is None else np.array(mask)


def mask_infos(masks: list) -> dict[str, Any]:
    """The info of a vector environment with these masks in it; without any, nothing."""
    return {} if all(mask is None for mask in masks) else {"action_mask": masks}


def with_rows(mask: np.ndarray | None, rows: np.ndarray, values: Any) -> np.ndarray | None:
    """A copy of the mask with other values in these rows; None stays None."""
    if mask is None:
        return None
    mask = mask.copy()
    mask[rows] = values
    return mask


def all_legal_if_none(mask: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """The mask `[N, n]`, all-true where an episode ended and nothing is legal."""
    return mask | (ended & ~mask.any(axis=-1))[:, None]
