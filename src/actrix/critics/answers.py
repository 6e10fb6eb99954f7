"""Question 1 — how is the critic computed? — as small values: `Critic(function, estimator)`.

The estimator says which target the critic is fitted to; the function says whether it is V(s) or Q(s, ·).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax

from actrix.critics import corrections, returns


def _check_lambda(name: str, value: float) -> None:
    if isinstance(value, str) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must lie in [0, 1].")


class OnPolicy:
    """An estimator of the values of the policy that acted."""

    corrected: ClassVar[bool] = False
    """Whether it is given ρ_t = π/μ, and so estimates the values of π from data of μ."""
    functions: ClassVar[tuple[str, ...]] = ("v", "q")
    """What it can be fitted to."""


@dataclasses.dataclass(frozen=True)
class MonteCarlo(OnPolicy):
    """G_t to the end of the episode."""

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        """Targets `[T, N]` from V(s_t) and the rows `reward, next_value, terminated, truncated, valid`."""
        return returns.monte_carlo(gamma=gamma, **rows)


@dataclasses.dataclass(frozen=True)
class TD(OnPolicy):
    """r_t + γ_t V(s_{t+1})."""

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.td_target(gamma=gamma, **rows)


@dataclasses.dataclass(frozen=True)
class NStep(OnPolicy):
    """Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n})."""

    n: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or int(self.n) != self.n or self.n < 1:
            raise ValueError(f"n={self.n} must be a whole number of at least 1.")

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.n_step(gamma=gamma, n=self.n, **rows)


@dataclasses.dataclass(frozen=True)
class TDLambda(OnPolicy):
    """The λ-return G^λ_t (forward view of TD(λ))."""

    lam: float = 0.95

    def __post_init__(self) -> None:
        _check_lambda("lam", self.lam)

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.lambda_return(gamma=gamma, lam=self.lam, **rows)


@dataclasses.dataclass(frozen=True)
class GAE(OnPolicy):
    """Â_t + V(s_t) with the generalised advantage estimate Â: the λ-return, computed as PPO does."""

    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        _check_lambda("gae_lambda", self.gae_lambda)

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.gae(value=value, gamma=gamma, lam=self.gae_lambda, **rows) + value


@dataclasses.dataclass(frozen=True)
class VTrace:
    """V-trace: v_t = V_t + Σ_k γ^k (Π c) ρ̄ δ, of the policy ∝ min(ρ_max μ, π) (Espeholt et al. 2018)."""

    lam: float = 1.0
    rho_max: float = 1.0
    c_max: float = 1.0

    corrected: ClassVar[bool] = True
    functions: ClassVar[tuple[str, ...]] = ("v",)

    def __post_init__(self) -> None:
        _check_lambda("lam", self.lam)
        if not self.rho_max >= self.c_max > 0:
            raise ValueError(
                f"rho_max={self.rho_max} must be at least c_max={self.c_max}, and both positive."
            )

    def target(self, **rows: Any) -> jax.Array:
        return self._vtrace(**rows)[0]

    def advantage(self, **rows: Any) -> jax.Array:
        """ρ̄_t (r_t + γ_t v_{t+1} − V_t): the weight of the score, ratio included."""
        return self._vtrace(**rows)[1]

    def _vtrace(self, *, rho: jax.Array, log_prob: jax.Array, fitted: jax.Array, **rows: Any):
        return corrections.vtrace(rho=rho, lam=self.lam, rho_max=self.rho_max, c_max=self.c_max, **rows)


@dataclasses.dataclass(frozen=True)
class ImportanceTD:
    """V_t + min(ρ_max, ρ_t) δ_t: TD(0) corrected by the ratio, in place of Off-PAC's GTD(λ) (Degris et al. 2012)."""

    rho_max: float = 10.0

    corrected: ClassVar[bool] = True
    functions: ClassVar[tuple[str, ...]] = ("v",)

    def target(self, *, rho: jax.Array, log_prob: jax.Array, fitted: jax.Array, **rows: Any) -> jax.Array:
        return corrections.td_rho(rho=rho, rho_max=self.rho_max, **rows)

    def advantage(self, *, value: jax.Array, **rows: Any) -> jax.Array:
        """r_t + γ_t V(s_{t+1}) − V_t, not yet weighted by ρ_t."""
        names = ("reward", "next_value", "terminated", "truncated", "valid", "gamma")
        return returns.td_error(value=value, **{name: rows[name] for name in names})


@dataclasses.dataclass(frozen=True)
class ImportanceMC:
    """The Monte Carlo return of whole episodes, corrected by products of ratios (Precup et al. 2000)."""

    kind: str = "per-decision"
    """'ordinary' ρ_{t:T−1} G_t, 'weighted' by Σρ over the episodes (biased, consistent), or 'per-decision'."""

    corrected: ClassVar[bool] = True
    functions: ClassVar[tuple[str, ...]] = ("v",)

    def __post_init__(self) -> None:
        if self.kind not in _IS_RETURNS:
            raise ValueError(f"kind={self.kind!r}: choose one of {', '.join(_IS_RETURNS)}.")

    def target(
        self, *, rho: jax.Array, log_prob: jax.Array, fitted: jax.Array, value: jax.Array, **rows: Any
    ) -> jax.Array:
        return _IS_RETURNS[self.kind](rho=rho, **rows)

    def advantage(self, *, value: jax.Array, rho: jax.Array, **rows: Any) -> jax.Array:
        """The corrected return − ρ_t V_t: under μ the baseline too is weighted. No further ρ_t belongs to it."""
        return self.target(value=value, rho=rho, **rows) - rho * value


_IS_RETURNS = {
    "ordinary": corrections.ordinary_is,
    "weighted": corrections.weighted_is,
    "per-decision": corrections.per_decision_is,
}


@dataclasses.dataclass(frozen=True)
class Retrace:
    """G_t = r_t + γ_t[Σ_a π Q(s_{t+1}, a) + c_{t+1}(G_{t+1} − Q(s_{t+1}, a_{t+1}))], c = λ min(1, ρ).

    Munos et al. 2016. The other traces of the one recursion are the classes below.
    """

    lam: float = 1.0

    trace: ClassVar[str] = "retrace"
    corrected: ClassVar[bool] = True
    functions: ClassVar[tuple[str, ...]] = ("q",)

    def __post_init__(self) -> None:
        _check_lambda("lam", self.lam)

    def target(
        self, *, value: jax.Array, rho: jax.Array, log_prob: jax.Array, fitted: jax.Array, **rows: Any
    ) -> jax.Array:
        trace = corrections.trace(self.trace, rho=rho, log_prob=log_prob, lam=self.lam)
        return corrections.off_policy_q(q=fitted, trace=trace, **rows)

    def advantage(self, *, value: jax.Array, **rows: Any) -> jax.Array:
        """G_t − V(s_t), not yet weighted by ρ_t."""
        return self.target(value=value, **rows) - value


class TreeBackup(Retrace):
    """c = λπ(a|s): needs no behaviour probabilities (Precup et al. 2000)."""

    trace: ClassVar[str] = "tree-backup"


class QLambda(Retrace):
    """c = λ: converges only for policies near each other (Harutyunyan et al. 2016)."""

    trace: ClassVar[str] = "q-lambda"


class ImportanceQ(Retrace):
    """c = λρ: unbiased, of unbounded variance."""

    trace: ClassVar[str] = "importance-sampling"


Estimator = MonteCarlo | TD | NStep | TDLambda | GAE | VTrace | ImportanceTD | ImportanceMC | Retrace

ESTIMATORS: dict[str, Any] = {
    "mc": MonteCarlo, "td": TD, "n-step": NStep, "td-lambda": TDLambda, "gae": GAE, "v-trace": VTrace,
    "td-is": ImportanceTD, "mc-is": ImportanceMC, "retrace": Retrace, "tree-backup": TreeBackup, "lambda": QLambda,
    "importance": ImportanceQ,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Critic:
    """`function` "v" (state value), "q" (action values, discrete actions) or "none", fitted to `estimator`.

    With a Q critic V(s) = Σ_a π(a|s) Q(s, a), so every estimator serves it: the target for Q(s_t, a_t) is the
    same G_t (expected SARSA for `TD`). The actor's ψ = "advantage" is G_t − V(s_t) with a V critic or a corrected
    estimator, and Q(s_t, a_t) − Σ_a π(a|s_t) Q(s_t, a) with a Q critic fitted on-policy or by TD.
    """

    function: str = "v"
    estimator: Estimator = GAE()

    @property
    def name(self) -> str:
        """'gae', 'td-lambda', 'q-td', …, 'none'."""
        if self.function == "none":
            return "none"
        kind = next(n for n, c in ESTIMATORS.items() if type(self.estimator) is c)
        return kind if self.function == "v" else f"q-{kind}"

    def __str__(self) -> str:
        values = [str(getattr(self.estimator, f.name)) for f in dataclasses.fields(self.estimator)]
        return ":".join([self.name, *values]) if self.function != "none" else "none"

    @property
    def whole_episodes(self) -> bool:
        """Monte Carlo never bootstraps inside an episode, so it is fed whole episodes."""
        return self.function == "none" or isinstance(self.estimator, MonteCarlo | ImportanceMC)

    @property
    def corrected(self) -> bool:
        """Whether it estimates the values of π from data of another policy."""
        return self.estimator.corrected


CRITICS = (
    *(n for n, c in ESTIMATORS.items() if "v" in c.functions),
    *(f"q-{n}" for n, c in ESTIMATORS.items() if "q" in c.functions and n != "gae"),
    "none",
)


def parse_critic(text: str) -> Critic:
    """'td-lambda:0.9', 'gae', 'n-step:5', 'q-td', 'none' → `Critic`; ValueError lists the names."""
    name, *numbers = text.split(":")
    if name == "none":
        return Critic("none", MonteCarlo())
    function = "q" if name.startswith("q-") else "v"
    if name not in CRITICS:
        raise ValueError(f"critic {text!r}: unknown; choose one of {', '.join(CRITICS)}.")
    estimator = ESTIMATORS[name.removeprefix("q-")]
    return Critic(function, build_answer(estimator, numbers, f"critic {text!r}"))


def build_answer(cls: type, numbers: list[str], where: str) -> Any:
    """Fill the fields of an answer from 'name:number:…'; ValueError says which fields there are."""
    fields = list(dataclasses.fields(cls))
    try:
        if len(numbers) > len(fields):
            raise ValueError
        values: dict[str, Any] = {}
        for f, text in zip(fields, numbers, strict=False):
            values[f.name] = (
                int(text) if isinstance(f.default, int) and not isinstance(f.default, bool) else text
            )
            if isinstance(f.default, str):
                values[f.name] = text
            elif isinstance(f.default, float):
                values[f.name] = float(text) if not text.startswith("lin_") else text
        return cls(**values)
    except ValueError as error:
        names = ":".join(f.name for f in fields) or "no parameters"
        raise ValueError(
            f"{where}: cannot read the parameters; the form is NAME:{names}. {error}".strip()
        ) from None
