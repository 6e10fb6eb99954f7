"""Collecting in fixed groups of environments, so that who collects them, and where, makes no difference.

A group acts with a batch of its own, draws its noise from (seed, chunk, group) and knows nothing of the others; the
learner gets their chunks side by side in the order of the groups. So one process, or any number of actors
(`actrix.remote`), comes to the same bits.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from actrix.core.contract import Algorithm
from actrix.core.host import fold_in
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.envs.base import HostEnv, Step
from actrix.envs.guard import EnvError
from actrix.loops.collect import Collector, Episodes
from actrix.loops.host import HostRunner, seeds_of
from actrix.loops.learners import Learners
from actrix.loops.runner import as_key, run_keys

IDLE = 0.5
"""Share of a chunk's time in which the process computes, below which its groups are stepped in threads."""


class Start(NamedTuple):
    """What a group's first episodes begin with."""

    seeds: list[int]
    key: np.ndarray
    """Of JAX environments."""


class Piece(NamedTuple):
    """What one group collected."""

    chunk: Chunk
    """NumPy arrays."""
    episodes: Episodes


class Crew(abc.ABC):
    """Groups of environments, as one `HostEnv` that only training steps."""

    spec: Spec
    num_envs: int
    backend: str
    env_id: str | None = None
    sizes: Sequence[int]
    """Environments of each group."""
    restarts = 0
    """How often an actor was replaced."""
    staleness: Sequence[int] | None = None
    """How many updates old the policy was that collected each of the last pieces, where that is not fixed."""
    unsupported: str | None = None
    """Why the environments' state cannot be saved, or None where it can."""

    @abc.abstractmethod
    def prepare(self, algorithm: Algorithm, starts: Sequence[Start]) -> None:
        """Be ready to collect; the environments begin anew from these."""

    @abc.abstractmethod
    def collect(self, rows: int, keys: Sequence[np.ndarray], acting: PyTree) -> list[Piece]:
        """A chunk of each group, whose noise is drawn from its key. Raises EnvError."""

    def begin(self, rows: int, keys: Sequence[np.ndarray], acting: PyTree) -> Callable[[], list[Piece]]:
        """Begin with that, so far as other processes do it; what ends it and gives the pieces."""
        return lambda: self.collect(rows, keys, acting)

    @abc.abstractmethod
    def states(self) -> list[dict[str, Any] | None]:
        """Of each group, where it is (`Collector.state`)."""

    @abc.abstractmethod
    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from there."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Start new episodes at the next step."""

    @abc.abstractmethod
    def begin_anew(self, starts: Sequence[Start]) -> None:
        """Start new episodes from these at the next step."""

    @property
    @abc.abstractmethod
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release what the environments hold."""

    def reset(self, seeds: Sequence[int] | None = None) -> NoReturn:
        """Refused: nobody but training steps these."""
        raise ValueError(
            "environments in groups or actors are stepped by training alone: make one of your own to play in, or train "
            "without envs_per_group and actors."
        )

    def step(self, action: np.ndarray) -> Step:
        """Refused as `reset` is."""
        self.reset()


class LocalCrew(Crew):
    """Groups in this process, one after the other."""

    def __init__(self, envs: Sequence[HostEnv], first: int = 0, before: int = 0):
        """`first` is the number of the first of these groups, before which are so many environments."""
        self.groups, self.first, self.before = envs, first, before
        self.sizes = [env.num_envs for env in envs]
        self.num_envs, self.spec, self.backend = sum(self.sizes), envs[0].spec, envs[0].backend
        self.env_id = getattr(envs[0], "env_id", None)
        self.collectors: list[Collector] = []
        self._busy: set[int] = set()  # which groups are stepped
        self._threads: ThreadPoolExecutor | None = None

    @property
    def unsupported(self) -> str | None:  # type: ignore[override]
        """Why the environments' state cannot be saved, or None where it can."""
        for env in self.groups:
            if (reason := getattr(env, "unsupported", None)) is not None:
                return str(reason)
            if not hasattr(env, "set_state"):
                return f"the state of {type(env).__name__} cannot be had"
        return None

    def prepare(self, algorithm: Algorithm, starts: Sequence[Start]) -> None:
        """Be ready to collect; the environments begin anew from these."""
        acting = algorithm.initial_acting(jax.random.key(0), self.spec)  # for its shapes
        self.tree = jax.tree.structure(acting)
        self.collectors = [
            Collector(algorithm, env, start.seeds, as_key(start.key), acting)
            for env, start in zip(self.groups, starts, strict=True)
        ]

    def collect(self, rows: int, keys: Sequence[np.ndarray], acting: PyTree) -> list[Piece]:
        """A chunk of each group, whose noise is drawn from its key. Raises EnvError that names the group.

        One after the other, or in a thread each once it is seen that they mostly wait (for a simulator elsewhere): as a
        group depends on no other, that comes to the same.
        """
        turns, one = range(len(self.collectors)), lambda turn: self._collect(turn, rows, keys[turn], acting)
        if self._threads is not None:
            return list(self._threads.map(one, turns))
        wall, busy = time.perf_counter(), time.process_time()
        pieces = [one(turn) for turn in turns]
        if len(turns) > 1 and time.process_time() - busy < IDLE * (time.perf_counter() - wall):
            self._threads = ThreadPoolExecutor(len(turns))
        return pieces

    def _collect(self, turn: int, rows: int, key: np.ndarray, acting: PyTree) -> Piece:
        collector = self.collectors[turn]
        collector.at = 0
        self._busy.add(turn)
        try:
            chunk, episodes = collector.collect(rows, as_key(key), acting)
        except EnvError as error:
            raise EnvError(f"{self._named(turn)}: {error}") from error.__cause__
        finally:
            self._busy.discard(turn)
        return Piece(jax.tree.map(np.asarray, chunk), episodes)

    def progress(self) -> tuple[str, int]:
        """(the group that is least far, in words; at which step of the chunk)."""
        turn = min(sorted(self._busy), key=lambda turn: self.collectors[turn].at, default=0)
        return self._named(turn), self.collectors[turn].at

    def _named(self, turn: int) -> str:
        begin = self.before + sum(self.sizes[:turn])
        return named_group(self.first + turn, begin, self.sizes[turn])

    def states(self) -> list[dict[str, Any] | None]:
        """Of each group, where it is (`Collector.state`)."""
        return [collector.state() for collector in self.collectors]

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from there."""
        for collector, state in zip(self.collectors, states, strict=True):
            collector.set_state(state)

    def restart(self) -> None:
        """Start new episodes at the next step."""
        for collector in self.collectors:
            collector.restart()

    def begin_anew(self, starts: Sequence[Start]) -> None:
        """Start new episodes from these at the next step."""
        for collector, start in zip(self.collectors, starts, strict=True):
            collector.begin_anew(start.seeds, as_key(start.key))

    @property
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""
        return sum(collector.open_episodes for collector in self.collectors)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for env in self.groups:
            env.close()


class GroupRunner(HostRunner):
    """The host loop over groups. Callbacks run after each update, as in the compiled loop."""

    each_step = False

    def __init__(
        self, algorithm: Algorithm, env: Crew, seed: int, reference: Any = None, behind: int = 0,
        learners: Learners | None = None,
    ):  # fmt: skip
        super().__init__(algorithm, env, seed, reference, behind, learners)
        self.env: Crew = env
        env.prepare(algorithm, self._starts(seed))

    def _starts(self, seed: int) -> list[Start]:
        sizes, key = self.env.sizes, run_keys(seed)[1]
        ends = np.cumsum(sizes)
        seeds = seeds_of(seed, self.num_envs)
        keys = _keys(key, len(sizes))
        return [Start(seeds[e - n : e], k) for n, e, k in zip(sizes, ends, keys, strict=True)]

    def collect(
        self, rows: int, noise_key: Key, acting: PyTree, whole: bool | None = None
    ) -> tuple[Chunk, Episodes]:
        """The groups' chunks side by side, and the episodes that ended in them."""
        return self._set_off(rows, noise_key, acting)()

    def _set_off(self, rows: int, key: Key, acting: PyTree) -> Callable[[], tuple[Chunk, Episodes]]:
        end = self.env.begin(rows, _keys(key, len(self.env.sizes)), acting)

        def collected() -> tuple[Chunk, Episodes]:
            pieces = end()
            returns, lengths, told = map(
                np.concatenate, zip(*(piece.episodes for piece in pieces), strict=True)
            )
            return side_by_side([piece.chunk for piece in pieces]), (returns, lengths, told)

        return collected

    def state(self) -> dict[str, Any] | None:
        """All groups' states; None where one cannot be had."""
        states = self.env.states()
        return None if any(state is None for state in states) else {"groups": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; EnvError or ValueError where it does not fit."""
        groups = state.get("groups")
        if type(groups) is not list or len(groups) != len(self.env.sizes):
            raise ValueError(f"the state is not that of {len(self.env.sizes)} groups.")
        self.env.set_states(groups)

    @property
    def restorable(self) -> bool:
        """Whether the environments can go on from a state."""
        return self.env.unsupported is None

    @property
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""
        return self.env.open_episodes

    def restart(self) -> None:
        """Start new episodes at the next step."""
        self._drop_ahead()
        self.env.restart()

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start the environments anew from another seed at the next step."""
        self._drop_ahead()
        self.env.begin_anew(self._starts(seeds[0]))


def side_by_side(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of several groups as one, in their order."""
    if len(chunks) == 1:
        return chunks[0]
    if any(chunk.valid is not None for chunk in chunks):
        full = lambda chunk: np.ones(chunk.reward.shape, bool) if chunk.valid is None else chunk.valid
        chunks = [dataclasses.replace(chunk, valid=full(chunk)) for chunk in chunks]  # type: ignore[arg-type]
    carries = [chunk.carry0 for chunk in chunks]
    rows = [dataclasses.replace(chunk, carry0=None) for chunk in chunks]
    merged = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *rows)
    return dataclasses.replace(merged, carry0=jax.tree.map(lambda *x: np.concatenate(x), *carries))


def named_group(number: int, begin: int, size: int) -> str:
    """A group in words."""
    which = f"environment {begin}" if size == 1 else f"environments {begin} to {begin + size - 1}"
    return f"group {number} ({which} of the run)"


def local_crew(make: Callable[[], Any], groups: int) -> LocalCrew:
    """So many groups in this process."""
    return LocalCrew([make() for _ in range(groups)])


def _keys(key: Key, groups: int) -> list[np.ndarray]:
    """A key for each group; a single group, which is all environments, has the run's own."""
    if groups == 1:
        return [np.asarray(jax.random.key_data(key))]
    return [np.asarray(jax.random.key_data(fold_in(key, g))) for g in range(groups)]
