"""What `predict` refuses, in one sentence each."""

import gymnasium as gym
import numpy as np
import pytest

from actrix import DQN, PPO, BaseCallback, make_vec_env
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs


@pytest.fixture(scope="module")
def lake():
    return DQN("MlpPolicy", "FrozenLake-v1", seed=0, buffer_size=50)


@pytest.mark.parametrize("observation", [16, -1, 10**12, [3, 16]])
def test_a_discrete_observation_outside_its_space(lake, observation):
    with pytest.raises(ValueError, match=r"must lie in 0 to 15"):
        lake.predict(observation)
    assert 0 <= lake.predict(15, deterministic=True)[0] < 4
    assert lake.predict(np.array([0, 15]))[0].shape == (2,)


class Dice(gym.Env):
    observation_space = gym.spaces.MultiDiscrete([3, 4])
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.int64), {}

    def step(self, action):
        return np.zeros(2, np.int64), 0.0, True, False, {}


def test_several_numbers_outside_their_space():
    model = PPO("MlpPolicy", make_vec_env(Dice, 1, backend="gymnasium"), seed=0, n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match=r"must lie in \[0, 0\] to \[2, 3\]"):
        model.predict(np.array([0, 4]))
    model.predict(np.array([[2, 3], [0, 0]]))


def test_lengths_that_do_not_fit():
    plain = PPO("MlpPolicy", "CartPole-v1", seed=0, n_envs=1, n_steps=8, batch_size=8)
    two = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"episode_start has shape \(3,\); expected \(2,\)"):
        plain.predict(two, episode_start=np.zeros(3, bool))
    with pytest.raises(ValueError, match="state is 5; this policy remembers nothing"):
        plain.predict(two, state=5)
    lstm = PPO("MlpLstmPolicy", "CartPole-v1", seed=0, n_envs=2, n_steps=8, batch_size=16)
    _, state = lstm.predict(two)
    _, state = lstm.predict(two, state, np.array([True, False]))
    for wrong in (5, lstm.predict(np.zeros((3, 4), np.float32))[1]):
        with pytest.raises(ValueError, match="state has parts of shapes"):
            lstm.predict(two, wrong)


class Asking(BaseCallback):
    """Samples actions after every update."""

    def __init__(self):
        super().__init__()
        self.said = []

    def _on_rollout_start(self):
        self.said.append(self.model.predict(np.zeros((64, 2), np.float32))[0].tolist())

    def _on_step(self):
        return True


@pytest.mark.parametrize("mode", ["compiled", "host"])
def test_sampled_actions_go_on_in_one_stream(mode):
    """An update changes the policy, not where its noise has come to; and the learner does not feel who asks."""

    def run(callback=None):
        env = ActionObs() if mode == "compiled" else HostJax(ActionObs(), 2)
        model = PPO("MlpPolicy", env, n_envs=2, n_steps=8, batch_size=16, seed=3, learning_rate=1e-9)
        return model.learn(64, callback=callback)

    asking, again = Asking(), Asking()
    model, _, quiet = run(asking), run(again), run()
    said = [*asking.said, model.predict(np.zeros((64, 2), np.float32))[0].tolist()]
    assert len(said) >= 3
    assert len(set(map(tuple, said))) == len(said)
    assert again.said == asking.said
    for x, y in zip(model.get_parameters().values(), quiet.get_parameters().values(), strict=True):
        np.testing.assert_array_equal(x, y)
