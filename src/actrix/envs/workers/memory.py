"""Numbers shared between the processes."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces


def with_rows(tree: Any, rows: np.ndarray, source: Any) -> Any:
    """A copy of the arrays with these rows (bool [N]) of others in them."""
    if isinstance(tree, dict):
        return {key: with_rows(part, rows, source[key]) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(with_rows(part, rows, other) for part, other in zip(tree, source, strict=True))
    tree = tree.copy()
    tree[rows] = source[rows]
    return tree


class _Slot(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class Room:
    """Arrays [N, ...] in one block of shared memory, which has no name and goes with the last process that maps it."""

    at: np.ndarray
    """[workers] the environment whose turn it is, or -1"""
    doing: np.ndarray
    """[workers] what it is asked to do"""
    since: np.ndarray
    """[workers] since when, by time.monotonic"""
    action: np.ndarray
    next_obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_mask: np.ndarray
    stepped: np.ndarray
    """[N] this step's row is complete"""
    success: np.ndarray
    """[N] "is_success" of an episode that ended with it; NaN for all else"""
    obs: Any
    """The first observations of the latest episodes"""
    mask: np.ndarray

    def __init__(
        self,
        context: Any,
        num_envs: int,
        space: Any = None,
        actions: Any = None,
        mask_size: int | None = None,
    ):
        self._size = 0
        n, new = num_envs, self._slot
        self._slots: dict[str, Any] = {
            "at": new((n,), np.int64), "doing": new((n,), np.int64), "since": new((n,), np.float64),
            "reward": new((n,), np.float64), "terminated": new((n,), bool), "truncated": new((n,), bool),
            "stepped": new((n,), bool), "success": new((n,), np.float64),
        }  # fmt: skip
        if space is not None:
            self._slots |= {name: self._slots_of(space, n) for name in ("obs", "next_obs")}
            self._slots |= {name: new((n, mask_size or 0), bool) for name in ("mask", "next_mask")}
            self._slots["action"] = new((n, *actions.shape), actions.dtype)
        self._memory = context.RawArray(ctypes.c_byte, self._size)
        self._map()

    def _slot(self, shape: tuple[int, ...], dtype: Any) -> _Slot:
        slot = _Slot(self._size, shape, np.dtype(dtype))
        self._size += -(-math.prod(shape) * slot.dtype.itemsize // 64) * 64
        return slot

    def _slots_of(self, space: Any, num_envs: int) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._slots_of(part, num_envs) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._slots_of(part, num_envs) for part in space.spaces)
        return self._slot((num_envs, *space.shape), space.dtype)

    def _map(self) -> None:
        for name, slots in self._slots.items():
            setattr(self, name, self._arrays(slots))

    def _arrays(self, slots: Any) -> Any:
        if isinstance(slots, dict):
            return {key: self._arrays(part) for key, part in slots.items()}
        if isinstance(slots, _Slot):
            return np.ndarray(slots.shape, slots.dtype, self._memory, slots.offset)
        return tuple(map(self._arrays, slots))

    def __getstate__(self) -> tuple[Any, ...]:
        return self._slots, self._memory

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._slots, self._memory = state
        self._map()
