"""Goal environments: two small ones in JAX, and how Gymnasium's say what another goal would have brought."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from actrix.core.fields import positive, whole
from actrix.core.spaces import has_goals
from actrix.core.types import GOAL_KEYS, Goals, PyTree, Spec


class GoalState(NamedTuple):
    """Where the environment is, where it shall go, and steps taken."""

    x: jax.Array
    goal: jax.Array
    t: jax.Array


def goal_observation(observation: Any, achieved: Any, desired: Any) -> dict[str, Any]:
    """The three parts by their names, of spaces too."""
    return dict(zip(GOAL_KEYS, (observation, achieved, desired), strict=True))


@dataclasses.dataclass(frozen=True)
class BitFlip:
    """n random bits, of which each action flips one, until they are the n random bits of the goal; at most n steps.

    Reward 0 where they are, which ends the episode, else −1: with exploration alone they meet in about one of 2ⁿ
    episodes (Andrychowicz et al. 2017, §3.1). An episode was a success where its return is more than −n.
    """

    bits: int = 10

    def __post_init__(self) -> None:
        whole(self, "bits")

    @functools.cached_property
    def spec(self) -> Spec:
        space = spaces.Dict(goal_observation(*(spaces.MultiBinary(self.bits) for _ in GOAL_KEYS)))
        goals = Goals(self.compute_reward, self.compute_terminated)
        return Spec(space, spaces.Discrete(self.bits), self.bits, goals=goals)

    def reset(self, key: jax.Array) -> tuple[GoalState, dict[str, jax.Array]]:
        """Return (state, obs) of a new episode."""
        x, goal = jax.random.bernoulli(key, 0.5, (2, self.bits)).astype(jnp.int8)
        return GoalState(x, goal, jnp.zeros((), jnp.int32)), goal_observation(x, x, goal)

    def step(self, key: jax.Array, state: GoalState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        x, t = state.x.at[action].set(1 - state.x[action]), state.t + 1
        terminated = self.compute_terminated(x, state.goal, {})
        reward, truncated = self.compute_reward(x, state.goal, {}), (t >= self.bits) & ~terminated
        return GoalState(x, state.goal, t), goal_observation(x, x, state.goal), reward, terminated, truncated

    def mask(self, state: GoalState) -> None:
        return None

    def compute_reward(self, achieved_goal: jax.Array, desired_goal: jax.Array, info: Any) -> jax.Array:
        """0 where they are the same, else −1; of one pair, or of a batch."""
        return self.compute_terminated(achieved_goal, desired_goal, info) - 1.0

    def compute_terminated(self, achieved_goal: jax.Array, desired_goal: jax.Array, info: Any) -> jax.Array:
        """Whether they are the same."""
        return jnp.all(achieved_goal == desired_goal, axis=-1)


@dataclasses.dataclass(frozen=True)
class PointReach:
    """A point in [−1, 1]³ that starts at 0 and moves by a tenth of its action, towards a random point of the cube.

    Reward 0 within `radius` of it, else −1; nothing terminates, and episodes have 50 steps, as Gymnasium-Robotics'
    FetchReach has them. Moving straight there takes at most ten steps: the return of the best policy is about −5.
    """

    radius: float = 0.1
    max_episode_steps: int = 50

    def __post_init__(self) -> None:
        positive(self, "radius")
        whole(self, "max_episode_steps")

    @functools.cached_property
    def spec(self) -> Spec:
        point = spaces.Box(-1.0, 1.0, (3,), np.float32)
        space = spaces.Dict(goal_observation(point, point, point))
        return Spec(space, point, self.max_episode_steps, goals=Goals(self.compute_reward))

    def reset(self, key: jax.Array) -> tuple[GoalState, dict[str, jax.Array]]:
        """Return (state, obs) of a new episode."""
        x, goal = jnp.zeros(3), jax.random.uniform(key, (3,), minval=-1.0)
        return GoalState(x, goal, jnp.zeros((), jnp.int32)), goal_observation(x, x, goal)

    def step(self, key: jax.Array, state: GoalState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        x, t = jnp.clip(state.x + 0.1 * action, -1.0, 1.0), state.t + 1
        reward, truncated = self.compute_reward(x, state.goal, {}), t >= self.max_episode_steps
        obs = goal_observation(x, x, state.goal)
        return GoalState(x, state.goal, t), obs, reward, jnp.zeros((), bool), truncated

    def mask(self, state: GoalState) -> None:
        return None

    def compute_reward(self, achieved_goal: jax.Array, desired_goal: jax.Array, info: Any) -> jax.Array:
        """0 within `radius`, else −1; of one pair, or of a batch."""
        far = jnp.sum(jnp.square(achieved_goal - desired_goal), axis=-1) > self.radius**2
        return -far.astype(jnp.float32)


GOAL_ENVS: dict[str, Any] = {"BitFlip-v0": BitFlip, "PointReach-v0": PointReach}
"""By id."""


def host_goals_of(envs: Any) -> Goals | None:
    """Those of a vector environment's first; one in processes has a copy of it made here to ask."""
    if isinstance(envs, SyncVectorEnv):
        return host_goals(envs.envs[0])
    inner = envs.unwrapped
    if isinstance(inner, AsyncVectorEnv) and has_goals(inner.single_observation_space):
        env = inner.env_fns[0]()
        env.reset()
        return host_goals(env)
    return None


def host_goals(env: gym.Env) -> Goals | None:
    """What a Gymnasium environment says of any goal, called on the host from compiled code; None where it does not.

    `compute_reward` takes a batch, as Gymnasium-Robotics promises; `compute_terminated` does not there (it gives one
    `bool`), so it is called row by row.
    """
    if not has_goals(env.observation_space) or not env.has_wrapper_attr("compute_reward"):
        return None
    compute_reward = env.get_wrapper_attr("compute_reward")
    if not env.has_wrapper_attr("compute_terminated"):
        return Goals(_on_host(compute_reward, np.float32))
    compute_terminated = env.get_wrapper_attr("compute_terminated")

    def each(achieved: PyTree, desired: PyTree, info: dict) -> list[bool]:
        row = lambda i: jax.tree.map(lambda x: x[i], (achieved, desired))
        return [bool(compute_terminated(*row(i), info)) for i in range(_size(achieved))]

    return Goals(_on_host(compute_reward, np.float32), _on_host(each, np.bool_))


def _size(tree: PyTree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _on_host(function: Callable, dtype: Any) -> Callable:
    """A function of numpy arrays `[B, ...]` as one that can be traced."""

    def call(achieved: PyTree, desired: PyTree, info: Any) -> np.ndarray:
        achieved, desired = jax.tree.map(np.asarray, (achieved, desired))
        out = np.asarray(function(achieved, desired, info), dtype)
        if out.shape != (_size(achieved),):
            raise ValueError(
                f"compute_reward of {_size(achieved)} goals at once gave shape {out.shape}: hindsight needs it to be "
                "vectorised over a batch."
            )
        return out

    def traced(achieved: PyTree, desired: PyTree, info: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct((_size(achieved),), dtype)
        return jax.pure_callback(
            functools.partial(call, info=info), shape, achieved, desired, vmap_method="sequential"
        )

    traced.on_host = call  # type: ignore[attr-defined] # whose errors are the function's own
    return traced
