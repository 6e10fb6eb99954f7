"""Share of host-mode time that is spent checking data: `python benchmarks/guards.py --env LunarLander-v3 --n-envs 16`.

A checking call's own cost is its time on an environment that does nothing, less that environment's; the rest is the
check of each chunk and of each vector step. All is set against the time of training, updates included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import record

import actrix
from actrix.envs.guard import Guard
from actrix.envs.gymnasium import GymnasiumEnvs
from actrix.loops import collect, stepping


class Nothing(gym.Env):
    """Returns the same objects at every step."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space):
        self.observation_space, self.action_space = observation_space, action_space
        self.obs: Any = observation_space.sample()
        self.result = (self.obs, 1.0, False, False, {})

    def step(self, action: Any) -> Any:
        """Nothing happens."""
        return self.result


def per_call(call: Callable[[], Any], repeat: int = 7, number: int = 20_000) -> float:
    """Seconds per call, the least of several rounds."""
    rounds = []
    for _ in range(repeat):
        begun = time.perf_counter()
        for _ in range(number):
            call()
        rounds.append(time.perf_counter() - begun)
    return min(rounds) / number


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Replace a function by one that adds its time to `spent`."""
    inner = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - begun)

    setattr(owner, name, call)


def main() -> None:
    """Train, time, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--algorithm", default="PPO")
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100_000)
    args = parser.parse_args()
    try:
        envs = actrix.make_vec_env(args.env, args.n_envs, seed=0, backend="gymnasium")
        model = getattr(actrix, args.algorithm)("MlpPolicy", envs, seed=0)
    except (AttributeError, ValueError) as error:
        record.refuse(str(error))
    model.learn(args.steps // 10)  # compiles
    spent: list[float] = []
    for owner, name in ((collect, "check_chunk"), (stepping, "check_chunk"), (GymnasiumEnvs, "_check"),
                        (GymnasiumEnvs, "_fitting")):  # fmt: skip
        timed(owner, name, spent)
    begun = time.perf_counter()
    model.learn(args.steps)
    seconds = time.perf_counter() - begun
    nothing = Nothing(envs.observation_space, envs.action_space)
    wrapped = Guard(nothing)
    one = per_call(lambda: wrapped.step(0)) - per_call(lambda: nothing.step(0))
    steps = model.num_timesteps
    share = (one * steps + np.sum(spent)) / seconds
    print(
        f"{args.algorithm} on {args.env} × {args.n_envs}: guards take {100 * share:.2f}% of {seconds:.1f} s "
        f"({1e6 * one:.2f} µs per environment step, {1e6 * np.sum(spent) / steps:.2f} µs for chunks and vectors)"
    )


if __name__ == "__main__":
    main()
