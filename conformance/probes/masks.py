"""Illegal actions have no probability, no value and no part in the entropy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from conformance.probe import Check, probe
from conformance.probes.common import q_values, settings_of, trained
from conformance.worlds import Seen, World, loop

MASK = (True, False, True)


def _three(reward: float = 1.0) -> World:
    return loop(reward, limit=4, action_space=gym.spaces.Discrete(3), mask=(MASK,))


def _fresh(a, s):
    """(an agent that has learned nothing, observations of four rows, its unmasked probabilities, the masks)."""
    world = _three()
    agent = a.agent("maskable_ppo", world, **settings_of("maskable_ppo"), gamma=s.gamma, seed=s.seed)
    observed = np.repeat(world.seen(), 4, axis=0)
    masks = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)
    plain = np.asarray(agent.probs(observed, np.ones((4, 3), bool)))
    legal = np.where(masks, plain, 0)
    return agent, observed, masks, legal / legal.sum(1, keepdims=True)


@probe(
    "Masked probabilities are the unmasked ones of the legal actions, scaled to sum 1",
    "maskable_ppo",
    "probs",
)
def mask_probabilities(a, s):
    agent, observed, masks, expected = _fresh(a, s)
    return Check(expected, agent.probs(observed, masks), 1e-5)


@probe("log π of a legal action is that of the masked distribution", "maskable_ppo", "probs", "log_prob")
def mask_log_prob(a, s):
    agent, observed, masks, expected = _fresh(a, s)
    actions = np.array([0, 2, 1, 2])
    return Check(np.log(expected[range(4), actions]), agent.log_prob(observed, actions, masks), 1e-5)


@probe(
    "The entropy of a masked policy is that of its legal actions: −Σ p log p",
    "maskable_ppo",
    "probs",
    "entropy",
)
def mask_entropy(a, s):
    agent, observed, masks, p = _fresh(a, s)
    expected = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=1)
    return Check(expected, agent.entropy(observed, masks), 1e-5)


@probe("No illegal action is taken in training", "maskable_ppo|masked_dqn")
def mask_in_training(a, s):
    illegal = {}
    for name in ("maskable_ppo", "masked_dqn"):
        if name in a.offers:
            seen = Seen()
            trained(a, name, _three(), s, 600, seen=seen)
            illegal[name] = seen.illegal + (not seen.actions)
    return Check(dict.fromkeys(illegal, 0), illegal, 0)


@probe(
    "No illegal action is taken in an evaluation, nor predicted", "maskable_ppo|masked_dqn", "evaluate_masked"
)
def mask_in_evaluation(a, s):
    illegal, world = {}, _three(-1.0)
    for name in ("maskable_ppo", "masked_dqn"):
        if name not in a.offers:
            continue
        # What is tried costs, so that a greedy choice that ignores the mask is the action that never was.
        agent, seen = trained(a, name, world, s, 600), Seen()
        agent.evaluate(world, 3, deterministic=False, seen=seen)
        action, _ = agent.predict(np.repeat(world.seen(), 64, axis=0), False, mask=np.array([MASK] * 64))
        illegal[name] = seen.illegal + int(np.sum(np.ravel(action) == 1)) + (not seen.actions)
    return Check(dict.fromkeys(illegal, 0), illegal, 0)


@probe("The best next action is sought among the legal ones: Q = −1/(1 − γ)", "masked_dqn", "q_values")
def mask_in_target(a, s):
    # The illegal action is never tried: its output stays near 0, above what any legal one is worth.
    world = loop(-1.0, limit=s.limit, mask=((True, False),))
    return Check(-1 / (1 - s.gamma), q_values(a, "masked_dqn", world, s)[0, 0], 0.15)
