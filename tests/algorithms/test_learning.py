"""Every preset and every sound composition learns tiny environments whose values are known."""

import dataclasses

import numpy as np
import pytest
from helpers import probability, small, train, value

from actrix.actors.answers import format_actor, parse_actor
from actrix.algorithms.compositions import table
from actrix.algorithms.presets import PRESETS, SettingError, composed, configure
from actrix.critics.answers import parse_critic
from actrix.envs.probes import ActionObs, ContinuousTarget, Discount, InfiniteTimeLimit, Masked, ObsDependent

CELLS = table()
SOUND = [f"{c.critic}|{c.actor}:{c.psi}" for c in CELLS if c.reason is None]
WITH_CRITIC = [n for n, p in PRESETS.items() if p.algorithm.critic.function != "none"]


@pytest.mark.parametrize("cell", SOUND)
def test_every_sound_cell_learns_to_act(cell):
    """ActionObs: the reward is 1 for the action that matches the observation, so π(match) → 1."""
    critic, actor = cell.split("|")
    algorithm = composed(critic, actor).algorithm
    runner = train(small(algorithm), ActionObs(), 60)
    assert probability(runner, [1.0, 0.0])[1] > 0.9
    assert probability(runner, [-1.0, 0.0])[0] > 0.9


def test_the_unsound_cells_are_refused_with_their_reason():
    refused = [c for c in CELLS if c.reason is not None]
    assert len(refused) + len(SOUND) == len(CELLS)
    for cell in refused:
        with pytest.raises(SettingError, match="refused"):
            composed(cell.critic, f"{cell.actor}:{cell.psi}")


@pytest.mark.parametrize(
    "text", ["score", "score:reward-to-go:gamma", "ppo-clip:0.2", "ppo-kl:0.02:0.5:td-error"]
)
def test_actor_text_round_trips(text):
    actor = parse_actor(text, "none" if "reward" in text else "v")
    assert parse_actor(format_actor(actor), "v") == actor


@pytest.mark.parametrize(
    "text", ["gae:0.9", "td-lambda:0.5", "n-step:3", "td", "mc", "q-td", "q-n-step:4", "none"]
)
def test_critic_text_round_trips(text):
    assert parse_critic(str(parse_critic(text))) == parse_critic(text)


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_presets_learn_known_values(name):
    """V(obs) = obs where the reward is; V(first) = γ one step before a reward of 1."""
    algorithm = small(PRESETS[name].algorithm, gamma=0.5)
    runner = train(algorithm, ObsDependent(), 150)
    assert value(runner, [1.0, 0.0]) == pytest.approx(1.0, abs=0.1)
    assert value(runner, [-1.0, 0.0]) == pytest.approx(-1.0, abs=0.1)
    runner = train(algorithm, Discount(), 150)
    assert value(runner, [0.0, 0.0]) == pytest.approx(0.5, abs=0.1)
    assert value(runner, [1.0, 0.0]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_truncation_bootstraps(name):
    """Reward 1 for ever, cut every 2 steps: V = 1/(1−γ) = 2; taken for a termination it would be at most 1.5."""
    algorithm = small(PRESETS[name].algorithm, gamma=0.5)
    runner = train(algorithm, InfiniteTimeLimit(steps=2), 200)
    assert value(runner, [0.0, 0.0]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "vpg"])
def test_continuous_actions(name):
    """Best action ±½ by the sign of the observation."""
    algorithm = small(PRESETS[name].algorithm, learning_rate=0.01)
    runner = train(algorithm, ContinuousTarget(), 300)
    policy = runner.learners[0].acting
    obs = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    action, _ = algorithm.policy(policy, None, obs, None, None)
    np.testing.assert_allclose(action[:, 0], [0.5, -0.5], atol=0.15)


@pytest.mark.parametrize("name", list(PRESETS))
def test_masks_are_honoured(name):
    """An illegal action would cost 10: none is ever taken, and the free choice is learned."""
    runner = train(small(PRESETS[name].algorithm), Masked(), 1)
    assert runner.advance(1)[0].ep_returns.min() >= 0
    returns = np.concatenate([runner.advance(30)[0].ep_returns for _ in range(2)])
    assert returns.min() >= 0
    assert returns[-200:].mean() > 0.9


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
