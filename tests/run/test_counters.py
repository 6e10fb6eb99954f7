"""Counters beyond 2³¹: training goes on, alike in both loops, and can be resumed there."""

import dataclasses

import jax
import numpy as np
import pytest
from gymnasium import spaces

from actrix import DQN, PPO
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.types import Spec
from actrix.data.datasets.dataset import Episode, assemble
from actrix.envs.classic import ClassicEnv
from actrix.envs.jax_envs import HostJax
from actrix.loops.compiled import CompiledRunner
from actrix.loops.offline import OfflineRunner
from actrix.loops.runner import iteration_keys, wrapped
from actrix.loops.stepping import host_runner
from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints
from actrix.model import MODELS

EDGE = 2**31 - 2
PPO_SMALL = dict(n_steps=16, n_envs=2, batch_size=32, n_epochs=1)
DQN_SMALL = dict(buffer_size=200, learning_starts=10, batch_size=8)


def at_the_edge(cls, backend, settings):
    model = cls("MlpPolicy", "CartPole-v1", seed=1, backend=backend, **settings)
    model.learn(64)
    model.runner.set_learners(model.runner.learners, [EDGE])
    model.run.iterations = EDGE
    return model


@pytest.mark.parametrize(
    ("cls", "settings", "backend"),
    [(PPO, PPO_SMALL, "gymnasium"),
     *(pytest.param(*x, marks=pytest.mark.slow)  # DQN crosses the edge in both loops above
       for x in ((PPO, PPO_SMALL, "jax"), (DQN, DQN_SMALL, "gymnasium"), (DQN, DQN_SMALL, "jax")))],
)  # fmt: skip
def test_training_passes_two_to_the_31(cls, settings, backend, tmp_path):
    model = at_the_edge(cls, backend, settings)
    model.learn(160, reset_num_timesteps=False, checkpoint_dir=tmp_path)
    assert model.run.iterations > 2**31
    again = cls("MlpPolicy", "CartPole-v1", seed=1, backend=backend, **settings)
    again.learn(200, resume_from=tmp_path)
    assert again.run.iterations > model.run.iterations
    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(again.acting.net)) if x.dtype.kind == "f"
    )


def test_random_streams_stay_what_they_were_and_wrap():
    key = jax.random.key(0)
    data = lambda n: jax.random.key_data(iteration_keys(key, n)[1]).tolist()
    assert all(data(wrapped(n)) == data(n) for n in (0, 1, 12345, 2**31 - 1))
    assert data(wrapped(2**31)) == data(np.uint32(2**31))
    assert int(wrapped(2**31)) == int(np.asarray(jax.numpy.int32(2**31 - 1) + 1)), (
        "as the compiled loop counts"
    )
    assert data(wrapped(2**32 + 5)) == data(5)


NET = {"policy_kwargs": {"net_arch": [8]}}
REPLAY = {
    "learning_starts": 16,
    "batch_size": 8,
    "buffer_size": 128,
    "train_freq": 4,
    "gradient_steps": 2,
    **NET,
}
MODES = {
    "ppo": ({"n_steps": 8, "batch_size": 16, "n_epochs": 1, **NET}, "CartPole-v1"),
    "reinforce": ({"n_steps": 8, **NET}, "CartPole-v1"),
    "dqn": (REPLAY, "CartPole-v1"),
    "td3": (REPLAY, "Pendulum-v1"),
}


def to_the_edge(runner):
    """The loop's counter and, as in a run that got there, the learner's."""
    learner = runner.learners[0]
    now = {
        name: np.full_like(x, EDGE)
        for name in ("update", "gradient_steps")
        if (x := getattr(learner.training, name, None)) is not None
    }
    learner = dataclasses.replace(learner, training=dataclasses.replace(learner.training, **now))
    runner.set_learners([jax.tree.map(jax.numpy.array, learner)], [EDGE])


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "name", ["dqn", *(pytest.param(x, marks=pytest.mark.slow) for x in ("ppo", "reinforce", "td3"))]
)
def test_both_loops_agree_across_the_edge_and_resume_beyond_it(name, tmp_path):
    settings, env_id = MODES[name]
    algorithm = configure(PRESETS[name].algorithm, settings)
    env = ClassicEnv(env_id, max_episode_steps=12)
    build = {
        "jax": lambda: CompiledRunner(algorithm, env, 2, [3]),
        "host": lambda: host_runner(algorithm, HostJax(env, 2), 3),
    }
    done = {}
    for loop, make in build.items():
        runner = make()
        runner.set_training(total_steps=1e10)
        runner.warm()
        to_the_edge(runner)
        for _ in range(4):
            runner.advance(1)
        assert runner.iteration == EDGE + 4
        save_checkpoints(
            runner, [SeedRun(3, checkpoints=tmp_path / loop, steps=100, iterations=runner.iteration)]
        )
        again, run = make(), SeedRun(3, checkpoints=tmp_path / loop)
        again.set_training(total_steps=1e10)
        load_checkpoints(again, [run])
        assert (run.iterations, again.iteration) == (EDGE + 4, EDGE + 4)
        runner.advance(1)
        again.advance(1)
        equal(runner.learners, again.learners)
        done[loop] = runner.learners
    close(done["jax"], done["host"])


def test_the_offline_loop_passes_in_segments_of_any_length(tmp_path):
    rng = np.random.default_rng(0)
    episode = Episode(rng.normal(size=(31, 3)), rng.integers(3, size=30), rng.normal(size=30),
                      np.arange(30) == 29, np.zeros(30, bool))  # fmt: skip
    data = assemble([episode], Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(3)))
    algorithm = configure(PRESETS["dqn"].algorithm, REPLAY)
    learned = []
    for parts in ([5], [1, 1, 3], [4, None, 1]):
        runner = OfflineRunner(algorithm, data, [3])
        to_the_edge(runner)
        for n in parts:
            if n is None:  # resumed
                save_checkpoints(
                    runner, [SeedRun(3, checkpoints=tmp_path, steps=4, iterations=runner.iteration)]
                )
                runner = OfflineRunner(algorithm, data, [3])
                load_checkpoints(runner, [SeedRun(3, checkpoints=tmp_path)])
            else:
                runner.advance(n)
        assert runner.iteration == EDGE + 5
        learned.append(runner.learners)
    equal(learned[0], learned[1])
    equal(learned[0], learned[2])


@pytest.mark.parametrize("name", ["sarsa", "q-lambda", pytest.param("stream-ac", marks=pytest.mark.slow)])
def test_online_loops_pass(name):
    env = "CartPole-v1" if name == "stream-ac" else "FrozenLake-v1"
    model = MODELS[name]("MlpPolicy", env, seed=1, backend="gymnasium")
    model.learn(1100)
    to_the_edge(model.runner)
    model.run.iterations = EDGE
    model.learn(200, reset_num_timesteps=False)
    assert model.run.iterations > 2**31
