"""The state that the algorithms learn, and rows that are ready for the losses of `ActorCritic`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from actrix.actors import policy_gradient as pg
from actrix.core import normalize
from actrix.core.types import Chunk, PyTree, record


@record
class Acting:
    """All that acting needs: the network and the frozen observation statistics."""

    net: Any
    obs_moments: tuple[normalize.Moments | None, ...] | None
    explore: PyTree = None
    """What only the behaviour policy needs: ε, a noise scale, older parameters."""


@record
class Training:
    """All that learning needs besides: optimiser states, adapted scalars, statistics, counters."""

    opt_state: PyTree
    critic_opt_state: PyTree
    beta: jax.Array
    baseline: pg.MovingAverage
    reward_scale: normalize.RewardScale | None
    reference: Acting | None
    """The policy to stay near, with its own frozen statistics; None = the uniform one."""
    average: jax.Array | None
    """Running average of the parameters (ACER's average policy)."""
    update: jax.Array
    steps: jax.Array
    """Environment steps learned from, float32; `steps_rest` is what rounding left out of it (Kahan)."""
    steps_rest: jax.Array
    total_steps: jax.Array


@record
class Learner:
    """acting + training + memory (replay; on-policy methods remember nothing between chunks)."""

    acting: Acting
    training: Any
    memory: PyTree = None


@record
class Batch:
    """Rows ready for the losses: `[items, ...]`, or sequences `[L, items, ...]` for a recurrent network."""

    obs: PyTree
    action: jax.Array
    log_prob: Any
    dist: PyTree
    mask: jax.Array | None
    valid: jax.Array | None
    first: jax.Array | None
    psi: jax.Array
    target: jax.Array
    value: jax.Array
    carry: PyTree = None
    """Memory before each sequence, `[1, items, hidden]`."""
    average_dist: PyTree = None
    """The running average policy's distribution, where the actor keeps near it."""
    q_advantage: jax.Array | None = None
    """Q(s, ·) − V(s) of every action, where the actor corrects truncated ratios with it."""
    reference_dist: PyTree = None
    """The reference policy's distribution, where the loss has a KL to it."""


def count(training: Any, chunk: Chunk) -> Any:
    """One update and the chunk's valid rows more. Compensated: float32 alone would lose small chunks at 1e8."""
    rows = jnp.asarray(chunk.reward.size if chunk.valid is None else jnp.sum(chunk.valid), jnp.float32)
    rows = rows - training.steps_rest
    steps = training.steps + rows
    rest = (steps - training.steps) - rows
    return dataclasses.replace(training, update=training.update + 1, steps=steps, steps_rest=rest)


def finite_rows(chunk: Chunk) -> jax.Array:
    """`[T, N]`: reward and observations are finite, or the row is not valid."""
    good = jnp.ones(chunk.reward.shape, bool)
    for x in jax.tree.leaves((chunk.reward, chunk.obs, chunk.next_obs)):
        if jnp.issubdtype(x.dtype, jnp.floating):
            good &= jnp.all(jnp.isfinite(x), axis=tuple(range(2, x.ndim)))
    return good if chunk.valid is None else good | ~chunk.valid


def first_bad_row(chunk: Chunk) -> jax.Array:
    """t·N + n of the first valid row with a non-finite reward or observation, or −1.

    The host loop says which value it was before it learns; the compiled loop has only this.
    """
    good = finite_rows(chunk)
    return jnp.where(jnp.all(good), -1, jnp.argmin(good.reshape(-1))).astype(jnp.int32)


def scrub(chunk: Chunk) -> Chunk:
    """The chunk with its non-finite rows zeroed, so that none of it reaches a replay memory; training stops then."""
    good = finite_rows(chunk)

    def zero(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(good.reshape(good.shape + (1,) * (x.ndim - 2)), x, 0)

    obs, next_obs, reward = jax.tree.map(zero, (chunk.obs, chunk.next_obs, chunk.reward))
    return dataclasses.replace(chunk, obs=obs, next_obs=next_obs, reward=reward)
