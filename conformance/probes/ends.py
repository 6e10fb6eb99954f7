"""What follows the end of an episode: nothing where it terminated, the value of the state reached where it was cut."""

from __future__ import annotations

import numpy as np

from conformance.probe import Check, alike, each, probe
from conformance.probes.common import (
    ACTOR_CRITICS,
    Q_LEARNERS,
    V_LEARNERS,
    action_value,
    box_loop,
    q_values,
    state_values,
)
from conformance.worlds import World, action_values, line, loop, values

MEMORYLESS = V_LEARNERS[:-1]
"""Whose V is of the observation alone: with memory the value of a state that no episode begins in is not asked so."""
V, Q, C = "|".join(V_LEARNERS), "|".join(Q_LEARNERS), "|".join(ACTOR_CRITICS)


def two_states() -> World:
    """Either state is the start and leads to the second, where the episode is cut; only the second one pays."""
    return line((1, 1), (0.0, 2.0), (False, False), (True, True), (0.5, 0.5))


def _v(a, s, world, expected, tolerance=0.12, names=V_LEARNERS, **more):
    return alike(each(a, names, lambda name: state_values(a, name, world, s, **more)), expected, tolerance)


def _q(a, s, world, expected, tolerance=0.12, **more):
    return alike(each(a, Q_LEARNERS, lambda name: q_values(a, name, world, s, **more)), expected, tolerance)


def _c(a, s, world, expected, tolerance=0.15):
    return alike(
        each(a, ACTOR_CRITICS, lambda name: action_value(a, name, world, s, **_quiet(name))),
        expected,
        tolerance,
    )


def _quiet(name: str) -> dict:
    """Nothing is paid for entropy, so that Q is the discounted reward alone."""
    return dict(ent_coef=0.0) if name in ("sac", "tqc") else {}


@probe("V at a time limit counts what would have followed: r/(1 − γ)", V, "values")
def truncation_bootstraps_v(a, s):
    return _v(a, s, loop(limit=s.limit), [1 / (1 - s.gamma)])


@probe("V of a state that terminates at once is its reward", V, "values")
def termination_ends_v(a, s):
    return _v(a, s, loop(ends="terminated"), [1.0])


@probe("Terminated and truncated in one step is an end: V is the reward", V, "values")
def both_flags_end_v(a, s):
    return _v(a, s, loop(ends="both"), [1.0])


@probe(
    "A cut episode is completed with V of the state reached, not of the one that follows the reset",
    V,
    "values",
)
def true_successor_v(a, s):
    return _v(a, s, two_states(), values(two_states(), s.gamma), 0.25, MEMORYLESS)


@probe("The end of a chunk is no end of an episode: V is r/(1 − γ)", V, "values")
def chunk_end_bootstraps_v(a, s):
    return _v(a, s, loop(), [1 / (1 - s.gamma)], names=MEMORYLESS, n_steps=8, n_envs=16)


@probe("V of a chain of states solves v = r + γPv", V, "values")
def chain_values(a, s):
    world = line(
        (1, 2, 3, 4, 0), (1.0, 0.0, -1.0, 0.5, 2.0), (False,) * 4 + (True,), (False,) * 5, (0.6, 0.4, 0, 0, 0)
    )
    return _v(a, s, world, values(world, s.gamma), 0.2, MEMORYLESS)


@probe("Q at a time limit counts what would have followed: r/(1 − γ)", Q, "q_values")
def truncation_bootstraps_q(a, s):
    return _q(a, s, loop(limit=s.limit), [[1 / (1 - s.gamma)] * 2])


@probe("Q of an action that terminates is its reward", Q, "q_values")
def termination_ends_q(a, s):
    return _q(a, s, loop(ends="terminated"), [[1.0] * 2])


@probe("Terminated and truncated in one step is an end: Q is the reward", Q, "q_values")
def both_flags_end_q(a, s):
    return _q(a, s, loop(ends="both"), [[1.0] * 2])


@probe(
    "A cut episode is completed with Q of the state reached, not of the one that follows the reset",
    Q,
    "q_values",
)
def true_successor_q(a, s):
    return _q(a, s, two_states(), action_values(two_states(), s.gamma), 0.25)


@probe("Q of a small decision process is that of value iteration, whatever acted", Q, "q_values")
def optimal_q(a, s):
    world = World(
        ((1, 2), (0, 2), (0, 1)), ((0.0, 0.5), (1.0, -1.0), (2.0, 0.0)),
        ((False, False), (False, True), (False, False)), ((False, False),) * 3, (0.4, 0.3, 0.3), limit=20,
    )  # fmt: skip
    ask = lambda name: q_values(a, name, world, s, **({"q_lambda": 0.0} if name == "pqn" else {}))
    return alike(each(a, Q_LEARNERS, ask), action_values(world, s.gamma), 0.3)


@probe(
    "n-step targets stop at a cut, are completed there, and take no reward of the next episode",
    "dqn",
    "q_values",
    "n_step",
)
def n_step_stops_at_cuts(a, s):
    # 0 → 1 → 2 → 3, cut on the way to 3; episodes that start in 3 stay there and are paid.
    world = line(
        (1, 2, 3, 3), (1.0, 0.0, 0.0, 1.0), (False,) * 4, (False, False, True, True), (0.5, 0.0, 0.0, 0.5)
    )
    return Check(action_values(world, s.gamma), q_values(a, "dqn", world, s, n_step=3, steps=1500), 0.15)


@probe("n-step targets stop at a terminated step", "dqn", "q_values", "n_step")
def n_step_stops_at_ends(a, s):
    world = line((1, 2, 0), (0.0, 1.0, 3.0), (False, True, True), (False,) * 3, (0.5, 0.0, 0.5))
    q = np.asarray(q_values(a, "dqn", world, s, n_step=3, steps=1500))
    return Check(action_values(world, s.gamma), q, 0.15)


@probe("Q(s, a) of an actor-critic at a time limit counts what would have followed", C, "action_values")
def truncation_bootstraps_actor_critic(a, s):
    return _c(a, s, box_loop(limit=s.limit), 1 / (1 - s.gamma))


@probe("Q(s, a) of an actor-critic where the episode terminates is the reward", C, "action_values")
def termination_ends_actor_critic(a, s):
    return _c(a, s, box_loop("terminated"), 1.0)
