"""What must come out the same: a seed, a file, a run that went on, a run that was looked at."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from conformance.probe import Check, each, probe
from conformance.probes.common import box_loop, settings_of, trained
from conformance.worlds import World

NAMES = ("ppo", "dqn", "sac", "trpo", "recurrent_ppo", "qrdqn")
STEPS = dict(ppo=512, trpo=512, recurrent_ppo=512, dqn=400, qrdqn=400, sac=200)


def _world(name: str) -> World:
    """Three states with random starts; what is done decides where one goes, so that actions matter."""
    if name == "sac":
        return box_loop(limit=5)
    return World(
        ((1, 2), (0, 2), (0, 1)), ((0.0, 0.5), (1.0, -1.0), (2.0, 0.0)), 
        ((False, False), (False, True), (False, False)), ((False, False),) * 3, (0.4, 0.3, 0.3), limit=6,
    )  # fmt: skip


def _run(a, name, s, **more):
    return trained(a, name, _world(name), s, STEPS[name], **more)


def _apart(x, y):
    return np.abs(np.asarray(x, float) - np.asarray(y, float)).max()


@probe("The same seed gives the same parameters", "ppo|dqn|sac|trpo|recurrent_ppo|qrdqn", "parameters")
def seeds_repeat(a, s):
    found = each(a, NAMES, lambda n: _apart(_run(a, n, s).parameters(), _run(a, n, s).parameters()))
    return Check(dict.fromkeys(found, 0.0), found, 0)


@probe("Another seed gives other parameters", "ppo|dqn|sac|trpo|recurrent_ppo|qrdqn", "parameters")
def seeds_differ(a, s):
    other = lambda n: _apart(_run(a, n, s).parameters(), _run(a, n, s, seed=s.seed + 10).parameters())
    found = each(a, NAMES, lambda n: float(other(n) > 1e-4))
    return Check(dict.fromkeys(found, 1.0), found, 0)


@probe(
    "A saved and loaded model predicts what it did", "ppo|dqn|sac|trpo|recurrent_ppo|qrdqn", "save", "predict"
)
def saved_model_predicts_alike(a, s):
    def apart(name):
        agent, seen = _run(a, name, s), _world(name).seen()
        with tempfile.TemporaryDirectory() as folder:
            loaded = agent.reloaded(str(Path(folder) / "model"))
        return _apart(agent.predict(seen, True)[0], loaded.predict(seen, True)[0])

    found = each(a, NAMES, apart)
    return Check(dict.fromkeys(found, 0.0), found, 0)


@probe("A saved and loaded model has the values it had", "ppo|dqn", "save", "values|q_values")
def saved_model_has_its_values(a, s):
    def apart(name):
        agent, seen = _run(a, name, s), _world(name).seen()
        ask = lambda x: x.values(seen) if name == "ppo" else x.q_values(seen)
        with tempfile.TemporaryDirectory() as folder:
            loaded = agent.reloaded(str(Path(folder) / "model"))
        return _apart(ask(agent), ask(loaded))

    found = each(a, ("ppo", "dqn"), apart)
    return Check(dict.fromkeys(found, 0.0), found, 1e-6)


@probe(
    "A run that was interrupted and resumed ends where the uninterrupted one does", "ppo|dqn|sac", "resume"
)
def resumed_run_is_the_same(a, s):
    def apart(name):
        given = settings_of(name) | dict(gamma=s.gamma, seed=s.seed)
        with tempfile.TemporaryDirectory() as folder:
            broken = a.interrupted(name, _world(name), STEPS[name], folder, **given)
        return _apart(broken, _run(a, name, s).parameters())

    found = each(a, ("ppo", "dqn", "sac"), apart)
    return Check(dict.fromkeys(found, 0.0), found, 0)


def _looked_at(a, s, deterministic):
    """How far apart runs are that were evaluated between their halves, and not."""

    def apart(name):
        ends = []
        for looks in (False, True):
            agent = _run(a, name, s)
            if looks:
                agent.evaluate(_world(name), 3, deterministic=deterministic)
            agent.learn(STEPS[name])
            ends.append(agent.parameters())
        return _apart(*ends)

    found = each(a, ("ppo", "dqn", "sac"), apart)
    return Check(dict.fromkeys(found, 0.0), found, 0)


@probe(
    "Evaluating the deterministic policy between two halves of a run changes nothing in it",
    "ppo|dqn|sac",
    "parameters",
    "continues",
    "evaluate",
)
def evaluation_changes_nothing(a, s):
    return _looked_at(a, s, True)


@probe(
    "Evaluating by sampled actions between two halves of a run changes nothing in it",
    "ppo|dqn|sac",
    "parameters",
    "continues",
    "evaluate",
)
def sampled_evaluation_changes_nothing(a, s):
    return _looked_at(a, s, False)
