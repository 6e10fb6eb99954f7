"""A worker process as its parent sees it: what it is sent and asked, how it ended, and how it is ended."""

from __future__ import annotations

import dataclasses
import multiprocessing
import numbers
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from gymnasium import spaces

STEP_TIMEOUT = 60.0
"""Seconds that one step, reset or close may take unless the user says otherwise."""
GRACE = 2.0
"""Seconds that a worker gets to end by itself, and again after SIGTERM."""

OK = b"ok"
START, BUILD, RESET, STEP, CLOSE, IDLE, GET, SET = range(8)  # what a worker is doing
CALLS = {
    BUILD: "its constructor",
    RESET: "reset",
    STEP: "step",
    CLOSE: "close",
    GET: "get_state",
    SET: "set_state",
}


class WorkerTraceback(Exception):
    """The traceback of an exception raised in a worker: the cause of the EnvError that names it."""

    def __init__(self, kind: str, text: str):
        super().__init__(f"\n{text}")
        self.kind = kind
        """The original exception's class."""


def check_options(num_envs: int, workers: int, step_timeout: float, max_restarts: int) -> None:
    """Raise ValueError, with the numbers, for options of `ProcessEnvs` that make no sense."""
    if isinstance(workers, str) or int(workers) != workers or not 1 <= workers <= num_envs:
        raise ValueError(f"workers must be a whole number from 1 to n_envs={num_envs}, got {workers!r}.")
    check_timeout(step_timeout)
    if int(max_restarts) != max_restarts or max_restarts < 0:
        raise ValueError(f"max_restarts must be a whole number of at least 0, got {max_restarts}.")


def check_timeout(step_timeout: Any) -> None:
    """ValueError for what is no positive number of seconds."""
    known = isinstance(step_timeout, numbers.Real) and not isinstance(step_timeout, bool)
    if not known or not step_timeout > 0:  # NaN is none either
        raise ValueError(f"step_timeout={step_timeout!r} must be a positive number of seconds.")


def check_start_method(name: str) -> None:
    """ValueError, in multiprocessing's words, where this system starts no processes so."""
    known = multiprocessing.get_all_start_methods()
    if name not in known:
        raise ValueError(f"cannot find context for {name!r} (start_method): take one of {', '.join(known)}.")


def context_of(start_method: str | None) -> Any:
    """multiprocessing's, of 'forkserver' (the default on Linux) or 'spawn'."""
    method = start_method or ("forkserver" if sys.platform == "linux" else "spawn")
    if method not in ("forkserver", "spawn"):
        raise ValueError(f"start_method must be 'forkserver' or 'spawn', got {method!r}.")
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        # Imported once, by the server. Not the user's script, which might start JAX there before the fork.
        context.set_forkserver_preload([f"{__package__}.child"])
    return context


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a worker is sent at its start; without spaces it finds them out."""

    build: Any
    """CloudpickleWrapper of (the function that makes one environment, the EnvSpec to register or None)."""
    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    masks: str = ""


def pickled(setup: Setup) -> bytes:
    """As multiprocessing sends it; TypeError where it cannot be."""
    try:
        return bytes(ForkingPickler.dumps(setup))
    except Exception as error:
        raise TypeError(
            f"the environment cannot be sent to a process: {type(error).__name__}: {error}"
        ) from error


@dataclasses.dataclass(eq=False)
class Worker:
    """A process as its parent sees it."""

    number: int
    rows: list[int]
    process: Any
    pipe: Any
    busy: bool = False
    """A message has not been answered."""
    failed: bool = False
    answer: bytes = b""
    """What stood behind its latest "ok"."""
    leaving: bool = False
    """It said what went wrong, and is closing its environments."""

    @property
    def idle(self) -> bool:
        """It waits for a message."""
        return not (self.busy or self.failed)

    @property
    def owes(self) -> bool:
        """Its answer may still come."""
        return self.busy and not self.failed

    def fail(self) -> Worker:
        """It answers no more."""
        self.failed = True
        return self

    def ending(self) -> str:
        """How it ended, now that its pipe has."""
        self.process.join(GRACE)  # the pipe ends a little before
        code = self.process.exitcode
        if code is None:
            return "its worker closed its pipe and was killed"
        if code >= 0:
            return f"its worker ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        more = {"SIGKILL": " (is memory short?)", "SIGSEGV": " (a segmentation fault)"}.get(name, "")
        return f"its worker was killed by {name}{more}"


class Failure(NamedTuple):
    """What went wrong, in a sentence, and where the environment raised it."""

    worker: Worker
    sentence: str
    kind: str = ""
    traceback: str = ""


def end(workers: Sequence[Worker]) -> None:
    """End these processes and what they started: those that are leaving get time, the others SIGTERM, all SIGKILL."""
    leaving = [worker for worker in workers if worker.leaving or not worker.busy]
    for worker in workers:
        worker.pipe.close()  # an idle one leaves
    _join(leaving, GRACE)
    for sign, seconds in ((signal.SIGTERM, 0.1), (getattr(signal, "SIGKILL", signal.SIGTERM), GRACE)):
        for worker in workers:
            _kill(worker.process, sign)
        _join(workers, seconds)


def _join(workers: Sequence[Worker], seconds: float) -> None:
    until = time.monotonic() + seconds
    for worker in workers:
        worker.process.join(max(until - time.monotonic(), 0))


def _kill(process: Any, sign: int) -> None:
    try:
        os.killpg(process.pid, sign)  # the group that it leads: what it started, too, even after its end
    except (AttributeError, ProcessLookupError, PermissionError):  # no groups here, or not in one yet
        if process.is_alive():
            process.terminate() if sign == signal.SIGTERM else process.kill()
