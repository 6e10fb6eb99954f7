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

SHORTEST = 64
"""Steps of a chunk, from which on it is worth asking."""
AGAIN = 32
"""One chunk in so many is collected the other way, as the machine may have become another."""


class OneCore:
    """Collects chunks on one core or on all, whichever took less time; both are tried."""

    def __init__(self) -> None:
        self._took: dict[bool, float] = {}
        """Seconds of a step on one core (True), and on all."""
        self._chunks = 0

    @contextlib.contextmanager
    def during(self, threads: Sequence[int], rows: int) -> Iterator[None]:
        """Around a chunk of so many rows, that this thread collects from an environment of those native threads."""
        if not threads or rows < SHORTEST or not (allowed := _allowed()):
            yield
            return
        one, began = self._one(), time.perf_counter()
        if one:
            _put([0, *threads], {_core(allowed)})
        try:
            yield
        finally:
            if one:
                _put([0, *threads], allowed)
        if self._chunks > 1:  # the first one compiles
            took = (time.perf_counter() - began) / rows
            self._took[one] = (took + self._took.get(one, took)) / 2

    def _one(self) -> bool:
        self._chunks += 1
        if self._chunks < 6:  # all: the first, the third and the fifth
            return self._chunks % 2 == 0
        return (self._took[True] < self._took[False]) != (self._chunks % AGAIN == 0)


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
