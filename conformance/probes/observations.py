"""Observations of other kinds than one row of numbers."""

from __future__ import annotations

import dataclasses

from conformance.probe import alike, each, probe
from conformance.probes.common import q_values, state_values
from conformance.worlds import World, line, values


def _line(kind: str) -> World:
    return line((1, 2, 0), (1.0, 0.0, 3.0), (False, False, True), (False,) * 3, (0.5, 0.25, 0.25), kind=kind)


def _both(a, s, kind):
    world = _line(kind)
    expected = values(dataclasses.replace(world, kind="box"), s.gamma)

    def ask(name):
        if name == "dqn":
            return q_values(a, name, world, s).mean(1)
        return state_values(a, name, world, s)

    return alike(each(a, ("ppo", "dqn"), ask), expected, 0.2)


@probe("Dict observations: every key is seen, values are exact", "ppo|dqn", "values|q_values", "dict")
def dict_observations(a, s):
    return _both(a, s, "dict")


@probe(
    "Discrete observations: every state has its own value, values are exact",
    "ppo|dqn",
    "values|q_values",
    "discrete_observations",
)
def discrete_observations(a, s):
    return _both(a, s, "discrete")
