"""A policy's answers to prompts of a token environment, as text."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from actrix.envs.jax_envs import HostJax
from actrix.envs.tokens.env import TokenEnv
from actrix.loops.evaluate import Policy


class Answer(NamedTuple):
    """One."""

    prompt: str
    text: str
    reward: float

    @property
    def right(self) -> bool:
        """It earned more than 1/2."""
        return self.reward > 0.5


def answers(
    policy: Policy, env: TokenEnv, number: int, seed: int | None, deterministic: bool = True
) -> list[Answer]:
    """Its answers to so many different prompts, all at once; `seed` fixes prompts and draws."""
    policy = policy.evaluated(seed)
    host = HostJax(dataclasses.replace(env, group=1), number, 0 if seed is None else seed)
    obs, mask = host.reset()
    prompts = jax.device_get(host.state.instance)
    memory, first, alive = policy.initial_memory(number), np.ones(number, bool), np.ones(number, bool)
    tokens: list[list[int]] = [[] for _ in range(number)]
    reward = np.zeros(number)
    for t in range(env.spec.max_episode_steps or 0):
        action, memory = policy(obs, memory, first, mask, deterministic)
        step: Any = host.step(action)
        for i in np.flatnonzero(alive & (t + 1 >= prompts.length)):
            tokens[i].append(int(step.next_obs[i]))
        reward += np.where(alive, step.reward, 0.0)
        alive = alive & ~step.terminated
        obs, mask, first = step.obs, step.mask, step.terminated
    asked = [env.write(p[:n]) for p, n in zip(prompts.prompt, prompts.length, strict=True)]
    return [Answer(q, env.write(a), float(r)) for q, a, r in zip(asked, tokens, reward, strict=True)]
