"""Golden parameters: what each algorithm's policy is after a few tiny updates, in each loop that can run it.

A case is a preset (or a composition), an environment, tiny settings and a number of iterations, chosen so that all it
adds to its neighbours happens within these iterations: targets are moved, delayed actors step, rings wrap around.
`make_updates.py` records what `run` gives; `tests/algorithms/test_golden_updates.py` compares. Everything that the
two need of the library is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actrix.algorithms.presets import PRESETS, composed, configure
from actrix.core.types import Spec
from actrix.data.offline import Episode, assemble
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.envs.make import as_host_env
from actrix.run.compiled import CompiledRunner
from actrix.run.offline import OfflineRunner
from actrix.run.stepping import host_runner

FILE = Path(__file__).parent / "updates.safetensors"
LOOPS = ("compiled", "host", "offline")
LARGEST = 4096
"""Of a longer array only so many numbers, evenly spread, are kept."""
OPTION = "jax_disable_most_optimizations"

# ------------------------------------------------------------------ environments


class ToyState(NamedTuple):
    x: jax.Array
    t: jax.Array
    before: jax.Array
    """x one step ago; at an episode's start x itself."""


@dataclasses.dataclass(frozen=True)
class Toy:
    """A point in the plane pushed by the actions, with every kind of spaces; ends outside, cut after six steps.

    It needs no function that another machine's library might round otherwise, but for the noise.
    """

    sees: str = "box"
    """'box', 'dict', 'image', 'frames', 'cells' or 'grid'."""
    does: str = "discrete"
    """'discrete', 'box', 'multidiscrete' or 'multibinary'."""
    masked: bool = False

    @functools.cached_property
    def spec(self) -> Spec:
        box = lambda n: spaces.Box(-np.inf, np.inf, (n,), np.float32)
        observed: Any = {
            "box": box(3),
            "dict": spaces.Dict({"b": spaces.MultiDiscrete([3, 3]), "a": box(2), "c": spaces.Discrete(6)}),
            "image": spaces.Box(0, 255, (5, 5, 2), np.uint8),
            "frames": spaces.Box(0, 255, (2, 5, 5), np.uint8),
            "cells": spaces.Discrete(9),
            "grid": spaces.MultiDiscrete([3, 3]),
        }[self.sees]
        does: Any = {
            "discrete": spaces.Discrete(3),
            "box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
            "multidiscrete": spaces.MultiDiscrete([3, 2]),
            "multibinary": spaces.MultiBinary(2),
        }[self.does]
        sizes = {"discrete": 3, "multidiscrete": 5, "multibinary": 4}
        masks = sizes[self.does] if self.masked else None
        return Spec(observed, does, 6, masks, 2 if self.sees == "frames" else None)

    def reset(self, key):
        x = jax.random.uniform(key, (2,), minval=-0.8, maxval=0.8)
        state = ToyState(x, jnp.zeros((), jnp.int32), x)
        return state, self._observe(state)

    def step(self, key, state, action):
        push = self._push(action)
        x = 0.9 * state.x + 0.4 * push + 0.2 * jax.random.normal(key, (2,))
        terminated = jnp.abs(x[0]) > 1.1
        reward = 1.0 - jnp.sum(x * x) + 0.5 * push[0] * state.x[1] - 1.5 * terminated
        after = ToyState(x, state.t + 1, state.x)
        return after, self._observe(after), reward, terminated, (after.t >= 6) & ~terminated

    def mask(self, state):
        if not self.masked:
            return None
        left, right = state.x[0] > -0.4, state.x[0] < 0.4
        yes = jnp.asarray(True)
        flags = {
            "discrete": [left, yes, right],
            "multidiscrete": [left, yes, right, yes, state.x[1] < 0.3],
            "multibinary": [yes, right, state.x[1] > -0.3, yes],
        }
        return jnp.stack(flags[self.does])

    def _push(self, action):
        if self.does == "discrete":
            return jnp.stack([action - 1.0, 0.3 * (action == 2)])
        if self.does == "box":
            return jnp.stack([action[0] / 2, 2 * action[1] - 1])
        if self.does == "multidiscrete":
            return jnp.stack([action[0] - 1.0, 2.0 * action[1] - 1])
        return 2.0 * action - 1

    def _observe(self, state):
        cell = jnp.clip(jnp.floor(1.5 * state.x + 1.5), 0, 2).astype(jnp.int32)
        if self.sees == "box":
            return jnp.concatenate([state.x, state.t[None] / 6.0])
        if self.sees == "dict":
            return {"a": state.x, "b": cell, "c": jnp.minimum(state.t, 5)}
        if self.sees == "cells":
            return 3 * cell[0] + cell[1]
        if self.sees == "grid":
            return cell
        if self.sees == "frames":
            return jnp.stack([self._frame(state.before), self._frame(state.x)])
        time = jnp.floor(255 * state.t / 6.0)
        return jnp.stack([self._frame(state.x), jnp.full((5, 5), time.astype(jnp.uint8))], axis=-1)

    def _frame(self, x):
        """A spot of light at x."""
        near = jnp.maximum(0, 1 - jnp.abs(jnp.arange(5.0) - 1.6 * (x[:, None] + 1.25)))  # [2, 5]
        return jnp.floor(255 * near[0][:, None] * near[1][None, :]).astype(jnp.uint8)


class Walk(gym.Env):
    """The same kind of task without JAX; ends at random, or is cut after six steps."""

    def __init__(self, sees: str):
        self.sees = sees
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = {"box": box, "cells": spaces.Discrete(9)}[sees]
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.integers(0, 3, 2), 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        self.x = np.clip(self.x + np.array([action - 1, self.np_random.integers(-1, 2)]), 0, 2)
        reward = float(self.x[0] - 0.5 * self.x[1] * (action == 2))
        return self._observe(), reward, bool(self.np_random.random() < 0.2), self.t >= 6, {}

    def _observe(self):
        return int(3 * self.x[0] + self.x[1]) if self.sees == "cells" else (self.x - 1).astype(np.float32)


@functools.cache
def environment(name: str) -> Any:
    """'toy:SEES:DOES[:masked]', or an id of the library's own JAX environments, which ends after 12 steps."""
    kind, *words = name.split(":")
    if kind == "toy":
        return Toy(words[0], words[1], "masked" in words)
    return jax_env(name, max_episode_steps=12)


@functools.cache
def host_environment(name: str, num_envs: int) -> Any:
    """One for all runners, which start it anew: it compiles for itself. 'walk:SEES' has rows that are no samples."""
    kind, *words = name.split(":")
    if kind == "walk":
        makers = [functools.partial(Walk, *words)] * num_envs
        return as_host_env(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP))
    return HostJax(environment(name), num_envs)


@functools.cache
def dataset(name: str) -> Any:
    """'data:DOES': episodes of random numbers. Every other one terminates; the third observation is constant."""
    rng = np.random.default_rng(0)
    space: Any = {
        "discrete": spaces.Discrete(3),
        "box": Toy("box", "box").spec.action_space,
        "multidiscrete": spaces.MultiDiscrete([3, 2]),
    }[name.split(":")[1]]
    episodes = []
    for i, n in enumerate((5, 1, 7, 3)):
        obs = rng.normal([1, -2, 3], [1, 5, 0], size=(n + 1, 3))
        if isinstance(space, spaces.Box):
            action: Any = rng.uniform(space.low, space.high, (n, *space.shape))
        else:
            action = rng.integers(getattr(space, "nvec", getattr(space, "n", None)), size=(n, *space.shape))
        ends = (np.arange(n) == n - 1) & (i % 2 == 0)
        episodes.append(Episode(obs, action.astype(space.dtype), rng.normal(size=n), ends, np.zeros(n, bool)))
    return assemble(episodes, Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), space))


# ------------------------------------------------------------------ cases


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run, and where."""

    preset: str
    """A name of `PRESETS`, or 'actor-critic' with critic, actor and data among the settings."""
    env: str
    settings: dict[str, Any]
    iterations: int = 5
    loops: tuple[str, ...] = ("compiled", "host")
    num_envs: int = 2
    seed: int = 3
    total_steps: int = 120
    """Of the schedules, which are thus well under way."""
    reference: int | None = None
    """Seed of a policy that is given as the reference."""
    slow: bool = False
    """Repeats what others show."""


BOX, MOVES, CELLS = "toy:box:discrete", "toy:box:box", "toy:cells:discrete"
NET: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}
CHUNK: dict[str, Any] = NET | {"n_steps": 8, "learning_rate": 0.01}
WHOLE: dict[str, Any] = NET | {"n_steps": None, "learning_rate": 0.01}
BATCHES: dict[str, Any] = CHUNK | {"batch_size": 8, "n_epochs": 2}
TRAJECTORIES: dict[str, Any] = CHUNK | {"buffer_size": 48, "learning_starts": 32, "replay_ratio": 2}
RING: dict[str, Any] = NET | {
    "buffer_size": 40, "learning_starts": 16, "batch_size": 8, "train_freq": 3, "gradient_steps": 2,
    "learning_rate": 0.01,
}  # fmt: skip
"""Full and wrapped around after four chunks."""
Q: dict[str, Any] = RING | {"target_update_interval": 10, "exploration_fraction": 0.5}
SUPPORT: dict[str, Any] = {"n_atoms": 7, "v_min": -4.0, "v_max": 4.0}
QUANTILES: dict[str, Any] = {"n_quantiles": 5}
PATH: dict[str, Any] = RING | {"tau": 0.1}
TABLE: dict[str, Any] = {"train_freq": 4, "learning_rate": 0.2}

CASES: dict[str, Case] = {
    "reinforce": Case("reinforce", BOX, WHOLE),
    "vpg": Case("vpg", BOX, CHUNK | {"n_critic_updates": 3, "critic_learning_rate": 0.02}),
    "qac": Case("qac", BOX, CHUNK | {"n_critic_updates": 2}),
    "tdac": Case("tdac", BOX, CHUNK),
    "a2c": Case("a2c", BOX, CHUNK),
    "ppo": Case("ppo", BOX, BATCHES),
    "ppo-kl": Case("ppo-kl", BOX, BATCHES | {"kl_target": 0.002}),
    "trpo": Case("trpo", BOX, CHUNK | {"batch_size": 8, "n_critic_updates": 2, "target_kl": 0.5}),
    "npg": Case("npg", BOX, CHUNK | {"batch_size": 8, "n_critic_updates": 2, "max_step": 0.3}),
    "acktr": Case("acktr", BOX, CHUNK | {"n_critic_updates": 2, "max_step": 0.08}),
    "off-pac": Case("off-pac", BOX, TRAJECTORIES),
    "v-trace": Case("v-trace", BOX, CHUNK | {"lag": 2}),
    "acer": Case("acer", BOX, TRAJECTORIES | {"trust_region": 0.01}),
    "pgql": Case("pgql", BOX, TRAJECTORIES | {"ent_coef": 0.1}),
    "dqn": Case("dqn", BOX, Q),
    "c51": Case("c51", BOX, Q | SUPPORT),
    "qr-dqn": Case("qr-dqn", BOX, Q | QUANTILES),
    "iqn": Case("iqn", BOX, Q | QUANTILES | {"n_policy_quantiles": 4, "quantile_dim": 6}),
    "rainbow": Case("rainbow", BOX, Q | SUPPORT | {"n_steps": 3}),
    "pqn": Case("pqn", BOX, BATCHES),
    "soft-q": Case("soft-q", BOX, Q),
    "ddpg": Case("ddpg", MOVES, PATH),
    "td3": Case("td3", MOVES, PATH),
    "sac": Case("sac", MOVES, PATH),
    "discrete-sac": Case("discrete-sac", BOX, PATH),
    "tqc": Case("tqc", MOVES, PATH | {"n_quantiles": 5, "top_quantiles_to_drop_per_net": 1}),
    "bc": Case("bc", MOVES, RING),
    "cql": Case("cql", MOVES, PATH | {"cql_actions": 2}),
    "iql": Case("iql", MOVES, PATH),
    "td3-bc": Case("td3-bc", MOVES, PATH),
    "droq": Case("droq", MOVES, PATH | {"gradient_steps": 4, "policy_delay": 4}),
    "mc": Case("mc", CELLS, {}),
    "td": Case("td", CELLS, TABLE),
    "td-lambda": Case("td-lambda", CELLS, TABLE),
    "sarsa": Case("sarsa", CELLS, TABLE),
    "expected-sarsa": Case("expected-sarsa", CELLS, TABLE),
    "sarsa-lambda": Case("sarsa-lambda", CELLS, TABLE),
    "q-learning": Case("q-learning", CELLS, TABLE),
    "double-q": Case("double-q", CELLS, TABLE),
    "q-lambda": Case("q-lambda", CELLS, TABLE),
    "tree-backup": Case("tree-backup", CELLS, TABLE),
    "cpi": Case("cpi", CELLS, {"gamma": 0.8}),
    "td-lambda-ac": Case("td-lambda-ac", BOX, NET | {"train_freq": 4, "learning_rate": 0.02}),
    "stream-ac": Case("stream-ac", BOX, NET | {"train_freq": 4}),
}
assert set(PRESETS) == set(CASES)


def vary(base: str, settings: dict[str, Any] = {}, **fields: Any) -> Case:  # noqa: B006
    """A case with other settings, or another environment."""
    case = CASES[base]
    return dataclasses.replace(case, settings=case.settings | settings, **fields)


def compose(
    critic: str, actor: str, data: str = "on-policy", env: str = BOX, slow: bool = False, **settings: Any
) -> Case:
    """A free composition of answers."""
    common = (TRAJECTORIES if data == "replay" else CHUNK) | {"critic": critic, "actor": actor, "data": data}
    return Case("actor-critic", env, common | settings, slow=slow)


def net(**kwargs: Any) -> dict[str, Any]:
    """Another tiny network."""
    return {"policy_kwargs": {"net_arch": [8], **kwargs}}


MASKED, CNN = BOX + ":masked", net(features_extractor_kwargs={"cnn_features": 6})
CELL: dict[str, Any] = {"batch_size": 8, "n_epochs": 2, "sequence_length": 4}
EPISODES: dict[str, Any] = {"n_steps": None}
SMALL_STEPS: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1}
TOLD: dict[str, Any] = {"ref_kl_coef": 0.3}

CASES |= {
    # PPO, and what all stochastic actor-critics have
    "ppo-pendulum": vary(
        "ppo",
        {"normalize": True, "clip_range_vf": 0.02, "target_kl": 2e-4, "ent_coef": 0.02, "n_epochs": 3,
         "clip_range": "lin_0.02", "learning_rate": "lin_0.01"},
        env="Pendulum-v1",
    ),
    "ppo-cartpole": vary("ppo", {"normalize_advantage": False, "max_grad_norm": None}, env="CartPole-v1"),
    "ppo-lstm": vary(
        "ppo", CELL | net(cell="lstm", lstm_hidden_size=4) | {"recompute_advantages": True, "learning_rate": 0.03}
    ),
    "ppo-lstm-once": vary("ppo", CELL | net(cell="lstm", lstm_hidden_size=4), slow=True),
    "ppo-gru": vary("ppo", CELL | net(cell="gru", lstm_hidden_size=4) | {"normalize": True}, env="toy:dict:box"),
    "a2c-lstm": vary("a2c", net(cell="lstm", lstm_hidden_size=4), slow=True),
    "reinforce-lstm": vary("reinforce", net(cell="lstm", lstm_hidden_size=4)),
    "ppo-recomputed": vary("ppo", {"recompute_advantages": True}),
    "ppo-reference-reward": vary("ppo", TOLD),
    "ppo-reference-loss": vary("ppo", TOLD | {"ref_kl_in": "loss"}),
    "ppo-reference-given-reward": vary("ppo", TOLD | {"normalize": True}, env=MOVES, reference=5),
    "ppo-reference-given-loss": vary("ppo", TOLD | {"ref_kl_in": "loss", "normalize": True}, env=MOVES, reference=5),
    "ppo-td-lambda": vary("ppo", {"critic": "td-lambda:0.8", "actor": "ppo-clip:0.2:td-error"}),
    "ppo-mc": vary("ppo", EPISODES | {"critic": "mc", "batch_size": 6}),
    "ppo-n-step": vary("ppo", {"critic": "n-step:3"}, slow=True),
    "ppo-vpg": vary("ppo", {"n_critic_updates": 2, "critic_learning_rate": "lin_0.02"}, slow=True),
    "ppo-extractors": vary(
        "ppo", net(share_features_extractor=False, features_extractor_kwargs={"cnn_features": 6}), env="toy:image:box"
    ),
    "ppo-image-critic": vary("vpg", CNN, env="toy:image:discrete"),
    "ppo-dict": vary(
        "ppo", net(activation_fn="silu", ortho_init=False) | {"normalize": True}, env="toy:dict:multidiscrete:masked"
    ),
    "ppo-multibinary": vary("ppo", env="toy:dict:multibinary:masked"),
    "ppo-masked": vary("ppo", env=MASKED),
    "ppo-box": vary("ppo", net(log_std_init=-0.5), env=MOVES, slow=True),
    "ppo-wide": vary("ppo", {"policy_kwargs": {"net_arch": {"pi": [6, 5], "vf": [7]}}}, slow=True),
    "ppo-one-env": vary("ppo", num_envs=1, slow=True),
    "ppo-rows-that-are-no-samples": vary("ppo", {"normalize": True}, env="walk:box", loops=("host",)),
    "ppo-kl-box": vary("ppo-kl", {"initial_beta": 2.0}, env=MOVES, slow=True),
    "a2c-box": vary("a2c", {"learning_rate": "lin_0.01", "ent_coef": 0.01}, env=MOVES),
    "a2c-adam": vary("a2c", {"use_rms_prop": False}, slow=True),
    "a2c-sgd": vary("a2c", SMALL_STEPS, slow=True),
    "a2c-radam": vary("a2c", {"optimizer": "radam"}, iterations=8, slow=True),
    "a2c-masked": vary("a2c", {"normalize_obs": True}, env="toy:box:multidiscrete:masked", slow=True),
    # Forms of ψ, and critics
    "score-moving-average": compose("none", "score:moving-average", n_steps=None),
    "score-optimal": compose("none", "score:optimal", n_steps=None),
    "score-return": compose("none", "score:return", n_steps=None),
    "score-gamma": compose("none", "score:reward-to-go:gamma", n_steps=None, gamma=0.8),
    "score-advantage-gamma": compose("gae:0.9", "score:advantage:gamma", gamma=0.8, env=MASKED, slow=True),
    "score-mc": compose("mc", "score", n_steps=None, env=MOVES, slow=True),
    "score-normalized": compose("none", "score", n_steps=None, normalize=True, env=MOVES),
    "q-mc": compose("q-mc", "score:advantage", n_steps=None),
    "q-n-step": compose("q-n-step:3", "score"),
    "q-td-lambda": compose("q-td-lambda:0.8", "ppo-clip:0.2", env=MASKED, batch_size=8, n_epochs=2),
    # Data of another policy
    "score-is-ordinary": compose("none", "score-is:ordinary", "lag:2", n_steps=None),
    "score-is-weighted": compose("none", "score-is:weighted", "lag:2", n_steps=None),
    "score-is-per-decision": compose("none", "score-is:per-decision", "lag:2", n_steps=None, env=MOVES),
    "mc-is-ordinary": compose("mc-is:ordinary", "score", "lag:2", n_steps=None),
    "mc-is-weighted": compose("mc-is:weighted", "score", "lag:2", n_steps=None),
    "mc-is-per-decision": compose("mc-is:per-decision", "score", "lag:2", n_steps=None, env=MOVES),
    "td-is-lag": compose("td-is", "off-pac", "lag:2", env=MOVES, normalize=True),
    "v-trace-off-pac": compose("v-trace:0.9", "off-pac:2.0:td-error", "lag:2", slow=True),
    "v-trace-replay": compose("v-trace", "score", "replay", env=MOVES, normalize=True),
    "v-trace-lag-reference": compose("v-trace", "score", "lag:1", ref_kl_coef=0.3, env=MASKED),
    "v-trace-reference-loss": compose("v-trace", "score", "replay", ref_kl_coef=0.3, ref_kl_in="loss", slow=True),
    "tree-backup-acer": compose("q-tree-backup:0.9", "acer:1.0:0.01:0.9", "replay"),
    "lambda-acer": compose("q-lambda:0.9", "acer:1.0:0.01:0.9", "replay", slow=True),
    "importance-acer": compose("q-importance:0.9", "acer:1.0:0.01:0.9", "replay", slow=True),
    "retrace-off-pac": compose("q-retrace:0.9", "off-pac:1.5:advantage", "replay", env=MASKED),
    "tree-backup-off-pac": compose("q-tree-backup:0.9", "off-pac", "replay", slow=True),
    "lambda-off-pac": compose("q-lambda:0.9", "off-pac", "replay"),
    "importance-off-pac": compose("q-importance:0.9", "off-pac", "replay"),
    "q-td-off-pac": compose("q-td", "off-pac", "replay", slow=True),
    "acer-lag": compose("q-retrace", "acer:1.0:0.01:0.9", "lag:2", env=MASKED),
    "pgql-masked": vary("pgql", {"normalize": True, "eta": 0.3, "critic": "td-lambda:0.9"}, env=MASKED),
    "acer-rows-that-are-no-samples": vary("acer", env="walk:box", loops=("host",)),
    # Natural gradients
    "trpo-lstm": vary(
        "trpo", net(cell="lstm", lstm_hidden_size=4) | {"sequence_length": 4, "sub_sampling_factor": 2}
    ),
    "trpo-sub-sampling": vary("trpo", {"sub_sampling_factor": 3, "normalize": True}, env=MOVES),
    "trpo-reference": vary("trpo", TOLD | {"ref_kl_in": "loss", "ent_coef": 0.05}, env=MASKED),
    "trpo-image": vary("trpo", CNN, env="toy:image:multidiscrete", slow=True),
    "trpo-mc": compose("mc", "trpo:0.1", env=MOVES, n_steps=None, batch_size=6, n_critic_updates=2, slow=True),
    "npg-gru": vary("npg", net(cell="gru", lstm_hidden_size=4) | {"max_step": "lin_0.3"}, env=MOVES, slow=True),
    "npg-no-critic": compose("none", "npg", n_steps=None, batch_size=None, normalize_advantage=False),
    "acktr-box": vary("acktr", {"normalize": True}, env="toy:dict:box"),
    "acktr-masked": vary("acktr", {"ent_coef": 0.05}, env="toy:box:multidiscrete:masked", slow=True),
    # Q-learning
    "dqn-double": vary("dqn", {"double": True}),
    "dqn-prioritized": vary(
        "dqn", {"prioritized": True, "n_steps": 3, "priority_beta": "lin_0.4_1.0", "gradient_steps": -1}
    ),
    "dqn-dueling": vary("dqn", {"dueling": True, "normalize_obs": True, "tau": 0.3}, env=MASKED),
    "dqn-noisy": vary("dqn", {"noisy": True, "double": True, "gradient_steps": 1}),
    "dqn-one-env": vary("dqn", {"train_freq": 1, "gradient_steps": 1}, num_envs=1, iterations=24),
    "dqn-cartpole": vary("dqn", {"learning_rate": "lin_0.01"}, env="CartPole-v1", slow=True),
    "dqn-rmsprop": vary("dqn", {"optimizer": "rmsprop", "max_grad_norm": 0.5}, slow=True),
    "dqn-image": vary("dqn", CNN, env="toy:image:discrete", slow=True),
    "dqn-frames": vary("dqn", CNN | {"n_steps": 2}, env="toy:frames:discrete"),
    "dqn-dict": vary("dqn", {"normalize_obs": True}, env="toy:dict:discrete:masked"),
    "dqn-expected-sarsa": vary("dqn", {"target": "expected-sarsa", "n_steps": 2}, env=MASKED),
    "dqn-sarsa": vary("dqn", {"target": "sarsa", "n_steps": 2}),
    "dqn-soft": vary("dqn", {"target": "soft", "temperature": "lin_1.0"}, env=MASKED),
    "dqn-boltzmann": vary("dqn", {"exploration": "boltzmann", "temperature": 0.5, "target": "expected-sarsa"}),
    "dqn-rows-that-are-no-samples": vary("dqn", {"n_steps": 2}, env="walk:box", loops=("host",)),
    "c51-double": vary("c51", {"double": True, "prioritized": True, "n_steps": 2, "gradient_steps": 1}, env=MASKED),
    "qr-dqn-dueling": vary("qr-dqn", {"dueling": True, "prioritized": True, "gradient_steps": 1}, slow=True),
    "qr-dqn-double": vary("qr-dqn", {"double": True, "gradient_steps": 1}, env=MASKED),
    "iqn-noisy": vary(
        "iqn", {"noisy": True, "dueling": True, "double": True, "prioritized": True, "gradient_steps": 1}, env=MASKED
    ),
    "rainbow-image": vary("rainbow", CNN, env="toy:frames:discrete", slow=True),
    "pqn-dueling": vary("pqn", {"dueling": True, "normalize_obs": True, "lam": 0.5}, env=MASKED),
    "pqn-dict": vary("pqn", {"exploration": "boltzmann", "optimizer": "adam"}, env="toy:dict:discrete", slow=True),
    # Pathwise actors
    "ddpg-correlated": vary("ddpg", {"noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}),
    "ddpg-quiet": vary("ddpg", {"noise_type": "none", "max_grad_norm": 0.5, "gradient_steps": 1}, slow=True),
    "td3-pendulum": vary("td3", {"normalize_obs": True, "learning_rate": "lin_0.01"}, env="Pendulum-v1"),
    "td3-prioritized": vary("td3", {"prioritized": True, "n_steps": 2}, slow=True),
    "sac-n-step": vary("sac", {"n_steps": 2, "ent_coef": "auto_0.1", "target_entropy": -1.0}),
    "sac-fixed": vary("sac", {"ent_coef": 0.2, "gradient_steps": 1, "normalize_obs": True}, env="toy:dict:box"),
    "sac-prioritized": vary("sac", {"prioritized": True, "priority_beta": "lin_0.4_1.0"}),
    "sac-image": vary("sac", CNN | {"gradient_steps": 1}, env="toy:image:box", slow=True),
    "sac-mean": vary("sac", {"actor_q": "mean", "n_critics": 3, "policy_delay": 2}, slow=True),
    "sac-one-env": vary("sac", {"train_freq": 1, "gradient_steps": -1}, num_envs=1, iterations=24, slow=True),
    "sac-rows-that-are-no-samples": vary("sac", env="walk:box", preset="discrete-sac", loops=("host",), slow=True),
    "discrete-sac-masked": vary("discrete-sac", {"prioritized": True, "gradient_steps": 1}, env=MASKED),
    "tqc-prioritized": vary("tqc", {"prioritized": True, "gradient_steps": 1, "n_critics": 3}, slow=True),
    "droq-discrete": vary("droq", {"discrete": True}, env=MASKED, slow=True),
    # Fixed data
    "bc-online-masked": vary("bc", {"gradient_steps": 1}, env="toy:dict:multidiscrete:masked", slow=True),
    "iql-online-masked": vary("iql", {"prioritized": True, "gradient_steps": 1}, env=MASKED, slow=True),
    "cql-online-discrete": vary("cql", {"discrete": True, "gradient_steps": 1}, env=MASKED, slow=True),
    "bc-data": vary("bc", {"normalize_obs": True}, env="data:box", loops=("offline",)),
    "bc-data-discrete": vary("bc", env="data:multidiscrete", loops=("offline",)),
    "iql-data": vary("iql", {"n_steps": 2, "beta": 1.0, "expectile": 0.8}, env="data:box", loops=("offline",)),
    "iql-data-discrete": vary(
        "iql", net(dropout=0.1, layer_norm=True) | {"prioritized": True, "normalize_obs": True},
        env="data:discrete", loops=("offline",),
    ),
    "cql-data": vary("cql", env="data:box", loops=("offline",)),
    "cql-data-discrete": vary("cql", {"discrete": True, "n_steps": 2}, env="data:discrete", loops=("offline",)),
    "td3-bc-data": vary("td3-bc", env="data:box", loops=("offline",)),
    "dqn-data": vary("dqn", {"prioritized": True, "target_update_interval": 2}, env="data:discrete",
                     loops=("offline",)),
    "sac-data": vary("sac", env="data:box", loops=("offline",), slow=True),
    # Tables
    "mc-every-visit": vary("mc", {"visits": "every", "learning_rate": 0.2}),
    "mc-ordinary": vary("mc", {"importance": "ordinary"}),
    "mc-weighted": vary("mc", {"importance": "weighted"}),
    "mc-per-decision": vary("mc", {"importance": "per-decision"}, env=CELLS + ":masked"),
    "mc-predict": vary("mc", {"predict": True}, reference=5),
    "mc-predict-weighted": vary("mc", {"predict": True, "importance": "weighted"}, reference=5),
    "mc-predict-per-decision": vary("mc", {"predict": True, "importance": "per-decision"}, reference=5, slow=True),
    "td-n-step": vary("td", {"n_steps": 3}, reference=5),
    "td-dutch": vary("td-lambda", {"trace": "dutch"}),
    "td-mean": vary("td", {"learning_rate": None}, env="toy:grid:discrete"),
    "sarsa-n-step": vary("sarsa", {"n_steps": 3}, env=CELLS + ":masked"),
    "sarsa-dutch": vary("sarsa-lambda", {"trace": "dutch"}),
    "sarsa-one-env": vary("sarsa", {"train_freq": 1}, num_envs=1, iterations=20),
    "sarsa-boltzmann": vary("sarsa", {"exploration": "boltzmann", "temperature": "lin_1.0"}, slow=True),
    "expected-sarsa-n-step": vary("expected-sarsa", {"n_steps": 2, "learning_rate": None}),
    "expected-sarsa-boltzmann": vary("expected-sarsa", {"exploration": "boltzmann", "lam": 0.5}),
    "q-learning-masked": vary("q-learning", {"learning_rate": "lin_0.5"}, env=CELLS + ":masked"),
    "q-learning-optimistic": vary("q-learning", {"initial_value": 2.0, "exploration_initial_eps": 0.1}, slow=True),
    "q-learning-frozen-lake": vary("q-learning", {"initial_value": 1.0}, env="FrozenLake-v1"),
    "double-q-masked": vary("double-q", {"learning_rate": None}, env=CELLS + ":masked"),
    "q-lambda-replacing": vary("q-lambda", {"trace": "replacing"}),
    "q-lambda-masked": vary("q-lambda", env=CELLS + ":masked", slow=True),
    "tree-backup-masked": vary("tree-backup", {"n_steps": 2, "learning_rate": None}, env=CELLS + ":masked"),
    "sarsa-lambda-rows-that-are-no-samples": vary("sarsa-lambda", env="walk:cells", loops=("host",)),
    "tree-backup-rows-that-are-no-samples": vary("tree-backup", env="walk:cells", loops=("host",)),
    "cpi-mixing": vary("cpi", {"mixing": 0.3, "tolerance": 0.05}, env=CELLS + ":masked"),
    # Online traces
    "td-lambda-ac-gamma": vary(
        "td-lambda-ac",
        {"gamma_weight": True, "gamma": 0.8, "actor_lam": 0.5, "actor_learning_rate": "lin_0.05", "ent_coef": 0.1},
        env=MOVES,
    ),
    "td-lambda-ac-bounded": vary("td-lambda-ac", {"step": "bounded", "learning_rate": 1.0}, env=MASKED),
    "td-lambda-ac-rows-that-are-no-samples": vary("td-lambda-ac", env="walk:box", loops=("host",)),
    "stream-ac-box": vary("stream-ac", env="toy:dict:box", slow=True),
    "stream-ac-one-env": vary("stream-ac", {"train_freq": 1}, num_envs=1, iterations=20, slow=True),
}  # fmt: skip
RUNS = [(name, loop) for name, case in CASES.items() for loop in case.loops]


# ------------------------------------------------------------------ running


@contextlib.contextmanager
def compiling() -> Any:
    """Compile with XLA's flags as the library sets them, but little optimised, as other tests do: it takes less time,
    and what an operation gives depends less on its neighbours in the program. Both loops then give the same bits."""
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, True)
    try:
        yield
    finally:
        jax.config.update(OPTION, before)


def algorithm_of(case: Case) -> Any:
    """The configured algorithm."""
    settings = dict(case.settings)
    if case.preset in PRESETS:
        return configure(PRESETS[case.preset].algorithm, settings)
    parts = [settings.pop(part) for part in ("critic", "actor", "data") if part in settings]
    return configure(composed(*parts).algorithm, settings)


def reference_of(case: Case, algorithm: Any) -> Any:
    """The reference policy, or None."""
    if case.reference is None:
        return None
    acting = algorithm.initial_acting(jax.random.key(case.reference), environment(case.env).spec)
    rng = np.random.default_rng(case.reference)
    if hasattr(acting.net, "cells"):  # tables: a policy that prefers something
        policy = rng.dirichlet(np.ones(acting.net.policy.shape[1]), acting.net.policy.shape[0])
        net = dataclasses.replace(acting.net, policy=jnp.asarray(policy, jnp.float32))
        return dataclasses.replace(acting, net=net)
    return jax.tree.map(lambda x: x + jnp.asarray(abs(rng.normal(size=x.shape)), x.dtype), acting)


def runner_of(name: str, loop: str) -> Any:
    """The loop's own runner of a case, before its first update."""
    case = CASES[name]
    algorithm = algorithm_of(case)
    reference = reference_of(case, algorithm)
    if loop == "offline":
        return OfflineRunner(algorithm, dataset(case.env), [case.seed])
    if loop == "compiled":
        return CompiledRunner(algorithm, environment(case.env), case.num_envs, [case.seed], reference)
    host = host_environment(case.env, case.num_envs)
    return host_runner(algorithm, host, case.seed, reference)


def run(name: str, loop: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(what the policy was at first, what it is after the case's iterations): flat dicts of arrays."""
    case = CASES[name]
    with compiling():
        runner = runner_of(name, loop)
        runner.algorithm.check(runner.spec, runner.num_envs)
        before = flat(runner.actings[0])
        runner.set_training(total_steps=case.total_steps)
        runner.warm()
        if loop != "host":
            reports = runner.advance(case.iterations)
        else:
            reports = [report for _ in range(case.iterations) for report in runner.advance(1)]
        assert not any(report.nonfinite for report in reports), f"{name}, {loop}: non-finite"
        return before, flat(runner.actings[0])


def flat(acting: Any) -> dict[str, np.ndarray]:
    """Path → array, as model files name them ('.net.pi.layers[0].weight'), long ones thinned out."""
    leaves = jax.tree_util.tree_leaves_with_path(acting)
    return {jax.tree_util.keystr(path): thinned(np.asarray(x)) for path, x in leaves}


def thinned(x: np.ndarray) -> np.ndarray:
    """The array, or of a long one `LARGEST` of its numbers."""
    if x.size <= LARGEST:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x.reshape(-1)[np.linspace(0, x.size - 1, LARGEST, dtype=np.int64)])


# ------------------------------------------------------------------ a process for them


def fingerprint() -> dict[str, str]:
    """What the last bits of a program's numbers depend on besides the program."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        lines = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
        processor = "|".join(f"{k}: {' '.join(sorted(v.split()))}" for k, v in sorted(lines.items()))
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "backend": jax.default_backend(),
        "processor": hashlib.sha256(f"{platform.machine()} {processor}".encode()).hexdigest()[:16],
        "cores": str(os.cpu_count()),
    }


ANSWER = "golden: "


def environ() -> dict[str, str]:
    """Of a process that computes golden numbers: XLA's flags are the library's own, which other tests change."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def serve() -> None:
    """Answer lines {"case", "loop", "path"} from stdin: the numbers go into `path`, a line of JSON to stdout."""
    warnings.simplefilter("error")
    print(ANSWER + json.dumps(fingerprint()), flush=True)
    for number, line in enumerate(sys.stdin):
        asked = json.loads(line)
        try:
            before, after = run(asked["case"], asked["loop"])
            arrays = {f"before/{k}": x for k, x in before.items()} | {
                f"after/{k}": x for k, x in after.items()
            }
            np.savez(asked["path"], **arrays)
            answer: dict[str, str] = {}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(ANSWER + json.dumps(answer), flush=True)
        if number % 20 == 19:  # hundreds of programs would fill the memory
            jax.clear_caches()


if __name__ == "__main__":
    serve()
