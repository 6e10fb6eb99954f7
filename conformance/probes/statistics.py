"""Running statistics: what they are, and when they stand still."""

from __future__ import annotations

import numpy as np

from conformance.probe import Check, probe
from conformance.probes.common import CHUNKS, trained
from conformance.worlds import World, line, loop


def _swing() -> World:
    """Two states in turn, seen as 0 and 10."""
    return line((1, 0), (0.0, 0.0), (False,) * 2, (False,) * 2, (0.5, 0.5), observations=[[0.0], [10.0]])


def _normalising(a, s):
    return trained(a, "ppo", _swing(), s, 1500, normalize_obs=True)


@probe("Statistics of observations are those of what was observed: mean 5, deviation 5", "ppo", "statistics")
def observation_statistics(a, s):
    mean, var = _normalising(a, s).statistics()
    return Check({"mean": 5.0, "std": 5.0}, {"mean": np.ravel(mean)[0], "std": np.ravel(var)[0] ** 0.5}, 0.1)


@probe("Predicting moves no statistics", "ppo", "statistics", "predict")
def prediction_freezes_statistics(a, s):
    agent = _normalising(a, s)
    before = np.ravel(agent.statistics()).copy()
    for _ in range(20):
        agent.predict(np.full((1, 1), 10.0, np.float32), False)
    return Check(before, np.ravel(agent.statistics()), 0)


@probe("Evaluating moves no statistics", "ppo", "statistics", "evaluate")
def evaluation_freezes_statistics(a, s):
    agent = _normalising(a, s)
    before = np.ravel(agent.statistics()).copy()
    agent.evaluate(loop(limit=50, observations=[[10.0]]), 3, deterministic=True)
    return Check(before, np.ravel(agent.statistics()), 0)


def _deviation(reward, ends, gamma):
    """The deviation of R ← γR + r, which starts anew after an end, over all rows."""
    running, out = np.zeros(reward.shape[1]), []
    for r, end in zip(reward, ends, strict=True):
        running = gamma * running + r
        out.append(running)
        running = np.where(end, 0, running)
    return np.std(out)


def _scale(a, s, truncated):
    r = np.random.default_rng(s.seed)
    reward, ends = 3 + r.normal(size=(400, 4)), r.random((400, 4)) < 0.2
    none = np.zeros_like(ends)
    got = a.reward_scale(reward, none if truncated else ends, ends if truncated else none, 0.9)
    return Check(_deviation(reward, ends, 0.9), got, 0.02)


@probe(
    "Rewards are divided by the deviation of Σγ^k r, which starts anew where an episode terminates",
    "reward_scale",
)
def reward_scale_at_termination(a, s):
    return _scale(a, s, False)


@probe(
    "Rewards are divided by the deviation of Σγ^k r, which starts anew where an episode is cut",
    "reward_scale",
)
def reward_scale_at_truncation(a, s):
    return _scale(a, s, True)


@probe(
    "The discount in the scale of rewards is the learner's own γ, if nothing else is said",
    "ppo",
    "reward_returns",
)
def reward_scale_has_the_learners_gamma(a, s):
    agent = trained(a, "ppo", loop(), s, 256, normalize_reward=True)
    # Rewards of 1 without an end: after n steps the running return R ← γR + 1 is Σ_k<n γ^k, which grows with γ.
    n, (low, high) = 256 // CHUNKS["n_envs"], (0.0, 1.0)
    for _ in range(60):
        gamma = (low + high) / 2
        too_small = (gamma ** np.arange(n)).sum() < np.mean(agent.reward_returns())
        low, high = (gamma, high) if too_small else (low, gamma)
    return Check(s.gamma, gamma, 1e-4)
