"""The tables of `Tabular`, and its updates from single transitions: one-step, n-step and with traces.

A table is flat: cell s for V(s), cell s·A + a for Q(s, a), and two tables one after the other for double Q-learning.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from actrix.actors import greedy
from actrix.actors.exploration import Draws, Explore
from actrix.algorithms.learner import Learner
from actrix.core import spaces
from actrix.core.distributions import ILLEGAL, ActionHead, action_head, legal_actions
from actrix.core.types import Chunk, Key, PyTree, Spec, record
from actrix.critics import corrections, q_targets, returns, traces


class Tables(eqx.Module):
    """What a tabular model saves: the values and, where a given policy is evaluated, that policy."""

    values: jax.Array
    """`[K]`: V(s), Q(s, a), or two Q tables."""
    policy: jax.Array | None
    """`[S, A]`: π(a|s) of the policy to evaluate; None where Q is improved."""
    cells: spaces.Cells = eqx.field(static=True)
    head: ActionHead = eqx.field(static=True)

    @staticmethod
    def create(spec: Spec, predicts: bool, count: int, initial: float) -> Tables:
        """Fresh tables of an environment; the policy to evaluate is the uniform one."""
        cells, head = spaces.cells(spec.observation_space), action_head(spec.action_space)
        size, actions = cells.size, head.size
        entries = size if predicts else count * size * actions
        policy = jnp.full((size, actions), 1.0 / actions, jnp.float32) if predicts else None
        return Tables(jnp.full(entries, initial, jnp.float32), policy, cells, head)

    def replace(self, **changes: Any) -> Tables:
        """The same with other arrays."""
        return dataclasses.replace(self, **changes)

    def all_q(self) -> jax.Array:
        """Q(s, a) `[S, A]`, the mean of the two tables of double Q-learning."""
        return jnp.mean(self.values.reshape(-1, self.cells.size, self.head.size), axis=0)

    def q(self, state: jax.Array) -> jax.Array:
        """Q(s, ·) `[N, A]`."""
        return q_of(self.values, self, state)

    def target_policy(self) -> jax.Array:
        """π(a|s) `[S, A]`: the policy that is evaluated, or the greedy one."""
        return greedy.greedy_probs(self.all_q()) if self.policy is None else self.policy


@record
class Training:
    """What learning needs besides the tables: how much went into each cell, and counters."""

    weight: jax.Array | None
    """`[K]`: number of updates of a cell (of importance weights, their sum); None with a given learning rate."""
    update: jax.Array
    steps: jax.Array
    """Environment steps learned from, float32; `steps_rest` is what rounding left out of it (Kahan)."""
    steps_rest: jax.Array
    total_steps: jax.Array


@record
class Row:
    """One transition of N environments by the numbers of its states."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array
    next_state: jax.Array
    next_action: jax.Array
    """sarsa: a′; else 0."""
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array
    first: jax.Array
    mask: jax.Array | None
    next_mask: jax.Array | None

    @property
    def cut(self) -> jax.Array:
        """The episode ended here."""
        return self.terminated | self.truncated


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


def initial_memory(algorithm: Any, net: Tables, spec: Spec, num_envs: int) -> Memory:
    """Nothing pending, traces 0."""
    whole, none, no = algorithm.whole_episodes, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, bool)
    mask = None if spec.mask_size is None else jnp.ones((num_envs, spec.mask_size), bool)
    row = Row(none, none, jnp.zeros(num_envs), none, none, no, no, no, no, mask, mask)
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


# ---------------------------------------------------------------------------- reading a table


def q_of(values: jax.Array, net: Tables, state: jax.Array) -> jax.Array:
    """Q(s, ·) `[..., A]` of a flat table; the mean of two."""
    table = values.reshape(-1, net.cells.size, net.head.size)[:, state]
    return table[0] if table.shape[0] == 1 else jnp.mean(table, axis=0)


def behave(
    algorithm: Any, net: Tables, explore: Explore, state: jax.Array, mask: jax.Array | None, noise: Draws
) -> jax.Array:
    """The behaviour policy's action: ε-greedy with its ties broken at random, Boltzmann, or the given policy."""
    actor = algorithm.actor
    if algorithm.predicts:
        logits = jnp.maximum(jnp.log(net.policy[state]), ILLEGAL)  # type: ignore[index]
        legal = legal_actions(logits, mask)
        chosen = jnp.argmax(jnp.where(legal, logits, 2 * ILLEGAL) + noise.gumbel, axis=-1).astype(jnp.int32)
    elif actor.exploration == "boltzmann":
        return actor.choose(net.q(state), explore, noise, mask)
    else:
        chosen = greedy.sample_greedy(net.q(state), noise.gumbel, mask)
    return greedy.explore(chosen, explore.epsilon, noise.uniform, noise.gumbel, mask)


def behaviour_probs(
    algorithm: Any, values: jax.Array, net: Tables, explore: Explore, state: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """μ(·|s) `[..., A]` of that choice."""
    if not algorithm.predicts and algorithm.actor.exploration == "boltzmann":
        return jnp.exp(greedy.boltzmann_log_probs(q_of(values, net, state), explore.temperature, mask))
    chosen = target_probs(algorithm, values, net, state, mask)
    legal = legal_actions(chosen, mask)
    return (1 - explore.epsilon) * chosen + explore.epsilon * legal / jnp.sum(legal, axis=-1, keepdims=True)


def target_probs(
    algorithm: Any, values: jax.Array, net: Tables, state: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """π(·|s) `[..., A]`: greedy with shared ties, or the given policy over the legal actions."""
    if not algorithm.predicts:
        return greedy.greedy_probs(q_of(values, net, state), mask)
    given = net.policy[state]  # type: ignore[index]
    given = jnp.where(legal_actions(given, mask), given, 0)
    return given / jnp.maximum(jnp.sum(given, axis=-1, keepdims=True), jnp.finfo(given.dtype).tiny)


def cell(net: Tables, row: Row) -> jax.Array:
    """The cell that a row updates."""
    return row.state if net.policy is not None else row.state * net.head.size + row.action


def next_value(algorithm: Any, net: Tables, explore: Explore, values: jax.Array, row: Row) -> jax.Array:
    """What the one-step target reads at s′ `[..., N]`; not meaningful where the row terminated."""
    if algorithm.predicts:
        return values[row.next_state]
    q, method = q_of(values, net, row.next_state), algorithm.method
    if method == "sarsa":
        return q_targets.sarsa_value(q, row.next_action)
    if method == "expected-sarsa":
        probs = behaviour_probs(algorithm, values, net, explore, row.next_state, row.next_mask)
        return q_targets.expected_value(q, probs)
    return q_targets.greedy_value(q, row.next_mask)


# ---------------------------------------------------------------------------- learning from a chunk


def learn(
    algorithm: Any, learner: Learner, chunk: Chunk, rate: Any, key: Key
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
        # Row t−1 is learned from now that a_t is known; row t at once if nothing follows it.
        pending: Row = state.memory.pending  # type: ignore[assignment]
        known = dataclasses.replace(pending, next_action=row.action)
        state, error = enter(state, known, pending.valid & row.valid & ~row.first)
        ended = row.valid & row.cut

        def at_once(state: State) -> tuple[State, jax.Array]:
            here = net.replace(values=state.values)
            action = behave(algorithm, here, explore, row.next_state, row.next_mask, draw)
            return enter(state, dataclasses.replace(row, next_action=action), ended)

        state, last = jax.lax.cond(
            jnp.any(ended), at_once, lambda state: (state, jnp.zeros_like(error)), state
        )
        pending = dataclasses.replace(row, valid=row.valid & ~ended)
        memory = dataclasses.replace(state.memory, pending=pending)
        return dataclasses.replace(state, memory=memory), error + last

    state = State(net.values, learner.training.weight, learner.memory)
    state, error = jax.lax.scan(step, state, (rows, draws))
    return state.values, state.weight, state.memory, error


def as_rows(net: Tables, chunk: Chunk) -> Row:
    """The chunk by the numbers of its states."""
    true = jnp.ones(chunk.reward.shape, bool)
    action = jnp.asarray(chunk.action, jnp.int32)
    return Row(
        state=net.cells.index(chunk.obs), action=action, reward=jnp.asarray(chunk.reward),
        next_state=net.cells.index(chunk.next_obs), next_action=jnp.zeros_like(action),
        terminated=jnp.asarray(chunk.terminated), truncated=jnp.asarray(chunk.truncated),
        valid=true if chunk.valid is None else jnp.asarray(chunk.valid),
        first=~true if chunk.first is None else jnp.asarray(chunk.first), mask=chunk.mask, next_mask=chunk.next_mask,
    )  # fmt: skip


def _enter(
    algorithm: Any,
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
    index, offset = cell(net, row), 0
    if coin is not None:  # table `coin` picks the action, the other one values it
        size = net.cells.size * net.head.size
        both = state.values.reshape(2, net.cells.size, net.head.size)[:, row.next_state]
        here = jnp.where(coin[:, None], both[1], both[0])
        value = q_targets.double_value(here, jnp.where(coin[:, None], both[0], both[1]), row.next_mask)
        offset = jnp.where(coin, size, 0)
    index = index + offset
    target = q_targets.q_target(
        reward=row.reward, next_value=value, terminated=row.terminated, gamma=algorithm.gamma
    )
    error = jnp.where(due, target - state.values[index], 0)
    if state.memory.trace is not None:
        return _traced(algorithm, net, rate, state, row, due, index, error, value), error
    values, weight = move(state.values, state.weight, index, error, due, rate)
    return State(values, weight, state.memory), error


def move(
    values: jax.Array, weight: jax.Array | None, index: jax.Array, error: jax.Array, due: jax.Array, rate: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Values moved by rate·error, averaged over the environments; rate None: by error/number of updates so far."""
    if weight is None:
        return traces.add_mean(values, index, rate * error, due), None
    weight = weight.at[index].add(due.astype(weight.dtype))
    share = jnp.where(due, error / jnp.maximum(weight[index], 1), 0)
    return values.at[index].add(share), weight


def _traced(
    algorithm: Any,
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
    algorithm: Any, net: Tables, explore: Explore, rate: Any, state: State, row: Row, due: jax.Array
) -> tuple[State, jax.Array]:
    """Put a row into the window; learn from the oldest once there are n, and from all where the episode ends.

    They are learned from one after the other, each target read from the table that the one before left.
    """
    window: Row = state.memory.window  # type: ignore[assignment]
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
        values, weight = move(state.values, state.weight, index, error, now, rate)
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


def _targets(algorithm: Any, net: Tables, explore: Explore, values: jax.Array, window: Row) -> jax.Array:
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
