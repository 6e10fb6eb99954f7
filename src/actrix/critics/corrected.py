"""Critics of the policy learned from data of another: V-trace, importance-corrected TD and Monte Carlo, Retrace.

ρ_t = π(a_t|s_t)/μ(a_t|s_t) of the networks in hand against what was recorded. The recursions are those of
`critics.corrections`, whose functions say more of each.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from actrix.core.answers import CriticFacts
from actrix.core.distributions import importance_ratio
from actrix.core.fields import choose, positive, share
from actrix.core.rows import Rows, backward_sum, next_row
from actrix.critics.policy_q import PolicyQ
from actrix.critics.value import ValueCritic, monte_carlo, td_error, td_target


def ratio(view: Any, rows: Rows) -> jax.Array:
    """ρ_t, 0 where no sample."""
    assert rows.log_prob is not None
    return rows.samples(importance_ratio(view.log_prob, rows.log_prob))


@dataclasses.dataclass(frozen=True)
class VTrace(ValueCritic):
    """v_t = V_t + Σ_k γ^k (Π c) ρ̄ δ, of the policy ∝ min(ρ_max μ, π) (Espeholt et al. 2018).

    c_t = λ min(c_max, ρ_t). The advantage ρ̄_t (r_t + γ_t v_{t+1} − V_t) holds the ratio.
    """

    lam: float = 1.0
    rho_max: float = 1.0
    c_max: float = 1.0

    name: ClassVar[str] = "v-trace"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "lam")
        if not self.rho_max >= self.c_max > 0:
            raise ValueError(
                f"rho_max={self.rho_max} must be at least c_max={self.c_max}, and both positive."
            )

    @property
    def facts(self):
        return CriticFacts(corrected=True, ratio_in_advantage=True, needs_order=True)

    def target(self, rows, v, v_next, view):
        return self._both(rows, v, v_next, view)[0]

    def psi(self, rows, v, v_next, view, target):
        return self._both(rows, v, v_next, view)[1]

    def _both(self, rows: Rows, v: jax.Array, v_next: jax.Array, view: Any) -> tuple[jax.Array, jax.Array]:
        return vtrace(rows, ratio(view, rows), v, v_next, self.lam, self.rho_max, self.c_max)


def vtrace(
    rows: Rows,
    rho: jax.Array,
    v: jax.Array,
    v_next: jax.Array,
    lam: Any,
    rho_max: float,
    c_max: float,
    share: Any = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(v_t, ρ̄_t (r_t + γ_t b_t − V_t)), b_t = `share`·v_{t+1} + (1 − `share`)·V(s_{t+1}), and V(s_{t+1}) at a cut."""
    traced = lambda x: jnp.where(rows.cut, 0, jnp.broadcast_to(jnp.asarray(x, v.dtype), rows.cut.shape))
    clipped, decay = jnp.minimum(rho, rho_max), rows.discount * traced(lam) * jnp.minimum(rho, c_max)
    target = v + backward_sum(clipped * td_error(rows, v, v_next), decay=decay, cut=rows.cut)
    part = traced(share)
    following = part * next_row(target, rows.cut) + (1 - part) * v_next
    return target, clipped * td_error(rows, v, following)


@dataclasses.dataclass(frozen=True)
class ImportanceTD(ValueCritic):
    """V_t + min(ρ_max, ρ_t) δ_t: TD(0) corrected by the ratio, in place of Off-PAC's GTD(λ) (Degris et al. 2012)."""

    rho_max: float = 10.0

    name: ClassVar[str] = "td-is"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rho_max")

    @property
    def facts(self):
        return CriticFacts(corrected=True, one_step=True)

    def target(self, rows, v, v_next, view):
        return td_rho(rows, ratio(view, rows), v, v_next, self.rho_max)

    def psi(self, rows, v, v_next, view, target):
        return td_error(rows, v, v_next)


def td_rho(rows: Rows, rho: jax.Array, v: jax.Array, v_next: jax.Array, rho_max: float) -> jax.Array:
    """V_t + min(ρ_max, ρ_t) δ_t."""
    return v + jnp.minimum(rho, rho_max) * td_error(rows, v, v_next)


KINDS = ("ordinary", "weighted", "per-decision")


@dataclasses.dataclass(frozen=True)
class ImportanceMC(ValueCritic):
    """The Monte Carlo return of whole episodes, corrected by products of ratios (Precup et al. 2000).

    The advantage is the corrected return − ρ_t V_t: under μ the baseline too is weighted.
    """

    kind: str = "per-decision"
    """'ordinary' ρ_{t:T−1} G_t, 'weighted' by Σρ over the episodes (biased, consistent), or 'per-decision'."""

    name: ClassVar[str] = "mc-is"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self, kind=KINDS)

    @property
    def facts(self):
        return CriticFacts(corrected=True, ratio_in_advantage=True, whole_episodes=True, needs_order=True)

    def target(self, rows, v, v_next, view):
        return importance_return(self.kind, rows, ratio(view, rows), v_next)

    def psi(self, rows, v, v_next, view, target):
        return target - ratio(view, rows) * v


def importance_return(kind: str, rows: Rows, rho: jax.Array, v_next: jax.Array) -> jax.Array:
    """The return from row t, weighed by the ratios ('ordinary', 'weighted', 'per-decision')."""
    if kind == "per-decision":
        x = jnp.where(rows.cut, td_target(rows, v_next), rows.reward)
        return backward_sum(rho * x, decay=rho * rows.discount, cut=rows.cut)
    if kind == "ordinary":
        weight = backward_sum(jnp.where(rows.cut, rho, 0), decay=rho, cut=rows.cut)  # ρ_{t:m} = ρ_t ρ_{t+1:m}
    else:
        weight = normalised_products(rho, rows)
    return weight * monte_carlo(rows, v_next)


def normalised_products(rho: jax.Array, rows: Rows) -> jax.Array:
    """ρ_{t:m} / mean over the episodes at the same t, from logarithms: long products neither overflow nor vanish all
    together; 0 where all are 0."""
    log_rho = jnp.where(rho == 0, -jnp.inf, jnp.log(jnp.where(rho == 0, 1, rho)))
    log_weight = backward_sum(log_rho, decay=jnp.ones_like(rho), cut=rows.cut)  # −∞ where not valid
    episodes = tuple(range(1, rho.ndim))
    largest = jnp.max(log_weight, axis=episodes, keepdims=True)
    weight = jnp.exp(log_weight - jax.lax.stop_gradient(jnp.where(jnp.isneginf(largest), 0, largest)))
    samples = jnp.ones_like(rho) if rows.valid is None else rows.valid.astype(rho.dtype)
    count, total = (jnp.sum(x, axis=episodes, keepdims=True) for x in (samples, weight))
    return jnp.where(jnp.isneginf(log_weight), 0, count * weight / jnp.where(total == 0, 1, total))


@dataclasses.dataclass(frozen=True)
class Retrace(PolicyQ):
    """G_t = r_t + γ_t[Σ_a π Q(s_{t+1}, a) + c_{t+1}(G_{t+1} − Q(s_{t+1}, a_{t+1}))], c = λ min(1, ρ).

    Munos et al. 2016. The other traces of the one recursion are the classes below. The advantage is G_t − V(s_t), not
    yet weighted by ρ_t.
    """

    lam: float = 1.0

    name: ClassVar[str] = "q-retrace"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "lam")

    @property
    def facts(self):
        return CriticFacts(gives="Q of a policy", corrected=True, needs_order=True)

    def trace(self, view: Any, rows: Rows) -> jax.Array:
        """c_t."""
        return self.lam * jnp.minimum(ratio(view, rows), 1)

    def target(self, rows, v, v_next, view):
        taken = rows.samples(self.prediction(view))
        return off_policy_q(rows, taken, self.trace(view, rows), v_next)

    def q_psi(self, rows, v, v_next, view, target, taken):
        return target - v


def off_policy_q(rows: Rows, q: jax.Array, trace: jax.Array, v_next: jax.Array) -> jax.Array:
    """G_t = r_t + γ_t[V(s_{t+1}) + c_{t+1}(G_{t+1} − Q(s_{t+1}, a_{t+1}))]."""
    ahead = rows.discount * next_row(trace, rows.cut)
    return backward_sum(td_target(rows, v_next) - ahead * next_row(q, rows.cut), decay=ahead, cut=rows.cut)


@dataclasses.dataclass(frozen=True)
class TreeBackup(Retrace):
    """c = λπ(a|s): needs no behaviour probabilities (Precup et al. 2000)."""

    name: ClassVar[str] = "q-tree-backup"

    def trace(self, view, rows):
        return self.lam * rows.samples(jnp.exp(view.log_prob))


@dataclasses.dataclass(frozen=True)
class QLambda(Retrace):
    """c = λ: converges only for policies near each other (Harutyunyan et al. 2016)."""

    name: ClassVar[str] = "q-lambda"

    def trace(self, view, rows):
        return rows.samples(jnp.full_like(rows.reward, self.lam))


@dataclasses.dataclass(frozen=True)
class ImportanceQ(Retrace):
    """c = λρ: unbiased, of unbounded variance."""

    name: ClassVar[str] = "q-importance"

    def trace(self, view, rows):
        return self.lam * ratio(view, rows)


def _forward(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
    """(Πρ, Πγ) from each episode's start on."""
    product, weight = carry
    rho_t, before, start = row
    product = jnp.where(start, 1, product) * rho_t
    weight = jnp.where(start, 1, weight * before)
    return (product, weight), (product, weight)


def trajectory_weights(kind: str, rho: jax.Array, rows: Rows) -> jax.Array:
    """ψ_t of the importance-weighted policy gradient; `corrections.trajectory_psi` says what each kind is."""
    gamma_t = jnp.where(rows.cut, 0, rows.discount)
    starts = jnp.roll(rows.cut, 1, axis=0).at[0].set(True)
    one = jnp.ones_like(rho[0])
    _, (product, weight) = jax.lax.scan(_forward, (one, one), (rho, jnp.roll(gamma_t, 1, axis=0), starts))
    ones = jnp.ones_like(rows.reward)
    if kind == "per-decision":
        return backward_sum(weight * product * rows.reward, decay=ones, cut=rows.cut)
    to_go = backward_sum(weight * rows.reward, decay=ones, cut=rows.cut)
    row = jax.lax.broadcasted_iota(int, rows.cut.shape, 0)
    first = jax.lax.cummax(jnp.where(starts, row, 0), axis=0)
    last = jax.lax.cummin(jnp.where(rows.cut, row, rows.cut.shape[0] - 1), axis=0, reverse=True)
    whole = jnp.take_along_axis(product, last, axis=0)
    if kind == "weighted":
        # In logarithms: over a long episode the products themselves would overflow or vanish together.
        log_rho = jnp.log(jnp.maximum(rho, jnp.finfo(rho.dtype).tiny))
        total = jnp.take_along_axis(backward_sum(log_rho, decay=ones, cut=rows.cut), first, axis=0)
        ends = rows.cut if rows.valid is None else rows.cut & rows.valid
        number = jnp.maximum(jnp.sum(ends), 1).astype(rows.reward.dtype)
        mean = jax.nn.logsumexp(jnp.where(ends, total, -jnp.inf)) - jnp.log(number)
        whole = jnp.exp(total - jnp.where(jnp.any(ends), mean, 0))
    return rows.samples(whole * jnp.take_along_axis(to_go, first, axis=0))
