"""Shared by the algorithm tests: one small shape for every composition, so that compilation stays cheap."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.algorithms.actor_critic import ActorCritic
from actrix.algorithms.presets import configure
from actrix.core.networks import apply
from actrix.run.compiled import CompiledRunner

NUM_ENVS = 32
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "learning_rate": 0.02, "ent_coef": 0.0}


def small(algorithm: ActorCritic, **settings: Any) -> ActorCritic:
    """The composition with a tiny network and chunks of 8 rows (or whole episodes)."""
    changes: dict[str, Any] = dict(SMALL)
    changes["n_steps"] = 4 if algorithm.whole_episodes else 8
    if algorithm.actor.ratio:
        changes |= {"n_epochs": 4, "batch_size": 64}
    if algorithm.optimizer == "rmsprop":
        changes |= {"learning_rate": 0.005}
    return configure(dataclasses.replace(algorithm, n_critic_updates=0, vf_coef=0.5), changes | settings)


def train(
    algorithm: ActorCritic, env: Any, iterations: int, seed: int = 0, num_envs: int = NUM_ENVS
) -> CompiledRunner:
    """A runner after so many iterations."""
    algorithm.check(env.spec, num_envs)
    runner = CompiledRunner(algorithm, env, num_envs, [seed])
    runner.set_training(total_steps=10**6)
    runner.warm()
    if iterations:
        runner.advance(iterations)
    return runner


def value(runner: CompiledRunner, obs: list[float]) -> float:
    """V (or Σ π Q) of one observation."""
    algorithm, learner = runner.algorithm, runner.learners[0]
    out, _ = apply(learner.acting.net, jnp.asarray([obs], jnp.float32))
    return float(algorithm._state_value(out)[0])


def probability(runner: CompiledRunner, obs: list[float]) -> np.ndarray:
    """π(·|obs) of a discrete policy."""
    out, _ = apply(runner.learners[0].acting.net, jnp.asarray([obs], jnp.float32))
    return np.exp(np.asarray(out.dist.logits[0]))


def distance(a: Any, b: Any) -> float:
    """Largest absolute difference between two pytrees of arrays."""
    differences = jax.tree.map(
        lambda x, y: float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0)), a, b
    )
    return max(jax.tree.leaves(differences))
