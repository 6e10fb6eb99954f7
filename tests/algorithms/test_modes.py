"""The compiled and the host loop run the same algorithm: same actions, same parameters after two iterations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import continuous, distance, small

from actrix.algorithms.presets import PRESETS, composed, configure
from actrix.envs.jax_envs import ClassicEnv, HostJax
from actrix.envs.probes import InfiniteTimeLimit, Masked, Probe, TMaze
from actrix.run.compiled import CompiledRunner, collect
from actrix.run.host import HostRunner
from actrix.run.runner import iteration_keys
from actrix.run.train import NonFiniteError, SeedRun
from actrix.run.train import train as run_training

CARTPOLE = ClassicEnv("CartPole-v1", max_episode_steps=12)
PENDULUM = ClassicEnv("Pendulum-v1", max_episode_steps=12)
N = 8

CASES = {
    name: (small(p.algorithm), PENDULUM if continuous(p.algorithm) else CARTPOLE)
    for name, p in PRESETS.items()
} | {
    "normalized": (small(PRESETS["ppo"].algorithm, normalize=True), CARTPOLE),
    "recurrent": (
        small(PRESETS["ppo"].algorithm, policy_kwargs={"net_arch": [16], "cell": "lstm"}),
        TMaze(length=3),
    ),
    "gru": (
        small(PRESETS["a2c"].algorithm, policy_kwargs={"net_arch": [16], "cell": "gru"}),
        TMaze(length=3),
    ),
    "gaussian": (small(PRESETS["ppo"].algorithm), PENDULUM),
    "masked": (small(PRESETS["ppo"].algorithm), Masked()),
    "truncated": (small(PRESETS["ppo"].algorithm), InfiniteTimeLimit(steps=3)),
    "optimal": (small(composed("none", "score:optimal").algorithm), CARTPOLE),
    "recomputed": (small(PRESETS["ppo"].algorithm, recompute_advantages=True, target_kl=0.01), CARTPOLE),
}


@pytest.mark.parametrize("case", list(CASES))
def test_modes_agree(case):
    algorithm, env = CASES[case]
    compiled = CompiledRunner(algorithm, env, N, [3])
    host = HostRunner(algorithm, HostJax(env, N), 3)
    for runner in (compiled, host):
        runner.set_training(total_steps=10_000)
        runner.warm()
    (a,) = compiled.advance(2)
    b = [host.advance()[0] for _ in range(2)]
    assert a.steps == sum(r.steps for r in b)
    np.testing.assert_allclose(a.ep_returns, np.concatenate([r.ep_returns for r in b]), rtol=1e-5)
    np.testing.assert_array_equal(a.ep_lengths, np.concatenate([r.ep_lengths for r in b]))
    for x, y in zip(jax.tree.leaves(compiled.learners[0]), jax.tree.leaves(host.learners[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_same_actions_in_both_modes():
    algorithm = small(PRESETS["ppo"].algorithm)
    compiled = CompiledRunner(algorithm, CARTPOLE, N, [3])
    host = HostRunner(algorithm, HostJax(CARTPOLE, N), 3)
    state = jax.tree.map(lambda x: x[0], compiled.state)
    key = iteration_keys(state.iteration_key, 0)[0]
    _, chunk, _ = jax.jit(
        lambda s, k: collect(algorithm, s.learner.acting, CARTPOLE, s.env, s.env_key, k, 8)
    )(state, key)
    other, _ = host._collect(8, key, host.learner.acting)
    np.testing.assert_array_equal(chunk.action, other.action)
    np.testing.assert_allclose(chunk.log_prob, other.log_prob, rtol=1e-5)
    np.testing.assert_allclose(chunk.obs, other.obs, rtol=1e-5, atol=1e-7)


def test_segment_lengths_do_not_matter():
    algorithm = small(PRESETS["ppo"].algorithm)
    a, b = (CompiledRunner(algorithm, CARTPOLE, N, [5]) for _ in range(2))
    a.advance(6)
    b.advance(1)
    b.advance(3)
    b.advance(2)
    assert distance(a.learners[0], b.learners[0]) == 0.0


@pytest.mark.parametrize("count", [2, 3])
def test_seeds_together_equal_each_alone(count):
    """Sharded over devices and mapped: the same numbers as alone, within rtol 1e-5."""
    algorithm = small(PRESETS["ppo"].algorithm)
    together = CompiledRunner(algorithm, CARTPOLE, N, list(range(count)))
    together.advance(4)
    for seed, learner in enumerate(together.learners):
        alone = CompiledRunner(algorithm, CARTPOLE, N, [seed])
        alone.advance(4)
        for x, y in zip(jax.tree.leaves(learner), jax.tree.leaves(alone.learners[0]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert distance(together.learners[0], together.learners[1]) > 1e-3


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_every_seed_gets_its_budget_and_no_more(name):
    """Episodes differ in length between seeds: each stops by its own count, as it would alone."""
    algorithm, env = small(PRESETS[name].algorithm, n_steps=12), CARTPOLE
    runs = [SeedRun(seed) for seed in range(3)]
    together = CompiledRunner(algorithm, env, N, range(3))
    run_training(together, runs, 2000)
    for seed, learner in enumerate(together.learners):
        alone, run = CompiledRunner(algorithm, env, N, [seed]), SeedRun(seed)
        run_training(alone, [run], 2000)
        assert (run.steps, run.iterations) == (runs[seed].steps, runs[seed].iterations)
        assert 2000 <= run.steps < 2000 + 12 * N
        assert distance(learner.acting, alone.learners[0].acting) < 1e-5


def test_a_compiled_environment_that_gives_infinity_is_named():
    env = _Infinite()
    runner = CompiledRunner(small(PRESETS["ppo"].algorithm, normalize=True), env, N, [0])
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


def test_second_call_does_not_recompile():
    algorithm = small(PRESETS["ppo"].algorithm)
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
    chunk, (returns, _) = host._collect(20, iteration_keys(host.iteration_key, 0)[0], host.learner.acting)
    assert chunk.reward.shape == (20, N)
    assert len(returns) == N
    ends = (chunk.terminated | chunk.truncated) & chunk.valid
    np.testing.assert_array_equal(ends.sum(0), 1)
    np.testing.assert_array_equal(chunk.valid.sum(0), np.argmax(ends, 0) + 1)
    np.testing.assert_allclose(np.where(chunk.valid, chunk.reward, 0).sum(0).sum(), returns.sum())
