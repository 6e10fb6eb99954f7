"""Policy-gradient objectives, the actors that ascend them, KL terms, diagnostics.

Objectives are per row, arrays `[T, *B]`, and are to be MAXIMISED: a loss is `-masked_mean(objective, valid)`.
Advantages, returns and everything the behaviour policy left behind are data: no gradient flows through them.
Padding rows must hold finite numbers: `masked_mean` gives them the weight 0 but cannot undo 0·∞ in a
gradient.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float

from actrix.actors.episodes import AGGREGATES, answer_metrics, average
from actrix.actors.group import PSI
from actrix.actors.psi import ActionValue, Advantage, Psi, RewardToGo, theorem_weights
from actrix.actors.sequence_loss import clipped, sequence_log_ratio
from actrix.actors.stochastic import StochasticActor
from actrix.core.answers import ActorFacts, Metrics, Params
from actrix.core.fields import choose, finite, positive, switch
from actrix.core.rows import Rows, masked_mean
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.types import PyTree, record
from actrix.critics import kl_estimators

Samples = Float[Array, "*B"]
Flags = Bool[Array, "*B"]
Scalar = Float[Array, ""]
Number = float | Float[Array, "..."]


# Objectives


def score_function(*, log_prob: Samples, psi: Samples) -> Samples:
    """log π(a_t|s_t)·sg[ψ_t], whose gradient is ∇log π(a_t|s_t) ψ_t.

    ψ_t may be R(τ), or γ^t times one of G_t, G_t − b(s_t), Q, A, δ_t; leaving out γ^t (`psi.discount_weights`) is
    the custom, and biased for γ < 1. Only the gradient means something, and only at the policy that sampled
    the actions. Williams (1992); Sutton et al., "Policy Gradient Methods for RL with Function Approximation"
    (1999).
    """
    return log_prob * stop_gradient(psi)


def ppo_clip(
    *,
    log_prob: Samples,
    old_log_prob: Samples,
    advantage: Samples,
    clip_range: Number,
    clip_range_high: Number | None = None,
) -> Samples:
    """min(ρ_t Â_t, clip(ρ_t, 1−ε, 1+ε) Â_t), ρ_t = exp(log π(a_t|s_t) − log π_old(a_t|s_t)).

    A pointwise lower bound of ρ_t Â_t. Its gradient is 0 only where the gain is already taken (ρ > 1+ε with Â
    > 0, ρ < 1−ε with Â < 0) and that of ρ_t Â_t elsewhere. Schulman et al., "Proximal Policy Optimization
    Algorithms" (2017), eq. 7. `clip_range_high` is another ε above 1: Yu et al., "DAPO" (2025), §3.1.
    """
    high = clip_range if clip_range_high is None else clip_range_high
    return clipped(
        log_ratio=log_prob - stop_gradient(old_log_prob), advantage=advantage, low=clip_range, high=high
    )


def ppo_kl(
    *, log_prob: Samples, old_log_prob: Samples, advantage: Samples, kl: Samples, beta: Number
) -> Samples:
    """ρ_t Â_t − β KL_t, with KL_t = KL(π_old(·|s_t) ‖ π(·|s_t)) differentiable in π.

    Schulman et al. (2017), eq. 8. `adapt_beta` moves β.
    """
    rho = jnp.exp(log_prob - stop_gradient(old_log_prob))
    return rho * stop_gradient(advantage) - beta * kl


def adapt_beta(beta: Number, kl: Number, target_kl: Number) -> Array:
    """β/2 if kl < target/1.5, 2β if kl > 1.5·target, else β. Schulman et al. (2017), §4."""
    factor = jnp.where(kl < target_kl / 1.5, 0.5, jnp.where(kl > target_kl * 1.5, 2.0, 1.0))
    return beta * factor.astype(jnp.result_type(beta, float))


# KL to a reference policy π̄ (a temperature τ): two objectives


def kl_reward(*, reward: Samples, kl: Samples, tau: Number) -> Samples:
    """KL in the reward: r_t − τ·sg[KL_t], the soft return Σ_t γ^t (r_t − τ KL(π(·|s_t) ‖ π̄(·|s_t))).

    The policy then pays for KL it will meet later. The gradient is exact in one of two forms, never in a mix
    of them:
    - `kl` = log π(a_t|s_t) − log π̄(a_t|s_t) of the action taken, and `score_function` alone: ∇log π (Q − τ
      log π/π̄);
    - `kl` = the exact KL_t, plus `kl_penalty` in the objective: ∇log π Q − τ∇KL.
    Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning" (2017).
    """
    return reward - tau * stop_gradient(kl)


def kl_penalty(*, kl: Samples, tau: Number) -> Samples:
    """−τ·KL_t, to be added to an objective; `kl` is the exact KL(π(·|s_t) ‖ π̄(·|s_t)), differentiable in π.

    Together with `kl_reward` of the same exact KL it completes the soft return's gradient. Alone it is
    another objective, which keeps π near π̄ at the states met but does not pay for future KL. A sampled
    log-ratio does not do here: its gradient has mean 0.
    """
    return -tau * kl


# Means, weights, diagnostics


def normalize(x: Samples, valid: Flags | None = None, eps: float = 1e-8) -> Samples:
    """(x − mean)/(std + eps) over valid rows, 0 elsewhere; std divides by their number n (SB3: n − 1)."""
    centred = x - masked_mean(x, valid)
    scaled = centred / (jnp.sqrt(masked_mean(jnp.square(centred), valid)) + eps)
    return scaled if valid is None else jnp.where(valid, scaled, 0)


def approx_kl(log_prob: Samples, old_log_prob: Samples, valid: Flags | None = None) -> Scalar:
    """Mean of (ρ − 1) − log ρ over valid rows, ρ = π/π_old: estimates KL(π_old ‖ π) from π_old's actions.

    Unbiased and never negative. Schulman, "Approximating KL Divergence" (2020), estimator k3.
    """
    log_rho = log_prob - old_log_prob
    return masked_mean(jnp.expm1(log_rho) - log_rho, valid)


# The actors

KL: dict[str, Any] = {
    "exact": None, "k1": kl_estimators.k1, "k2": kl_estimators.k2, "k3": kl_estimators.k3,
}  # fmt: skip
"""Of log π(a|s) and log π̄(a|s), by name."""


@record
class Memory:
    """What an actor keeps between updates, and what its ψ does."""

    own: PyTree
    psi: PyTree


@dataclasses.dataclass(frozen=True)
class PolicyGradient(StochasticActor):
    """Maximise objective(ψ) + ent_coef · H(π); the final classes give the objective of each row."""

    psi: Psi = dataclasses.field(default=None, kw_only=True, metadata={"parts": PSI})  # type: ignore[assignment]
    """None = the critic's own: reward-to-go without one, q for the score and a Q critic, else advantage."""
    ent_coef: float = dataclasses.field(default=0.0, kw_only=True)
    """Weight of the entropy, in units of return per nat."""
    normalize_advantage: bool = dataclasses.field(default=True, kw_only=True)
    """Scale ψ to mean 0 and deviation 1 over each minibatch."""
    ref_kl_coef: float = dataclasses.field(default=0.0, kw_only=True)
    """τ of the KL to a reference policy; 0 = off."""
    ref_kl_in: str = dataclasses.field(default="reward", kw_only=True)
    """'reward': the soft return Σγ^t(r_t − τ log π/π̄), which pays for future KL. 'loss': a penalty τ KL(π‖π̄)
    on the visited states only, another objective."""
    ref_kl_by: str = dataclasses.field(default="auto", kw_only=True)
    """How: `exact`, over all actions, or estimated of the action taken by `k1`, `k2` or `k3`
    (`critics/kl_estimators.py`); `auto` = k1 in the reward, exact in the loss."""
    aggregate: str = dataclasses.field(default="token", kw_only=True)
    """What is averaged: `token`, all actions alike; `sequence`, episodes alike; `constant`, episodes' sums over the
    longest answer's length."""

    structural: ClassVar[tuple[str, ...]] = ("ref_kl_coef",)
    default_psi: ClassVar[dict[str, type[Psi]]] = {"none": RewardToGo}

    def __post_init__(self) -> None:
        finite(self, "ent_coef")
        finite(self, "ref_kl_coef", least=0)
        switch(self, "normalize_advantage")
        choose(self, ref_kl_in=("reward", "loss"), ref_kl_by=("auto", *KL), aggregate=AGGREGATES)
        if self.ref_kl_by == "k1" and self.ref_kl_in == "loss":
            raise ValueError(
                "ref_kl_by='k1' in the loss has a gradient of mean 0: take k2, k3 or exact, or ref_kl_in='reward'."
            )

    @property
    def facts(self):
        return ActorFacts(
            per_episode=self.aggregate != "token", centres=self.normalize_advantage, may_stay_near=True,
            stays_near=self.ref_kl_coef > 0,
        )  # fmt: skip

    def settle(self, critic):
        if self.psi is not None:
            return self
        return dataclasses.replace(self, psi=self.default_psi.get(critic.facts.gives, Advantage)())

    @abc.abstractmethod
    def objective(
        self, view: Any, kept: PyTree, rows: Rows, psi: jax.Array, memo: PyTree, progress: Any
    ) -> tuple[jax.Array, Metrics]:
        """(objective of each row, to be maximised; metrics)."""

    # What the final classes keep and remember besides ψ.

    def own_init(self, net: Any, params: Params) -> PyTree:
        """What it keeps between updates; () for nothing."""
        return ()

    def own_memo(self, view: Any, kept: PyTree, rows: Rows, est: PyTree) -> Metrics:
        """What the objective needs of the policy before its first step, by name."""
        return {}

    def own_after(self, kept: PyTree, view: Any, rows: Rows) -> PyTree:
        """What it keeps after a chunk's updates."""
        return kept

    # ------------------------------------------------------------------ the contract

    def init(self, net, params):
        return Memory(self.own_init(net, params), self.psi.init())

    def weighs(self, rows):
        return rows.chosen()

    def charge(self, view, rows):
        if not (self.ref_kl_coef and self.ref_kl_in == "reward"):
            return rows
        # What was recorded off-policy is the behaviour's probability; it is the policy learned that pays.
        log_prob = rows.log_prob if rows.on_policy else jax.lax.stop_gradient(view.log_prob)
        kl = self._reference_kl(view, rows, log_prob)
        return dataclasses.replace(rows, reward=kl_reward(reward=rows.reward, kl=kl, tau=self.ref_kl_coef))

    def _reference_kl(self, view: Any, rows: Rows, log_prob: jax.Array) -> jax.Array:
        """Of each row, as `ref_kl_by` says; `log_prob` is that of the action."""
        by = {"reward": "k1", "loss": "exact"}[self.ref_kl_in] if self.ref_kl_by == "auto" else self.ref_kl_by
        if by == "exact":
            return view.dist.kl(rows.reference)
        return KL[by](log_prob, rows.reference.log_prob(view.action))

    def remember(self, critic, view, kept, rows, est):
        weight = self.psi.weight(critic, view, rows, est, kept.actor.psi)
        memo = {"psi": weight} | self.own_memo(view, kept.actor.own, rows, est)
        return memo | average(self.aggregate, self.weighs(rows), self.psi.varied(rows))

    def compared(self, rows: Rows, memo: Metrics) -> Rows:
        """The rows with the policy that a ratio compares with: the one that acted, or off-policy the one remembered."""
        return rows

    def loss(self, critic, view, kept, rows, memo, progress, key):
        rows = self.weighs(self.compared(rows, memo))
        psi = normalize(memo["psi"], rows.valid) if self.normalize_advantage else memo["psi"]
        objective, metrics = self.objective(view, kept.own, rows, stop_gradient(psi), memo, progress)
        entropy, loss = view.dist.entropy(), -objective
        metrics = metrics | {
            "train/policy_gradient_loss": -rows.mean(objective),
            "train/entropy_loss": -rows.mean(entropy),
            "train/approx_kl": approx_kl(view.log_prob, rows.log_prob, rows.valid),
        }
        loss -= self.ent_coef * entropy
        # The exact KL in the reward leaves out what the policy's own action changes of it: that is the loss's part.
        if self.ref_kl_coef and (self.ref_kl_in == "loss" or self.ref_kl_by == "exact"):
            kl = self._reference_kl(view, rows, view.log_prob)
            loss -= kl_penalty(kl=kl, tau=self.ref_kl_coef)
            metrics["train/reference_kl"] = rows.mean(kl)
        return (loss * memo["scale"] * _per_row(memo["share"], rows) if "scale" in memo else loss), metrics

    def told(self, view, rows):
        answered = {} if rows.prompts is None or self.psi.shown else answer_metrics(rows, view)
        return answered | self.psi.told(rows)

    def after(self, kept, view, rows, memo):
        return Memory(self.own_after(kept.own, view, rows), self.psi.after(kept.psi, rows))


def _per_row(share: jax.Array, rows: Rows) -> jax.Array:
    """Samples of a minibatch by episodes in it: with it a mean over samples becomes one over episodes."""
    number = jnp.sum(jnp.ones_like(share) if rows.weight is None else rows.weight > 0)
    episodes = jnp.sum(rows.samples(share))
    return number / jnp.where(episodes > 0, episodes, 1)


@dataclasses.dataclass(frozen=True)
class Score(PolicyGradient):
    """log π(a_t|s_t) ψ_t, whose gradient is E[∇log π ψ] (Williams 1992). One pass over each chunk."""

    gamma_weight: bool = dataclasses.field(default=False, metadata={"flag": "gamma"})
    """Multiply ψ_t by γ^t, as the policy gradient theorem has it (never R(τ)); customarily left out."""

    name: ClassVar[str] = "score"
    default_psi: ClassVar[dict[str, type[Psi]]] = {"none": RewardToGo, "Q of a policy": ActionValue}

    def __post_init__(self) -> None:
        super().__post_init__()
        switch(self, "gamma_weight")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, from_start=self.gamma_weight)

    def remember(self, critic, view, kept, rows, est):
        memo = super().remember(critic, view, kept, rows, est)
        return memo | {"psi": memo["psi"] * theorem_weights(rows)} if self.gamma_weight else memo

    def objective(self, view, kept, rows, psi, memo, progress):
        return score_function(log_prob=view.log_prob, psi=psi), {}


@dataclasses.dataclass(frozen=True)
class PPOClip(PolicyGradient):
    """min(ρ_t Â_t, clip(ρ_t, 1−ε, 1+ε) Â_t), for several passes over a chunk (Schulman et al. 2017, eq. 7).

    ρ_t = π/π_old, where π_old is the policy that acted; on other data than its own it is the policy before the chunk's
    first step (`on_policy`).
    """

    clip_range: Schedule = 0.2
    """ε."""
    clip_range_high: Schedule | None = dataclasses.field(default=None, kw_only=True)
    """Another ε above 1 (DAPO's clip-higher); None = the same."""
    ratio: str = dataclasses.field(default="token", kw_only=True)
    """`token`: ρ_t of each action; `sequence`: (Π_t ρ_t)^(1/T) of the episode's T actions at each of them (GSPO)."""

    name: ClassVar[str] = "ppo-clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self, ratio=("token", "sequence"))
        for name in ("clip_range", "clip_range_high"):
            if (value := getattr(self, name)) is None and name == "clip_range_high":
                continue
            object.__setattr__(self, name, as_schedule(value, name))
            if not bounds(getattr(self, name))[1] > 0:
                raise ValueError(f"{name}={value} must be positive.")

    @property
    def facts(self):
        facts, one = super().facts, self.ratio == "sequence"
        whole = one or facts.per_episode
        return dataclasses.replace(facts, ratio=True, old_or_other=True, one_ratio=one, per_episode=whole)

    def own_memo(self, view, kept, rows, est):
        return {} if rows.on_policy else {"log_prob": view.log_prob}

    def compared(self, rows, memo):
        return rows if rows.on_policy else dataclasses.replace(rows, log_prob=memo["log_prob"])

    def objective(self, view, kept, rows, psi, memo, progress):
        clip = evaluate(self.clip_range, progress)
        high = clip if self.clip_range_high is None else evaluate(self.clip_range_high, progress)
        log_prob, old = view.log_prob, rows.log_prob
        if self.ratio == "sequence":
            valid = jnp.ones_like(psi, bool) if rows.valid is None else rows.valid
            log_prob = sequence_log_ratio(log_prob=log_prob, old_log_prob=old, valid=valid)
            old = jnp.zeros_like(log_prob)
        objective = ppo_clip(
            log_prob=log_prob, old_log_prob=old, advantage=psi, clip_range=clip, clip_range_high=high
        )
        away = jnp.exp(log_prob - old) - 1
        outside = jnp.abs(away) > jnp.where(away > 0, high, clip)
        return objective, {"train/clip_fraction": rows.mean(outside.astype(objective.dtype))}


@dataclasses.dataclass(frozen=True)
class PPOKL(PolicyGradient):
    """ρÂ − β KL(old ‖ new) with β adapted after each chunk towards KL = `kl_target` (Schulman et al. 2017, §4).

    KL behaves as β⁻², so β may cycle around the target.
    """

    kl_target: float = 0.01
    initial_beta: float = 1.0

    name: ClassVar[str] = "ppo-kl"
    structural: ClassVar[tuple[str, ...]] = ("initial_beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "kl_target", "initial_beta")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, ratio=True)

    def own_init(self, net, params):
        return jnp.full((), self.initial_beta, jnp.float32)

    def objective(self, view, kept, rows, psi, memo, progress):
        kl = stop_gradient(rows.dist).kl(view.dist)
        objective = ppo_kl(
            log_prob=view.log_prob, old_log_prob=rows.log_prob, advantage=psi, kl=kl, beta=kept
        )
        return objective, {}

    def own_after(self, kept, view, rows):
        kl = rows.mean(rows.dist.kl(view.dist))
        return jnp.clip(adapt_beta(kept, kl, self.kl_target), 1e-6, 1e6)  # never stuck at 0 or ∞

    def report(self, kept):
        return {"train/beta": kept.own}
