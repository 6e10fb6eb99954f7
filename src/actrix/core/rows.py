"""`Rows`: transitions as estimators, objectives and losses see them, whoever collected, stored or summed them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from actrix.core.types import Chunk, Prompts, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Transitions, leaves `[T, *B]` in the order of time, or `[B]` where each stands alone.

    A row may stand for n steps of the environment: then `reward` is their discounted sum and `discount` γⁿ. So n-step
    replay, one-step Q-learning and GAE share every estimator.
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    next_obs: PyTree
    discount: jax.Array
    """What multiplies the value of `next_obs`: γ(1 − terminated), or γⁿ(1 − terminated); 0 where no sample."""
    cut: jax.Array
    """Row t+1 does not continue row t."""
    weight: jax.Array | None = None
    """0 where the row is no sample, else its weight (a prioritised draw's); None = all 1."""
    terminated: jax.Array | None = None
    log_prob: jax.Array | None = None
    """log μ(a_t|s_t) of the behaviour policy."""
    dist: PyTree = None
    """The behaviour policy's distribution at s_t."""
    mask: jax.Array | None = None
    next_mask: jax.Array | None = None
    next_action: jax.Array | None = None
    next_action_known: jax.Array | None = None
    """False where the next action was never taken (an episode's end, the newest row)."""
    first: jax.Array | None = None
    carry0: PyTree = None
    """Recurrent memory before row 0."""
    reference: PyTree = None
    """The reference policy's distribution at s_t, where there is a KL to it."""
    choice: jax.Array | None = None
    """False where the environment itself took the action, of a prompt: no sample of the actor's; None = all true."""
    prompts: Prompts | None = dataclasses.field(default=None, metadata=dict(static=True))
    """What the environments say of prompts; None where there are none."""
    on_policy: bool = dataclasses.field(default=True, metadata=dict(static=True))
    """The policy learned is the one that acted."""
    replayed: bool = dataclasses.field(default=False, metadata=dict(static=True))
    """Drawn from a memory."""

    @property
    def valid(self) -> jax.Array | None:
        """True where the row is a sample; None = everywhere."""
        return None if self.weight is None else self.weight > 0

    def mean(self, x: jax.Array) -> jax.Array:
        """Σ w·x / number of samples: the one place that averages over rows; 0 where there is no sample."""
        if self.weight is None:
            return jnp.mean(x)
        total = jnp.sum(jnp.where(self.weight > 0, self.weight * x, 0))
        return total / jnp.maximum(jnp.sum(self.weight > 0), 1).astype(x.dtype)

    def samples(self, x: jax.Array) -> jax.Array:
        """x where the row is a sample, else 0."""
        return x if self.weight is None else jnp.where(self.weight > 0, x, 0)

    def followed(self) -> tuple[jax.Array, jax.Array]:
        """(a_{t+1}, whether it was taken): as stored, else that of the next row in the order of time."""
        if self.next_action is None or self.next_action_known is None:
            return jnp.roll(self.action, -1, axis=0), ~self.cut
        return self.next_action, self.next_action_known

    def chosen(self) -> Rows:
        """The rows with weight 0 where the action was no choice of the policy's."""
        if self.choice is None:
            return self
        weight = self.choice.astype(self.reward.dtype)
        return dataclasses.replace(self, weight=weight if self.weight is None else weight * self.weight)

    def alike(self) -> Rows:
        """The same samples, all of weight 1."""
        if self.weight is None:
            return self
        return dataclasses.replace(self, weight=(self.weight > 0).astype(self.reward.dtype))


def rows_of(chunk: Chunk, gamma: float | jax.Array, on_policy: bool = True, replayed: bool = False) -> Rows:
    """A chunk `[T, N]` as rows of one step each.

    cut_t = terminated_t ∨ truncated_t ∨ ¬valid_t ∨ ¬valid_{t+1} ∨ (t = T−1). A row that is not valid has reward and
    discount 0, so that it gives nothing, whatever it holds.
    """
    terminated = jnp.asarray(chunk.terminated, bool)
    cut, weight, reward = terminated | chunk.truncated, None, chunk.reward
    discount = jnp.where(terminated, 0.0, gamma)
    if chunk.valid is not None:
        valid = jnp.asarray(chunk.valid, bool)
        cut = cut | ~valid | ~jnp.roll(valid, -1, axis=0)  # the row that wraps round is the last: set below
        weight = valid.astype(reward.dtype)
        reward, discount = jnp.where(valid, reward, 0), jnp.where(valid, discount, 0)
    choice = None if chunk.prompts is None else jnp.sum(chunk.mask, axis=-1) > 1  # type: ignore[arg-type]
    return Rows(
        chunk.obs, chunk.action, reward, chunk.next_obs, discount, cut.at[-1].set(True), weight, terminated,
        chunk.log_prob, chunk.dist, chunk.mask, chunk.next_mask, first=chunk.first, carry0=chunk.carry0,
        choice=choice, prompts=chunk.prompts, on_policy=on_policy, replayed=replayed,
    )  # fmt: skip


def masked_mean(x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Mean of x over valid rows; 0 if there is none."""
    if valid is None:
        return jnp.mean(x)
    return jnp.sum(jnp.where(valid, x, 0)) / jnp.maximum(jnp.sum(valid), 1).astype(x.dtype)


def flat(tree: Any) -> Any:
    """Leaves `[T, B, ...]` → `[T·B, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def backward_sum(x: jax.Array, *, decay: jax.Array, cut: jax.Array) -> jax.Array:
    """y_t = x_t + decay_t · y_{t+1}, where y_{t+1} counts as 0 if cut_t (even when it is NaN); arrays `[T, *B]`."""
    return jax.lax.scan(_backward, jnp.zeros_like(x[0]), (x, decay, cut), reverse=True)[1]


def _backward(following: jax.Array, row: tuple) -> tuple[jax.Array, jax.Array]:
    """A step of `backward_sum`; one function, for which a call outside of a program compiles only once."""
    x_t, decay_t, cut_t = row
    y_t = x_t + decay_t * jnp.where(cut_t, 0, following)
    return y_t, y_t


def next_row(x: jax.Array, cut: jax.Array) -> jax.Array:
    """x_{t+1} in row t, 0 at a cut."""
    return jnp.where(cut, 0, jnp.roll(x, -1, axis=0))


def first_rows(cut: jax.Array) -> jax.Array:
    """`[T, *B]`: the row of each row's episode at which that begins in the chunk."""
    starts = jnp.roll(cut, 1, axis=0)  # the last row is always cut, so row 0 is always a start
    row = jax.lax.broadcasted_iota(int, cut.shape, 0)
    return jax.lax.cummax(jnp.where(starts, row, 0), axis=0)
