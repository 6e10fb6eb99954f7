"""Golden parameters: what each algorithm's policy is after a few tiny updates, in each loop that can run it.

A case is a preset (or a composition), an environment, tiny settings and a number of iterations, chosen so that all it
adds to its neighbours happens within these iterations: targets are moved, delayed actors step, rings wrap around.
`make_updates.py` records what `run` gives; `tests/algorithms/test_golden_updates.py` compares. Everything that the
two need of the library is imported here and nowhere else. They compile as all tests do (`quick.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from gymnasium import spaces

import quick  # noqa: F401
from actrix.algorithms.presets import PRESETS, composed
from actrix.algorithms.settings import configure
from actrix.core.types import Spec
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.envs.tokens.tasks import Reverse
from actrix.loops.compiled import CompiledRunner
from actrix.loops.stepping import host_runner

FILE = Path(__file__).parent / "updates.safetensors"
LOOPS = ("compiled", "host", "offline")
LARGEST = 4096
"""Of a longer array only so many numbers, evenly spread, are kept."""

# ------------------------------------------------------------------ environments


class ToyState(NamedTuple):
    x: jax.Array
    t: jax.Array


@dataclasses.dataclass(frozen=True)
class Toy:
    """A point in the plane pushed by the actions, with every kind of spaces; ends outside, cut after six steps.

    It needs no function that another machine's library might round otherwise, but for the noise.
    """

    sees: str = "box"
    """'box', 'dict', 'image' or 'cells'."""
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
            "cells": spaces.Discrete(9),
        }[self.sees]
        does: Any = {
            "discrete": spaces.Discrete(3),
            "box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
            "multidiscrete": spaces.MultiDiscrete([3, 2]),
            "multibinary": spaces.MultiBinary(2),
        }[self.does]
        sizes = {"discrete": 3, "multidiscrete": 5, "multibinary": 4}
        return Spec(observed, does, 6, sizes[self.does] if self.masked else None)

    def reset(self, key):
        state = ToyState(jax.random.uniform(key, (2,), minval=-0.8, maxval=0.8), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, key, state, action):
        push = self._push(action)
        x = 0.9 * state.x + 0.4 * push + 0.2 * jax.random.normal(key, (2,))
        terminated = jnp.abs(x[0]) > 1.1
        reward = 1.0 - jnp.sum(x * x) + 0.5 * push[0] * state.x[1] - 1.5 * terminated
        after = ToyState(x, state.t + 1)
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
        places = jnp.arange(5.0)
        here = jnp.maximum(0, 1 - jnp.abs(places - 1.6 * (state.x[:, None] + 1.25)))  # [2, 5]
        spot = here[0][:, None] * here[1][None, :]
        image = jnp.stack([spot, jnp.full((5, 5), state.t / 6.0)], axis=-1)
        return jnp.clip(255 * image, 0, 255).astype(jnp.uint8)


@functools.cache
def environment(name: str) -> Any:
    """'toy:SEES:DOES[:masked]', 'tokens:GROUP', or an id of our own JAX environments, which ends after 12 steps."""
    kind, *words = name.split(":")
    if kind == "tokens":
        return Reverse(2, 2, group=int(words[0]))
    if kind == "toy":
        return Toy(words[0], words[1], "masked" in words)
    return jax_env(name, max_episode_steps=12)


@functools.cache
def host_environment(name: str, num_envs: int) -> HostJax:
    """One for all runners, which start it anew: it compiles for itself."""
    return HostJax(environment(name), num_envs)


# ------------------------------------------------------------------ cases


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run; `base` says what a variant differs from."""

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
    """Seed of the policy that is given as the reference."""
    slow: bool = False
    """Repeats what others show."""


BOX, MOVES, CELLS = "toy:box:discrete", "toy:box:box", "toy:cells:discrete"
NET: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}
CHUNK: dict[str, Any] = NET | {"n_steps": 8, "learning_rate": 0.01}
WHOLE: dict[str, Any] = NET | {"n_steps": None, "learning_rate": 0.01}
LSTM: dict[str, Any] = {
    "policy_kwargs": {"cell": "lstm", "hidden_size": 8, "net_arch": []}, "learning_rate": 0.03,
}  # fmt: skip
BATCHES: dict[str, Any] = CHUNK | {"batch_size": 8, "n_epochs": 2}
TRAJECTORIES: dict[str, Any] = CHUNK | {"buffer_size": 48, "learning_starts": 32, "replay_ratio": 2}
RING: dict[str, Any] = NET | {
    "buffer_size": 40, "learning_starts": 16, "batch_size": 8, "train_freq": 3, "gradient_steps": 2,
    "learning_rate": 0.01,
}  # fmt: skip
"""Full and wrapped around after four chunks."""
Q: dict[str, Any] = RING | {"target_update_interval": 10, "exploration_fraction": 0.5}
QUIET: dict[str, Any] = RING | {"target_update_interval": 10}
SUPPORT: dict[str, Any] = {"n_atoms": 7, "v_min": -4.0, "v_max": 4.0}
QUANTILES: dict[str, Any] = {"n_quantiles": 5}
PATH: dict[str, Any] = RING | {"tau": 0.1}
TABLE: dict[str, Any] = {"train_freq": 4, "learning_rate": 0.2}
OFFLINE: dict[str, Any] = {"loops": ("compiled", "host", "offline")}

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
    "impact": Case("impact", BOX, TRAJECTORIES | {"batch_size": 8, "n_epochs": 2}),
    "awr": Case("awr", BOX, TRAJECTORIES | {"batch_size": 8, "n_epochs": 2}),
    "pgql": Case("pgql", BOX, TRAJECTORIES | {"ent_coef": 0.1}),
    "dqn": Case("dqn", BOX, Q),
    "c51": Case("c51", BOX, Q | SUPPORT),
    "qr-dqn": Case("qr-dqn", BOX, Q | QUANTILES),
    "iqn": Case("iqn", BOX, Q | QUANTILES | {"n_policy_quantiles": 4, "quantile_dim": 6}),
    "rainbow": Case("rainbow", BOX, QUIET | SUPPORT | {"n_steps": 3}),
    "munchausen-dqn": Case("munchausen-dqn", BOX, Q),
    "pqn": Case("pqn", BOX, BATCHES),
    "soft-q": Case("soft-q", BOX, QUIET),
    "ddpg": Case("ddpg", MOVES, PATH),
    "td3": Case("td3", MOVES, PATH),
    "sac": Case("sac", MOVES, PATH),
    "discrete-sac": Case("discrete-sac", BOX, PATH),
    "tqc": Case("tqc", MOVES, PATH | {"n_quantiles": 5, "top_quantiles_to_drop_per_net": 1}),
    "d4pg": Case("d4pg", MOVES, PATH | SUPPORT | {"n_steps": 3}),
    "redq": Case("redq", MOVES, PATH | {"n_critics": 3, "gradient_steps": 4, "policy_delay": 4}),
    # Biases before a batch norm have no gradient but what is rounded, whose sign Adam would follow without its epsilon.
    "crossq": Case(
        "crossq", MOVES, RING | {"renorm_warmup_steps": 2, "policy_delay": 2, "optimizer_eps": 1e-3}
    ),
    "awac": Case("awac", MOVES, PATH),
    "bc": Case("bc", MOVES, RING),
    "cql": Case("cql", MOVES, PATH | {"cql_actions": 2}),
    "iql": Case("iql", MOVES, PATH),
    "td3-bc": Case("td3-bc", MOVES, PATH),
    "droq": Case("droq", MOVES, PATH | {"gradient_steps": 4, "policy_delay": 4}),
    "sft": Case("sft", "tokens:2", LSTM, loops=("compiled",)),
    "grpo": Case("grpo", "tokens:4", LSTM | {"ref_kl_coef": 1.0}, num_envs=8, reference=4),
    "dr-grpo": Case("dr-grpo", "tokens:4", LSTM, num_envs=8, slow=True),
    "rloo": Case("rloo", "tokens:4", LSTM | {"ref_kl_coef": 0.3}, num_envs=8, reference=4, slow=True),
    "gpg": Case("gpg", "tokens:4", LSTM, num_envs=8, slow=True),
    "gspo": Case("gspo", "tokens:4", LSTM | {"batch_size": 20}, num_envs=8, slow=True),
    "dapo": Case("dapo", "tokens:4", LSTM | {"batch_size": 20}, num_envs=8, slow=True),
    "rlhf-ppo": Case(
        "rlhf-ppo", "tokens:4", LSTM | {"batch_size": 20, "n_epochs": 2}, num_envs=8, reference=4, slow=True
    ),
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
assert set(PRESETS) <= set(CASES)
RUNS = [(name, loop) for name, case in CASES.items() for loop in case.loops]


# ------------------------------------------------------------------ running


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
    return algorithm.initial_acting(jax.random.key(case.reference), environment(case.env).spec)


def runner_of(name: str, loop: str) -> Any:
    """The loop's own runner of a case, before its first update."""
    case = CASES[name]
    algorithm, env = algorithm_of(case), environment(case.env)
    algorithm.check(env.spec, case.num_envs)
    reference = reference_of(case, algorithm)
    if loop == "compiled":
        return CompiledRunner(algorithm, env, case.num_envs, [case.seed], reference)
    host = host_environment(case.env, case.num_envs)
    return host_runner(algorithm, host, case.seed, reference)


def run(name: str, loop: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(what the policy was at first, what it is after the case's iterations): flat dicts of arrays."""
    case = CASES[name]
    runner = runner_of(name, loop)
    before = flat(runner.actings[0])
    runner.set_training(total_steps=case.total_steps)
    runner.warm()
    _, after = run_runner(runner, case.iterations, at_once=loop == "compiled")
    return before, after


def run_runner(
    runner: Any, iterations: int, at_once: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same of a runner that is ready to go on."""
    before = flat(runner.actings[0])
    if at_once:
        reports = runner.advance(iterations)
    else:
        reports = [report for _ in range(iterations) for report in runner.advance(1)]
    assert not any(report.nonfinite for report in reports), "non-finite"
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
