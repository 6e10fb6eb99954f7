"""The compiled loop: environment, acting and learning in one XLA program, run in segments."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from actrix.core.contract import Algorithm
from actrix.core.host import own
from actrix.core.shards import spread
from actrix.core.threefry import plain, written_out
from actrix.core.types import Chunk, Key, PyTree, record
from actrix.envs.base import JaxEnv, step_keys
from actrix.envs.jax_envs import vector_reset, vector_step
from actrix.files.checkpoint import Snapshot
from actrix.loops.learners import mesh_of, placed, shares
from actrix.loops.runner import (
    Report,
    as_key,
    finished_episodes,
    iteration_keys,
    keep_batch,
    key_from,
    leaves,
    no_batch,
    report,
    run_keys,
    shared,
    views,
    warm_up_key,
    with_leaves,
    wrapped,
)
from actrix.nets.memory import zero_where

SEGMENT_ROWS = 1 << 20
SEGMENT_ITERATIONS = 1 << 14
"""Largest numbers of rows and of iterations in a segment: its record of episodes and metrics stays small."""


@record
class EnvCarry:
    """Everything of N environments that passes from one chunk to the next."""

    state: PyTree
    obs: PyTree
    mask: jax.Array | None
    carry: PyTree
    first: jax.Array
    number: jax.Array
    """Counts resets and steps for `step_keys`."""
    ep_return: jax.Array
    ep_length: jax.Array


@record
class Episodes:
    """Which rows of a chunk `[T, N]` ended an episode, and that episode's return and length."""

    done: jax.Array
    ep_return: jax.Array
    ep_length: jax.Array


@record
class TrainState:
    """One seed's whole training state."""

    learner: PyTree
    env: EnvCarry
    env_key: Key
    iteration_key: Key
    iteration: jax.Array


def reset(
    algorithm: Algorithm, acting: Any, env: JaxEnv, num_envs: int, key: Key, number: jax.Array
) -> EnvCarry:
    """Start a new episode in every environment."""
    state, obs, mask = vector_reset(env, plain(step_keys(written_out(key, num_envs), number, num_envs)))
    return EnvCarry(
        state, obs, mask, algorithm.initial_carry(acting, num_envs), jnp.ones(num_envs, bool), number + 1,
        jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32),
    )  # fmt: skip


def collect(
    algorithm: Algorithm, acting: Any, env: JaxEnv, carry: EnvCarry, env_key: Key, noise_key: Key, rows: int,
    whole: bool | None = None,
) -> tuple[EnvCarry, Chunk, Episodes]:  # fmt: skip
    """Fill one chunk of `rows` steps, or of one `whole` episode per environment (None: as the algorithm says), with the
    behaviour policy."""
    num_envs, whole = carry.first.shape[0], algorithm.whole_episodes if whole is None else whole
    if whole:
        carry = reset(algorithm, acting, env, num_envs, env_key, carry.number)
    # All randomness is drawn before the scan: one large draw costs a fraction of many small ones.
    noise = algorithm.noise(acting, noise_key, rows, num_envs)
    numbers, key = carry.number + jnp.arange(rows, dtype=jnp.uint32), written_out(env_key, rows * num_envs)
    keys = plain(jax.vmap(lambda number: step_keys(key, number, num_envs))(numbers))

    def step(state: tuple[EnvCarry, jax.Array], draw: tuple) -> tuple[tuple[EnvCarry, jax.Array], tuple]:
        (now, alive), (xi, key) = state, draw
        memory = zero_where(now.first, now.carry)
        action, log_prob, dist, memory = algorithm.act(acting, memory, now.obs, now.mask, xi)
        if algorithm.shown:
            action = jax.vmap(env.shown)(now.state)  # type: ignore[attr-defined]
            log_prob = dist.log_prob(action)
        env_state, out = vector_step(env, now.state, action, key)
        done = out.terminated | out.truncated
        ep_return, ep_length = now.ep_return + out.reward, now.ep_length + 1
        row = Chunk(
            obs=now.obs, action=action, reward=out.reward, next_obs=out.next_obs, terminated=out.terminated,
            truncated=out.truncated, valid=alive if whole else None, log_prob=log_prob, dist=dist,
            mask=now.mask, next_mask=out.next_mask, first=now.first, prompts=env.spec.prompts,
        )  # fmt: skip
        after = EnvCarry(
            env_state, out.obs, out.mask, memory, done, now.number + 1,
            jnp.where(done, 0.0, ep_return), jnp.where(done, 0, ep_length),
        )  # fmt: skip
        return (after, alive & ~done if whole else alive), (row, Episodes(done & alive, ep_return, ep_length))

    state = (carry, jnp.ones(num_envs, bool))
    (after, alive), (chunk, episodes) = jax.lax.scan(step, state, (noise, keys))
    if whole:  # an episode longer than the chunk counts as truncated
        chunk = dataclasses.replace(chunk, truncated=chunk.truncated.at[-1].set(chunk.truncated[-1] | alive))
        episodes = dataclasses.replace(episodes, done=episodes.done.at[-1].set(episodes.done[-1] | alive))
    # Where several devices learn, each has collected from its own environments.
    return after, dataclasses.replace(spread(chunk, 1, num_envs), carry0=carry.carry), episodes


class CompiledRunner:
    """Trains one or several seeds in segments of a whole number of iterations.

    Several seeds are sharded over the host's devices and run one after another on each (`lax.map`): on a CPU
    `vmap` gains nothing for compute-bound updates, and may deadlock. With several learners each seed has them all:
    its environments and batches are shared among so many devices.
    """

    backend = "jax"

    more = False

    def __init__(
        self, algorithm: Algorithm, env: JaxEnv, num_envs: int, seeds: Sequence[int], reference: Any = None,
        learners: int = 1,
    ):  # fmt: skip
        self.algorithm, self.env, self.num_envs, self.seeds = algorithm, env, num_envs, tuple(seeds)
        self.spec = env.spec
        self.rows = algorithm.rows(env.spec)
        self.capacity = max(1, min(SEGMENT_ROWS // (self.rows * num_envs), SEGMENT_ITERATIONS))
        self.warm_up = algorithm.warm_up(self.rows, num_envs)
        # Seeds are sharded evenly over the devices: copies of the last one, which never run, fill up.
        self.shards = min(len(jax.local_devices()), len(self.seeds)) if learners == 1 else 1
        self.devices = learners
        self.idle = -len(self.seeds) % self.shards
        self._first_reset = _first_reset(algorithm, env, num_envs)
        states = [self._initial(seed, reference) for seed in self.seeds]
        self.state = self._stack(states)
        self._segment: Any = None
        self._warm: Any = None

    def _initial(self, seed: int, reference: Any) -> TrainState:
        init_key, env_key, iteration_key = run_keys(seed)
        learner = self.algorithm.init(init_key, self.spec, self.num_envs, reference)
        carry = self._first_reset(env_key, learner.acting)
        return TrainState(learner, carry, env_key, iteration_key, jnp.zeros((), jnp.int32))

    @property
    def learners(self) -> list[Any]:
        """A copy of each seed's learner."""
        learner = jax.device_get(self.state.learner)
        return [jax.tree.map(lambda x, i=i: own(x[i]), learner) for i in range(len(self.seeds))]

    @property
    def actings(self) -> list[Any]:
        """A copy of what each seed's policy acts with."""
        acting = jax.device_get(self.state.learner.acting)
        return [jax.tree.map(lambda x, i=i: own(x[i]), acting) for i in range(len(self.seeds))]

    def set_learners(self, learners: Sequence[Any], iterations: Sequence[int]) -> None:
        """Go on from these learners (a resumed run, a warm start) after so many iterations of each."""
        done = self._stack([wrapped(n) for n in iterations])
        self.state = dataclasses.replace(self.state, learner=None)  # its memory goes before another one comes
        self.state = dataclasses.replace(self.state, learner=self._stack(learners), iteration=done)

    def snapshots(self) -> list[Snapshot]:
        """Each seed's whole training state."""
        learner, env = views((self.state.learner, self.state.env))
        env_keys, iteration_keys = views(
            jax.tree.map(jax.random.key_data, (self.state.env_key, self.state.iteration_key))
        )
        of = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
        return [
            Snapshot(
                of(learner, i),
                {
                    "iteration_key": iteration_keys[i],
                    "env": {"key": env_keys[i], "carry": leaves(of(env, i))},
                },
            )
            for i in range(len(self.seeds))
        ]

    def set_loops(self, loops: Sequence[dict[str, Any]]) -> bool:
        """Go on in the episodes and random streams of these snapshots' loops; whether the episodes could be.

        Raises ValueError where they are another loop's.
        """
        iteration_keys = [key_from(loop["iteration_key"], "iteration_key") for loop in loops]
        state = dataclasses.replace(self.state, iteration_key=self._stack(iteration_keys))
        known = all(loop["env"] is not None for loop in loops)
        if known:
            template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.state.env)
            carries = [with_leaves(template, loop["env"]["carry"], "carry") for loop in loops]
            env_keys = [key_from(loop["env"]["key"], "key") for loop in loops]
            state = dataclasses.replace(state, env=self._stack(carries), env_key=self._stack(env_keys))
        self.state = state
        return known

    def _stack(self, trees: Sequence[Any]) -> Any:
        return jax.tree.map(_stacked, *trees, *[trees[-1]] * self.idle)

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start the environments anew, each seed's from another random stream."""

        def restart(state: TrainState, env_key: Key) -> TrainState:
            carry = reset(
                self.algorithm, state.learner.acting, self.env, self.num_envs, env_key, jnp.uint32(0)
            )
            return dataclasses.replace(state, env=carry, env_key=env_key)

        keys = self._stack([run_keys(seed)[1] for seed in seeds])
        self.state = jax.jit(lambda states, keys: jax.lax.map(lambda x: restart(*x), (states, keys)))(
            self.state, keys
        )

    @property
    def iteration(self) -> int:
        """Iterations done so far, modulo 2³²: the counter is an int32 that wraps."""
        return int(self.state.iteration[0]) % 2**32

    def set_training(self, **numbers: ArrayLike) -> None:
        """Replace numbers of every seed's `training`, e.g. its step counter or its settings (`core/numbers.py`)."""
        seeds = len(self.seeds) + self.idle
        full = {name: own(np.stack([np.asarray(x, np.float32)] * seeds)) for name, x in numbers.items()}
        training = dataclasses.replace(self.state.learner.training, **full)
        self.state = dataclasses.replace(
            self.state, learner=dataclasses.replace(self.state.learner, training=training)
        )

    def warm(self) -> list[Report]:
        """Collect the chunks that are not learned from: the random phase of a replay memory, the first
        statistics of a normaliser. [] where there are none."""
        pieces, rows = self.warm_up
        if not pieces:
            return []

        if self._warm is None:
            self._warm = _warm(self.algorithm, self.env, rows, pieces, len(self.seeds))
        self.state, out = self._warm(self.state)
        return self._reports(out, np.full(len(self.seeds), pieces, np.int32))

    def advance(self, iterations: int | Sequence[int]) -> list[Report]:
        """Run so many iterations, ≤ `capacity`, of every seed (or of each its own number); one report per seed."""
        if self._segment is None:
            self._segment = self._compile()
        if self.shards > 1:  # also what was set since: unplaced it would make another program
            axis = jax.sharding.PartitionSpec("seeds")
            self.state = jax.device_put(self.state, jax.sharding.NamedSharding(_mesh(self.shards), axis))
        each = np.zeros(len(self.seeds) + self.idle, np.int32)
        each[: len(self.seeds)] = iterations
        self.state, out, (_, batches) = self._segment(self.state, each)
        reports = self._reports(out, each)
        for i, found in enumerate(reports):
            if found.nonfinite:
                found.batch = jax.tree.map(lambda x, i=i: np.asarray(x[i]), batches)
        return reports

    def close(self) -> None:
        """Nothing to release."""

    def _compile(self):
        each = len(self.seeds) + self.idle
        return _segment(
            self.algorithm, self.env, self.num_envs, self.rows, self.capacity, self.shards, each, self.devices
        )

    def _reports(self, out: tuple, each: np.ndarray) -> list[Report]:
        out = jax.device_get(out)
        reports = []
        for i in range(len(self.seeds)):
            metrics, episodes, steps = jax.tree.map(lambda x, i=i: x[i, : each[i]], out)
            returns, lengths = finished_episodes(episodes.done, episodes.ep_return, episodes.ep_length)
            reports.append(report(int(np.sum(steps)), int(each[i]), metrics, returns, lengths))
        return reports


@shared
def _first_reset(algorithm: Algorithm, env: JaxEnv, num_envs: int) -> Callable:
    return jax.jit(lambda key, acting: reset(algorithm, acting, env, num_envs, key, jnp.uint32(0)))


@shared
def _warm(algorithm: Algorithm, env: JaxEnv, rows: int, pieces: int, seeds: int) -> Callable:
    def one(state: TrainState, piece: jax.Array) -> tuple[TrainState, tuple]:
        acting = algorithm.warm_acting(state.learner.acting)
        noise_key, whole = warm_up_key(written_out(state.iteration_key), piece), algorithm.warms_up_whole
        carry, chunk, episodes = collect(
            algorithm, acting, env, state.env, state.env_key, noise_key, rows, whole
        )
        learner = algorithm.observe(state.learner, chunk)
        return dataclasses.replace(state, learner=learner, env=carry), ({}, episodes, _valid_rows(chunk))

    every = lambda state: jax.lax.scan(one, state, jnp.arange(pieces))
    return jax.jit(lambda states: _map(every, states), donate_argnums=0)


def _stacked(*xs: Any) -> jax.Array:
    """The seeds' arrays as one; of a single seed without another copy of a memory."""
    if jnp.issubdtype(xs[0].dtype, jax.dtypes.prng_key):
        return as_key(np.stack([jax.random.key_data(x) for x in xs]))
    return own(np.asarray(xs[0])[None] if len(xs) == 1 else np.stack(xs))


def _mesh(shards: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.local_devices()[:shards]), ("seeds",))


@shared
def _segment(
    algorithm: Algorithm, env: JaxEnv, num_envs: int, rows: int, capacity: int, shards: int, seeds: int,
    learners: int,
) -> Callable:  # fmt: skip
    @functools.partial(jax.jit, inline=True)  # traced once, for its shapes and for the loop
    def iteration(state: TrainState) -> tuple[TrainState, tuple, tuple]:
        noise_key, learn_key = iteration_keys(written_out(state.iteration_key), state.iteration)
        acting = state.learner.acting
        carry, chunk, episodes = collect(algorithm, acting, env, state.env, state.env_key, noise_key, rows)
        learner, metrics = algorithm.learn(state.learner, chunk, learn_key)
        state = TrainState(learner, carry, state.env_key, state.iteration_key, state.iteration + 1)
        return state, (metrics, chunk), (episodes, _valid_rows(chunk))

    def one(state: TrainState, iterations: jax.Array) -> tuple[TrainState, tuple, tuple]:
        _, learned, more = jax.eval_shape(iteration, state)
        shapes = ({name: s for name, s in learned[0].items() if name != "batch"}, *more)
        record = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)

        def body(i: jax.Array, both: tuple) -> tuple:
            (state, record, kept), row = both, i.astype(jnp.uint32)  # no write looks at its sign
            state, learned, more = iteration(state)
            kept, metrics = keep_batch(kept, *learned)
            write = lambda r, o: jax.lax.dynamic_update_index_in_dim(r, o, row, 0)
            return state, jax.tree.map(write, record, (metrics, *more)), kept

        return jax.lax.fori_loop(0, iterations, body, (state, record, no_batch(learned)))

    many = lambda states, iterations: _map(lambda pair: one(*pair), (states, iterations))

    if learners > 1:
        return _by_learners(many, learners, num_envs)
    if shards == 1:
        return jax.jit(many, donate_argnums=0)
    axis = jax.sharding.PartitionSpec("seeds")
    sharded = jax.shard_map(many, mesh=_mesh(shards), in_specs=(axis, axis), out_specs=axis, check_vma=False)
    return jax.jit(sharded, donate_argnums=0)


def _by_learners(many: Callable, learners: int, num_envs: int) -> Callable:
    """A segment in which each device has a share of the environments, and the learner is whole on each."""

    program: list[Callable] = []

    def call(states: TrainState, iterations: np.ndarray) -> tuple[TrainState, tuple, tuple]:
        rest = shares(dataclasses.replace(states, env=None), learners)  # type: ignore[arg-type]
        where = dataclasses.replace(rest, env=shares(states.env, learners, 1, num_envs))
        if not program:
            program.append(jax.jit(many, donate_argnums=0, out_shardings=(where, None, None)))
        states = jax.tree.map(jax.device_put, states, where)
        with jax.set_mesh(mesh_of(learners)):
            return program[0](states, placed(iterations, learners))

    return call


def _map(function: Any, xs: PyTree) -> PyTree:
    """`lax.map`, which copies every leaf once more, only where there is more than one item."""
    if len(jax.tree.leaves(xs)[0]) > 1:
        return jax.lax.map(function, xs)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x.reshape(x.shape[1:]), xs)))


def _valid_rows(chunk: Chunk) -> jax.Array:
    return jnp.asarray(chunk.reward.size) if chunk.valid is None else jnp.sum(chunk.valid)
