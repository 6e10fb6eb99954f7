"""Critics V(s), or Q(s, ·) of a policy, fitted to an estimator of the values of the policy that acted.

Every estimator is one recursion, `backward_sum`, over rows `[T, *B]` that hold their own discounts γ_t and cuts.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.answers import Critic, CriticFacts
from actrix.core.fields import positive_or_none, share, whole
from actrix.core.fit import Joint
from actrix.core.rows import Rows, backward_sum, masked_mean
from actrix.core.types import record
from actrix.nets.obeyed import joint_settings


def td_target(rows: Rows, v_next: jax.Array) -> jax.Array:
    """r_t + γ_t V(s_{t+1}); V is not read where γ_t = 0."""
    return rows.reward + rows.discount * jnp.where(rows.discount == 0, 0, v_next)


def td_error(rows: Rows, v: jax.Array, v_next: jax.Array) -> jax.Array:
    """δ_t = r_t + γ_t V(s_{t+1}) − V(s_t); 0 where no sample."""
    return td_target(rows, v_next) - rows.samples(v)


@record
class Estimate:
    """What a critic knows of each row before the updates."""

    target: jax.Array
    value: jax.Array
    """V(s_t)."""
    next_value: jax.Array
    """V(s_{t+1})."""
    fitted: jax.Array
    """What is fitted to the target: V(s_t), or Q(s_t, a_t)."""
    advantage: jax.Array
    q_advantage: jax.Array | None = None
    """Q(s_t, ·) − V(s_t) of every action, where the critic has it."""


@dataclasses.dataclass(frozen=True)
class ValueCritic(Critic):
    """V(s), fitted to `target` by squared error."""

    clip_range_vf: float | None = dataclasses.field(default=None, kw_only=True)
    """V moves by at most so much from its value before the updates, in units of return (Stable-Baselines3's form, which
    has no gradient beyond); None = off."""

    fit: ClassVar[Any] = Joint
    q_of_policy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive_or_none(self, "clip_range_vf")

    @property
    def facts(self) -> CriticFacts:
        return CriticFacts(needs_order=True)

    @abc.abstractmethod
    def target(self, rows: Rows, v: jax.Array, v_next: jax.Array, view: Any) -> jax.Array:
        """`[T, *B]` from V(s_t) and V(s_{t+1})."""

    def psi(self, rows: Rows, v: jax.Array, v_next: jax.Array, view: Any, target: jax.Array) -> jax.Array:
        """A(s_t, a_t)."""
        return target - v

    def build(self, config, spec, key, actor):
        return config.build(spec, key)

    def network_settings(self, config, spec, actor):
        return joint_settings(config, spec)

    def estimate(self, view, kept, rows, actor, progress, key):
        v, v_next = view.out, view.next_out
        target = self.target(rows, v, v_next, view)
        return Estimate(target, v, v_next, v, self.psi(rows, v, v_next, view, target))

    def advantage(self, view, rows, est):
        return est.advantage

    def prediction(self, view: Any) -> jax.Array:
        """What is fitted to the target."""
        return view.out

    def loss(self, view, rows, est, key):
        value = self.prediction(view)
        error = value - est.target
        loss = jnp.square(error)
        if self.clip_range_vf is not None:
            loss = clipped_value_loss(
                value=value, old_value=est.fitted, target=est.target, clip_range=self.clip_range_vf
            )
        return loss, jnp.abs(error), {"train/value_loss": rows.mean(loss)}

    def report(self, est, rows):
        return {"train/explained_variance": explained_variance(est.fitted, est.target, rows.valid)}


def explained_variance(
    prediction: Float[Array, "*B"], target: Float[Array, "*B"], valid: Bool[Array, "*B"] | None = None
) -> Float[Array, ""]:
    """1 − Var(target − prediction)/Var(target) over valid rows: 1 is perfect, 0 no better than a constant.

    NaN where the targets do not vary (as in SB3): there is nothing to explain.
    """

    def variance(x):
        return masked_mean(jnp.square(x - masked_mean(x, valid)), valid)

    total = variance(target)
    return jnp.where(total > 0, 1 - variance(target - prediction) / jnp.where(total > 0, total, 1), jnp.nan)


def clipped_value_loss(
    *,
    value: Float[Array, "*B"],
    old_value: Float[Array, "*B"],
    target: Float[Array, "*B"],
    clip_range: float | Float[Array, "..."],
) -> Float[Array, "*B"]:
    """(target_t − V̄_t)², V̄_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε, ε).

    Stable-Baselines3's form: no factor ½, and no gradient once V has moved by ε, even away from the target.
    OpenAI Baselines instead takes ½·max((target − V)², (target − V̄)²), which keeps that gradient. The PPO
    paper clips no values. ε has the scale of the returns.
    """
    old_value = jax.lax.stop_gradient(old_value)
    clipped = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return jnp.square(jax.lax.stop_gradient(target) - clipped)


@dataclasses.dataclass(frozen=True)
class MC(ValueCritic):
    """G_t = Σ_{k≥0} γ^k r_{t+k} to the end of the episode; one cut without termination adds γ^{m+1−t} V(s_{m+1})."""

    name: ClassVar[str] = "mc"

    @property
    def facts(self):
        return CriticFacts(whole_episodes=True, needs_order=True)

    def target(self, rows, v, v_next, view):
        return monte_carlo(rows, v_next)


def monte_carlo(rows: Rows, v_next: jax.Array) -> jax.Array:
    """G_t; V(s_{t+1}) is read only at a cut that did not terminate."""
    bootstrap = rows.discount * jnp.where(rows.cut & (rows.discount != 0), v_next, 0)
    return backward_sum(rows.reward + bootstrap, decay=rows.discount, cut=rows.cut)


@dataclasses.dataclass(frozen=True)
class TD(ValueCritic):
    """r_t + γ_t V(s_{t+1}) (Sutton 1988). On rows that stand for n steps it is the n-step target."""

    name: ClassVar[str] = "td"

    @property
    def facts(self):
        return CriticFacts(one_step=True)

    def target(self, rows, v, v_next, view):
        return td_target(rows, v_next)


@dataclasses.dataclass(frozen=True)
class NStep(ValueCritic):
    """Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}), cut short at an episode's end: n − 1 backups of the TD(0) target."""

    n: int = 5

    name: ClassVar[str] = "n-step"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "n")

    def target(self, rows, v, v_next, view):
        return n_step(rows, v_next, self.n)


def n_step(rows: Rows, v_next: jax.Array, n: int) -> jax.Array:
    """G_t^{(n)} = r_t + γ_t G_{t+1}^{(n−1)}, n − 1 backups of the TD(0) target, none across a cut."""
    one = td_target(rows, v_next)
    x = jnp.where(rows.cut, one, rows.reward)
    back = lambda _, g: x + rows.discount * jnp.where(rows.cut, 0, jnp.roll(g, -1, axis=0))
    return jax.lax.fori_loop(0, min(n, len(x)) - 1, back, one)


def lambda_return(rows: Rows, v_next: jax.Array, lam: float | jax.Array) -> jax.Array:
    """G^λ_t = r_t + γ_t[(1−λ) V(s_{t+1}) + λ G^λ_{t+1}], λ counting as 0 at a cut."""
    trace = jnp.where(rows.cut, 0, jnp.broadcast_to(jnp.asarray(lam, v_next.dtype), rows.cut.shape))
    return backward_sum(td_target(rows, (1 - trace) * v_next), decay=rows.discount * trace, cut=rows.cut)


@dataclasses.dataclass(frozen=True)
class TDLambda(ValueCritic):
    """The λ-return G^λ_t, the forward view of TD(λ) (Sutton & Barto 2018, §12.1)."""

    lam: float = 0.95

    name: ClassVar[str] = "td-lambda"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "lam")

    def target(self, rows, v, v_next, view):
        return lambda_return(rows, v_next, self.lam)


def gae(rows: Rows, v: jax.Array, v_next: jax.Array, lam: float | jax.Array) -> jax.Array:
    """Â_t = δ_t + γ_t λ Â_{t+1}, λ counting as 0 at a cut."""
    delta = td_error(rows, v, v_next)
    trace = jnp.where(rows.cut, 0, jnp.broadcast_to(jnp.asarray(lam, delta.dtype), rows.cut.shape))
    return backward_sum(delta, decay=rows.discount * trace, cut=rows.cut)


@dataclasses.dataclass(frozen=True)
class GAE(ValueCritic):
    """Â_t + V(s_t), Â_t = δ_t + γ_t λ Â_{t+1}: the λ-return, computed as PPO does (Schulman et al. 2016, eq. 16)."""

    gae_lambda: float = 0.95

    name: ClassVar[str] = "gae"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "gae_lambda")

    def target(self, rows, v, v_next, view):
        return gae(rows, v, v_next, self.gae_lambda) + v
