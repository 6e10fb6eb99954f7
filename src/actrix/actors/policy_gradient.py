"""What all policy-gradient actors share, and the clipped surrogate, PPO's.

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
from jaxtyping import Array, Bool

from actrix.actors.episodes import AGGREGATES, answer_metrics, average, per_row
from actrix.actors.group import PSI
from actrix.actors.psi import Advantage, Psi, RewardToGo
from actrix.actors.reference_kl import KL, Number, Samples, kl_penalty, kl_reward
from actrix.actors.sequence_loss import clipped, sequence_log_ratio
from actrix.actors.stochastic import StochasticActor
from actrix.core.answers import ActorFacts, Metrics, Params
from actrix.core.fields import choose, finite, switch
from actrix.core.rows import Rows, masked_mean
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.types import PyTree, record
from actrix.critics.kl_estimators import approx_kl


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


def normalize(x: Samples, valid: Bool[Array, "*B"] | None = None, eps: float = 1e-8) -> Samples:
    """(x − mean)/(std + eps) over valid rows, 0 elsewhere; std divides by their number n (SB3: n − 1)."""
    centred = x - masked_mean(x, valid)
    scaled = centred / (jnp.sqrt(masked_mean(jnp.square(centred), valid)) + eps)
    return scaled if valid is None else jnp.where(valid, scaled, 0)


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
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("ref_kl_in", "ref_kl_by"), "ref_kl_coef")
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
            stays_near=self.ref_kl_coef > 0, reports_kl=True, charges=self.ref_kl_coef > 0 and self.ref_kl_in != "loss",
            kl_in_reward=self.ref_kl_in == "reward" and self.ref_kl_by != "exact",
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
        return (loss * memo["scale"] * per_row(memo["share"], rows) if "scale" in memo else loss), metrics

    def told(self, view, rows):
        answered = {} if rows.prompts is None or self.psi.shown else answer_metrics(rows, view)
        return answered | self.psi.told(rows)

    def after(self, kept, view, rows, memo):
        return Memory(self.own_after(kept.own, view, rows), self.psi.after(kept.psi, rows))


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
