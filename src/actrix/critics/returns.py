"""Targets and advantages from one chunk: Monte Carlo, TD(0), n-step, λ-return, GAE.

Every function takes time-major arrays `[T, *B]`. Row t holds r_t, V(s_t) (`value`) and V(s_{t+1})
(`next_value`), where s_{t+1} is the true successor, before any reset. In all of them

- the discount is γ_t = γ·(1 − terminated_t): no value follows a terminal state, and its `next_value` is never
  read;
- sums and traces are cut where row t+1 does not continue row t: after `terminated`, after `truncated`, before
  a row that is not `valid`, and at the chunk's last row. A row cut without `terminated` bootstraps from its
  own `next_value`;
- a row that is not `valid` gives 0 and influences nothing, whatever it holds (NaN included), nor do its
  gradients;
- `gamma` and `lam` are numbers or arrays that broadcast to `[T, *B]`; row t's own γ_t and λ_t weigh what
  follows row t;
- the result has the dtype of the arrays, and gradients flow: callers put `stop_gradient` on their targets.

All but TD(0) are one recursion, `backward_sum`, with another x_t and another decay. The critics of these names
(`critics.value`) compute them on `Rows`; the functions here are the same on plain arrays.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.rows import Rows, first_rows
from actrix.critics import value as on_rows

Number = float | Float[Array, "..."]


def episode_cut(
    *,
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    valid: Bool[Array, "T *B"] | None = None,
) -> Bool[Array, "T *B"]:
    """True at each row t that row t+1 of the chunk does not continue; always true at the last row.

    cut_t = terminated_t ∨ truncated_t ∨ ¬valid_t ∨ ¬valid_{t+1} ∨ (t = T−1)
    """
    cut = jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool)
    if valid is not None:
        valid = jnp.asarray(valid, bool)
        cut = cut | ~valid | ~jnp.roll(valid, -1, axis=0)  # the row that wraps round is the last: set below
    return cut.at[-1].set(True)


def discount(terminated: Bool[Array, "T *B"], gamma: Number) -> Float[Array, "T *B"]:
    """γ_t = γ·(1 − terminated_t), with gamma's dtype."""
    terminated = jnp.asarray(terminated, bool)
    return jnp.where(terminated, 0, jnp.broadcast_to(gamma, terminated.shape))


def monte_carlo(
    *,
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Return from row t to its episode's end, G_t = Σ_{k≥0} γ^k r_{t+k}.

    An episode cut at row m without termination adds γ^{m+1−t} V(s_{m+1}): for a chunk of whole episodes
    without truncation `next_value` is not read. Sutton & Barto, Reinforcement Learning (2018), §5.1; the
    bootstrap at a time limit is Pardo et al., "Time Limits in Reinforcement Learning" (2018).
    """
    rows, reward, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, next_value=next_value
    )
    return on_rows.monte_carlo(rows, next_value)


discounted_return_to_go = monte_carlo
"""The policy gradient's name for `monte_carlo`: ψ_t = G_t, the return without the past."""


def trajectory_return(
    *,
    reward: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    next_value: Float[Array, "T *B"] | None = None,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Return of the whole episode at each of its rows, R(τ) = Σ_{t≥0} γ^t r_t.

    t counts from the episode's first row inside the chunk, so R(τ) is the episode's own only where the chunk
    holds it whole. With `next_value` an episode cut without termination adds its discounted bootstrap, as
    `monte_carlo` does; without it the sum just stops. Williams, "Simple Statistical Gradient-Following
    Algorithms" (1992).
    """
    following = jnp.zeros_like(reward) if next_value is None else next_value
    rows, reward, following = as_rows(
        terminated, truncated, gamma, valid, reward=reward, next_value=following
    )
    return jnp.take_along_axis(on_rows.monte_carlo(rows, following), first_rows(rows.cut), axis=0)


def td_target(
    *,
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    gamma: Number,
    truncated: Bool[Array, "T *B"] | None = None,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """TD(0) target r_t + γ_t V(s_{t+1}).

    `truncated` is accepted so that all targets can be called alike; one step crosses no cut, so it changes
    nothing. Sutton, "Learning to Predict by the Methods of Temporal Differences" (1988).
    """
    rows, reward, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, next_value=next_value
    )
    return on_rows.td_target(rows, next_value)


def td_error(
    *,
    reward: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    gamma: Number,
    truncated: Bool[Array, "T *B"] | None = None,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """TD error δ_t = r_t + γ_t V(s_{t+1}) − V(s_t); see `td_target`."""
    rows, reward, value, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, value=value, next_value=next_value
    )
    return on_rows.td_error(rows, value, next_value)


def n_step(
    *,
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    n: int,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """n-step target G_t^{(n)} = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}).

    Computed as n − 1 backups of the TD(0) target, G_t^{(n)} = r_t + γ_t G_{t+1}^{(n−1)}: memory O(T) for any
    n. A window that meets a cut at row m < t+n−1 ends there with γ^{m+1−t} V(s_{m+1}), or with 0 if
    terminated; so n = 1 is TD(0) and n ≥ T is `monte_carlo`. Sutton & Barto, Reinforcement Learning (2018),
    §7.1. Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    rows, reward, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, next_value=next_value
    )
    return on_rows.n_step(rows, next_value, n)


def lambda_return(
    *,
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    lam: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """λ-return G^λ_t = r_t + γ_t[(1−λ_t) V(s_{t+1}) + λ_t G^λ_{t+1}]; at a cut r_t + γ_t V(s_{t+1}).

    λ = 0 is TD(0), λ = 1 is `monte_carlo`. Sutton & Barto, Reinforcement Learning (2018), §12.1.
    """
    rows, reward, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, next_value=next_value
    )
    return on_rows.lambda_return(rows, next_value, lam)


def gae(
    *,
    reward: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    lam: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Generalised advantage estimate Â_t = δ_t + γ_t λ_t c_t Â_{t+1}, with c_t = 0 at a cut, else 1.

    λ = 0 is δ_t, λ = 1 is G_t − V(s_t). It equals G^λ_t − V(s_t) where V(s_{t+1}) in row t and V(s_t) in row
    t+1 are one number; where two networks gave them (a recurrent critic), this is the paper's δ form, not the
    difference. Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (2016), eq. 16; the paper has no truncation.
    """
    rows, reward, value, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, value=value, next_value=next_value
    )
    return on_rows.gae(rows, value, next_value, lam)


def as_rows(
    terminated: Array,
    truncated: Array | None,
    gamma: Number,
    valid: Array | None,
    *,
    reward: Array,
    **arrays: Array,
) -> tuple[Any, ...]:
    """(`Rows`, the arrays in one dtype, 0 where not valid); refuses shapes that would broadcast by accident.

    `truncated` None: nothing crosses a cut.
    """
    found = alike(reward=reward, **arrays)
    dtype = found[0].dtype
    ends = jnp.asarray(terminated, bool)
    if valid is not None:
        valid = jnp.asarray(valid, bool)
        found, ends = [jnp.where(valid, x, 0) for x in found], ends | ~valid
    cut = ends if truncated is None else episode_cut(terminated=terminated, truncated=truncated, valid=valid)
    weight = None if valid is None else valid.astype(dtype)
    gamma_t = discount(ends, jnp.asarray(gamma, dtype))
    rows = Rows(None, None, found[0], None, gamma_t, cut, weight, terminated)  # type: ignore[arg-type]
    return rows, *found


def alike(**arrays: Array) -> list[Array]:
    """The arrays in one dtype; refuses shapes that would broadcast by accident."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"arrays of one chunk must have one shape [T, *B], not {shapes}.")
    dtype = jnp.result_type(*arrays.values())
    return [jnp.asarray(x, dtype) for x in arrays.values()]
