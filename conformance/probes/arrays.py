"""Functions of arrays, where a library offers them."""

from __future__ import annotations

import numpy as np

from conformance.probe import Check, probe


def _rows(seed, cuts):
    """Eight steps of three environments; V(s_{t+1}) is the next row's V except where an episode ends."""
    r = np.random.default_rng(seed)
    reward, value = r.normal(size=(8, 3)), r.normal(size=(8, 3))
    terminated, truncated = np.zeros((8, 3), bool), np.zeros((8, 3), bool)
    terminated[2, 0] = terminated[5, 2] = True
    if cuts:
        truncated[4, 0] = truncated[3, 1] = truncated[7, 2] = True
    following = np.concatenate([value[1:], r.normal(size=(1, 3))])
    following = np.where(terminated | truncated, r.normal(size=(8, 3)), following)
    return reward, value, following, terminated, truncated


def _gae(reward, value, following, terminated, truncated, gamma, lam):
    """Σ_l (γλ)^l δ_{t+l} up to the first end, written as two loops."""
    delta = reward + gamma * np.where(terminated, 0, following) - value
    ends = terminated | truncated
    out = np.zeros_like(delta)
    for t, n in np.ndindex(*delta.shape):
        for k in range(t, len(delta)):
            out[t, n] += (gamma * lam) ** (k - t) * delta[k, n]
            if ends[k, n]:
                break
    return out


def _compare(a, s, cuts):
    rows = _rows(s.seed, cuts)
    return Check(_gae(*rows, s.gamma, 0.9), a.gae(*rows, s.gamma, 0.9), 1e-4)


@probe("GAE stops at terminated rows, which are completed with nothing", "gae")
def gae_at_termination(a, s):
    return _compare(a, s, False)


@probe("GAE stops at truncated rows, which are completed with V of the state reached", "gae", "gae_truncated")
def gae_at_truncation(a, s):
    return _compare(a, s, True)


@probe("log π of a = tanh(u) is log N(u) − log(1 − a²)", "squashed_log_prob")
def squashed_log_prob(a, s):
    mean, log_std = np.array([0.3, -0.5]) * s.seed, np.array([-0.4, 0.2])
    actions = np.tanh(np.random.default_rng(s.seed).normal(size=(6, 2)))
    u = np.arctanh(actions)
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    expected = np.sum(normal - np.log1p(-(actions**2)), axis=1)
    return Check(expected, a.squashed_log_prob(mean, log_std, actions), 1e-3)


@probe("kl(p, q) is Σ p log(p/q), not Σ q log(q/p)", "kl")
def kl_direction(a, s):
    p = np.array([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    q = np.array([[0.1, 0.6, 0.3], [1 / 3] * 3])
    return Check(np.sum(p * np.log(p / q), axis=1), a.kl(p, q), 1e-5)


@probe("Quantile Huber loss: Σ_i mean_j |τ_i − 1{u < 0}| L(u), u = target_j − quantile_i", "quantile_huber")
def quantile_huber_loss(a, s):
    r = np.random.default_rng(s.seed)
    quantiles, target = 2 * r.normal(size=(4, 5)), 2 * r.normal(size=(4, 7))
    expected = np.zeros(4)
    for b, i, j in np.ndindex(4, 5, 7):
        u = target[b, j] - quantiles[b, i]
        huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
        expected[b] += abs((2 * i + 1) / 10 - (u < 0)) * huber / 7
    return Check(expected.mean(), a.quantile_huber(quantiles, target), 1e-4)


PRIORITIES = np.array([0.5, 4.0, 1.0, 2.0, 8.0])


@probe("Prioritised replay draws row i with probability p_i^α / Σ p^α", "prioritized")
def prioritized_frequencies(a, s):
    alpha = (0.6, 1.0)[s.seed - 1]
    mass = PRIORITIES**alpha
    drawn, _ = a.prioritized(PRIORITIES, alpha, 0.4, s.seed)
    got = np.bincount(drawn, minlength=5) / len(drawn)
    return Check(mass / mass.sum(), got, 0.03)


@probe("Importance weights are (1/P_i)^β up to one common factor", "prioritized")
def prioritized_weights(a, s):
    alpha, beta = 0.6, (0.4, 0.8)[s.seed - 1]
    drawn, weights = a.prioritized(PRIORITIES, alpha, beta, s.seed)
    logs = np.log(weights) - np.log(PRIORITIES[drawn] ** (-alpha * beta))
    # In one batch the factor is the same for all rows.
    return Check(0.0, np.abs(logs - logs[0]).max(), 1e-3)
