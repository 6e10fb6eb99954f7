"""Question 2 — how is the actor computed? — as small values: an objective and the ψ that weighs the score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from actrix.actors import kronecker, natural
from actrix.actors import policy_gradient as pg
from actrix.core.distributions import Distribution, importance_ratio
from actrix.core.fields import choose, finite, whole
from actrix.core.optim import flatten
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate

PSI: dict[str, str] = {
    "return": "R(τ), the return of the whole trajectory",
    "reward-to-go": "G_t",
    "moving-average": "G_t − moving average of the returns of earlier batches",
    "optimal": "R(τ) − b*, the constant baseline of least variance (leave-one-out over the episodes)",
    "advantage": "V critic: target − V(s_t); Q critic: Q(s_t,a_t) − Σ_a π Q",
    "q": "Q(s_t,a_t) of a Q critic",
    "td-error": "δ_t = r_t + γ_t V(s_{t+1}) − V(s_t)",
}
EPISODE_PSI = ("return", "reward-to-go", "moving-average", "optimal")
"""Forms that need whole episodes and no critic."""
CENTRED_PSI = ("advantage", "td-error", "moving-average", "optimal")
"""Forms whose sign says whether the action was better than the average one."""


@dataclasses.dataclass(frozen=True)
class ScoreFunction:
    """Ascend E[∇log π(a_t|s_t) ψ_t]: REINFORCE and the plain actor-critics. One pass over each chunk."""

    psi: str = "advantage"
    gamma_weight: bool = False
    """Multiply ψ_t by γ^t, as the policy gradient theorem has it (never R(τ)); customarily left out."""

    name: ClassVar[str] = "score"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False
    """Whether the objective itself corrects for another behaviour policy on every use of a row."""
    needs_dist: ClassVar[bool] = False
    """Whether the objective needs the behaviour policy's whole distribution."""

    def objective(
        self, *, psi: jax.Array, log_prob: jax.Array, **unused: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Per-row objective [L, B] and metrics."""
        return pg.score_function(log_prob=log_prob, psi=psi), {}


@dataclasses.dataclass(frozen=True)
class PPOClip:
    """The clipped surrogate of PPO (Schulman et al. 2017), for several passes over a chunk."""

    clip_range: Schedule = 0.2
    psi: str = "advantage"

    name: ClassVar[str] = "ppo-clip"
    ratio: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip_range", as_schedule(self.clip_range, "clip_range"))
        if not bounds(self.clip_range)[1] > 0:
            raise ValueError(f"clip_range={self.clip_range} must be positive.")

    def objective(
        self,
        *,
        psi: jax.Array,
        log_prob: jax.Array,
        old_log_prob: jax.Array,
        progress: jax.Array,
        valid: jax.Array | None = None,
        **unused: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        clip = evaluate(self.clip_range, progress)
        rows = pg.ppo_clip(log_prob=log_prob, old_log_prob=old_log_prob, advantage=psi, clip_range=clip)
        clipped = (jnp.abs(jnp.exp(log_prob - old_log_prob) - 1) > clip).astype(rows.dtype)
        return rows, {"train/clip_fraction": pg.masked_mean(clipped, valid)}


@dataclasses.dataclass(frozen=True)
class PPOKL:
    """ρÂ − β KL(old ‖ new) with β adapted after each chunk towards KL = `kl_target` (Schulman et al. 2017, §4).

    β lives in the learner. KL behaves as β⁻², so β may cycle around the target.
    """

    kl_target: float = 0.01
    initial_beta: float = 1.0
    psi: str = "advantage"

    name: ClassVar[str] = "ppo-kl"
    ratio: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False
    needs_dist: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in ("kl_target", "initial_beta"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}={getattr(self, field)} must be positive.")

    def objective(
        self,
        *,
        psi: jax.Array,
        log_prob: jax.Array,
        old_log_prob: jax.Array,
        dist: Distribution,
        old_dist: Distribution,
        beta: jax.Array,
        **unused: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        kl = jax.lax.stop_gradient(old_dist).kl(dist)  # type: ignore[union-attr, arg-type]
        rows = pg.ppo_kl(log_prob=log_prob, old_log_prob=old_log_prob, advantage=psi, kl=kl, beta=beta)
        return rows, {}


@dataclasses.dataclass(frozen=True)
class OffPAC:
    """Ascend E_μ[min(ρ_max, ρ_t) ψ_t ∇log π(a_t|s_t)], ρ_t = π/μ (Degris et al. 2012).

    A semi-gradient of Σ d^μ(s) V^π(s) that drops π∇Q^π: it is not ∇J. The bound ρ_max is ours.
    """

    rho_max: float = 10.0
    psi: str = "td-error"

    name: ClassVar[str] = "off-pac"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = True
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.rho_max > 0:
            raise ValueError(f"rho_max={self.rho_max} must be positive.")

    def objective(
        self,
        *,
        psi: jax.Array,
        log_prob: jax.Array,
        old_log_prob: jax.Array,
        valid: jax.Array | None = None,
        **unused: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        rho = jnp.minimum(importance_ratio(log_prob, old_log_prob), self.rho_max)
        rho = jax.lax.stop_gradient(rho)
        return rho * pg.score_function(log_prob=log_prob, psi=psi), {"train/rho": pg.masked_mean(rho, valid)}


@dataclasses.dataclass(frozen=True)
class ACER:
    """Truncated importance weights with bias correction, held near an average policy (Wang et al. 2017)."""

    truncation: float = 10.0
    """c: ratios beyond it are cut, and what that loses is put back as an expectation over Q."""
    trust_region: float = 1.0
    """δ: bound on the step's inner product with ∇KL(average policy ‖ π), in the space of the logits."""
    average_decay: float = 0.99
    psi: str = "advantage"

    name: ClassVar[str] = "acer"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = True
    needs_dist: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in ("truncation", "trust_region"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}={getattr(self, field)} must be positive.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay={self.average_decay} must lie in [0, 1).")

    def objective(
        self,
        *,
        psi: jax.Array,
        action: jax.Array,
        dist: Distribution,
        old_dist: Distribution,
        average_dist: Distribution,
        q_advantage: jax.Array,
        **unused: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        step, scale = pg.acer_step(
            dist.logits, old_dist.logits, average_dist.logits, action=action, advantage=psi,  # type: ignore[union-attr]
            q_advantage=q_advantage, truncation=self.truncation, trust_region=self.trust_region,
        )  # fmt: skip
        # The gradient of this objective with respect to the logits is the step itself.
        objective = jnp.sum(jax.lax.stop_gradient(step) * dist.logits, axis=-1)  # type: ignore[union-attr]
        return objective, {"train/trust_scale": jnp.mean(scale)}


@dataclasses.dataclass(frozen=True)
class PGQL:
    """Policy gradient on fresh data and Q-learning on replayed data, of one network (O'Donoghue et al. 2017).

    At the fixed point of the entropy-regularised gradient Q(s, a) = α(log π(a|s) + H(π(·|s))) + V(s), α = `ent_coef`:
    the replayed updates fit this Q to r + γ max_a Q(s′, a). The target comes from the same network, not from a copy.
    """

    eta: float = 0.5
    """Weight of the Q-learning loss; the policy gradient's is 1 − η."""
    psi: str = "advantage"

    name: ClassVar[str] = "pgql"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = True
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.eta < 1:
            raise ValueError(f"eta={self.eta} must lie between 0 and 1.")

    def objective(
        self, *, psi: jax.Array, log_prob: jax.Array, **unused: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return (1 - self.eta) * pg.score_function(log_prob=log_prob, psi=psi), {}

    def q_values(self, dist: Distribution, value: jax.Array, alpha: float) -> jax.Array:
        """Q(s, ·) = α(log π + H) + V."""
        return alpha * (dist.logits + dist.entropy()[..., None]) + value[..., None]  # type: ignore[union-attr]

    def q_loss(
        self, dist: Distribution, value: jax.Array, action: jax.Array, target: jax.Array, alpha: float
    ) -> jax.Array:
        """½(target − Q(s, a))² of each row."""
        q = self.q_values(dist, value, alpha)
        taken = jnp.take_along_axis(q, action[..., None], axis=-1)[..., 0]
        return 0.5 * (jax.lax.stop_gradient(target) - taken) ** 2


@dataclasses.dataclass(frozen=True)
class ImportanceScore:
    """The exact off-policy gradient of whole trajectories, E_μ[Σ_t ∇log π ψ_t], ψ_t weighted by products of ratios.

    'ordinary' ρ_{0:T−1} R(τ), 'weighted' divides it by the batch's mean ratio (biased, consistent), 'per-decision'
    Σ_{t′≥t} γ^{t′} ρ_{0:t′} r_{t′}. Precup et al. (2000); their variance grows exponentially with the horizon.
    """

    kind: str = "per-decision"
    psi: str = "return"

    name: ClassVar[str] = "score-is"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = True
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        choose(self, kind=("ordinary", "weighted", "per-decision"))

    def objective(
        self, *, psi: jax.Array, log_prob: jax.Array, **unused: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return pg.score_function(log_prob=log_prob, psi=psi), {}


@dataclasses.dataclass(frozen=True)
class NaturalGradient:
    """θ ← θ + η F⁻¹∇L, η = min(`max_step`, √(2δ/xᵀFx)) (Kakade 2001; bounded as by Rajeswaran et al. 2017)."""

    target_kl: float = 0.01
    """δ of the quadratic model of the mean KL(π_old ‖ π); the step itself is not checked."""
    max_step: Schedule = 1.0
    cg_max_steps: int = 15
    cg_damping: float = 0.1
    """λ of (F + λI)x = ∇L."""
    psi: str = "advantage"

    name: ClassVar[str] = "npg"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_natural(self)

    def init(self, net: Any) -> None:
        """What the step remembers between chunks: nothing."""

    def step(
        self,
        theta: jax.Array,
        state: None,
        *,
        dist_of: natural.DistOf,
        objective: Callable[[jax.Array], jax.Array],
        valid: jax.Array | None,
        progress: jax.Array,
        **unused: Any,
    ) -> tuple[jax.Array, None, dict[str, jax.Array]]:
        """(θ, state, metrics) after one step up `objective`."""
        x, curvature = _direction(self, theta, dist_of, objective, valid)
        length = natural.step_length(curvature, self.target_kl)
        length = jnp.minimum(length, evaluate(self.max_step, progress))
        return theta + length * x, None, {"train/step_size": length}


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """max L(θ) s.t. mean KL(π_old ‖ π_θ) ≤ δ, by a natural-gradient step and a line search (Schulman et al. 2015).

    Field names are sb3-contrib's. The constraint is on the mean KL: no guarantee of improvement follows from it.
    """

    target_kl: float = 0.01
    """δ."""
    cg_max_steps: int = 15
    cg_damping: float = 0.1
    line_search_shrinking_factor: float = 0.8
    line_search_max_iter: int = 10
    psi: str = "advantage"

    name: ClassVar[str] = "trpo"
    ratio: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_natural(self)
        whole(self, "line_search_max_iter")
        if not 0 < self.line_search_shrinking_factor < 1:
            raise ValueError(
                f"line_search_shrinking_factor={self.line_search_shrinking_factor} must lie between 0 and 1."
            )

    def init(self, net: Any) -> None:
        """What the step remembers between chunks: nothing."""

    def step(
        self,
        theta: jax.Array,
        state: None,
        *,
        dist_of: natural.DistOf,
        objective: Callable[[jax.Array], jax.Array],
        valid: jax.Array | None,
        **unused: Any,
    ) -> tuple[jax.Array, None, dict[str, jax.Array]]:
        """(θ, state, metrics) after a step that raised `objective` within the trust region, or none at all."""
        old = dist_of(theta)
        x, curvature = _direction(self, theta, dist_of, objective, valid)
        found = natural.line_search(
            lambda theta: (objective(theta), natural.mean_kl(old, dist_of(theta), valid)),
            theta,
            natural.step_length(curvature, self.target_kl) * x,
            self.target_kl,
            max_iter=self.line_search_max_iter,
            shrinking_factor=self.line_search_shrinking_factor,
        )
        return found.theta, None, {"train/is_line_search_success": found.success.astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class KroneckerFactored:
    """θ ← θ + η F̂⁻¹∇L, η = min(`max_step`, √(2δ/xᵀF̂x)), F̂ Kronecker-factored layer by layer (Wu et al. 2017)."""

    target_kl: float = 0.001
    """δ of the quadratic model."""
    max_step: Schedule = 0.25
    damping: float = 0.01
    """λ, shared between the two factors of a layer."""
    stats_decay: float = 0.99
    """Decay of the factors' running averages, per chunk."""
    psi: str = "advantage"

    name: ClassVar[str] = "acktr"
    ratio: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False
    needs_dist: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_natural(self)
        finite(self, "damping", least=0)
        if not (self.damping > 0 and 0 <= self.stats_decay < 1):
            raise ValueError(
                f"damping={self.damping} must be positive, and stats_decay={self.stats_decay} in [0, 1)."
            )

    def init(self, net: Any) -> kronecker.Factors:
        """The factors' running averages."""
        return kronecker.no_factors(net)

    def step(
        self,
        theta: jax.Array,
        state: kronecker.Factors,
        *,
        net_of: Callable[[jax.Array], Any],
        objective: Callable[[jax.Array], jax.Array],
        rows: tuple[Any, jax.Array, jax.Array | None],
        valid: jax.Array | None,
        progress: jax.Array,
        **unused: Any,
    ) -> tuple[jax.Array, kronecker.Factors, dict[str, jax.Array]]:
        """(θ, factors, metrics) after one step; `rows` = (obs, action, mask), actions drawn from π_θ."""
        gradient = jax.grad(objective)(theta)
        factors = kronecker.batch_factors(net_of(theta), *rows, valid)
        state = kronecker.average(state, *factors, self.stats_decay)
        x = kronecker.precondition(net_of(gradient), state, self.damping)
        x = flatten(x)[0]
        length = natural.step_length(jnp.vdot(x, gradient), self.target_kl)  # xᵀF̂x = xᵀ∇L
        length = jnp.minimum(length, evaluate(self.max_step, progress))
        return theta + length * x, state, {"train/step_size": length}


def _direction(
    actor: Any, theta: jax.Array, dist_of: natural.DistOf, objective: Callable, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """x = F⁻¹∇L by conjugate gradients, and xᵀFx."""
    return natural.natural_direction(
        natural.fisher_vector_product(dist_of, theta, valid),
        jax.grad(objective)(theta),
        cg_max_steps=actor.cg_max_steps,
        cg_damping=actor.cg_damping,
    )


def _check_natural(actor: Any) -> None:
    """Raise ValueError for a field of a natural actor that is out of range."""
    finite(actor, "target_kl")
    if not actor.target_kl > 0:
        raise ValueError(f"target_kl={actor.target_kl} must be positive.")
    if hasattr(actor, "cg_damping"):
        finite(actor, "cg_damping", least=0)
        whole(actor, "cg_max_steps")
    if hasattr(actor, "max_step"):
        object.__setattr__(actor, "max_step", as_schedule(actor.max_step, "max_step"))
        if not bounds(actor.max_step)[1] > 0:
            raise ValueError(f"max_step={actor.max_step} must be positive.")


NaturalActor = NaturalGradient | TrustRegion | KroneckerFactored
"""Actors that step by the Fisher matrix instead of descending a loss."""
Actor = ScoreFunction | PPOClip | PPOKL | OffPAC | ACER | PGQL | ImportanceScore | NaturalActor

ACTORS: dict[str, type] = {
    cls.name: cls
    for cls in (ScoreFunction, PPOClip, PPOKL, NaturalGradient, TrustRegion, KroneckerFactored, OffPAC, ACER, PGQL,
                ImportanceScore)
}  # fmt: skip


def default_psi(critic_function: str) -> str:
    """ψ where the user names none: 'reward-to-go' without a critic, 'q' with a Q critic, else 'advantage'."""
    return {"none": "reward-to-go", "q": "q", "v": "advantage"}[critic_function]


def parse_actor(text: str, critic_function: str = "v") -> Actor:
    """'score', 'score:reward-to-go', 'ppo-clip:0.2', 'ppo-kl:0.01:1.0', 'ppo-clip:0.2:td-error' → an actor.

    ψ may be left out. ValueError lists the names.
    """
    name, *rest = text.split(":")
    if name not in ACTORS:
        raise ValueError(f"actor {text!r}: unknown; choose one of {', '.join(ACTORS)}.")
    cls = ACTORS[name]
    numeric = [f.name for f in dataclasses.fields(cls) if f.name not in ("psi", "gamma_weight")]
    values: dict[str, Any] = {"psi": default_psi(critic_function)}
    if cls is not ScoreFunction and values["psi"] == "q":
        # The surrogates are pessimistic by the sign of ψ, so they take a centred one.
        values["psi"] = "advantage"
    if cls is ImportanceScore:
        values["psi"] = "return"
    for word in rest:
        if word in PSI:
            values["psi"] = word
        elif numeric[:1] == ["kind"]:
            values[numeric.pop(0)] = word
        elif word == "gamma" and cls is ScoreFunction:
            values["gamma_weight"] = True
        elif numeric:
            try:
                field = numeric.pop(0)
                values[field] = word if word.startswith(("lin_", "tab_")) else float(word)
            except ValueError:
                raise ValueError(
                    f"actor {text!r}: {word!r} is neither a number nor one of {', '.join(PSI)}."
                ) from None
        else:
            raise ValueError(f"actor {text!r}: cannot read {word!r}; ψ is one of {', '.join(PSI)}.")
    return cls(**values)


def format_actor(actor: Actor) -> str:
    """The inverse of `parse_actor`."""
    words = [actor.name]
    for f in dataclasses.fields(actor):
        value = getattr(actor, f.name)
        if f.name == "gamma_weight":
            words += ["gamma"] if value else []
        else:
            words.append(str(value))
    return ":".join(words)
