"""The state of an environment, taken, sent through JSON and put into a new one, gives the same future bit for bit."""

import json

import gymnasium as gym
import numpy as np
import pytest

from actrix.core.plain import pack, unpack
from actrix.envs.guard import Guard
from actrix.envs.state import get_state, set_state

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
TOY = ["FrozenLake-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4", "Blackjack-v1"]


def make(env_id, **kwargs):
    return Guard(gym.make(env_id, disable_env_checker=True, **kwargs))


def through_json(state):
    skeleton, arrays = pack(state)
    return unpack(json.loads(json.dumps(skeleton, allow_nan=False)), arrays)


def bits(value):
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [bits(part) for part in value]
    value = np.asarray(value)
    return str(value.dtype), value.shape, value.tobytes()


def play(env, steps, seed=0):
    """Take `steps` actions drawn from `seed`, with resets where episodes end; all that the environment says."""
    env.action_space.seed(seed)
    said = []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        said.append(bits([obs, reward, terminated, truncated]))
        if terminated or truncated:
            said.append(bits(env.reset()[0]))
    return said


def started(build, steps, seed=3):
    env = build()
    env.reset(seed=seed)
    play(env, steps, seed=1)
    return env


def check_exact(build, phases=(0, 1, 17, 250), steps=300):
    for k in phases:
        env, never_asked, fresh = started(build, k), started(build, k), build()
        set_state(fresh, through_json(get_state(env)))
        future = play(env, steps)
        assert future == play(never_asked, steps), f"asking changed the future after {k} steps"
        assert future == play(fresh, steps), f"restored after {k} steps"


@pytest.mark.parametrize("env_id", CLASSIC + TOY)
def test_exact(env_id):
    check_exact(lambda: make(env_id))
