"""Updates of a table from single transitions, in order of time: one-step, n-step and with eligibility traces."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from actrix.actors.greedy import Explore
from actrix.algorithms.tables import (
    Row,
    TableMethod,
    Tables,
    as_rows,
    behave,
    cell,
    next_value,
    q_of,
    target_probs,
)
from actrix.core.contract import Learner
from actrix.core.distributions import legal_actions
from actrix.core.types import Chunk, Key, PyTree, Spec, record
from actrix.critics import corrections, q_targets, returns, traces


@record
class Memory:
    """What an environment's open episode has left to do."""

    pending: Row | None
    """sarsa: the row whose next action has not been taken yet."""
    window: Row | None
    """n-step: the last n rows `[n, N]`, oldest first, that were not learned from yet."""
    trace: jax.Array | None
    """`[N, K]`."""
    old_value: jax.Array | None
    """`[N]`: what the step before gave to s_t as its successor (true online TD(λ))."""


@record
class State:
    """What the updates of a chunk change."""

    values: jax.Array
    weight: jax.Array | None
    memory: Memory


def initial_memory(algorithm: TableMethod, net: Tables, spec: Spec, num_envs: int) -> Memory:
    """Nothing pending, traces 0."""
    whole, none, no = algorithm.whole_episodes, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, bool)
    mask = None if spec.mask_size is None else jnp.ones((num_envs, spec.mask_size), bool)
    row = Row(none, none, jnp.zeros(num_envs), none, none, no, no, no, no, mask, mask, jnp.ones(num_envs))
    n, traced = algorithm.n_steps, algorithm.lam > 0 or algorithm.trace == "dutch"
    window = jax.tree.map(lambda x: jnp.stack([x] * n), row)
    return jax.tree.map(
        jnp.array,
        Memory(
            pending=row if algorithm.method == "sarsa" else None,
            window=window if n > 1 and not whole else None,
            trace=jnp.zeros((num_envs, net.values.size)) if traced and not whole else None,
            old_value=jnp.zeros(num_envs) if algorithm.trace == "dutch" and not whole else None,
        ),
    )


def learn(
    algorithm: TableMethod, learner: Learner, chunk: Chunk, rate: Any, key: Key
) -> tuple[jax.Array, jax.Array | None, Memory, jax.Array]:
    """(values, weight, memory, TD errors) after the chunk's rows, in order of time."""
    net, explore = learner.acting.net, learner.acting.explore
    rows, shape = as_rows(net, chunk), chunk.reward.shape
    draws: PyTree = None
    if algorithm.method == "sarsa":
        draws = algorithm.actor.draws(key, shape, net.head.size)
    elif algorithm.method == "double-q":
        draws = jax.random.bernoulli(key, shape=shape)

    def enter(state: State, row: Row, due: jax.Array, draw: Any = None) -> tuple[State, jax.Array]:
        return _enter(algorithm, net, explore, rate, state, row, due, draw)

    def step(state: State, both: tuple) -> tuple[State, jax.Array]:
        row, draw = both
        if algorithm.method != "sarsa":
            return enter(state, row, row.valid, draw)
        # Row t−1 is learned from now that a_t is known. One environment learns from a last row at once, as the
        # textbook; several learn from all rows of one time together, else last ones were averaged over fewer.
        pending: Row = state.memory.pending  # type: ignore[assignment]
        next_action = jnp.where(pending.cut, pending.next_action, row.action)
        known = dataclasses.replace(pending, next_action=next_action)
        state, error = enter(state, known, pending.valid & (pending.cut | (row.valid & ~row.first)))
        here = net.replace(values=state.values)
        sampled = behave(algorithm, here, explore, row.next_state, row.next_mask, draw)
        row = dataclasses.replace(row, next_action=sampled)
        if shape[1] == 1:
            ended = row.valid & row.cut
            nothing = lambda state: (state, jnp.zeros_like(error))
            state, last = jax.lax.cond(ended[0], lambda state: enter(state, row, ended), nothing, state)
            row, error = dataclasses.replace(row, valid=row.valid & ~ended), error + last
        memory = dataclasses.replace(state.memory, pending=row)
        return dataclasses.replace(state, memory=memory), error

    state = State(net.values, learner.training.weight, learner.memory)
    state, error = jax.lax.scan(step, state, (rows, draws))
    return state.values, state.weight, state.memory, error


def _enter(
    algorithm: TableMethod,
    net: Tables,
    explore: Explore,
    rate: Any,
    state: State,
    row: Row,
    due: jax.Array,
    coin: Any,
) -> tuple[State, jax.Array]:
    """Learn from a complete row, where due: (state, errors [N])."""
    if state.memory.window is not None:
        return _n_step(algorithm, net, explore, rate, state, row, due)
    value = next_value(algorithm, net, explore, state.values, row)
    index = cell(net, row)
    if coin is not None:  # table `coin` picks the action, the other one values it
        size = net.cells.size * net.head.size
        both = state.values.reshape(2, net.cells.size, net.head.size)[:, row.next_state]
        here = jnp.where(coin[:, None], both[1], both[0])
        value = q_targets.double_value(here, jnp.where(coin[:, None], both[0], both[1]), row.next_mask)
        index = index + jnp.where(coin, size, 0)
    target = q_targets.q_target(
        reward=row.reward, next_value=value, terminated=row.terminated, gamma=algorithm.gamma
    )
    error = jnp.where(due, target - state.values[index], 0)
    if state.memory.trace is not None:
        return _traced(algorithm, net, rate, state, row, due, index, error, value), error
    values, weight = move(state.values, state.weight, index, error, due, rate)
    return State(values, weight, state.memory), error


def move(
    values: jax.Array,
    weight: jax.Array | None,
    index: jax.Array,
    error: jax.Array,
    due: jax.Array,
    rate: Any,
    share: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Values moved by rate·share·error; rate None: by error/number of updates so far. No `share`: an even one."""
    if weight is None:
        if share is None:
            return traces.add_mean(values, index, rate * error, due), None
        return values.at[index].add(jnp.where(due, rate * share * error, 0)), None
    weight = weight.at[index].add(due.astype(weight.dtype))
    part = jnp.where(due, error / jnp.maximum(weight[index], 1), 0)
    return values.at[index].add(part), weight


def _traced(
    algorithm: TableMethod,
    net: Tables,
    rate: Any,
    state: State,
    row: Row,
    due: jax.Array,
    index: jax.Array,
    error: jax.Array,
    following: jax.Array,
) -> State:
    """TD(λ)'s backward view for one row of each environment; `following` is V(s′)."""
    memory, values = state.memory, state.values
    trace, old = memory.trace, memory.old_value
    assert trace is not None
    decay = jnp.where(row.first, 0.0, algorithm.gamma * algorithm.lam)
    if algorithm.method == "q-learning":
        q = q_of(values, net, row.state)
        decay = traces.watkins_decay(decay, q, row.action, legal_actions(q, row.mask))
    z = traces.visit(algorithm.trace, trace, index, decay, rate)
    if old is None:
        change = rate * error[:, None] * z
    else:
        x = jax.nn.one_hot(index, values.size, dtype=values.dtype)
        now = values[index]
        change = traces.true_online_td(
            z=z, delta=error, value=now, old_value=jnp.where(row.first, now, old), x=x, step_size=rate
        )
        old = jnp.where(due, following, old)
    values = values + traces.mean_over_environments(
        jnp.where(due[:, None], change, 0), jnp.where(due[:, None], z, 0)
    )
    z = jnp.where(due[:, None], jnp.where(row.cut[:, None], 0, z), trace)
    return State(values, state.weight, dataclasses.replace(memory, trace=z, old_value=old))


def _n_step(
    algorithm: TableMethod, net: Tables, explore: Explore, rate: Any, state: State, row: Row, due: jax.Array
) -> tuple[State, jax.Array]:
    """Put a row into the window; learn from the oldest once there are n, and from all where the episode ends.

    They are learned from one after the other, each target read from the table that the one before left.
    """
    window: Row = state.memory.window  # type: ignore[assignment]
    row = dataclasses.replace(row, share=traces.shares(cell(net, row), due, state.values.size))
    shifted = jax.tree.map(lambda w, x: jnp.concatenate([w[1:], x[None]]), window, row)
    window = jax.tree.map(lambda s, w: jnp.where(_over(due, s[0])[None], s, w), shifted, window)
    kept = window.valid & ~(due & row.first)[None]  # rows of an episode that was left without an end
    last = jnp.arange(algorithm.n_steps) == algorithm.n_steps - 1
    window = dataclasses.replace(window, valid=jnp.where(last[:, None] & due, True, kept))

    def one(state: State, k: jax.Array, now: jax.Array) -> tuple[State, jax.Array]:
        target = jnp.take(_targets(algorithm, net, explore, state.values, window), k, axis=0)
        old = jax.tree.map(lambda x: jnp.take(x, k, axis=0), window)
        index, now = cell(net, old), now & old.valid
        error = jnp.where(now, target - state.values[index], 0)
        values, weight = move(state.values, state.weight, index, error, now, rate, old.share)
        return State(values, weight, state.memory), error

    state, error = one(state, jnp.zeros((), jnp.int32), due)
    ended = due & row.cut

    def rest(state: State) -> tuple[State, jax.Array]:
        rows = jnp.arange(1, algorithm.n_steps)
        state, errors = jax.lax.scan(lambda s, k: one(s, k, ended), state, rows)
        return state, jnp.sum(jnp.abs(errors), axis=0)

    state, more = jax.lax.cond(jnp.any(ended), rest, lambda s: (s, jnp.zeros_like(error)), state)
    valid = window.valid.at[0].set(window.valid[0] & ~due) & ~ended[None]
    memory = dataclasses.replace(state.memory, window=dataclasses.replace(window, valid=valid))
    return dataclasses.replace(state, memory=memory), jnp.abs(error) + more


def _targets(
    algorithm: TableMethod, net: Tables, explore: Explore, values: jax.Array, window: Row
) -> jax.Array:
    """n-step targets `[n, N]` of the rows of a window, the first of which is the one with n steps."""
    value = next_value(algorithm, net, explore, values, window)
    rows: dict[str, Any] = dict(
        reward=window.reward, next_value=value, terminated=window.terminated, truncated=window.truncated,
        valid=window.valid, gamma=algorithm.gamma,
    )  # fmt: skip
    if algorithm.method != "tree-backup":
        return returns.monte_carlo(**rows)
    pi = target_probs(algorithm, values, net, window.state, window.mask)
    c = jnp.take_along_axis(pi, window.action[..., None], axis=-1)[..., 0]
    return corrections.off_policy_q(q=values[cell(net, window)], trace=c, **rows)


def _over(flag: jax.Array, like: jax.Array) -> jax.Array:
    """`[N]` with as many axes as `like`."""
    return flag.reshape(flag.shape + (1,) * (like.ndim - 1))
