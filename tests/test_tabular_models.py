"""The user's object and the command line with tables: every class learns, predicts, saves, loads and resumes."""

import functools

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

import actrix
from actrix import SettingError
from actrix.cli import main
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.lab import exact as oracle
from actrix.model import MODELS, Model

TABLES = (
    "mc", "td", "td-lambda", "sarsa", "expected-sarsa", "sarsa-lambda", "q-learning", "double-q", "q-lambda",
    "tree-backup", "cpi",
)  # fmt: skip
WHOLE = ("mc", "cpi")
LAKE = "FrozenLake-v1"


@functools.cache
def lake():
    return jax_env(LAKE, max_episode_steps=10)


def make(name, mode="compiled", seed=0, env=None, **settings):
    own = {} if name in WHOLE else {"train_freq": 4}
    env = env or (lake() if mode == "compiled" else HostJax(lake(), 4))
    return MODELS[name](env=env, n_envs=4, seed=seed, **own | settings)


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


AS_OTHERS = ("td", "expected-sarsa", "q-learning", "q-lambda")
"""The same class with other targets, which test_tabular_solved.py and test_tabular.py have."""


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x in AS_OTHERS else x for x in TABLES]
)
def test_every_class_learns_predicts_saves_and_loads(name, tmp_path):
    model = make(name, initial_value=0.5) if name != "cpi" else make(name, mixing=0.1)
    before = model.get_parameters()
    model.learn(400)
    assert any((before[k] != x).any() for k, x in model.get_parameters().items())
    assert model.num_timesteps >= 400
    loaded = Model.load(model.save(tmp_path / "table"))
    assert type(loaded) is type(model)
    assert loaded.algorithm == model.algorithm
    equal(loaded.get_parameters(), model.get_parameters())
    states = np.arange(16)
    for deterministic in (True, False):
        action, state = loaded.predict(states, deterministic=deterministic)
        assert action.shape == (16,)
        assert state is None
        assert all(loaded.action_space.contains(a) for a in action)
    assert loaded.predict(3)[0].shape == ()
    if name in ("sarsa", "mc"):
        loaded.set_env(lake())
        loaded.learn(40, reset_num_timesteps=False)
        assert loaded.num_timesteps >= 440


@pytest.mark.parametrize(
    "name",
    # algorithms/test_modes.py has the others, and Q(λ) with its traces.
    ["tree-backup", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sarsa-lambda", "mc", "cpi"))],
)
def test_both_loops_learn_the_same(name):
    a, b = (make(name, mode, seed=3).learn(200) for mode in ("compiled", "host"))
    for x, y in zip(a.get_parameters().values(), b.get_parameters().values(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # of learners in test_tabular.py, of models in test_model.py
def test_learning_in_parts_is_learning_at_once():
    """What is pending, traces and windows are in the learner."""
    for name in ("sarsa-lambda", "tree-backup"):
        once = make(name, seed=1, exploration_fraction=0.0).learn(400)
        parts = make(name, seed=1, exploration_fraction=0.0).learn(160).learn(240, reset_num_timesteps=False)
        equal(once.get_parameters(), parts.get_parameters())


def test_a_given_policy_is_evaluated():
    """V of the greedy policy of a learned table, not of the uniform one; and it plays as it is."""
    env = jax_env(LAKE)
    control = make("q-learning", env=env, exploration_fraction=0.9).learn(100_000)
    of_greedy = make("td", env=env, reference=control, learning_rate=0.02, seed=1).learn(60_000)
    of_uniform = make("td", env=env, seed=1)  # plays it, untrained
    policy = np.asarray(of_greedy.acting.net.policy)
    np.testing.assert_allclose(policy.sum(1), 1)
    v, u = np.asarray(of_greedy.acting.net.values), oracle.value(env, oracle.uniform_policy(env))
    assert v[0] > u[0] + 0.2
    learned = actrix.evaluate_policy(of_greedy, LAKE, 60, seed=0)[0]
    random = actrix.evaluate_policy(of_uniform, LAKE, 60, seed=0)[0]
    assert learned > random + 0.1
    with pytest.raises(ValueError, match="must be a tabular one"):
        make("td", reference=actrix.PPO("MlpPolicy", lake(), n_envs=4))
    with pytest.raises(ValueError, match="only the on-policy algorithms"):
        make("sarsa", reference=control)


@pytest.mark.parametrize("name", ["q-learning", "mc"])
def test_tuples_are_numbered_on_the_host_too(name):
    own = {"episode_length": 16} if name == "mc" else {}
    model = MODELS[name](env="Blackjack-v1", backend="gymnasium", n_envs=2, seed=0, **own).learn(200)
    assert model.acting.net.values.shape == (32 * 11 * 2 * 2,)
    assert (np.asarray(model.acting.net.values) != 0).any()
    obs, _ = gym.make("Blackjack-v1").reset(seed=0)
    assert model.predict(obs)[0] in (0, 1)


def test_masks_of_the_taxi_are_heeded():
    """An action without effect is never taken by the behaviour, and never the maximum."""
    model = MODELS["q-learning"](env="Taxi-v4", n_envs=8, seed=0, train_freq=16).learn(20_000)
    assert (
        min(model.run.returns) > -400
    )  # an illegal pick-up costs 10: unmasked 200 random steps cost about 770


class Shifted(gym.Env):
    """Two states, numbered from 5; action 1 (numbered from −1: 0) pays."""

    observation_space = spaces.Discrete(2, start=5)
    action_space = spaces.Discrete(2, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 5, {}

    def step(self, action):
        assert action in (-1, 0)
        return 6, float(action == 0), True, False, {}


def test_spaces_that_do_not_start_at_0():
    model = actrix.QLearning(env=Shifted(), seed=0, learning_rate=0.5).learn(100)
    np.testing.assert_allclose(model.acting.net.all_q()[0], [0, 1], atol=1e-3)
    assert model.predict(5, deterministic=True)[0] == 0


def test_the_command_line_trains_evaluates_and_resumes(tmp_path, capsys):
    folder = tmp_path / "run"
    small = ["--steps", "2000", "--set", "train_freq=4", "--quiet"]
    assert main(["train", "sarsa-lambda", LAKE, "--seed", "0", "--out", str(folder), *small]) == 0
    first = Model.load(folder).get_parameters()
    assert main(["resume", str(folder), "--steps", "3000", "--quiet"]) == 0
    model = Model.load(folder)
    assert model.num_timesteps >= 3000
    assert any((first[k] != x).any() for k, x in model.get_parameters().items())
    assert main(["eval", str(folder), "--episodes", "5"]) == 0
    capsys.readouterr()


def test_what_is_refused():
    with pytest.raises(ValueError, match="a table has no network"):
        actrix.QLearning(env=LAKE, policy_kwargs={"net_arch": [8]})
    with pytest.raises(SettingError, match="unknown setting 'lamda'"):
        actrix.SARSALambda(env=LAKE, lamda=0.5)
    with pytest.raises(TypeError, match="round them in a wrapper"):
        actrix.QLearning(env="CartPole-v1")
    with pytest.raises(ValueError, match="give episode_length"):
        actrix.MC(env="Blackjack-v1")


def test_a_policy_that_is_random_is_played_at_random():
    model = make("td")
    actions = [model.predict(np.zeros(64, int), deterministic=True)[0] for _ in range(2)]
    assert len(set(np.concatenate(actions))) == 4
    assert jax.tree.leaves(model.acting)


def test_a_policy_that_walks_in_circles_is_cut_with_a_warning(monkeypatch):
    """CliffWalking has no time limit, and an empty table always goes up."""
    monkeypatch.setattr("actrix.loops.evaluate.ENDLESS", 50)
    model = actrix.QLearning(env="CliffWalking-v1", n_envs=2, seed=0)
    with pytest.warns(UserWarning, match="cut after 50 steps"):
        mean, _ = actrix.evaluate_policy(model, "CliffWalking-v1", 2, seed=0)
    assert mean == -50
