"""Break the algorithm in the ways that matter and check that the learning tests above would notice."""

import dataclasses

import jax.numpy as jnp
import pytest
from helpers import probability, small, train, value

from actrix.actors import answers
from actrix.algorithms import estimates
from actrix.algorithms.presets import PRESETS
from actrix.core import normalize
from actrix.critics import returns
from actrix.envs.jax_envs import ClassicEnv
from actrix.envs.probes import ActionObs, InfiniteTimeLimit, MaskVelocity

PPO = PRESETS["ppo"].algorithm


def test_flipped_advantage(monkeypatch):
    original = estimates.psi
    monkeypatch.setattr(estimates, "psi", lambda *a, **k: -original(*a, **k))
    runner = train(small(PPO), ActionObs(), 60)
    assert probability(runner, [1.0, 0.0])[1] < 0.1


def test_dropped_bootstrap(monkeypatch):
    original = returns.gae

    def mutant(*, terminated, truncated, **rows):
        return original(terminated=terminated | truncated, truncated=truncated, **rows)

    monkeypatch.setattr(returns, "gae", mutant)
    runner = train(small(PPO, gamma=0.5), InfiniteTimeLimit(steps=2), 200)
    assert value(runner, [0.0, 0.0]) < 1.6


def test_bootstrap_through_termination(monkeypatch):
    original = returns.gae

    def mutant(*, terminated, truncated, **rows):
        return original(terminated=jnp.zeros_like(terminated), truncated=terminated | truncated, **rows)

    monkeypatch.setattr(returns, "gae", mutant)
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

    def mutant(self, *, psi, log_prob, old_log_prob, **unused):
        return jnp.exp(log_prob - old_log_prob) * psi, {}

    monkeypatch.setattr(answers.PPOClip, "objective", mutant)
    left = train(algorithm, ActionObs(), 0, seed=2).advance(1)[0].metrics["train/approx_kl"]
    assert left > 2 * kept


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_no_gradient_flows_through_the_target(name):
    """The target is a constant: its values carry no gradient."""
    algorithm = small(PRESETS[name].algorithm)
    assert dataclasses.is_dataclass(algorithm)
    runner = train(algorithm, InfiniteTimeLimit(steps=2), 1)
    batch = estimates.estimate(
        algorithm,
        runner.learners[0].acting.net,
        runner.learners[0].training,
        _chunk(runner),
        None,
    )
    import jax

    gradient = jax.grad(
        lambda reward: jnp.sum(
            estimates.estimate(
                algorithm,
                runner.learners[0].acting.net,
                runner.learners[0].training,
                dataclasses.replace(_chunk(runner), reward=reward),
                None,
            ).target
        )
    )(_chunk(runner).reward)
    assert float(jnp.max(jnp.abs(gradient))) == 0.0
    assert batch.target.shape == batch.psi.shape


def _chunk(runner):
    import jax

    from actrix.run.compiled import collect

    state = jax.tree.map(lambda x: x[0], runner.state)
    return collect(
        runner.algorithm, state.learner.acting, runner.env, state.env, state.env_key, state.iteration_key, 8
    )[1]
