"""Behaviour cloning and implicit Q-learning on hand-made data whose answers are known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from gymnasium import spaces

from actrix.actors.regression import Weighted
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure, setting_names
from actrix.core.types import Spec
from actrix.critics.expectile import Expectile, expectile_loss
from actrix.data.datasets.dataset import Episode, assemble
from actrix.envs.probes import ConstantReward
from actrix.loops.compiled import CompiledRunner
from actrix.loops.offline import OfflineRunner
from actrix.nets.view import apply

OBS = spaces.Box(-1.0, 1.0, (2,), np.float32)
DISCRETE, BOX = spaces.Discrete(2, start=3), spaces.Box(-2.0, 4.0, (1,), np.float32)
SMALL = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 64, "learning_rate": "lin_2e-2", "tau": 0.05}
ROWS = 400  # of every data set for cloning: one compiled program per action space serves them all
X = np.tile([-1.0, 1.0], ROWS // 2)


def bandit(space, actions, rewards):
    """One-step episodes that terminate, with observations (±1, 0); `actions` in the environment's coordinates."""
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    episodes = [
        Episode(np.float32([[x, 0]] * 2), np.asarray([a], space.dtype), np.array([r]), yes, no)
        for x, a, r in zip(X, actions, rewards, strict=True)
    ]
    return assemble(episodes, Spec(OBS, space))


def little(name, **settings):
    """The preset with these settings, and those of `SMALL` that it has."""
    algorithm = PRESETS[name].algorithm
    return configure(algorithm, {n: x for n, x in SMALL.items() if n in setting_names(algorithm)} | settings)


def fitted(name, data, updates=300, **settings):
    """A runner after so many updates."""
    runner = OfflineRunner(little(name, **settings), data, [0])
    runner.set_training(total_steps=updates)
    runner.advance(updates)
    return runner


def policy(runner, obs):
    """The policy's distribution at one observation."""
    return runner.actings[0].net.dist(jnp.asarray([obs], jnp.float32), None)


def value(runner, obs):
    """V of one observation."""
    return float(apply(runner.actings[0].net.value, jnp.asarray([obs], jnp.float32))[0])


# --------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.99])
def test_the_expectile_loss_is_least_at_the_expectile(expectile):
    x = np.random.default_rng(0).gamma(2.0, size=200)
    mean = lambda v: float(jnp.mean(expectile_loss(jnp.asarray(x - v), expectile)))
    found = scipy.optimize.minimize_scalar(mean, bounds=(x.min(), x.max()), method="bounded").x
    assert found == pytest.approx(scipy.stats.expectile(x, expectile), abs=2e-3)
    if expectile == 0.5:
        assert found == pytest.approx(x.mean(), abs=2e-3)
        assert mean(0.0) == pytest.approx(0.5 * np.mean(x**2), rel=1e-5)
    for v in (0.5, 3.0):  # against the equation, written as a loop
        loop = np.mean([abs(expectile - (u < 0)) * u**2 for u in x - v])
        assert mean(v) == pytest.approx(loop, rel=1e-5)


def test_weights_are_exponential_capped_and_without_gradient():
    actor = Weighted(beta=2.0, max_weight=5.0)
    advantage = jnp.array([-1.0, 0.0, 0.5, 100.0])
    np.testing.assert_allclose(actor.weight(advantage), [math.exp(-2), 1.0, math.e, 5.0], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda a: jnp.sum(actor.weight(a)))(advantage), 0)
    np.testing.assert_array_equal(Weighted(beta=0.0).weight(advantage), 1)


# --------------------------------------------------------------------------- behaviour cloning


def test_cloning_finds_the_probabilities_of_a_discrete_policy():
    rng = np.random.default_rng(1)
    actions = 3 + (rng.random(ROWS) < np.where(X > 0, 0.9, 0.25))
    runner = fitted("bc", bandit(DISCRETE, actions, rng.normal(size=ROWS)))
    for sign in (-1.0, 1.0):
        share = np.mean(actions[sign == X] == 4)
        assert np.exp(policy(runner, [sign, 0]).logits[0, 1]) == pytest.approx(share, abs=0.03)
    assert runner.actings[0].net.critics is None
    assert runner.actings[0].net.value is None


def test_cloning_finds_the_mean_and_spread_of_a_box_policy():
    """In the environment's coordinates N(1 + x, 0.6²); tanh bounds the mean, not the spread."""
    actions = np.clip(1 + X + 0.6 * np.random.default_rng(2).normal(size=ROWS), -2, 4)
    runner = fitted("bc", bandit(BOX, actions[:, None], np.zeros(ROWS)))
    means = {sign: actions[sign == X].mean() for sign in (-1.0, 1.0)}
    for sign, mean in means.items():
        assert float(policy(runner, [sign, 0]).mode()[0, 0]) * 3 + 1 == pytest.approx(mean, abs=0.1)
    spread = np.std(actions - np.where(X > 0, means[1.0], means[-1.0]))
    assert float(jnp.exp(runner.actings[0].net.log_std[0])) * 3 == pytest.approx(spread, abs=0.05)


def test_cloning_takes_the_bounds_that_clipped_policies_leave():
    """A squashed Gaussian would need the infinite pre-image of ±1."""
    runner = fitted("bc", bandit(BOX, np.where(X > 0, 4.0, -2.0)[:, None], np.zeros(ROWS)))
    for sign in (-1.0, 1.0):
        assert abs(float(policy(runner, [sign, 0]).mode()[0, 0]) - sign) < 0.05
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(runner.learners[0]))


def test_cloning_takes_several_discrete_actions_and_iql_does_not():
    space = spaces.MultiDiscrete([2, 3], start=[1, 0])
    pair = lambda x: [2, 2] if x > 0 else [1, 0]
    data = bandit(space, list(map(pair, X)), np.zeros(ROWS))
    runner = fitted("bc", data, 100)
    for x in (-1.0, 1.0):
        np.testing.assert_array_equal(policy(runner, [x, 0]).mode()[0] + np.array([1, 0]), pair(x))
    with pytest.raises(ValueError, match=r"IQL needs a Box or Discrete action space, not Multi.*bc takes it"):
        fitted("iql", data)


# --------------------------------------------------------------------------- implicit Q-learning


# Discrete actions are stitched and cloned in the tests beside it.
@pytest.mark.parametrize(
    "space", [pytest.param(DISCRETE, marks=pytest.mark.slow), BOX], ids=["discrete", "box"]
)
def test_iql_takes_the_good_half_of_the_data_and_cloning_the_middle(space):
    """Two behaviours in equal shares: action +1 (of −1, +1) gives 1, the other 0, whatever the state."""
    good = np.repeat([True, False], ROWS // 2)
    actions = np.where(good, 4, 3) if space is DISCRETE else np.where(good, 2.5, -0.5)[:, None]
    data = bandit(space, actions, good.astype(float))
    iql, bc = fitted("iql", data, expectile=0.8, beta=10.0), fitted("bc", data)
    for sign in (-1.0, 1.0):
        if space is DISCRETE:
            share = lambda r, s=sign: float(np.exp(policy(r, [s, 0]).logits[0, 1]))
            assert share(iql) > 0.97
            assert abs(share(bc) - 0.5) < 0.1
        else:
            mode = lambda r, s=sign: float(policy(r, [s, 0]).mode()[0, 0])
            assert mode(iql) == pytest.approx(0.5, abs=0.05)
            assert abs(mode(bc)) < 0.15
    q = apply(iql.actings[0].net.critics, jnp.array([[1.0, 0.0]]), jnp.zeros((1, 1)), None)
    if space is DISCRETE:
        np.testing.assert_allclose(q[0], [[0, 1]] * 2, atol=0.1)
        assert value(iql, [1, 0]) == pytest.approx(0.8, abs=0.1)  # the 0.8-expectile of a fair coin


def fork():
    """Two steps, uniform behaviour: 0 → fork, whose actions give 0 or 1; 1 → a sure 0.6.

    The behaviour's mean prefers the sure thing (0.6 > ½), the best policy in the data the fork.
    """
    episodes = []
    for first in (0, 1):
        for second in (0, 1):
            reward = 0.6 if first else float(second)
            obs = np.float32([[0, -1], [1, 0] if first else [-1, 0], [0, 1]])
            episodes.append(
                Episode(obs, np.array([3 + first, 3 + second]), np.array([0, reward]), np.array([False, True]),
                        np.zeros(2, bool))
            )  # fmt: skip
    return assemble(episodes * 25, Spec(OBS, DISCRETE))


def test_iql_stitches_what_no_mean_would():
    shares = {}
    for expectile in (0.5, 0.95):
        runner = fitted("iql", fork(), 1000, expectile=expectile, beta=20.0, gamma=0.9)
        shares[expectile] = np.exp(policy(runner, [0, -1]).logits[0])
        v_fork = 0.95 if expectile > 0.9 else 0.5
        assert value(runner, [-1, 0]) == pytest.approx(v_fork, abs=0.07)
        assert value(runner, [1, 0]) == pytest.approx(0.6, abs=0.05)
    assert shares[0.95][0] > 0.8
    assert shares[0.5][1] > 0.6


def loops(ends):
    """In a state that leads to itself, reward 1: five steps, then the given end."""
    last = np.arange(5) == 4
    flags = {"terminated": (last, 0 * last), "truncated": (0 * last, last), "open": (0 * last, 0 * last)}
    episodes = []
    for place, end in ends.items():
        terminated, truncated = (np.asarray(f, bool) for f in flags[end])
        obs = np.tile(np.float32(place), (6, 1))
        episodes += [Episode(obs, np.full(5, 3), np.ones(5), terminated, truncated)] * 20
    return assemble(episodes, Spec(OBS, DISCRETE))


def test_values_pass_through_truncations_and_not_through_terminations():
    """γ = 0.8: V = 1/(1−γ) = 5 where the loop is cut from outside, less where a fifth of the rows terminate."""
    data = loops({(-1, 0): "truncated", (0, 1): "open", (1, 0): "terminated"})
    n_steps = 3
    runner = fitted("iql", data, 1000, gamma=0.8, expectile=0.5, n_steps=n_steps)
    # V = E[Σ_{k<m} γ^k + γ^m V·(not terminated)], m = min(n, rows to the end), over five equally likely rows.
    rows = [min(n_steps, left) for left in range(5, 0, -1)]
    ends = [left <= n_steps for left in range(5, 0, -1)]
    reward = np.mean([sum(0.8**k for k in range(m)) for m in rows])
    v = reward / (1 - np.mean([0.8**m * (not end) for m, end in zip(rows, ends, strict=True)]))
    assert value(runner, [-1, 0]) == pytest.approx(5.0, abs=0.25)
    assert value(runner, [0, 1]) == pytest.approx(5.0, abs=0.25)
    assert value(runner, [1, 0]) == pytest.approx(v, abs=0.25)
    assert v < 3.5


# --------------------------------------------------------------------------- acting


@pytest.mark.parametrize("name", ["bc", "iql"])
def test_samples_stay_in_the_bounds_and_the_random_phase_is_uniform(name):
    algorithm = little(name, policy_kwargs={"net_arch": [16], "log_std_init": -1})
    acting = algorithm.initial_acting(jax.random.key(1), Spec(OBS, BOX))
    obs = jnp.zeros((4000, 2))
    noise = jax.tree.map(lambda x: x[0], algorithm.noise(acting, jax.random.key(0), 1, 4000))
    action = np.asarray(algorithm.act(acting, None, obs, None, noise)[0])
    assert np.abs(action).max() <= 1
    assert 0.2 < action.std() < 0.7
    random = np.asarray(algorithm.act(algorithm.warm_acting(acting), None, obs, None, noise)[0])
    assert random.std() == pytest.approx(3**-0.5, abs=0.03)
    mode, _ = algorithm.policy(acting, None, obs, None, None)
    assert np.ptp(mode) == 0
    np.testing.assert_array_equal(algorithm.policy(acting, None, obs, None, noise)[0], action)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Expectile(expectile=1.0), r"expectile=1.0 must lie between 0 and 1"),
        (lambda: Expectile(expectile=0), r"expectile=0 must"),
        (lambda: Expectile(n_critics=0), r"n_critics=0 must be a whole number"),
        (lambda: Weighted(beta=-1), r"beta=-1 must be a finite number"),
        (lambda: Weighted(beta=math.inf), r"beta=inf"),
        (lambda: Weighted(max_weight=0), r"max_weight=0 must be positive"),
        (
            lambda: configure(PRESETS["bc"].algorithm, {"prioritized": True}),
            "prioritized=True needs a critic",
        ),
        (lambda: configure(PRESETS["iql"].algorithm, {"expectile": 2}), "expectile=2 must lie between"),
    ],
)
def test_refused_settings(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_an_unbounded_box_is_refused_with_its_space():
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    for name in ("bc", "iql"):
        algorithm = dataclasses.replace(PRESETS[name].algorithm)
        with pytest.raises(ValueError, match="has infinite bounds: a tanh actor needs finite ones"):
            algorithm.check(Spec(OBS, space), 1)


def test_masked_actions_get_no_probability():
    algorithm = PRESETS["iql"].algorithm
    acting = algorithm.initial_acting(jax.random.key(0), Spec(OBS, spaces.Discrete(3)))
    mask = jnp.asarray([[True, False, True]] * 64)
    noise = jax.tree.map(lambda x: x[0], algorithm.noise(acting, jax.random.key(1), 1, 64))
    for behaviour in (acting, algorithm.warm_acting(acting)):
        action, _, _, _ = algorithm.act(behaviour, None, jnp.ones((64, 2)), mask, noise)
        assert set(np.unique(action)) == {0, 2}


def test_iql_also_learns_in_an_environment():
    """The compiled loop drives it like any replay-based algorithm (from offline to online)."""
    env = ConstantReward()
    settings = SMALL | {"learning_starts": 64, "train_freq": 4, "buffer_size": 512}
    runner = CompiledRunner(configure(PRESETS["iql"].algorithm, settings), env, 4, [0])
    runner.set_training(total_steps=5000)
    runner.warm()
    (report,) = runner.advance(300)
    assert not report.nonfinite
    assert {"train/critic_loss", "train/value_loss", "train/actor_loss"} <= set(report.metrics)
    assert value(runner, [0.0] * env.spec.observation_space.shape[0]) == pytest.approx(1.0, abs=0.1)
