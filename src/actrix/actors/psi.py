"""ψ_t, the weight of the score: returns, advantages, TD errors, and the baselines of the methods without a critic.

Each is one class and one entry of `PSI` (`actors/group.py`). The customary ψ leaves out the theorem's γ^t; the flag
`gamma` of the actor `score` puts it back.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float

from actrix.core.answers import Critic
from actrix.core.optim import flatten
from actrix.core.rows import Rows, first_rows
from actrix.core.types import PyTree, Spec
from actrix.critics.value import monte_carlo, td_error
from actrix.nets.memory import apply

Samples = Float[Array, "*B"]
Flags = Bool[Array, "*B"]
Scalar = Float[Array, ""]
Number = float | Float[Array, "..."]


class Psi(abc.ABC):
    """The weight of the score of each row `[T, N]`."""

    name: ClassVar[str]
    says: ClassVar[str]
    """What it is, in a line."""
    episodes: ClassVar[bool] = False
    """Needs whole episodes and no critic."""
    centred: ClassVar[bool] = True
    """Its sign says whether the action was better than the average one."""
    of_critic: ClassVar[bool] = False
    """It is what the critic itself takes for the advantage."""
    one_step: ClassVar[bool] = False
    """It reads one reward and the next state only."""
    shown: ClassVar[bool] = False
    """It is of actions that were shown, not chosen."""
    whole_return: ClassVar[bool] = False
    """It counts from the start of the episode, so that γ^t never multiplies it."""
    reads: ClassVar[tuple[str, ...]] = ("V", "Q of a policy")
    """`CriticFacts.gives` of the critics that it can be read off."""

    @abc.abstractmethod
    def weight(self, critic: Critic, view: Any, rows: Rows, est: PyTree, kept: PyTree) -> jax.Array:
        """ψ_t."""

    def check(self, spec: Spec, num_envs: int, recurrent: bool) -> None:
        """Refuse what does not fit the environments, with the numbers; raises ValueError."""

    def spoiled(self) -> str:
        """What a KL in the rewards would spoil of it; "" = nothing."""
        return ""

    def varied(self, rows: Rows) -> jax.Array | None:
        """Which episodes `[N]` of a chunk count in averages; None = all."""
        return None

    def told(self, rows: Rows) -> dict[str, jax.Array]:
        """What is logged of a chunk."""
        return {}

    def init(self) -> PyTree:
        """What it keeps between chunks; () for nothing."""
        return ()

    def after(self, kept: PyTree, rows: Rows) -> PyTree:
        """What it keeps after a chunk."""
        return kept


@dataclasses.dataclass(frozen=True)
class Advantage(Psi):
    """V critic: target − V(s_t); Q critic: Q(s_t,a_t) − Σ_a π Q; a corrected critic: its own."""

    name: ClassVar[str] = "advantage"
    of_critic: ClassVar[bool] = True
    says: ClassVar[str] = "V critic: target − V(s_t); Q critic: Q(s_t,a_t) − Σ_a π Q"
    reads: ClassVar[tuple[str, ...]] = ("V", "Q of a policy", "Q(s, a)", "Q(s, a) of the data")

    def weight(self, critic, view, rows, est, kept):
        return critic.advantage(view, rows, est)


@dataclasses.dataclass(frozen=True)
class ActionValue(Psi):
    """Q(s_t, a_t) of a Q critic."""

    name: ClassVar[str] = "q"
    says: ClassVar[str] = "Q(s_t,a_t) of a Q critic"
    centred: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("Q of a policy",)

    def weight(self, critic, view, rows, est, kept):
        return est.fitted


@dataclasses.dataclass(frozen=True)
class TDError(Psi):
    """δ_t = r_t + γ_t V(s_{t+1}) − V(s_t)."""

    name: ClassVar[str] = "td-error"
    one_step: ClassVar[bool] = True
    says: ClassVar[str] = "δ_t = r_t + γ_t V(s_{t+1}) − V(s_t)"

    def weight(self, critic, view, rows, est, kept):
        return td_error(rows, est.value, est.next_value)


@dataclasses.dataclass(frozen=True)
class RewardToGo(Psi):
    """G_t."""

    name: ClassVar[str] = "reward-to-go"
    says: ClassVar[str] = "G_t"
    episodes: ClassVar[bool] = True
    centred: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("none",)

    def weight(self, critic, view, rows, est, kept):
        return monte_carlo(rows, jnp.zeros_like(rows.reward))


@dataclasses.dataclass(frozen=True)
class LessMovingAverage(RewardToGo):
    """G_t − moving average of the returns of earlier batches."""

    name: ClassVar[str] = "moving-average"
    says: ClassVar[str] = "G_t − moving average of the returns of earlier batches"
    centred: ClassVar[bool] = True

    def init(self):
        return MovingAverage.zero()

    def weight(self, critic, view, rows, est, kept):
        to_go = super().weight(critic, view, rows, est, kept)
        return to_go - moving_average_baseline(kept, to_go, valid=rows.chosen().valid)[0]

    def after(self, kept, rows):
        to_go = monte_carlo(rows, jnp.zeros_like(rows.reward))
        return moving_average_baseline(kept, to_go, valid=rows.chosen().valid)[1]


@dataclasses.dataclass(frozen=True)
class WholeReturn(Psi):
    """R(τ), the return of the whole trajectory at each of its rows."""

    name: ClassVar[str] = "return"
    says: ClassVar[str] = "R(τ), the return of the whole trajectory"
    episodes: ClassVar[bool] = True
    centred: ClassVar[bool] = False
    whole_return: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("none",)

    def weight(self, critic, view, rows, est, kept):
        to_go = monte_carlo(rows, jnp.zeros_like(rows.reward))
        return jnp.take_along_axis(to_go, first_rows(rows.cut), axis=0)


@dataclasses.dataclass(frozen=True)
class LessOptimal(WholeReturn):
    """R(τ) − b*, the constant baseline of least variance (leave-one-out over the episodes)."""

    name: ClassVar[str] = "optimal"
    says: ClassVar[str] = (
        "R(τ) − b*, the constant baseline of least variance (leave-one-out over the episodes)"
    )
    centred: ClassVar[bool] = True

    def check(self, spec, num_envs, recurrent):
        if num_envs < 2:
            raise ValueError(
                "psi 'optimal' takes its baseline from a chunk's other episodes: n_envs must be ≥ 2."
            )
        if recurrent:
            raise ValueError("a recurrent policy has neither psi 'optimal' nor a module of your own.")

    def weight(self, critic, view, rows, est, kept):
        whole = super().weight(critic, view, rows, est, kept)
        return whole - self._baseline(view, rows, whole)

    def _baseline(self, view: Any, rows: Rows, whole: jax.Array) -> jax.Array:
        """b*, one number per episode, from the other episodes' scores."""
        theta, unflatten = flatten(view.net)

        def episode_score(obs, action, valid, mask):
            def log_likelihood(theta):
                out, _ = apply(unflatten(theta), obs, None, mask)
                return jnp.sum(jnp.where(valid, out.dist.log_prob(action), 0.0))

            return jax.grad(log_likelihood)(theta)

        columns = (rows.obs, view.action, rows.valid, rows.mask)
        score = jax.vmap(episode_score, in_axes=jax.tree.map(lambda _: 1, columns))(*columns)
        weighted = score * whole[0][:, None]
        return optimal_baseline(score, weighted, per_parameter=False, leave_one_out=True)[:, 0]


def theorem_weights(rows: Rows) -> jax.Array:
    """γ^t, t counted from the episode's first row in the chunk; 0 where no sample."""
    starts = jnp.roll(rows.cut, 1, axis=0)  # the last row is always cut, so row 0 is always a start

    def step(weight, row):
        start_t, gamma_t = row
        weight = jnp.where(start_t, 1, weight)
        return gamma_t * weight, weight

    weights = jax.lax.scan(step, jnp.ones_like(rows.discount[0]), (starts, rows.discount))[1]
    return rows.samples(weights)


def discount_weights(
    *,
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    first: Bool[Array, "T *B"] | None = None,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """γ^t, t counted from the episode's start: the factor the policy gradient theorem puts before ψ_t.

    An episode starts at row 0, after terminated | truncated, around rows that are not valid (weight 0) and
    where `first`. Exact where the chunk holds whole episodes: one that began in an earlier chunk counts from
    row 0 again.
    """
    cut = jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool)
    valid = jnp.ones_like(cut) if valid is None else jnp.asarray(valid, bool)
    starts = jnp.roll(cut | ~valid, 1, axis=0).at[0].set(True)
    if first is not None:
        starts = starts | jnp.asarray(first, bool)
    gamma = jnp.broadcast_to(jnp.asarray(gamma, jnp.result_type(gamma, float)), cut.shape)

    def step(weight, row):
        start_t, gamma_t = row
        weight = jnp.where(start_t, 1, weight)
        return gamma_t * weight, weight

    weights = jax.lax.scan(step, jnp.ones_like(gamma[0]), (starts, gamma))[1]
    return jnp.where(valid, weights, 0)


class MovingAverage(NamedTuple):
    """Decayed sum of the returns of earlier batches, and the decayed number of them."""

    total: Scalar
    weight: Scalar

    @classmethod
    def zero(cls, dtype=jnp.float32) -> "MovingAverage":
        """Nothing seen yet."""
        return cls(total=jnp.zeros((), dtype), weight=jnp.zeros((), dtype))


def moving_average_baseline(
    state: MovingAverage, returns: Samples, *, decay: float = 0.9, valid: Flags | None = None
) -> tuple[Scalar, MovingAverage]:
    """The mean return b of EARLIER batches, with weights decaying by age, and the state after this batch.

    b = Σ_{j≥0} decay^j (sum of the j-th last batch) / Σ_{j≥0} decay^j (its size); 0 at the first. The batch
    in hand enters only the new state: a baseline with its own mean in it depends on the actions, which
    shrinks the gradient by 1 − 1/N for N independent returns. decay = 1 is the plain mean of all so far.
    """
    baseline = state.total / jnp.where(state.weight > 0, state.weight, 1)
    returns = stop_gradient(returns)
    kept = returns if valid is None else jnp.where(valid, returns, 0)
    count = returns.size if valid is None else jnp.sum(valid).astype(returns.dtype)
    return baseline, MovingAverage(
        total=decay * state.total + jnp.sum(kept), weight=decay * state.weight + count
    )


def optimal_baseline(
    g: Float[Array, "N P"], s: Float[Array, "N P"], *, per_parameter: bool = True, leave_one_out: bool = False
) -> Float[Array, "#N #P"]:
    """The constant b that minimises the variance of s_i − b·g_i over episodes i: b* = E[g s]/E[g²].

    g_i = Σ_t ∇log π_t is episode i's score; s_i its gradient sample without baseline: g_i R(τ_i), or with
    reward-to-go Σ_t ∇log π_t γ^t G_t (drop γ^t on both or on neither). Result `[1, P]`, or
    `[1, 1]` with `per_parameter=False`: E[g·s]/E[‖g‖²]. With `leave_one_out` each episode's baseline comes
    from the others only, `[N, P]` or `[N, 1]`, which keeps the gradient unbiased. 0 where every score is 0.
    Greensmith, Bartlett & Baxter, "Variance Reduction Techniques for Gradient Estimates in Reinforcement
    Learning" (2004); Peters & Schaal, "Reinforcement Learning of Motor Skills" (2008).
    """
    numerator, denominator = g * s, jnp.square(g)
    if not per_parameter:
        numerator, denominator = (jnp.sum(x, axis=1, keepdims=True) for x in (numerator, denominator))
    total = _sum_of_others if leave_one_out else lambda x: jnp.sum(x, axis=0, keepdims=True)
    numerator, denominator = total(numerator), total(denominator)
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _sum_of_others(x: Array) -> Array:
    """Σ_{j≠i} x_j. Two running sums: subtracting x_i from the total would leave its rounding error behind."""
    none = jnp.zeros_like(x[:1])
    before = jnp.concatenate([none, jnp.cumsum(x[:-1], axis=0)])
    after = jnp.concatenate([jnp.cumsum(x[:0:-1], axis=0)[::-1], none])
    return before + after
