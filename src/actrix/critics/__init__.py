"""Question 1: how is the critic computed?"""

from actrix.critics.returns import (
    discount,
    discounted_return_to_go,
    episode_cut,
    gae,
    lambda_return,
    monte_carlo,
    n_step,
    td_error,
    td_target,
    trajectory_return,
)

__all__ = [
    "discount",
    "discounted_return_to_go",
    "episode_cut",
    "gae",
    "lambda_return",
    "monte_carlo",
    "n_step",
    "td_error",
    "td_target",
    "trajectory_return",
]
