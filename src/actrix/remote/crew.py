"""The learner's side: actors on Ray that hold the groups, are watched, and are replaced where they die.

With each chunk an actor sends where its environments are afterwards. One that dies is replaced, its successor starts
from there and collects the lost chunk again with the same policy and the same key: the same bits.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from actrix.core.contract import Algorithm
from actrix.core.types import PyTree
from actrix.envs.guard import EnvError
from actrix.envs.workers.process import STEP_TIMEOUT
from actrix.files import manifest
from actrix.loops.groups import Crew, Piece, Start
from actrix.loops.runner import as_key
from actrix.remote.cluster import POLL, differing, join, kill, leave, wait, watched
from actrix.remote.mate import GONE, Mate, Order, Task, pickled, result
from actrix.remote.member import Collected, Member, Wrong

START_TIMEOUT = 300.0
"""Seconds that an actor may take to start."""
FIRST_STEP = 300.0
"""Seconds that its first step may take, for which programs are compiled."""
DEATHS = 3
"""How often one actor may die over one chunk."""
SLOW = 10.0
"""Seconds after which an actor that is waited for may be called slow."""
ANSWER, FREE_ANSWER = 5.0, 0.2
"""Seconds that an actor may take to say how far it is; and where nobody is waited for."""
EXACT = ("processor", "platform", "system", *manifest.JAX_OPTIONS)
"""Of a machine, what must be alike for the same bits."""


class RayCrew(Crew):
    """Groups that so many actors hold, in the order of the groups."""

    def __init__(
        self, make: Callable[[], Any], groups: int, actors: int, address: str | None = None,
        step_timeout: float = STEP_TIMEOUT, free: bool = False,
    ):  # fmt: skip
        """`make` makes one group's environments and may be anything that cloudpickle can send. `free`: nobody is waited
        for; `collect` gives as many chunks as there are actors, whichever come first.

        Raises ImportError (no Ray; a module that a node lacks), ValueError (no cluster, other versions there),
        TypeError (`make` cannot be sent), UnknownEnvError, EnvError.
        """
        self.step_timeout, self.restarts, self.free = float(step_timeout), 0, free
        self._tasks: dict[Any, Task] = {}
        self._calls = self._rows = 0
        self._took: list[float] = []
        self._looked = 0.0
        self._ray = ray = join(address, actors)
        self._mates = [
            Mate(i, range(x[0], x[-1] + 1)) for i, x in enumerate(np.array_split(range(groups), actors))
        ]
        self._handles: dict[int, Any] = {}
        self._end = weakref.finalize(self, _release, ray, self._handles)
        self._versions, self._machine = manifest.package_versions(), manifest.machine()
        self._algorithm: bytes | None = None
        self._slow: set[int] = set()
        try:
            self._make = pickled(ray, make, "the environment")
            self._hire(self._mates)
        except BaseException:
            self._end()
            raise

    # ------------------------------------------------------------------ what a crew does

    def prepare(self, algorithm: Algorithm, starts: Sequence[Start]) -> None:
        """Be ready to collect; the environments begin anew from these."""
        self._drop()
        self._algorithm = pickled(self._ray, algorithm, "the algorithm")
        self._rows = algorithm.rows(self.spec)
        self._share(starts)
        self._everybody("prepare", lambda mate: (self._algorithm, mate.starts))

    def collect(self, rows: int, keys: Sequence[np.ndarray], acting: PyTree) -> list[Piece]:
        """A chunk of each group, whose noise is drawn from its key; of some twice or not where the crew is free. Raises
        EnvError."""
        return self.begin(rows, keys, acting)()

    @watched()
    def begin(self, rows: int, keys: Sequence[np.ndarray], acting: PyTree) -> Callable[[], list[Piece]]:
        """Send who is not busy to collect it. At once: an update that begins meanwhile takes the cores."""
        order = Order(
            rows, keys, self._ray.put([np.asarray(x) for x in jax.tree.leaves(acting)]), self._calls
        )
        self._took = self._took if self.free else []
        busy = {task.mate.number for task in self._tasks.values()}
        for mate in self._mates:
            if mate.number not in busy:
                self._send(mate, order)
        return lambda: self._finish(order)

    @watched()
    def _finish(self, order: Order) -> list[Piece]:
        """Wait for it; who dies meanwhile is replaced, and sent again."""
        rows, found = order.rows, list[tuple[Mate, Collected, int]]()
        while len(found) < len(self._mates):
            for (mate, by, again), out in self._arrived(rows):
                if out is GONE:
                    self._replace(mate)
                    self._send(mate, order, again)
                    continue
                found.append((mate, out, by))
                mate.states, mate.open_episodes = out.states, out.open_episodes
                mate.deaths, mate.restart = 0, False
                if self.free and rows == self._rows:  # a warm-up is waited for
                    self._send(mate, order, again + 1 if by == self._calls else 0)
        if self.free:
            self.staleness = [self._calls - by for _, _, by in found]
        else:
            found.sort(key=lambda one: one[0].number)
        self._calls += 1
        return [piece for _, out, _ in found for piece in out.pieces]

    def _arrived(self, rows: int) -> Iterator[tuple[Task, Any]]:
        """Who has collected, if anybody has by now, and what came of it (or GONE)."""
        ready = wait(self._ray, list(self._tasks), POLL)
        now = time.monotonic()
        if not ready or (self.free and now - self._looked > POLL):
            self._looked = now
            self._watch([task.mate for future, task in self._tasks.items() if future not in ready], rows)
        for future in ready:
            task = self._tasks.pop(future)
            out = result(self._ray, future)
            if out is not GONE:
                self._took = [*self._took[-4 * len(self._mates) :], now - task.mate.sent]
            yield task, out

    def _send(self, mate: Mate, order: Order, again: int = 0) -> None:
        """Let it collect; `again`: how often it did with these keys."""
        mate.seen, mate.since = None, time.monotonic()
        mate.sent = mate.since
        mine = [order.keys[g] for g in mate.groups]
        if again:
            mine = [np.asarray(jax.random.key_data(jax.random.fold_in(as_key(key), again))) for key in mine]
        wanted = "restart" if mate.restart else ""
        task = mate.handle.collect.remote(order.rows, mine, order.leaves, wanted)
        self._tasks[task] = Task(mate, order.call, again)

    def _drop(self) -> None:
        """Wait for what is being collected, and forget it: its environments begin from elsewhere."""
        while self._tasks:
            for task, out in self._arrived(self._rows):
                if out is GONE:
                    self._replace(task.mate)

    def states(self) -> list[dict[str, Any] | None]:
        """Of each group, where it was after its last chunk."""
        return [state for mate in self._mates for state in mate.states or [None] * len(mate.groups)]

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from there."""
        self._drop()
        for mate in self._mates:
            mate.states, mate.restart = [states[g] for g in mate.groups], False
            mate.open_episodes = sum(
                int(np.count_nonzero(s["ep_length"])) for s in mate.states if s is not None
            )
        self._everybody("set_states", lambda mate: (mate.states,))

    def restart(self) -> None:
        """Start new episodes at the next step."""
        self._drop()
        for mate in self._mates:
            mate.restart = mate.states is not None

    def begin_anew(self, starts: Sequence[Start]) -> None:
        """Start new episodes from these at the next step."""
        self._drop()
        self._share(starts)
        self._everybody("begin_anew", lambda mate: (mate.starts,))

    @property
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""
        return sum(mate.open_episodes for mate in self._mates)

    def close(self) -> None:
        """End the actors, and Ray where it was started for them."""
        if self._end.alive:
            with contextlib.suppress(Exception):  # an environment's `close` is not waited for long
                self._ray.get([mate.handle.close.remote() for mate in self._mates], timeout=ANSWER)
        self._end()

    def _share(self, starts: Sequence[Start]) -> None:
        for mate in self._mates:
            mate.starts = [starts[g] for g in mate.groups]
            mate.states, mate.open_episodes, mate.restart = None, 0, False

    # ------------------------------------------------------------------ actors that come and go

    @watched()
    def _hire(self, mates: Sequence[Mate]) -> None:
        """Start actors for these and let them build; raises where one of them cannot, which dies for another reason is
        started again."""
        # A core each where so many are free; else they share, lest they wait for others of this or another training.
        room = self._ray.available_resources().get("CPU", 0) >= len(mates)
        options = {
            "num_cpus": int(room),
            "num_gpus": 0,
            "max_concurrency": 2,
            "scheduling_strategy": "SPREAD",
        }
        kind = self._ray.remote(**options)(Member)
        for mate in mates:
            time.sleep(max(0, mate.deaths - 1))  # a cluster takes a while to see that a node has gone
            mate.handle = self._handles[mate.number] = kind.remote()
            mate.node, mate.pid = "", None
        dead = self._all(mates, "hello", lambda mate: (), self._greet)
        alive = [mate for mate in mates if mate not in dead]
        dead += self._all(
            alive, "build", lambda mate: (self._make, len(mate.groups), mate.groups[0]), self._learn_of
        )
        for mate in dead:
            self._replace(mate)

    def _replace(self, mate: Mate) -> None:
        """Another actor in the place of one that died; EnvError where that happens too often."""
        kill(self._ray, mate.handle)
        mate.deaths, self.restarts = mate.deaths + 1, self.restarts + 1
        reason, mate.why = mate.why or "its process or its node is gone", ""
        if mate.deaths > DEATHS:
            raise EnvError(
                f"{self._named(mate)} died {mate.deaths} times over one chunk, at last because {reason}."
            )
        said = f"{self._named(mate)} died ({reason}) and is replaced"
        if mate.lost:
            said += (
                f"; its environments cannot be restored ({self.unsupported}), so its {mate.open_episodes} open "
                "episodes are dropped"
            )
            anew = lambda seed: int(np.random.SeedSequence([seed, self.restarts]).generate_state(1)[0])
            mate.starts = [Start([anew(seed) for seed in start.seeds], start.key) for start in mate.starts]
            mate.states, mate.open_episodes, mate.restart = None, 0, False
        warnings.warn(f"{said}.", RuntimeWarning, stacklevel=2)
        self._hire([mate])
        if self._algorithm is not None:
            self._everybody("prepare", lambda mate: (self._algorithm, mate.starts), [mate])
            if mate.states is not None:
                self._everybody("set_states", lambda mate: (mate.states,), [mate])

    @watched()
    def _everybody(
        self, method: str, arguments: Callable[[Mate], tuple], mates: Sequence[Mate] | None = None
    ) -> None:
        """Call this of each; who died is replaced, which brings it where the others are."""
        for mate in self._all(self._mates if mates is None else mates, method, arguments, lambda *_: None):
            self._replace(mate)

    def _all(
        self,
        mates: Sequence[Mate],
        method: str,
        arguments: Callable[[Mate], tuple],
        then: Callable[[Mate, Any], None],
    ) -> list[Mate]:  # fmt: skip
        """Call this of each, and `then` with what it returned; those that died instead."""
        tasks = {getattr(mate.handle, method).remote(*arguments(mate)): mate for mate in mates}
        ready = wait(self._ray, list(tasks), START_TIMEOUT, len(tasks))
        if late := [task for task in tasks if task not in ready]:
            raise EnvError(
                f"{self._named(tasks[late[0]])} did not answer {method} in {START_TIMEOUT:g} s: has the cluster room "
                "for it?"
            )
        dead = []
        for task in ready:
            out = result(self._ray, task)
            if out is GONE:
                dead.append(tasks[task])
            else:
                then(tasks[task], out)
        return dead

    def _greet(self, mate: Mate, hello: dict[str, Any]) -> None:
        mate.node, mate.pid = hello["node"], hello["pid"]
        names = ("python", *manifest.PACKAGES)
        if wrong := differing(hello["versions"], self._versions, names):
            raise ValueError(
                f"{self._named(mate)} runs other versions: {', '.join(wrong)}; install the same ones on every node."
            )
        if other := differing(hello["machine"], self._machine, EXACT):
            warnings.warn(
                f"{self._named(mate)} computes on another kind of machine: {', '.join(other)}. Numbers may round "
                "otherwise there, so that another placement of actors need not come to the same bits.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _learn_of(self, mate: Mate, built: bytes) -> None:
        self.spec, sizes, self.backend, self.env_id, self.unsupported = self._ray.cloudpickle.loads(built)
        self.sizes = [sizes[0]] * (self._mates[-1].groups[-1] + 1)
        self.num_envs = sum(self.sizes)

    def _watch(self, waiting: Sequence[Mate], rows: int) -> None:
        """Name who is slow, and end who has not taken a step for too long."""
        now, took, answer = time.monotonic(), self._took, FREE_ANSWER if self.free else ANSWER
        for mate in waiting:
            if now - mate.since < POLL:
                continue
            seen = None
            with contextlib.suppress(
                Exception
            ):  # it may hold Python's lock, or be dead, as its task will show
                seen = self._ray.get(mate.handle.progress.remote(), timeout=answer)
            seen = None if isinstance(seen, Wrong) else seen
            if seen is not None and seen != mate.seen:
                mate.seen, mate.since = seen, now
            started = mate.seen is not None and mate.seen[1] > 0
            limit = self.step_timeout if started else max(self.step_timeout, FIRST_STEP)
            where = (
                "its first step" if mate.seen is None else f"{mate.seen[0]}, step {mate.seen[1]} of {rows}"
            )
            if now - mate.since > limit:
                mate.why = f"{where} took longer than {limit:g} s"
                kill(self._ray, mate.handle)
            elif (
                took
                and mate.number not in self._slow
                and now - mate.sent > max(SLOW, 4 * float(np.median(took)))
            ):
                self._slow.add(mate.number)
                warnings.warn(
                    f"{self._named(mate)} is slow: after {now - mate.sent:.0f} s it is at {where}, and the others took "
                    f"{np.median(took):.1f} s.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _named(self, mate: Mate) -> str:
        first, last = mate.groups[0], mate.groups[-1]
        groups = f"group {first}" if first == last else f"groups {first} to {last}"
        return f"actor {mate.number} ({groups}{f', process {mate.pid} on {mate.node}' if mate.pid else ''})"


def _release(ray: Any, handles: dict[int, Any]) -> None:
    for handle in handles.values():
        kill(ray, handle)
    leave()
