"""The exact oracle: closed forms of a `FiniteMDP` in float64, the reference for every estimator and bound.

Policies are tables π(a|s), float `[S, A]`; θ are the logits `[S, A]` of a softmax policy, or the weights `[D]` of
a log-linear one with `features` `[S, A, D]`. Entering a terminal state ends the episode: with
γ_{s'} = γ·(1 − terminal(s')), P_π below means Σ_a π(a|s) P(s'|s,a) (1 − terminal(s')), and terminal states have
value 0 and no visits.

With γ = 1 a policy must reach a terminal state from everywhere: else `OracleError` names a state from which it does
not. The same error, naming state and action, refuses tables that are no policy, put weight on illegal actions, or
lie outside a reference policy's support.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import kl_div, logsumexp

from actrix.envs.finite import FiniteMDP

Policy = Float[np.ndarray, "S A"]
StateTable = Float[np.ndarray, "S"]
ActionTable = Float[np.ndarray, "S A"]
Array = np.ndarray

SUM_TOLERANCE = 1e-8
ROUNDING = 1e-12
"""Relative size below which an improvement is rounding."""


class OracleError(ValueError):
    """The question has no answer for this MDP and policy; the message names the state and the action."""


class Solution(NamedTuple):
    """What policy or value iteration found."""

    value: StateTable
    q: ActionTable
    policy: Policy
    iterations: int


# Values of one policy


def value(mdp: FiniteMDP, policy: Policy) -> StateTable:
    """V^π = (I − γP_π)⁻¹ r_π. Sutton & Barto, Reinforcement Learning (2018), eq. 3.14; Puterman (1994), §6.1."""
    policy = check_policy(mdp, policy)
    return _solve(mdp, policy, np.sum(policy * mdp.reward, axis=1))


def q_value(mdp: FiniteMDP, policy: Policy) -> ActionTable:
    """Q^π(s,a) = r(s,a) + γ Σ_{s'} P(s'|s,a) V^π(s'). Sutton & Barto (2018), eq. 3.13."""
    return backup(mdp, value(mdp, policy))


def advantage(mdp: FiniteMDP, policy: Policy) -> ActionTable:
    """A^π(s,a) = Q^π(s,a) − V^π(s). Baird, "Advantage Updating" (1993)."""
    v = value(mdp, policy)
    return backup(mdp, v) - v[:, None]


def backup(mdp: FiniteMDP, v: StateTable) -> ActionTable:
    """One step of the model, r(s,a) + γ Σ_{s'} P(s'|s,a) v(s'); v of a terminal state is not read."""
    return mdp.reward + mdp.discount @ np.where(mdp.terminal, 0, v)


def visitation(mdp: FiniteMDP, policy: Policy) -> StateTable:
    """Unnormalised discounted visitation ρ_π(s) = Σ_{t≥0} γ^t Pr(s_t = s), ρ_π = (I − γP_πᵀ)⁻¹ ρ0.

    Counts the states in which an action is taken, so it sums to 1/(1−γ) where no episode ends and to less else.
    Sutton et al., "Policy Gradient Methods for RL with Function Approximation" (1999); Kakade & Langford (2002).
    """
    policy = check_policy(mdp, policy)
    return _solve(mdp, policy, mdp.rho0, transpose=True)


def performance(mdp: FiniteMDP, policy: Policy) -> float:
    """η(π) = Σ_s ρ0(s) V^π(s) = E[Σ_t γ^t r_t]. Kakade & Langford (2002)."""
    return float(mdp.rho0 @ value(mdp, policy))


def lambda_operator(mdp: FiniteMDP, policy: Policy, v: StateTable, lam: float) -> StateTable:
    """Mean λ-return from each state, E[G^λ|s] = v + (I − λγP_π)⁻¹ (r_π + γP_π v − v), for the critic v.

    V^π is its fixed point, and the error max|E[G^λ|s] − V^π| falls monotonically in λ, to 0 at λ = 1. Bertsekas &
    Tsitsiklis, Neuro-Dynamic Programming (1996), §5.3.
    """
    policy = check_policy(mdp, policy)
    if mdp.gamma == lam == 1:
        _check_proper(mdp, policy)
    v = np.where(mdp.terminal, 0, v)
    delta = np.sum(policy * backup(mdp, v), axis=1) - v
    return v + np.linalg.solve(np.eye(len(v)) - lam * transition(mdp, policy), delta)


def transition(mdp: FiniteMDP, policy: Policy) -> Float[np.ndarray, "S S"]:
    """γP_π[s, s'] = Σ_a π(a|s) P(s'|s,a) γ (1 − terminal(s'))."""
    return np.einsum("sa,sap->sp", policy, mdp.discount)


# Softmax policies


def softmax_policy(theta: Array, features: Array | None = None, legal: Array | None = None) -> Policy:
    """π(a|s) ∝ exp(θ[s,a]), or ∝ exp(θ·φ(s,a)) with `features`; 0 where not `legal`. Sutton & Barto, eq. 13.2."""
    logits = np.asarray(theta, np.float64) if features is None else features @ theta
    if legal is not None:
        legal = legal | ~legal.any(axis=1, keepdims=True)  # a terminal state
        logits = np.where(legal, logits, -np.inf)
    return np.exp(logits - logsumexp(logits, axis=1, keepdims=True))


def policy_gradient(
    mdp: FiniteMDP, theta: Array, features: Array | None = None, *, discounted: bool = True
) -> Array:
    """∇_θ η = Σ_s ρ_π(s) Σ_a π(a|s) ∇log π(a|s) A^π(s,a), in θ's shape.

    `discounted=False` leaves out γ^t, as most code does: ρ_π(s) becomes Σ_t Pr(s_t = s), which is finite only if
    episodes end (else OracleError); for γ < 1 this is the gradient of no objective. Sutton et al. (1999); the
    dropped factor: Nota & Thomas, "Is the Policy Gradient a Gradient?" (2020).
    """
    policy = softmax_policy(theta, features, mdp.legal)
    try:
        visits = visitation(mdp if discounted else mdp.replace(gamma=1.0), policy)
    except ValueError as error:
        why = "" if discounted else "without γ^t the visits are those of gamma = 1, and "
        raise OracleError(f"{why}{error}") from error
    return score_gradient(policy, visits[:, None] * policy * advantage(mdp, policy), features)


def score_gradient(policy: Policy, weight: ActionTable, features: Array | None = None) -> Array:
    """Σ_{s,a} weight(s,a) ∇_θ log π(a|s), for logits (∇log π(a|s) = e_a − π(·|s)) or features."""
    gradient = weight - policy * weight.sum(axis=1, keepdims=True)
    return gradient if features is None else np.einsum("sad,sa->d", features, gradient)


def fisher(mdp: FiniteMDP, theta: Array, features: Array | None = None) -> Float[np.ndarray, "D D"]:
    """F = Σ_s d(s) Σ_a π(a|s) ∇log π(a|s) ∇log π(a|s)ᵀ, d = ρ_π/Σρ_π; D = S·A (row s·A + a) without features.

    Kakade, "A Natural Policy Gradient" (2001). Always singular for a softmax of logits.
    """
    policy = softmax_policy(theta, features, mdp.legal)
    visits = visitation(mdp, policy)
    S, A = policy.shape
    blocks = policy[:, :, None] * np.eye(A) - policy[:, :, None] * policy[:, None, :]
    blocks = blocks * (visits / visits.sum())[:, None, None]
    if features is not None:
        return np.einsum("sad,sab,sbe->de", features, blocks, features)
    matrix = np.zeros((S, A, S, A))
    matrix[np.arange(S), :, np.arange(S), :] = blocks
    return matrix.reshape(S * A, S * A)


def natural_gradient(
    mdp: FiniteMDP,
    theta: Array,
    features: Array | None = None,
    *,
    damping: float = 0.0,
    pseudo_inverse: bool = False,
) -> Array:
    """(F + damping·I)⁻¹ ∇η, or F⁺ ∇η, in θ's shape. Kakade (2001).

    For logits F⁺∇η = Σρ_π · (A^π − its mean over actions). Raises OracleError where F is singular and neither
    `damping` nor `pseudo_inverse` is given, naming the state and action whose logit the null direction moves most.
    """
    gradient = policy_gradient(mdp, theta, features)
    matrix = fisher(mdp, theta, features) + damping * np.eye(gradient.size)
    if pseudo_inverse:
        return (np.linalg.pinv(matrix, hermitian=True) @ gradient.ravel()).reshape(gradient.shape)
    size, direction = np.linalg.eigh(matrix)
    if size[0] <= ROUNDING * size[-1]:
        moved = direction[:, 0] if features is None else features @ direction[:, 0]
        s, a = divmod(int(np.abs(moved).argmax()), mdp.n_actions)
        raise OracleError(
            f"the Fisher matrix is singular: a direction that moves the logit of {_at(mdp, s, a)} changes no "
            "probability where the policy goes. Give damping, or pseudo_inverse=True."
        )
    return np.linalg.solve(matrix, gradient.ravel()).reshape(gradient.shape)


# Optimal values


def policy_iteration(mdp: FiniteMDP, sweeps: int | None = None, tolerance: float = 1e-10) -> Solution:
    """V*, Q* and an optimal policy: evaluate π, then take argmax_a Q(s,a) where it is strictly better.

    `sweeps` = None evaluates exactly, (I − γP_π)⁻¹ r_π; a number m is modified policy iteration, m backups
    V ← r_π + γP_π V, which stops within `tolerance` of V* (γ < 1). Starts from the uniform policy; a row without
    a strictly better action stays as it is. Howard (1960); Puterman & Shin, "Modified Policy Iteration" (1978).
    """
    if sweeps is not None:
        return _modified_policy_iteration(mdp, sweeps, tolerance)
    policy = uniform_policy(mdp)
    for iteration in range(1, 10_000):
        v = value(mdp, policy)
        q = _legal(mdp, backup(mdp, v))
        better = q.max(axis=1) - v > ROUNDING * (1 + np.abs(v).max())
        if not better.any():
            return Solution(v, backup(mdp, v), policy, iteration)
        policy = np.where(better[:, None], greedy(mdp, q), policy)
    raise OracleError("policy iteration did not settle: is a return infinite?")


def _modified_policy_iteration(mdp: FiniteMDP, sweeps: int, tolerance: float) -> Solution:
    if sweeps < 1:
        raise OracleError(f"sweeps is {sweeps}; it must be at least 1.")
    v = np.zeros(mdp.n_states)
    for iteration in range(1, 1_000_000):
        q = backup(mdp, v)
        policy = greedy(mdp, q)
        better = np.sum(policy * q, axis=1)
        if _settled(mdp, better, v, tolerance):
            return Solution(better, backup(mdp, better), policy, iteration)
        v = better
        for _ in range(sweeps - 1):
            v = np.sum(policy * backup(mdp, v), axis=1)
    raise OracleError("the iteration did not settle: is a return infinite?")


def value_iteration(mdp: FiniteMDP, tolerance: float = 1e-10) -> Solution:
    """V ← max_a [r(s,a) + γ Σ_{s'} P V(s')] until it is within `tolerance` of V* (γ < 1). Bellman (1957).

    With γ = 1 it stops when a sweep moves V by no more than `tolerance`.
    """
    return _modified_policy_iteration(mdp, 1, tolerance)


def greedy(mdp: FiniteMDP, q: ActionTable) -> Policy:
    """The first legal action of largest q in each state, as a table."""
    return np.eye(mdp.n_actions)[_legal(mdp, q).argmax(axis=1)]


def uniform_policy(mdp: FiniteMDP) -> Policy:
    """The same probability for every legal action."""
    legal = np.ones((mdp.n_states, mdp.n_actions)) if mdp.legal is None else mdp.legal.astype(float)
    legal[legal.sum(axis=1) == 0] = 1  # a terminal state
    return legal / legal.sum(axis=1, keepdims=True)


# Soft values: KL to a reference policy π̄ at temperature τ


def regularised_value(mdp: FiniteMDP, policy: Policy, reference: Policy, tau: float) -> StateTable:
    """V = E[Σ_t γ^t (r_t − τ KL_t)] = (I − γP_π)⁻¹ (r_π − τ KL(π‖π̄)).

    Raises OracleError where π̄ is 0 and π is not. Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients
    and Soft Q-Learning" (2017), §2.
    """
    policy = check_policy(mdp, policy)
    kl = _kl_to_reference(mdp, policy, reference)
    return _solve(mdp, policy, np.where(mdp.terminal, 0, np.sum(policy * mdp.reward, axis=1) - tau * kl))


def regularised_q(mdp: FiniteMDP, policy: Policy, reference: Policy, tau: float) -> ActionTable:
    """Q(s,a) = r(s,a) + γ E[V(s')] of `regularised_value`: the first reward carries no KL term."""
    return backup(mdp, regularised_value(mdp, policy, reference, tau))


def soft_value(q: ActionTable, reference: Policy, tau: float) -> StateTable:
    """V(s) = τ log Σ_a π̄(a|s) exp(Q(s,a)/τ) = max_π [E_π Q − τ KL(π‖π̄)]. Schulman et al. (2017), eq. 8.

    Raises OracleError where π̄(·|s) is 0 everywhere.
    """
    if (empty := ~(np.asarray(reference) > 0).any(axis=1)).any():
        raise OracleError(f"the reference policy of state {int(empty.argmax())} is 0 for every action.")
    return tau * logsumexp(q / tau, b=reference, axis=1)


def soft_policy(q: ActionTable, reference: Policy, tau: float) -> Policy:
    """π(a|s) = π̄(a|s) exp((Q(s,a) − V(s))/τ), the maximiser of `soft_value`."""
    # Where π̄ is 0, Q may lie so far above V that exp overflows, and 0·∞ is NaN.
    excess = np.where(reference > 0, q - soft_value(q, reference, tau)[:, None], 0)
    return reference * np.exp(excess / tau)


def soft_optimal(mdp: FiniteMDP, reference: Policy, tau: float) -> Solution:
    """Soft V*, soft Q* and the policy that maximises the regularised value, by soft policy iteration.

    Q* = r + γP V*, V* = τ log Σ_a π̄ exp(Q*/τ), π* = π̄ exp((Q* − V*)/τ). Schulman et al. (2017); Haarnoja et al.,
    "Reinforcement Learning with Deep Energy-Based Policies" (2017). Raises OracleError unless τ > 0.
    """
    if not tau > 0:
        raise OracleError(f"tau is {tau}; it must be positive.")
    policy = reference = check_policy(mdp, reference)
    for iteration in range(1, 10_000):
        v = regularised_value(mdp, policy, reference, tau)
        q = backup(mdp, v)
        gain = np.where(mdp.terminal, 0, soft_value(q, reference, tau) - v)
        # The value's error is the square of the policy's, so the policy returned is the improved one.
        policy = soft_policy(q, reference, tau)
        policy = policy / policy.sum(axis=1, keepdims=True)
        if np.abs(gain).max() <= ROUNDING * (1 + tau + np.abs(v).max()):  # τ·KL is rounded at τ's scale
            return Solution(v, q, policy, iteration)
    raise OracleError("soft policy iteration did not settle: is a return infinite?")


def regularised_gradient(
    mdp: FiniteMDP,
    theta: Array,
    reference: Policy,
    tau: float,
    features: Array | None = None,
    *,
    form: str = "score",
) -> Array:
    """∇_θ of E[Σ_t γ^t (r_t − τ KL_t)], in one of its two forms (Q of `regularised_q`).

    - 'score': Σ_s ρ(s) Σ_a π ∇log π (Q − τ log π/π̄);
    - 'kl': Σ_s ρ(s) [Σ_a π ∇log π Q − τ ∇KL(π‖π̄)].

    Both at once count the KL's gradient twice, score × Q alone leaves it out. Schulman et al. (2017), §3.
    """
    policy = softmax_policy(theta, features, mdp.legal)
    q = regularised_q(mdp, policy, reference, tau)
    visits = visitation(mdp, policy)[:, None]
    log_ratio = _log_ratio(policy, reference)
    if form == "score":
        return score_gradient(policy, visits * policy * (q - tau * log_ratio), features)
    if form != "kl":
        raise OracleError(f"form={form!r}: choose one of score, kl.")
    kl = np.sum(policy * log_ratio, axis=1, keepdims=True)
    gradient = visits * (score_gradient(policy, policy * q) - tau * policy * (log_ratio - kl))
    return gradient if features is None else np.einsum("sad,sa->d", features, gradient)


# Improvement bounds


def surrogate(mdp: FiniteMDP, old: Policy, new: Policy) -> float:
    """L_π(π̃) = η(π) + Σ_s ρ_π(s) Σ_a π̃(a|s) A_π(s,a): equal to η, and of the same gradient, at π̃ = π.

    Kakade & Langford, "Approximately Optimal Approximate Reinforcement Learning" (2002).
    """
    return performance(mdp, old) + float(visitation(mdp, old) @ _expected_advantage(mdp, old, new))


def performance_difference(mdp: FiniteMDP, old: Policy, new: Policy) -> float:
    """η(π̃) − η(π) = Σ_s ρ_π̃(s) Σ_a π̃(a|s) A_π(s,a). Kakade & Langford (2002), Lemma 6.1."""
    return float(visitation(mdp, new) @ _expected_advantage(mdp, old, new))


def mixture(old: Policy, towards: Policy, alpha: float) -> Policy:
    """(1−α) π + α π', the step of conservative policy iteration."""
    return (1 - alpha) * old + alpha * towards


def cpi_bound(mdp: FiniteMDP, old: Policy, towards: Policy, alpha: float) -> float:
    """Lower bound of η at the mixture: L_π(π_new) − 2εγα²/(1−γ)², ε = max_s |E_{a∼π'} A_π(s,a)|.

    Kakade & Langford (2002) in the form of Schulman et al., "Trust Region Policy Optimization" (2015), eq. 6. Needs
    γ < 1.
    """
    epsilon = np.abs(_expected_advantage(mdp, old, towards)).max()
    penalty = 2 * epsilon * mdp.gamma * alpha**2 / _one_minus_gamma(mdp) ** 2
    return surrogate(mdp, old, mixture(old, towards, alpha)) - float(penalty)


def cpi_step(mdp: FiniteMDP, old: Policy, towards: Policy) -> float:
    """α = min(1, (1−γ)²Ā/(4εγ)), Ā = Σ_s ρ_π(s) E_{π'}A_π; 0 where π' is no improvement. It maximises `cpi_bound`.

    Kakade & Langford (2002), Corollary 4.2, for unnormalised ρ_π. Needs γ < 1.
    """
    gain = _expected_advantage(mdp, old, towards)
    mean, epsilon = float(visitation(mdp, old) @ gain), float(np.abs(gain).max())
    if mean <= 0:
        return 0.0
    scale = 4 * epsilon * mdp.gamma
    return 1.0 if scale == 0 else min(1.0, _one_minus_gamma(mdp) ** 2 * mean / scale)


def kl_bound(mdp: FiniteMDP, old: Policy, new: Policy, *, pinsker: bool = False) -> float:
    """Lower bound of η(π̃): L_π(π̃) − C max_s KL(π‖π̃), C = 4εγ/(1−γ)², ε = max_{s,a} |A_π(s,a)|.

    `pinsker` takes C = 2εγ/(1−γ)², which D_TV² ≤ KL/2 allows. Schulman et al. (2015), Theorem 1; −∞ where π̃ is 0 and
    π is not. The ε of `cpi_bound` does not do here. Needs γ < 1.
    """
    epsilon = np.abs(advantage(mdp, old)).max()
    constant = (2 if pinsker else 4) * epsilon * mdp.gamma / _one_minus_gamma(mdp) ** 2
    distance = kl(old, new)[~mdp.terminal].max()
    return surrogate(mdp, old, new) - float(constant * distance if constant > 0 else 0.0)


def kl(p: Policy, q: Policy) -> StateTable:
    """KL(p‖q)(s) = Σ_a p log(p/q), ∞ where q is 0 and p is not. Kullback & Leibler (1951)."""
    return kl_div(p, q).sum(axis=1)


def total_variation(p: Policy, q: Policy) -> StateTable:
    """D_TV(p, q)(s) = ½ Σ_a |p − q|; Pinsker: D_TV² ≤ KL/2."""
    return np.abs(p - q).sum(axis=1) / 2


# Off-policy operators


def clipped_policy(target: Policy, behaviour: Policy, rho_max: float = 1.0) -> Policy:
    """The policy ∝ min(ρ_max μ, π), whose value is V-trace's fixed point. Espeholt et al. (2018), eq. 4.

    Raises OracleError in a state where π and μ share no action.
    """
    weight = np.minimum(rho_max * behaviour, target)
    total = weight.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        s = int(np.flatnonzero(total[:, 0] <= 0)[0])
        raise OracleError(
            f"in state {s} the target's actions, such as {target[s].argmax()}, are never tried."
        )
    return weight / total


def vtrace_fixed_point(mdp: FiniteMDP, target: Policy, behaviour: Policy, rho_max: float = 1.0) -> StateTable:
    """V of `clipped_policy`: where V-trace settles, whatever λ and c_max. Espeholt et al., "IMPALA" (2018), §4.1."""
    return value(mdp, clipped_policy(target, behaviour, rho_max))


def vtrace_operator(
    mdp: FiniteMDP,
    v: StateTable,
    target: Policy,
    behaviour: Policy,
    *,
    lam: float = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
) -> StateTable:
    """Mean V-trace target of each state under μ, v + (I − γP_{cμ})⁻¹ Σ_a μ ρ̄ (r + γPv − v).

    ρ̄ = min(ρ_max, π/μ), c = λ min(c_max, π/μ), P_{cμ} = Σ_a μ c P. Espeholt et al. (2018), eq. 1 without a horizon.
    """
    target, behaviour = check_policy(mdp, target), check_policy(mdp, behaviour)
    rho = _ratio(target, behaviour)
    v = np.where(mdp.terminal, 0, v)
    delta = np.sum(behaviour * np.minimum(rho, rho_max) * (backup(mdp, v) - v[:, None]), axis=1)
    trace = transition(mdp, behaviour * lam * np.minimum(rho, c_max))
    return v + np.linalg.solve(np.eye(len(v)) - trace, delta)


TRACES: dict[str, Callable[[Array, Array], Array]] = {
    "importance-sampling": lambda rho, target: rho,
    "q-lambda": lambda rho, target: np.ones_like(rho),
    "tree-backup": lambda rho, target: target,
    "retrace": lambda rho, target: np.minimum(rho, 1),
}


def off_policy_q_operator(
    mdp: FiniteMDP, q: ActionTable, target: Policy, behaviour: Policy, *, kind: str, lam: float = 1.0
) -> ActionTable:
    """Mean target of (s,a) under μ, q + (I − γP_{cμ})⁻¹ (r + γP_π q − q), for each trace of `TRACES`.

    P_{cμ}[(s,a), (s',a')] = P(s'|s,a) μ(a'|s') c(s',a'), c = λ times π/μ, 1, π or min(1, π/μ). Q^π is the fixed
    point of all four; repeated application contracts for Tree-Backup and Retrace whatever μ, while Q(λ) may diverge.
    Munos et al., "Safe and Efficient Off-Policy Reinforcement Learning" (2016), eq. 3.
    """
    if kind not in TRACES:
        raise OracleError(f"trace {kind!r}: unknown; choose one of {', '.join(TRACES)}.")
    target, behaviour, (S, A) = check_policy(mdp, target), check_policy(mdp, behaviour), q.shape
    missed = (target > 0) & (behaviour == 0) & ~mdp.terminal[:, None]
    if kind == "importance-sampling" and missed.any():
        raise OracleError(
            f"the behaviour policy never takes {_at(mdp, *np.argwhere(missed)[0])}, the target does."
        )
    weight = behaviour * lam * TRACES[kind](_ratio(target, behaviour), target)
    trace = np.einsum("sap,pb->sapb", mdp.discount, weight).reshape(S * A, S * A)
    delta = backup(mdp, np.sum(target * q, axis=1)) - q
    return q + np.linalg.solve(np.eye(S * A) - trace, delta.ravel()).reshape(S, A)


# Estimators on short horizons, by enumeration


class Trajectories(NamedTuple):
    """Every trajectory of at most T steps with its probability; arrays [T, N], those of a chunk.

    A trajectory that has not ended after T rows is truncated there; rows after the end are not valid.
    """

    state: Int[np.ndarray, "T N"]
    action: Int[np.ndarray, "T N"]
    next_state: Int[np.ndarray, "T N"]
    reward: Float[np.ndarray, "T N"]
    terminated: Bool[np.ndarray, "T N"]
    truncated: Bool[np.ndarray, "T N"]
    valid: Bool[np.ndarray, "T N"]
    probability: Float[np.ndarray, "N"]

    def rows(self) -> dict[str, Array]:
        """reward, terminated, truncated, valid: what every estimator takes."""
        return {name: getattr(self, name) for name in ("reward", "terminated", "truncated", "valid")}

    def values(self, v: Array) -> dict[str, Array]:
        """value V(s_t) and next_value V(s_{t+1}) of V [S], or of time-indexed V_t [T+1, S]."""
        v = np.broadcast_to(v, (len(self.state) + 1, v.shape[-1]))
        t = np.arange(len(self.state))[:, None]
        return {"value": v[t, self.state], "next_value": v[t + 1, self.next_state]}

    def taken(self, table: Array) -> Array:
        """table(s_t, a_t) of a table [S, A], or of a time-indexed one [T, S, A]."""
        table = np.broadcast_to(table, (len(self.state), *table.shape[-2:]))
        return table[np.arange(len(self.state))[:, None], self.state, self.action]


def trajectories(
    mdp: FiniteMDP,
    policy: Policy,
    horizon: int,
    *,
    start: int | None = None,
    action: int | None = None,
    limit: int = 1_000_000,
) -> Trajectories:
    """All trajectories of π of `horizon` steps, from ρ0 or `start`, with `action` first if given.

    Their expectation of anything is exact: E[x] = Σ_n probability_n x_n. Raises OracleError where there are more
    than `limit` of them.
    """
    if horizon < 1:
        raise OracleError(f"horizon is {horizon}; it must be at least 1.")
    policy = check_policy(mdp, policy)
    first = mdp.rho0 if start is None else np.eye(mdp.n_states)[mdp.state(start)]
    state, rows = np.flatnonzero(first), []
    probability, alive = first[state], ~mdp.terminal[state]
    for t in range(horizon):
        chosen = np.eye(mdp.n_actions)[[action] * mdp.n_states] if t == 0 and action is not None else policy
        # An ended trajectory keeps one row, which is not valid.
        of = {s: np.argwhere(chosen[s][:, None] * mdp.P[s] > 0) for s in set(state[alive])}
        branches = [of[s] if live else np.array([[0, s]]) for s, live in zip(state, alive, strict=True)]
        counts = [len(b) for b in branches]
        if sum(counts) > limit:
            raise OracleError(
                f"there are more than {limit} trajectories of {t + 1} steps: shorten the horizon."
            )
        a, after = np.concatenate(branches).T
        parent = np.repeat(np.arange(len(state)), counts)
        s, valid = state[parent], alive[parent]
        step = np.where(valid, chosen[s, a] * mdp.P[s, a, after], 1.0)
        probability, ends = probability[parent] * step, mdp.terminal[after] & valid
        reward = np.where(valid, mdp.rewards[s, a, after], 0.0)
        cut = valid & ~ends if t == horizon - 1 else np.zeros_like(valid)
        rows.append((parent, [s, a, after, reward, ends, cut, valid]))
        state, alive = after, valid & ~ends
        columns = np.arange(len(state))
    out = []
    for parent, arrays in reversed(rows):  # each row's arrays, as seen from the last step's columns
        out.append([x[columns] for x in arrays])
        columns = parent[columns]
    return Trajectories._make([*(np.stack(x) for x in zip(*reversed(out), strict=True)), probability])


def moments(x: Float[np.ndarray, "N *P"], probability: Float[np.ndarray, "N"]) -> tuple[Array, Array]:
    """Mean and variance of x over its first axis, E[x] = Σ_n p_n x_n, Var = Σ_n p_n (x_n − E[x])²."""
    x = np.asarray(x, np.float64)
    mean = np.tensordot(probability, x, 1)
    return mean, np.tensordot(probability, np.square(x - mean), 1)


def conditional_moments(
    mdp: FiniteMDP,
    trajectories: Trajectories,
    x: Float[np.ndarray, "T N"],
    t: int,
    *,
    by_action: bool = True,
) -> tuple[Array, Array]:
    """Mean and variance of x_t given (s_t, a_t), [S, A], or given s_t, [S]; NaN where it never happens."""
    valid, p = trajectories.valid[t], trajectories.probability
    S, A = mdp.n_states, mdp.n_actions if by_action else 1
    cell = trajectories.state[t] * A + (trajectories.action[t] if by_action else 0)
    weight = np.where(valid, p, 0)
    x_t = np.where(valid, np.asarray(x[t], np.float64), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.bincount(cell, weight, S * A)
        mean = np.bincount(cell, weight * x_t, S * A) / total
        spread = np.square(x_t - np.nan_to_num(mean)[cell])
        variance = np.bincount(cell, weight * spread, S * A) / total
    shape = (S, A) if by_action else (S,)
    return mean.reshape(shape), variance.reshape(shape)


def finite_horizon_value(
    mdp: FiniteMDP, policy: Policy, horizon: int, tail: StateTable | None = None
) -> Float[np.ndarray, "T+1 S"]:
    """V_t(s) = E[Σ_{k=t}^{T−1} γ^{k−t} r_k + γ^{T−t} tail(s_T) | s_t = s], V_T = tail (None = 0: a hard stop).

    The truth of an enumeration of T steps; with tail = V^π every V_t is V^π. Bellman (1957).
    """
    policy = check_policy(mdp, policy)
    v = [np.zeros(mdp.n_states) if tail is None else np.where(mdp.terminal, 0, tail)]
    for _ in range(horizon):
        v.append(np.sum(policy * backup(mdp, v[-1]), axis=1))
    return np.stack(v[::-1])


def finite_horizon_q(
    mdp: FiniteMDP, policy: Policy, horizon: int, tail: StateTable | None = None
) -> Float[np.ndarray, "T S A"]:
    """Q_t(s,a) = r(s,a) + γ Σ_{s'} P V_{t+1}(s'), of `finite_horizon_value`."""
    return np.stack([backup(mdp, v) for v in finite_horizon_value(mdp, policy, horizon, tail)[1:]])


def finite_horizon_gradient(
    mdp: FiniteMDP,
    policy: Policy,
    horizon: int,
    tail: StateTable | None = None,
    features: Array | None = None,
    *,
    discounted: bool = True,
) -> Array:
    """Σ_{t<T} γ^t Σ_s Pr(s_t = s) Σ_a π ∇log π A_t(s,a): ∇ of E[Σ_{t<T} γ^t r_t] for a softmax at a hard stop.

    `discounted=False` leaves out γ^t; `tail` is data, it has no gradient. Sutton et al. (1999), by time step.
    """
    policy = check_policy(mdp, policy)
    at, weight = mdp.rho0, np.zeros_like(policy)
    live = np.einsum("sa,sap->sp", policy, mdp.P * ~mdp.terminal)
    for t, q in enumerate(finite_horizon_q(mdp, policy, horizon, tail)):
        a = q - np.sum(policy * q, axis=1, keepdims=True)
        weight = weight + (mdp.gamma**t if discounted else 1.0) * at[:, None] * policy * a
        at = at @ live
    return score_gradient(policy, weight, features)


def gradient_samples(
    trajectories: Trajectories, policy: Policy, psi: Float[np.ndarray, "T N"], features: Array | None = None
) -> Float[np.ndarray, "N *P"]:
    """Σ_t ∇_θ log π(a_t|s_t) ψ_t of each trajectory, [N, S, A], or [N, D] with features. Williams (1992)."""
    N = len(trajectories.probability)
    out = np.zeros((N, *policy.shape))
    psi = np.where(trajectories.valid, np.asarray(psi, np.float64), 0)
    for s, a, weight in zip(trajectories.state, trajectories.action, psi, strict=True):
        out[np.arange(N), s, a] += weight
        out[np.arange(N), s] -= weight[:, None] * policy[s]
    return out if features is None else np.einsum("sad,nsa->nd", features, out)


class EstimatorMoments(NamedTuple):
    """An estimator of the policy gradient against the exact one, each in θ's shape."""

    mean: Array
    bias: Array
    variance: Array


def estimator_moments(
    mdp: FiniteMDP,
    policy: Policy,
    horizon: int,
    psi: Callable[[Trajectories], Any],
    *,
    tail: StateTable | None = None,
    features: Array | None = None,
    discounted: bool = True,
) -> EstimatorMoments:
    """Exact mean, bias and variance of Σ_t ∇log π(a_t|s_t) ψ_t over one trajectory of `horizon` steps.

    `psi(trajectories)` [T, N] includes γ^t where it should; the bias is against `finite_horizon_gradient` with the
    same `tail` and `discounted`. The mean of N independent trajectories has the variance divided by N.
    """
    found = trajectories(mdp, policy, horizon)
    mean, variance = moments(gradient_samples(found, policy, psi(found), features), found.probability)
    exact = finite_horizon_gradient(mdp, policy, horizon, tail, features, discounted=discounted)
    return EstimatorMoments(mean, mean - exact, variance)


# Checks and pieces


def check_policy(mdp: FiniteMDP, policy: Any) -> Policy:
    """The policy as float64 [S, A]; raises OracleError, naming state and action, where it is none."""
    policy = np.asarray(policy, np.float64)
    shape = (mdp.n_states, mdp.n_actions)
    if policy.shape != shape:
        raise OracleError(f"the policy has shape {policy.shape}; it must be {shape}.")
    if not (policy >= 0).all():
        s, a = np.argwhere(~(policy >= 0))[0]
        raise OracleError(f"the policy's probability of {_at(mdp, s, a)} is {policy[s, a]}.")
    sums = policy.sum(axis=1)
    if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        s = int(np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)[0])
        raise OracleError(
            f"the policy's probabilities of {mdp._label(s)} sum to {sums[s]:.9g}; it must be 1."
        )
    if mdp.legal is not None and (wrong := (policy > 0) & ~mdp.legal & ~mdp.terminal[:, None]).any():
        raise OracleError(f"the policy takes an illegal action: {_at(mdp, *np.argwhere(wrong)[0])}.")
    return policy


def _solve(mdp: FiniteMDP, policy: Policy, x: StateTable, transpose: bool = False) -> StateTable:
    if mdp.gamma == 1:
        _check_proper(mdp, policy)
    matrix = np.eye(mdp.n_states) - transition(mdp, policy)
    return np.linalg.solve(matrix.T if transpose else matrix, x)


def _check_proper(mdp: FiniteMDP, policy: Policy) -> None:
    edge = transition(mdp, policy) > 0
    ends = mdp.terminal | (np.einsum("sa,sap->s", policy, mdp.P * mdp.terminal) > 0)
    while (more := (edge & ends).any(axis=1) & ~ends).any():
        ends |= more
    if not ends.all():
        s = int(np.flatnonzero(~ends)[0])
        raise OracleError(
            f"gamma is 1 and from {_at(mdp, s, int(policy[s].argmax()))} (its likeliest), this policy never ends "
            "its episode: its value is not defined."
        )


def _one_minus_gamma(mdp: FiniteMDP) -> float:
    if mdp.gamma == 1:
        raise OracleError("this bound divides by 1 − gamma: it needs gamma < 1.")
    return 1 - mdp.gamma


def _expected_advantage(mdp: FiniteMDP, old: Policy, new: Policy) -> StateTable:
    return np.sum(check_policy(mdp, new) * advantage(mdp, old), axis=1)


def _legal(mdp: FiniteMDP, q: ActionTable) -> ActionTable:
    return q if mdp.legal is None else np.where(mdp.legal | mdp.terminal[:, None], q, -np.inf)


def _settled(mdp: FiniteMDP, new: StateTable, old: StateTable, tolerance: float) -> bool:
    moved, scale = np.abs(new - old).max(), 1 + np.abs(new).max()
    factor = 1.0 if mdp.gamma == 1 else mdp.gamma / (1 - mdp.gamma)
    return bool(moved * factor <= tolerance or moved <= 4 * np.finfo(float).eps * scale)


def _ratio(target: Policy, behaviour: Policy) -> ActionTable:
    """π/μ, 0 where μ never goes: there it has weight 0 in every mean under μ."""
    return np.divide(target, behaviour, out=np.zeros_like(behaviour), where=behaviour > 0)


def _log_ratio(policy: Policy, reference: Policy) -> ActionTable:
    """log π/π̄, 0 where π is 0: there it has weight 0."""
    both = (policy > 0) & (reference > 0)
    return np.log(np.where(both, policy, 1) / np.where(both, reference, 1))


def _kl_to_reference(mdp: FiniteMDP, policy: Policy, reference: Policy) -> StateTable:
    reference = check_policy(mdp, reference)
    if (wrong := (reference == 0) & (policy > 0) & ~mdp.terminal[:, None]).any():
        where = _at(mdp, *np.argwhere(wrong)[0])
        raise OracleError(f"the reference policy never does {where}, which the policy does: KL is infinite.")
    return np.where(mdp.terminal, 0, np.sum(policy * _log_ratio(policy, reference), axis=1))


def _at(mdp: FiniteMDP, s: Any, a: Any) -> str:
    return f"{mdp._label(int(s))}, action {int(a)}"
