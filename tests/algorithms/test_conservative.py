"""Conservative policy iteration against the exact oracle: its step, its guarantee, and what it learns from samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.algorithms.conservative import ConservativeIteration, conservative_step
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.finite import FiniteMDP
from actrix.envs.tables import chain, grid_world, random_mdp
from actrix.lab import exact as oracle
from actrix.loops.compiled import CompiledRunner

GRID = grid_world(["S..", ".#.", "..G"], gamma=0.9, slip=0.1, max_episode_steps=40)


def greedy(q):
    return np.eye(q.shape[1])[q.argmax(1)]


def exact_step(mdp, policy):
    """(α, the greedy policy) from exact A_π and ρ_π."""
    q = oracle.q_value(mdp, policy)
    towards = greedy(q)
    gain = np.sum((towards - policy) * q, axis=1)
    with jax.enable_x64(True):
        alpha, mean, largest = conservative_step(
            jnp.asarray(gain), jnp.asarray(oracle.visitation(mdp, policy)), mdp.gamma
        )
    assert mean == pytest.approx(oracle.visitation(mdp, policy) @ gain)
    assert largest == pytest.approx(np.abs(gain).max())
    return float(alpha), towards


@pytest.mark.parametrize(
    "mdp", [random_mdp(6, 3, seed=1, gamma=0.6), chain(5, gamma=0.8)], ids=["random", "chain"]
)
def test_the_exact_step_is_the_oracles_and_keeps_its_guarantee(mdp):
    policy = oracle.uniform_policy(mdp)
    best = oracle.performance(mdp, oracle.value_iteration(mdp).policy)
    for _ in range(300):
        if best - oracle.performance(mdp, policy) < 1e-4:
            break  # nearer, α is a quotient of rounding errors
        alpha, towards = exact_step(mdp, policy)
        assert alpha == pytest.approx(oracle.cpi_step(mdp, policy, towards), rel=1e-6)
        bound, now = oracle.cpi_bound(mdp, policy, towards, alpha), oracle.performance(mdp, policy)
        policy = oracle.mixture(policy, towards, alpha)
        assert oracle.performance(mdp, policy) >= bound - 1e-12 >= now - 2e-12
    assert oracle.performance(mdp, policy) > oracle.performance(mdp, oracle.uniform_policy(mdp)) + 0.01


def test_no_step_without_gain():
    gain, visitation = jnp.asarray([-1.0, 0.2]), jnp.asarray([1.0, 1.0])
    assert conservative_step(gain, visitation, 0.9)[0] == 0
    assert conservative_step(jnp.zeros(2), visitation, 0.9)[0] == 0
    assert conservative_step(jnp.asarray([5.0, 5.0]), visitation, 0.0)[0] == 1


def runner(mdp=GRID, num_envs=64, **settings):
    algorithm = configure(PRESETS["cpi"].algorithm, {"gamma": mdp.gamma, **settings})
    algorithm.check(mdp.spec, num_envs)
    return CompiledRunner(algorithm, mdp, num_envs, [0])


def policy_of(run, mdp=GRID):
    table = np.asarray(run.learners[0].acting.net.policy, np.float64)
    return (table / table.sum(1, keepdims=True))[mdp.shows]


def test_every_sampled_step_respects_the_improvement_bound():
    """Whatever the estimates say, η of the mixture is at least L − 2εγα²/(1−γ)², computed exactly; and it rises."""
    run, gains = runner(mixing=0.05), []
    old = policy_of(run)
    for _ in range(40):
        (report,) = run.advance(1)
        alpha, new = report.metrics["train/mixing"], policy_of(run)
        if alpha:
            towards = np.clip((new - (1 - alpha) * old) / alpha, 0, None)
            towards /= towards.sum(1, keepdims=True)
            exact = oracle.performance(GRID, new)
            assert exact >= oracle.cpi_bound(GRID, old, towards, alpha) - 1e-5
            gains.append(exact - oracle.performance(GRID, old))
        old = new
    assert np.mean(np.array(gains) > -1e-3) > 0.9
    best = oracle.performance(GRID, oracle.value_iteration(GRID).policy)
    start = oracle.performance(GRID, oracle.uniform_policy(GRID))
    assert oracle.performance(GRID, old) > start + 0.8 * (best - start)


def test_the_estimates_of_a_fixed_policy_are_right():
    """With α = 0 the policy stays uniform: Q and ρ_π approach the oracle's."""
    run = runner(mixing=0.0, learning_rate=0.05)
    run.advance(400)
    net, uniform = run.learners[0].acting.net, oracle.uniform_policy(GRID)
    inside = ~GRID.terminal
    q = np.asarray(net.all_q())[GRID.shows]
    np.testing.assert_allclose(q[inside], oracle.q_value(GRID, uniform)[inside], atol=0.08)
    # a chunk's own estimate of ρ_π
    algorithm = run.algorithm
    state = jax.tree.map(lambda x: x[0], run.state)
    from actrix.algorithms import tables
    from actrix.loops.compiled import collect

    _, chunk, _ = collect(
        algorithm, state.learner.acting, GRID, state.env, state.env_key, jax.random.key(5), 40
    )
    found = np.asarray(algorithm.visitation(net, tables.as_rows(net, chunk)))
    right = oracle.visitation(GRID, uniform)
    np.testing.assert_allclose(found[: len(right)][inside], right[inside], atol=0.6)
    assert found.sum() == pytest.approx(right.sum(), rel=0.1)


def test_illegal_actions_have_no_part_in_the_gain():
    """Their Q stays 0, which beats every cost: with weight on them no step would ever seem to gain anything."""
    P, r = np.zeros((3, 3, 3)), np.zeros((3, 3))
    P[0, 0, 1] = P[0, 1, 2] = P[0, 2, 0] = 1
    P[1:, :, 2] = 1
    r[:2] = [[-1, -4, 0], [-1, -2, 0]]
    legal = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    mdp = FiniteMDP(P, r, 0.9, 0, [2], legal, max_episode_steps=10)
    run = runner(mdp, 16, mixing=0.1)
    run.advance(60)
    policy = policy_of(run, mdp)
    np.testing.assert_allclose(
        policy[:2, 2], 0, atol=0.01
    )  # its share of the first policy fades; it is never taken
    assert (policy[:2, 0] > 0.9).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixing": 2}, r"mixing=2 must lie in \[0, 1\]"),
        ({"gamma": 1.0}, "gamma=1: .* set mixing"),
        ({"tolerance": -1}, "tolerance=-1 must be"),
        ({"policy_kwargs": {"net_arch": [4]}}, "a table has no network"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(PRESETS["cpi"].algorithm, settings)
    assert dataclasses.is_dataclass(ConservativeIteration)
