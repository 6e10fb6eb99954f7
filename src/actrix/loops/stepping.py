"""The host loop of algorithms that learn every few steps: from a replay memory, or online.

Learning from one chunk and the first action of the next are a single compiled call: with one environment and an
update per step, the calls would otherwise cost as much as the work in them.
"""

# mypy: disable-error-code="arg-type"
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from actrix.core.contract import Algorithm, Learner
from actrix.core.host import own
from actrix.core.platform import fewer_copies, one_thread
from actrix.core.types import Chunk, PyTree
from actrix.envs.base import HostEnv, successes
from actrix.envs.guard import check_chunk
from actrix.loops.collect import row
from actrix.loops.compiled import SEGMENT_ITERATIONS
from actrix.loops.groups import Crew, GroupRunner
from actrix.loops.host import HostRunner
from actrix.loops.learners import Learners
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
"""Weights times rows of a batch below which a round is compiled for one thread."""


@shared
def _programs(
    algorithm: Algorithm, rows: int, num_envs: int, tree: Any, small: bool, shapes: tuple
) -> tuple[Callable, Callable, Callable]:
    """(begin, round, next action) of learners of this structure, for observations and actions of these shapes."""

    def first_action(learner, memory, first, obs, mask, key, iteration):
        noise = algorithm.noise(learner.acting, iteration_keys(key, iteration)[0], rows, num_envs)
        return *act(learner.acting, memory, first, obs, mask, row(noise, 0)), noise

    def act(acting, memory, first, obs, mask, xi):
        if memory is not None:
            memory = zero_where(first, memory)
        action, _, _, memory = algorithm.act(acting, memory, obs, mask, xi)
        return action, memory

    def begin(leaves, memory, first, obs, mask, key, iteration):
        return first_action(jax.tree.unflatten(tree, leaves), memory, first, obs, mask, key, iteration)

    def round_(leaves, totals, kept, chunk, memory, first, obs, mask, key, iteration):
        learner = jax.tree.unflatten(tree, leaves)
        learner, metrics = algorithm.learn(learner, chunk, iteration_keys(key, iteration)[1])
        kept, metrics = keep_batch(kept, metrics, _with_valid(chunk))
        values = jnp.stack([jnp.asarray(metrics[name], jnp.float32) for name in sorted(metrics)])
        known = ~jnp.isnan(values)
        totals = totals + jnp.stack([jnp.where(known, values, 0.0), known.astype(jnp.float32)])
        out = first_action(learner, memory, first, obs, mask, key, iteration + 1)
        return tuple(jax.tree.leaves(learner)), totals, kept, *out

    def next_action(leaves, memory, first, obs, mask, noise, t):
        return act(jax.tree.unflatten(tree, leaves).acting, memory, first, obs, mask, row(noise, t))

    options = one_thread() if small else fewer_copies()
    return (
        jax.jit(begin, compiler_options=options),
        jax.jit(round_, donate_argnums=(0, 1, 2), compiler_options=options),
        jax.jit(next_action, compiler_options=options),
    )


class SteppingRunner(HostRunner):
    """Trains one seed on any `HostEnv`, `train_freq` steps at a time; `advance(k)` makes k such rounds."""

    def __init__(self, algorithm: Algorithm, env: HostEnv, seed: int, reference: Any = None):
        self._leaves: tuple = ()
        super().__init__(algorithm, env, seed, reference)
        self.capacity = SEGMENT_ITERATIONS
        self._pending: tuple | None = None
        self._round: Any = None

    # The learner is kept as a flat tuple of leaves: flattening nested modules in every call costs more than
    # handing over the arrays.
    @property
    def learner(self) -> Learner:
        """The learner (its arrays are donated to the next round)."""
        return jax.tree.unflatten(self._tree, self._leaves)

    @learner.setter
    def learner(self, learner: Learner) -> None:
        leaves, self._tree = jax.tree.flatten(learner)
        self._leaves = tuple(leaves)
        self._pending = None

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
            return action, memory, noise

        self._pending = with_leaves(jax.eval_shape(first), open_["pending"], "pending")

    def _compile(self) -> None:
        weights = sum(x.size for x in jax.tree.leaves(self.learner.acting.net))
        small = weights * (self.algorithm.data.batch_size or self.rows) < SMALL
        programs = _programs(self.algorithm, self.rows, self.num_envs, self._tree, small, self._shapes)
        self._begin, self._round, self._next = programs

    def advance(self, iterations: int | Sequence[int] = 1) -> list[Report]:
        """So many rounds of `train_freq` steps and an update; one report in a list."""
        (count,) = np.atleast_1d(iterations)
        self._ready(self._latest_acting())
        if self._round is None:
            self._compile()
            example = self._example()
            shapes = jax.eval_shape(self.algorithm.learn, self.learner, example, self.iteration_key)[1]
            self._names = sorted(shapes.keys() - {"batch"})
            self._kept = no_batch((shapes, _with_valid(example)))
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
            self._leaves, totals, self._kept, *self._pending = self._round(
                self._leaves, totals, self._kept, chunk, self._memory, self._first, self._obs, self._mask,
                self.iteration_key, wrapped(self.iteration),
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
            out.batch = views(self._kept[1])
            self._kept = (jnp.zeros((), bool), own(out.batch))
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
        rows: list[Chunk] = []
        pending, self._pending = self._pending, None
        for t in range(self.rows):
            if t == 0:
                if pending is None:
                    pending = self._begin(
                        self._leaves, self._memory, self._first, self._obs, self._mask, self.iteration_key,
                        wrapped(self.iteration),
                    )  # fmt: skip
                action, self._memory, noise = pending
            else:
                action, self._memory = self._next(
                    self._leaves, self._memory, self._first, self._obs, self._mask, noise, np.int32(t)
                )
            action = np.asarray(action)
            step = self.env.step(action)
            row = Chunk(
                obs=self._obs, action=action, reward=step.reward, next_obs=step.next_obs,
                terminated=step.terminated, truncated=step.truncated, valid=step.valid, mask=self._mask,
                next_mask=step.next_mask, first=self._first,
            )  # fmt: skip
            rows.append(row)
            self._count(step, returns, lengths)
            self._obs, self._mask = step.obs, step.mask
            if self.on_step is not None:
                valid = np.ones(self.num_envs, bool) if step.valid is None else step.valid
                if not self.on_step(step._replace(valid=valid), action, row.obs):
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
        self._told += successes(self.env, done)
        if done.any():
            returns.extend(self._ep_return[done].tolist())
            lengths.extend(self._ep_length[done].tolist())
            self._ep_return = np.where(done, 0.0, self._ep_return)
            self._ep_length = np.where(done, 0, self._ep_length)


def _with_valid(chunk: Chunk) -> Chunk:
    """The chunk in one form, whether or not all its rows are valid."""
    return (
        chunk
        if chunk.valid is not None
        else dataclasses.replace(chunk, valid=np.ones(chunk.reward.shape, bool))
    )


def _join(rows: list[Chunk]) -> Chunk:
    """Steps as a chunk, time first."""
    if len(rows) == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], rows[0])
    if any(r.valid is not None for r in rows):
        full = np.ones(rows[0].reward.shape, bool)
        fill = lambda r: full if r.valid is None else r.valid
        rows = [Chunk(**{**vars(r), "valid": fill(r)}) for r in rows]
    return jax.tree.map(lambda *x: np.stack(x), *rows)


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
