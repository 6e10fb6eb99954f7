"""Every trajectory of a few steps, so that the moments of an estimator are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact.gradients import score_gradient
from actrix.lab.exact.values import Array, OracleError, Policy, StateTable, backup, check_policy


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
        parent, a, after = _branches(mdp, chosen, state, alive)
        if len(parent) > limit:
            raise OracleError(
                f"there are more than {limit} trajectories of {t + 1} steps: shorten the horizon."
            )
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


def _branches(mdp: FiniteMDP, policy: Policy, state: Array, alive: Array) -> tuple[Array, Array, Array]:
    """(whose step, action, next state) of every step that π can take from these states, in their order."""
    # An ended trajectory keeps one row, which is not valid.
    of = {s: np.argwhere(policy[s][:, None] * mdp.P[s] > 0) for s in set(state[alive])}
    branches = [of[s] if live else np.array([[0, s]]) for s, live in zip(state, alive, strict=True)]
    action, after = np.concatenate(branches).T
    return np.repeat(np.arange(len(state)), [len(b) for b in branches]), action, after


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
