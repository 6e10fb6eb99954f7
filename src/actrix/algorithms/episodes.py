"""Monte Carlo updates of a table from whole episodes: first- and every-visit, on-policy and importance-sampled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from actrix.algorithms import tables
from actrix.algorithms.tables import Row, TableMethod, Tables
from actrix.core.contract import Learner
from actrix.core.rows import backward_sum
from actrix.core.types import Chunk, Key
from actrix.critics import corrections, q_targets, returns, traces

IMPORTANCE = ("none", "ordinary", "weighted", "per-decision")
LARGEST_WEIGHT = 1e30
"""Bound on products of ratios, and on the returns they weigh: float32 ends at 3e38."""


def learn(
    algorithm: TableMethod, learner: Learner, chunk: Chunk, rate: Any, key: Key
) -> tuple[jax.Array, jax.Array | None, Any, jax.Array]:
    """(values, weight, memory, errors) after a chunk of whole episodes, one per environment.

    Returns are those of the episode's behaviour, and with importance sampling the target policy is the one at its
    start: Sutton & Barto's loop improves it during its pass backwards over the episode. With a learning rate the visits
    of an episode move the values one after the other, the last first; rate None averages, where no order matters.
    """
    net, values, weight = learner.acting.net, learner.acting.net.values, learner.training.weight
    rows = tables.as_rows(net, chunk)
    index = tables.cell(net, rows)
    target, share = returns_of(algorithm, learner, rows)
    counted = rows.valid if algorithm.visits == "every" else first_visits(index, rows.valid, values.size)
    error = jnp.where(counted, target - values[index], 0)
    if weight is not None:
        weight = weight.at[index].add(jnp.where(counted, share, 0))
        part = jnp.where(counted, share / jnp.where(weight[index] > 0, weight[index], 1), 0)
        return values.at[index].add(part * error), weight, learner.memory, error

    def step(values: jax.Array, row: tuple) -> tuple[jax.Array, None]:
        index, target, counted = row
        return traces.add_mean(values, index, rate * (target - values[index]), counted), None

    values, _ = jax.lax.scan(step, values, (index, target, counted), reverse=True)
    return values, weight, learner.memory, error


def first_visits(index: jax.Array, valid: jax.Array, size: int) -> jax.Array:
    """`[T, N]`: true at the first valid row of its column with that index; columns hold one episode each."""
    length, num_envs = index.shape
    row = jnp.broadcast_to(jnp.arange(length)[:, None], index.shape)
    column = jnp.broadcast_to(jnp.arange(num_envs)[None], index.shape)
    first = jnp.full((num_envs, size), length).at[column, index].min(jnp.where(valid, row, length))
    return valid & (first[column, index] == row)


def returns_of(algorithm: TableMethod, learner: Learner, rows: Row) -> tuple[jax.Array, jax.Array]:
    """(target, weight) of each row `[T, N]`.

    With ρ_{i:m} the product of ratios to the episode's last row m: 'ordinary' (ρ G_t, 1), 'weighted' (G_t, ρ),
    'per-decision' (Σ_k γ^k ρ_{·:t+k} r_{t+k}, 1); ρ starts at t for V(s_t) and at t+1 for Q(s_t, a_t), whose first
    action is given. An episode cut without an end bootstraps from the value of its last successor. Precup, Sutton &
    Singh, "Eligibility Traces for Off-Policy Policy Evaluation" (2000); weights are summed over a cell's visits.
    """
    net, explore, values = learner.acting.net, learner.acting.explore, learner.acting.net.values
    cut: dict[str, Any] = dict(terminated=rows.terminated, truncated=rows.truncated, valid=rows.valid)
    common: dict[str, Any] = dict(reward=rows.reward, next_value=_after(algorithm, learner, rows), **cut)
    plain = returns.monte_carlo(gamma=algorithm.gamma, **common)
    one = jnp.ones_like(plain)
    if algorithm.importance == "none":
        return plain, one
    taken = lambda probs: jnp.take_along_axis(probs, rows.action[..., None], axis=-1)[..., 0]
    pi = taken(tables.target_probs(algorithm, values, net, rows.state, rows.mask))
    mu = taken(tables.behaviour_probs(algorithm, values, net, explore, rows.state, rows.mask))
    rho = jnp.where(rows.valid, pi / jnp.where(mu > 0, mu, 1), 0)
    ends = returns.episode_cut(**cut)
    if algorithm.importance == "per-decision":
        target = corrections.per_decision_is(rho=rho, gamma=algorithm.gamma, **common)
        if net.policy is None:
            following = jnp.where(ends, common["next_value"], jnp.roll(target, -1, axis=0))
            following = jnp.where(rows.terminated, 0, following)
            target = rows.reward + algorithm.gamma * following
        return jnp.clip(target, -LARGEST_WEIGHT, LARGEST_WEIGHT), one
    product = backward_sum(jnp.where(ends, rho, 0), decay=rho, cut=ends)
    product = product if net.policy is not None else jnp.where(ends, 1, jnp.roll(product, -1, axis=0))
    product = jnp.minimum(product, LARGEST_WEIGHT)
    return (product * plain, one) if algorithm.importance == "ordinary" else (plain, product)


def _after(algorithm: TableMethod, learner: Learner, rows: Row) -> jax.Array:
    """The value of s′ that a cut episode bootstraps from: of the behaviour policy, or off-policy of the target's."""
    net: Tables = learner.acting.net
    if algorithm.predicts:
        return net.values[rows.next_state]
    probs = tables.behaviour_probs if algorithm.importance == "none" else None
    q = net.q(rows.next_state)
    if probs is None:
        return q_targets.greedy_value(q, rows.next_mask)
    mu = probs(algorithm, net.values, net, learner.acting.explore, rows.next_state, rows.next_mask)
    return q_targets.expected_value(q, mu)
