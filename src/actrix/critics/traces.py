"""Eligibility traces: TD(λ)'s backward view with accumulating, replacing and dutch traces, one transition at a time.

For a linear value V(s) = wᵀx(s) with features `x` `[*B, K]`; a table is the case of one-hot x. In all functions

- `decay` is γλ for the step from the row before to this one: 0 where an episode starts, or a trace is cut;
- the trace z is that of s_t after its visit, so z_t = x_t where `decay` is 0;
- everything has the dtype of the arrays.

With a network x is ∇V(s), and only the accumulating trace has a meaning.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Number = float | Float[Array, "..."]
KINDS = ("accumulating", "replacing", "dutch")


def accumulating(
    z: Float[Array, "*B K"], x: Float[Array, "*B K"], decay: Float[Array, "*B"]
) -> Float[Array, "*B K"]:
    """z ← γλz + x. Sutton, "Learning to Predict by the Methods of Temporal Differences" (1988).

    With w held fixed over an episode, Σ_t δ_t z_t = Σ_t (G^λ_t − V(s_t)) x_t exactly: the forward view.
    """
    return decay[..., None] * z + x


def replacing(
    z: Float[Array, "*B K"], x: Float[Array, "*B K"], decay: Float[Array, "*B"]
) -> Float[Array, "*B K"]:
    """z ← x where x is not 0, else γλz: a visit sets the trace to 1 instead of adding to it.

    Singh & Sutton, "Reinforcement Learning with Replacing Eligibility Traces" (1996), for binary features. The traces
    of the other actions in a visited state are left alone (the paper offers clearing them, too).
    """
    return jnp.where(x != 0, x, decay[..., None] * z)


def dutch(
    z: Float[Array, "*B K"], x: Float[Array, "*B K"], decay: Float[Array, "*B"], step_size: Number
) -> Float[Array, "*B K"]:
    """z ← γλz + (1 − αγλ zᵀx) x, the trace of true online TD(λ) (`true_online_td`).

    van Seijen et al., "True Online Temporal-Difference Learning" (2016).
    """
    inner = jnp.sum(z * x, axis=-1)
    return decay[..., None] * z + (1 - step_size * decay * inner)[..., None] * x


def visit(
    kind: str,
    z: Float[Array, "*B K"],
    index: Int[Array, "*B"],
    decay: Float[Array, "*B"],
    step_size: Number = 0.0,
) -> Float[Array, "*B K"]:
    """The trace of that kind for one-hot features, x = 1 at `index`. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"trace {kind!r}: choose one of {', '.join(KINDS)}.")
    faded = decay[..., None] * z
    before = jnp.take_along_axis(faded, index[..., None], axis=-1)  # γλ zᵀx
    if kind == "accumulating":
        now = before + 1
    elif kind == "replacing":
        now = jnp.ones_like(before)
    else:
        now = before + 1 - jnp.asarray(step_size, z.dtype) * before
    return jnp.put_along_axis(faded, index[..., None], now, axis=-1, inplace=False)


def td_lambda(
    w: Float[Array, "*B K"], z: Float[Array, "*B K"], delta: Float[Array, "*B"], step_size: Number
) -> Float[Array, "*B K"]:
    """w ← w + αδz: semi-gradient TD(λ). Sutton & Barto, Reinforcement Learning (2018), §12.2."""
    return w + step_size * delta[..., None] * z


def true_online_td(
    *,
    z: Float[Array, "*B K"],
    delta: Float[Array, "*B"],
    value: Float[Array, "*B"],
    old_value: Float[Array, "*B"],
    x: Float[Array, "*B K"],
    step_size: Number,
) -> Float[Array, "*B K"]:
    """The change of w in true online TD(λ): α(δ + V − V_old) z − α(V − V_old) x, with the dutch trace z.

    δ = r + γ_t V(s′) − V(s) and V = V(s) with the weights of now, V_old the value that the step before gave to s as its
    successor (0 at an episode's start). The weights are those of the online λ-return algorithm after every step.
    van Seijen et al. (2016); Sutton & Barto (2018), §12.5.
    """
    difference = value - old_value
    return step_size * ((delta + difference)[..., None] * z - difference[..., None] * x)


def watkins_decay(
    decay: Float[Array, "*B"], q: Float[Array, "*B A"], action: Int[Array, "*B"], legal: Bool[Array, "*B A"]
) -> Float[Array, "*B"]:
    """γλ where the action taken has the largest Q of the legal ones, 0 after an exploratory one: Watkins's Q(λ).

    The return then follows the greedy policy as long as the behaviour did, and bootstraps from max_a Q there.
    Watkins, "Learning from Delayed Rewards" (1989); Sutton & Barto (2018), §12.10.
    """
    best = jnp.max(jnp.where(legal, q, -jnp.inf), axis=-1)
    taken = jnp.take_along_axis(q, action[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return jnp.where(taken >= best, decay, 0)


def mean_over_environments(change: Float[Array, "N K"], z: Float[Array, "N K"]) -> Float[Array, " K"]:
    """Changes that N environments ask of one table in one step: per entry their sum over Σz / max z, at least 1.

    That is the number of environments whose traces there count: their mean where the traces are equal (λ = 0), the sum
    where all but one have faded. The plain sum would multiply the step size by up to N. One environment gives its
    change as it is.
    """
    if change.shape[0] == 1:
        return change[0]
    size = jnp.abs(z)
    largest = jnp.max(size, axis=0)
    number = jnp.sum(size, axis=0) / jnp.where(largest > 0, largest, 1)
    return jnp.sum(change, axis=0) / jnp.maximum(number, 1)


def shares(index: Int[Array, " N"], due: Bool[Array, " N"], size: int) -> Float[Array, " N"]:
    """1/(number of environments that are due at the same entry), so that their changes add up to a mean.

    A row that is learned from later keeps the share it came with: one taken then would depend on what became of the
    others, and weigh rows that ended differently from those that went on.
    """
    if index.shape[0] == 1:
        return jnp.ones(1)
    count = jnp.zeros(size).at[index].add(due.astype(jnp.float32))
    return 1 / jnp.maximum(count[index], 1)


def add_mean(
    table: Float[Array, " K"],
    index: Int[Array, " N"],
    change: Float[Array, " N"],
    due: Bool[Array, " N"],
) -> Float[Array, " K"]:
    """The table with `change` added at `index` where due; several changes of one entry are averaged."""
    share = shares(index, due, table.shape[0]).astype(table.dtype)
    return table.at[index].add(jnp.where(due, share * change, 0))


def bounded_step(
    z: Float[Array, "*B K"], delta: Float[Array, "*B"], step_size: Number, kappa: float
) -> Float[Array, "*B"]:
    """α / max(1, α κ max(|δ|, 1) ‖z‖₁): ObGD's step size, which is meant to keep an update from overshooting.

    For z = x(s) with no entry beyond ±1 and κ > 1, V(s) then moves by less than |δ|; for a network it is a bound
    of the first order.
    Elsayed, Vasan & Mahmood, "Streaming Deep Reinforcement Learning Finally Works" (2024), algorithm 3.
    """
    size = jnp.maximum(jnp.abs(delta), 1) * jnp.sum(jnp.abs(z), axis=-1)
    return step_size / jnp.maximum(1, step_size * kappa * size)
