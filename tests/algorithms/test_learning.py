"""Every preset learns tiny environments whose values are known."""

import dataclasses

import numpy as np
import pytest
from helpers import (
    KNOWN,
    continuous,
    greedy,
    preferred,
    presets,
    probability,
    restart,
    shared_runner,
    small,
    train,
    train_apart,
    values,
)

from actrix.algorithms.presets import PRESETS, composed
from actrix.algorithms.settings import configure
from actrix.envs.probes import ContinuousTarget, Discount

ITERATIONS = 300
NO_VALUES = [name for name, preset in PRESETS.items() if preset.answers[0] == "none"]
CLONES = ("bc",)
"""Imitate their own random behaviour, so there is nothing to learn."""
PREDICTORS = ("td", "td-lambda")
"""Learn the values of a given policy and improve none."""


def learned(name, seed=0):
    """(name, what was learned, what is right, tolerance) of everything that a preset must learn of the probes."""
    runner = restart(shared_runner(name), seed)
    algorithm, env = runner.algorithm, runner.env
    returns = np.concatenate([runner.advance(k)[0].ep_returns for k in (1, ITERATIONS - 1)])
    acting, checks = runner.actings[0], []
    if name not in NO_VALUES:
        for what, part, x, right in KNOWN:
            checks.append((what, preferred(algorithm, acting, env.see(part, x)), right, 0.1))
    if continuous(algorithm):
        checks += [("target", greedy(algorithm, acting, env.see(3, x))[0], x / 2, 0.2) for x in (1.0, -1.0)]
        return checks
    if name not in CLONES and name not in PREDICTORS:
        checks += [("action", greedy(algorithm, acting, env.see(3, x)), x > 0, 0) for x in (1.0, -1.0)]
        checks += [
            ("free choice", greedy(algorithm, acting, env.see(part, x)), 1, 0)
            for part, x in ((4, 0.0), (5, 1.0))
        ]
    checks.append(("an illegal action costs 10", min(returns.min(), -1.0), -1.0, 1e-6))
    q = values(algorithm, acting, env.see(5, 0.0))
    if len(q) == 2:  # a value of actions, not of states
        checks += [("masked target", q.max(), 0.0, 0.1)]
        checks += [
            ("unmasked", x, y, 0.15)
            for x, y in zip(values(algorithm, acting, env.see(5, 1.0)), (0.0, 1.0), strict=True)
        ]
    return checks


@pytest.mark.parametrize(
    "name",
    # Their targets are in test_off_policy.py, SARSA's table in test_tabular_solved.py.
    [*presets(), *(pytest.param(x, marks=pytest.mark.slow) for x in ("deep sarsa", "deep expected-sarsa"))],
)
def test_presets_learn_known_values_and_to_act(name):
    """On all probes: V(obs) = obs where the reward is; V = γ one step before a reward of 1; reward 1 for ever, cut
    every 2 steps, is worth 1/(1−γ) = 2 (taken for a termination at most 1.5); the best action; of the masked ones
    no illegal action is ever taken, and none enters a target.
    """
    wrong = [c for c in learned(name) if not abs(c[1] - c[2]) <= c[3]]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "learning_rate"),
    [
        ("ppo", 0.003),  # four epochs: at 0.01 the last iterates wander by 0.2
        ("acktr", 0.01),
        *(pytest.param(x, 0.01, marks=pytest.mark.slow) for x in ("trpo", "reinforce", "a2c", "vpg", "npg")),
    ],
)
def test_continuous_actions(name, learning_rate):
    """Best action ±½ by the sign of the observation."""
    algorithm = small(PRESETS[name].algorithm, learning_rate=learning_rate)
    acting = train_apart(algorithm, ContinuousTarget(), 300).acting
    for x in (1.0, -1.0):
        np.testing.assert_allclose(greedy(algorithm, acting, [x, 0.0]), [x / 2], atol=0.15)


@pytest.mark.slow  # test_gradients.py: to what it should
def test_gamma_weight_changes_the_update():
    plain = small(composed("none", "score:reward-to-go").algorithm, gamma=0.5)
    weighted = configure(plain, {"gamma_weight": True})
    a, b = (train(x, Discount(), 3) for x in (plain, weighted))
    assert not np.allclose(probability(a, [1.0, 0.0]), probability(b, [1.0, 0.0]), atol=1e-9)
    assert dataclasses.replace(weighted.actor, gamma_weight=False) == plain.actor
