"""Averages over episodes instead of actions, and what is logged of prompts and their answers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from actrix.core.answers import Metrics
from actrix.core.rows import Rows

AGGREGATES = ("token", "sequence", "constant")


def average(aggregate: str, rows: Rows, counts: jax.Array | None) -> Metrics:
    """{'scale', 'share'}, `[T, N]`: the average of x over a minibatch's samples is Σ scale·x / Σ share; {} = the mean.

    Columns hold one whole episode each. share is 1/n in an episode of n samples (`token`: 1), scale the same, or 1/room
    (`constant`); both are 0 in episodes that do not count.
    """
    if aggregate == "token" and counts is None:
        return {}
    ones = jnp.ones_like(rows.reward)
    counts = ones if counts is None else counts.astype(ones.dtype) * ones
    if aggregate == "token":
        return {"scale": counts, "share": counts}
    samples = rows.samples(ones)
    share = samples / jnp.maximum(jnp.sum(samples, axis=0), 1) * counts
    room = len(samples) if rows.prompts is None else rows.prompts.room
    return {"scale": share if aggregate == "sequence" else counts / room, "share": share}


def answer_metrics(rows: Rows, view: Any) -> Metrics:
    """What a chunk of whole episodes `[T, N]`, one answer to a column, says of its prompts; {} of other chunks.

    pass@1 is the share of right answers, pass@G that of prompts with one among their G; right is what earned more than
    1/2, and none of this is known where rewards are not the verifier's own (`Prompts.verified`). Lengths are those of
    answers alone, NaN where there is no such answer.
    """
    if rows.weight is None or rows.prompts is None:
        return {}
    group, samples = rows.prompts.group, rows.chosen().samples(jnp.ones_like(rows.reward))
    returns, length = jnp.sum(rows.samples(rows.reward), axis=0), jnp.sum(samples, axis=0)
    number = lambda flags: jnp.sum(flags).astype(returns.dtype)
    mean = lambda flags: jnp.where(
        jnp.any(flags), jnp.sum(length * flags) / jnp.maximum(number(flags), 1), jnp.nan
    )
    prompts = returns.reshape(-1, group)
    alike = jnp.max(prompts, axis=1) == jnp.min(prompts, axis=1)
    found = {"rollout/groups_alike": number(alike) / len(prompts)}
    if rows.prompts.verified:
        right = returns > 0.5
        found |= {
            "rollout/pass@1": number(right) / right.size,
            f"rollout/pass@{group}": number(jnp.any(right.reshape(-1, group), axis=1)) / len(prompts),
            "rollout/length_right": mean(right),
            "rollout/length_wrong": mean(~right),
        }
    if rows.reference is not None:
        found["train/reference_kl"] = rows.chosen().mean(view.dist.kl(rows.reference))
    return found


def per_row(share: jax.Array, rows: Rows) -> jax.Array:
    """Samples of a minibatch by episodes in it: with it a mean over samples becomes one over episodes."""
    number = jnp.sum(jnp.ones_like(share) if rows.weight is None else rows.weight > 0)
    episodes = jnp.sum(rows.samples(share))
    return number / jnp.where(episodes > 0, episodes, 1)
