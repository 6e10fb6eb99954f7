"""Small Gymnasium environments for the tests of the adapters."""

import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counting(gym.Env):
    """obs = (number drawn at reset, t), reward = t · action; ends after 1 to 4 steps by either flag or both.

    It hands out one buffer and overwrites it, as some environments do.
    """

    def __init__(self, kind: str = "box", copies: bool = False):
        self.kind, self.copies, self.buffer = kind, copies, np.zeros(2, np.float32)
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = {
            "box": box,
            "float64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "dict": spaces.Dict({"a": box, "b": spaces.Discrete(10)}),
            "tuple": spaces.Tuple((box, spaces.MultiBinary(2))),
            "discrete": spaces.Discrete(10),
        }[kind]
        self.action_space = spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.end = self.np_random.integers(1, 5), self.np_random.integers(3)
        self.buffer[:] = self.np_random.random(), 0
        return self._obs(), {}

    def step(self, action):
        assert 5 <= action < 8
        self.buffer[1] += 1
        done = self.buffer[1] >= self.length
        reward = float(self.buffer[1] * action)
        return self._obs(), reward, bool(done and self.end != 1), bool(done and self.end != 0), {}

    def _obs(self):
        box = self.buffer.copy() if self.copies else self.buffer
        return {
            "box": box,
            "float64": box.astype(np.float64),
            "dict": {"a": box, "b": int(self.buffer[1])},
            "tuple": (box, np.array([1, 0], np.int8)),
            "discrete": int(self.buffer[1]),
        }[self.kind]


class Line(gym.Env):
    """Positions 0 to 3, actions left, stay, right; ends at 3, where no action is legal."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(3)

    def __init__(self, by: str = "method", broken: str = ""):
        self.by, self.broken, self.x = by, broken, 0
        if by == "method":
            self.action_masks = self.legal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return self.x, self._info()

    def step(self, action):
        assert self.legal()[action], f"illegal {action} at {self.x}"
        self.x += int(action) - 1
        return self.x, 1.0, self.x == 3, False, self._info()

    def legal(self):
        if self.broken == "length":
            return np.ones(4, bool)
        if self.x == 3 or (self.broken == "empty" and self.x == 2):
            return np.zeros(3, bool)
        return np.array([self.x > 0, True, True])

    def _info(self):
        return {"action_mask": self.legal().astype(np.int8)} if self.by == "info" else {}


class Bad(gym.Env):
    """Breaks in the named way at its third step (or in reset)."""

    observation_space = spaces.Box(0, 255, (3,), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str = ""):
        self.fault, self.t = fault, 0
        if fault == "constructor":
            raise KeyError("no such level")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "reset raises":
            raise OSError("file lost")
        if self.fault == "old reset":
            return np.zeros(3, np.uint8)
        return np.zeros(3, np.uint8), {}

    def step(self, action):
        self.t += 1
        good = np.zeros(3, np.uint8), 1.0, False, False, {}
        if self.t < 3:
            return good
        match self.fault:
            case "raises":
                raise ZeroDivisionError("division by zero")
            case "exit":
                os._exit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case "shape":
                return np.zeros((1, 3), np.uint8), *good[1:]
            case "dtype":
                return np.zeros(3, np.float32), *good[1:]
            case "no array":
                return [[1], [2, 3]], *good[1:]
            case "reward":
                return good[0], np.ones(1), False, False, {}
            case "none reward":
                return good[0], None, False, False, {}
            case "flag":
                return good[0], 1.0, 1, False, {}
            case "truncated flag":
                return good[0], 1.0, False, None, {}
            case "old step":
                return good[0], 1.0, False, {}
            case "none":
                return None
        return good
