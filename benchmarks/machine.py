"""The machine a figure was measured on, and its quiet while one is timed."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE = Path(__file__).parents[1] / "runs" / "PAUSE"
"""While this file is there, and the process lives whose number it holds, `returns.py` trains nothing."""


def machine() -> str:
    """Cores and processor, e.g. '2 cores, AMD EPYC 9B14'."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While this is open, jobs of `returns.py` on this machine stand still."""
    PAUSE.parent.mkdir(exist_ok=True)
    PAUSE.write_text(str(os.getpid()))
    try:
        time.sleep(2 * LOOKS)
        yield
    finally:
        PAUSE.unlink(missing_ok=True)


LOOKS = 1.0
"""Seconds between looks at `PAUSE`."""


def paused() -> bool:
    """Whether something is being timed."""
    try:
        os.kill(int(PAUSE.read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
