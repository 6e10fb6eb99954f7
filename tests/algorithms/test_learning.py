"""Every preset and every sound composition learns tiny environments whose values are known."""

import dataclasses

import numpy as np
import pytest
from helpers import (
    KNOWN,
    VARIANTS,
    continuous,
    greedy,
    policy_of,
    preferred,
    probability,
    restart,
    shared_runner,
    small,
    train,
    train_apart,
    value,
    values,
)

from actrix.actors.answers import format_actor, parse_actor
from actrix.algorithms.compositions import table
from actrix.algorithms.presets import PRESETS, SettingError, composed, configure
from actrix.critics.answers import parse_critic
from actrix.data.answers import format_data, parse_data
from actrix.envs.probes import ActionObs, ContinuousTarget, Discount

CELLS = table()
SOUND = [f"{c.critic}|{c.actor}:{c.psi}|{c.data}" for c in CELLS if c.reason is None]
ITERATIONS = 300
NO_VALUES = ("reinforce", "bc")
CLONES = ("bc",)
"""Imitate their own random behaviour, so there is nothing to learn."""


@pytest.mark.parametrize("cell", SOUND)
def test_every_sound_cell_learns_to_act(cell):
    """ActionObs: the reward is 1 for the action that matches the observation, so π(match) → 1."""
    critic, actor, data = cell.split("|")
    acting = act_on_observation(composed(critic, actor, data).algorithm)
    assert policy_of(acting, [1.0, 0.0])[1] > 0.9
    assert policy_of(acting, [-1.0, 0.0])[0] > 0.9


def act_on_observation(algorithm, seed=0):
    """The policy after 60 chunks of ActionObs, each learned from at once: minibatches would cost compilation."""
    return train_apart(small(algorithm, batch_size=None), ActionObs(), 60, seed).acting


def test_the_unsound_cells_are_refused_with_their_reason():
    refused = [c for c in CELLS if c.reason is not None]
    assert len(refused) + len(SOUND) == len(CELLS)
    for cell in refused:
        with pytest.raises(SettingError, match="refused"):
            composed(cell.critic, f"{cell.actor}:{cell.psi}", cell.data)


@pytest.mark.parametrize("text", ["on-policy", "lag:8", "lag:0", "replay:4:50000:1000"])
def test_data_text_round_trips(text):
    assert format_data(parse_data(text)) == text


@pytest.mark.parametrize(
    "text",
    ["score", "score:reward-to-go:gamma", "ppo-clip:0.2", "ppo-kl:0.02:0.5:td-error", "off-pac:5.0:td-error",
     "acer:10.0:1.0:0.9", "pgql:0.3", "score-is:weighted"],
)  # fmt: skip
def test_actor_text_round_trips(text):
    function = "none" if "reward" in text or "score-is" in text else "v"
    actor = parse_actor(text, function)
    assert parse_actor(format_actor(actor), "v") == actor


@pytest.mark.parametrize(
    "text",
    ["gae:0.9", "td-lambda:0.5", "n-step:3", "td", "mc", "q-td", "q-n-step:4", "none", "v-trace:0.9:2.0:1.5",
     "td-is:3.0", "mc-is:weighted", "q-retrace:0.9", "q-tree-backup", "q-lambda:0.5", "q-importance"],
)  # fmt: skip
def test_critic_text_round_trips(text):
    assert parse_critic(str(parse_critic(text))) == parse_critic(text)


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
    if name not in CLONES:
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


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_presets_learn_known_values_and_to_act(name):
    """On all probes: V(obs) = obs where the reward is; V = γ one step before a reward of 1; reward 1 for ever, cut
    every 2 steps, is worth 1/(1−γ) = 2 (taken for a termination at most 1.5); the best action; of the masked ones
    no illegal action is ever taken, and none enters a target.
    """
    wrong = [c for c in learned(name) if not abs(c[1] - c[2]) <= c[3]]
    assert not wrong


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "vpg"])
def test_continuous_actions(name):
    """Best action ±½ by the sign of the observation."""
    algorithm = small(PRESETS[name].algorithm, learning_rate=0.01)
    acting = train_apart(algorithm, ContinuousTarget(), 300).acting
    for x in (1.0, -1.0):
        np.testing.assert_allclose(greedy(algorithm, acting, [x, 0.0]), [x / 2], atol=0.15)


def test_optimal_and_moving_average_baselines_reduce_nothing_to_nan():
    for psi in ("optimal", "moving-average", "return", "reward-to-go"):
        algorithm = small(composed("none", f"score:{psi}").algorithm)
        assert np.isfinite(value(train(algorithm, ActionObs(), 3), [0.0, 0.0]))


def test_gamma_weight_changes_the_update():
    plain = small(composed("none", "score:reward-to-go").algorithm, gamma=0.5)
    weighted = configure(plain, {"gamma_weight": True})
    a, b = (train(x, Discount(), 3) for x in (plain, weighted))
    assert not np.allclose(probability(a, [1.0, 0.0]), probability(b, [1.0, 0.0]), atol=1e-9)
    assert dataclasses.replace(weighted.actor, gamma_weight=False) == plain.actor
