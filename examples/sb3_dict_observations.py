"""A Dict observation: an image and a vector, each through an encoder of its own."""

import os

import gymnasium as gym
import numpy as np

from actrix import PPO, make_vec_env

STEPS = int(os.environ.get("EXAMPLE_STEPS", 50_000))


class Finder(gym.Env):
    """A bright square on the left or on the right; `wanted` says whether to answer its side or the other."""

    observation_space = gym.spaces.Dict(
        {"image": gym.spaces.Box(0, 255, (12, 12, 1), np.uint8), "wanted": gym.spaces.Box(-1.0, 1.0, (1,))}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side, self.wanted = int(self.np_random.integers(2)), int(self.np_random.choice([-1, 1]))
        return self._obs(), {}

    def step(self, action):
        right = self.side if self.wanted == 1 else 1 - self.side
        return self._obs(), float(action == right), True, False, {}

    def _obs(self):
        image = np.zeros((12, 12, 1), np.uint8)
        image[4:8, 1 + 6 * self.side : 5 + 6 * self.side] = 255
        return {"image": image, "wanted": np.array([self.wanted], np.float32)}


env = make_vec_env(Finder, n_envs=8, seed=0)
model = PPO("MultiInputPolicy", env, n_steps=32, batch_size=64, verbose=1)
model.learn(total_timesteps=STEPS)
env.close()
