"""Improvement bounds, and how far apart two policies are."""

from __future__ import annotations

import numpy as np
from scipy.special import kl_div

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact.values import (
    OracleError,
    Policy,
    StateTable,
    advantage,
    check_policy,
    performance,
    visitation,
)


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


def _one_minus_gamma(mdp: FiniteMDP) -> float:
    if mdp.gamma == 1:
        raise OracleError("this bound divides by 1 − gamma: it needs gamma < 1.")
    return 1 - mdp.gamma


def _expected_advantage(mdp: FiniteMDP, old: Policy, new: Policy) -> StateTable:
    return np.sum(check_policy(mdp, new) * advantage(mdp, old), axis=1)
