"""The machine a figure was measured on, and its quiet while one is timed."""

from __future__ import annotations

import collections
import contextlib
import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import record

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
    """While this is open, jobs of `returns.py` on this machine stand still. Ends where something is timed already."""
    if paused():
        record.refuse(f"process {PAUSE.read_text()} is timing something, as {PAUSE} says: one at a time.")
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


def family(pid: int) -> dict[int, float]:
    """A process and all that came of it, parents first, with the processor seconds of each and of the children that it
    has waited for; where there is no /proc, itself alone."""
    seconds, children = {pid: 0.0}, collections.defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = file.read_text().partition(" ")
        except OSError:  # it has ended
            continue
        fields = rest.rpartition(")")[2].split()  # a program's name may have blanks
        children[int(fields[1])].append(int(number))
        seconds[int(number)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    found, waiting = {}, [pid]
    while waiting:
        one = waiting.pop()
        found[one] = seconds.get(one, 0.0)
        waiting += children[one]
    return found


def tell(pid: int, what: signal.Signals) -> None:
    """Send a signal to a process and to all that came of it, also those that have a session of their own."""
    for one in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, what)
