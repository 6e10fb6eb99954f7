"""Tiny environments as tables, and their exact values.

A world is deterministic given its state and action, so that its values are a linear system. What looks random to an
agent is the drawn start: states may share an observation.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np

TWO = gym.spaces.Discrete(2)


@dataclasses.dataclass(frozen=True)
class World:
    """Tables `[S][A]`; spaces of actions that are not Discrete have one column, whatever the action is."""

    next: Any
    reward: Any
    terminated: Any
    truncated: Any
    start: tuple[float, ...]
    """Probabilities of the first state."""
    limit: int | None = None
    """Episodes are truncated after so many steps."""
    mask: Any = None
    """Legal actions."""
    observations: Any = None
    """Rows `[S, k]`; None = one-hot."""
    kind: str = "box"
    """What an observation is: 'box', 'discrete' (the state's number) or 'dict' (the row in two keys)."""
    action_space: gym.Space = dataclasses.field(default_factory=lambda: TWO)
    target: float | None = None
    """If given, the reward is −(a − target)², a the first component of the action."""

    @property
    def rows(self) -> np.ndarray:
        """Observations `[S, k]` as numbers."""
        made = np.eye(len(self.next)) if self.observations is None else np.asarray(self.observations)
        return made.astype(np.float32)

    def seen(self) -> Any:
        """The observations of all states as one batch."""
        return self.as_observation(np.arange(len(self.next)))

    def as_observation(self, state: Any) -> Any:
        """What is observed in a state, or in a batch of states."""
        if self.kind == "discrete":
            return np.asarray(state, np.int64)
        rows = self.rows[state]
        return {"a": rows[..., :1], "b": rows[..., 1:]} if self.kind == "dict" else rows

    @property
    def observation_space(self) -> gym.Space:
        """The space of observations."""
        if self.kind == "discrete":
            return gym.spaces.Discrete(len(self.next))
        low, high = self.rows.min(), max(self.rows.max(), self.rows.min() + 1)
        box = lambda n: gym.spaces.Box(low, high, (n,), np.float32)
        k = self.rows.shape[1]
        return gym.spaces.Dict(a=box(1), b=box(k - 1)) if self.kind == "dict" else box(k)

    def column(self, action: Any) -> int:
        """The column of the tables for an action."""
        if isinstance(self.action_space, gym.spaces.Discrete):
            return int(np.asarray(action).reshape(())) - int(self.action_space.start)
        return 0


@dataclasses.dataclass
class Seen:
    """What environments were given while somebody watched."""

    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    illegal: int = 0


class TableEnv(gym.Env):
    """A world as a Gymnasium environment; `action_mask` stands in the infos where there are masks."""

    def __init__(self, world: World, seen: Seen | None = None):
        self.world, self.watched = world, seen
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.state, self.steps = 0, 0

    def _info(self) -> dict[str, Any]:
        if self.world.mask is None:
            return {}
        return {"action_mask": np.asarray(self.world.mask[self.state], np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.world.start), p=self.world.start))
        self.steps = 0
        return self.world.as_observation(self.state), self._info()

    def step(self, action: Any) -> tuple:
        world, s = self.world, self.state
        columns = len(world.next[s])
        a = world.column(action)
        if self.watched is not None:
            self.watched.actions.append(np.array(action))
            self.watched.illegal += int(world.mask is not None and not world.mask[s][a])
        a %= columns  # an action outside its space is counted, not punished
        self.steps += 1
        self.state = world.next[s][a]
        reward = world.reward[s][a]
        if world.target is not None:
            reward = -((float(np.ravel(action)[0]) - world.target) ** 2)
        truncated = world.truncated[s][a] or (world.limit is not None and self.steps >= world.limit)
        observed = world.as_observation(self.state)
        return observed, float(reward), bool(world.terminated[s][a]), bool(truncated), self._info()

    def get_state(self) -> dict[str, Any]:
        """Where the episode is, for a library that resumes within one; its generator is the library's business."""
        return {"state": self.state, "steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on there."""
        self.state, self.steps = state["state"], state["steps"]


class MaskedTableEnv(TableEnv):
    """The same with the method `action_masks`, which some libraries ask."""

    def action_masks(self) -> np.ndarray:
        """Legal actions now."""
        return np.asarray(self.world.mask[self.state], bool)


def make(world: World, seen: Seen | None = None) -> gym.Env:
    """The world's environment."""
    return (TableEnv if world.mask is None else MaskedTableEnv)(world, seen)


def flags(value: bool, states: int, actions: int) -> tuple:
    """A table of one value."""
    return ((value,) * actions,) * states


def loop(
    reward: float = 1.0, ends: str = "", limit: int | None = None, action_space: gym.Space = TWO, **more: Any
) -> World:
    """One state that leads to itself whatever is done; `ends` is '', 'terminated', 'truncated' or 'both'."""
    n = int(action_space.n) if isinstance(action_space, gym.spaces.Discrete) else 1
    over = lambda name: flags(ends in (name, "both"), 1, n)
    return World(
        ((0,) * n,), ((reward,) * n,), over("terminated"), over("truncated"), (1.0,), limit,
        action_space=action_space, **more,
    )  # fmt: skip


def line(following: Any, rewards: Any, terminated: Any, truncated: Any, start: Any, **more: Any) -> World:
    """States that each lead to one state, whatever is done."""
    space = more.setdefault("action_space", TWO)
    n = int(space.n) if isinstance(space, gym.spaces.Discrete) else 1
    twice = lambda xs: tuple((x,) * n for x in xs)
    return World(twice(following), twice(rewards), twice(terminated), twice(truncated), tuple(start), **more)


def action_values(world: World, gamma: float, policy: Any = None) -> np.ndarray:
    """Q `[S, A]` of the policy `[S, A]`, or of the best one: the fixed point of r + γ(1 − terminated)V(s′).

    A truncation is no end: what follows it counts.
    """
    following, reward = np.asarray(world.next), np.asarray(world.reward, float)
    goes_on = gamma * (1.0 - np.asarray(world.terminated, float))
    legal = np.ones(reward.shape, bool) if world.mask is None else np.asarray(world.mask, bool)
    q = np.zeros_like(reward)
    for _ in range(2000):
        v = np.where(legal, q, -np.inf).max(1) if policy is None else (np.asarray(policy) * q).sum(1)
        q = reward + goes_on * v[following]
    return q


def values(world: World, gamma: float) -> np.ndarray:
    """V `[S]` of the uniform policy, solved exactly."""
    n = len(world.next)
    following, ended = np.asarray(world.next), np.asarray(world.terminated, float)
    matrix = np.eye(n)
    for s in range(n):
        for a in range(following.shape[1]):
            matrix[s, following[s, a]] -= gamma * (1 - ended[s, a]) / following.shape[1]
    return np.linalg.solve(matrix, np.asarray(world.reward, float).mean(1))
