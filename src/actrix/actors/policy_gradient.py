"""Policy-gradient objectives and what surrounds them: baselines, KL terms, diagnostics.

Objectives are per row, arrays `[T, *B]`, and are to be MAXIMISED: a loss is `-masked_mean(objective, valid)`.
Advantages, returns and everything the behaviour policy left behind are data: no gradient flows through them.
Padding rows must hold finite numbers: `masked_mean` gives them the weight 0 but cannot undo 0·∞ in a
gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

Rows = Float[Array, "*B"]
Flags = Bool[Array, "*B"]
Scalar = Float[Array, ""]
Number = float | Float[Array, "..."]


# Objectives


def score_function(*, log_prob: Rows, psi: Rows) -> Rows:
    """log π(a_t|s_t)·sg[ψ_t], whose gradient is ∇log π(a_t|s_t) ψ_t.

    ψ_t may be R(τ), or γ^t times one of G_t, G_t − b(s_t), Q, A, δ_t; leaving out γ^t (`discount_weights`) is
    the custom, and biased for γ < 1. Only the gradient means something, and only at the policy that sampled
    the actions. Williams (1992); Sutton et al., "Policy Gradient Methods for RL with Function Approximation"
    (1999).
    """
    return log_prob * stop_gradient(psi)


def ppo_clip(*, log_prob: Rows, old_log_prob: Rows, advantage: Rows, clip_range: Number) -> Rows:
    """min(ρ_t Â_t, clip(ρ_t, 1−ε, 1+ε) Â_t), ρ_t = exp(log π(a_t|s_t) − log π_old(a_t|s_t)).

    A pointwise lower bound of ρ_t Â_t. Its gradient is 0 only where the gain is already taken (ρ > 1+ε with Â
    > 0, ρ < 1−ε with Â < 0) and that of ρ_t Â_t elsewhere. Schulman et al., "Proximal Policy Optimization
    Algorithms" (2017), eq. 7.
    """
    rho = jnp.exp(log_prob - stop_gradient(old_log_prob))
    advantage = stop_gradient(advantage)
    return jnp.minimum(rho * advantage, jnp.clip(rho, 1 - clip_range, 1 + clip_range) * advantage)


def ppo_kl(*, log_prob: Rows, old_log_prob: Rows, advantage: Rows, kl: Rows, beta: Number) -> Rows:
    """ρ_t Â_t − β KL_t, with KL_t = KL(π_old(·|s_t) ‖ π(·|s_t)) differentiable in π.

    Schulman et al. (2017), eq. 8. `adapt_beta` moves β.
    """
    rho = jnp.exp(log_prob - stop_gradient(old_log_prob))
    return rho * stop_gradient(advantage) - beta * kl


def adapt_beta(beta: Number, kl: Number, target_kl: Number) -> Array:
    """β/2 if kl < target/1.5, 2β if kl > 1.5·target, else β. Schulman et al. (2017), §4."""
    factor = jnp.where(kl < target_kl / 1.5, 0.5, jnp.where(kl > target_kl * 1.5, 2.0, 1.0))
    return beta * factor.astype(jnp.result_type(beta, float))


def clipped_value_loss(*, value: Rows, old_value: Rows, target: Rows, clip_range: Number) -> Rows:
    """(target_t − V̄_t)², V̄_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε, ε).

    Stable-Baselines3's form: no factor ½, and no gradient once V has moved by ε, even away from the target.
    OpenAI Baselines instead takes ½·max((target − V)², (target − V̄)²), which keeps that gradient. The PPO
    paper clips no values. ε has the scale of the returns.
    """
    old_value = stop_gradient(old_value)
    clipped = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return jnp.square(stop_gradient(target) - clipped)


# KL to a reference policy π̄ (a temperature τ): two objectives


def kl_reward(*, reward: Rows, kl: Rows, tau: Number) -> Rows:
    """KL in the reward: r_t − τ·sg[KL_t], the soft return Σ_t γ^t (r_t − τ KL(π(·|s_t) ‖ π̄(·|s_t))).

    The policy then pays for KL it will meet later. The gradient is exact in one of two forms, never in a mix
    of them:
    - `kl` = log π(a_t|s_t) − log π̄(a_t|s_t) of the action taken, and `score_function` alone: ∇log π (Q − τ
      log π/π̄);
    - `kl` = the exact KL_t, plus `kl_penalty` in the objective: ∇log π Q − τ∇KL.
    Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning" (2017).
    """
    return reward - tau * stop_gradient(kl)


def kl_penalty(*, kl: Rows, tau: Number) -> Rows:
    """−τ·KL_t, to be added to an objective; `kl` is the exact KL(π(·|s_t) ‖ π̄(·|s_t)), differentiable in π.

    Together with `kl_reward` of the same exact KL it completes the soft return's gradient. Alone it is
    another objective, which keeps π near π̄ at the states met but does not pay for future KL. A sampled
    log-ratio does not do here: its gradient has mean 0.
    """
    return -tau * kl


# Means, weights, diagnostics


def masked_mean(x: Rows, valid: Flags | None = None) -> Scalar:
    """Mean of x over valid rows; 0 if there is none."""
    if valid is None:
        return jnp.mean(x)
    return jnp.sum(jnp.where(valid, x, 0)) / jnp.maximum(jnp.sum(valid), 1).astype(x.dtype)


def normalize(x: Rows, valid: Flags | None = None, eps: float = 1e-8) -> Rows:
    """(x − mean)/(std + eps) over valid rows, 0 elsewhere; std divides by their number n (SB3: n − 1)."""
    centred = x - masked_mean(x, valid)
    scaled = centred / (jnp.sqrt(masked_mean(jnp.square(centred), valid)) + eps)
    return scaled if valid is None else jnp.where(valid, scaled, 0)


def explained_variance(prediction: Rows, target: Rows, valid: Flags | None = None) -> Scalar:
    """1 − Var(target − prediction)/Var(target) over valid rows: 1 is perfect, 0 no better than a constant.

    NaN where the targets do not vary (as in SB3): there is nothing to explain.
    """

    def variance(x):
        return masked_mean(jnp.square(x - masked_mean(x, valid)), valid)

    total = variance(target)
    return jnp.where(total > 0, 1 - variance(target - prediction) / jnp.where(total > 0, total, 1), jnp.nan)


def approx_kl(log_prob: Rows, old_log_prob: Rows, valid: Flags | None = None) -> Scalar:
    """Mean of (ρ − 1) − log ρ over valid rows, ρ = π/π_old: estimates KL(π_old ‖ π) from π_old's actions.

    Unbiased and never negative. Schulman, "Approximating KL Divergence" (2020), estimator k3.
    """
    log_rho = log_prob - old_log_prob
    return masked_mean(jnp.expm1(log_rho) - log_rho, valid)


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


# Baselines


class MovingAverage(NamedTuple):
    """Decayed sum of the returns of earlier batches, and the decayed number of them."""

    total: Scalar
    weight: Scalar

    @classmethod
    def zero(cls, dtype=jnp.float32) -> "MovingAverage":
        """Nothing seen yet."""
        return cls(total=jnp.zeros((), dtype), weight=jnp.zeros((), dtype))


def moving_average_baseline(
    state: MovingAverage, returns: Rows, *, decay: float = 0.9, valid: Flags | None = None
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


def acer_step(
    log_probs: Float[Array, "*B A"],
    behaviour: Float[Array, "*B A"],
    average: Float[Array, "*B A"],
    *,
    action: Int[Array, "*B"],
    advantage: Float[Array, "*B"],
    q_advantage: Float[Array, "*B A"],
    truncation: float,
    trust_region: float,
) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
    """ACER's ascent direction in the logits, and the share of it that the trust region left (Wang et al. 2017).

    g = min(c, ρ_t) Â_t ∇log π(a_t|s_t) + Σ_a π(a|s_t) [1 − c/ρ_t(a)]₊ (Q(s_t, a) − V(s_t)) ∇log π(a|s_t)
    z* = g − max(0, (kᵀg − δ)/‖k‖²) k,  k = ∇KL(average ‖ π) = π − average

    The three policies are given as log-probabilities `[*B, A]`; gradients are with respect to the logits, where
    ∇log π(a) = e_a − π. `advantage` is Q^ret − V (eq. 4 and 12 of the paper). The returned share is 1 where the
    trust region did not bind, else z*·g/‖g‖².
    """
    pi, mu = jnp.exp(log_probs), jnp.exp(behaviour)
    taken = jax.nn.one_hot(action, pi.shape[-1], dtype=pi.dtype)
    rho_a = pi / jnp.maximum(mu, 1e-10)
    rho = jnp.sum(taken * rho_a, axis=-1, keepdims=True)
    first = jnp.minimum(rho, truncation) * advantage[..., None] * (taken - pi)
    lost = jnp.maximum(1 - truncation / jnp.maximum(rho_a, 1e-10), 0.0) * pi * q_advantage
    g = first + lost - pi * jnp.sum(lost, axis=-1, keepdims=True)
    k = pi - jnp.exp(average)
    size = jnp.sum(k * k, axis=-1, keepdims=True)
    excess = jnp.maximum(
        (jnp.sum(k * g, axis=-1, keepdims=True) - trust_region) / jnp.maximum(size, 1e-10), 0.0
    )
    step = g - excess * k
    share = jnp.sum(step * g, axis=-1) / jnp.maximum(jnp.sum(g * g, axis=-1), 1e-10)
    return step, jnp.where(excess[..., 0] > 0, share, 1.0)
