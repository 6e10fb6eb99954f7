"""Gymnasium environments side by side, one row each, and infos by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array

from actrix.envs.masks import mask_infos, mask_of, size_of


class RowVectorEnv(SyncVectorEnv):
    """`SyncVectorEnv` without what a step here has no use for: about two thirds of its cost for one CartPole.

    Autoreset is DISABLED. The infos are `{"action_mask": [N]}` (None where an environment gave none), or {}; the arrays
    returned are written again by the next step or reset.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]):
        super().__init__(env_fns, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        rows = (np.empty(self.num_envs, dtype) for dtype in (np.float64, bool, bool))
        self._row: Any = (create_empty_array(self.single_observation_space, self.num_envs), *rows)
        self._size = size_of(self.single_action_space)
        self.infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        """What each environment's last step said."""
        self.reset_infos = list(self.infos)
        """And its last reset."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments of `options["reset_mask"]`, or all, with one seed each."""
        seeds = [None] * self.num_envs if seed is None else seed
        which = np.ones(self.num_envs, bool) if not options else options["reset_mask"]
        masks: list = [None] * self.num_envs
        for i, (env, one, due) in enumerate(list(zip(self.envs, seeds, which, strict=True))):
            if due:
                obs, info = env.reset(seed=one)
                write_row(self._row[0], i, obs)
                self.reset_infos[i], masks[i] = info, mask_of(info, self._size)
        return self._row[0], mask_infos(masks)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of each environment."""
        observations, reward, terminated, truncated = self._row
        masks = []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, reward[i], terminated[i], truncated[i], info = env.step(action)
            self.infos[i] = info
            write_row(observations, i, obs)
            masks.append(mask_of(info, self._size))
        return *self._row, mask_infos(masks)


def listed(infos: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """A vector environment's infos (`{key: [N]}` with masks `_key`) as one dict for each environment."""
    out: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, values in infos.items():
        if isinstance(values, dict):
            for row, part in zip(out, listed(values, n), strict=True):
                if part:
                    row[key] = part
        elif not (key.startswith("_") and key[1:] in infos) and _is_column(values, n):
            told = infos.get(f"_{key}", [True] * n)
            for row, value, here in zip(out, values, told, strict=True):
                if here and value is not None:
                    row[key] = value
    return out


def _is_column(values: Any, n: int) -> bool:
    return (isinstance(values, list | tuple) or np.ndim(values) > 0) and len(values) == n


def gathered(rows: Sequence[Any]) -> dict[str, Any]:
    """Infos of each environment (a dict or None) by key, None where one has none of it; the inverse of `listed`."""
    out: dict[str, Any] = {}
    for i, row in enumerate(rows):
        for key, value in (row or {}).items():
            out.setdefault(key, np.full(len(rows), None, object))[i] = value
    return out


def write_row(arrays: Any, i: int, obs: Any) -> None:
    """Put one environment's observation into row i of a batch of them."""
    if isinstance(arrays, dict):
        for key, part in arrays.items():
            write_row(part, i, obs[key])
    elif isinstance(arrays, tuple):
        for part, value in zip(arrays, obs, strict=True):
            write_row(part, i, value)
    else:
        arrays[i] = obs
