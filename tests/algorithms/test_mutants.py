"""Break the algorithm in the ways that matter and check that the learning tests above would notice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_corrected
import test_learning
import test_off_policy as checks
from helpers import estimated, probability, shared_runner, small, train, value

from actrix.actors import pathwise
from actrix.actors.pathwise import Deterministic, Soft
from actrix.actors.policy_gradient import PPOClip
from actrix.algorithms.presets import PRESETS
from actrix.core import normalize
from actrix.core.answers import Kept
from actrix.core.distributions import TanhGaussian
from actrix.core.rows import Rows
from actrix.critics import corrected, ensemble, represent
from actrix.critics import value as value_critics
from actrix.critics.ensemble import Ensemble
from actrix.critics.q import Q
from actrix.data import replay
from actrix.data.ring import Memory
from actrix.envs.classic import ClassicEnv
from actrix.envs.probes import ActionObs, InfiniteTimeLimit, MaskVelocity
from actrix.loops.compiled import collect

PPO = PRESETS["ppo"].algorithm


def test_flipped_advantage(monkeypatch):
    original = PPOClip.remember
    flipped = lambda memo: memo | {"psi": -memo["psi"]}
    monkeypatch.setattr(PPOClip, "remember", lambda *a: flipped(original(*a)))
    runner = train(small(PPO), ActionObs(), 60)
    assert probability(runner, [1.0, 0.0])[1] < 0.1


def test_dropped_bootstrap(monkeypatch):
    original = value_critics.gae

    def mutant(rows, *rest):
        return original(dataclasses.replace(rows, discount=jnp.where(rows.cut, 0, rows.discount)), *rest)

    monkeypatch.setattr(value_critics, "gae", mutant)
    runner = train(small(PPO, gamma=0.5), InfiniteTimeLimit(steps=2), 200)
    assert value(runner, [0.0, 0.0]) < 1.6


def test_bootstrap_through_termination(monkeypatch):
    original = value_critics.gae

    def mutant(rows, *rest):
        return original(dataclasses.replace(rows, discount=jnp.full_like(rows.discount, 0.5)), *rest)

    monkeypatch.setattr(value_critics, "gae", mutant)
    runner = train(small(PPO, gamma=0.5), ActionObs(), 150)
    assert value(runner, [1.0, 0.0]) > 1.3  # 1 is right


def test_frozen_normaliser(monkeypatch):
    """Statistics that never move leave the inputs as they were."""
    env = MaskVelocity(ClassicEnv("CartPole-v1", max_episode_steps=12))
    algorithm = small(PPO, normalize=True)
    moving = train(algorithm, env, 2).learners[0].acting.obs_moments[0]
    assert float(jnp.max(moving.var)) < 0.5  # CartPole's positions are small
    monkeypatch.setattr(normalize, "update_observation_moments", lambda moments, obs, valid: moments)
    frozen = train(algorithm, env, 2).learners[0].acting.obs_moments[0]
    assert float(jnp.max(jnp.abs(frozen.var - 1))) == 0.0


def test_unclipped_ratio(monkeypatch):
    """Without the clip many epochs at a large step size leave the trust region that PPO keeps to."""
    algorithm = small(PPO, n_epochs=20, learning_rate=0.05)
    kept = train(algorithm, ActionObs(), 0, seed=2).advance(1)[0].metrics["train/approx_kl"]

    def mutant(self, view, kept, rows, psi, memo, progress):
        return jnp.exp(view.log_prob - rows.log_prob) * psi, {}

    monkeypatch.setattr(PPOClip, "objective", mutant)
    left = train(algorithm, ActionObs(), 0, seed=2).advance(1)[0].metrics["train/approx_kl"]
    assert left > 2 * kept


@pytest.mark.parametrize("name", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_no_gradient_flows_through_the_target(name):
    """The target is a constant: its values carry no gradient."""
    algorithm = small(PRESETS[name].algorithm)
    assert dataclasses.is_dataclass(algorithm)
    runner = train(algorithm, InfiniteTimeLimit(steps=2), 1)
    learner, chunk = runner.learners[0], _chunk(runner)
    _, est, memo = estimated(algorithm, learner, chunk)

    def total(reward, net):
        now = dataclasses.replace(learner, acting=dataclasses.replace(learner.acting, net=net))
        return jnp.sum(estimated(algorithm, now, dataclasses.replace(chunk, reward=reward))[1].target)

    gradient = jax.grad(total, (0, 1))(chunk.reward, learner.acting.net)
    assert all(float(jnp.max(jnp.abs(x))) == 0.0 for x in jax.tree.leaves(gradient))
    assert est.target.shape == memo["psi"].shape


def _chunk(runner):
    state = jax.tree.map(lambda x: x[0], runner.state)
    return collect(
        runner.algorithm, state.learner.acting, runner.env, state.env, state.env_key, state.iteration_key, 8
    )[1]


# ------------------------------------------------------------------ off-policy: each makes a check elsewhere fail


@pytest.fixture
def mutate(monkeypatch):
    """Replace a part; programs that were compiled without it, or with it, are forgotten."""
    caches = (checks.compiled_update, checks.compiled_learn, shared_runner)

    def forget():
        for cache in caches:
            cache.cache_clear()

    def replace(holder, name, make):
        forget()
        monkeypatch.setattr(holder, name, make(getattr(holder, name)))

    yield replace
    monkeypatch.undo()
    forget()


def fails(check, *arguments):
    with pytest.raises(AssertionError):
        check(*arguments)


def test_twin_critics_without_their_minimum(mutate):
    class Averaging:
        min = staticmethod(jnp.mean)

        def __getattr__(self, name):
            return getattr(jnp, name)

    mutate(represent, "jnp", lambda _: Averaging())
    mutate(ensemble, "jnp", lambda _: Averaging())
    fails(checks.test_twin_critics_are_joined_by_their_minimum, "td3")
    fails(checks.test_twin_critics_are_joined_by_their_minimum, "discrete-sac")
    fails(checks.test_sac_by_its_formulas)


def highest_entropy():
    """The largest estimate of a squashed policy's entropy over the batch: log 2 per dimension is the most there is."""
    alg = checks.algorithm("sac", learning_rate=0.0001)
    learner, batch = checks.start(alg), checks.random_batch(alg, rows=500)
    return float(checks.update(alg, learner, batch)[2]["train/entropy"]) / 2


def test_tanh_without_its_correction(mutate):
    grid = jnp.linspace(-1, 1, 20_001)[1:-1, None]
    mass = lambda: float(
        jnp.sum(jnp.exp(TanhGaussian(jnp.full(1, 0.3), jnp.full(1, -0.5)).log_prob(grid))) * 1e-4
    )
    assert mass() == pytest.approx(1.0, abs=1e-3)
    assert highest_entropy() < np.log(2)
    plain = lambda self, u, z: jnp.sum(-0.5 * z**2 - self.log_std - 0.5 * np.log(2 * np.pi), axis=-1)
    mutate(TanhGaussian, "_log_prob", lambda _: plain)
    assert abs(mass() - 1.0) > 0.1
    assert highest_entropy() > np.log(2)


@pytest.mark.parametrize("name", ["dqn", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sac", "iql"))])
def test_done_stored_instead_of_terminated(name, mutate):
    """Then a reward of 1 for ever is worth what comes before the time limit."""

    def mutant(original):
        return lambda memory, chunk: original(
            memory, dataclasses.replace(chunk, terminated=chunk.terminated | chunk.truncated)
        )

    mutate(Memory, "append", mutant)
    wrong = {c[0]: c[1] for c in test_learning.learned(name) if not abs(c[1] - c[2]) <= c[3]}
    assert wrong["time limit"] < 1.6


def test_actor_that_descends(mutate):
    def mutant(original):
        def rows(self, *arguments):
            loss, metrics = original(self, *arguments)
            return -loss, metrics

        return rows

    mutate(Deterministic, "loss", mutant)
    mutate(Soft, "loss", mutant)
    fails(checks.test_deterministic_actor_critics_by_their_formulas, "ddpg")
    fails(checks.test_sac_by_its_formulas)
    fails(checks.test_discrete_sac_by_its_formulas)


def test_online_network_in_place_of_the_target(mutate):
    def mutant(name):
        def make(original):
            def estimate(self, view, kept, *rest):
                return original(self, view, Kept(view.params[name], view.params.get("actor")), *rest)

            return estimate

        return make

    mutate(Q, "estimate", mutant("net"))
    for kind in ("q-learning", "double", "soft"):
        fails(checks.test_q_learning_descends_the_weighted_huber_loss, kind)
    mutate(Ensemble, "estimate", mutant("critic"))
    fails(checks.test_deterministic_actor_critics_by_their_formulas, "td3")
    fails(checks.test_sac_by_its_formulas)


def test_targets_that_follow_every_update(mutate):
    mutate(Q, "before", lambda _: lambda self, kept, params, clock: params["net"])
    fails(checks.test_target_update_interval_counts_environment_steps, 1.0)


def test_importance_weights_ignored(mutate):
    plain = lambda _: lambda rows, x: jnp.sum((rows.weight > 0) * x) / jnp.sum(rows.weight > 0)
    mutate(Rows, "mean", plain)
    fails(checks.test_q_learning_descends_the_weighted_huber_loss, "q-learning")
    fails(checks.test_prioritised_weights_enter_the_loss_and_errors_become_priorities)
    fails(checks.test_deterministic_actor_critics_by_their_formulas, "td3")


def test_ratio_ignored(mutate):
    mutate(corrected, "importance_ratio", lambda _: lambda log_prob, old: jnp.ones_like(log_prob))
    fails(test_corrected.test_v_trace_beats_the_uncorrected_learner_at_lag_8)


def test_masks_ignored_in_targets(mutate):
    def blind(rows):
        return dataclasses.replace(rows, next_mask=jnp.ones_like(rows.next_mask))

    def mutant(original):
        def estimate(self, view, kept, rows, *rest):
            return original(self, type(view)(view.build, view.params, blind(rows)), kept, blind(rows), *rest)

        return estimate

    mutate(Q, "estimate", mutant)
    for kind in ("q-learning", "soft"):
        fails(checks.test_q_learning_descends_the_weighted_huber_loss, kind)
    fails(checks.test_distributional_targets_choose_among_legal_actions, "iqn", "double")
    wrong = {c[0]: c for c in test_learning.learned("dqn") if not abs(c[1] - c[2]) <= c[3]}
    assert list(wrong) == ["masked target"]
    assert wrong["masked target"][1] == pytest.approx(0.5, abs=0.1)
    mutate(Ensemble, "estimate", mutant)
    fails(checks.test_discrete_sac_by_its_formulas)


def test_smoothing_noise_unclipped(mutate):
    clip = lambda original: (
        lambda x, low, high: x if np.ndim(low) == 0 and abs(low) == 0.4 else original(x, low, high)
    )
    mutate(pathwise.jnp, "clip", clip)
    fails(checks.test_smoothing_noise_is_clipped, 0.0)


def test_n_step_return_across_a_time_limit(mutate):
    def mutant(original):
        return lambda ends, *rest: original(
            dataclasses.replace(ends, truncated=ends.truncated & False), *rest
        )

    mutate(replay, "jump", mutant)
    fails(lambda: [checks.test_n_step_batch_is_a_double_loop(seed) for seed in range(20)])


def test_priorities_that_are_not_the_errors(mutate):
    equal = lambda loss, priority, metrics: (loss, jnp.ones_like(priority), metrics)
    mutate(Q, "loss", lambda f: lambda self, *a: equal(*f(self, *a)))
    fails(checks.test_prioritised_weights_enter_the_loss_and_errors_become_priorities)
