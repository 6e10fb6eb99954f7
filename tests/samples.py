"""An environment of any spaces."""

import gymnasium as gym
import numpy as np


class Samples(gym.Env):
    """Random observations of any space; refuses an action outside its action space; `length` steps, then the limit."""

    length, terminates = 4, False

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def reward(self, action):
        return float(np.sum(action))

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        end = self.t == self.length
        flags = end and self.terminates, end and not self.terminates
        return self.observation_space.sample(), self.reward(action), *flags, {}
