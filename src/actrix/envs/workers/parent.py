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
import dataclasses
import json
import os
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from actrix.core.plain import from_bytes, to_bytes
from actrix.core.spaces import check_action_space, check_observation_space, mask_length
from actrix.core.types import Spec
from actrix.envs.base import Step
from actrix.envs.guard import EnvError, env_seeds
from actrix.envs.gymnasium import action_map, own
from actrix.envs.workers.child import work
from actrix.envs.workers.memory import Room, with_rows
from actrix.envs.workers.process import (
    CALLS,
    GRACE,
    OK,
    START,
    STEP_TIMEOUT,
    Failure,
    Setup,
    Worker,
    WorkerTraceback,
    check_options,
    context_of,
    end,
    pickled,
)

START_TIMEOUT = 300.0
"""Seconds that a process may take to start and an environment to be built (a longer step timeout counts here too)."""


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
    """Why the environments' state cannot be saved, or None where it can (see `actrix.envs.state.whole`)."""

    def __init__(
        self, build: Callable[[], gym.Env], num_envs: int, seeds: Sequence[int] | None = None, *,
        workers: int | None = None, step_timeout: float = STEP_TIMEOUT, max_restarts: int = 0,
        env_id: str | None = None, registered: Any = None, start_method: str | None = None,
    ):  # fmt: skip
        """`build` makes one environment and may be anything that cloudpickle can send; it never runs here.

        `workers`: processes, one for each environment if None. `seeds` serve the first reset. `registered`:
        the `EnvSpec` of an id that `build` makes and that may be registered in this process only. `start_method`:
        'forkserver' (Linux) or 'spawn'.

        Raises ValueError (bad numbers), TypeError (`build` cannot be sent), UnsupportedSpaceError, EnvError.
        """
        workers = num_envs if workers is None else workers
        check_options(num_envs, workers, step_timeout, max_restarts)
        self._context = context_of(start_method)
        self.num_envs, self.env_id, self.steps, self.restarts = num_envs, env_id, 0, 0
        self.step_timeout, self.max_restarts = float(step_timeout), int(max_restarts)
        self._seeds = None if seeds is None else [int(seed) for seed in seeds]
        self._base = env_seeds(None, num_envs)  # what a restart derives its seeds from
        self._now: list[int | None] = [None] * num_envs  # the latest seed of each environment
        self._workers: list[Worker] = []
        self._open, self._pid = True, os.getpid()
        self._broken: list[Failure] = []  # failures that the next step or reset answers
        _ALL.add(self)
        _register_end()
        try:
            self._start(Setup(CloudpickleWrapper((build, registered))), workers)  # type: ignore[arg-type]
        except BaseException:
            self._shut()
            raise

    def _start(self, setup: Setup, workers: int) -> None:
        self._setup = pickled(self._probe(setup))
        blocks = np.array_split(np.arange(self.num_envs), workers)
        self._workers = [self._spawn(k, rows.tolist()) for k, rows in enumerate(blocks)]
        self._recover(self._build(self._workers))

    def _probe(self, setup: Setup) -> Setup:
        """Learn spaces, masks and time limit from an environment that a process builds and closes."""
        self._room = Room(self._context, 1)
        self._setup = pickled(setup)
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
        end(self._workers)
        size = None if masks == "none" else mask_length(actions)
        self.spec, self._to_env = Spec(space, actions, limit, size), action_map(actions)
        self._room = Room(self._context, self.num_envs, space, actions, size)
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

    def infos(self) -> list[dict[str, Any]]:
        """Of what the environments told in the last step only "is_success" of an episode that ended with it."""
        return [{} if np.isnan(x) else {"is_success": float(x)} for x in self._room.success]

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
            obs = with_rows(next_obs, new, room.obs)
            mask = None if mask is None else with_rows(mask, new, room.mask)
        if valid is not None:  # what stands there may be half written
            next_obs = with_rows(next_obs, ~valid, room.obs)
            next_mask = None if next_mask is None else with_rows(next_mask, ~valid, room.mask)
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
        end(self._workers)

    def _check_open(self) -> None:
        if not self._open:
            raise EnvError("these environments are closed: close() did it, or an error.")

    def _spawn(self, number: int, rows: list[int]) -> Worker:
        ours, theirs = self._context.Pipe()
        # No daemon, which could have no processes of its own; `_end_all` ends what nobody closed.
        process = self._context.Process(target=work, args=(theirs, self._room, number, rows, self.steps))
        self._room.at[number], self._room.doing[number] = -1, START
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        return Worker(number, rows, process, ours, busy=True)

    def _build(self, workers: Sequence[Worker]) -> list[Failure]:
        """Let new workers build their environments; which failed."""
        limit = max(START_TIMEOUT, self.step_timeout)
        failures = self._await(workers, limit)  # they are there: a large message will not block
        return failures + self._call([w for w in workers if not w.failed], self._setup, limit)

    def _recover(self, failures: list[Failure]) -> None:
        """Replace workers that failed and start new episodes there; EnvError where the budget is spent."""
        said = []
        while failures:
            if self.restarts + len(failures) > self.max_restarts:
                self._stop_at(failures)
            end([failure.worker for failure in failures])
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

    def _stop_at(self, failures: list[Failure]) -> None:
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
        workers: Sequence[Worker],
        message: dict[str, Any] | bytes,
        limit: float,
        parts: Sequence[bytes] | None = None,
    ) -> list[Failure]:
        """Send a message, and each worker its part behind it; wait for the answers."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        for k, worker in enumerate(workers):
            worker.busy = True
            with contextlib.suppress(OSError):  # it is gone, as its answer will show
                worker.pipe.send_bytes(data)
                if parts is not None:
                    worker.pipe.send_bytes(parts[k])
        return self._await(workers, limit)

    def _await(self, workers: Sequence[Worker], limit: float) -> list[Failure]:
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

    def _read_answer(self, worker: Worker) -> Failure | None:
        """What went wrong according to the answer that is there, or None."""
        try:
            answer = worker.pipe.recv_bytes()
            if answer.startswith(OK):
                worker.busy, worker.answer = False, answer[len(OK) :]
                return None
            told = json.loads(answer)
            worker.leaving = True
            return Failure(worker.fail(), told["sentence"], told["kind"], told["traceback"])
        except (EOFError, OSError):
            reason = worker.ending()
        except (ValueError, KeyError, TypeError):
            reason = "what its worker sent cannot be read"
        hint = ""
        if self._room.doing[worker.number] == START:
            hint = ' at its start; what it printed stands above (a script needs `if __name__ == "__main__":`)'
        return Failure(worker.fail(), f"{self._where(worker)}: {reason}{hint}.")

    def _too_late(self, worker: Worker, limit: float) -> Failure:
        what = CALLS.get(int(self._room.doing[worker.number]), "the answer of its worker")
        sentence = f"{self._where(worker)}: {what} took longer than {limit:g} s and its worker was killed."
        return Failure(worker, sentence)

    def _where(self, worker: Worker) -> str:
        """The environment whose turn it was; all of the worker's if it was none's."""
        at = int(self._room.at[worker.number])
        if at < 0 and len(worker.rows) > 1:
            return f"environments {worker.rows[0]} to {worker.rows[-1]} at step {self.steps}"
        at = worker.rows[0] if at < 0 else at
        seed = "" if self._now[at] is None else f" (seed {self._now[at]})"
        return f"environment {at} at step {self.steps}{seed}"


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
