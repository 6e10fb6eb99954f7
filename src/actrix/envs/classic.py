"""Gymnasium's classic control, its equations re-derived in JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.threefry import written_out
from actrix.core.types import Spec


class TimedState(NamedTuple):
    """An environment's own state and the number of steps taken in this episode."""

    inner: Any
    t: jax.Array


class Dynamics(NamedTuple):
    """A task: x_0 ~ U(low, high), step(x, a) -> (x', reward, terminated), observe(x) -> obs."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    step: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
    observe: Callable[[jax.Array], jax.Array]


def _wrap_angle(x: jax.Array) -> jax.Array:
    return (x + jnp.pi) % (2 * jnp.pi) - jnp.pi


def _cartpole(s, action):
    x, x_dot, theta, theta_dot = s
    force = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    temp = (force + 0.05 * theta_dot**2 * sin) / 1.1
    theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * cos / 1.1
    x, x_dot = x + 0.02 * x_dot, x_dot + 0.02 * x_acc
    theta, theta_dot = theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc
    terminated = (jnp.abs(x) > 2.4) | (jnp.abs(theta) > 12 * 2 * np.pi / 360)
    return jnp.stack([x, x_dot, theta, theta_dot]), jnp.ones(()), terminated


def _pendulum(s, action):
    theta, speed = s
    u = jnp.clip(action[0], -2.0, 2.0)
    cost = _wrap_angle(theta) ** 2 + 0.1 * speed**2 + 0.001 * u**2
    speed = jnp.clip(speed + (15.0 * jnp.sin(theta) + 3.0 * u) * 0.05, -8.0, 8.0)
    # Gymnasium lets the angle grow; wrapped, float32 stays exact over long episodes, observations the same.
    theta = _wrap_angle(theta + speed * 0.05)
    return jnp.stack([theta, speed]), -cost, jnp.zeros((), bool)


def _mountain_car(s, action):
    return _car(s, (action - 1).astype(jnp.float32) * 0.001, 0.5, lambda done: -jnp.ones(()))


def _mountain_car_continuous(s, action):
    force = jnp.clip(action[0], -1.0, 1.0) * 0.0015
    return _car(s, force, 0.45, lambda done: jnp.where(done, 100.0, 0.0) - 0.1 * action[0] ** 2)


def _car(s, push, goal, reward):
    position, speed = s
    speed = jnp.clip(speed + push - 0.0025 * jnp.cos(3 * position), -0.07, 0.07)
    position = jnp.clip(position + speed, -1.2, 0.6)
    speed = jnp.where((position <= -1.2) & (speed < 0), 0.0, speed)
    terminated = (position >= goal) & (speed >= 0)
    return jnp.stack([position, speed]), reward(terminated), terminated


def _acrobot(s, action):
    torque = (action - 1).astype(jnp.float32)
    # One Runge-Kutta step of 0.2 s, as Gymnasium's.
    k1 = _acrobot_slope(s, torque)
    k2 = _acrobot_slope(s + 0.1 * k1, torque)
    k3 = _acrobot_slope(s + 0.1 * k2, torque)
    k4 = _acrobot_slope(s + 0.2 * k3, torque)
    s = s + 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
    speeds = [jnp.clip(s[2], -4 * np.pi, 4 * np.pi), jnp.clip(s[3], -9 * np.pi, 9 * np.pi)]
    s = jnp.stack([_wrap_angle(s[0]), _wrap_angle(s[1]), *speeds])
    terminated = -jnp.cos(s[0]) - jnp.cos(s[1] + s[0]) > 1.0
    return s, jnp.where(terminated, 0.0, -1.0), terminated


def _acrobot_slope(s, torque):
    # Sutton and Barto's equations with masses, lengths and moments of inertia 1 and centres of mass at 0.5.
    theta1, theta2, speed1, speed2 = s
    cos2, sin2 = jnp.cos(theta2), jnp.sin(theta2)
    d1 = 0.25 + (1.25 + cos2) + 2.0
    d2 = (0.25 + 0.5 * cos2) + 1.0
    phi2 = 4.9 * jnp.sin(theta1 + theta2)
    phi1 = -0.5 * speed2**2 * sin2 - speed2 * speed1 * sin2 + 14.7 * jnp.sin(theta1) + phi2
    acc2 = (torque + d2 / d1 * phi1 - 0.5 * speed1**2 * sin2 - phi2) / (1.25 - d2**2 / d1)
    return jnp.stack([speed1, speed2, -(d2 * acc2 + phi1) / d1, acc2])


def _acrobot_observe(s):
    return jnp.stack([jnp.cos(s[0]), jnp.sin(s[0]), jnp.cos(s[1]), jnp.sin(s[1]), s[2], s[3]])


def _identity(s):
    return s


CLASSIC: dict[str, Dynamics] = {
    "CartPole-v1": Dynamics((-0.05,) * 4, (0.05,) * 4, _cartpole, _identity),
    "Pendulum-v1": Dynamics(
        (-np.pi, -1.0), (np.pi, 1.0), _pendulum, lambda s: jnp.stack([jnp.cos(s[0]), jnp.sin(s[0]), s[1]])
    ),
    "Acrobot-v1": Dynamics((-0.1,) * 4, (0.1,) * 4, _acrobot, _acrobot_observe),
    "MountainCar-v0": Dynamics((-0.6, 0.0), (-0.4, 0.0), _mountain_car, _identity),
    "MountainCarContinuous-v0": Dynamics((-0.6, 0.0), (-0.4, 0.0), _mountain_car_continuous, _identity),
}
"""Gymnasium's equations in float32. gymnax's own versions differ (Pendulum's action shape, CartPole's reward
after the end, MountainCarContinuous at the walls), so they are not used for these ids."""


@dataclasses.dataclass(frozen=True)
class ClassicEnv:
    """A classic control task with Gymnasium's dynamics, starts, spaces and time limit (a `JaxEnv`)."""

    env_id: str
    max_episode_steps: int | None = None
    """None = Gymnasium's limit."""

    def __post_init__(self):
        if self.env_id not in CLASSIC:
            raise ValueError(f"{self.env_id!r} is not one of {', '.join(sorted(CLASSIC))}.")

    @functools.cached_property
    def spec(self) -> Spec:
        env = gym.make(self.env_id, disable_env_checker=True)
        limit = self.max_episode_steps or gym.spec(self.env_id).max_episode_steps
        spec = Spec(env.observation_space, env.action_space, limit)
        env.close()
        return spec

    def reset(self, key: jax.Array) -> tuple[TimedState, jax.Array]:
        """Return (state, obs) of a new episode."""
        task = CLASSIC[self.env_id]
        low, high = (np.asarray(bound, np.float32) for bound in (task.low, task.high))
        x = jax.random.uniform(written_out(key), low.shape, minval=low, maxval=high)
        return TimedState(x, jnp.zeros((), jnp.int32)), task.observe(x)

    def step(self, key: jax.Array, state: TimedState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        task = CLASSIC[self.env_id]
        x, reward, terminated = task.step(state.inner, action)
        t = state.t + 1
        truncated = (t >= (self.spec.max_episode_steps or 2**30)) & ~terminated
        return TimedState(x, t), task.observe(x), reward, terminated, truncated

    def mask(self, state: TimedState) -> None:
        return None
