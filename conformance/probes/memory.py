"""Recurrent policies: what they remember, and when they forget."""

from __future__ import annotations

import numpy as np

from conformance.probe import Check, probe
from conformance.probes.common import settings_of, trained
from conformance.worlds import World


def _cue() -> World:
    """The first observation tells which action the second step pays; the second observation tells nothing."""
    table = lambda *rows: tuple((x, y) for x, y in rows)
    return World(
        table((2, 2), (3, 3), (0, 0), (0, 0)), table((0.0, 0.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),
        table((False, False), (False, False), (True, True), (True, True)), table(*((False, False),) * 4),
        (0.5, 0.5, 0.0, 0.0), observations=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]],
    )  # fmt: skip


@probe("An episode's start zeroes the memory: what it was before changes nothing", "recurrent_ppo", "predict")
def memory_is_zeroed_at_starts(a, s):
    world = _cue()
    agent = a.agent("recurrent_ppo", world, **settings_of("recurrent_ppo"), gamma=s.gamma, seed=s.seed)
    first = world.seen()[:1]
    state, start = None, np.array([True])
    for row in (1, 2, 3):
        _, state = agent.predict(world.seen()[row : row + 1], True, state=state, start=start)
        start = np.array([False])
    _, fresh = agent.predict(first, True, state=None, start=np.array([True]))
    _, again = agent.predict(first, True, state=state, start=np.array([True]))
    _, kept = agent.predict(first, True, state=state, start=np.array([False]))
    apart = lambda x, y: np.abs(a.flat(x) - a.flat(y)).max()
    got = {"after a start": apart(again, fresh), "without one": float(apart(kept, fresh) > 1e-4)}
    return Check({"after a start": 0.0, "without one": 1.0}, got, 1e-6)


@probe("A cue of the first step is remembered in the second: the return is 1", "recurrent_ppo", "predict")
def memory_is_learned(a, s):
    world = _cue()
    agent = trained(a, "recurrent_ppo", world, s, 6000, gamma=0.9)
    got = []
    for cue in (0, 1):
        _, state = agent.predict(world.seen()[cue : cue + 1], True, state=None, start=np.array([True]))
        action, _ = agent.predict(world.seen()[2:3], True, state=state, start=np.array([False]))
        got.append(int(np.ravel(action)[0]))
    return Check([0, 1], got, 0)
