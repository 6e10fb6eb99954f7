"""The tables of the tabular methods, what is read from them, and transitions by the numbers of their states.

A table is flat: cell s for V(s), cell s·A + a for Q(s, a), and two tables one after the other for double Q-learning.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp

from actrix.actors import greedy
from actrix.actors.greedy import Draws, Explore, Greedy
from actrix.core import spaces
from actrix.core.distributions import ILLEGAL, ActionHead, action_head, legal_actions
from actrix.core.host import full
from actrix.core.types import Chunk, Spec, record
from actrix.critics import q_targets


class TableMethod(Protocol):
    """What the updates ask of a tabular method; `Tabular` says what the values mean."""

    @property
    def method(self) -> str:
        """What follows r_t."""

    @property
    def actor(self) -> Greedy:
        """How the behaviour explores."""

    @property
    def predicts(self) -> bool:
        """It learns V of a given policy, and improves none."""

    @property
    def gamma(self) -> float:
        """γ."""

    @property
    def n_steps(self) -> int:
        """n of the n-step return."""

    @property
    def lam(self) -> float:
        """λ of the traces."""

    @property
    def trace(self) -> str:
        """'accumulating', 'replacing' or 'dutch'."""

    @property
    def visits(self) -> str:
        """mc: 'first' or 'every'."""

    @property
    def importance(self) -> str:
        """mc: how behaviour is corrected for."""

    @property
    def whole_episodes(self) -> bool:
        """A chunk is one whole episode of every environment."""


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
        policy = full((size, actions), 1.0 / actions, jnp.float32) if predicts else None
        return Tables(full(entries, initial, jnp.float32), policy, cells, head)

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
    share: jax.Array
    """n-step: weight among the environments that came to the cell together; else 1."""

    @property
    def cut(self) -> jax.Array:
        """The episode ended here."""
        return self.terminated | self.truncated


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
        share=jnp.ones(chunk.reward.shape),
    )  # fmt: skip


def episode_rows(episode_length: int | None, spec: Spec) -> int:
    """Rows of a chunk of whole episodes; ValueError where neither the setting nor the environment has a limit."""
    rows = episode_length or spec.max_episode_steps
    if rows is None:
        raise ValueError("this environment has no time limit: give episode_length, the longest to wait for.")
    return rows


# ---------------------------------------------------------------------------- reading a table


def q_of(values: jax.Array, net: Tables, state: jax.Array) -> jax.Array:
    """Q(s, ·) `[..., A]` of a flat table; the mean of two."""
    table = values.reshape(-1, net.cells.size, net.head.size)[:, state]
    return table[0] if table.shape[0] == 1 else jnp.mean(table, axis=0)


def behave(
    algorithm: TableMethod,
    net: Tables,
    explore: Explore,
    state: jax.Array,
    mask: jax.Array | None,
    noise: Draws,
) -> jax.Array:
    """The behaviour policy's action: ε-greedy with its ties broken at random, Boltzmann, or the given policy."""
    if not algorithm.predicts:
        return algorithm.actor.choose(net.q(state), explore, noise, mask, ties=True)
    logits = jnp.maximum(jnp.log(net.policy[state]), ILLEGAL)  # type: ignore[index]
    legal = legal_actions(logits, mask)
    chosen = jnp.argmax(jnp.where(legal, logits, 2 * ILLEGAL) + noise.gumbel, axis=-1).astype(jnp.int32)
    return greedy.explore(chosen, explore.epsilon, noise.uniform, noise.gumbel, mask)


def behaviour_probs(
    algorithm: TableMethod,
    values: jax.Array,
    net: Tables,
    explore: Explore,
    state: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:
    """μ(·|s) `[..., A]` of that choice."""
    if not algorithm.predicts:
        return algorithm.actor.probabilities(q_of(values, net, state), explore, mask, ties=True)
    chosen = target_probs(algorithm, values, net, state, mask)
    legal = legal_actions(chosen, mask)
    return (1 - explore.epsilon) * chosen + explore.epsilon * legal / jnp.sum(legal, axis=-1, keepdims=True)


def target_probs(
    algorithm: TableMethod, values: jax.Array, net: Tables, state: jax.Array, mask: jax.Array | None
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


def next_value(
    algorithm: TableMethod, net: Tables, explore: Explore, values: jax.Array, row: Row
) -> jax.Array:
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
