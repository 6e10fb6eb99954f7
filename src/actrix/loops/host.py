"""The host loop: a numpy environment stepped from Python, with compiled acting and learning."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from actrix.core.contract import Algorithm
from actrix.core.host import own
from actrix.core.types import Chunk, Key, PyTree
from actrix.envs.base import HostEnv
from actrix.files.checkpoint import Snapshot
from actrix.loops.collect import Collector, Episodes, valid_rows
from actrix.loops.learners import Learners, here
from actrix.loops.runner import (
    Report,
    iteration_keys,
    key_from,
    leaves,
    report,
    run_keys,
    views,
    warm_up_key,
    with_leaves,
    wrapped,
)


class HostRunner(Collector):
    """Trains one seed on any `HostEnv`; each `advance(1)` is one chunk and one update.

    With `behind` = 1 the policy before the last update collects (Cleanba, Huang et al. 2024): chunk k + 1 needs nothing
    of update k, so that it is collected in a thread meanwhile, unless a callback wants to see each step. Which of the
    two is done makes no difference to the result.
    """

    each_step = True
    """Whether `on_step` is called."""
    more = False

    def __init__(
        self, algorithm: Algorithm, env: HostEnv, seed: int, reference: Any = None, behind: int = 0,
        learners: Learners | None = None,
    ):  # fmt: skip
        if algorithm.shown:
            raise ValueError("data shown needs a compiled environment that shows answers: give its id.")
        check_behind(algorithm, behind)
        init_key, env_key, self.iteration_key = run_keys(seed)
        super().__init__(algorithm, env, seeds_of(seed, env.num_envs), env_key)
        self.seeds, self.backend, self.behind = (seed,), env.backend, behind
        self.rows = algorithm.rows(env.spec)
        self.capacity = 1
        self.warm_up = algorithm.warm_up(self.rows, self.num_envs)
        learner = algorithm.init(init_key, env.spec, self.num_envs, reference)
        self.learner = own(learner)  # donated leaves must not share a buffer
        self.iteration = 0
        self.on_rollout: Callable[[str], None] | None = None
        """Called with "start" before a chunk is collected and with "end" before it is learned from."""
        self._between = True  # two chunks; False where one was broken off by an error
        self._older: PyTree = None  # what acts, where that is behind
        self._ahead: _Ahead | None = None
        self._team = learners or Learners()
        self._learn, self._observe = self._team.programs(algorithm, self._shapes)

    def _latest_acting(self) -> PyTree:
        return here(self.learner.acting)

    @property
    def version(self) -> Any:
        """Another object after each update."""
        return self.learner

    @property
    def learners(self) -> list[Any]:
        """A copy of the learner (the loop's own is donated to the next update)."""
        return [own(self.learner)]

    def set_learners(self, learners: Sequence[Any], iterations: Sequence[int]) -> None:
        """Go on from this learner (a resumed run, a warm start)."""
        self._drop_ahead()
        self.learner = self._older = None  # its memory goes before another one comes
        self.learner = own(learners[0])
        (self.iteration,) = iterations

    @property
    def actings(self) -> list[Any]:
        """A copy of what the policy acts with."""
        return [own(self.learner.acting)]

    def set_training(self, **numbers: ArrayLike) -> None:
        """Replace numbers of the learner's `training`, e.g. its step counter or its settings (`core/numbers.py`)."""
        arrays = own({name: np.asarray(x, np.float32) for name, x in numbers.items()})
        training = dataclasses.replace(self.learner.training, **arrays)
        self.learner = dataclasses.replace(self.learner, training=training)

    def snapshots(self) -> list[Snapshot]:
        """The whole training state, in a list. A chunk that is being collected is collected again from it."""
        env = None
        if self._between:
            env = self.state() if self._ahead is None else self._ahead.state
        opened = self.open_episodes if self._ahead is None else self._ahead.open_episodes
        loop = {"iteration_key": views(jax.random.key_data(self.iteration_key)), "open": opened, "env": env}
        if self.behind:
            loop["older"] = None if self._older is None else leaves(self._older)
        return [Snapshot(views(self.learner), loop)]

    def set_loops(self, loops: Sequence[dict[str, Any]]) -> bool:
        """Go on in the episodes and random streams of this snapshot's loop; whether the episodes could be.

        Raises ValueError where it is another loop's, EnvError where the environments are others.
        """
        (loop,) = loops
        self.iteration_key = key_from(loop["iteration_key"], "iteration_key")
        if ("older" in loop) != bool(self.behind):
            raise ValueError(f"behind={self.behind}, and it was {1 - self.behind}")
        if self.behind and loop["older"] is not None:
            self._older = with_leaves(self.learner.acting, loop["older"], "older")
        if loop["env"] is None or not self.restorable:
            return False
        self.set_state(loop["env"])
        return True

    def restart(self) -> None:
        """Start new episodes at the next step, from the environments' own random streams."""
        self._drop_ahead()
        super().restart()

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start the environments anew from another seed at the next step."""
        self._drop_ahead()
        (seed,) = seeds
        self.begin_anew(seeds_of(seed, self.num_envs), run_keys(seed)[1])

    def warm(self) -> list[Report]:
        """Collect the chunks that are not learned from: the random phase of a replay memory, the first
        statistics of a normaliser. [] where there are none."""
        pieces, rows = self.warm_up
        steps, episodes = 0, []
        self._between = False
        on_step, on_rollout = self.on_step, self.on_rollout
        self.on_step = self.on_rollout = None  # callbacks see training only
        for piece in range(pieces):
            acting = self.algorithm.warm_acting(self._latest_acting())
            whole, key = self.algorithm.warms_up_whole, warm_up_key(self.iteration_key, piece)
            chunk, finished = self.collect(rows, key, acting, whole)
            self.learner = self._observe(self.learner, chunk)
            steps += valid_rows(chunk)
            episodes.append(finished)
        self.on_step, self.on_rollout = on_step, on_rollout
        self._between = True
        return (
            [report(steps, pieces, {}, *map(np.concatenate, zip(*episodes, strict=True)))] if pieces else []
        )

    def advance(self, iterations: int | Sequence[int] = 1) -> list[Report]:
        """One chunk and one update (`iterations` may say no more); returns one report in a list."""
        self._between = False
        self._rollout("start")
        chunk, episodes = self._next_chunk()
        if not self.stopped:
            self._rollout("end")
        if self.stopped:
            if self.learner.memory is not None:  # the next row must not seem to follow the last one in it
                self._first = np.ones(self.num_envs, bool)
            self._between = True
            return [report(valid_rows(chunk), 0, {}, *episodes)]
        if self.behind:
            self._look_ahead()
        self.learner, metrics = self._learn(self.learner, chunk, self.iteration_key, wrapped(self.iteration))
        self.iteration += 1
        self._between = True
        numbers = {name: x for name, x in metrics.items() if name != "batch"}
        out = report(valid_rows(chunk), 1, jax.device_get(numbers), *episodes)
        if out.nonfinite:
            out.batch = metrics.get("batch", chunk)
        return [out]

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.join()
        self.env.close()
        self._team.close()

    def _rollout(self, moment: str) -> None:
        if self.on_rollout is not None:
            self.on_rollout(moment)

    def _next_chunk(self) -> tuple[Chunk, Episodes]:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead.result()
        acting = self._latest_acting() if self._older is None else self._older
        return self.collect(self.rows, self._noise_key(self.iteration), acting)

    def _noise_key(self, iteration: int) -> Key:
        return iteration_keys(self.iteration_key, wrapped(iteration))[0]

    def _look_ahead(self) -> None:
        """Keep what the next chunk is collected with, and collect it meanwhile where nobody wants to look on."""
        self._older = older = own(self._latest_acting())  # the learner's own is donated
        if self.more and self.on_step is None:
            key = self._noise_key(self.iteration + 1)
            state, opened = self.state(), self.open_episodes
            self._ahead = _Ahead(self._set_off(self.rows, key, older), state, opened)

    def _set_off(self, rows: int, key: Key, acting: PyTree) -> Callable[[], tuple[Chunk, Episodes]]:
        """Begin to collect, so far as others do it; what ends it and gives the chunk."""
        return lambda: self.collect(rows, key, acting)

    def _drop_ahead(self) -> None:
        """Go back to before the chunk that is being collected, so far as its environments can."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            ahead.join()
            if ahead.state is not None:
                self.set_state(ahead.state)


class _Ahead:
    """A chunk that is being collected in a thread, and what its environments were before."""

    def __init__(
        self, collect: Callable[[], tuple[Chunk, Episodes]], state: dict[str, Any] | None, open_episodes: int
    ):
        self.state, self.open_episodes, self._collect = state, open_episodes, collect
        self._found: tuple[Chunk, Episodes] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._collect()
        except BaseException as error:  # it is raised where the chunk is wanted
            self._error = error

    def join(self) -> None:
        """Wait for its end, whatever that is."""
        self._thread.join()

    def result(self) -> tuple[Chunk, Episodes]:
        """The chunk; raises what collecting it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


def seeds_of(seed: int, num_envs: int) -> list[int]:
    """The seeds of a run's environments."""
    return np.random.SeedSequence(seed).generate_state(num_envs).tolist()


def check_behind(algorithm: Algorithm, behind: int) -> None:
    """Raise ValueError where chunks of the policy before the last update are asked for, and cannot be learned from."""
    if behind not in (0, 1) or isinstance(behind, bool):
        raise ValueError(
            f"behind={behind!r} must be 0 or 1: how many updates the policy that collects is behind."
        )
    if behind and (reason := algorithm.refuses_behind()) is not None:
        raise ValueError(f"behind=1 lets the policy before the last update act, and {reason}.")
