"""Environments in processes of their own: for those that are slow, and for those that break.

The only module that starts processes, always with an explicit start method: a fork server that has never started JAX
(Linux) or a fresh interpreter; a forked copy of a process in which JAX runs can deadlock. Pickled is only what
multiprocessing sends to a process at its start, and the spaces that the first one sends back. From then on numbers
go through shared memory that has no name, so that none can be left behind, and pipes carry JSON; states of environments
follow it as plain data (`actrix.core.plain`).

Gymnasium's AsyncVectorEnv, which `make_vec_env` takes as well, loses tracebacks and what `close` raises, builds one
environment in the parent, waits for ever on an endless step, sends every info, and cannot replace a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper

from actrix.core.plain import from_bytes, to_bytes
from actrix.core.spaces import check_action_space, check_observation_space, mask_length
from actrix.core.types import Spec
from actrix.envs.base import Step
from actrix.envs.guard import EnvError, Guard, env_seeds, words
from actrix.envs.gymnasium import action_map, find_masks_of, own, write_row
from actrix.envs.state import whole

STEP_TIMEOUT = 60.0
"""Seconds that one step, reset or close may take unless the user says otherwise."""
START_TIMEOUT = 300.0
"""Seconds that a process may take to start and an environment to be built (a longer step timeout counts here too)."""
GRACE = 2.0
"""Seconds that a worker gets to end by itself, and again after SIGTERM."""

_OK = b"ok"
_START, _BUILD, _RESET, _STEP, _CLOSE, _IDLE, _GET, _SET = range(8)  # what a worker is doing
_CALLS = {
    _BUILD: "its constructor",
    _RESET: "reset",
    _STEP: "step",
    _CLOSE: "close",
    _GET: "get_state",
    _SET: "set_state",
}


class WorkerTraceback(Exception):
    """The traceback of an exception raised in a worker: the cause of the EnvError that names it."""

    def __init__(self, kind: str, text: str):
        super().__init__(f"\n{text}")
        self.kind = kind
        """The original exception's class."""


class ProcessEnvs:
    """N environments in `workers` processes, as a `HostEnv`; see `make_vec_env`.

    The rows are those of `GymnasiumEnvs`: every one a transition, ended rows reset at once, and the same numbers for
    the same seeds, bit for bit.

    An environment fails that raises, returns nonsense, ends its process or takes longer than `step_timeout` seconds
    for a step or reset. While fewer than `max_restarts` processes have been replaced, its process is: the open
    episodes in it are dropped (the row is not `valid`, the next one begins an episode, from a seed derived from the
    old one), `restarts` counts, and a RuntimeWarning says what happened. A row that had ended its episode before the
    failure, in the reset, is kept. Otherwise all processes are ended and an EnvError says in one sentence which
    environment, step, seed and cause; its `__cause__` is a `WorkerTraceback`.
    """

    backend = "gymnasium"
    unsupported: str | None
    """Why the environments' state cannot be saved, or None where it can (see `actrix.envs.state`)."""

    def __init__(
        self,
        build: Callable[[], gym.Env],
        num_envs: int,
        seeds: Sequence[int] | None = None,
        *,
        workers: int | None = None,
        step_timeout: float = STEP_TIMEOUT,
        max_restarts: int = 0,
        env_id: str | None = None,
        registered: Any = None,
        start_method: str | None = None,
    ):
        """`build` makes one environment and may be anything that cloudpickle can send; it never runs here.

        `workers`: processes, one for each environment if None. `seeds` serve the first reset. `registered`:
        the `EnvSpec` of an id that `build` makes and that may be registered in this process only. `start_method`:
        'forkserver' (Linux) or 'spawn'.

        Raises ValueError (bad numbers), TypeError (`build` cannot be sent), UnsupportedSpaceError, EnvError.
        """
        workers = num_envs if workers is None else workers
        check_options(num_envs, workers, step_timeout, max_restarts)
        method = start_method or ("forkserver" if sys.platform == "linux" else "spawn")
        if method not in ("forkserver", "spawn"):
            raise ValueError(f"start_method must be 'forkserver' or 'spawn', got {method!r}.")
        self.num_envs, self.env_id, self.steps, self.restarts = num_envs, env_id, 0, 0
        self.step_timeout, self.max_restarts = float(step_timeout), int(max_restarts)
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            # Imported once, by the server. Not the user's script, which might start JAX there before the fork.
            self._context.set_forkserver_preload([__name__])
        self._seeds = None if seeds is None else [int(seed) for seed in seeds]
        self._base = env_seeds(None, num_envs)  # what a restart derives its seeds from
        self._now: list[int | None] = [None] * num_envs  # the latest seed of each environment
        self._workers: list[_Worker] = []
        self._open, self._pid = True, os.getpid()
        self._broken: list[_Failure] = []  # failures that the next step or reset answers
        _ALL.add(self)
        _register_end()
        try:
            setup = self._probe(_Setup(CloudpickleWrapper((build, registered))))  # type: ignore[arg-type]
            self._setup = _pickled(setup)
            blocks = np.array_split(np.arange(num_envs), workers)
            self._workers = [self._spawn(k, rows.tolist()) for k, rows in enumerate(blocks)]
            self._recover(self._build(self._workers))
        except BaseException:
            self._shut()
            raise

    def _probe(self, setup: _Setup) -> _Setup:
        """Learn spaces, masks and time limit from an environment that a process builds and closes."""
        self._room = _Room(self._context, 1)
        self._setup = _pickled(setup)
        probe = self._spawn(0, [0])
        self._workers = [probe]
        self._stop_at(self._build(self._workers))
        try:
            if not probe.pipe.poll(GRACE):
                raise EOFError
            space, actions, masks, limit, self.unsupported = probe.pipe.recv()
        except (EOFError, OSError) as error:
            raise EnvError(f"environment 0: {probe.ending()}.") from error
        check_observation_space(space)
        check_action_space(actions)
        self._stop_at(self._call(self._workers, {"command": "close"}, self.step_timeout))
        _end(self._workers)
        size = None if masks == "none" else mask_length(actions)
        self.spec, self._to_env = Spec(space, actions, limit, size), action_map(actions)
        self._room = _Room(self._context, self.num_envs, space, actions, size)
        return dataclasses.replace(setup, observation_space=space, action_space=actions, masks=masks)

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """Start a new episode everywhere; return (obs [N, ...], mask [N, n] or None). Raises EnvError."""
        self._check_open()
        seeds, self._seeds = (self._seeds if seeds is None else seeds), None
        if seeds is not None:
            self._base = [int(seed) for seed in seeds]
            self._now = list(self._base)
        late = self._await([worker for worker in self._workers if worker.owes], self.step_timeout)
        good = [worker for worker in self._workers if not worker.failed]
        message = {"command": "reset", "seeds": None if seeds is None else self._base}
        broken, self._broken = self._broken, []
        self._recover(broken + late + self._call(good, message, self.step_timeout))
        return own(self._room.obs), None if self.spec.mask_size is None else self._room.mask.copy()

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] in policy coordinates. Raises EnvError."""
        self._check_open()
        self.steps += 1
        room = self._room
        if any(worker.owes for worker in self._workers):  # Ctrl-C broke off a call, whose episodes are lost
            self.reset()
            room.stepped[...] = False
            return self._read(np.zeros(self.num_envs, bool))
        room.action[...] = self._to_env(action)
        room.stepped[...] = False
        idle = [worker for worker in self._workers if worker.idle]
        broken, self._broken = self._broken, []
        failures = broken + self._call(idle, {"command": "step"}, self.step_timeout)
        if not failures:
            return self._read(None)
        valid = np.ones(self.num_envs, bool)
        for failure in failures:
            for i in failure.worker.rows:
                valid[i] = room.stepped[i] and (room.terminated[i] or room.truncated[i])
        self._recover(failures)
        return self._read(valid)

    def _read(self, valid: np.ndarray | None) -> Step:
        """The step that stands in shared memory. A row that is not valid only shows the new episode's start."""
        room = self._room
        terminated, reward = room.terminated.copy(), room.reward.astype(np.float32)
        truncated = room.truncated & ~terminated
        if valid is not None:
            terminated, truncated = terminated & valid, truncated & valid
            reward = np.where(valid, reward, np.float32(0))
        obs = next_obs = own(room.next_obs)
        mask = next_mask = None if self.spec.mask_size is None else room.next_mask.copy()
        new = terminated | truncated if valid is None else terminated | truncated | ~valid
        if np.count_nonzero(new):
            obs = _with_rows(next_obs, new, room.obs)
            mask = None if mask is None else _with_rows(mask, new, room.mask)
        if valid is not None:  # what stands there may be half written
            next_obs = _with_rows(next_obs, ~valid, room.obs)
            next_mask = None if next_mask is None else _with_rows(next_mask, ~valid, room.mask)
        return Step(obs, next_obs, reward, terminated, truncated, valid, mask, next_mask)

    def get_state(self) -> dict[str, Any] | None:
        """Everything that the next steps depend on, as plain data; None where it cannot be had, or was broken off.

        An environment fails whose own `get_state` raises, takes longer than `step_timeout` or gives anything but plain
        data: EnvError, or None where `max_restarts` allows that its process is replaced in the next step.
        """
        if self.unsupported or not self._open or not all(worker.idle for worker in self._workers):
            return None
        failures = self._call(self._workers, {"command": "get"}, self.step_timeout)
        if self.restarts + len(failures) > self.max_restarts:
            self._stop_at(failures)
        self._broken = failures
        if failures:
            return None
        envs: dict[int, Any] = {}
        for worker in self._workers:
            envs |= zip(worker.rows, from_bytes(worker.answer), strict=True)
            worker.answer = b""
        seeds = {"base": self._base, "now": self._now, "restarts": self.restarts}
        return {"steps": self.steps, "envs": [envs[i] for i in range(self.num_envs)], **seeds}

    def set_state(self, saved: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; EnvError where that was of other environments, which are then closed."""
        self._check_open()
        lists = [saved[name] for name in ("envs", "base", "now")]
        if any(type(x) is not list or len(x) != self.num_envs for x in lists):
            raise EnvError(f"the saved state is not that of {self.num_envs} environments in processes.")
        steps, restarts, (envs, base, now) = saved["steps"], saved["restarts"], lists
        if any(type(x) is not int for x in (steps, restarts, *base)) or any(
            type(x) not in (int, type(None)) for x in now
        ):
            raise EnvError(f"the saved state has steps {steps!r:.80}, seeds {base!r:.80} and {now!r:.80}.")
        parts = [to_bytes([envs[i] for i in worker.rows]) for worker in self._workers]
        self._stop_at(self._call(self._workers, {"command": "set"}, self.step_timeout, parts))
        self.steps, self.restarts, self._base, self._now, self._seeds = steps, restarts, base, now, None

    def close(self) -> None:
        """Close the environments and end all processes, by force those that do not end by themselves.

        Takes at most `step_timeout` and a few seconds. Raises EnvError, when all are gone, where an environment's
        `close` raised or took longer.
        """
        if not self._open:
            return
        try:
            idle = [worker for worker in self._workers if worker.idle]
            failures = self._call(idle, {"command": "close"}, self.step_timeout)
        finally:
            self._shut()
        self._stop_at(failures)

    def __del__(self) -> None:
        if getattr(self, "_open", False) and self._pid == os.getpid():  # a forked copy has no children
            self._shut()

    def _shut(self) -> None:
        self._open = False
        _end(self._workers)

    def _check_open(self) -> None:
        if not self._open:
            raise EnvError("these environments are closed: close() did it, or an error.")

    # ------------------------------------------------------------------------------------ processes

    def _spawn(self, number: int, rows: list[int]) -> _Worker:
        ours, theirs = self._context.Pipe()
        # No daemon, which could have no processes of its own; `_end_all` ends what nobody closed.
        process = self._context.Process(target=_work, args=(theirs, self._room, number, rows, self.steps))
        self._room.at[number], self._room.doing[number] = -1, _START
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        return _Worker(number, rows, process, ours, busy=True)

    def _build(self, workers: Sequence[_Worker]) -> list[_Failure]:
        """Let new workers build their environments; which failed."""
        limit = max(START_TIMEOUT, self.step_timeout)
        failures = self._await(workers, limit)  # they are there: a large message will not block
        return failures + self._call([w for w in workers if not w.failed], self._setup, limit)

    def _recover(self, failures: list[_Failure]) -> None:
        """Replace workers that failed and start new episodes there; EnvError where the budget is spent."""
        said = []
        while failures:
            if self.restarts + len(failures) > self.max_restarts:
                self._stop_at(failures)
            _end([failure.worker for failure in failures])
            fresh = []
            for worker, sentence, *_ in failures:
                self.restarts += 1
                count = f"restart {self.restarts} of {self.max_restarts}"
                said.append(f"{sentence} Its process was replaced and the episode dropped ({count}).")
                for i in worker.rows:
                    stream = np.random.SeedSequence([self._base[i], i, self.restarts])
                    self._now[i] = int(stream.generate_state(1)[0] >> 1)
                self._workers[worker.number] = self._spawn(worker.number, worker.rows)
                fresh.append(self._workers[worker.number])
            failures = self._build(fresh)
            message = {"command": "reset", "seeds": self._now}
            failures += self._call([w for w in fresh if not w.failed], message, self.step_timeout)
        for sentence in said:
            warnings.warn(sentence, RuntimeWarning, stacklevel=3)

    def _stop_at(self, failures: list[_Failure]) -> None:
        """End everything and raise the first failure, if there is one."""
        if not failures:
            return
        self._shut()
        _, sentence, kind, text = failures[0]
        if self.restarts:
            sentence += f" ({self.restarts} of {self.max_restarts} restarts were used.)"
        raise EnvError(sentence) from (WorkerTraceback(kind, text) if text else None)

    def _call(
        self,
        workers: Sequence[_Worker],
        message: dict[str, Any] | bytes,
        limit: float,
        parts: Sequence[bytes] | None = None,
    ) -> list[_Failure]:
        """Send a message, and each worker its part behind it; wait for the answers."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        for k, worker in enumerate(workers):
            worker.busy = True
            with contextlib.suppress(OSError):  # it is gone, as its answer will show
                worker.pipe.send_bytes(data)
                if parts is not None:
                    worker.pipe.send_bytes(parts[k])
        return self._await(workers, limit)

    def _await(self, workers: Sequence[_Worker], limit: float) -> list[_Failure]:
        """Wait until each has answered or failed: at most `limit` seconds for the turn of each environment."""
        sent, since = time.monotonic(), self._room.since  # the clock is one for all processes
        due = lambda worker: max(sent, since[worker.number]) + limit
        failures = [self._read_answer(worker) for worker in workers if worker.pipe.closed]
        waiting = {worker.pipe: worker for worker in workers if not worker.pipe.closed}
        while waiting:
            left = min(map(due, waiting.values())) - time.monotonic()
            ready: list[Any] = connection.wait(list(waiting), min(max(left, 0), 3600))
            for pipe in ready:
                failures.append(self._read_answer(waiting.pop(pipe)))
            if not ready:
                late = [worker for worker in waiting.values() if due(worker) <= time.monotonic()]
                for worker in late:
                    failures.append(self._too_late(waiting.pop(worker.pipe).fail(), limit))
        return [failure for failure in failures if failure is not None]

    def _read_answer(self, worker: _Worker) -> _Failure | None:
        """What went wrong according to the answer that is there, or None."""
        try:
            answer = worker.pipe.recv_bytes()
            if answer.startswith(_OK):
                worker.busy, worker.answer = False, answer[len(_OK) :]
                return None
            told = json.loads(answer)
            worker.leaving = True
            return _Failure(worker.fail(), told["sentence"], told["kind"], told["traceback"])
        except (EOFError, OSError):
            reason = worker.ending()
        except (ValueError, KeyError, TypeError):
            reason = "what its worker sent cannot be read"
        hint = ""
        if self._room.doing[worker.number] == _START:
            hint = ' at its start; what it printed stands above (a script needs `if __name__ == "__main__":`)'
        return _Failure(worker.fail(), f"{self._where(worker)}: {reason}{hint}.")

    def _too_late(self, worker: _Worker, limit: float) -> _Failure:
        what = (
            f"{_CALLS.get(int(self._room.doing[worker.number]), 'the answer of its worker')} took longer than"
        )
        return _Failure(worker, f"{self._where(worker)}: {what} {limit:g} s and its worker was killed.")

    def _where(self, worker: _Worker) -> str:
        """The environment whose turn it was; all of the worker's if it was none's."""
        at = int(self._room.at[worker.number])
        if at < 0 and len(worker.rows) > 1:
            return f"environments {worker.rows[0]} to {worker.rows[-1]} at step {self.steps}"
        at = worker.rows[0] if at < 0 else at
        seed = "" if self._now[at] is None else f" (seed {self._now[at]})"
        return f"environment {at} at step {self.steps}{seed}"


def check_options(num_envs: int, workers: int, step_timeout: float, max_restarts: int) -> None:
    """Raise ValueError, with the numbers, for options of `ProcessEnvs` that make no sense."""
    if isinstance(workers, str) or int(workers) != workers or not 1 <= workers <= num_envs:
        raise ValueError(f"workers must be a whole number from 1 to n_envs={num_envs}, got {workers!r}.")
    if not step_timeout > 0:
        raise ValueError(f"step_timeout must be a positive number of seconds, got {step_timeout}.")
    if int(max_restarts) != max_restarts or max_restarts < 0:
        raise ValueError(f"max_restarts must be a whole number of at least 0, got {max_restarts}.")


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What a worker is sent at its start; without spaces it finds them out."""

    build: Any
    """CloudpickleWrapper of (the function that makes one environment, the EnvSpec to register or None)."""
    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    masks: str = ""


def _pickled(setup: _Setup) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(setup))
    except Exception as error:
        raise TypeError(
            f"the environment cannot be sent to a process: {type(error).__name__}: {error}"
        ) from error


@dataclasses.dataclass(eq=False)
class _Worker:
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

    def fail(self) -> _Worker:
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


class _Failure(NamedTuple):
    worker: _Worker
    sentence: str
    kind: str = ""
    traceback: str = ""


def _end(workers: Sequence[_Worker]) -> None:
    """End these processes and what they started: those that are leaving get time, the others SIGTERM, all SIGKILL."""
    leaving = [worker for worker in workers if worker.leaving or not worker.busy]
    for worker in workers:
        worker.pipe.close()  # an idle one leaves
    _join(leaving, GRACE)
    for sign, seconds in ((signal.SIGTERM, 0.1), (getattr(signal, "SIGKILL", signal.SIGTERM), GRACE)):
        for worker in workers:
            _kill(worker.process, sign)
        _join(workers, seconds)


def _join(workers: Sequence[_Worker], seconds: float) -> None:
    until = time.monotonic() + seconds
    for worker in workers:
        worker.process.join(max(until - time.monotonic(), 0))


def _kill(process: Any, sign: int) -> None:
    try:
        os.killpg(process.pid, sign)  # the group that it leads: what it started, too, even after its end
    except (AttributeError, ProcessLookupError, PermissionError):  # no groups here, or not in one yet
        if process.is_alive():
            process.terminate() if sign == signal.SIGTERM else process.kill()


_ALL: weakref.WeakSet[ProcessEnvs] = weakref.WeakSet()
_REGISTERED: set[int] = set()
"""The processes in which `_end_all` is registered: this one, and those it was forked from."""


def _end_all() -> None:
    for envs in list(_ALL):
        envs.__del__()


def _register_end() -> None:
    """End at exit what nobody closed, before multiprocessing waits for it.

    Once in each process: one of multiprocessing's forgets at its start what was registered, and runs no atexit
    functions.
    """
    if os.getpid() not in _REGISTERED:
        _REGISTERED.add(os.getpid())
        Finalize(None, _end_all, exitpriority=100)


def _with_rows(tree: Any, rows: np.ndarray, source: Any) -> Any:
    """A copy of the arrays with these rows (bool [N]) of others in them."""
    if isinstance(tree, dict):
        return {key: _with_rows(part, rows, source[key]) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_with_rows(part, rows, other) for part, other in zip(tree, source, strict=True))
    tree = tree.copy()
    tree[rows] = source[rows]
    return tree


# ---------------------------------------------------------------------------------------- shared memory


class _Slot(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class _Room:
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
            "stepped": new((n,), bool),
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


# ---------------------------------------------------------------------------------------- in the worker


def _work(pipe: Any, room: _Room, number: int, rows: list[int], steps: int) -> None:
    """A worker's life: build the environments of these rows, then do what the pipe says until it ends."""
    _detach()
    hosted = _Hosted(room, number, rows, steps)
    try:
        pipe.send_bytes(_OK)
        hosted.turn(_BUILD, rows[0])
        found = hosted.build(pipe.recv())
        hosted.answer(pipe)
        if found is not None:
            pipe.send_bytes(found)
        while True:
            message = json.loads(pipe.recv_bytes())
            more = b""
            if message["command"] == "step":
                hosted.step()
            elif message["command"] == "reset":
                hosted.reset(message["seeds"])
            elif message["command"] == "get":
                more = hosted.get_state()
            elif message["command"] == "set":
                hosted.set_state(pipe.recv_bytes())
            else:
                hosted.close()
            hosted.answer(pipe, more)
    except BaseException as error:  # whatever it is, it must not end here in silence
        with contextlib.suppress(OSError):
            pipe.send_bytes(hosted.report(error))
    finally:
        while hosted.envs:
            with contextlib.suppress(BaseException):
                hosted.close()


def _detach() -> None:
    """Live as long as the parent, and no signal that is meant for it."""
    # Ctrl-C, or SIGTERM to all processes of a service: the parent decides. A handler, unlike SIG_IGN, is not inherited
    # by the programs that environments start.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(os, "setsid"):
        os.setsid()  # what the environments start is ended with them
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, or not a file
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what a dying one printed is seen
    with contextlib.suppress(AttributeError, ValueError, OSError):
        faulthandler.enable()  # a crash prints where it was
    parent: Any = multiprocessing.parent_process()
    if sys.platform == "linux":
        import fcntl

        # The pipe's end kills, by the default action of SIGIO, even where a step never lets other threads run.
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    with contextlib.suppress(AttributeError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


class _Hosted:
    """The environments of one worker."""

    def __init__(self, room: _Room, number: int, rows: list[int], steps: int):
        self.room, self.number, self.rows, self.steps = room, number, rows, steps
        self.envs: dict[int, Guard] = {}
        self.env: Guard | None = None  # whose turn it is
        self.doing, self.at, self.masks = _START, -1, "none"

    def turn(self, doing: int, at: int = -1) -> None:
        """Write down what is called next, for the case that it does not return."""
        self.doing, self.at, self.env, room = doing, at, self.envs.get(at), self.room
        room.since[self.number] = time.monotonic()
        room.doing[self.number], room.at[self.number] = doing, at

    def answer(self, pipe: Any, more: bytes = b"") -> None:
        self.turn(_IDLE)
        pipe.send_bytes(_OK + more)

    def build(self, setup: _Setup) -> bytes | None:
        """Make the environments; what the parent does not know yet of the first, pickled, or None."""
        make, registered = setup.build.fn
        if registered is not None:
            gym.registry.setdefault(registered.id, registered)
        self.masks = setup.masks
        for i in self.rows:
            self.turn(_BUILD, i)
            env = self.envs[i] = Guard(make(), i)
            env.steps = self.steps
            for name in ("observation_space", "action_space"):
                own_space, expected = getattr(env, name), getattr(setup, name)
                if expected is not None and own_space != expected:
                    raise EnvError(
                        f"environment {i}: its {name} is {own_space}; the first one's is {expected}."
                    )
        if setup.observation_space is not None:
            return None
        self.turn(_RESET, i)
        limit = env.spec.max_episode_steps if env.spec else None
        masks = find_masks_of(env)
        spaces_ = env.observation_space, env.action_space
        return bytes(ForkingPickler.dumps((*spaces_, masks, limit, whole.unsupported(env))))

    def reset(self, seeds: list[int] | None) -> None:
        for i in self.rows:
            self._reset(i, None if seeds is None else seeds[i])

    def _reset(self, i: int, seed: int | None) -> None:
        self.turn(_RESET, i)
        obs, info = self.envs[i].reset(seed=seed)
        write_row(self.room.obs, i, obs)
        if self.masks != "none":
            self.room.mask[i] = self._mask(i, info, False)

    def step(self) -> None:
        room = self.room
        for i, env in self.envs.items():
            self.turn(_STEP, i)
            obs, reward, terminated, truncated, info = env.step(room.action[i].copy())
            write_row(room.next_obs, i, obs)
            room.reward[i], room.terminated[i], room.truncated[i] = reward, terminated, truncated
            ended = bool(terminated or truncated)
            if self.masks != "none":
                room.next_mask[i] = self._mask(i, info, ended)
            room.stepped[i] = True
            if ended:
                self._reset(i, None)

    def get_state(self) -> bytes:
        out = []
        for i, env in self.envs.items():
            self.turn(_GET, i)
            out.append(whole.get_state(env))
        return to_bytes(out)

    def set_state(self, data: bytes) -> None:
        for (i, env), saved in zip(self.envs.items(), from_bytes(data), strict=True):
            self.turn(_SET, i)
            whole.set_state(env, saved)

    def close(self) -> None:
        for i in list(self.envs):
            self.turn(_CLOSE, i)
            self.envs.pop(i).close()

    def _mask(self, i: int, info: dict[str, Any], ended: bool) -> np.ndarray:
        env, size = self.envs[i], self.room.mask.shape[1]
        where = f"environment {i} at step {env.steps}"
        if self.masks == "method":
            mask = np.asarray(env.get_wrapper_attr("action_masks")())
        elif "action_mask" in info:
            mask = np.asarray(info["action_mask"])
        else:
            raise EnvError(f"{where}: info has no 'action_mask'.")
        if mask.shape != (size,):
            raise EnvError(
                f"{where}: the action mask has shape {mask.shape}; the action space {env.action_space} needs ({size},)."
            )
        mask = mask.astype(bool)
        if not mask.any():
            if not ended:
                raise EnvError(f"{where}: the action mask allows no action.")
            mask[:] = True  # no action follows
        return mask

    def report(self, error: BaseException) -> bytes:
        """What happened, as JSON: exceptions themselves may be neither picklable nor small."""
        origin = error.__cause__ if isinstance(error, EnvError) and error.__cause__ else error
        sentence = words(error)
        if not isinstance(error, EnvError):
            where, env = f"environment {self.at}", self.env
            if env is not None:
                where += f" at step {env.steps}" + ("" if env.seed is None else f" (seed {env.seed})")
            sentence = (
                f"{where}: {_CALLS.get(self.doing, 'its worker')} raised {type(error).__name__}: {sentence}"
            )
        try:
            text = "".join(traceback.format_exception(origin))
        except BaseException:
            text = "".join(traceback.format_tb(origin.__traceback__)) + type(origin).__name__
        if len(text) > 8000:
            text = f"{text[:6000]}\n[...]\n{text[-2000:]}"
        told = {"sentence": sentence, "kind": type(origin).__name__, "traceback": text}
        return json.dumps(told).encode()  # in ASCII, so that half a letter does no harm
