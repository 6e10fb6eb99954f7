"""The host loop of algorithms that learn every few steps: from a replay memory, or online.

Learning from one chunk and the first action of the next are a single compiled call: with one environment and an
update per step, the calls would otherwise cost as much as the work in them.
"""

# mypy: disable-error-code="arg-type"
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from actrix.core.contract import Algorithm, Learner
from actrix.core.host import own
from actrix.core.platform import fewer_copies, one_thread
from actrix.core.threefry import written_out
from actrix.core.types import Chunk, PyTree
from actrix.envs.base import HostEnv, successes
from actrix.envs.guard import check_chunk
from actrix.loops.collect import row
from actrix.loops.compiled import SEGMENT_ITERATIONS
from actrix.loops.groups import Crew, GroupRunner
from actrix.loops.host import HostRunner
from actrix.loops.learners import Learners
from actrix.loops.packing import LARGE, Packing
from actrix.loops.runner import (
    Report,
    iteration_keys,
    keep_batch,
    leaves,
    no_batch,
    report,
    shared,
    views,
    with_leaves,
    wrapped,
)
from actrix.nets.memory import zero_where

SMALL = 1 << 22
"""Weights times rows of a batch below which a round is compiled for one thread, its arrays are packed and its keys made
with the rounds written out. A large one would be slower packed (SAC on HalfCheetah: by 7%)."""

BLOCK, NUMBERS = 256, 1 << 20
"""Iterations whose random numbers are drawn together, and how many numbers these may be."""


@shared
def _programs(
    algorithm: Algorithm, rows: int, num_envs: int, block: int, learners: Packing, below: int, shapes: tuple
) -> tuple[Callable, Callable, Callable]:
    """(draw, round, action) of learners packed so, for observations and actions of these shapes; `below` as
    `Packing.of` takes it, 0 where the program is a large one."""
    acting, pack = learners.shapes().acting, functools.partial(_pack, below=below)

    def draw(key, first):
        def at(iteration):
            noise, _ = iteration_keys(key, iteration + 1)
            return algorithm.noise(acting, noise, rows, num_envs), iteration_keys(key, iteration)[1]

        key = written_out(key) if below else key
        return jax.vmap(at)(first + jnp.arange(block, dtype=jnp.int32))

    def act(acting, memory, first, obs, mask, xi):
        if memory is not None:
            memory = zero_where(first, memory)
        action, _, _, memory = algorithm.act(acting, memory, obs, mask, xi)
        return action, memory

    def round_(learner, totals, kept, memory, drawn, seen, packing):
        learner, (chunk, first, obs, mask, place) = learners.unpack(learner), packing.unpack(seen)
        noise, key = row(drawn, place)
        learner, metrics = algorithm.learn(learner, chunk, key)
        kept, metrics = keep_batch(kept, metrics, _with_valid(chunk), pack)
        values = jnp.stack([jnp.asarray(metrics[name], jnp.float32) for name in sorted(metrics)])
        known = ~jnp.isnan(values)
        totals = totals + jnp.stack([jnp.where(known, values, 0.0), known.astype(jnp.float32)])
        out = act(learner.acting, memory, first, obs, mask, row(noise, 0))
        return learners.pack(learner), totals, kept, *out

    def action(learner, memory, drawn, seen, packing):
        (first, obs, mask, place, t), (noise, _) = packing.unpack(seen), drawn
        return act(learners.unpack(learner).acting, memory, first, obs, mask, row(row(noise, place), t))

    options = one_thread() if below else fewer_copies()
    return (
        jax.jit(draw, compiler_options=options),
        jax.jit(round_, donate_argnums=(0, 1, 2), static_argnums=6, compiler_options=options),
        jax.jit(action, static_argnums=4, compiler_options=options),
    )


class SteppingRunner(HostRunner):
    """Trains one seed on any `HostEnv`, `train_freq` steps at a time; `advance(k)` makes k such rounds."""

    def __init__(self, algorithm: Algorithm, env: HostEnv, seed: int, reference: Any = None):
        self._packing: Packing
        self._below: int
        self._packed: tuple = ()
        self._packings: dict[tuple, Packing] = {}
        self._round: Any = None
        super().__init__(algorithm, env, seed, reference)
        self.capacity = SEGMENT_ITERATIONS
        self._pending: tuple | None = None
        noise = lambda key: algorithm.noise(self._packing.shapes().acting, key, self.rows, self.num_envs)
        numbers = sum(x.size for x in jax.tree.leaves(jax.eval_shape(noise, self.iteration_key)))
        self._block = max(1, min(BLOCK, NUMBERS // max(1, numbers)))
        self._known: tuple = (None, None, None)

    @property
    def learner(self) -> Learner:
        """The learner (its arrays may be donated to the next round)."""
        return self._packing.unpack(self._packed)

    @learner.setter
    def learner(self, learner: Learner) -> None:
        if learner is not None:
            weights = sum(x.size for x in jax.tree.leaves(learner.acting.net))
            small = weights * (self.algorithm.data.batch_size or self.rows) < SMALL
            self._below = LARGE if small else 0
        packing = Packing.of(learner, below=self._below, matrices=False)
        if self._round is not None and packing != self._packing:
            self._round = None  # it is made for arrays packed otherwise
        self._packing = packing
        self._packed = tuple(
            own(x) if isinstance(x, np.ndarray) else x for x in self._packing.pack_host(learner)
        )
        self._pending = None

    @property
    def version(self) -> Any:
        """Another object after each update."""
        return self._packed

    @property
    def actings(self) -> list[Any]:
        """A copy of what the policy acts with."""
        return [own(self.learner.acting)]

    def set_training(self, **numbers: ArrayLike) -> None:
        """Replace numbers of the learner's `training`, e.g. its step counter; the next action stays as it was drawn."""
        pending = self._pending
        super().set_training(**numbers)
        self._pending = pending

    def _reset(self, seeds: list[int] | None, acting: PyTree) -> None:
        super()._reset(seeds, acting)
        self._pending = None

    def _open(self) -> dict[str, Any]:
        # The next action is kept: a program that draws it alone might round otherwise than the round that drew it.
        return super()._open() | {"pending": None if self._pending is None else leaves(tuple(self._pending))}

    def _reopen(self, open_: dict[str, Any]) -> None:
        super()._reopen(open_)
        if open_["pending"] is None:
            self._pending = None
            return
        algorithm, acting = self.algorithm, self.learner.acting

        def first() -> tuple:
            noise = algorithm.noise(acting, self.iteration_key, self.rows, self.num_envs)
            action, _, _, memory = algorithm.act(acting, self._memory, self._obs, self._mask, row(noise, 0))
            return (action, memory), noise

        pending, noise = jax.eval_shape(first)
        # Files of before December 2026 also have the noise, which now is drawn again.
        old = len(open_["pending"]) > len(jax.tree.leaves(pending))
        template = (pending, noise) if old else (pending,)
        self._pending = with_leaves(template, open_["pending"], "pending")[0]

    def _compile(self) -> None:
        self._draw, self._round, self._action = _programs(
            self.algorithm, self.rows, self.num_envs, self._block, self._packing, self._below, self._shapes
        )

    def _begin(self) -> None:
        """What the first round needs."""
        self._compile()
        example = self._example()
        shapes = jax.eval_shape(self.algorithm.learn, self.learner, example, self.iteration_key)[1]
        self._names = sorted(shapes.keys() - {"batch"})
        known, batch = no_batch((shapes, _with_valid(example)))
        self._batches = Packing.of(batch, below=self._below)
        self._kept = known, own(self._batches.pack_host(batch))

    def _drawn(self, iteration: int) -> tuple[PyTree, np.ndarray]:
        """A block of iterations' random numbers, and the place of this one in it: the noise of the actions after it and
        the key of its learning. Drawing each iteration's alone takes a small network's time."""
        number, place = divmod(iteration, self._block)
        known, key, drawn = self._known
        if known != number or key is not self.iteration_key:
            del drawn
            self._known = (None, None, None)  # the old block goes before another one comes
            drawn = self._draw(self.iteration_key, wrapped(number * self._block))
            self._known = number, self.iteration_key, drawn
        return drawn, np.asarray(place, np.int32)

    def _seen(self, *arrays: PyTree) -> tuple[tuple, Packing]:
        """What a program is shown, packed."""
        kind = type(arrays[0]), getattr(arrays[0], "valid", None) is None
        if kind not in self._packings:
            self._packings[kind] = Packing.of(arrays, below=self._below)
        return self._packings[kind].pack_host(arrays), self._packings[kind]

    def advance(self, iterations: int | Sequence[int] = 1) -> list[Report]:
        """So many rounds of `train_freq` steps and an update; one report in a list."""
        (count,) = np.atleast_1d(iterations)
        self._ready(self._latest_acting)
        if self._round is None:
            self._begin()
        totals = jnp.zeros((2, len(self._names)))
        steps, done = 0, 0
        returns: list[float] = []
        lengths: list[int] = []
        self._told: list[float] = []
        self._between = False
        for _ in range(count):
            self._rollout("start")
            chunk = self._steps(returns, lengths)
            if not self.stopped:
                self._rollout("end")
            steps += int(chunk.reward.size if chunk.valid is None else np.sum(chunk.valid))
            if self.stopped:
                self._remember_stopped(chunk)
                break
            drawn, place = self._drawn(self.iteration)
            self._packed, totals, self._kept, *self._pending = self._round(
                self._packed, totals, self._kept, self._memory, drawn,
                *self._seen(chunk, self._first, self._obs, self._mask, place),
            )  # fmt: skip
            self.iteration += 1
            done += 1
        self._between = True
        sums, counts = np.asarray(totals)
        metrics = {n: s / c for n, s, c in zip(self._names, sums, counts, strict=True) if c}
        metrics.pop("bad_row", None)  # the guard has seen every row before it was learned from
        episodes = np.asarray(returns, np.float64), np.asarray(lengths, np.int64), np.array(self._told)
        out = report(steps, done, metrics, *episodes)
        if out.nonfinite:
            out.batch = views(self._batches.unpack(self._kept[1]))
            self._kept = jnp.zeros((), bool), own(self._kept[1])  # the report's views stay as they are
        return [out]

    def _remember_stopped(self, chunk: Chunk) -> None:
        """Keep what a stop cut off: training may go on in the same episodes, and no row may seem to jump over it."""
        self.learner = jax.jit(self.algorithm.broken_off, donate_argnums=0)(self.learner, chunk)
        if self.algorithm.cuts_at_stop:
            self._first = np.ones(self.num_envs, bool)

    def _example(self) -> PyTree:
        """A chunk's shapes, to learn the names of the metrics without stepping."""
        obs = jax.tree.map(lambda x: np.broadcast_to(x, (self.rows, *np.shape(x))), self._obs)
        head = self.learner.acting.net.head
        shape = (self.rows, self.num_envs)
        flags, mask = np.zeros(shape, bool), self._mask
        mask = None if mask is None else np.broadcast_to(mask, (self.rows, *mask.shape))
        action = np.zeros((*shape, *head.shape), np.float32 if head.continuous else np.int32)
        return Chunk(
            obs=obs, action=action, reward=np.zeros(shape, np.float32), next_obs=obs, terminated=flags, truncated=flags,
            mask=mask, next_mask=mask, first=flags,
        )  # type: ignore[arg-type] # fmt: skip

    def _steps(self, returns: list, lengths: list) -> Chunk:
        """One chunk of `train_freq` steps."""
        rows: list[dict[str, Any]] = []
        pending, self._pending = self._pending, None
        for t in range(self.rows):
            if t == 0 and pending is not None:
                action, self._memory = pending
            else:
                drawn, place = self._drawn(self.iteration - 1)
                seen = self._seen(self._first, self._obs, self._mask, place, np.asarray(t, np.int32))
                action, self._memory = self._action(self._packed, self._memory, drawn, *seen)
            action = np.asarray(action)
            step = self.env.step(action)
            row = dict(
                obs=self._obs, action=action, reward=step.reward, next_obs=step.next_obs,
                terminated=step.terminated, truncated=step.truncated, valid=step.valid, mask=self._mask,
                next_mask=step.next_mask, first=self._first,
            )  # fmt: skip
            rows.append(row)
            self._count(step, returns, lengths)
            self._obs, self._mask = step.obs, step.mask
            if self.on_step is not None:
                valid = np.ones(self.num_envs, bool) if step.valid is None else step.valid
                if not self.on_step(step._replace(valid=valid), action, row["obs"]):
                    self.stopped = True
                    break
        chunk = _join(rows)
        check_chunk(chunk.obs, chunk.next_obs, chunk.reward, self._total_rows + 1)
        self._total_rows += len(rows)
        return chunk

    def _count(self, step: Any, returns: list, lengths: list) -> None:
        """Add one step to the open episodes; note those that ended."""
        done = step.terminated | step.truncated
        if step.valid is None:
            self._ep_return = self._ep_return + step.reward
            self._ep_length = self._ep_length + 1
            self._first = done
        else:
            self._ep_return = self._ep_return + np.where(step.valid, step.reward, 0.0)
            self._ep_length = self._ep_length + step.valid
            self._first = done | ~step.valid
            done = done & step.valid
        if np.count_nonzero(done):  # ten times cheaper than `any`
            self._told += successes(self.env, done)
            returns.extend(self._ep_return[done].tolist())
            lengths.extend(self._ep_length[done].tolist())
            self._ep_return = np.where(done, 0.0, self._ep_return)
            self._ep_length = np.where(done, 0, self._ep_length)


def _pack(batch: PyTree, below: int) -> tuple[jax.Array, ...]:
    return Packing.of(batch, below=below).pack(batch)


def _with_valid(chunk: Chunk) -> Chunk:
    """The chunk in one form, whether or not all its rows are valid."""
    return (
        chunk
        if chunk.valid is not None
        else dataclasses.replace(chunk, valid=np.ones(chunk.reward.shape, bool))
    )


def _join(rows: list[dict[str, Any]]) -> Chunk:
    """Steps as a chunk, time first."""
    if len(rows) == 1:
        return Chunk(**{name: _in_front(x) for name, x in rows[0].items() if x is not None})
    if any(r["valid"] is not None for r in rows):
        full = np.ones(rows[0]["reward"].shape, bool)
        rows = [r | {"valid": full if r["valid"] is None else r["valid"]} for r in rows]
    return Chunk(**jax.tree.map(lambda *x: np.stack(x), *rows))


def _in_front(x: PyTree) -> PyTree:
    """With an axis of time, of one step."""
    return x[None] if isinstance(x, np.ndarray) else jax.tree.map(lambda x: np.asarray(x)[None], x)


def host_runner(
    algorithm: Algorithm, env: HostEnv, seed: int, reference: Any = None, behind: int = 0,
    learners: Learners | None = None,
) -> HostRunner:  # fmt: skip
    """The host loop that suits the algorithm and the environments; ValueError where it takes no `behind`.

    With `behind` learning and the next action are made at the same time, and so not in one call."""
    if isinstance(env, Crew):
        return GroupRunner(algorithm, env, seed, reference, behind, learners)
    if algorithm.steps_singly and not behind:
        return SteppingRunner(algorithm, env, seed, reference)
    return HostRunner(algorithm, env, seed, reference, behind, learners)
