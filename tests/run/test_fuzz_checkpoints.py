"""Mutants of real checkpoints: each is refused by a ModelFileError that names the file, or loads equal.

Their tensors' part is that of model files (`test_fuzz`); here the whole way into a runner is gone, loop included.
"""

import jax
import numpy as np
import pytest
from test_fuzz import BYTES, COUNT, GAMES, LONG, File, nasty_metadata, outcome, resident

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.classic import ClassicEnv
from actrix.envs.guard import EnvError
from actrix.envs.make import make_vec_env
from actrix.files import checkpoint
from actrix.files.container import ModelFileError
from actrix.loops.compiled import CompiledRunner
from actrix.loops.stepping import host_runner
from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints, train

SMALL = {"policy_kwargs": {"net_arch": [4]}}
REPLAY = SMALL | {"learning_starts": 16, "batch_size": 8, "buffer_size": 64, "per": True}


def host(name, settings, env_id="CartPole-v1"):
    algorithm = configure(PRESETS[name].algorithm, settings)
    return host_runner(algorithm, make_vec_env(env_id, 2, seed=3, backend="gymnasium"), 3)


CASES = {
    "ppo-lstm": lambda: host(
        "ppo",
        {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "normalize": True}
        | {"policy_kwargs": {"net_arch": [4], "cell": "lstm", "hidden_size": 3}},
    ),
    "q-learning": lambda: host("q-learning", {}, "FrozenLake-v1"),
    "dqn": lambda: CompiledRunner(
        configure(PRESETS["dqn"].algorithm, REPLAY), ClassicEnv("CartPole-v1"), 2, [3]
    ),
}


class Checkpoint(File):
    """A checkpoint in its parts, and a runner to load mutants of it into."""

    def __init__(self, case, folder):
        self.runner = CASES[case]()
        self.folder = folder
        run = SeedRun(3, checkpoints=folder)
        train(self.runner, [run], 120)
        save_checkpoints(self.runner, [run])
        (self.path,) = checkpoint.checkpoints(folder)
        self.take_apart()
        self.whole = self.state()

    def state(self):
        """The run and every array of it, as the file says it."""
        run = SeedRun(3, checkpoints=self.folder)
        try:
            load_checkpoints(self.runner, [run])
        except EnvError as error:  # another environment's state, said as such
            raise ModelFileError(f"{self.folder}: {error}") from error
        snapshot = self.runner.snapshots()[0]
        return run.counters | {"history": None}, jax.tree.map(np.array, (snapshot.learner, snapshot.loop))


def equal(a, b):
    return a[0] == b[0] and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True)
    )


@LONG
@pytest.mark.parametrize("case", CASES)
def test_mutants_are_refused_or_load_equal(case, tmp_path):
    file, rng = Checkpoint(case, tmp_path), np.random.default_rng(len(case))
    before, refused = resident(), 0
    count = COUNT // 4
    for i in range(count):
        game = (BYTES + GAMES)[i % len(BYTES + GAMES)]
        loaded = outcome(file.path, game(file, rng), lambda _: file.state(), tmp_path)
        refused += loaded is None
        if loaded is not None and game in BYTES:
            assert equal(loaded, file.whole), game.__name__
    # Of the loop any number is one, and arrays of one shape in it may be exchanged.
    assert refused > 0.7 * count
    assert resident() - before < 2**28


@LONG
@pytest.mark.parametrize("case", CASES)
def test_nasty_metadata_with_right_checksums(case, tmp_path):
    """Any counter and any part of the loop replaced: refused in one sentence, or taken with the learner unchanged."""
    file, rng = Checkpoint(case, tmp_path), np.random.default_rng(0)
    before = resident()
    for way, data in nasty_metadata(file, rng, COUNT // 20):
        loaded = outcome(file.path, data, lambda _: file.state(), tmp_path)
        if loaded is not None:
            pairs = zip(jax.tree.leaves(loaded[1][0]), jax.tree.leaves(file.whole[1][0]), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), way
    assert resident() - before < 2**28


@pytest.mark.parametrize(
    ("name", "value"),
    [("obs", np.zeros((3, 4), np.float32)), ("obs", None), ("mask", np.ones((2, 2), bool)), ("first", np.ones(2)),
     ("ep_return", np.zeros(1)), ("ep_length", np.zeros(2)), ("rows", -1), ("rows", True), ("memory", []),
     ("key", np.zeros(3, np.uint32))],
)  # fmt: skip
def test_what_an_open_chunk_holds_must_fit(name, value, tmp_path):
    """Refused when it is read, not at the next step deep inside."""
    file = Checkpoint("ppo-lstm", tmp_path)
    loop = file.runner.snapshots()[0].loop
    assert file.runner.set_loops([loop])
    with pytest.raises(ValueError, match=name):
        file.runner.set_loops([loop | {"env": loop["env"] | {name: value}}])
