"""The host loop: a numpy environment stepped from Python, with compiled acting and learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector.utils import batch_space

from actrix.core.contract import Algorithm
from actrix.core.types import Chunk, PyTree
from actrix.envs.base import HostEnv, Step
from actrix.envs.guard import check_chunk, conform
from actrix.envs.jax_envs import HostJax
from actrix.files.checkpoint import Snapshot
from actrix.loops.runner import (
    Report,
    finished_episodes,
    iteration_keys,
    key_from,
    leaves,
    own,
    report,
    run_keys,
    shared,
    views,
    warm_up_key,
    with_leaves,
    wrapped,
)
from actrix.nets.memory import zero_where


@shared
def _programs(algorithm: Algorithm, shapes: tuple) -> tuple[Callable, Callable, Callable]:
    """(learn, noise, observe) for observations and actions of these shapes."""

    def learn(learner: PyTree, chunk: Chunk, key: jax.Array, iteration: jax.Array):
        return algorithm.learn(learner, chunk, iteration_keys(key, iteration)[1])

    noise = jax.jit(algorithm.noise, static_argnums=(2, 3))
    return jax.jit(learn, donate_argnums=0), noise, jax.jit(algorithm.observe, donate_argnums=0)


# The acting part of the learner reaches the compiled function as a flat tuple of leaves: flattening nested
# modules at every step would cost more than the small network itself. What only `learn` needs of a step is
# written into `record` [T, N, ...] on the device: handing it over row by row would cost as much again.
@shared
def _acts(algorithm: Algorithm, tree: Any, shapes: tuple) -> Callable:
    def act(leaves, record, memory, first, obs, mask, noise, t):
        acting = jax.tree.unflatten(tree, leaves)
        if memory is not None:
            memory = zero_where(first, memory)
        action, log_prob, dist, memory = algorithm.act(acting, memory, obs, mask, row(noise, t))
        rows = jax.tree.map(lambda r, x: r.at[t].set(x), record, (log_prob, dist))
        return action, memory, rows

    return jax.jit(act, donate_argnums=1)


class HostRunner:
    """Trains one seed on any `HostEnv`; each `advance(1)` is one chunk and one update."""

    def __init__(self, algorithm: Algorithm, env: HostEnv, seed: int, reference: Any = None):
        if algorithm.shown:
            raise ValueError("data shown needs a compiled environment that shows answers: give its id.")
        self.algorithm, self.env, self.num_envs, self.seeds = algorithm, env, env.num_envs, (seed,)
        self.spec, self.backend = env.spec, env.backend
        self.rows = algorithm.rows(env.spec)
        self.capacity = 1
        self.warm_up = algorithm.warm_up(self.rows, self.num_envs)
        init_key, self._env_key, self.iteration_key = run_keys(seed)
        learner = algorithm.init(init_key, env.spec, self.num_envs, reference)
        self.learner = jax.tree.map(jnp.array, learner)  # donated leaves must not share a buffer
        self.iteration = 0
        self.on_step: Callable[[Step, np.ndarray, Any], bool] | None = None
        """Called after every environment step with its action and what it was chosen for; returning False ends the
        chunk's training early."""
        self.on_rollout: Callable[[str], None] | None = None
        """Called with "start" before a chunk is collected and with "end" before it is learned from."""
        self.stopped = False
        self._obs: Any = None
        self._env_seed = seed
        self._total_rows = 0
        self._between = True  # two chunks; False where one was broken off by an error
        self._shapes = (str(env.spec.observation_space), str(env.spec.action_space), self.num_envs)
        self._learn, self._noise, self._observe = _programs(algorithm, self._shapes)
        self._act: Callable | None = None
        self._row: PyTree = None

    def _record(self, acting: PyTree, rows: int) -> PyTree:
        """Empty room for (log_prob, dist) of a chunk."""
        if self._row is None:
            step = lambda a, m, o, k: self.algorithm.act(
                a, m, o, k, row(self.algorithm.noise(a, self.iteration_key, 1, self.num_envs), 0)
            )
            out = jax.eval_shape(step, acting, self._memory, self._obs, self._mask)
            self._row = (out[1], out[2])
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), self._row)

    @property
    def learners(self) -> list[Any]:
        """A copy of the learner (the loop's own is donated to the next update)."""
        return [jax.tree.map(jnp.array, self.learner)]

    def set_learners(self, learners: Sequence[Any], iterations: Sequence[int]) -> None:
        """Go on from this learner (a resumed run, a warm start)."""
        self.learner = None  # its memory goes before another one comes
        self.learner = own(learners[0])
        (self.iteration,) = iterations

    @property
    def actings(self) -> list[Any]:
        """A copy of what the policy acts with."""
        return [jax.tree.map(jnp.array, self.learner.acting)]

    def set_training(self, **numbers: PyTree) -> None:
        """Replace numbers of the learner's `training`, e.g. its step counter or its settings (`core/numbers.py`)."""
        arrays = jax.tree.map(lambda x: jnp.asarray(float(x), jnp.float32), numbers)
        training = dataclasses.replace(self.learner.training, **arrays)
        self.learner = dataclasses.replace(self.learner, training=training)

    def snapshots(self) -> list[Snapshot]:
        """The whole training state, in a list."""
        loop = {"iteration_key": views(jax.random.key_data(self.iteration_key)), "open": self.open_episodes}
        get_state = getattr(self.env, "get_state", lambda: None)
        envs = get_state() if self._between and self._obs is not None else None
        return [
            Snapshot(
                views(self.learner), {**loop, "env": None if envs is None else {"envs": envs, **self._open()}}
            )
        ]

    def _open(self) -> dict[str, Any]:
        """What the loop carries from one chunk to the next besides the environments, as plain data."""
        return {
            "key": views(jax.random.key_data(self._env_key)), "obs": self._obs, "mask": self._mask,
            "first": self._first, "memory": leaves(self._memory), "ep_return": self._ep_return,
            "ep_length": self._ep_length, "rows": self._total_rows,
        }  # fmt: skip

    def set_loops(self, loops: Sequence[dict[str, Any]]) -> bool:
        """Go on in the episodes and random streams of this snapshot's loop; whether the episodes could be.

        Raises ValueError where it is another loop's, EnvError where the environments are others.
        """
        (loop,) = loops
        self.iteration_key = key_from(loop["iteration_key"], "iteration_key")
        if (
            loop["env"] is None
            or getattr(self.env, "unsupported", None)
            or not hasattr(self.env, "set_state")
        ):
            return False
        self.env.set_state(loop["env"]["envs"])
        self._reopen(loop["env"])
        return True

    def _reopen(self, open_: dict[str, Any]) -> None:
        """The inverse of `_open`; ValueError where it is none."""
        n, spec = self.num_envs, self.spec
        conform(batch_space(spec.observation_space, n), open_["obs"], _misfit, "obs")
        mask = None if spec.mask_size is None else (bool, (n, spec.mask_size))
        of = {"mask": mask, "first": (bool, (n,)), "ep_return": (float, (n,)), "ep_length": (np.int64, (n,))}
        for name, wanted in of.items():
            x = open_[name]
            if (None if x is None else (x.dtype, x.shape)) != wanted:
                _misfit(f"{name} does not fit {n} environments.")
        if type(open_["rows"]) is not int or open_["rows"] < 0:
            _misfit(f"rows is {str(open_['rows'])[:80]}.")
        carry = jax.eval_shape(lambda: self.algorithm.initial_carry(self.learner.acting, n))
        self._memory = with_leaves(carry, open_["memory"], "memory")
        self._env_key = key_from(open_["key"], "key")
        self._obs, self._mask, self._first = open_["obs"], open_["mask"], open_["first"]
        self._ep_return, self._ep_length = open_["ep_return"], open_["ep_length"]
        self._total_rows = open_["rows"]

    @property
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""
        return 0 if self._obs is None else int(np.count_nonzero(self._ep_length))

    def restart(self) -> None:
        """Start new episodes at the next step, from the environments' own random streams."""
        if self._obs is not None:
            self._reset(None)

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start the environments anew from another seed at the next step."""
        (seed,) = seeds
        self._env_seed, self._obs = seed, None
        self._env_key = run_keys(seed)[1]

    def warm(self) -> list[Report]:
        """Collect the chunks that are not learned from: the random phase of a replay memory, the first
        statistics of a normaliser. [] where there are none."""
        pieces, rows = self.warm_up
        steps, episodes = 0, []
        self._between = False
        on_step, on_rollout = self.on_step, self.on_rollout
        self.on_step = self.on_rollout = None  # callbacks see training only
        for piece in range(pieces):
            acting = self.algorithm.warm_acting(self.learner.acting)
            chunk, finished = self._collect(rows, warm_up_key(self.iteration_key, piece), acting)
            self.learner = self._observe(self.learner, chunk)
            steps += _valid_rows(chunk)
            episodes.append(finished)
        self.on_step, self.on_rollout = on_step, on_rollout
        self._between = True
        returns, lengths = zip(*episodes, strict=True) if episodes else ((), ())
        return [report(steps, pieces, {}, np.concatenate(returns), np.concatenate(lengths))] if pieces else []

    def advance(self, iterations: int | Sequence[int] = 1) -> list[Report]:
        """One chunk and one update (`iterations` may say no more); returns one report in a list."""
        noise_key = iteration_keys(self.iteration_key, wrapped(self.iteration))[0]
        self._between = False
        self._rollout("start")
        chunk, episodes = self._collect(self.rows, noise_key, self.learner.acting)
        if not self.stopped:
            self._rollout("end")
        if self.stopped:
            if self.learner.memory is not None:  # the next row must not seem to follow the last one in it
                self._first = np.ones(self.num_envs, bool)
            self._between = True
            return [report(_valid_rows(chunk), 0, {}, *episodes)]
        self.learner, metrics = self._learn(self.learner, chunk, self.iteration_key, wrapped(self.iteration))
        self.iteration += 1
        self._between = True
        numbers = {name: x for name, x in metrics.items() if name != "batch"}
        out = report(_valid_rows(chunk), 1, jax.device_get(numbers), *episodes)
        if out.nonfinite:
            out.batch = metrics.get("batch", chunk)
        return [out]

    def close(self) -> None:
        self.env.close()

    def _rollout(self, moment: str) -> None:
        if self.on_rollout is not None:
            self.on_rollout(moment)

    def _start(self) -> None:
        if isinstance(self.env, HostJax):  # the very episodes of the compiled loop
            self.env.key, self.env.number = self._env_key, 0
            self._reset(None)
            return
        seeds = np.random.SeedSequence(self._env_seed).generate_state(self.num_envs)
        self._reset([int(s) % 2**31 for s in seeds])

    def _reset(self, seeds: list[int] | None) -> None:
        self._obs, self._mask = self.env.reset(seeds)
        self._first = np.ones(self.num_envs, bool)
        self._memory = self.algorithm.initial_carry(self.learner.acting, self.num_envs)
        self._ep_return, self._ep_length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def _ready(self) -> None:
        """Begin; anew where somebody else stepped the environments since (`VecEnv`)."""
        played = getattr(self.env, "played", False)
        if played:
            self.env.played = False  # type: ignore[attr-defined]
        if self._obs is None:
            self._start()
        elif played:
            self._reset(None)

    def _collect(
        self, rows: int, noise_key: jax.Array, acting: PyTree
    ) -> tuple[Chunk, tuple[np.ndarray, np.ndarray]]:
        whole = self.algorithm.whole_episodes
        self._ready()
        if whole:
            self._reset(None)
        if self._act is None:
            self._act = _acts(self.algorithm, jax.tree.structure(acting), self._shapes)
        act, leaves = self._act, tuple(jax.tree.leaves(acting))
        noise = self._noise(acting, noise_key, rows, self.num_envs)
        record = self._record(acting, rows)
        carry0, alive = self._memory, np.ones(self.num_envs, bool)
        seen: list[tuple] = []
        steps: list[Step] = []
        for t in range(rows):
            action, self._memory, record = act(
                leaves, record, self._memory, self._first, self._obs, self._mask, noise, np.int32(t)
            )
            action = np.asarray(action)
            step = self.env.step(action)
            valid = alive if step.valid is None else alive & step.valid
            seen.append((self._obs, action, self._mask, self._first, valid))
            steps.append(step)
            done = step.terminated | step.truncated
            self._obs, self._mask = step.obs, step.mask
            self._first = done if step.valid is None else done | ~step.valid
            if self.on_step is not None and not self.on_step(step._replace(valid=valid), action, seen[-1][0]):
                self.stopped = True
                break
            if whole:
                alive = alive & ~done
                if not alive.any():
                    break
        chunk = self._chunk(seen, steps, record, carry0, rows, whole)
        return chunk, self._episodes(chunk)

    def _chunk(
        self, seen: list[tuple], steps: list[Step], record: PyTree, carry0: PyTree, rows: int, whole: bool
    ) -> Chunk:
        obs, action, mask, first, valid = map(_stack, zip(*seen, strict=True))
        step = Step(*map(_stack, zip(*steps, strict=True)))
        check_chunk(obs, step.next_obs, step.reward, self._total_rows + 1)
        self._total_rows += len(steps)
        truncated = step.truncated  # a fresh array: it may be written to
        if whole and len(steps) == rows:  # an episode longer than the chunk counts as truncated
            truncated[-1] |= valid[-1] & ~step.terminated[-1]
        holes = whole or step.valid is not None
        chunk = Chunk(
            obs=obs, action=action, reward=step.reward, next_obs=step.next_obs, terminated=step.terminated,
            truncated=truncated, valid=valid if holes else None, mask=mask, next_mask=step.next_mask, first=first,
            prompts=self.spec.prompts,
        )  # fmt: skip
        missing = rows - len(steps)
        if whole and missing:
            if isinstance(self.env, HostJax):
                self.env.number += missing
            pad = lambda x: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
            chunk = jax.tree.map(pad, chunk)
        log_prob, dist = record
        return dataclasses.replace(chunk, log_prob=log_prob, dist=dist, carry0=carry0)

    def _episodes(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths of the episodes that ended in the chunk; open ones are carried on."""
        valid = np.ones_like(chunk.terminated) if chunk.valid is None else chunk.valid
        done = (chunk.terminated | chunk.truncated) & valid
        totals = self._ep_return + np.cumsum(np.where(valid, chunk.reward, 0.0), axis=0, dtype=np.float64)
        counts = self._ep_length + np.cumsum(valid, axis=0)
        ep_return, ep_length = np.array(totals), np.array(counts)
        before, length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        for t, n in np.argwhere(done):
            ep_return[t, n] -= before[n]
            ep_length[t, n] -= length[n]
            before[n], length[n] = totals[t, n], counts[t, n]
        self._ep_return, self._ep_length = totals[-1] - before, counts[-1] - length
        return finished_episodes(np.asarray(done), ep_return, ep_length)


def _misfit(what: str) -> NoReturn:
    raise ValueError(what)


def row(noise: PyTree, t: jax.Array | int) -> PyTree:
    """Step t of a chunk's noise."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, keepdims=False), noise)


def _valid_rows(chunk: Chunk) -> int:
    return int(chunk.reward.size if chunk.valid is None else np.sum(chunk.valid))


def _stack(rows: Sequence[PyTree]) -> PyTree:
    """T arrays (or pytrees of arrays, or None) `[N, ...]` → `[T, N, ...]`; None rows among arrays count as true."""
    present = next((row for row in rows if row is not None), None)
    if present is None:
        return None
    if any(row is None for row in rows):  # `valid` of an environment that marks only some steps
        rows = [np.ones_like(present) if row is None else row for row in rows]
    leaves, tree = jax.tree.flatten(present)
    columns = [rows] if present is leaves[0] else zip(*map(jax.tree.leaves, rows), strict=True)
    # One concatenation: np.stack first makes a view of each row.
    stacked = [
        np.concatenate([np.asarray(x) for x in column]).reshape(len(rows), *leaf.shape)
        for column, leaf in zip(columns, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, stacked)
