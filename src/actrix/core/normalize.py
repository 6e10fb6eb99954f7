"""Running statistics of observations and of discounted returns (Chan et al. 1983, merged per chunk).

A statistic is frozen from acting to the end of the update that uses it, and moves only afterwards; else the
policy that is updated would not be the policy that acted.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.host import full, zeros
from actrix.core.types import Chunk, PyTree, record

LARGEST = 1e15


@record
class Moments:
    """Mean, population variance and count of a stream; leaves share one shape, `count` is a scalar."""

    mean: Float[Array, "*S"]
    var: Float[Array, "*S"]
    count: Float[Array, ""]


def init_moments(shape: tuple[int, ...]) -> Moments:
    """Mean 0, variance 1 and a count of 1e-4, so that the first data take over (as in Stable-Baselines3)."""
    return Moments(zeros(shape), full(shape, 1.0), full((), 1e-4))


def update_moments(m: Moments, x: Float[Array, "*B *S"], valid: Bool[Array, "*B"] | None = None) -> Moments:
    """Merge the rows of `x` into `m`; rows with valid False do not count. The leading axes are averaged over.

    Entries beyond ±1e15 count as that, so that no square overflows; rows with NaN in them leave `m` as it is.
    """
    lead = x.ndim - m.mean.ndim
    axes = tuple(range(lead))
    x = jnp.clip(x.astype(m.mean.dtype), -LARGEST, LARGEST)
    if valid is None:
        n = jnp.asarray(float(math.prod(x.shape[:lead])), m.count.dtype)
        mean = jnp.mean(x, axis=axes)
        var = jnp.mean((x - mean) ** 2, axis=axes)
    else:
        w = valid.reshape(valid.shape + (1,) * m.mean.ndim)
        n = jnp.sum(valid).astype(m.count.dtype)
        safe = jnp.maximum(n, 1.0)
        mean = jnp.sum(jnp.where(w, x, 0.0), axis=axes) / safe
        var = jnp.sum(jnp.where(w, (x - mean) ** 2, 0.0), axis=axes) / safe
    total = m.count + n
    delta = mean - m.mean
    new_mean = m.mean + delta * (n / total)
    # Weighted averages instead of sums of squares: 1e6-step counts would cost float32 precision.
    new_var = m.var * (m.count / total) + var * (n / total) + delta**2 * (m.count / total) * (n / total)
    known = ~jnp.isnan(jnp.sum(new_mean))
    return jax.tree.map(lambda new, old: jnp.where(known, new, old), Moments(new_mean, new_var, total), m)


def standardize(m: Moments, x: PyTree, clip: float, epsilon: float = 1e-8) -> Float[Array, "*B *S"]:
    """clip((x − mean)/√(var + ε), ±clip)."""
    return jnp.clip((x - m.mean) * jax.lax.rsqrt(m.var + epsilon), -clip, clip)


def init_observation_moments(space_leaves: tuple[tuple[int, ...] | None, ...]) -> tuple[Moments | None, ...]:
    """One `Moments` per leaf of the observation that is to be normalised; None where the leaf is left alone."""
    return tuple(None if shape is None else init_moments(shape) for shape in space_leaves)


def normalize_observation(moments: tuple[Moments | None, ...] | None, obs: PyTree, clip: float) -> PyTree:
    """Standardise each leaf that has statistics; others pass unchanged."""
    if moments is None:
        return obs
    leaves, tree = jax.tree.flatten(obs)
    out = [x if m is None else standardize(m, x, clip) for m, x in zip(moments, leaves, strict=True)]
    return jax.tree.unflatten(tree, out)


def update_observation_moments(
    moments: tuple[Moments | None, ...], obs: PyTree, valid: Bool[Array, "*B"] | None
) -> tuple[Moments | None, ...]:
    """Merge a chunk's observations `[T, N, ...]` into the statistics."""
    leaves = jax.tree.leaves(obs)
    return tuple(
        m if m is None else update_moments(m, x, valid) for m, x in zip(moments, leaves, strict=True)
    )


@record
class RewardScale:
    """Statistics of the running discounted return R ← γR(1 − done) + r of each environment."""

    running: Float[Array, " N"]
    moments: Moments


def init_reward_scale(num_envs: int) -> RewardScale:
    """R = 0 in every environment, and no statistics yet."""
    return RewardScale(zeros(num_envs), init_moments(()))


def scale_reward(scale: RewardScale, reward: Float[Array, "T N"], clip: float) -> Float[Array, "T N"]:
    """clip(r/√(Var[R] + ε), ±clip): the reward divided by the standard deviation of the discounted return."""
    return jnp.clip(reward * jax.lax.rsqrt(scale.moments.var + 1e-8), -clip, clip)


def update_reward_scale(
    scale: RewardScale,
    reward: Float[Array, "T N"],
    done: Bool[Array, "T N"],
    valid: Bool[Array, "T N"] | None,
    gamma: float,
) -> RewardScale:
    """Run R through the chunk and merge its values at valid rows."""
    if valid is not None:
        reward, done = jnp.where(valid, reward, 0.0), done | ~valid

    def step(running: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        r, end = row
        running = gamma * running + r
        return jnp.where(end, 0.0, running), running

    running, returns = jax.lax.scan(step, scale.running, (reward, done))
    running = jnp.where(jnp.isnan(jnp.sum(returns)), scale.running, running)
    return RewardScale(running, update_moments(scale.moments, returns, valid))


def updated(
    moments: tuple[Moments | None, ...] | None, scale: RewardScale | None, chunk: Chunk, gamma: float
) -> tuple[tuple[Moments | None, ...] | None, RewardScale | None]:
    """(observation moments, reward scale) with a chunk in them; None stays None."""
    if moments is not None:
        moments = update_observation_moments(moments, chunk.obs, chunk.valid)
    if scale is not None:
        done = chunk.terminated | chunk.truncated
        scale = update_reward_scale(scale, chunk.reward, done, chunk.valid, gamma)
    return moments, scale
