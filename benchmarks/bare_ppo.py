"""What arithmetic alone costs here: PPO's whole compiled loop on CartPole as one bare program.

Nothing of the library but its environment: plain arrays, noise, keys and the order of minibatches that lie ready, no
metrics, no guards, no counters, no episodes that are told. Parameters are leaves or one vector, whichever is faster.
"""

from __future__ import annotations

import json
import time
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import record
from bare import Net, adam, network
from jax.flatten_util import ravel_pytree

from actrix.envs.jax_envs import jax_env, vector_reset, vector_step

GAMMA, LAMBDA, CLIP, VF_COEF, MAX_NORM = 0.99, 0.95, 0.2, 0.5, 0.5


def see(net: Net, x: jax.Array) -> jax.Array:
    """A perceptron's output, with tanh."""
    for w, b in net[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ net[-1][0] + net[-1][1]


def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """log π of actions `[B]`."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]


def collect(theta: dict, env: Any, carry: tuple, noise: jax.Array, keys: jax.Array) -> tuple:
    """(environments, their observations) after a chunk, and its rows."""

    def step(carry: tuple, draw: tuple) -> tuple:
        state, obs = carry
        logits = see(theta["pi"], obs)
        action = jnp.argmax(logits + draw[0], -1)
        state, out = vector_step(env, state, action, draw[1])
        done = out.terminated | out.truncated
        row = obs, action, out.reward, out.next_obs, out.terminated, done, log_prob(logits, action)
        return (state, out.obs), row

    return jax.lax.scan(step, carry, (noise, keys))


def loss(theta: dict, obs: Any, action: Any, old: Any, advantage: Any, goal: Any) -> jax.Array:
    """The clipped surrogate and the squared error of a minibatch."""
    ratio = jnp.exp(log_prob(see(theta["pi"], obs), action) - old)
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    return VF_COEF * jnp.mean((see(theta["vf"], obs)[:, 0] - goal) ** 2) - jnp.mean(surrogate)


def learn(theta: Any, read: Any, moments: tuple, t: jax.Array, rows: tuple, order: jax.Array) -> tuple:
    """(θ, moments, t) after the epochs of minibatches `order` [epochs, minibatches, B]; `read(θ)` are the networks."""
    obs, action, reward, next_obs, terminated, done, old = rows
    value, following = (see(read(theta)["vf"], x)[..., 0] for x in (obs, next_obs))
    delta = reward + GAMMA * jnp.where(terminated, 0, following) - value
    back = lambda after, x: (x[0] + x[1] * after,) * 2
    decay = GAMMA * LAMBDA * (1 - done)
    advantage = jax.lax.scan(back, jnp.zeros_like(value[0]), (delta, decay), reverse=True)[1]
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    data = jax.tree.map(flat, (obs, action, old, advantage, advantage + value))

    def minibatch(carry: tuple, index: jax.Array) -> tuple:
        theta, moments, t = carry
        batch = jax.tree.map(lambda x: jnp.take(x, index, 0, mode="clip"), data)
        gradient = jax.grad(lambda theta: loss(read(theta), *batch))(theta)
        norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda x: x * jnp.minimum(1, MAX_NORM / (norm + 1e-6)), gradient)
        return (*adam(theta, gradient, moments, t), t + 1), None

    epoch = lambda carry, index: jax.lax.scan(minibatch, carry, index)
    return jax.lax.scan(epoch, (theta, moments, t), order)[0]


def ppo(env_id: str, n_envs: int, n_steps: int, batch_size: int, n_epochs: int, total_steps: int) -> dict:
    """Seconds of so many steps with their updates, after the first iterations, by the faster of both layouts."""
    env, rng, key = jax_env(env_id), np.random.default_rng(0), jax.random.key(0)
    obs, act, widths = env.spec.observation_space.shape[0], int(env.spec.action_space.n), (64, 64)
    theta = {"pi": network(rng, [obs, *widths, act]), "vf": network(rng, [obs, *widths, 1])}
    noise = jnp.asarray(rng.gumbel(size=(n_steps, n_envs, act)), jnp.float32)
    keys = jax.random.split(key, (n_steps, n_envs, 2))
    shuffled = [rng.permutation(n_envs * n_steps).reshape(-1, batch_size) for _ in range(n_epochs)]
    order = jnp.asarray(np.stack(shuffled))

    iterations = max(1, round(total_steps / (n_envs * n_steps)))

    def seconds_of(theta: Any, read: Any) -> float:
        def iteration(_: int, state: tuple) -> tuple:
            theta, moments, t, carry = state
            carry, rows = collect(read(theta), env, carry, noise, keys)
            return *learn(theta, read, moments, t, rows, order), carry

        run = jax.jit(lambda state, number: jax.lax.fori_loop(0, number, iteration, state))
        moments = tuple(jax.tree.map(jnp.zeros_like, theta) for _ in range(2))
        state = run((theta, moments, jnp.float32(1), vector_reset(env, keys[0])[:2]), 2)
        jax.block_until_ready(state)
        begun = time.perf_counter()
        jax.block_until_ready(run(state, iterations))
        return time.perf_counter() - begun

    took = {"leaves": seconds_of(theta, lambda x: x), "vector": seconds_of(*ravel_pytree(theta))}
    what = {
        "peer": "bare program",
        "algo": "ppo",
        "env_id": env_id,
        "seconds": {layout: round(seconds, 3) for layout, seconds in took.items()},
        "versions": {"jax": jax.__version__, "gymnasium": gym.__version__},
    }
    return {"steps": iterations * n_envs * n_steps, "seconds": min(took.values()), "what": what}


if __name__ == "__main__":
    print(json.dumps(ppo(**record.asked({"ppo": ppo})[1])))
