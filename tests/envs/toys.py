"""Small Gymnasium environments for the tests of the adapters; processes import them without pytest."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

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
            case "large reward":
                return good[0], 1e40, False, False, {}
            case "text reward":
                return good[0], "1", False, False, {}
            case "numbered flag":
                return good[0], 1.0, np.array(1), False, {}
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


class Fragile(gym.Env):
    """Breaks in the way `fault` names, in `method` (step: its third), where its seed is `seed` (None: any).

    obs = (number drawn at reset, t, process id); an episode ends after `length` steps.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, fault="", method="step", seed=None, length=100, start=None):
        self.fault, self.method, self.seed, self.length = fault, method, seed, length
        self.t, self.steps, self.own_seed, self.draw = 0, 0, None, 0.0
        self.started = None if start is None else start()
        self._enter("constructor")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.own_seed = self.own_seed if seed is None else seed
        self._enter("reset")
        self.t, self.draw = 0, self.np_random.random()
        return self._obs(), {}

    def step(self, action):
        self.t, self.steps = self.t + 1, self.steps + 1
        if self.steps == 3:
            self._enter("step")
        info = {"huge": "x" * 10**8} if self.fault == "huge info" else {}
        return self._obs(), 1.0, self.t >= self.length, False, info

    def close(self):
        self._enter("close")

    def _obs(self):
        return np.array([self.draw, self.t, os.getpid()])

    def _enter(self, method):
        if method == self.method and (self.seed is None or self.seed == self.own_seed):
            FAULTS.get(self.fault, lambda: None)()


class Odd(Exception):
    """Can be neither pickled nor made from its message."""

    def __init__(self, one, two, *, three):
        super().__init__("odd one out")
        self.function = lambda: three


class Mute(Exception):
    """Has no message."""

    def __str__(self):
        raise RuntimeError("no words")


class Not(BaseException):
    """No Exception."""


def raise_(error):
    raise error


def endless():
    while True:
        pass


def hold():
    """Endless, and no other thread runs meanwhile."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def talk():
    print("printed before the end")
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {
    "raises": lambda: raise_(ZeroDivisionError("division by zero")),
    "odd": lambda: raise_(Odd(1, 2, three=3)),
    "mute": lambda: raise_(Mute()),
    "not": lambda: raise_(Not("no exception")),
    "leaves": lambda: sys.exit(4),
    "long": lambda: raise_(ValueError("long " * 10**7)),
    "surrogate": lambda: raise_(ValueError("half \ud800 a letter")),
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "closes": lambda: os.closerange(3, 1000),
    "endless": endless,
    "hold": hold,
    "talk": talk,
    "prints": lambda: [print("x" * 1000) for _ in range(1000)],
}


class Nested:
    """A class in a class is named by its path."""

    Counting = Counting


class Corridor(gym.Env):
    """Offers its state, or breaks doing so."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault=""):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.map = 0, self.np_random.normal(size=50_000)  # more than a pipe holds
        return self.seen(), {}

    def seen(self):
        return np.array([self.at, self.map[self.at]], np.float32)

    def step(self, action):
        self.at += 1
        self.map[self.at] += self.np_random.normal()
        return self.seen(), float(action), self.at > 6, False, {}

    def get_state(self):
        if self.fault == "raises":
            raise RuntimeError("no state today")
        if self.fault == "hangs":
            time.sleep(3600)
        return {"at": self.at, "map": object() if self.fault == "object" else self.map}

    def set_state(self, state):
        if self.fault == "dies":
            os._exit(3)
        self.at, self.map = state["at"], state["map"].copy()


class Simulator(gym.Env):
    """Starts a program, or a process of multiprocessing's, that would run for ever and writes its pid into a folder;
    `hang`: so does its fifth step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, folder, hang=False, fork=False):
        self.hang, self.count = hang, 0
        if fork:
            program = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
            program.start()
        else:
            program = subprocess.Popen(["sleep", "1000"])
        Path(folder, str(program.pid)).touch()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        while self.hang and self.count >= 5:
            time.sleep(0.01)
        return np.zeros(1, np.float32), 0.0, False, False, {}


class HangsOnClose(Simulator):
    def close(self):
        while True:
            time.sleep(0.01)
