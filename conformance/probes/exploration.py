"""How far and how often behaviour departs from the policy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from conformance.probe import Check, probe
from conformance.probes.common import OFF_POLICY, Q_LEARNING, trained
from conformance.worlds import Seen, loop

STILL = dict(learning_rate=1e-9)
"""A policy that does not move while it is watched."""


@probe(
    "TD3's exploration noise σ is a share of half the Box's width (as in its authors' code)", "td3", "noise"
)
def noise_scale(a, s):
    sigma, half = 0.1 * s.seed, 5.0
    world = loop(limit=4, action_space=gym.spaces.Box(-half, half, (1,), np.float32))
    seen = Seen()
    trained(
        a, "td3", world, s, 1000, seen=seen, **OFF_POLICY | STILL | dict(noise=sigma, learning_starts=100)
    )
    late = np.ravel(seen.actions)[200:]
    return Check(sigma * half, late.std(), 0.12 * sigma * half)


@probe("With probability ε the action is uniform over all of them", "dqn", "predict")
def epsilon_is_the_share_of_random_actions(a, s):
    epsilon, n = (0.4, 0.6)[s.seed - 1], 4
    world, seen = loop(limit=4, action_space=gym.spaces.Discrete(n)), Seen()
    more = Q_LEARNING | STILL | dict(exploration_initial_eps=epsilon, exploration_final_eps=epsilon)
    trained(a, "dqn", world, s, 2000, seen=seen, **more)
    late = np.ravel(seen.actions)[200:].astype(int)
    return Check(1 - epsilon + epsilon / n, np.bincount(late).max() / len(late), 0.06)


@probe("Actions before learning are uniform over the Box", "sac", "box")
def warm_up_covers_the_box(a, s):
    low, high = np.array([-2.0, 0.0], np.float32), np.array([6.0, 1.0], np.float32)
    world, seen = loop(limit=4, action_space=gym.spaces.Box(low, high)), Seen()
    trained(a, "sac", world, s, 1010, seen=seen, **OFF_POLICY | dict(learning_starts=1000))
    early = (np.array(seen.actions).reshape(-1, 2)[:1000] - low) / (high - low)
    return Check(
        {"mean": [0.5] * 2, "std": [12**-0.5] * 2}, {"mean": early.mean(0), "std": early.std(0)}, 0.045
    )
