"""The driver's side of learners in several processes: each computes a share of every batch, gloo (or NCCL) adds up.

Environments, actors, files and callbacks stay with the driver, which also has the learner after each update: processes
that die are replaced, and make the lost update again.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from actrix.core.contract import Algorithm
from actrix.core.host import own
from actrix.core.types import PyTree
from actrix.envs.guard import EnvError
from actrix.files import manifest
from actrix.loops.learners import Learners
from actrix.loops.runner import views
from actrix.remote.cluster import differing, join, kill, leave, wait, watched
from actrix.remote.mate import GONE, pickled, result
from actrix.remote.partner import Partner

START_TIMEOUT = 300.0
"""Seconds that the processes may take to start and to find each other."""
GRACE = 10.0
"""Seconds in which a death must show that made another one fail."""
UPDATE, PATIENCE = 300.0, 10
"""An update may take so many seconds, or so many times the longest one before it, where that is more."""
DEATHS = 3
"""How often one of them may die over one update."""


class Team(Learners):
    """So many devices, in equal shares held by processes on Ray."""

    def __init__(self, count: int, processes: int, address: str | None = None):
        """Raises ImportError (no Ray), ValueError (no cluster, other versions there, no such devices)."""
        super().__init__(count)
        self.processes, self.restarts = processes, 0
        self._longest = 0.0
        self._ray = join(address, processes)
        self._handles: list[Any] = []
        self._end = weakref.finalize(self, _release, self._ray, self._handles)
        self._prepared: tuple = ()
        self._last: PyTree = None
        """The learner that all of them hold."""
        try:
            self._hire()
        except BaseException:
            self._end()
            raise

    def programs(self, algorithm: Algorithm, shapes: tuple) -> tuple[Callable, Callable]:
        """`learn` by all processes, and `observe` here."""
        self._prepared = pickled(self._ray, algorithm, "the algorithm"), shapes, self.count
        self._call("prepare", [self._prepared] * self.processes)
        return self._learn, Learners().programs(algorithm, shapes)[1]

    def close(self) -> None:
        """End the processes, and Ray where it was started for them."""
        self._end()

    @watched()
    def _learn(self, learner: PyTree, chunk: Any, key: Any, iteration: np.ndarray) -> tuple[PyTree, dict]:
        """(the learner after a chunk, metrics)."""
        key, chunk = np.asarray(jax.random.key_data(key)), self._ray.put(views(chunk))
        for death in range(DEATHS + 1):
            first = None if learner is self._last else self._ray.put(views(learner))
            common = first, chunk, key, iteration
            began = time.monotonic()
            bound = max(UPDATE, PATIENCE * self._longest)
            out = self._all("learn", [(*common, i == 0) for i in range(self.processes)], bound)
            if all(x is not GONE for x in out):
                self._longest = max(self._longest, time.monotonic() - began)
                break
            self._rehire(death)
        leaves, metrics = out[0]
        self._last = jax.tree.unflatten(jax.tree.structure(learner), own(list(leaves)))
        return self._last, metrics

    # ------------------------------------------------------------------ processes that come and go

    @watched()
    def _hire(self) -> None:
        """Start all of them, and let them find each other."""
        platform, devices = jax.default_backend(), self.count // self.processes
        room = self._ray.available_resources().get("CPU", 0) >= self.processes
        kind = self._ray.remote(
            num_cpus=int(room), num_gpus=0 if platform == "cpu" else devices, scheduling_strategy="SPREAD"
        )(Partner)
        self._handles[:] = [kind.remote() for _ in range(self.processes)]
        hello = self._call("hello", [()] * self.processes)
        for one in hello:
            names = ("python", *manifest.PACKAGES)
            if wrong := differing(one["versions"], manifest.package_versions(), names):
                raise ValueError(
                    f"a learner's process runs other versions: {', '.join(wrong)}; install the same ones on every node."
                )
        where = hello[0]["address"]
        self._call("begin", [(where, i, self.processes, devices, platform) for i in range(self.processes)])
        self.pids = [one["pid"] for one in hello]

    def _rehire(self, death: int) -> None:
        """All of them anew, as none goes on without the others; EnvError where that happens too often."""
        if death == DEATHS:
            raise EnvError(
                f"a learner's process died, or did not answer, {DEATHS + 1} times over one update."
            )
        warnings.warn(
            "a learner's process died or does not answer: all of them are replaced, and make the update again.",
            RuntimeWarning,
            stacklevel=5,
        )
        self.restarts, self._last = self.restarts + 1, None
        _kill(self._ray, self._handles)
        self._hire()
        self._call("prepare", [self._prepared] * self.processes)

    def _call(self, method: str, arguments: Sequence[tuple]) -> list[Any]:
        """Call this of each process; what they return. EnvError where one died or did not answer."""
        out = self._all(method, arguments, START_TIMEOUT)
        if any(x is GONE for x in out):
            raise EnvError(
                f"a learner's process died or did not answer {method}: has the cluster room for it?"
            )
        return out

    def _all(self, method: str, arguments: Sequence[tuple], timeout: float) -> list[Any]:
        """The same, with GONE for all who did not answer once one of them has died, or after the timeout."""
        calls = zip(self._handles, arguments, strict=True)
        tasks = [getattr(handle, method).remote(*given) for handle, given in calls]
        end = time.monotonic() + timeout
        found: dict[Any, Any] = {}
        errors: list[Exception] = []
        while len(found) < len(tasks):
            waited = [x for x in tasks if x not in found]
            ready = wait(self._ray, waited, max(0.0, end - time.monotonic()))
            for task in ready:
                try:
                    found[task] = result(self._ray, task)
                except Exception as error:  # it may have lost one that is gone, as will show
                    found[task] = None
                    errors.append(error)
                    end = time.monotonic() + GRACE
            if not ready or any(x is GONE for x in found.values()):  # the others wait for who is gone
                break
        out = [found.get(task, GONE) for task in tasks]
        if errors and not any(x is GONE for x in out):
            raise errors[0]
        return out


def _kill(ray: Any, handles: list[Any]) -> None:
    for handle in handles:
        kill(ray, handle)


def _release(ray: Any, handles: list[Any]) -> None:
    _kill(ray, handles)
    leave()
