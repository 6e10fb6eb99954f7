"""Exact gradients of softmax policies, and the Fisher matrix."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact.planning import log_ratio, regularised_q
from actrix.lab.exact.values import (
    ROUNDING,
    ActionTable,
    Array,
    OracleError,
    Policy,
    advantage,
    named,
    visitation,
)


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
            f"the Fisher matrix is singular: a direction that moves the logit of {named(mdp, s, a)} changes no "
            "probability where the policy goes. Give damping, or pseudo_inverse=True."
        )
    return np.linalg.solve(matrix, gradient.ravel()).reshape(gradient.shape)


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
    log_ratios = log_ratio(policy, reference)
    if form == "score":
        return score_gradient(policy, visits * policy * (q - tau * log_ratios), features)
    if form != "kl":
        raise OracleError(f"form={form!r}: choose one of score, kl.")
    kl = np.sum(policy * log_ratios, axis=1, keepdims=True)
    gradient = visits * (score_gradient(policy, policy * q) - tau * policy * (log_ratios - kl))
    return gradient if features is None else np.einsum("sad,sa->d", features, gradient)
