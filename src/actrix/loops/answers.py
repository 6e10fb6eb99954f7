"""A policy's answers to prompts of a token environment, as text."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
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


AT_ONCE = 1024
"""Answers that are given at once: each has a memory of its own."""


def answers(
    policy: Policy, env: TokenEnv, number: int, seed: int | None, deterministic: bool = True, each: int = 1
) -> list[Answer]:
    """Its answers to so many prompts, drawn afresh, `each` to every one; `seed` fixes prompts and draws.

    The reward is the verifier's alone, whatever the environment takes from it or puts in its place for training.
    """
    policy, at_once = policy.evaluated(seed), min(number, max(AT_ONCE // each, 1))
    host = _host(dataclasses.replace(env.verifier(), group=each), at_once * each)
    host.key, host.number = jax.random.key(0 if seed is None else seed), 0
    found: list[Answer] = []
    while len(found) < number * each:
        found += _asked(policy, env, host, deterministic)
    return found[: number * each]


def _asked(policy: Policy, env: TokenEnv, host: HostJax, deterministic: bool) -> list[Answer]:
    """Its answers to as many prompts as the environments next draw."""
    number, (obs, mask) = host.num_envs, host.reset()
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
    asked = [env.question(p[:n]) for p, n in zip(prompts.prompt, prompts.length, strict=True)]
    return [Answer(q, env.write(a), float(r)) for q, a, r in zip(asked, tokens, reward, strict=True)]


@functools.lru_cache(maxsize=8)
def _host(env: TokenEnv, number: int) -> HostJax:
    """So many of these: kept, so that asking again compiles nothing."""
    return HostJax(env, number)


def pass_at(k: int, right: Sequence[int], n: int) -> float:
    """1 − C(n − c, k)/C(n, k), the mean over prompts of which c of n answers are right: unbiased for k ≤ n.

    The chance that one of k answers drawn without replacement from the n is right. Chen et al., "Evaluating Large
    Language Models Trained on Code" (2021), eq. 1. Raises ValueError for k > n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} answers to each prompt, and there are {n}.")
    return sum(1 - math.comb(n - c, k) / math.comb(n, k) for c in right) / len(right)
