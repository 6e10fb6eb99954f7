"""Memory where it is needed: the cue of a T-maze decides at its end."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import small

from actrix import PPO
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.jax_envs import jax_env
from actrix.envs.probes import TMaze
from actrix.loops.compiled import CompiledRunner
from actrix.runs.config import resolve

ITERATIONS, ROWS, ENVS = 200, 10, 32


def _final_return(**policy_kwargs):
    algorithm = small(
        PRESETS["ppo"].algorithm, n_steps=ROWS, batch_size=80, learning_rate="lin_0.005", ent_coef=0.02,
        policy_kwargs={"net_arch": [16], **policy_kwargs},
    )  # fmt: skip
    runner = CompiledRunner(algorithm, TMaze(length=4), ENVS, [0])
    runner.set_training(total_steps=ITERATIONS * ROWS * ENVS)
    runner.advance(ITERATIONS - 10)
    return np.mean(runner.advance(10)[0].ep_returns)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_a_recurrent_policy_solves_the_t_maze(cell):
    assert _final_return(cell=cell, hidden_size=16) > 0.9


def test_a_whole_episode_is_one_training_sequence_and_short_ones_are_told_of():
    spec = dataclasses.replace(TMaze(length=4).spec, max_episode_steps=131)
    memory = {"policy_kwargs": {"cell": "lstm"}}
    whole = configure(PRESETS["reinforce"].algorithm, memory | {"n_steps": None, "batch_size": None})
    assert whole.data.training_length(131) == 131  # its divisor up to 64 is 1
    fitted = configure(PRESETS["reinforce"].algorithm, memory | {"n_steps": None, "batch_size": 400})
    assert fitted.fitted(spec, 4).data.batch_size == 262
    cut = configure(PRESETS["a2c"].algorithm, memory | {"n_steps": 131, "batch_size": None})
    with pytest.warns(
        UserWarning, match="training sequences have 1 rows, the largest divisor up to 64 of n_steps=131"
    ):
        cut.check(spec, 4)


def test_a_critic_with_a_cell_of_its_own_is_trained_and_kept(tmp_path):
    """A batch of half the usual sequence is the sequence; the memory of both goes through a file and `predict`."""
    model = PPO(
        "MlpLstmPolicy", TMaze(length=4), n_envs=2, n_steps=64, batch_size=32, n_epochs=1, seed=0,
        policy_kwargs={"net_arch": [8], "lstm_hidden_size": 4, "share_features_extractor": False, "n_lstm_layers": 2},
    )  # fmt: skip
    assert model.algorithm.network.enable_critic_lstm  # as its features are its own
    assert model.algorithm.data.training_length(64) == 32
    before = model.get_parameters()
    model.learn(128)
    moved = {name for name, x in model.get_parameters().items() if not np.array_equal(x, before[name])}
    assert {
        f".net.cell.{who}.layers[{i}].weight_hh" for who in ("policy", "critic") for i in range(2)
    } <= moved
    model.save(tmp_path / "model")
    again, obs = PPO.load(tmp_path / "model"), np.zeros((1, *model.observation_space.shape), np.float32)
    memory = None
    for _ in range(3):
        action, next_memory = model.predict(obs, state=memory, deterministic=True)
        other, memory = again.predict(obs, state=memory, deterministic=True)
        np.testing.assert_array_equal(action, other)
        jax.tree.map(np.testing.assert_array_equal, memory, next_memory)
    assert len(memory) == 2


def test_dropout_between_cells_is_of_learning_alone():
    models = [
        PPO("MlpLstmPolicy", TMaze(length=4), n_envs=2, n_steps=8, batch_size=16, n_epochs=1, seed=0,
            policy_kwargs={"net_arch": [], "lstm_hidden_size": 4, "n_lstm_layers": 2, "lstm_kwargs": {"dropout": p}})
        for p in (0.0, 0.5)
    ]  # fmt: skip
    obs = np.ones((5, *models[0].observation_space.shape), np.float32)
    values = [model.policy.predict_values(obs) for model in models]
    np.testing.assert_array_equal(*values)
    weights = [model.learn(16).get_parameters()[".net.cell.layers[1].weight_ih"] for model in models]
    assert np.abs(weights[0] - weights[1]).max() > 1e-6


def _zoo_returns(env_id, policy=None, **env_kwargs):
    """Mean return of the last episodes of training, by the zoo's settings, of three seeds."""
    config = resolve("ppo", env_id, policy=policy, seeds=[0, 1, 2], env_kwargs=env_kwargs)
    algorithm, env = config.build(), jax_env(env_id, **env_kwargs)
    runner = CompiledRunner(algorithm, env, config.n_envs, list(config.seeds))
    runner.set_training(total_steps=config.n_timesteps)
    iterations = config.n_timesteps // (runner.rows * config.n_envs)
    runner.advance(iterations - 10)
    return np.array([np.mean(report.ep_returns) for report in runner.advance(10)])


@pytest.mark.slow
def test_a_transformer_solves_a_long_t_maze_and_a_feed_forward_policy_cannot():
    """It explores, so that a few episodes fail; half of them do without memory."""
    assert _zoo_returns("TMaze-v0", length=50).min() > 0.9
    assert np.abs(_zoo_returns("TMaze-v0", "MlpPolicy", length=50) - 0.5).max() < 0.1


@pytest.mark.slow  # envs/test_probes.py: nothing that does not remember the cue can
def test_a_feed_forward_policy_cannot():
    assert 0.4 < _final_return() < 0.6
