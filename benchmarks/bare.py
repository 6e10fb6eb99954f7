"""What arithmetic alone costs here: the updates of SAC, TD3 and DQN as bare loops, and their environment's steps alone.

Nothing of the library: plain arrays, batches and noise that lie ready, no memory, no guards, no counters. An agent that
learns once a step with these products takes about both together.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import record

BATCH = {"sac": 256, "td3": 256, "dqn": 32}
WIDTHS = {"sac": (256, 256), "td3": (400, 300), "dqn": (64, 64)}
Net = list[tuple[jax.Array, jax.Array]]


def network(rng: np.random.Generator, sizes: list[int]) -> Net:
    """Weights and biases of a perceptron."""
    return [
        (jnp.asarray(rng.normal(0, n**-0.5, (n, m)), jnp.float32), jnp.zeros(m))
        for n, m in itertools.pairwise(sizes)
    ]


def see(net: Net, x: jax.Array) -> jax.Array:
    """Its output for a batch."""
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ net[-1][0] + net[-1][1]


def adam(theta: Any, gradient: Any, moments: tuple, t: jax.Array) -> tuple[Any, tuple]:
    """One step of Adam at 3e-4."""
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)
    size = 3e-4 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return jax.tree.map(lambda x, m, v: x - size * m / (jnp.sqrt(v) + 1e-8), theta, m, v), (m, v)


def squashed(out: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(action, log π) of a tanh-Gaussian."""
    mean, log_std = jnp.split(out, 2, -1)
    log_std = jnp.clip(log_std, -20, 2)
    u = mean + jnp.exp(log_std) * noise
    density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return jnp.tanh(u), jnp.sum(density - 2 * (np.log(2) - u - jax.nn.softplus(-2 * u)), -1)


def pair(critics: list[Net], obs: jax.Array, action: jax.Array) -> jax.Array:
    """Both critics' values `[2, B]`."""
    x = jnp.concatenate([obs, action], -1)
    return jnp.stack([see(net, x)[:, 0] for net in critics])


def follow(target: Any, theta: Any) -> Any:
    """Polyak's average at 0.005."""
    return jax.tree.map(lambda old, new: old + 0.005 * (new - old), target, theta)


def sac(state: dict, batch: tuple, t: jax.Array) -> dict:
    """One update of soft actor-critic."""
    obs, action, reward, next_obs, live, noise = batch
    alpha = jnp.exp(state["log_alpha"])
    next_action, log_prob = squashed(see(state["actor"], next_obs), noise[0])
    value = jnp.min(pair(state["target"], next_obs, next_action), 0) - alpha * log_prob
    goal = reward + 0.99 * live * value
    error = lambda critics: 0.5 * jnp.sum(jnp.mean((pair(critics, obs, action) - goal) ** 2, 1))
    critics, m_critic = adam(state["critic"], jax.grad(error)(state["critic"]), state["m_critic"], t)

    def loss(actor: Net) -> tuple:
        action, log_prob = squashed(see(actor, obs), noise[1])
        return jnp.mean(alpha * log_prob - jnp.min(pair(critics, obs, action), 0)), jnp.mean(log_prob)

    gradient, log_prob = jax.grad(loss, has_aux=True)(state["actor"])
    actor, m_actor = adam(state["actor"], gradient, state["m_actor"], t)
    log_alpha, m_alpha = adam(state["log_alpha"], -(log_prob - action.shape[-1]), state["m_alpha"], t)
    return dict(actor=actor, m_actor=m_actor, critic=critics, m_critic=m_critic, log_alpha=log_alpha,
                m_alpha=m_alpha, target=follow(state["target"], critics))  # fmt: skip


def td3(state: dict, batch: tuple, t: jax.Array) -> dict:
    """One update of TD3; the actor moves in every second."""
    obs, action, reward, next_obs, live, noise = batch
    smooth = jnp.clip(0.2 * noise[0], -0.5, 0.5)
    next_action = jnp.clip(jnp.tanh(see(state["actor_target"], next_obs)) + smooth, -1, 1)
    goal = reward + 0.99 * live * jnp.min(pair(state["target"], next_obs, next_action), 0)
    error = lambda critics: jnp.sum(jnp.mean((pair(critics, obs, action) - goal) ** 2, 1))
    critics, m_critic = adam(state["critic"], jax.grad(error)(state["critic"]), state["m_critic"], t)
    state = state | dict(critic=critics, m_critic=m_critic)

    def move(state: dict) -> dict:
        x = lambda actor: jnp.concatenate([obs, jnp.tanh(see(actor, obs))], -1)
        gradient = jax.grad(lambda actor: -jnp.mean(see(critics[0], x(actor))))(state["actor"])
        actor, m_actor = adam(state["actor"], gradient, state["m_actor"], t)
        return state | dict(actor=actor, m_actor=m_actor, target=follow(state["target"], critics),
                            actor_target=follow(state["actor_target"], actor))  # fmt: skip

    return jax.lax.cond(t % 2 == 0, move, lambda state: state, state)


def dqn(state: dict, batch: tuple, t: jax.Array) -> dict:
    """One update of DQN (the target's copy left out)."""
    obs, action, reward, next_obs, live, _ = batch
    goal = reward + 0.99 * live * jnp.max(see(state["target"], next_obs), -1)

    def loss(net: Net) -> jax.Array:
        error = jnp.take_along_axis(see(net, obs), action, -1)[:, 0] - goal
        return jnp.mean(jnp.where(jnp.abs(error) < 1, 0.5 * error**2, jnp.abs(error) - 0.5))

    net, moments = adam(state["net"], jax.grad(loss)(state["net"]), state["m_net"], t)
    return state | dict(net=net, m_net=moments)


def start(algo: str, obs: int, act: int) -> dict:
    """Networks, targets and moments."""
    rng, widths, zeros = np.random.default_rng(0), WIDTHS[algo], partial(jax.tree.map, jnp.zeros_like)
    moments = lambda x: (zeros(x), zeros(x))
    if algo == "dqn":
        net = network(rng, [obs, *widths, act])
        return dict(net=net, m_net=moments(net), target=jax.tree.map(jnp.array, net))
    actor = network(rng, [obs, *widths, act * (2 if algo == "sac" else 1)])
    critics = [network(rng, [obs + act, *widths, 1]) for _ in range(2)]
    state = dict(actor=actor, m_actor=moments(actor), critic=critics, m_critic=moments(critics),
                 target=jax.tree.map(jnp.array, critics))  # fmt: skip
    if algo == "sac":
        return state | dict(log_alpha=jnp.zeros(()), m_alpha=moments(jnp.zeros(())))
    return state | dict(actor_target=jax.tree.map(jnp.array, actor))


def update_seconds(algo: str, env: gym.Env, updates: int) -> float:
    """Seconds of one bare update, each a call of its own."""
    rng, size = np.random.default_rng(0), BATCH[algo]
    obs = int(np.prod(env.observation_space.shape))
    act = int(env.action_space.n) if algo == "dqn" else int(np.prod(env.action_space.shape))
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    action = jnp.asarray(rng.integers(act, size=(size, 1))) if algo == "dqn" else jnp.tanh(normal(size, act))
    batch = (normal(size, obs), action, normal(size), normal(size, obs), jnp.ones(size), normal(2, size, act))
    update: Callable = jax.jit(globals()[algo], donate_argnums=0)
    state = start(algo, obs, act)
    for t in range(1, 11):
        state = update(state, batch, jnp.float32(t))
    jax.block_until_ready(state)
    begun = time.perf_counter()
    for t in range(11, 11 + updates):
        state = update(state, batch, jnp.float32(t))
    jax.block_until_ready(state)
    return (time.perf_counter() - begun) / updates


def step_seconds(env: gym.Env, steps: int) -> float:
    """Seconds of one step with random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    begun = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (time.perf_counter() - begun) / steps


def main() -> None:
    """`bare.py sac '{"env_id": "HalfCheetah-v5"}'`: one line, as the other sides of a comparison."""
    algo, given = record.asked({name: globals()[name] for name in BATCH})
    env_id, updates = given.get("env_id", "HalfCheetah-v5"), given.get("total_steps", 1500)
    env = gym.make(env_id)
    step, update = step_seconds(env, 3000), update_seconds(algo, env, updates)
    versions = {"jax": jax.__version__, "gymnasium": gym.__version__}
    what = {"peer": "bare loop", "algo": algo, "env_id": env_id, "versions": versions,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "step_ms": round(1e3 * step, 4), "update_ms": round(1e3 * update, 4)}  # fmt: skip
    print(json.dumps({"steps": updates, "seconds": updates * (step + update), "what": what}))


if __name__ == "__main__":
    main()
