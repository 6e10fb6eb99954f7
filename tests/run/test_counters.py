"""Counters beyond 2³¹: training goes on, alike in both loops, and can be resumed there."""

import jax
import numpy as np
import pytest

from actrix import DQN, PPO
from actrix.run.runner import iteration_keys, wrapped

EDGE = 2**31 - 2
PPO_SMALL = dict(n_steps=16, n_envs=2, batch_size=32, n_epochs=1)
DQN_SMALL = dict(buffer_size=200, learning_starts=10, batch_size=8)


def at_the_edge(cls, backend, settings):
    model = cls("MlpPolicy", "CartPole-v1", seed=1, backend=backend, **settings)
    model.learn(64)
    model.runner.set_learners(model.runner.learners, [EDGE])
    model.run.iterations = EDGE
    return model


@pytest.mark.parametrize("backend", ["jax", "gymnasium"])
@pytest.mark.parametrize(("cls", "settings"), [(PPO, PPO_SMALL), (DQN, DQN_SMALL)])
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
