"""Natural-gradient steps: Fisher-vector products, conjugate gradients, the line search of TRPO, conservative mixtures.

The functions know a policy as `dist_of(θ)`, the action distributions of a batch of rows as a function of one flat
parameter vector, and average over the rows where `valid` (None = all). F is the mean Fisher matrix of the rows,
F = E_s E_{a∼π}[∇log π(a|s) ∇log π(a|s)ᵀ], the Hessian of the mean KL(π_old ‖ π_θ) at θ_old.
Kakade, "A Natural Policy Gradient" (2001); Schulman et al., "Trust Region Policy Optimization" (2015).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.actors.policy_gradient import PolicyGradient, masked_mean
from actrix.core.answers import Metrics
from actrix.core.distributions import Distribution
from actrix.core.fields import finite, positive, rate, whole
from actrix.core.fit import Natural
from actrix.core.rows import Rows
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import PyTree

Vector = Float[Array, " P"]
DistOf = Callable[[Any], Distribution]


def mean_kl(old: Distribution, new: Distribution, valid: Bool[Array, "*B"] | None = None) -> Float[Array, ""]:
    """Mean of KL(old(·|s_t) ‖ new(·|s_t)) over the valid rows."""
    return masked_mean(old.kl(new), valid)  # type: ignore[arg-type]


def fisher_vector_product(
    dist_of: DistOf, theta: Vector, valid: Bool[Array, "*B"] | None = None
) -> Callable[[Vector], Vector]:
    """v ↦ Fv at θ, as Σ_t w_t J_tᵀ M_t J_t v with w_t = 1/(number of valid rows).

    J_t is the Jacobian of row t's distribution parameters, M_t their own Fisher matrix (`Distribution.fisher`).
    At θ_old this equals the Hessian of `mean_kl` times v, and costs less: J is linearised once for all products.
    """
    dist, push = jax.linearize(dist_of, theta)
    pull = jax.linear_transpose(push, theta)

    def product(v: Vector) -> Vector:
        metric = dist.fisher(push(v))  # type: ignore[arg-type]
        return pull(jax.tree.map(lambda x: _weigh(x, valid), metric))[0]

    return product


def _weigh(x: Array, valid: Array | None) -> Array:
    """Rows `[*B, n]` over their number, the invalid ones 0."""
    if valid is None:
        return x / (x.size // x.shape[-1])
    return jnp.where(valid[..., None], x / jnp.maximum(jnp.sum(valid), 1), 0)


def fisher_matrix(
    dist_of: DistOf, theta: Vector, valid: Bool[Array, "*B"] | None = None
) -> Float[Array, "P P"]:
    """F itself, from the dense Jacobian: for small networks and for tests (P² numbers, P passes)."""
    dist, jacobian = dist_of(theta), jax.jacobian(dist_of)(theta)  # leaves [*B, n] and [*B, n, P]
    column = lambda tangent: jax.tree.map(lambda x: _weigh(x, valid), dist.fisher(tangent))
    metric = jax.vmap(column, in_axes=-1, out_axes=-1)(jacobian)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    parts = jax.tree.map(lambda j, m: flat(m).T @ flat(j), jacobian, metric)
    return sum(jax.tree.leaves(parts))  # type: ignore[return-value]


def conjugate_gradient(
    product: Callable[[Vector], Vector], b: Vector, max_steps: int = 15, tolerance: float = 1e-10
) -> Vector:
    """x ≈ A⁻¹b for a symmetric positive definite A, given as `product`(v) = Av, from x = 0.

    At most `max_steps` steps; it stops where ‖b − Ax‖² ≤ `tolerance`·‖b‖² (relative, Stable-Baselines3's is absolute),
    or where a direction has no positive curvature (A singular along it, or rounding). b = 0 gives 0.
    Hestenes & Stiefel (1952).
    """
    size = jnp.vdot(b, b)

    def go_on(state: tuple) -> Array:
        step, _, _, _, rest, curved = state
        return (step < max_steps) & (rest > tolerance * size) & curved

    def step(state: tuple) -> tuple:
        i, x, residual, direction, rest, _ = state
        image = product(direction)
        curvature = jnp.vdot(direction, image)
        curved = curvature > 0
        alpha = jnp.where(curved, rest / jnp.where(curved, curvature, 1), 0)
        x, residual = x + alpha * direction, residual - alpha * image
        new_rest = jnp.vdot(residual, residual)
        direction = residual + new_rest / rest * direction
        return i + 1, x, residual, direction, new_rest, curved

    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(b), b, b, size, jnp.asarray(True))
    return jax.lax.while_loop(go_on, step, start)[1]


def natural_direction(
    product: Callable[[Vector], Vector], gradient: Vector, *, cg_max_steps: int = 15, cg_damping: float = 0.1
) -> tuple[Vector, Float[Array, ""]]:
    """x = (F + λI)⁻¹g by conjugate gradients, and xᵀ(F + λI)x. λ = `cg_damping` makes a singular F invertible."""
    damped = lambda v: product(v) + cg_damping * v
    x = conjugate_gradient(damped, gradient, cg_max_steps)
    return x, jnp.vdot(x, damped(x))


def step_length(curvature: Float[Array, ""], target_kl: float | Array) -> Float[Array, ""]:
    """√(2δ/xᵀFx): along x, the length at which the quadratic model ½η²xᵀFx of the KL is δ; 0 where xᵀFx is.

    With the curvature xᵀ(F+λI)x of a damped solution the step is a little shorter.
    """
    positive = curvature > 0
    return jnp.where(positive, jnp.sqrt(2 * target_kl / jnp.where(positive, curvature, 1)), 0)


class Search(NamedTuple):
    """The result of `line_search`."""

    theta: Vector
    success: Bool[Array, ""]
    objective: Float[Array, ""]
    """At `theta`."""
    kl: Float[Array, ""]
    """KL(π_old ‖ π_θ) at `theta`; 0 where the old parameters were kept."""


def line_search(
    evaluate: Callable[[Vector], tuple[Array, Array]],
    theta: Vector,
    step: Vector,
    target_kl: float | Array,
    *,
    max_iter: int = 10,
    shrinking_factor: float = 0.8,
) -> Search:
    """The first of θ + step·β^j, j < `max_iter`, with L > L(θ) and mean KL < δ; else θ itself, bit for bit.

    `evaluate`(θ) = (L(θ), KL). Comparisons with NaN are false, so a step that is not finite changes nothing.
    """
    before, _ = evaluate(theta)

    def go_on(state: tuple) -> Array:
        return (state[0] < max_iter) & ~state[1].success

    def attempt(state: tuple) -> tuple:
        i, found, share = state
        candidate = theta + share * step
        objective, kl = evaluate(candidate)
        good = (objective > before) & (kl < target_kl)
        new = Search(candidate, good, objective, kl)
        found = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, found)
        return i + 1, found, share * shrinking_factor

    nothing = Search(theta, jnp.asarray(False), before, jnp.zeros_like(before))
    start = (jnp.zeros((), jnp.int32), nothing, jnp.ones((), theta.dtype))
    return jax.lax.while_loop(go_on, attempt, start)[1]


# Conservative policy iteration


def conservative_mixture(
    log_probs: Float[Array, "*B A"], other: Float[Array, "*B A"], alpha: float | Array
) -> Float[Array, "*B A"]:
    """log[(1 − α)π + απ′] from log π and log π′: a mixture of probabilities, not of parameters.

    For tables, or for the outputs of two networks: no single network of a family holds the mixture in general.
    Kakade & Langford, "Approximately Optimal Approximate Reinforcement Learning" (2002).
    """
    return jnp.logaddexp(jnp.log1p(-jnp.asarray(alpha)) + log_probs, jnp.log(jnp.asarray(alpha)) + other)


def conservative_step(gain: float | Array, epsilon: float | Array, gamma: float) -> Array:
    """α = min(1, (1−γ)²Ā/(4εγ)), 0 where Ā ≤ 0: the mixture step with a guaranteed improvement.

    Ā = Σ_s ρ_π(s) E_{a∼π′}A_π(s,a) with the unnormalised discounted visitation ρ_π, ε = max_s |E_{a∼π′}A_π(s,a)|.
    It maximises η(π) + αĀ − 2εγα²/(1−γ)², Kakade & Langford's lower bound of the mixture's return.
    """
    gain, penalty = jnp.asarray(gain), 4 * jnp.asarray(epsilon) * gamma
    alpha = (1 - gamma) ** 2 * gain / jnp.where(penalty > 0, penalty, 1)
    return jnp.where(gain > 0, jnp.where(penalty > 0, jnp.minimum(1, alpha), 1), 0)


# ---------------------------------------------------------------------------- question 2: actors that step so


@dataclasses.dataclass(frozen=True)
class NaturalActor(PolicyGradient):
    """Ascends ρ_t ψ_t + ent_coef · H(π), ρ_t = π/π_old, by one step of its own per chunk."""

    fit: ClassVar[Any] = Natural

    @property
    def facts(self):
        return dataclasses.replace(super().facts, fisher=True, reports_kl=False)

    def objective(self, view, kept, rows, psi, memo, progress):
        return jnp.exp(view.log_prob - rows.log_prob) * psi, {}

    def step_init(self, net: Any) -> PyTree:
        """What the step remembers between chunks."""
        return None

    @abc.abstractmethod
    def step(
        self, theta: Vector, state: PyTree, at: Callable, objective: Callable, rows: Rows, progress: Any
    ) -> tuple[Vector, PyTree, Metrics]:
        """(θ, state, metrics) after one step up `objective`; `at(θ)` is the view of the rows by θ."""


@dataclasses.dataclass(frozen=True)
class ConjugateActor(NaturalActor):
    """The direction F⁻¹∇L by conjugate gradients."""

    target_kl: float = 0.01
    """δ of the mean KL(π_old ‖ π)."""
    cg_max_steps: int = 15
    cg_damping: float = 0.1
    """λ of (F + λI)x = ∇L."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "target_kl")
        finite(self, "cg_damping", least=0)
        whole(self, "cg_max_steps")

    def direction(self, theta: Vector, at: Callable, objective: Callable, rows: Rows) -> tuple[Vector, Array]:
        """x = F⁻¹∇L, and xᵀFx."""
        product = fisher_vector_product(lambda theta: at(theta).dist, theta, rows.valid)
        gradient = jax.grad(objective)(theta)
        return natural_direction(
            product, gradient, cg_max_steps=self.cg_max_steps, cg_damping=self.cg_damping
        )


@dataclasses.dataclass(frozen=True)
class NaturalGradient(ConjugateActor):
    """θ ← θ + η F⁻¹∇L, η = min(`max_step`, √(2δ/xᵀFx)) (Kakade 2001; bounded as by Rajeswaran et al. 2017).

    δ bounds the quadratic model of the KL; the step itself is not checked.
    """

    max_step: Schedule = 1.0

    name: ClassVar[str] = "npg"
    positional: ClassVar[tuple[str, ...]] = ("target_kl", "max_step", "cg_max_steps", "cg_damping")

    def __post_init__(self) -> None:
        super().__post_init__()
        rate(self, "max_step")

    def step(self, theta, state, at, objective, rows, progress):
        x, curvature = self.direction(theta, at, objective, rows)
        length = jnp.minimum(step_length(curvature, self.target_kl), evaluate(self.max_step, progress))
        return theta + length * x, state, {"train/step_size": length}


@dataclasses.dataclass(frozen=True)
class TrustRegion(ConjugateActor):
    """max L(θ) s.t. mean KL(π_old ‖ π_θ) ≤ δ, by a natural-gradient step and a line search (Schulman et al. 2015).

    Field names are sb3-contrib's. The constraint is on the mean KL: no guarantee of improvement follows from it.
    """

    line_search_shrinking_factor: float = 0.8
    line_search_max_iter: int = 10

    name: ClassVar[str] = "trpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "line_search_max_iter")
        if not 0 < self.line_search_shrinking_factor < 1:
            raise ValueError(
                f"line_search_shrinking_factor={self.line_search_shrinking_factor} must lie between 0 and 1."
            )

    @property
    def facts(self):
        return dataclasses.replace(super().facts, fisher=True, ratio=True, searches=True)

    def step(self, theta, state, at, objective, rows, progress):
        old = at(theta).dist
        x, curvature = self.direction(theta, at, objective, rows)
        found = line_search(
            lambda theta: (objective(theta), mean_kl(old, at(theta).dist, rows.valid)),
            theta,
            step_length(curvature, self.target_kl) * x,
            self.target_kl,
            max_iter=self.line_search_max_iter,
            shrinking_factor=self.line_search_shrinking_factor,
        )
        return found.theta, state, {"train/is_line_search_success": found.success.astype(jnp.float32)}
