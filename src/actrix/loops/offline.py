"""The offline loop: any replay-based algorithm trained from a fixed data set, with no environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from actrix.core import normalize
from actrix.core.contract import Acting, Algorithm, Learner
from actrix.core.host import own
from actrix.core.types import Chunk, PyTree
from actrix.data.datasets.dataset import Dataset
from actrix.data.replay import Replay
from actrix.data.ring import Memory
from actrix.files.checkpoint import Snapshot
from actrix.loops.compiled import SEGMENT_ITERATIONS
from actrix.loops.runner import (
    Report,
    iteration_keys,
    keep_batch,
    key_from,
    no_batch,
    report,
    run_keys,
    views,
    wrapped,
)

STD_FLOOR = 1e-3
"""Added to each observation's standard deviation (Fujimoto & Gu 2021): a feature that is constant in the data must
not be blown up where it varies a little later."""


class OfflineRunner:
    """Trains one or several seeds, one after the other, on a data set; `advance(k)` makes k updates of each.

    One update counts as one environment step (budgets, schedules, `target_update_interval`). The ring holds the whole
    data set; observation statistics, where asked for, are the data set's and stay. Learners are handed out without
    the data, which their files need not repeat: of prioritised replay they keep the priorities.

    Raises ValueError where the algorithm does not learn from a replay memory, or does not fit the data.
    """

    backend = "offline"
    rows = num_envs = 1
    warm_up = (0, 0)

    more = False

    def __init__(self, algorithm: Algorithm, dataset: Dataset, seeds: Sequence[int], reference: Any = None):
        if not algorithm.replays_transitions:
            raise ValueError(
                "only algorithms that replay transitions learn from a data set: bc, iql, cql, td3-bc, dqn, sac, …"
            )
        if algorithm.normalize_reward:
            raise ValueError(
                "normalize_reward is of rewards that still come in: scale those of a data set yourself."
            )
        data: Replay = algorithm.data
        self.algorithm, self.seeds, self.spec = algorithm, tuple(seeds), dataset.spec
        algorithm.check(self.spec, 1)
        self.capacity = SEGMENT_ITERATIONS
        init_keys, _, keys = zip(*map(run_keys, self.seeds), strict=True)
        self._keys = list(keys)
        # Built for a tiny memory, which is thrown away: the settings' own may be far larger than the data.
        small = dataclasses.replace(data, buffer_size=data.batch_size, train_freq=1)
        fitted = dataclasses.replace(algorithm, data=small)
        moments = (
            observation_moments(dataset, algorithm.normalized(self.spec)) if algorithm.normalize_obs else None
        )
        self._learners = [
            _with_moments(fitted.init(key, self.spec, 1, reference), moments) for key in init_keys
        ]
        memory = fill(dataset, data, self._learners[0].acting.net.head)
        self._ring, rows = memory.ring, memory.rows
        # Priorities are each seed's own, and donated: so are the rows around them.
        self._rows = [own(rows) if data.prioritized else rows for _ in self.seeds]
        self._iterations = [0] * len(self.seeds)
        self._segment: Any = None

    @property
    def learners(self) -> list[Any]:
        """A copy of each seed's learner, whose memory is None, or the priorities of prioritised replay."""
        learners = zip(self._learners, self._rows, strict=True)
        return [own(dataclasses.replace(x, memory=_priorities(rows))) for x, rows in learners]

    @property
    def actings(self) -> list[Any]:
        """A copy of what each seed's policy acts with."""
        return [own(learner.acting) for learner in self._learners]

    def set_learners(self, learners: Sequence[Any], iterations: Sequence[int]) -> None:
        """Go on from these learners (a resumed run, a warm start) after so many updates of each; on this data."""
        for i, learner in enumerate(learners):
            memory, rows = learner.memory, self._rows[i]
            if memory is not None and jax.tree.map(jnp.shape, memory) == jax.tree.map(
                jnp.shape, _priorities(rows)
            ):
                levels, largest = own(memory)
                self._rows[i] = dataclasses.replace(rows, levels=levels, largest=largest)
            self._learners[i] = own(dataclasses.replace(learner, memory=None))
        self._iterations = [int(n) for n in iterations]

    def snapshots(self) -> list[Snapshot]:
        """Each seed's whole training state, apart from the data."""
        found = []
        for learner, rows, key in zip(self._learners, self._rows, self._keys, strict=True):
            full = dataclasses.replace(learner, memory=_priorities(rows))
            loop = {"iteration_key": views(jax.random.key_data(key)), "env": None}
            found.append(Snapshot(views(full), loop))
        return found

    def set_loops(self, loops: Sequence[dict[str, Any]]) -> bool:
        """Go on in the random streams of these snapshots' loops; there are no episodes to go on in."""
        self._keys = [key_from(loop["iteration_key"], "iteration_key") for loop in loops]
        return True

    @property
    def iteration(self) -> int:
        """Updates done so far."""
        return self._iterations[0]

    def set_training(self, **numbers: ArrayLike) -> None:
        """Replace numbers of every seed's `training`, e.g. its step counter or its settings (`core/numbers.py`)."""
        for i, learner in enumerate(self._learners):
            arrays = own({name: np.asarray(x, np.float32) for name, x in numbers.items()})
            training = dataclasses.replace(learner.training, **arrays)
            self._learners[i] = dataclasses.replace(learner, training=training)

    def warm(self) -> list[Report]:
        """Nothing comes before the first update."""
        return []

    def reseed(self, seeds: Sequence[int]) -> None:
        """There is no environment to start anew."""

    def restart(self) -> None:
        """There are no episodes to start anew."""

    def close(self) -> None:
        """Nothing to release."""

    def advance(self, iterations: int | Sequence[int]) -> list[Report]:
        """So many updates, ≤ `capacity`, of every seed (or of each its own number); one report per seed."""
        each = np.broadcast_to(np.asarray(iterations, np.int32), len(self.seeds))
        if self._segment is None:
            self._segment = self._compile()
        return [self._advance(i, int(n)) for i, n in enumerate(each)]

    def _advance(self, seed: int, number: int) -> Report:
        nothing = np.zeros(0)
        if not number:
            return report(0, 0, {}, nothing, nothing)
        self._learners[seed], rows, record, (_, batch) = self._segment(
            self._learners[seed],
            self._rows[seed],
            self._keys[seed],
            wrapped(self._iterations[seed]),
            np.int32(number),
        )
        self._rows[seed] = self._rows[seed] if rows is None else rows
        self._iterations[seed] += number
        metrics = {name: np.asarray(values)[:number] for name, values in record.items()}
        out = report(number, number, metrics, nothing, nothing)
        out.batch = views(batch) if out.nonfinite else None
        return out

    def _compile(self) -> Any:
        prioritized, capacity = self.algorithm.data.prioritized, self.capacity

        def segment(
            learner: Learner, rows: PyTree, key: jax.Array, start: jax.Array, number: jax.Array
        ) -> tuple:
            shapes = jax.eval_shape(self._update, learner, rows, key, start)[2]
            empty = no_batch((shapes, None))
            numbers = {name: s for name, s in shapes.items() if name != "batch"}
            record = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), numbers)

            def body(i: jax.Array, state: tuple) -> tuple:
                learner, changed, record, kept = state
                now = rows if changed is None else changed
                learner, now, metrics = self._update(learner, now, key, start + i)
                kept, metrics = keep_batch(kept, metrics, None)
                record = jax.tree.map(lambda r, x: r.at[i].set(x), record, metrics)
                return learner, None if changed is None else now, record, kept

            # The data stay outside the carry where nothing in them changes.
            return jax.lax.fori_loop(0, number, body, (learner, rows if prioritized else None, record, empty))

        return jax.jit(segment, donate_argnums=(0, 1) if prioritized else 0)

    def _update(self, learner: Learner, rows: PyTree, key: jax.Array, iteration: jax.Array) -> tuple:
        """(learner without memory, rows, metrics) after one update."""
        learner = dataclasses.replace(learner, memory=Memory(rows, self._ring))
        learner, metrics = self.algorithm.update_offline(learner, iteration_keys(key, iteration)[1])
        return dataclasses.replace(learner, memory=None), learner.memory.rows, metrics


def fill(dataset: Dataset, data: Replay, head: Any) -> Memory:
    """A ring that holds the whole data set: one row per transition and one more per episode."""

    def build(chunk: Chunk) -> Memory:
        return data.room(head, dataset.spec, 1, dataset.transitions + dataset.episodes).append(chunk)

    # Made and filled in one program, so that there is never a second, empty ring of that size.
    return jax.jit(build)(dataset.chunk)


def observation_moments(
    dataset: Dataset, shapes: tuple[tuple[int, ...] | None, ...]
) -> tuple[normalize.Moments | None, ...]:
    """Mean and variance of all observations' leaves that have a shape, `STD_FLOOR` added to each deviation."""

    def moments(shape: tuple | None, x: np.ndarray) -> normalize.Moments | None:
        if shape is None:
            return None
        x = np.clip(x[:, 0], -normalize.LARGEST, normalize.LARGEST)
        mean, std = np.mean(x, axis=0, dtype=np.float64), np.std(x, axis=0, dtype=np.float64)
        var = (std + STD_FLOOR) ** 2
        count = jnp.asarray(float(len(x)))
        return normalize.Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32), count)

    return tuple(map(moments, shapes, jax.tree.leaves(dataset.chunk.obs)))


def _with_moments(learner: Learner, moments: Any) -> Learner:
    """The learner without its memory, in arrays of its own (they are donated), with these statistics."""
    acting: Acting = learner.acting
    acting = acting if moments is None else dataclasses.replace(acting, obs_moments=moments)
    return own(Learner(acting, learner.training))


def _priorities(rows: PyTree) -> PyTree:
    return None if rows.levels is None else (rows.levels, rows.largest)
