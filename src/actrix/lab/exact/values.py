"""Values, visits and performance of one policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

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


def value(mdp: FiniteMDP, policy: Policy) -> StateTable:
    """V^π = (I − γP_π)⁻¹ r_π. Sutton & Barto, Reinforcement Learning (2018), eq. 3.14; Puterman (1994), §6.1."""
    policy = check_policy(mdp, policy)
    return solve(mdp, policy, np.sum(policy * mdp.reward, axis=1))


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
    return solve(mdp, policy, mdp.rho0, transpose=True)


def performance(mdp: FiniteMDP, policy: Policy) -> float:
    """η(π) = Σ_s ρ0(s) V^π(s) = E[Σ_t γ^t r_t]. Kakade & Langford (2002)."""
    return float(mdp.rho0 @ value(mdp, policy))


def transition(mdp: FiniteMDP, policy: Policy) -> Float[np.ndarray, "S S"]:
    """γP_π[s, s'] = Σ_a π(a|s) P(s'|s,a) γ (1 − terminal(s'))."""
    return np.einsum("sa,sap->sp", policy, mdp.discount)


def check_policy(mdp: FiniteMDP, policy: Any) -> Policy:
    """The policy as float64 [S, A]; raises OracleError, naming state and action, where it is none."""
    policy = np.asarray(policy, np.float64)
    shape = (mdp.n_states, mdp.n_actions)
    if policy.shape != shape:
        raise OracleError(f"the policy has shape {policy.shape}; it must be {shape}.")
    if not (policy >= 0).all():
        s, a = np.argwhere(~(policy >= 0))[0]
        raise OracleError(f"the policy's probability of {named(mdp, s, a)} is {policy[s, a]}.")
    sums = policy.sum(axis=1)
    if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        s = int(np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)[0])
        raise OracleError(
            f"the policy's probabilities of {mdp._label(s)} sum to {sums[s]:.9g}; it must be 1."
        )
    if mdp.legal is not None and (wrong := (policy > 0) & ~mdp.legal & ~mdp.terminal[:, None]).any():
        raise OracleError(f"the policy takes an illegal action: {named(mdp, *np.argwhere(wrong)[0])}.")
    return policy


def solve(mdp: FiniteMDP, policy: Policy, x: StateTable, transpose: bool = False) -> StateTable:
    """(I − γP_π)⁻¹ x, or with the transposed matrix."""
    if mdp.gamma == 1:
        check_proper(mdp, policy)
    matrix = np.eye(mdp.n_states) - transition(mdp, policy)
    return np.linalg.solve(matrix.T if transpose else matrix, x)


def check_proper(mdp: FiniteMDP, policy: Policy) -> None:
    """Raise OracleError where the policy, without a discount, may go on for ever."""
    edge = transition(mdp, policy) > 0
    ends = mdp.terminal | (np.einsum("sa,sap->s", policy, mdp.P * mdp.terminal) > 0)
    while (more := (edge & ends).any(axis=1) & ~ends).any():
        ends |= more
    if not ends.all():
        s = int(np.flatnonzero(~ends)[0])
        raise OracleError(
            f"gamma is 1 and from {named(mdp, s, int(policy[s].argmax()))} (its likeliest), this policy never ends "
            "its episode: its value is not defined."
        )


def named(mdp: FiniteMDP, s: Any, a: Any) -> str:
    """A state and an action in a message."""
    return f"{mdp._label(int(s))}, action {int(a)}"
