"""Schedules: a function of the remaining progress (1 at the start, 0 at the end), as in SB3."""

import os
from collections.abc import Callable

from actrix import PPO

STEPS = int(os.environ.get("EXAMPLE_STEPS", 20_000))


def linear_schedule(initial_value: float) -> Callable[[float], float]:
    """A step size that falls linearly to 0."""

    def value(progress_remaining: float) -> float:
        return progress_remaining * initial_value

    return value


# The function is read off at 101 points when the model is built, so it must not change later.
model = PPO("MlpPolicy", "CartPole-v1", n_envs=8, n_steps=64, learning_rate=linear_schedule(0.001), verbose=1)
model.learn(total_timesteps=STEPS)

# `learn` again starts the schedule anew; with reset_num_timesteps=False it runs over the sum of both budgets.
model.learn(total_timesteps=STEPS, reset_num_timesteps=False)

# The same in the zoo's words, which also work on the command line.
model = PPO("MlpPolicy", "CartPole-v1", n_envs=8, n_steps=64, learning_rate="lin_0.001", clip_range="lin_0.2")
