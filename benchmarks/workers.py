"""What processes gain: `python benchmarks/workers.py --n-envs 8`, on a quiet machine.

Steps per second of one environment after the other, of Gymnasium's AsyncVectorEnv and of `workers`, on environments
whose step sleeps (a simulator elsewhere) or computes, and the ratio to the first. A busy step gains up to the number of
cores, less the messages; a sleeping one up to the number of processes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

from actrix.envs.make import make_vec_env

CASES = {"sleeps 2 ms": (2e-3, True), "computes 2 ms": (2e-3, False), "computes 0.2 ms": (2e-4, False),
         "nothing": (0.0, False)}  # fmt: skip


class Costly(gym.Env):
    """A step that takes `seconds`, asleep or at work; observations are 84×84 bytes where `image`."""

    def __init__(self, seconds: float, sleeps: bool, image: bool = False):
        self.seconds, self.sleeps = seconds, sleeps
        self.observation_space = (
            spaces.Box(0, 255, (84, 84, 1), np.uint8) if image else spaces.Box(-1, 1, (8,), np.float32)
        )
        self.action_space = spaces.Discrete(2)
        self.obs: Any = self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Always the same."""
        return self.obs, {}

    def step(self, action: Any) -> Any:
        """Time passes."""
        if self.sleeps:
            time.sleep(self.seconds)
        else:
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until:
                pass
        return self.obs, 0.0, False, False, {}


def speed(n_envs: int, seconds: float, kwargs: dict[str, Any], **options: Any) -> float:
    """Environment steps per second."""
    envs = make_vec_env(Costly, n_envs, seed=0, env_kwargs=kwargs, **options)
    try:
        envs.reset()
        action, count = np.zeros(n_envs, np.int32), 0
        envs.step(action)
        begun = time.perf_counter()
        while time.perf_counter() < begun + seconds:
            envs.step(action)
            count += n_envs
        return count / (time.perf_counter() - begun)
    finally:
        envs.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    parser.add_argument("--image", action="store_true", help="observations of 84×84 bytes")
    args = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {"one by one": {}, "AsyncVectorEnv": {"vec_env_cls": AsyncVectorEnv}}
    for workers in dict.fromkeys((args.n_envs, max(args.n_envs // 2, 1), min(2, args.n_envs))):
        ways[f"{workers} workers"] = {"workers": workers}
    for case, (cost, sleeps) in CASES.items():
        base = 0.0
        for way, options in ways.items():
            kwargs = {"seconds": cost, "sleeps": sleeps, "image": args.image}
            rate = speed(args.n_envs, args.seconds, kwargs, **options)
            base = base or rate
            print(f"{case:16} {way:16} {rate:10.0f} steps/s {rate / base:6.2f}", flush=True)


if __name__ == "__main__":
    main()
