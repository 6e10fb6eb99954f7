"""What scripts bring: an environment that counts, and vector environments of several makes over it."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

LENGTH = 3

SMALL = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs={"net_arch": [4]})
MEMORY = dict(learning_starts=4, buffer_size=50, batch_size=4, seed=0, policy_kwargs={"net_arch": [4]})


class Counting(gym.Env):
    """Pays the number of the step, ends after `LENGTH`: a return of 6. With masks, action 1 is never legal."""

    observation_space, action_space = spaces.Box(0, 9, (2,), np.float32), spaces.Discrete(3)
    level = 0

    def __init__(self, truncate=False):
        self.truncate, self.t, self.render_mode = truncate, 0, "rgb_array"

    def hello(self, x):
        return x + self.level

    def _obs(self):
        return np.array([self.t, self.level], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        end = self.t == LENGTH
        return self._obs(), float(self.t), end and not self.truncate, end and self.truncate, {"step": self.t}

    def render(self):
        return np.full((4, 4, 3), self.t, np.uint8)


class Frame:
    """Compares as a data frame does: by element, and the result is neither true nor false."""

    def __eq__(self, other):
        return np.ones((2, 2), bool)

    __hash__ = None

    def equals(self, other):
        return isinstance(other, Frame)


class Choosy(Counting):
    """Action 1 ends the test."""

    def legal(self):
        return np.array([True, False, True])

    def step(self, action):
        assert action != 1, "an illegal action"
        return super().step(action)


class Masked(Choosy):
    def action_masks(self):
        return self.legal()


class Rows(VectorEnv):
    """A user's own vector environment of N `Counting`s: its mode, masks and the types of its returns."""

    def __init__(
        self, n=2, mode="SameStep", declared=True, masks=None, truncate=False, lists=False, final="final_obs"
    ):
        one = Counting()
        self.num_envs, self.mode, self.masks, self.lists, self.final = n, mode, masks, lists, final
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = spaces.Box(0, 9, (n, 2), np.float32)
        self.action_space = spaces.MultiDiscrete([3] * n)
        self.metadata = {"autoreset_mode": AutoresetMode(mode)} if declared else {}
        self.truncate, self.t, self.seeds = truncate, np.zeros(n, int), []
        if masks == "vector":
            self.action_masks = lambda: np.tile([True, False, True], (n, 1))

    def _obs(self, t):
        return np.stack([t, np.zeros_like(t)], 1).astype(np.float32)

    def _infos(self):
        return (
            {"action_mask": np.tile([True, False, True], (self.num_envs, 1))} if self.masks == "info" else {}
        )

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        which = np.ones(self.num_envs, bool) if not options else options["reset_mask"]
        self.t = np.where(which, 0, self.t)
        return self._obs(self.t), self._infos()

    def step(self, actions):
        if self.masks:
            assert (np.asarray(actions) != 1).all(), "an illegal action"
        again = (self.t == LENGTH) if self.mode == "NextStep" else np.zeros(self.num_envs, bool)
        self.t = np.where(again, 0, self.t + 1)
        reward, infos = np.where(again, 0.0, self.t), self._infos()
        end = (self.t == LENGTH) & ~again
        obs = self._obs(self.t)
        if self.mode == "SameStep" and end.any():
            if self.final:
                infos[self.final] = np.array([*obs, None], object)[:-1]
            self.t = np.where(end, 0, self.t)
            obs = self._obs(self.t)
        flags = (
            (np.zeros(self.num_envs, bool), end) if self.truncate else (end, np.zeros(self.num_envs, bool))
        )
        if self.lists:
            return obs, reward.tolist(), *(flag.tolist() for flag in flags), infos
        return obs, reward, *flags, infos
