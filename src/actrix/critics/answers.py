"""Question 1 — how is the critic computed? — as small values: `Critic(function, estimator)`.

The estimator says which target the critic is fitted to; the function says whether it is V(s) or Q(s, ·).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from actrix.critics import returns


def _check_lambda(name: str, value: float) -> None:
    if isinstance(value, str) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must lie in [0, 1].")


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """G_t to the end of the episode."""

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        """Targets `[T, N]` from V(s_t) and the rows `reward, next_value, terminated, truncated, valid`."""
        return returns.monte_carlo(gamma=gamma, **rows)


@dataclasses.dataclass(frozen=True)
class TD:
    """r_t + γ_t V(s_{t+1})."""

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.td_target(gamma=gamma, **rows)


@dataclasses.dataclass(frozen=True)
class NStep:
    """Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n})."""

    n: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or int(self.n) != self.n or self.n < 1:
            raise ValueError(f"n={self.n} must be a whole number of at least 1.")

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.n_step(gamma=gamma, n=self.n, **rows)


@dataclasses.dataclass(frozen=True)
class TDLambda:
    """The λ-return G^λ_t (forward view of TD(λ))."""

    lam: float = 0.95

    def __post_init__(self) -> None:
        _check_lambda("lam", self.lam)

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.lambda_return(gamma=gamma, lam=self.lam, **rows)


@dataclasses.dataclass(frozen=True)
class GAE:
    """Â_t + V(s_t) with the generalised advantage estimate Â: the λ-return, computed as PPO does."""

    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        _check_lambda("gae_lambda", self.gae_lambda)

    def target(self, *, value: jax.Array, gamma: float, **rows: Any) -> jax.Array:
        return returns.gae(value=value, gamma=gamma, lam=self.gae_lambda, **rows) + value


Estimator = MonteCarlo | TD | NStep | TDLambda | GAE

ESTIMATORS: dict[str, type] = {"mc": MonteCarlo, "td": TD, "n-step": NStep, "td-lambda": TDLambda, "gae": GAE}


@dataclasses.dataclass(frozen=True)
class Critic:
    """`function` "v" (state value), "q" (action values, discrete actions) or "none", fitted to `estimator`.

    With a Q critic V(s) = Σ_a π(a|s) Q(s, a), so every estimator serves it: the target for Q(s_t, a_t) is the
    same G_t (expected SARSA for `TD`). The actor's ψ = "advantage" is G_t − V(s_t) with a V critic, and
    Q(s_t, a_t) − Σ_a π(a|s_t) Q(s_t, a) with a Q critic.
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
        return self.function == "none" or isinstance(self.estimator, MonteCarlo)


CRITICS = (*ESTIMATORS, *(f"q-{n}" for n in ESTIMATORS if n != "gae"), "none")


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
            if isinstance(f.default, float):
                values[f.name] = float(text) if not text.startswith("lin_") else text
        return cls(**values)
    except ValueError as error:
        names = ":".join(f.name for f in fields) or "no parameters"
        raise ValueError(
            f"{where}: cannot read the parameters; the form is NAME:{names}. {error}".strip()
        ) from None
