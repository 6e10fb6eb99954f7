"""Targets for π from data of another policy μ: importance-corrected TD and Monte Carlo, V-trace, Retrace.

The conventions are those of `actrix.critics.returns`: time-major arrays `[T, *B]`, γ_t = γ·(1 − terminated_t),
every sum, trace and product of ratios cut where row t+1 does not continue row t (`episode_cut`), rows that are
not `valid` give 0 and influence nothing, the dtype is that of the arrays, and gradients flow. Besides,

- `rho` holds ρ_t = π(a_t|s_t)/μ(a_t|s_t) (`importance_ratio`), the ratio of the action taken in row t itself;
  ρ_{i:j} = Π_{k=i}^{j} ρ_k, both ends included;
- m(t) is the row at which row t's episode ends inside the chunk: the first cut at or after t;
- a target for V(s_t) weighs row t by ρ_t, one for Q(s_t, a_t) does not: its first action is given.

All are `backward_sum` with another x_t and another decay.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.distributions import importance_ratio as importance_ratio
from actrix.critics import corrected as on_rows
from actrix.critics.returns import Number, alike, as_rows

# For V(s)


def vtrace(
    *,
    rho: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    lam: Number = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
    bootstrap: str = "vtrace",
    valid: Bool[Array, "T *B"] | None = None,
) -> tuple[Float[Array, "T *B"], Float[Array, "T *B"]]:
    """V-trace targets v_t and policy-gradient advantages.

    v_t = V(s_t) + Σ_{k≥0} γ^k (Π_{i=t}^{t+k−1} c_i) ρ̄_{t+k} δ_{t+k}, with ρ̄_t = min(ρ_max, ρ_t) and
    c_t = λ_t min(c_max, ρ_t), 0 at a cut. Its fixed point is the value of the policy ∝ min(ρ_max μ, π), whatever
    λ and c_max.

    The advantage is ρ̄_t (r_t + γ_t b_t − V(s_t)): the ratio is in it, so it weighs ∇log π as it is. At a cut
    b_t = V(s_{t+1}), that is `next_value`; elsewhere

    - `bootstrap` = "vtrace": b_t = v_{t+1}, as in the paper. With λ < 1 this is not GAE on-policy;
    - `bootstrap` = "lambda": b_t = λ_t v_{t+1} + (1−λ_t) V(s_{t+1}), as in rlax. On-policy (ρ = 1) this is
      `gae` where V(s_{t+1}) in row t and V(s_t) in row t+1 are one number.

    On-policy with λ = 1 both are the n-step target to the cut and its advantage; λ = 0 makes v_t `td_rho`.
    Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures"
    (2018), §4, with λ from its Remark 2. Deviations: the paper has no truncation; v_t and the advantage share
    one ρ_max. Raises ValueError if ρ_max < c_max, or for an unknown `bootstrap`.
    """
    if not rho_max >= c_max:
        raise ValueError(f"rho_max={rho_max} must be at least c_max={c_max}.")
    if bootstrap not in ("vtrace", "lambda"):
        raise ValueError(f"bootstrap={bootstrap!r}: choose one of vtrace, lambda.")
    rows, _, rho, value, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, rho=rho, value=value, next_value=next_value
    )
    share = 1.0 if bootstrap == "vtrace" else lam
    return on_rows.vtrace(rows, rho, value, next_value, lam, rho_max, c_max, share)


def td_rho(
    *,
    rho: Float[Array, "T *B"],
    rho_max: float,
    value: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    gamma: Number,
    truncated: Bool[Array, "T *B"] | None = None,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """TD(0) target corrected by the ratio, V(s_t) + min(ρ_max, ρ_t) δ_t.

    The gradient of the squared error towards it is the off-policy TD(0) step ρ_t δ_t ∇V(s_t). Its fixed point is
    V^π while ρ ≤ ρ_max, and with clipping the value of the policy ∝ min(ρ_max μ, π). One step crosses no cut:
    `truncated` changes nothing. Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy Evaluation"
    (2000); it stands in for the critic of Degris et al., "Off-Policy Actor-Critic" (2012), which is GTD(λ).
    Deviations: no gradient correction, so with function approximation it may diverge off-policy as any
    semi-gradient may; the bound ρ_max is ours.
    """
    rows, _, rho, value, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, rho=rho, value=value, next_value=next_value
    )
    return on_rows.td_rho(rows, rho, value, next_value, rho_max)


def ordinary_is(
    *,
    rho: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Monte Carlo return weighed by its whole episode's ratios, ρ_{t:m} G_t, G_t = Σ_{k≥0} γ^k r_{t+k}.

    Unbiased for V^π(s_t). Its variance may grow exponentially with the episode's length, and the product may
    overflow or vanish. Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy Evaluation" (2000); there
    for Q(s_t, a_t) with ratios from t+1, here for V(s_t). Deviation: an episode cut without termination adds
    γ^{m+1−t} V(s_{m+1}) to G_t, as `monte_carlo` does, weighed by the whole product too.
    """
    rows, _, rho, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, rho=rho, next_value=next_value
    )
    return on_rows.importance_return("ordinary", rows, rho, next_value)


def weighted_is(
    *,
    rho: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """`ordinary_is` with the weights normalised over the episodes, ρ_{t:m} G_t / mean_b(ρ_{t:m}).

    The mean runs over the valid rows t of all batch axes, so that the mean of the targets over the episodes is
    the weighted estimate Σ_b ρ_{t:m} G_t / Σ_b ρ_{t:m}. Each column is meant to hold one whole episode from row
    0: otherwise the rows of one t have nothing in common. Biased for finitely many episodes (for one it is G_t,
    without any correction) and consistent; the estimate never leaves the range of the returns. Where all weights
    of a row are 0 the target is 0. The weights are formed from log ρ and scaled by their largest, so that long
    products neither overflow nor vanish all together; the gradient at a ρ of exactly 0 counts as 0. Precup,
    Sutton & Singh (2000); deviations: those of `ordinary_is`, and the weights are summed over the episodes at one
    t, not over the visits of one state.
    """
    rows, _, rho, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, rho=rho, next_value=next_value
    )
    return on_rows.importance_return("weighted", rows, rho, next_value)


def per_decision_is(
    *,
    rho: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Monte Carlo return in which each reward is weighed by the ratios up to it, Σ_{k≥0} γ^k ρ_{t:t+k} r_{t+k}.

    Unbiased for V^π(s_t), usually of less variance than `ordinary_is`. As a recursion
    G_t = ρ_t (r_t + γ_t G_{t+1}). Precup, Sutton & Singh (2000); there for Q(s_t, a_t) with ratios from t+1,
    here for V(s_t). Deviation: an episode cut without termination adds γ^{m+1−t} ρ_{t:m} V(s_{m+1}).
    """
    rows, _, rho, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, rho=rho, next_value=next_value
    )
    return on_rows.importance_return("per-decision", rows, rho, next_value)


# For Q(s, a)

TRACES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "importance-sampling": lambda rho, log_prob, lam: lam * rho,
    "q-lambda": lambda rho, log_prob, lam: lam,
    "tree-backup": lambda rho, log_prob, lam: lam * jnp.exp(log_prob),
    "retrace": lambda rho, log_prob, lam: lam * jnp.minimum(rho, 1),
}
"""c_t of each trace as a function of ρ_t, log π(a_t|s_t) and λ_t; see `off_policy_q`."""


def trace(
    kind: str, *, rho: Float[Array, "T *B"], log_prob: Float[Array, "T *B"], lam: Number
) -> Float[Array, "T *B"]:
    """Trace coefficient c_t of `off_policy_q`: "importance-sampling", "q-lambda", "tree-backup" or "retrace".

    `log_prob` is log π(a_t|s_t); for Tree-Backup it must be that of discrete actions, a density may exceed 1.
    Row t's own λ_t stands in c_t. Raises ValueError for another name.
    """
    if kind not in TRACES:
        raise ValueError(f"trace {kind!r}: unknown; choose one of {', '.join(TRACES)}.")
    rho, log_prob = alike(rho=rho, log_prob=log_prob)
    return TRACES[kind](rho, log_prob, jnp.broadcast_to(jnp.asarray(lam, rho.dtype), rho.shape))


def off_policy_q(
    *,
    q: Float[Array, "T *B"],
    trace: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """Target for Q(s_t, a_t): G_t = r_t + γ_t [V(s_{t+1}) + c_{t+1} (G_{t+1} − Q(s_{t+1}, a_{t+1}))].

    `q` is Q(s_t, a_t) of the action taken, `next_value` is V(s_{t+1}) = Σ_a π(a|s_{t+1}) Q(s_{t+1}, a), `trace`
    is c_t of row t; at a cut c_{t+1} counts as 0. The choices of c_t that `trace` names are

    | c_t                       | method              | safe for                                               |
    |---------------------------|---------------------|--------------------------------------------------------|
    | λ ρ_t                     | importance sampling | any μ > 0 where π > 0; unbounded variance              |
    | λ                         | Q(λ)                | max_s ‖π−μ‖₁ < (1−γ)/(λγ), else it may diverge         |
    | λ π(a_t given s_t)        | Tree-Backup         | any μ, which need not be known; cuts on-policy too     |
    | λ min(1, ρ_t)             | Retrace             | any μ; full traces on-policy                           |

    Q^π is a fixed point of every one, and with λ = 0 all are expected SARSA, `td_target`. With c = ρ and λ = 1
    G_t is unbiased for any Q up to the bootstrap at the cut. Munos et al., "Safe and Efficient Off-Policy
    Reinforcement Learning" (2016), whose sum over TD errors this is, as a recursion; Tree-Backup is Precup,
    Sutton & Singh (2000), Q(λ) Harutyunyan et al., "Q(λ) with Off-Policy Corrections" (2016). Deviations: traces
    are truncated at the chunk's end and at time limits; importance sampling has a λ.
    """
    rows, _, q, trace, next_value = as_rows(
        terminated, truncated, gamma, valid, reward=reward, q=q, trace=trace, next_value=next_value
    )
    return on_rows.off_policy_q(rows, q, trace, next_value)


# For the policy gradient


def trajectory_psi(
    kind: str,
    *,
    rho: Float[Array, "T *B"],
    reward: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
    gamma: Number,
    valid: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "T *B"]:
    """ψ_t with E_μ[Σ_t ∇log π(a_t|s_t) ψ_t] = ∇J(π), for whole episodes that μ played; t counts from their start.

    - 'ordinary': ρ_{0:m} R(τ) at every t, R(τ) = Σ_k γ^k r_k;
    - 'weighted': the same divided by the mean of ρ_{0:m} over the batch (biased, consistent);
    - 'per-decision': Σ_{k≥t} γ^k ρ_{0:k} r_k, which leaves out ratios of the future and rewards of the past.

    Rows must hold each episode from its first row; a chunk may hold one after another. Nothing bootstraps at a
    truncation. Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy Evaluation" (2000). Raises
    ValueError for another kind.
    """
    if kind not in on_rows.KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(on_rows.KINDS)}.")
    rows, _, rho = as_rows(terminated, truncated, gamma, valid, reward=reward, rho=rho)
    return on_rows.trajectory_weights(kind, rho, rows)
