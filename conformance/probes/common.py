"""Settings with which tiny environments are learned quickly, alike for every library."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from conformance.worlds import World, loop

BOX = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

V_LEARNERS = ("ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo")
Q_LEARNERS = ("dqn", "qrdqn", "pqn")
ACTOR_CRITICS = ("sac", "td3", "tqc")

CHUNKS = dict(n_envs=4, n_steps=32, learning_rate=1e-2, gae_lambda=0.95, ent_coef=0.0)
ON_POLICY = dict(
    ppo=CHUNKS | dict(batch_size=128, n_epochs=10),
    maskable_ppo=CHUNKS | dict(batch_size=128, n_epochs=10),
    recurrent_ppo=CHUNKS | dict(batch_size=64, n_epochs=10),
    a2c=CHUNKS | dict(n_steps=4),
    trpo=CHUNKS | dict(n_critic_updates=20),
)
REPLAYED = dict(learning_rate=1e-2, buffer_size=2000, learning_starts=100, batch_size=64)
Q_LEARNING = REPLAYED | dict(
    target_update_interval=10, tau=1.0, exploration_initial_eps=1.0, exploration_final_eps=1.0
)
PARALLEL = dict(
    n_envs=4, n_steps=8, learning_rate=1e-2, exploration_initial_eps=1.0, exploration_final_eps=1.0
)
OFF_POLICY = REPLAYED | dict(learning_rate=5e-3, tau=0.1)
STEPS = dict(
    a2c=5000, trpo=3000, recurrent_ppo=2500, pqn=6000, dqn=1000, qrdqn=1500, sac=700, td3=700, tqc=900
)  # fmt: skip


def settings_of(algorithm: str) -> dict[str, Any]:
    """The settings for an algorithm by its name here."""
    if algorithm in ON_POLICY:
        return dict(ON_POLICY[algorithm])
    if algorithm == "pqn":
        return dict(PARALLEL)
    return dict(Q_LEARNING if algorithm in (*Q_LEARNERS, "masked_dqn") else OFF_POLICY)


def trained(
    adapter: Any, algorithm: str, world: World, setting: Any, steps: int | None = None, **more: Any
) -> Any:
    """An agent that has learned; `more` are settings that differ, or `seen` and `vector`."""
    given = settings_of(algorithm) | dict(gamma=setting.gamma, seed=setting.seed) | more
    agent = adapter.agent(algorithm, world, **given)
    agent.learn(STEPS.get(algorithm, 3000) if steps is None else steps)
    return agent


def state_values(adapter: Any, algorithm: str, world: World, setting: Any, **more: Any) -> np.ndarray:
    """V `[S]` as learned."""
    return np.ravel(trained(adapter, algorithm, world, setting, **more).values(world.seen()))


def q_values(adapter: Any, algorithm: str, world: World, setting: Any, **more: Any) -> np.ndarray:
    """Q `[S, A]` as learned."""
    return np.asarray(trained(adapter, algorithm, world, setting, **more).q_values(world.seen()))


def action_value(adapter: Any, algorithm: str, world: World, setting: Any, **more: Any) -> float:
    """Q(s, a) of the first state, the mean over some actions (the world rewards all alike)."""
    agent = trained(adapter, algorithm, world, setting, **more)
    actions = np.linspace(-0.6, 0.6, 5, dtype=np.float32)[:, None]
    return float(np.mean(agent.action_values(np.repeat(world.seen()[:1], 5, axis=0), actions)))


def box_loop(ends: str = "", limit: int | None = None, reward: float = 1.0) -> World:
    """One state with an action in [−1, 1] that changes nothing."""
    return loop(reward, ends, limit, BOX)
