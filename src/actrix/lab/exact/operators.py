"""What corrected and λ-weighted targets converge to, for data of another policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact.values import (
    ActionTable,
    Array,
    OracleError,
    Policy,
    StateTable,
    backup,
    check_policy,
    check_proper,
    named,
    transition,
    value,
)


def lambda_operator(mdp: FiniteMDP, policy: Policy, v: StateTable, lam: float) -> StateTable:
    """Mean λ-return from each state, E[G^λ|s] = v + (I − λγP_π)⁻¹ (r_π + γP_π v − v), for the critic v.

    V^π is its fixed point, and the error max|E[G^λ|s] − V^π| falls monotonically in λ, to 0 at λ = 1. Bertsekas &
    Tsitsiklis, Neuro-Dynamic Programming (1996), §5.3.
    """
    policy = check_policy(mdp, policy)
    if mdp.gamma == lam == 1:
        check_proper(mdp, policy)
    v = np.where(mdp.terminal, 0, v)
    delta = np.sum(policy * backup(mdp, v), axis=1) - v
    return v + np.linalg.solve(np.eye(len(v)) - lam * transition(mdp, policy), delta)


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
            f"the behaviour policy never takes {named(mdp, *np.argwhere(missed)[0])}, the target does."
        )
    weight = behaviour * lam * TRACES[kind](_ratio(target, behaviour), target)
    trace = np.einsum("sap,pb->sapb", mdp.discount, weight).reshape(S * A, S * A)
    delta = backup(mdp, np.sum(target * q, axis=1)) - q
    return q + np.linalg.solve(np.eye(S * A) - trace, delta.ravel()).reshape(S, A)


def _ratio(target: Policy, behaviour: Policy) -> ActionTable:
    """π/μ, 0 where μ never goes: there it has weight 0 in every mean under μ."""
    return np.divide(target, behaviour, out=np.zeros_like(behaviour), where=behaviour > 0)
