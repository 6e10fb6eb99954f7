"""Policies with a transformer: trained, saved, resumed, asked with their memory; settings that do not fit."""

import jax
import numpy as np
import pytest

from actrix import PPO
from actrix.algorithms.policy_kwargs import SettingError
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.types import Spec
from actrix.envs.jax_envs import jax_env
from actrix.envs.probes import TMaze
from actrix.runs.config import resolve
from actrix.runs.start import resume, start

SIZES = {"n_layers": 1, "n_heads": 2, "d_model": 8, "context": 5}
TINY = {"n_envs": 4, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "sequence_length": 4, "seed": 0}


def test_predict_remembers_and_a_file_gives_the_same_policy(tmp_path):
    model = PPO("MlpTransformerPolicy", TMaze(length=2), policy_kwargs=SIZES, **TINY)
    model.learn(64)
    loaded = PPO.load(model.save(tmp_path / "transformer"))
    assert loaded.algorithm.network == model.algorithm.network
    g = np.random.default_rng(0)
    sequence, starts = g.normal(size=(12, 3, 2)).astype(np.float32), g.random((12, 3)) < 0.2
    net, memory = model.acting.net, None
    said = []
    for obs, begins in zip(sequence, starts, strict=True):
        action, memory = loaded.predict(obs, memory, begins, deterministic=True)
        said.append(action)
    step = jax.jit(lambda x, carry: net(x, carry, None))
    for i in range(3):  # alone, step by step, forgetting by hand
        carry = net.initial_carry(())
        for t in range(12):
            out, carry = step(sequence[t, i], net.initial_carry(()) if starts[t, i] else carry)
            assert said[t][i] == np.argmax(out.dist.logits)
    with pytest.raises(ValueError, match="state has parts of shapes"):
        loaded.predict(sequence[0, :2], memory)


@pytest.mark.slow  # run/test_resume.py has an LSTM's memory, test_modes.py the cache in both loops
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    """The checkpoint lies in the middle of episodes: the cache and its count are in it."""
    settings = {k: v for k, v in TINY.items() if k not in ("n_envs", "seed")} | {"policy_kwargs": SIZES}
    for name, steps in (("whole", 96), ("part", 64)):
        config = resolve(
            "ppo", "TMaze-v0", steps=steps, seeds=[0], n_envs=4, settings=settings, env_kwargs={"length": 4}
        )
        start(config, tmp_path / name, quiet=True)
    resume(tmp_path / "part", steps=96, quiet=True)
    whole, part = (PPO.load(tmp_path / name).get_parameters() for name in ("whole", "part"))
    for a, b in zip(whole.values(), part.values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"cell": "lstm", "n_layers": 3}, "n_layers=3 would have no effect"),
        ({"cell": "transformer", "hidden_size": 32}, "hidden_size=32 would have no effect"),
        ({"cell": "transformer", "n_heads": 3}, "d_model=64 must be a multiple of 2 · n_heads"),
        ({"cell": "rnn"}, "cell='rnn': choose one of None, lstm, gru, transformer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kwargs, said):
    with pytest.raises(ValueError, match=said):
        configure(PRESETS["ppo"].algorithm, {"policy_kwargs": kwargs}).check(TMaze().spec, 8)


def test_names_of_policies():
    network = lambda **more: resolve("ppo", "CartPole-v1", **more).build().network
    assert network(policy="MlpTransformerPolicy").cell == "transformer"
    assert PPO("CnnTransformerPolicy", "CartPole-v1").algorithm.network.cnn
    with pytest.raises(SettingError, match="--recurrent is an LSTM"):
        network(policy="MlpTransformerPolicy", recurrent=True)
    maze = lambda **more: resolve("ppo", "TMaze-v0", **more).build().network
    assert (maze().cell, maze().context) == ("transformer", 64)
    assert maze(policy="MlpPolicy").cell is None  # the zoo's sizes are the transformer's


def test_environments_that_need_memory_by_name():
    maze = jax_env("TMaze-v0", length=50)
    assert (maze.length, maze.spec.max_episode_steps) == (50, 51)
    with pytest.raises(ValueError, match="length=0 must be a whole number"):
        jax_env("TMaze-v0", length=0)
    pole: Spec = jax_env("CartPoleNoVelocity-v0", 7).spec
    assert (pole.observation_space.shape, pole.max_episode_steps) == ((2,), 7)
