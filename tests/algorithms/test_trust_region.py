"""What the natural-gradient algorithms do to the parameters, and what they promise of every step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from helpers import NUM_ENVS, estimated, small, train
from test_gradients import N, T, learn, random_chunk, start

from actrix.actors import natural
from actrix.actors.kronecker import KroneckerFactored
from actrix.actors.natural import NaturalGradient, TrustRegion
from actrix.actors.policy_gradient import PPOClip
from actrix.actors.psi import WholeReturn
from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS, compose, composed
from actrix.algorithms.settings import SettingError, configure
from actrix.algorithms.sound import unsound
from actrix.core.fit import Natural
from actrix.core.optim import flatten
from actrix.core.types import Spec
from actrix.core.words import write
from actrix.critics.nothing import NoCritic
from actrix.critics.value import GAE
from actrix.data.chunk import OnPolicy
from actrix.data.lagged import Lagged
from actrix.envs.classic import ClassicEnv
from actrix.envs.probes import ActionObs, TMaze
from actrix.nets.memory import apply

PLAIN = {
    "n_steps": T,
    "batch_size": None,
    "gamma": 0.9,
    "n_critic_updates": 2,
    "policy_kwargs": {"net_arch": [4]},
}
BOX = Spec(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32), T)


def algorithm(actor="trpo", critic="gae", **settings):
    return compose(critic, actor, "on-policy", PLAIN | settings)


def branches(net):
    """(θ of the policy, θ of the critic's own layers, (θ, θ_v) → network)."""
    params, build = Natural().split(net)
    return params["policy"], params["critic"], lambda theta, own: build({"policy": theta, "critic": own})


def policy_bytes(learner):
    return np.asarray(branches(learner.acting.net)[0]).tobytes()


def rows(chunk):
    """(obs, action, valid) as one axis of rows."""
    flat = lambda x: jnp.asarray(x).reshape(-1, *np.shape(x)[2:])
    valid = np.ones((T, N), bool) if chunk.valid is None else chunk.valid
    return flat(chunk.obs), flat(chunk.action), flat(valid)


@jax.jit
def kl_of_rows(old, new, obs):
    """KL(π_old ‖ π_new) at each."""
    return apply(old, obs)[0].dist.kl(apply(new, obs)[0].dist)


def batch_kl(before, after, chunk):
    """Mean KL(π_before ‖ π_after) over the valid rows."""
    obs, _, valid = rows(chunk)
    each = kl_of_rows(before.acting.net, after.acting.net, obs)
    return float(np.sum(np.where(valid, each, 0)) / np.sum(valid))


# ------------------------------------------------------------------ TRPO


# Episodes of other lengths: NPG's step of them is numpy's below, and test_gradients.py has padding influence nothing.
@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["chunks", "episodes"]
)
def test_every_step_keeps_the_trust_region_or_the_old_parameters(whole):
    """Over steps small and large, a singular F too: mean KL ≤ δ(1 + 1e-3), or the old policy bit for bit."""
    outcomes, step = (
        set(),
        jax.jit(algorithm("trpo:line_search_max_iter=2").learn),
    )  # its numbers are the learner's
    for delta, damping in ((0.01, 0.1), (0.01, 0.0), (0.3, 1e-4), (2.0, 1e-4)):
        alg = algorithm(f"trpo:{delta}:cg_damping={damping},line_search_max_iter=2")
        learner = start(alg)
        for seed in range(8):
            chunk = random_chunk(alg, learner, whole, seed)
            after, metrics = step(learner, chunk, jax.random.key(seed))
            success = bool(metrics["train/is_line_search_success"])
            outcomes.add(success)
            if success:
                kl = batch_kl(learner, after, chunk)
                assert 0 < kl <= delta * (1 + 1e-3)
                np.testing.assert_allclose(metrics["train/kl_divergence_loss"], kl, rtol=1e-2)
            else:
                assert policy_bytes(after) == policy_bytes(learner)
            learner = after
    assert outcomes == {True, False}


def test_a_forced_failure_restores_the_policy_and_still_fits_the_critic(monkeypatch):
    monkeypatch.setattr(natural, "step_length", lambda *_: jnp.float32(1e4))
    alg = algorithm("trpo:line_search_max_iter=3")
    learner = start(alg)
    after, metrics = learn(alg, learner, random_chunk(alg, learner, False))
    assert metrics["train/is_line_search_success"] == metrics["nonfinite"] == 0
    assert policy_bytes(after) == policy_bytes(learner)
    assert metrics["train/kl_divergence_loss"] == 0
    critic = lambda x: branches(x.acting.net)[1]
    assert not np.array_equal(critic(after), critic(learner))


def test_the_step_is_not_touched_by_the_critics_passes():
    found = []
    for passes in (1, 7):
        alg = algorithm(n_critic_updates=passes, learning_rate=0.1)
        learner = start(alg)
        after, metrics = learn(alg, learner, random_chunk(alg, learner, False))
        assert metrics["train/is_line_search_success"]
        found.append(policy_bytes(after))
    assert found[0] == found[1]


def test_a_row_that_is_not_finite_changes_nothing():
    alg = algorithm()
    learner = start(alg)
    chunk = random_chunk(alg, learner, False)
    reward = chunk.reward.copy()
    reward[2, 1] = np.nan
    after, metrics = learn(alg, learner, dataclasses.replace(chunk, reward=reward))
    assert metrics["nonfinite"] == 1
    assert metrics["bad_row"] == 2 * N + 1
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), after.acting, learner.acting)
    assert all(jax.tree.leaves(same))
    same = jax.tree.map(
        lambda a, b: np.array_equal(a, b), after.training.opt["critic"], learner.training.opt["critic"]
    )
    assert all(jax.tree.leaves(same))


def test_subsampling_takes_every_kth_row_of_all_environments():
    alg = algorithm(sub_sampling_factor=3, n_steps=6)
    taken = np.asarray(alg.fit.whole(18))  # row t·N + n
    assert len(taken) == 6
    assert set(taken % 3) == {0, 1, 2}
    learner = start(alg)
    assert learn(alg, learner, random_chunk(alg, learner, False))[1]["nonfinite"] == 0
    with pytest.raises(ValueError, match="sub_sampling_factor=19 leaves none of a chunk's 18 rows"):
        algorithm(sub_sampling_factor=19).check(BOX, N)


@pytest.mark.slow  # the test above asks it of random chunks, the one below of the metrics
def test_real_steps_on_cartpole_stay_in_the_region():
    """The metric that users see, over ten chunks of the environment."""
    alg = small(PRESETS["trpo"].algorithm, n_steps=32, cg_damping=1e-3)
    runner = train(alg, ClassicEnv("CartPole-v1"), 0)
    succeeded = 0
    for _ in range(10):
        before = np.asarray(branches(runner.learners[0].acting.net)[0])
        metrics = {k: float(np.ravel(v)[0]) for k, v in runner.advance(1)[0].metrics.items()}
        if metrics["train/is_line_search_success"]:
            succeeded += 1
            assert 0 < metrics["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-3)
        else:
            assert before.tobytes() == np.asarray(branches(runner.learners[0].acting.net)[0]).tobytes()
    assert succeeded >= 5


CELLS = {"lstm": {"hidden_size": 8}, "gru": {"hidden_size": 8}, "transformer": {"d_model": 8, "context": 3}}


@pytest.mark.slow  # test_defects.py has an LSTM's step keep the region
@pytest.mark.parametrize("cell", ["lstm", "gru", "transformer"])
def test_a_recurrent_policy_keeps_the_region(cell):
    alg = small(PRESETS["trpo"].algorithm, policy_kwargs={"net_arch": [8], "cell": cell, **CELLS[cell]})
    runner = train(alg, TMaze(length=3), 0)
    metrics = runner.advance(3)[0].metrics
    assert float(np.ravel(metrics["train/kl_divergence_loss"])[-1]) <= 0.01 * (1 + 1e-3)
    assert float(np.ravel(metrics["train/is_line_search_success"])[-1]) > 0


# ------------------------------------------------------------------ NPG and ACKTR


def explicit(alg, learner, chunk):
    """(θ, ∇L, F) of a chunk by dense matrices; L = mean of log π · normalised advantage."""
    theta, theta_v, join = branches(learner.acting.net)
    obs, action, valid = rows(chunk)
    psi = np.asarray(estimated(alg, learner, chunk)[2]["psi"]).reshape(-1)
    psi = (psi - psi[valid].mean()) / psi[valid].std()
    dist_of = lambda theta: apply(join(theta, theta_v), obs)[0].dist
    log_prob = lambda theta: dist_of(theta).log_prob(learner.acting.net.head.flatten_action(action))
    gradient = jax.grad(lambda theta: jnp.sum(jnp.where(valid, log_prob(theta) * psi, 0)) / valid.sum())(
        theta
    )
    return np.asarray(theta), np.asarray(gradient), np.asarray(natural.fisher_matrix(dist_of, theta, valid))


@pytest.mark.parametrize(("cap", "whole"), [(10.0, False), (0.01, False), (10.0, True)])
def test_npg_steps_by_the_inverse_fisher_matrix(cap, whole):
    """θ + min(max_step, √(2δ/xᵀ(F+λI)x)) x, x = (F+λI)⁻¹∇L, by numpy."""
    alg = algorithm(f"npg:0.02:max_step={cap},cg_max_steps=60,cg_damping=0.05")
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole)
    theta, gradient, fisher = explicit(alg, learner, chunk)
    x = np.linalg.solve(fisher + 0.05 * np.eye(len(theta)), gradient)
    length = min(cap, np.sqrt(2 * 0.02 / (x @ gradient)))
    assert (length == cap) == (cap == 0.01)
    after, metrics = learn(alg, learner, chunk)
    np.testing.assert_allclose(metrics["train/step_size"], length, rtol=1e-3)
    np.testing.assert_allclose(branches(after.acting.net)[0], theta + length * x, atol=2e-4)


def test_trpos_first_trial_is_the_same_step():
    alg = algorithm("trpo:1e-4:cg_max_steps=60,cg_damping=0.05")
    learner = start(alg)
    chunk = random_chunk(alg, learner, False)
    theta, gradient, fisher = explicit(alg, learner, chunk)
    x = np.linalg.solve(fisher + 0.05 * np.eye(len(theta)), gradient)
    step = np.sqrt(2 * 1e-4 / (x @ gradient)) * x
    after, _ = learn(alg, learner, chunk)
    taken = np.asarray(branches(after.acting.net)[0]) - theta
    ratio = np.linalg.norm(taken) / np.linalg.norm(step)
    np.testing.assert_allclose(taken, ratio * step, atol=2e-5)
    assert min(abs(ratio - 0.8**j) for j in range(10)) < 5e-3


@pytest.mark.parametrize("continuous", [False, True])
def test_acktr_keeps_its_factors_and_its_step_bound(continuous):
    alg = algorithm("acktr:0.005:max_step=100.0")
    learner = start(alg) if not continuous else alg.init(jax.random.key(0), BOX, N)
    for seed in range(3):
        chunk = random_chunk(alg, learner, False, seed)
        _, gradient, _ = explicit(alg, learner, chunk)
        after, metrics = learn(alg, learner, chunk)
        step = np.asarray(branches(after.acting.net)[0]) - np.asarray(branches(learner.acting.net)[0])
        # η²xᵀF̂x = 2δ, and the step is ηx with xᵀF̂x = xᵀ∇L.
        np.testing.assert_allclose(metrics["train/step_size"] * (step @ gradient), 2 * 0.005, rtol=1e-2)
        assert 0 < metrics["train/kl_divergence_loss"] < 0.05
        learner = after
    np.testing.assert_allclose(learner.training.opt["policy"].weight, 1 + 0.99 + 0.99**2, rtol=1e-6)


def test_entropy_and_reference_enter_the_objective():
    """A bonus large enough makes the policy more random; a KL to the uniform policy does so too."""
    for settings in ({"ent_coef": 5.0}, {"ref_kl_coef": 5.0, "ref_kl_in": "loss"}):
        alg = algorithm(**settings)
        learner = start(alg)
        chunk = random_chunk(alg, learner, False)
        after, _ = learn(alg, learner, chunk)
        entropy = lambda x: float(jnp.mean(apply(x.acting.net, rows(chunk)[0])[0].dist.entropy()))  # noqa: B023
        assert entropy(after) > entropy(learner)


# ------------------------------------------------------------------ compositions and refusals


@pytest.mark.parametrize(
    ("critic", "actor"),
    [("q-td", "trpo:0.01:10:0.1:0.5:5:td-error"),
     *(pytest.param(*words, marks=pytest.mark.slow)  # test_compositions.py: the same parts
       for words in (("td-lambda:0.9", "acktr:0.001:0.25:0.01:0.99"), ("gae:0.9", "trpo:0.02"),
                     ("none", "npg:0.01:reward-to-go"), ("none", "trpo:optimal")))],
)  # fmt: skip
def test_compositions_are_read_and_learn(critic, actor):
    alg = small(composed(critic, actor).algorithm)
    assert isinstance(alg.fit, Natural)
    assert composed(critic, write(alg.actor)).algorithm.actor == alg.actor
    assert np.isfinite(
        np.ravel(train(alg, ActionObs(), 2).advance(1)[0].metrics["train/policy_objective"])
    ).all()


def test_unsound_ones_are_refused_with_their_reason():
    once = OnPolicy(n_epochs=1, n_critic_updates=1)
    reason = unsound(GAE(), TrustRegion(), Lagged(lag=2))
    assert (
        reason
        == "the Fisher matrix and the surrogate are those of the policy that acted: take data on-policy"
    )
    assert "must be centred" in unsound(NoCritic(), TrustRegion(psi=WholeReturn()), once)
    assert unsound(NoCritic(), NaturalGradient(psi=WholeReturn()), once) is None
    with pytest.raises(SettingError, match="learns in another way"):
        configure(PRESETS["ppo"].algorithm, {"actor": "trpo"})
    with pytest.raises(SettingError, match="learns in another way"):
        configure(PRESETS["trpo"].algorithm, {"actor": "ppo-clip"})
    assert configure(PRESETS["trpo"].algorithm, {"actor": "npg", "critic": "td"}).critic.name == "td"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_kl": 0}, "target_kl=0 must be positive"),
        ({"target_kl": None}, "target_kl=None must be a finite number"),
        ({"cg_max_steps": 0}, "cg_max_steps=0 must be a whole number"),
        ({"cg_damping": -1}, "cg_damping=-1 must be a finite number of at least 0"),
        ({"line_search_shrinking_factor": 1}, "must lie between 0 and 1"),
        ({"line_search_max_iter": 0}, "line_search_max_iter=0 must be a whole number"),
        ({"n_critic_updates": 0}, "n_critic_updates must be at least 1"),
        ({"sub_sampling_factor": 1.5}, "sub_sampling_factor=1.5 must be a whole number"),
        ({"learning_rate": -1}, "learning_rate=-1.0 must be positive"),
        ({"clip_range": 0.2}, "unknown setting 'clip_range'"),
        ({"n_epochs": 3}, "takes a chunk once: n_epochs must be 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        configure(PRESETS["trpo"].algorithm, settings)


def test_acktr_refuses_what_it_cannot_factor():
    acktr = PRESETS["acktr"].algorithm
    image = Spec(spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Discrete(2))
    with pytest.raises(ValueError, match="dense layers only"):
        acktr.check(image, NUM_ENVS)
    with pytest.raises(ValueError, match="dense layers only"):
        configure(acktr, {"policy_kwargs": {"cell": "lstm"}}).check(BOX, NUM_ENVS)
    with pytest.raises(ValueError, match="stats_decay=1"):
        KroneckerFactored(stats_decay=1)
    with pytest.raises(ValueError, match="ppo-clip takes no step of natural descent"):
        Composition(GAE(), PPOClip(), OnPolicy(), Natural())


def test_the_two_branches_are_the_whole_network():
    net = start(algorithm()).acting.net
    theta, theta_v, join = branches(net)
    assert theta.size + theta_v.size == flatten(net)[0].size
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), join(theta, theta_v), net)
    assert all(jax.tree.leaves(same))
