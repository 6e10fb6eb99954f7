"""Evaluation: whole episodes, equal shares, frozen policy."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from actrix import PPO, evaluate_policy, make_vec_env
from actrix.callbacks import BaseCallback
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


def sampled(model, seed=None):
    return evaluate_policy(
        model, HostJax(ActionReward(), 4), 64, False, return_episode_rewards=True, seed=seed
    )[0]


def test_every_evaluation_has_noise_of_its_own():
    """Of its seed where it has one; else each its own, before and after an update. `predict` feels none of them."""
    one, two = (
        PPO("MlpPolicy", ActionReward(), n_envs=2, n_steps=4, batch_size=8, seed=0, learning_rate=1e-9)
        for _ in range(2)
    )
    noise = [sampled(one), sampled(one), sampled(one.learn(8)), sampled(one.learn(8))]
    assert len(set(map(tuple, noise))) == 4
    assert noise[:2] == [sampled(two), sampled(two)]
    two.learn(8).learn(8)
    assert sampled(one, 5) == sampled(two, 5) != sampled(two, 6)
    assert sampled(two, 2**40) != sampled(two, 0)
    obs = np.zeros((64, *one.observation_space.shape), np.float32)
    np.testing.assert_array_equal(one.predict(obs)[0], two.predict(obs)[0])
    fresh = PPO("MlpPolicy", ActionReward(), n_envs=2, n_steps=4, batch_size=8, seed=0, learning_rate=1e-9)
    fresh.learn(8).learn(8)
    for x, y in zip(one.get_parameters().values(), fresh.get_parameters().values(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_evaluation_on_the_training_environment_starts_it_anew():
    env = HostJax(ActionObs(), 2)
    model = small_ppo(env).learn(8)
    evaluate_policy(model, env, 4)
    model.learn(8, reset_num_timesteps=False)
    assert model.num_timesteps == 16


def test_evaluation_uses_gymnasiums_own_environment():
    assert evaluation_env("CartPole-v1", 3).backend == "gymnasium"
    assert evaluation_env("CartPole-v1", 3).num_envs == 3


class Rollouts(BaseCallback):
    """Calls a function of the model before each rollout and keeps what it returns."""

    def __init__(self, function):
        super().__init__()
        self.function, self.found = function, []

    def _on_rollout_start(self):
        self.found.append(self.function(self.model))

    def _on_step(self):
        return True


def still_ppo(callback=None):
    """After four updates that change next to nothing: what differs from one to the next is noise."""
    model = PPO(
        "MlpPolicy", HostJax(ActionObs(), 2), n_steps=4, batch_size=8, seed=3, learning_rate=1e-12,
        policy_kwargs={"net_arch": [4]},
    )  # fmt: skip
    model.learn(32, callback=callback)
    return model


def test_stochastic_predictions_go_on_in_one_stream_over_updates():
    draw = lambda model: tuple(model.predict(np.zeros((64, 2), np.float32))[0].tolist())
    watched = Rollouts(draw)
    model = still_ppo(watched)
    assert len(watched.found) >= 4
    assert len(set(watched.found)) == len(watched.found)
    again = Rollouts(draw)
    other, plain = still_ppo(again), still_ppo()
    assert again.found == watched.found  # reproducible
    assert draw(other) == draw(model) not in watched.found
    for name, value in plain.get_parameters().items():  # and training does not notice
        np.testing.assert_array_equal(model.get_parameters()[name], value)
    model.set_parameters(model.get_parameters())
    assert draw(model) not in watched.found


def test_stochastic_evaluations_differ_over_updates():
    env = HostJax(ActionReward(), 2)  # the return is of the action alone
    score = lambda model: tuple(
        evaluate_policy(model, env, 20, deterministic=False, return_episode_rewards=True)[0]
    )
    watched, again = Rollouts(score), Rollouts(score)
    model = still_ppo(watched)
    still_ppo(again)
    assert len(set(watched.found)) == len(watched.found)
    assert again.found == watched.found
    for name, value in still_ppo().get_parameters().items():
        np.testing.assert_array_equal(model.get_parameters()[name], value)


def test_a_stochastic_evaluation_with_a_seed_repeats():
    model, env = still_ppo(), HostJax(ActionObs(), 2)
    score = lambda seed: evaluate_policy(
        model, env, 20, deterministic=False, return_episode_rewards=True, seed=seed
    )[0]
    assert score(5) == score(5)
    assert score(5) != score(6)
