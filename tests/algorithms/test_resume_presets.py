"""A compiled run that was saved and put together again goes on bit for bit, for every preset."""

import jax
import numpy as np
import pytest
from helpers import OF_ANSWERS, presets, restart, shared_runner

from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints


def bits(runner):
    """Every array of the training state: learner, optimiser, memory, environments, keys."""
    state = runner.state
    keys = jax.random.key_data(state.env_key), jax.random.key_data(state.iteration_key)
    tree = state.learner, state.env, state.iteration, keys
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def differences(one, two):
    assert one.keys() == two.keys()
    same = lambda x, y: (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    return [name for name in one if not same(one[name], two[name])]


@pytest.mark.parametrize(
    "name",
    # GRPO is among the presets, and learns in the same loop.
    [*presets(), *(pytest.param(x, marks=pytest.mark.slow) for x in OF_ANSWERS)],
)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    runner, run = restart(shared_runner(name), 3, total_steps=10_000), SeedRun(3, checkpoints=tmp_path)
    (report,) = runner.advance(2)
    run.add(report)
    save_checkpoints(runner, [run])
    at_save = bits(runner)
    runner.advance(3)
    whole = bits(runner)

    restart(runner, 4, total_steps=9_000).advance(1)
    assert differences(bits(runner), at_save)
    other = SeedRun(3, checkpoints=tmp_path)
    assert load_checkpoints(runner, [other]) is None
    assert other.counters["num_timesteps"] == run.steps
    assert not differences(bits(runner), at_save)
    runner.advance(3)
    assert not differences(bits(runner), whole)


def test_new_episodes_would_not_be_the_uninterrupted_run(tmp_path):
    """The same without the environments: it must differ, else the test above could not fail."""
    runner, run = restart(shared_runner("ppo"), 3, total_steps=10_000), SeedRun(3, checkpoints=tmp_path)
    (report,) = runner.advance(2)
    run.add(report)
    (snapshot,) = runner.snapshots()
    learner = jax.tree.map(np.array, snapshot.learner)
    runner.advance(3)
    whole = bits(runner)
    restart(runner, 3, total_steps=10_000)
    runner.set_learners([learner], [2])
    runner.advance(3)
    assert differences(bits(runner), whole)
