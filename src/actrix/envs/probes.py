"""Tiny environments with known values: what an algorithm must learn on each is written in its docstring.

All share one shape family, so that a compiled algorithm serves them all: observations are float32 [2] in
[-1, 1]; actions are Discrete(2), or Box(-1, 1, (1,)) for the continuous ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from actrix.core.fields import whole
from actrix.core.types import Spec
from actrix.envs.base import JaxEnv
from actrix.envs.classic import ClassicEnv


class ProbeState(NamedTuple):
    """x: what was drawn at the start; t: steps taken."""

    x: jax.Array
    t: jax.Array


@dataclasses.dataclass(frozen=True)
class Probe:
    """Base: `_start` draws x, `_observe` shows it, `_outcome` gives (reward, terminated)."""

    continuous: bool = dataclasses.field(default=False, kw_only=True)

    @functools.cached_property
    def spec(self) -> Spec:
        action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if self.continuous else spaces.Discrete(2)
        return Spec(
            spaces.Box(-1.0, 1.0, (2,), np.float32),
            action_space,
            self._limit(),
            2 if self._masked() else None,
        )

    def reset(self, key: jax.Array) -> tuple[ProbeState, jax.Array]:
        """Return (state, obs) of a new episode."""
        state = ProbeState(self._start(key), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, key: jax.Array, state: ProbeState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        reward, terminated = self._outcome(state, action)
        after = ProbeState(state.x, state.t + 1)
        truncated = (after.t >= (self._limit() or 2**30)) & ~terminated
        return after, self._observe(after), reward, terminated, truncated

    def mask(self, state: ProbeState) -> jax.Array | None:
        return None

    def _limit(self) -> int | None:
        return None

    def _masked(self) -> bool:
        return False

    def _start(self, key: jax.Array) -> jax.Array:
        return jnp.zeros(())

    def _observe(self, state: ProbeState) -> jax.Array:
        return jnp.stack([state.x, jnp.zeros(())])

    def _outcome(self, state: ProbeState, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError


def _sign(key: jax.Array) -> jax.Array:
    return jax.random.rademacher(key, (), jnp.float32)


@dataclasses.dataclass(frozen=True)
class ConstantReward(Probe):
    """One step, obs 0, reward 1: V = Q = 1 whatever the policy."""

    def _outcome(self, state, action):
        return jnp.ones(()), jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class ObsDependent(Probe):
    """One step, obs (x, 0) with x = ±1, reward x: V(x) = x whatever the policy."""

    def _start(self, key):
        return _sign(key)

    def _outcome(self, state, action):
        return state.x, jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class Discount(Probe):
    """Two steps, obs (0, 0) then (1, 0), reward 0 then 1: V(first) = γ, V(second) = 1 whatever the policy."""

    def _observe(self, state):
        return jnp.stack([jnp.minimum(state.t, 1).astype(jnp.float32), jnp.zeros(())])

    def _outcome(self, state, action):
        last = state.t >= 1
        return last.astype(jnp.float32), last


@dataclasses.dataclass(frozen=True)
class ActionReward(Probe):
    """One step, obs 0, reward = action: Q = (0, 1), the best action is 1, V* = 1 (uniform policy: ½)."""

    def _outcome(self, state, action):
        return action.astype(jnp.float32), jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class ActionObs(Probe):
    """One step, obs (x, 0) with x = ±1, reward 1 if action = [x > 0] else 0: V* = 1 (uniform policy: ½)."""

    def _start(self, key):
        return _sign(key)

    def _outcome(self, state, action):
        return ((action == 1) == (state.x > 0)).astype(jnp.float32), jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class InfiniteTimeLimit(Probe):
    """Obs 0, reward 1 for ever, truncated after `steps`: V = 1/(1−γ) with bootstrap at the truncation.

    Taking the truncation for a termination gives at most (1−γ^steps)/(1−γ).
    """

    steps: int = 10

    def _limit(self):
        return self.steps

    def _outcome(self, state, action):
        return jnp.ones(()), jnp.zeros((), bool)


@dataclasses.dataclass(frozen=True)
class TMaze(Probe):
    """The cue ±1 is seen at the first step only; `length` steps later, at the junction, choose by it.

    obs = (cue at t=0 else 0, 1 at the junction else 0); the corridor is walked whatever the action. Reward 1
    for action [cue > 0] at the junction, else 0. With memory the return is 1; without it ½.
    """

    length: int = 4

    def __post_init__(self) -> None:
        whole(self, "length")

    def _limit(self):
        return self.length + 1

    def _start(self, key):
        return _sign(key)

    def _observe(self, state):
        cue = jnp.where(state.t == 0, state.x, 0.0)
        return jnp.stack([cue, (state.t == self.length).astype(jnp.float32)])

    def _outcome(self, state, action):
        junction = state.t >= self.length
        return (junction & ((action == 1) == (state.x > 0))).astype(jnp.float32), junction


@dataclasses.dataclass(frozen=True)
class ContinuousTarget(Probe):
    """One step, obs (x, 0) with x = ±1, reward −(a − x/2)²: the best action is x/2, V* = 0."""

    continuous: bool = dataclasses.field(default=True, kw_only=True)

    def _start(self, key):
        return _sign(key)

    def _outcome(self, state, action):
        return -((action[0] - state.x / 2) ** 2), jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class Masked(Probe):
    """One step, obs (x, 0), x drawn from {−1, 0, 1}; V* = 1, and an illegal action gives −10.

    x = −1: only action 0 is legal, reward 1. x = 1: only action 1, reward 1. x = 0: both, reward = action.
    """

    def _masked(self):
        return True

    def _start(self, key):
        return jax.random.randint(key, (), -1, 2).astype(jnp.float32)

    def mask(self, state):
        return jnp.stack([state.x <= 0, state.x >= 0])

    def _outcome(self, state, action):
        legal = jnp.where(action == 1, state.x >= 0, state.x <= 0)
        reward = jnp.where(state.x == 0, action.astype(jnp.float32), 1.0)
        return jnp.where(legal, reward, -10.0), jnp.ones((), bool)


CARTPOLE_POSITIONS = (0, 2)


@dataclasses.dataclass(frozen=True)
class MaskVelocity:
    """Shows only the entries `keep` of a vector observation; CartPole without its velocities needs memory."""

    env: JaxEnv
    keep: tuple[int, ...] = CARTPOLE_POSITIONS

    @functools.cached_property
    def spec(self) -> Spec:
        space = _keep(self.env.spec.observation_space, self.keep)
        return dataclasses.replace(self.env.spec, observation_space=space)

    def reset(self, key):
        state, obs = self.env.reset(key)
        return state, obs[np.array(self.keep)]

    def step(self, key, state, action):
        state, obs, *rest = self.env.step(key, state, action)
        return state, obs[np.array(self.keep)], *rest

    def mask(self, state):
        return self.env.mask(state)


def cartpole_without_velocity(max_episode_steps: int | None = None) -> MaskVelocity:
    """Gymnasium's CartPole-v1 that shows the cart's place and the pole's angle only."""
    return MaskVelocity(ClassicEnv("CartPole-v1", max_episode_steps))


MEMORY_ENVS: dict[str, Any] = {"TMaze-v0": TMaze, "CartPoleNoVelocity-v0": cartpole_without_velocity}
"""Environments that need memory, by id."""


class PositionOnly(gym.ObservationWrapper):
    """The same for a Gymnasium environment: keeps the entries `keep` of a vector observation."""

    def __init__(self, env: gym.Env, keep: Sequence[int] = CARTPOLE_POSITIONS):
        super().__init__(env)
        self.keep = np.array(keep)
        self.observation_space = _keep(env.observation_space, keep)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The kept entries."""
        return observation[self.keep]


def _keep(space: Any, keep: Sequence[int]) -> spaces.Box:
    index = np.array(keep)
    return spaces.Box(space.low[index], space.high[index], dtype=space.dtype)
