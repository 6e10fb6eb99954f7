"""`VecFrameStack`: which frames are seen, at ends too, and that a model learns on them."""

import gymnasium as gym
import numpy as np
import pytest
from worlds import Counting

import actrix
from actrix import PPO, VecNormalize, is_vecenv_wrapped, make_vec_env
from actrix.envs.make import as_host_env
from actrix.envs.vec.vecenv import VecEnv

SMALL = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs={"net_arch": [4]})


class Pair(gym.Env):
    """A vector and an image that count the steps; an episode has 3."""

    observation_space = gym.spaces.Dict(
        {"vec": gym.spaces.Box(-9, 9, (2,)), "img": gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)}
    )
    action_space = gym.spaces.Discrete(2)
    time = 0

    def _see(self):
        self.time += 1
        return {"vec": np.float32([self.time, -self.time]), "img": np.full((3, 8, 8), self.time, np.uint8)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._see(), {}

    def step(self, action):
        obs = self._see()
        return obs, 1.0, False, self.time == 4, {}


def stacked(*numbers):
    return [x for n in numbers for x in (n, -n)]


def test_frames_are_stacked_behind_zeros_and_cut_at_ends():
    env = actrix.VecFrameStack(make_vec_env(Pair, 2), 3)
    assert env.observation_space["img"].shape == (9, 8, 8)  # channels first, as the image has them
    assert env.observation_space["vec"].shape == (6,)
    assert env.reset()["vec"][1].tolist() == stacked(0, 0, 1)
    for want in ([0, 1, 2], [1, 2, 3]):
        obs = env.step([0, 0])[0]
        assert obs["vec"][0].tolist() == stacked(*want)
        assert obs["img"][0, ::3, 0, 0].tolist() == want
    obs, _, done, infos = env.step([0, 0])
    assert done.all()
    assert obs["vec"][0].tolist() == stacked(0, 0, 1)
    assert infos[0]["terminal_observation"]["vec"].tolist() == stacked(2, 3, 4)
    early = actrix.VecFrameStack(make_vec_env(Counting, 1), 2).step([0])[0]  # before a reset
    np.testing.assert_array_equal(early, [[0, 0, 1, 0]])
    last = actrix.VecFrameStack(make_vec_env(Pair, 1), 2, {"img": "last"})
    assert last.observation_space["img"].shape == (3, 8, 16)


def test_stacked_frames_of_environments_that_reset_themselves_later():
    envs = gym.vector.SyncVectorEnv([Pair, Pair], autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP)
    env = actrix.VecFrameStack(VecEnv(as_host_env(envs)), 2)
    env.reset()
    with pytest.warns(UserWarning, match="reset themselves"):
        seen = [env.step([0, 0])[0]["vec"][0].tolist() for _ in range(5)]
    assert seen == [stacked(1, 2), stacked(2, 3), stacked(3, 4), stacked(0, 1), stacked(1, 2)]


def test_a_model_learns_on_stacked_frames_and_is_evaluated_on_them():
    env = VecNormalize(actrix.VecFrameStack(make_vec_env(Counting, 2), 2))
    model = PPO("MlpPolicy", env, **SMALL).learn(32)
    assert actrix.evaluate_policy(model, env, 2)[0] == 6
    assert is_vecenv_wrapped(env, actrix.VecFrameStack)
    with pytest.raises(ValueError, match="VecNormalize\\(VecFrameStack"):
        actrix.VecFrameStack(env, 2)
    with pytest.raises(ValueError, match="stacks a Box with axes"):
        actrix.VecFrameStack(make_vec_env("FrozenLake-v1", 1, backend="gymnasium"), 2)
