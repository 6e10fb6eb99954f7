"""Action masks of Gymnasium environments: where they come from, and how they are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv, VectorWrapper

from actrix.core.spaces import mask_length, to_env_action
from actrix.envs.guard import EnvError


def find_masks(envs: VectorEnv) -> str:
    """Where masks come from: 'method' (or an attribute), 'info' or 'none'. May reset the environments."""
    if isinstance(envs.single_action_space, spaces.Box):
        return "none"
    if mask_reader(envs) is not None:
        return "method"
    return "info" if has_mask(envs.reset(), envs.single_action_space, told_rows) else "none"


def mask_reader(envs: VectorEnv) -> Callable[[], Any] | None:
    """How the masks of all environments are asked for now: `action_masks`, a method or an attribute.

    It may stand at a wrapper, at the vector environment, at its environments, or at those in processes. None without.
    """
    level: Any = envs
    while True:
        if stands_at(level, "action_masks"):
            return lambda: value_of(level.action_masks)
        if not isinstance(level, VectorWrapper):
            break
        level = level.env
    if isinstance(level, AsyncVectorEnv):
        # Not for the mask itself: asking a process for what its environment lacks kills it.
        ask = lambda: level.call("has_wrapper_attr", "action_masks")
        has = ask()
        # A property may need an episode before it is one.
        if not all(has):
            level.reset()
            has = ask()
        return (lambda: level.call("action_masks")) if _all_or_none(has) else None
    inner = getattr(level, "envs", None)
    if not isinstance(inner, list | tuple) or not all(isinstance(env, gym.Env) for env in inner):
        return None
    return (lambda: [masks_now(env) for env in inner]) if _all_or_none(list(map(_has_masks, inner))) else None


def _all_or_none(have: Sequence[bool]) -> bool:
    """Whether the environments have `action_masks`; EnvError where some have and some have not."""
    if any(have) and not all(have):
        raise EnvError(
            f"environment {list(have).index(False)} has no action_masks, and environment {list(have).index(True)} has: "
            "give all of them masks in the same way."
        )
    return all(have)


def find_masks_of(env: gym.Env) -> str:
    """The same for one environment, which is reset where it has no `action_masks`."""
    if isinstance(env.action_space, spaces.Box):
        return "none"
    if _has_masks(env):
        return "method"
    return "info" if has_mask(env.reset(), env.action_space) else "none"


def _has_masks(env: gym.Env) -> bool:
    level: Any = env
    while isinstance(level, gym.Wrapper) and not stands_at(level, "action_masks"):
        level = level.env
    return stands_at(level, "action_masks") or env.has_wrapper_attr("action_masks")


def stands_at(level: Any, name: str) -> bool:
    """Whether it has this attribute; a property is not asked, since it may raise before the first reset."""
    return inspect.getattr_static(level, name, None) is not None


def masks_now(env: gym.Env) -> Any:
    """The mask that one environment's `action_masks` gives."""
    return value_of(env.get_wrapper_attr("action_masks"))


def value_of(masks: Any) -> Any:
    """What a method returns, or an attribute is."""
    return masks() if callable(masks) else masks


def size_of(space: gym.Space) -> int | None:
    """The length of masks of these actions; None where there can be none."""
    maskable = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    return mask_length(space) if maskable else None


def told(info: dict[str, Any], size: int | None) -> Any:
    """The mask in an environment's info: "action_mask", or "action_masks" where that has a mask's shape; else None."""
    return _told(info, size, lambda mask: [mask])


def told_rows(infos: dict[str, Any], size: int | None) -> Any:
    """The same in a vector environment's infos: a mask for each row, or None."""
    return _told(infos, size, lambda masks: masks)


def _told(infos: dict[str, Any], size: int | None, rows: Callable[[Any], Any]) -> Any:
    found = infos.get("action_mask")
    if found is not None or "action_masks" not in infos:
        return found
    return infos["action_masks"] if _shapes(rows(infos["action_masks"])) == {(size,)} else None


def _shapes(rows: Any) -> set[tuple[int, ...]]:
    try:
        return {np.shape(row) for row in rows if row is not None}
    except (TypeError, ValueError):  # something else of that name
        return set()


def has_mask(reset: Any, space: gym.Space, read: Callable[[dict[str, Any], int | None], Any] = told) -> bool:
    """Whether what `reset` returned has a mask in its info, or infos (a dict that is `read`, or a list of infos)."""
    infos = reset[1] if isinstance(reset, tuple) and len(reset) == 2 else None
    several = isinstance(infos, list | tuple)
    size, read = size_of(space), told if several else read
    rows = [row for row in (infos if several else [infos]) if isinstance(row, dict)]  # type: ignore[union-attr]
    return any("action_mask" in row or read(row, size) is not None for row in rows)


class MaskKeeper(gym.Wrapper):
    """Remembers the legal actions of the current state in `mask` (flat bool, None where there are no masks)."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._source = find_masks_of(env)
        self.mask: np.ndarray | None = None
        self.mask_size = None if self._source == "none" else mask_length(env.action_space)

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
        return sample_legal(self.action_space, self.mask)

    def _note(self, info: dict[str, Any]) -> None:
        if self._source == "none":
            return
        found = masks_now(self) if self._source == "method" else told(info, self.mask_size)
        self.mask = np.asarray(found, bool).reshape(-1)


def sample_legal(space: Any, mask: np.ndarray | None) -> Any:
    """A uniformly random action of the space's own stream that a flat mask allows (None: all)."""
    if mask is None:
        return space.sample()
    if isinstance(space, spaces.Discrete):
        return space.sample(mask=mask.astype(np.int8))
    ends = np.cumsum(space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * int(space.n))
    legal = [np.flatnonzero(part) for part in np.split(mask, ends[:-1])]
    drawn = np.array([space.np_random.choice(part) for part in legal], space.dtype)
    return to_env_action(space, drawn)


def mask_of(info: dict[str, Any], size: int | None) -> np.ndarray | None:
    """A copy: environments may share the array, or write to it again."""
    mask = told(info, size)
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
