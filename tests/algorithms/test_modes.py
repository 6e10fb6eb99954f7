"""The compiled and the host loop run the same algorithm: same actions, same parameters after two iterations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BY_OTHERS,
    CONTINUOUS,
    DISCRETE,
    NUM_ENVS,
    distance,
    preset,
    presets,
    probes,
    restart,
    shared_runner,
    small,
)

from actrix.algorithms.presets import PRESETS, composed
from actrix.algorithms.settings import configure
from actrix.core.types import Chunk
from actrix.envs.classic import ClassicEnv
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import Probe, TMaze
from actrix.loops.compiled import CompiledRunner, collect
from actrix.loops.host import HostRunner
from actrix.loops.runner import iteration_keys
from actrix.loops.stepping import SteppingRunner, host_runner
from actrix.loops.train import NonFiniteError, SeedRun
from actrix.loops.train import train as run_training

CARTPOLE = ClassicEnv("CartPole-v1", max_episode_steps=12)
PENDULUM = ClassicEnv("Pendulum-v1", max_episode_steps=12)
N = 8

PPO, DQN = PRESETS["ppo"].algorithm, PRESETS["dqn"].algorithm
WARM = {"learning_starts": 100, "train_freq": 1, "gradient_steps": -1, "batch_size": 8}
CASES = {
    "normalized, recomputed": (
        small(PPO, normalize=True, recompute_advantages=True, target_kl=0.01),
        CARTPOLE,
    ),
    "recurrent": (small(PPO, policy_kwargs={"net_arch": [16], "cell": "lstm"}), TMaze(length=3)),
    "gru": (
        small(PRESETS["a2c"].algorithm, policy_kwargs={"net_arch": [16], "cell": "gru"}),
        TMaze(length=3),
    ),
    "transformer": (
        small(PPO, policy_kwargs={"cell": "transformer", "d_model": 8, "n_heads": 2, "context": 3}),
        TMaze(length=3),
    ),
    "gaussian": (small(PPO), PENDULUM),
    # Plain gradient steps: Adam would blow up the last bit of gradients that are nearly 0.
    "optimal": (
        small(composed("none", "score:optimal").algorithm, optimizer="sgd", learning_rate=0.1),
        CARTPOLE,
    ),
    "a random phase": (small(DQN, **WARM), CARTPOLE),
    "correlated noise": (
        small(PRESETS["ddpg"].algorithm, noise_type="ornstein-uhlenbeck", **WARM | {"gradient_steps": 1}),
        PENDULUM,
    ),
}


@functools.cache
def host_env(env, num_envs):
    """One for all runners, which start it anew: it compiles for itself."""
    return HostJax(env, num_envs)


def compiled_runner(case, seed):
    """The presets' own runners take all probes, with masks, terminations and truncations."""
    if case in PRESETS:
        return restart(shared_runner(case), seed, total_steps=10_000)
    algorithm, env = CASES[case]
    runner = CompiledRunner(algorithm, env, N, [seed])
    runner.set_training(total_steps=10_000)
    runner.warm()
    return runner


def compare(case):
    compiled = compiled_runner(case, 3)
    algorithm = compiled.algorithm
    host = host_runner(algorithm, host_env(compiled.env, compiled.num_envs), 3)
    host.set_training(total_steps=10_000)
    warm = host.warm()
    assert sum(r.steps for r in warm) >= getattr(algorithm.data, "learning_starts", 0) * (
        case not in ON_POLICY
    )
    a = [compiled.advance(1)[0] for _ in range(2)]
    b = [host.advance(1)[0] for _ in range(2)]
    assert sum(r.steps for r in a) == sum(r.steps for r in b)
    joined = lambda reports, name: np.concatenate([getattr(r, name) for r in reports])
    np.testing.assert_allclose(joined(a, "ep_returns"), joined(b, "ep_returns"), rtol=1e-5)
    np.testing.assert_array_equal(joined(a, "ep_lengths"), joined(b, "ep_lengths"))
    for x, y in zip(jax.tree.leaves(compiled.learners[0]), jax.tree.leaves(host.learners[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    compiled.advance(3)
    assert compiled._segment._cache_size() == 1
    compilations = (
        (host._draw, host._round, host._action)
        if isinstance(host, SteppingRunner)
        else (host._learn, host._act)
    )
    assert max(f._cache_size() for f in compilations) == 1


ON_POLICY = [n for n, p in PRESETS.items() if not hasattr(p.algorithm.data, "learning_starts")]


FEW = ("reinforce", "ppo", "trpo", "v-trace", "acer", "rainbow", "pqn", "sac", "mc", "q-lambda", "cpi",
       "stream-ac")  # fmt: skip
"""Every kind of update, of data and of acting (of a deterministic actor in "correlated noise"); the other presets are
settings of these."""


REPEATED = ("gru", "transformer", "gaussian", "a random phase", "optimal")
"""As "recurrent", and nets/test_decoder.py has a transformer's steps be its rows at once; test_sde.py's PPO; the random
phase of the preset SAC; compiled as users do below."""


@pytest.mark.parametrize(
    "case",
    [*presets(FEW), *(pytest.param(x, marks=pytest.mark.slow) if x in REPEATED else x for x in CASES)],
)
def test_modes_agree(case):
    """Random phase included; and neither loop compiles a second time."""
    compare(case)


@pytest.mark.slow  # test_examples.py compares a preset with its loop by hand, as users compile them
@pytest.mark.parametrize("case", ["optimal", "ppo"])
def test_modes_agree_as_users_compile_them(case, optimized):
    shared_runner.cache_clear()
    compare(case)
    shared_runner.cache_clear()


TYPES = {name: (preset(name), None) for name in PRESETS} | {
    "gaussian": (small(PPO), CONTINUOUS),
    "cloned gaussian": (small(PRESETS["iql"].algorithm), CONTINUOUS),
    "normalized": (small(PPO, normalize=True), DISCRETE),
    "normalized replay": (small(DQN, normalize_obs=True), DISCRETE),
    "learned temperature": (small(PRESETS["sac"].algorithm, ent_coef="auto"), CONTINUOUS),
    "correlated noise": (CASES["correlated noise"][0], CONTINUOUS),
}


@pytest.mark.parametrize(
    "case", [*presets(PRESETS.keys() - FEW - {*BY_OTHERS}), *(case for case in TYPES if case not in PRESETS)]
)
def test_learning_changes_no_type(case):
    """From a fresh learner on: another dtype, or a weak one, would compile the whole loop again."""
    algorithm, env = TYPES[case]
    env = env or probes(algorithm)
    learner = algorithm.init(jax.random.key(0), env.spec, NUM_ENVS)
    chunk = _example(algorithm, learner, env, algorithm.rows(env.spec))
    after = jax.eval_shape(lambda l, c: algorithm.learn(l, c, jax.random.key(0))[0], learner, chunk)
    kind = lambda x: (x.shape, x.dtype, x.weak_type)
    paths = jax.tree_util.tree_leaves_with_path
    types = lambda tree: {jax.tree_util.keystr(path): kind(x) for path, x in paths(tree)}
    before, after = types(jax.eval_shape(lambda l: l, learner)), types(after)
    assert {path: (before[path], after[path]) for path in before if before[path] != after[path]} == {}


def _example(algorithm, learner, env, rows):
    """An empty chunk of the shapes that acting gives."""
    spec, acting = env.spec, learner.acting
    full = lambda x: jnp.zeros((rows, NUM_ENVS, *np.shape(x)), jnp.asarray(x).dtype)
    obs, flag = full(spec.observation_space.sample()), full(False)
    mask = None if spec.mask_size is None else ~full(np.ones(2, bool))
    noise = jax.tree.map(lambda x: x[0], algorithm.noise(acting, jax.random.key(0), 1, NUM_ENVS))
    carry, legal = algorithm.initial_carry(acting, NUM_ENVS), None if mask is None else mask[0]
    out = jax.eval_shape(lambda: algorithm.act(acting, carry, obs[0], legal, noise))
    action, log_prob, dist, _ = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), out)
    return Chunk(
        obs=obs, action=action, reward=full(np.float32(0)), next_obs=obs, terminated=flag, truncated=flag,
        valid=~flag if algorithm.whole_episodes else None, log_prob=log_prob, dist=dist, mask=mask, next_mask=mask,
        first=flag,
    )  # fmt: skip


def test_same_actions_in_both_modes():
    algorithm = small(PPO)
    compiled = CompiledRunner(algorithm, CARTPOLE, N, [3])
    host = HostRunner(algorithm, HostJax(CARTPOLE, N), 3)
    state = jax.tree.map(lambda x: x[0], compiled.state)
    key = iteration_keys(state.iteration_key, 0)[0]
    _, chunk, _ = jax.jit(
        lambda s, k: collect(algorithm, s.learner.acting, CARTPOLE, s.env, s.env_key, k, 8)
    )(state, key)
    other, _ = host.collect(8, key, host.learner.acting)
    np.testing.assert_array_equal(chunk.action, other.action)
    np.testing.assert_allclose(chunk.log_prob, other.log_prob, rtol=1e-5)
    np.testing.assert_allclose(chunk.obs, other.obs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["ppo", "rainbow", "acer", "td3"])
def test_segment_lengths_do_not_matter(name):
    """Memory, priorities, target networks and delayed actor included."""
    learners = []
    for lengths in ((6,), (1, 3, 2)):
        runner = restart(shared_runner(name), 5)
        for k in lengths:
            runner.advance(k)
        learners += runner.learners
    assert distance(*learners) == 0.0


@pytest.mark.parametrize(
    ("name", "count"), [*(pytest.param("ppo", n, marks=pytest.mark.slow) for n in (2, 3)), ("dqn", 2)]
)
def test_seeds_together_equal_each_alone(name, count):
    """Sharded over devices and mapped: the same numbers as alone, within rtol 1e-5."""
    one = shared_runner(name)
    together = CompiledRunner(one.algorithm, one.env, NUM_ENVS, list(range(count)))
    together.set_training(total_steps=1e6)
    together.advance(4)
    for seed, learner in enumerate(together.learners):
        alone = restart(one, seed)
        alone.advance(4)
        for x, y in zip(jax.tree.leaves(learner), jax.tree.leaves(alone.learners[0]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert distance(together.learners[0].acting.net, together.learners[1].acting.net) > 1e-3
    together.set_training(total_steps=2e6)  # as each part of a trial of `tune` does
    together.advance(1)
    assert together._segment._cache_size() == 1, "it is no other program"


@pytest.mark.parametrize("name", ["reinforce", pytest.param("a2c", marks=pytest.mark.slow)])
def test_every_seed_gets_its_budget_and_no_more(name):
    """Episodes differ in length between seeds: each stops by its own count, as it would alone."""
    algorithm, env = small(PRESETS[name].algorithm, n_steps=12), CARTPOLE
    runs = [SeedRun(seed) for seed in range(3)]
    together = CompiledRunner(algorithm, env, N, range(3))
    run_training(together, runs, 2000)
    alone = CompiledRunner(algorithm, env, N, [0])
    for seed, learner in enumerate(together.learners):
        run = SeedRun(seed)
        alone.state = alone._stack([alone._initial(seed, None)])
        run_training(alone, [run], 2000)
        assert (run.steps, run.iterations) == (runs[seed].steps, runs[seed].iterations)
        assert 2000 <= run.steps < 2000 + 12 * N
        assert distance(learner.acting, alone.learners[0].acting) < 1e-5


@pytest.mark.parametrize("name", ["ppo", pytest.param("dqn", marks=pytest.mark.slow)])
def test_a_compiled_environment_that_gives_infinity_is_named(name):
    env = _Infinite()
    settings = {"normalize": True} if name == "ppo" else {"train_freq": 8}
    runner = CompiledRunner(small(PRESETS[name].algorithm, **settings), env, N, [0])
    with pytest.raises(
        NonFiniteError, match=r"environment \d+ gave a non-finite reward or observation in row 5"
    ):
        run_training(runner, [SeedRun(0)], 5000, warm=False)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(runner.learners[0]))


@dataclasses.dataclass(frozen=True)
class _Infinite(Probe):
    """Reward ∞ at its sixth step."""

    def _outcome(self, state, action):
        return jnp.where(state.t == 5, jnp.inf, 1.0), jnp.zeros((), bool)


@pytest.mark.slow  # `compare` asks it of each case
def test_second_call_does_not_recompile():
    algorithm = small(PPO)
    compiled = CompiledRunner(algorithm, CARTPOLE, N, [0])
    compiled.advance(1)
    compiled.advance(3)
    assert compiled._segment._cache_size() == 1
    host = HostRunner(algorithm, HostJax(CARTPOLE, N), 0)
    for _ in range(3):
        host.advance()
    assert host._learn._cache_size() == 1
    assert host._act._cache_size() == 1


def test_host_chunk_of_whole_episodes_is_padded_as_invalid():
    algorithm = configure(small(PRESETS["reinforce"].algorithm), {"n_steps": 20})
    host = HostRunner(algorithm, HostJax(CARTPOLE, N), 1)
    chunk, (returns, *_) = host.collect(20, iteration_keys(host.iteration_key, 0)[0], host.learner.acting)
    assert chunk.reward.shape == (20, N)
    assert len(returns) == N
    ends = (chunk.terminated | chunk.truncated) & chunk.valid
    np.testing.assert_array_equal(ends.sum(0), 1)
    np.testing.assert_array_equal(chunk.valid.sum(0), np.argmax(ends, 0) + 1)
    np.testing.assert_allclose(np.where(chunk.valid, chunk.reward, 0).sum(0).sum(), returns.sum())
