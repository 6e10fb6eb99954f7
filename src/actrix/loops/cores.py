"""The threads of an environment and the one that steps them on one core, where that is seen to be faster.

To wake a thread on another core takes 30 to 100 µs (in a virtual machine, or where idle cores sleep), on the same core
a few: with cheap environments that is longer than what a second core gains. What is computed does not depend on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator, Sequence

SHORTEST, MOST = 64, 4
"""Steps of a chunk from which on it is worth asking, and the most threads: the one chunk that is tried on one core may
take as many times as long as there are threads."""
COMPILING = 2
"""Chunks beside which something compiles: the acting in the first; in the second the learning, where it is collected
meanwhile (`behind`)."""


class OneCore:
    """Collects chunks on one core or on all, whichever took less time when both were tried: after `COMPILING` chunks
    one on one core, and one on all."""

    def __init__(self) -> None:
        self._took: list[float] = []
        """Seconds of a step in each chunk so far."""

    @contextlib.contextmanager
    def during(self, threads: Sequence[int], rows: int) -> Iterator[None]:
        """Around a chunk of so many rows, that this thread collects from an environment of those native threads."""
        if not 0 < len(threads) <= MOST or rows < SHORTEST or not (allowed := _allowed()):
            yield
            return
        one, began = self._one(), time.perf_counter()
        try:
            if one:
                _put([0, *threads], {_core(allowed)})
            yield
        finally:
            if one:
                _put([0, *threads], allowed)
        if len(self._took) < COMPILING + 2:
            self._took.append((time.perf_counter() - began) / rows)

    def _one(self) -> bool:
        tried = len(self._took)
        return tried == COMPILING or (tried == COMPILING + 2 and self._took[-2] < self._took[-1])


def _allowed() -> set[int]:
    """The cores that this thread may use, where that can be set and there are several."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    return cores if len(cores) > 1 else set()


def _core(allowed: set[int]) -> int:
    """The one that this thread runs on."""
    try:
        core = ctypes.CDLL(None).sched_getcpu()
    except (OSError, AttributeError):
        core = -1
    return core if core in allowed else min(allowed)


def _put(threads: Sequence[int], cores: set[int]) -> None:
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, cores)
