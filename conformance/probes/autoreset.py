"""Gymnasium's vector environments reset themselves in three ways; the value of a cut state is the same in all."""

from __future__ import annotations

from conformance.probe import Check, probe
from conformance.probes.common import state_values
from conformance.probes.ends import two_states
from conformance.worlds import values


def _with(a, s, mode):
    world = two_states()
    return Check(values(world, s.gamma), state_values(a, "ppo", world, s, vector=mode), 0.25)


@probe("AutoresetMode.NEXT_STEP: the resetting step is no sample, V is exact", "ppo", "values", "next_step")
def autoreset_next_step(a, s):
    return _with(a, s, "NextStep")


@probe("AutoresetMode.SAME_STEP: the state reached is in the infos, V is exact", "ppo", "values", "same_step")
def autoreset_same_step(a, s):
    return _with(a, s, "SameStep")


@probe(
    "AutoresetMode.DISABLED: ended environments are reset by the learner, V is exact",
    "ppo",
    "values",
    "disabled",
)
def autoreset_disabled(a, s):
    return _with(a, s, "Disabled")
