"""Online actor-critic with traces: its steps against plain loops, and its bounded, normalised variant."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.algorithms.online_traces import OnlineTraces
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.optim import flatten
from actrix.core.types import Chunk, Spec
from actrix.envs.jax_envs import jax_env
from actrix.envs.tables import grid_world
from actrix.lab import exact as oracle
from actrix.loops.compiled import CompiledRunner
from actrix.nets.networks import NetworkConfig
from actrix.nets.online_networks import build_actor_and_critic

S, A, GAMMA = 4, 3, 0.9
GRID_SPEC = Spec(spaces.Discrete(S), spaces.Discrete(A))
LINEAR = {"policy_kwargs": {"net_arch": []}, "gamma": GAMMA}


def recorded(length=40, seed=0):
    rng = np.random.default_rng(seed)
    s, first, rows = rng.integers(S), True, []
    for _ in range(length):
        s2, a = rng.integers(S), rng.integers(A)
        term, trunc = rng.random() < 0.1, rng.random() < 0.1
        trunc = trunc and not term
        rows.append((s, a, rng.normal(), s2, term, trunc, first))
        first = term or trunc
        s = rng.integers(S) if first else s2
    return [np.array(c) for c in zip(*rows, strict=True)]


def chunk_of(columns):
    s, a, r, s2, term, trunc, first = (c[:, None] for c in columns)
    return Chunk(obs=s, action=a.astype(np.int32), reward=r.astype(np.float32), next_obs=s2, terminated=term,
                 truncated=trunc, first=first)  # fmt: skip


def loop(columns, start, *, alpha, alpha_actor, lam, actor_lam, ent_coef, gamma_weight, bounded=None):
    """Linear V and softmax policy of one-hot states (weights and biases), from the equations."""
    wv, bv, wp, bp = (np.array(x, float) for x in start)
    zero = lambda: [np.zeros_like(x) for x in (wv, bv, wp, bp)]
    z, weight = zero(), 1.0
    for s, a, r, s2, term, _, first in zip(*columns, strict=True):
        if first:
            z, weight = zero(), 1.0
        value = wv[s] + bv
        delta = r + (0 if term else GAMMA * (wv[s2] + bv)) - value
        logits = wp[s] + bp
        p = np.exp(logits - logits.max())
        p /= p.sum()
        score = np.eye(A)[a] - p
        entropy = -np.sum(p * np.log(p))
        score = score + ent_coef * np.sign(delta) * (-p * (np.log(p) + entropy))
        score = score * (weight if gamma_weight else 1.0)
        z[0] = GAMMA * lam * z[0] + np.eye(S)[s]
        z[1] = GAMMA * lam * z[1] + 1
        z[2] = GAMMA * actor_lam * z[2] + np.outer(np.eye(S)[s], score)
        z[3] = GAMMA * actor_lam * z[3] + score
        rates = [alpha, alpha_actor]
        if bounded:
            norms = [np.abs(z[0]).sum() + np.abs(z[1]).sum(), np.abs(z[2]).sum() + np.abs(z[3]).sum()]
            rates = [
                x / max(1, x * k * max(abs(delta), 1) * n)
                for x, k, n in zip(rates, bounded, norms, strict=True)
            ]
        wv, bv = wv + rates[0] * delta * z[0], bv + rates[0] * delta * z[1]
        wp, bp = wp + rates[1] * delta * z[2], bp + rates[1] * delta * z[3]
        weight *= GAMMA
    return wv, bv, wp, bp


def parts(net):
    return net.critic.out.weight[:, 0], net.critic.out.bias[0], net.actor.out.weight, net.actor.out.bias


@pytest.mark.parametrize("pieces", [1, 40])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"actor_lam": 0.3, "gamma_weight": True},
        {"ent_coef": 0.1},
        {"step": "bounded", "learning_rate": 1.0, "actor_learning_rate": 1.0, "ent_coef": 0.01},
    ],
    ids=["plain", "weighted", "entropy", "bounded"],
)
def test_the_steps_equal_the_equations(own, pieces):
    settings = {"learning_rate": 0.1, "actor_learning_rate": 0.05, "lam": 0.8} | own
    algorithm = configure(PRESETS["td-lambda-ac"].algorithm, LINEAR | settings)
    learner = algorithm.init(jax.random.key(1), GRID_SPEC, 1)
    start, columns = parts(learner.acting.net), recorded()
    learn, chunk = jax.jit(algorithm.learn), chunk_of(columns)
    for part in np.split(np.arange(40), pieces):
        learner, metrics = learn(
            learner, jax.tree.map(lambda x, part=part: x[part], chunk), jax.random.key(0)
        )
        assert metrics["nonfinite"] == 0
    right = loop(
        columns, start, alpha=settings["learning_rate"], alpha_actor=settings["actor_learning_rate"], lam=0.8,
        actor_lam=settings.get("actor_lam", 0.8), ent_coef=settings.get("ent_coef", 0.0),
        gamma_weight=settings.get("gamma_weight", False), bounded=(2.0, 3.0) if "step" in own else None,
    )  # fmt: skip
    for found, x in zip(parts(learner.acting.net), right, strict=True):
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_several_environments_make_the_mean_of_their_steps():
    algorithm = configure(PRESETS["td-lambda-ac"].algorithm, LINEAR)
    a, b = chunk_of(recorded(1, 0)), chunk_of(recorded(1, 1))
    learner = lambda n: algorithm.init(jax.random.key(1), GRID_SPEC, n)
    theta = lambda learner: flatten(learner.acting.net)[0]
    start = theta(learner(1))
    steps = [theta(algorithm.learn(learner(1), x, jax.random.key(0))[0]) - start for x in (a, b)]
    both = jax.tree.map(lambda x, y: np.concatenate([x, y], axis=1), a, b)
    together = theta(algorithm.learn(learner(2), both, jax.random.key(0))[0]) - start
    np.testing.assert_allclose(together, (steps[0] + steps[1]) / 2, atol=1e-7)
    assert np.abs(together).max() > 1e-5


def test_a_fixed_policy_is_evaluated_by_semi_gradient_td(optimized):
    """`actor_learning_rate` = 0: V of the initial (uniform) policy on a grid, as the oracle has it."""
    grid = grid_world(["S..", "..G"], gamma=0.9)
    algorithm = configure(
        PRESETS["td-lambda-ac"].algorithm,
        LINEAR | {"actor_learning_rate": 0.0, "learning_rate": "lin_0.2_0.005", "train_freq": 8, "lam": 0.7},
    )
    runner = CompiledRunner(algorithm, grid, 8, [0])
    actor = flatten(runner.learners[0].acting.net.actor)[0]
    runner.set_training(total_steps=8 * 8 * 800)
    runner.advance(800)
    net = runner.learners[0].acting.net
    np.testing.assert_array_equal(flatten(net.actor)[0], actor)
    v = np.asarray(net.critic.out.weight[:, 0] + net.critic.out.bias[0])
    inside = ~grid.terminal
    right = oracle.value(grid, oracle.uniform_policy(grid))
    np.testing.assert_allclose(v[grid.shows][inside], right[inside], atol=0.04)


@pytest.mark.slow  # the steps equal the equations, and test_learning.py has both presets learn to act
@pytest.mark.parametrize("name", ["stream-ac", "td-lambda-ac"])
def test_a_grid_world_is_solved(name, optimized):
    grid = grid_world(["S...", ".##.", "...G"], gamma=0.95, max_episode_steps=60)
    own = {"gamma": 0.95, "policy_kwargs": {"net_arch": [] if name == "td-lambda-ac" else [32]}}
    own |= {"learning_rate": 0.1} if name == "td-lambda-ac" else {}
    algorithm = configure(PRESETS[name].algorithm, own)
    runner = CompiledRunner(algorithm, grid, 1, [0])
    runner.set_training(total_steps=10_000)
    runner.warm()
    runner.advance(10_000)
    acting = runner.actings[0]
    states = jnp.arange(int(grid.shows.max()) + 1)
    action, _ = algorithm.policy(acting, None, states, None, None)
    policy = np.eye(4)[np.asarray(action)[grid.shows]]
    best = oracle.performance(grid, oracle.value_iteration(grid).policy)
    assert oracle.performance(grid, policy) >= 0.99 * best


@pytest.mark.slow  # the presets' own tests
@pytest.mark.parametrize("name", ["td-lambda-ac", "stream-ac"])
def test_cartpole_is_learned(name, optimized):
    """30,000 single steps: both are far above a random policy's 22."""
    runner = CompiledRunner(PRESETS[name].algorithm, jax_env("CartPole-v1"), 1, [0])
    runner.set_training(total_steps=30_000)
    runner.warm()
    returns = np.concatenate([runner.advance(10_000)[0].ep_returns for _ in range(3)])
    assert returns[-30:].mean() > {"td-lambda-ac": 60, "stream-ac": 120}[name]


# ------------------------------------------------------------------ networks and settings


def test_sparse_networks():
    spec = Spec(spaces.Box(-1, 1, (20,)), spaces.Discrete(2))
    config = NetworkConfig(pi=(10,), vf=(10,), layer_norm=True)
    net = build_actor_and_critic(config, spec, jax.random.key(0), 0.9)
    for layer in (net.actor.body.layers[0], net.critic.body.layers[0]):
        np.testing.assert_array_equal((np.asarray(layer.weight) != 0).sum(0), 2)
        assert np.abs(layer.weight).max() <= 1 / np.sqrt(20)
        assert not np.asarray(layer.bias).any()
    assert (np.asarray(net.critic.out.weight) != 0).sum() == 1
    assert net.actor.body.norms[0].weight is None
    one = build_actor_and_critic(
        config, Spec(spaces.Box(-1, 1, (1,)), spaces.Discrete(2)), jax.random.key(0), 0.9
    )
    assert np.asarray(one.actor.body.layers[0].weight).all()


def test_continuous_actions_learn_too():
    spec = Spec(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,)))
    algorithm = configure(PRESETS["stream-ac"].algorithm, {"policy_kwargs": {"net_arch": [8]}})
    learner = algorithm.init(jax.random.key(0), spec, 2)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    no = np.zeros((5, 2), bool)
    chunk = Chunk(
        obs=draw(5, 2, 2),
        action=draw(5, 2, 3),
        reward=draw(5, 2),
        next_obs=draw(5, 2, 2),
        terminated=no,
        truncated=no,
    )
    after, metrics = algorithm.learn(learner, chunk, jax.random.key(0))
    assert metrics["nonfinite"] == 0
    assert (np.asarray(after.acting.net.actor.log_std) != 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "long"}, "choose one of plain, bounded"),
        ({"lam": 2}, r"lam=2 must lie in \[0, 1\]"),
        ({"actor_lam": -1}, "actor_lam=-1 must lie"),
        ({"learning_rate": 0}, "learning_rate=0 must be positive"),
        ({"sparsity": 3}, "sparsity=3 must lie"),
        ({"normalize_obs": "no"}, "must be True or False"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(PRESETS["td-lambda-ac"].algorithm, settings)
    assert dataclasses.replace(OnlineTraces()) == PRESETS["td-lambda-ac"].algorithm


def test_a_recurrent_network_is_refused():
    algorithm = configure(PRESETS["td-lambda-ac"].algorithm, {"policy_kwargs": {"cell": "lstm"}})
    with pytest.raises(ValueError, match="recurrent cell"):
        algorithm.check(GRID_SPEC, 1)
