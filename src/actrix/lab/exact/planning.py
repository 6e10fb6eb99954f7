"""Optimal policies: of the reward, and of the reward with a KL to a reference policy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact.values import (
    ROUNDING,
    ActionTable,
    OracleError,
    Policy,
    StateTable,
    backup,
    check_policy,
    named,
    solve,
    value,
)


class Solution(NamedTuple):
    """What policy or value iteration found."""

    value: StateTable
    q: ActionTable
    policy: Policy
    iterations: int


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


def regularised_value(mdp: FiniteMDP, policy: Policy, reference: Policy, tau: float) -> StateTable:
    """V = E[Σ_t γ^t (r_t − τ KL_t)] = (I − γP_π)⁻¹ (r_π − τ KL(π‖π̄)).

    Raises OracleError where π̄ is 0 and π is not. Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients
    and Soft Q-Learning" (2017), §2.
    """
    policy = check_policy(mdp, policy)
    kl = _kl_to_reference(mdp, policy, reference)
    return solve(mdp, policy, np.where(mdp.terminal, 0, np.sum(policy * mdp.reward, axis=1) - tau * kl))


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


def _legal(mdp: FiniteMDP, q: ActionTable) -> ActionTable:
    return q if mdp.legal is None else np.where(mdp.legal | mdp.terminal[:, None], q, -np.inf)


def _settled(mdp: FiniteMDP, new: StateTable, old: StateTable, tolerance: float) -> bool:
    moved, scale = np.abs(new - old).max(), 1 + np.abs(new).max()
    factor = 1.0 if mdp.gamma == 1 else mdp.gamma / (1 - mdp.gamma)
    return bool(moved * factor <= tolerance or moved <= 4 * np.finfo(float).eps * scale)


def log_ratio(policy: Policy, reference: Policy) -> ActionTable:
    """log π/π̄, 0 where π is 0: there it has weight 0."""
    both = (policy > 0) & (reference > 0)
    return np.log(np.where(both, policy, 1) / np.where(both, reference, 1))


def _kl_to_reference(mdp: FiniteMDP, policy: Policy, reference: Policy) -> StateTable:
    reference = check_policy(mdp, reference)
    if (wrong := (reference == 0) & (policy > 0) & ~mdp.terminal[:, None]).any():
        where = named(mdp, *np.argwhere(wrong)[0])
        raise OracleError(f"the reference policy never does {where}, which the policy does: KL is infinite.")
    return np.where(mdp.terminal, 0, np.sum(policy * log_ratio(policy, reference), axis=1))
