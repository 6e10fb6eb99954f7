"""Target copies, delays, and what an update does to numbers."""

from __future__ import annotations

import numpy as np

from conformance.probe import Check, each, probe
from conformance.probes.common import (
    BOX,
    OFF_POLICY,
    Q_LEARNING,
    box_loop,
    settings_of,
    trained,
)
from conformance.worlds import World, loop


@probe("Target networks start as copies", "dqn|sac|td3", "targets")
def targets_start_as_copies(a, s):
    def apart(name):
        world = loop(limit=4) if name == "dqn" else box_loop(limit=4)
        online, target = a.agent(name, world, **settings_of(name), gamma=s.gamma, seed=s.seed).targets()
        return np.abs(online - target).max()

    found = each(a, ("dqn", "sac", "td3"), apart)
    return Check(dict.fromkeys(found, 0.0), found, 0)


@probe("DQN's target stays as it is until `target_update_interval`", "dqn", "targets")
def target_waits(a, s):
    more = Q_LEARNING | dict(target_update_interval=100_000)
    world = loop(limit=4)
    fresh = a.agent("dqn", world, **more, gamma=s.gamma, seed=s.seed)
    before = fresh.targets()[1].copy()
    fresh.learn(300)
    online, target = fresh.targets()
    moved = {"target": np.abs(target - before).max(), "online": float(np.abs(online - before).max() > 1e-3)}
    return Check({"target": 0.0, "online": 1.0}, moved, 0)


@probe("After one update SAC's target is (1 − τ)·old + τ·new", "sac", "targets")
def target_moves_by_tau(a, s):
    tau, world = (0.25, 0.6)[s.seed - 1], box_loop(limit=4)
    more = OFF_POLICY | dict(tau=tau, learning_starts=100, learning_rate=1e-2)
    old = a.agent("sac", world, **more, gamma=s.gamma, seed=s.seed).targets()[1].copy()
    for extra in (0, 1, 2):
        agent = a.agent("sac", world, **more, gamma=s.gamma, seed=s.seed)
        agent.learn(100 + extra)
        online, target = agent.targets()
        if np.abs(online - old).max() > 0:
            break
    # The share of the way that the target went: one number, where it followed at all.
    way = np.dot(target - old, online - old) / np.dot(online - old, online - old)
    off = np.abs(target - old - tau * (online - old)).max()
    return Check({"share": tau, "off": 0.0}, {"share": way, "off": off}, 1e-3)


@probe(
    "With `policy_delay` 5 TD3's actor moves in every fifth update of the critics",
    "td3",
    "actor",
    "continues",
)
def policy_delay(a, s):
    world = box_loop(limit=4)
    more = OFF_POLICY | dict(learning_starts=100, policy_delay=5)
    # A reward of actions, or the actor's gradient may vanish.
    world = loop(limit=4, action_space=BOX, target=0.5)
    agent = a.agent("td3", world, **more, gamma=s.gamma, seed=s.seed)
    agent.learn(102)
    moved, critics = [], []
    for _ in range(10):
        actor, critic = agent.actor().copy(), agent.targets()[0].copy()
        agent.learn(1)
        moved.append(np.abs(agent.actor() - actor).max() > 0)
        critics.append(np.abs(agent.targets()[0] - critic).max() > 0)
    return Check({"actor": 2, "critics": 10}, {"actor": sum(moved), "critics": sum(critics)}, 0)


@probe("A last minibatch of a single row leaves all numbers finite", "ppo", "parameters")
def single_row_minibatch(a, s):
    agent = trained(a, "ppo", loop(limit=4), s, 68, n_envs=1, n_steps=17, batch_size=16)
    return Check(1.0, float(np.isfinite(agent.parameters()).all()), 0)


@probe(
    "Normalising advantages does not change which action is better: their scale is the whole chunk's",
    "ppo",
    "probs",
    "normalize_advantage",
)
def advantage_scale_of_the_chunk(a, s):
    # Ten starts that look alike. The second action pays 1 in nine of them and −20 in the tenth: worse on average, yet
    # better in most pairs of rows, which is all that minibatches of two can show once each has scale 1.
    bad = -20.0 if s.seed == 1 else -30.0
    rewards = tuple((0.0, 1.0 if i < 9 else bad) for i in range(10))
    table = lambda x: ((x,) * 2,) * 10
    world = World(table(0), rewards, table(True), table(False), (0.1,) * 10, observations=np.ones((10, 1)))
    more = dict(n_envs=8, n_steps=64, batch_size=2, n_epochs=2, learning_rate=1e-3, normalize_advantage=True)
    agent = trained(a, "ppo", world, s, 8 * 64 * 6, **more)
    better = float(np.asarray(agent.probs(world.seen()[:1], None))[0, 0] > 0.5)
    return Check({"better action is likelier": 1.0}, {"better action is likelier": better}, 0)


def _tanh_entropy() -> float:
    """The largest entropy that a = tanh(u), u ~ N(0, σ²), has: 0.68 at σ = 0.87, a little below the uniform's log 2."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    best = -np.inf
    for sigma in np.linspace(0.3, 2, 171):
        u = np.abs(sigma * points)
        inner = 2 * (np.log(2) - u - np.log1p(np.exp(-2 * u)))  # log(1 − tanh²u)
        best = max(best, 0.5 * np.log(2 * np.pi * np.e * sigma**2) + np.sum(weights * inner))
    return best


@probe(
    "SAC's target pays for entropy: with nothing else, Q = γH/(1 − γ) at temperature 1",
    "sac",
    "action_values",
    "ent_coef",
)
def entropy_in_the_target(a, s):
    world = box_loop(limit=s.limit, reward=0.0)
    agent = trained(a, "sac", world, s, 1200, ent_coef=1.0)
    actions = np.linspace(-0.6, 0.6, 5, dtype=np.float32)[:, None]
    q = float(np.mean(agent.action_values(np.repeat(world.seen(), 5, axis=0), actions)))
    return Check(s.gamma * _tanh_entropy() / (1 - s.gamma), q, 0.2)
