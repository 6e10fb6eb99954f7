"""Episodes recorded from a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from actrix.core.types import PyTree
from actrix.data.datasets.dataset import Episode

Predict = Callable[[Any, Any, np.ndarray], tuple[Any, Any]]
"""`predict(obs, state, episode_start) -> (action, state)` for one observation; action as `env.step` takes it."""


def record_episodes(
    predict: Predict, env: gym.Env, *, steps: int | None = None, episodes: int | None = None, seed: int = 0
) -> Iterator[Episode]:
    """Play a policy in one environment and yield its episodes: `episodes` whole ones, or exactly `steps` steps.

    With `steps` the last episode is cut there, as a truncation. Every reset has a seed of its own, derived from
    `seed`. Minari's DataCollector is not used: it writes into Minari's store and keeps no budget of steps.
    """
    if (steps is None) == (episodes is None) or (steps or episodes or 0) < 1:
        raise ValueError(f"record either steps or episodes, at least 1: steps={steps}, episodes={episodes}.")
    number, left, state = 0, steps, None
    while (left is None or left > 0) and (episodes is None or number < episodes):
        reset_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
        seen: list[PyTree] = []
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        terminated = truncated = False
        obs, _ = env.reset(seed=reset_seed)
        seen.append(_copy(env.observation_space, obs))
        while not (terminated or truncated):
            action, state = predict(obs, state, np.array([not rewards]))
            obs, reward, terminated, truncated, _ = env.step(action)
            seen.append(_copy(env.observation_space, obs))
            actions.append(np.array(action))
            rewards.append(float(reward))
            truncated = bool(truncated) or len(rewards) == left
        left = None if left is None else left - len(rewards)
        ends = np.arange(1, len(rewards) + 1) == len(rewards)
        observations = jax.tree.map(lambda *x: np.stack(x), *seen)
        yield Episode(
            observations,
            np.stack(actions),
            np.asarray(rewards),
            ends & bool(terminated),
            ends & truncated,
            reset_seed,
        )
        number += 1


def _copy(space: Any, obs: Any) -> PyTree:
    """A copy of one observation in plain dicts and tuples: environments may use their arrays again."""
    if isinstance(space, spaces.Dict):
        return {k: _copy(part, obs[k]) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_copy(part, o) for part, o in zip(space.spaces, obs, strict=True))
    return np.array(obs)
