"""Shared by the algorithm tests: all probes in one environment, one small shape, one compiled program per preset."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.algorithms.conservative import ConservativeIteration
from actrix.algorithms.learn import Composition, Update
from actrix.algorithms.online_traces import OnlineTraces
from actrix.algorithms.presets import PRESETS, compose
from actrix.algorithms.settings import configure, setting_names
from actrix.algorithms.tabular import Tabular
from actrix.core.contract import count
from actrix.core.fit import Natural
from actrix.core.normalize import normalize_observation
from actrix.core.rows import rows_of
from actrix.core.types import Spec
from actrix.critics.policy_q import expectation
from actrix.envs.jax_envs import jax_env
from actrix.envs.probes import (
    ActionObs,
    ContinuousTarget,
    Discount,
    InfiniteTimeLimit,
    Masked,
    ObsDependent,
    Probe,
)
from actrix.loops.compiled import CompiledRunner, collect, reset
from actrix.loops.runner import iteration_keys, run_keys
from actrix.nets.memory import apply
from actrix.nets.view import apply as apply_plain

NUM_ENVS = 32
NETWORK = {"net_arch": [16], "activation_fn": "tanh"}
CRITICS = {"net_arch": {"pi": [16], "vf": [64]}, "activation_fn": "tanh"}
"""Of continuous actions: a critic slower than its actor drives it to the bounds, where tanh holds it."""
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "learning_rate": 0.02, "ent_coef": 0.0}
REPLAY: dict[str, Any] = {
    "policy_kwargs": NETWORK, "learning_rate": 0.01, "batch_size": 64, "buffer_size": 4096, "learning_starts": 0,
    "train_freq": 2, "gradient_steps": 4,
}  # fmt: skip


# ------------------------------------------------------------------ environments


@dataclasses.dataclass(frozen=True)
class MaskedLater(Probe):
    """Obs (0, 0) then (1, 0). Half of the episodes start at the second, where both actions are legal, reward =
    action. In the others only action 0 is legal there, reward 0: Q(first) = 0, and γ if a target heeds no mask.

    The observation does not tell the two apart, so Q(second) = (0, 1). An illegal action gives −10.
    """

    def _masked(self):
        return True

    def _start(self, key):
        return jax.random.bernoulli(key).astype(jnp.float32)

    def _second(self, state):
        return (state.x > 0) | (state.t > 0)

    def _observe(self, state):
        return jnp.stack([self._second(state).astype(jnp.float32), jnp.zeros(())])

    def mask(self, state):
        return jnp.stack([jnp.asarray(True), (state.x > 0) | (state.t == 0)])

    def _outcome(self, state, action):
        free = jnp.where(self._second(state), action.astype(jnp.float32), 0.0)
        illegal = (action == 1) & ~self.mask(state)[1]
        return jnp.where(illegal, -10.0, free), self._second(state)


class SeveralState(NamedTuple):
    kind: jax.Array
    inner: Any


@dataclasses.dataclass(frozen=True)
class Several:
    """Each episode is one of several probes, drawn at random; part k is seen in entries 2k (its observation) and
    2k + 1 (a one), so that what is learned of one does not disturb the others."""

    parts: tuple[Probe, ...]

    @functools.cached_property
    def spec(self) -> Spec:
        box = spaces.Box(-1.0, 1.0, (2 * len(self.parts),), np.float32)
        masked = any(p.spec.mask_size for p in self.parts)
        return Spec(box, self.parts[0].spec.action_space, None, 2 if masked else None)

    def reset(self, key):
        kind_key, key = jax.random.split(key)
        kind = jax.random.randint(kind_key, (), 0, len(self.parts))
        return self._of(kind, lambda part: part.reset(key))

    def step(self, key, state, action):
        one = lambda part: (lambda after, obs, *rest: ((after, obs), rest))(
            *part.step(key, state.inner, action)
        )
        (after, obs), rest = self._choose(state.kind, [one(p) for p in self.parts])
        return SeveralState(state.kind, after), self._place(state.kind, obs), *rest

    def mask(self, state):
        every = jnp.ones(2, bool)
        masks = [p.mask(state.inner) for p in self.parts]
        return self._choose(state.kind, [every if m is None else m for m in masks])

    def see(self, kind: int, x: float) -> list[float]:
        """The observation in which part `kind` shows x."""
        out = [0.0] * (2 * len(self.parts))
        out[2 * kind : 2 * kind + 2] = [x, 1.0]
        return out

    def _of(self, kind, function):
        state, obs = self._choose(kind, [function(p) for p in self.parts])
        return SeveralState(kind, state), self._place(kind, obs)

    def _place(self, kind, obs):
        rows = jax.nn.one_hot(kind, len(self.parts))
        return jnp.stack([rows * obs[0], rows], axis=-1).reshape(-1)

    def _choose(self, kind, results):
        return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(i) for i in x])[kind], *results)


@dataclasses.dataclass(frozen=True)
class Numbered(Several):
    """`Several` with a number for every observation: what tables can learn."""

    @functools.cached_property
    def spec(self) -> Spec:
        return dataclasses.replace(super().spec, observation_space=spaces.Discrete(3 * len(self.parts)))

    def see(self, kind: int, x: float) -> int:
        return 3 * kind + int(x) + 1

    def _place(self, kind, obs):
        return (3 * kind + obs[0].astype(jnp.int32) + 1).astype(jnp.int32)


DISCRETE = Several(
    (ObsDependent(), Discount(), InfiniteTimeLimit(steps=2), ActionObs(), Masked(), MaskedLater())
)
NUMBERED = Numbered(DISCRETE.parts)
TABLES = Tabular | ConservativeIteration
CONTINUOUS = Several(
    (
        ObsDependent(continuous=True),
        Discount(continuous=True),
        InfiniteTimeLimit(steps=2, continuous=True),
        ContinuousTarget(),
    )
)
GAMMA = 0.5
KNOWN = [("obs-dependent", 0, 1.0, 1.0), ("obs-dependent", 0, -1.0, -1.0), ("discount", 1, 0.0, GAMMA),
         ("discount", 1, 1.0, 1.0), ("time limit", 2, 0.0, 1 / (1 - GAMMA))]  # fmt: skip
"""(name, part, what it shows, the value there) whatever the policy; alike in both environments."""


def gives(algorithm: Any) -> str:
    """What the critic of a composition gives."""
    return algorithm.critic.facts.gives


def joint(algorithm: Any) -> bool:
    """Whether policy and critic are one network."""
    return gives(algorithm) in ("V", "Q of a policy", "none") and not algorithm.actor.facts.clones


def pathwise(algorithm: Any) -> bool:
    """Whether the actor follows the gradient of critics through its own action, or the exact sum over them."""
    return algorithm.actor.name in ("deterministic", "soft")


def discrete(algorithm: Any) -> bool:
    """Whether such an actor's actions are discrete."""
    return getattr(algorithm.actor, "discrete", False)


def continuous(algorithm: Any) -> bool:
    """Whether the algorithm is tried with continuous actions."""
    return isinstance(algorithm, Composition) and pathwise(algorithm) and not discrete(algorithm)


def probes(algorithm: Any) -> Several:
    """All probes with the algorithm's kind of observations and actions."""
    if isinstance(algorithm, TABLES):
        return NUMBERED
    return CONTINUOUS if continuous(algorithm) else DISCRETE


# ------------------------------------------------------------------ small algorithms


def small(algorithm: Any, **settings: Any) -> Any:
    """The composition with a tiny network and short chunks."""
    changes: dict[str, Any]
    if isinstance(algorithm, TABLES):
        changes = {"episode_length": 4}
        if isinstance(algorithm, Tabular):
            changes |= {"train_freq": 4, "learning_rate": 0.2}
        else:
            changes |= {"mixing": 0.02, "learning_rate": 0.2}
        return configure(algorithm, changes | settings)
    if isinstance(algorithm, OnlineTraces):
        changes = {"policy_kwargs": {"net_arch": [16]}, "train_freq": 8, "ent_coef": 0.0}
        if algorithm.step == "plain":
            changes |= {"learning_rate": 0.05, "actor_learning_rate": 0.05}
        else:  # constant inputs have no variance to divide by
            changes |= {"normalize_obs": False, "normalize_reward": False, "sparsity": 0.5}
        return configure(algorithm, changes | settings)
    if algorithm.data.facts.transitions:
        changes = _small_replay(algorithm)
    elif not joint(algorithm):
        changes = {"policy_kwargs": NETWORK, "learning_rate": 0.01, "n_steps": 8, "batch_size": 64}
    elif isinstance(algorithm.fit, Natural):
        changes = {"policy_kwargs": SMALL["policy_kwargs"], "learning_rate": 0.02, "batch_size": 64}
        changes |= {"n_steps": 4 if algorithm.whole_episodes else 8, "n_critic_updates": 4}
    else:
        changes = _small_joint(algorithm)
    return configure(algorithm, changes | settings)


def _small_joint(algorithm: Composition) -> dict[str, Any]:
    changes = dict(SMALL) | {"n_critic_updates": 0, "vf_coef": 0.5}
    changes["n_steps"] = 4 if algorithm.whole_episodes else 8
    if algorithm.actor.facts.ratio:
        changes |= {"n_epochs": 4, "batch_size": 64}
    if getattr(algorithm.actor, "ratio", "") == "sequence":  # minibatches hold whole episodes
        changes |= {
            "policy_kwargs": {"net_arch": [16], "cell": "lstm", "hidden_size": 16},
            "sequence_length": 4,
        }
    if algorithm.fit.optimizer == "rmsprop":
        changes |= {"learning_rate": 0.005}
    if algorithm.actor.name == "pgql":
        changes |= {"ent_coef": 0.1}
    if algorithm.data.facts.windows:
        changes |= {"buffer_size": 2048, "learning_starts": 0, "replay_ratio": 2, "learning_rate": 0.01}
    return (
        changes
        if "ent_coef" in setting_names(algorithm)
        else {n: x for n, x in changes.items() if n != "ent_coef"}
    )


def _small_replay(algorithm: Composition) -> dict[str, Any]:
    changes, names = dict(REPLAY), setting_names(algorithm)
    if gives(algorithm) == "Q(s, ·)":
        small = {"target_update_interval": 4 * NUM_ENVS, "v_min": -3.0, "v_max": 3.0, "n_atoms": 31}
        small |= {"n_quantiles": 8, "n_policy_quantiles": 8, "quantile_dim": 8}
        small |= {"munchausen_alpha": 0.1}  # the bonus lowers what is not the best action
        return changes | {name: x for name, x in small.items() if name in names}
    if "tau" in names:
        changes |= {"tau": 0.05}
    if "cql_alpha" in names:
        changes |= {"cql_alpha": 0.01, "cql_actions": 4}
    if pathwise(algorithm):
        soft = {"ent_coef": "auto_0.1" if discrete(algorithm) else 0.05}
        changes |= soft if algorithm.actor.name == "soft" else {"noise_std": 0.5}
        if not discrete(algorithm):
            changes |= {"policy_kwargs": CRITICS, "learning_starts": 2048, "buffer_size": 2**15}
        if "n_quantiles" in names:
            changes |= {"n_quantiles": 5, "top_quantiles_to_drop_per_net": 1}
        if "n_atoms" in names:
            changes |= {"v_min": -3.0, "v_max": 3.0, "n_atoms": 31}
        if algorithm.fit.policy_delay > 2:
            changes |= {"policy_delay": 2}
    return changes


BY_OTHERS = ("qac", "tdac", "vpg", "a2c", "ppo-kl", "npg", "acktr", "pgql", "c51", "ddpg", "cql", "iql", "off-pac",
             "qr-dqn", "soft-q", "droq", "dr-grpo", "rloo", "gpg", "dapo", "rlhf-ppo", "sarsa", "expected-sarsa",
             "q-learning", "double-q", "tree-backup", "td-lambda", "redq", "awr", "tqc", "td3-bc", "d4pg")  # fmt: skip
"""Presets whose parts are other presets' (Rainbow's C51, TD3's DDPG, D4PG of both, SAC's REDQ, GRPO's groups), which
`test_compositions.py` has under their parts' names, or which `test_conservative.py`, `test_regression.py` or
`test_tabular_solved.py` asks the same: `slow` where each preset is tried."""


OF_ANSWERS = ("sft", "gspo")
"""Learn from answers that an environment shows, or by ratios of whole ones, which needs a memory: not from the probes.
tests/run/test_init.py and tests/actors/test_group.py have them."""


def presets(few: Any = None) -> list[Any]:
    """All presets as parameters; only these, or all but `BY_OTHERS`, are not `slow`."""
    quick = lambda name: name not in BY_OTHERS if few is None else name in few
    names = [name for name in PRESETS if name not in OF_ANSWERS]
    return [name if quick(name) else pytest.param(name, marks=pytest.mark.slow) for name in names]


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deep sarsa": ("dqn", {"target": "sarsa"}),
    "deep expected-sarsa": ("dqn", {"target": "expected-sarsa", "n_steps": 2}),
}
"""Compositions without a name of their own: (preset, settings)."""


def preset(name: str) -> Any:
    """The preset, or variant of one, as all its tests take it."""
    base, own = VARIANTS.get(name, (name, {}))
    if name == "qac":  # ψ = Q is not centred: large steps settle on the first action that is rewarded
        own = {"learning_rate": 0.005}
    return small(PRESETS[base].algorithm, gamma=GAMMA, **own)


# ------------------------------------------------------------------ training


def train(
    algorithm: Any, env: Any, iterations: int, seed: int = 0, num_envs: int = NUM_ENVS
) -> CompiledRunner:
    """A runner after so many iterations."""
    algorithm.check(env.spec, num_envs)
    runner = CompiledRunner(algorithm, env, num_envs, [seed])
    runner.set_training(total_steps=10**6)
    runner.warm()
    if iterations:
        runner.advance(iterations)
    return runner


@functools.lru_cache(maxsize=4)
def shared_runner(name: str) -> CompiledRunner:
    """The one runner of a preset, on `probes`: its program is compiled once. `restart` it before use. The last few
    are kept: conftest.py has the tests of a preset run one after the other."""
    algorithm = preset(name)
    env = jax_env("Reverse-v0", group=1) if algorithm.shown else probes(algorithm)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a policy without memory")  # whoever is the first to ask for it
        algorithm.check(env.spec, NUM_ENVS)
    return CompiledRunner(algorithm, env, NUM_ENVS, [0])


def restart(runner: CompiledRunner, seed: int = 0, total_steps: float = 1e6) -> CompiledRunner:
    """The runner as if it had just been made with this seed, its program still compiled."""
    runner.state = runner._stack([runner._initial(seed, None)])
    runner.set_training(total_steps=total_steps)
    runner.warm()
    return runner


# Acting depends on the network and on whether chunks are whole episodes, so one compiled loop serves many compositions.
_ACTS = {True: compose("none", "score:reward-to-go"), False: compose("gae", "ppo-clip")}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _collect(whole_episodes: bool, env: Any, rows: int, acting: Any, carry: Any, keys: tuple):
    return collect(_ACTS[whole_episodes], acting, env, carry, *keys, rows)


def train_apart(algorithm: Composition, env: Any, iterations: int, seed: int = 0) -> Any:
    """The learner after so many iterations, with acting and learning compiled apart."""
    algorithm.check(env.spec, NUM_ENVS)
    init_key, env_key, key = run_keys(seed)
    learner = algorithm.init(init_key, env.spec, NUM_ENVS)
    training = dataclasses.replace(learner.training, total_steps=jnp.asarray(1e6))
    learner = dataclasses.replace(learner, training=training)
    carry = reset(_ACTS[False], learner.acting, env, NUM_ENVS, env_key, jnp.uint32(0))
    learn, rows = jax.jit(algorithm.learn), algorithm.rows(env.spec)
    for i in range(iterations):
        noise_key, learn_key = iteration_keys(key, i)
        carry, chunk, _ = _collect(
            algorithm.whole_episodes, env, rows, learner.acting, carry, (env_key, noise_key)
        )
        learner, metrics = learn(learner, chunk, learn_key)
    assert metrics["nonfinite"] == 0
    return learner


# ------------------------------------------------------------------ what was learned


def values(algorithm: Any, acting: Any, obs: list[float]) -> np.ndarray:
    """V(obs), or Q(obs, ·) of discrete actions, or Q(obs, π(obs)); the smallest of several critics."""
    if isinstance(algorithm, Composition) and algorithm.actor.facts.clones:
        return np.zeros(0)
    if isinstance(algorithm, TABLES):
        predicts = isinstance(algorithm, Tabular) and algorithm.predicts
        table = acting.net.values if predicts else acting.net.all_q()
        return np.atleast_1d(np.asarray(table[obs]))
    batch = normalize_observation(acting.obs_moments, jnp.asarray([obs], jnp.float32), algorithm.clip_obs)
    net = acting.net
    if isinstance(algorithm, OnlineTraces):
        return np.asarray(apply_plain(net.critic, batch))
    if joint(algorithm):
        out, _ = apply(net, batch)
        return np.atleast_1d(np.asarray(out.value[0]))
    if gives(algorithm) == "Q(s, ·)":
        return np.asarray(algorithm.critic.q_values(net, batch)[0])
    if gives(algorithm) == "Q(s, a) of the data":
        return np.asarray(apply_plain(net.value, batch))
    action = jnp.asarray(greedy(algorithm, acting, obs))[None] if net.head.continuous else None
    q = apply_plain(net.critics, batch, action, None)[0]
    return np.asarray(
        algorithm.critic.joined.mean(q).min(0, keepdims=True) if net.head.continuous else q.min(0)
    )


def preferred(algorithm: Any, acting: Any, obs: list[float]) -> float:
    """V(obs), or Q of the policy's preferred action: another one, no longer taken, may keep an old value."""
    q = values(algorithm, acting, obs)
    return float(q[0] if len(q) == 1 else q[greedy(algorithm, acting, obs)])


def greedy(algorithm: Any, acting: Any, obs: list[float]) -> np.ndarray:
    """The target policy's action without noise."""
    mask = jnp.ones((1, 2), bool)
    batch = jnp.asarray([obs], jnp.int32 if isinstance(algorithm, TABLES) else jnp.float32)
    action, _ = algorithm.policy(acting, algorithm.initial_carry(acting, 1), batch, mask, None)
    return np.asarray(action[0])


def value(runner: CompiledRunner, obs: list[float]) -> float:
    """V (or Σ π Q) of one observation."""
    algorithm, learner = runner.algorithm, runner.learners[0]
    out, _ = apply(learner.acting.net, jnp.asarray([obs], jnp.float32))
    if gives(algorithm) == "none":
        return 0.0
    q = gives(algorithm) == "Q of a policy"
    return float((expectation(out.dist, out.value) if q else out.value)[0])


def probability(runner: CompiledRunner, obs: list[float]) -> np.ndarray:
    """π(·|obs) of a discrete policy."""
    return policy_of(runner.learners[0].acting, obs)


def policy_of(acting: Any, obs: list[float]) -> np.ndarray:
    """π(·|obs) of an actor-critic's discrete policy."""
    out, _ = apply(acting.net, jnp.asarray([obs], jnp.float32))
    return np.exp(np.asarray(out.dist.logits[0]))


def estimated(
    algorithm: Composition, learner: Any, chunk: Any, replayed: bool = False
) -> tuple[Any, Any, Any]:
    """(rows as learned from, what the critic estimates of them, what the actor remembers) of a chunk `[T, N]`."""
    update = Update(algorithm, learner, count(learner.training, chunk))
    state = update.start(jnp.asarray(False))
    rows = update.see(rows_of(chunk, algorithm.gamma, algorithm.data.facts.on_policy, replayed))
    return update.estimate(state, rows, update.clock.before, jax.random.key(0))[0]


def distance(a: Any, b: Any) -> float:
    """Largest absolute difference between two pytrees of arrays."""
    differences = jax.tree.map(
        lambda x, y: float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0)), a, b
    )
    return max(jax.tree.leaves(differences))
