"""Checkpoints: the newest complete one loads, only the newest few are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix import PPO
from actrix.envs.probes import ActionObs
from actrix.files import checkpoint
from actrix.files.checkpoint import Snapshot
from actrix.files.container import ModelFileError
from actrix.loops.train import SeedRun, save_checkpoints, train

TREE = {"w": jnp.zeros(3)}


def save(folder, step):
    run = SeedRun(0, steps=step)
    return checkpoint.save(folder, Snapshot({"w": np.full(3, step, np.float32)}, {"env": None}), run.counters)


def test_the_newest_loads_and_old_ones_go(tmp_path):
    assert checkpoint.load_newest(tmp_path, TREE) is None
    for step in (5, 90, 1000, 2**40):  # by number, not by name
        save(tmp_path, step)
    assert len(checkpoint.checkpoints(tmp_path)) == checkpoint.KEEP == 3
    found, counters = checkpoint.load_newest(tmp_path, TREE)
    np.testing.assert_array_equal(found.learner["w"], np.full(3, 2.0**40))
    assert counters["num_timesteps"] == 2**40


def test_damaged_ones_are_passed_over(tmp_path):
    save(tmp_path, 1)
    for step, keep in ((2, 100), (3, -1)):
        path = save(tmp_path, step)
        path.write_bytes(path.read_bytes()[:keep])
    (tmp_path / ".tmp-abc.safetensors").write_bytes(b"torn")
    with pytest.warns(RuntimeWarning, match="set aside"):
        found = checkpoint.load_newest(tmp_path, TREE)
    assert found[1]["num_timesteps"] == 1
    assert len(list(tmp_path.glob("*.damaged"))) == 2, (
        "set aside: what is written next is newer than they say they are"
    )
    checkpoint.checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"no checkpoint in .* can be read"):
        checkpoint.load_newest(tmp_path, TREE)


def test_a_whole_learner_survives(tmp_path):
    settings = {
        "n_steps": 8,
        "batch_size": 16,
        "n_epochs": 1,
        "normalize": True,
        "policy_kwargs": {"net_arch": [4]},
    }
    model = PPO("MlpPolicy", ActionObs(), n_envs=4, seed=0, **settings)
    run = SeedRun(0, checkpoints=tmp_path / "checkpoints")
    train(model.runner, [run], 96)
    save_checkpoints(model.runner, [run])
    other = PPO("MlpPolicy", ActionObs(), n_envs=4, seed=1, **settings)
    snapshot, counters = checkpoint.load_newest(tmp_path / "checkpoints", other.runner.learners[0])
    for one, two in zip(
        *(map(np.asarray, jax.tree.leaves(x)) for x in (snapshot.learner, model.runner.learners[0])),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    assert counters["iterations"] == model.runner.iteration  # the warm-up chunk is none
    again = SeedRun(0)
    again.restore(counters)
    for one, two in zip(*(jax.tree.leaves(r.counters) for r in (again, run)), strict=True):
        np.testing.assert_array_equal(one, two)
