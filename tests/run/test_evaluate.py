"""Evaluation: whole episodes, equal shares, frozen policy."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from actrix import PPO, evaluate_policy, make_vec_env
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs, ActionReward, Masked
from actrix.loops.evaluate import Policy, evaluate, evaluation_env


def small_ppo(env):
    settings = {"n_steps": 4, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [4]}}
    return PPO("MlpPolicy", env, n_envs=2, **settings)


class Lengths(gym.Env):
    """Environment i plays episodes of i + 1 steps, reward i + 1 at each."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    made = 0

    def __init__(self):
        self.length = Lengths.made % 3 + 1
        Lengths.made += 1

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), float(self.length), False, self.t == self.length, {}


@pytest.fixture(scope="module")
def model():
    return PPO(
        "MlpPolicy",
        ActionReward(),
        n_envs=2,
        n_steps=4,
        batch_size=8,
        seed=0,
        policy_kwargs={"net_arch": [4]},
    )


@pytest.mark.parametrize("mode", gym.vector.AutoresetMode)
def test_every_environment_plays_its_share(model, mode):
    """Short episodes are not favoured: 7 episodes of 3 environments are 2 + 2 + 3, in any autoreset mode."""
    Lengths.made = 0
    envs = gym.vector.SyncVectorEnv([Lengths] * 3, autoreset_mode=mode)
    returns, lengths = evaluate_policy(model, envs, 7, return_episode_rewards=True)
    assert sorted(lengths) == [1, 1, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(returns, np.square(lengths))
    Lengths.made = 1
    fewer, _ = evaluate_policy(model, make_vec_env(Lengths, 3), 1, return_episode_rewards=True)
    assert len(fewer) == 1


def test_mean_and_spread(model):
    returns, _ = evaluate_policy(model, HostJax(ActionReward(), 4), 400, False, return_episode_rewards=True)
    assert set(returns) == {0.0, 1.0}
    assert abs(np.mean(returns) - 0.5) < 0.12
    assert evaluate_policy(model, HostJax(ActionReward(), 4), 40)[1] == 0  # deterministic


def test_deterministic_means_the_mode_and_masks_hold():
    model = small_ppo(Masked())
    returns, _ = evaluate_policy(model, Masked(), 30, return_episode_rewards=True)
    assert min(returns) >= 0


def test_a_policy_is_frozen_and_compiled_once(model):
    policy = Policy(model.algorithm, model.acting, 3)
    evaluate(policy, HostJax(ActionReward(), 3), 6, seed=1)
    size = policy._call._cache_size()
    again = Policy(model.algorithm, model.acting, 3)
    one = evaluate(again, HostJax(ActionObs(), 3), 6, deterministic=False, seed=1)[0]
    two = evaluate(
        Policy(model.algorithm, model.acting, 3), HostJax(ActionObs(), 3), 6, deterministic=False, seed=1
    )[0]
    np.testing.assert_array_equal(one, two)
    assert again._call is policy._call
    assert policy._call._cache_size() <= size + 1  # deterministic and sampled


def test_evaluation_on_the_training_environment_starts_it_anew():
    env = HostJax(ActionObs(), 2)
    model = small_ppo(env).learn(8)
    evaluate_policy(model, env, 4)
    model.learn(8, reset_num_timesteps=False)
    assert model.num_timesteps == 16


def test_evaluation_uses_gymnasiums_own_environment():
    assert evaluation_env("CartPole-v1", 3).backend == "gymnasium"
    assert evaluation_env("CartPole-v1", 3).num_envs == 3
