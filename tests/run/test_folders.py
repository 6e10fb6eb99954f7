"""Folders that are reused, damaged in part, or belong to somebody else: nothing trained is lost, and it is said."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from actrix import DQN, PPO, QLearning
from actrix.callbacks import BaseCallback
from actrix.cli import main
from actrix.files import checkpoint, container, modelfile
from actrix.files.lock import RunLock, RunLockedError
from actrix.loops import train
from actrix.loops.interrupt import StopRequest
from actrix.loops.train import NonFiniteError
from actrix.runs import seeds, session
from actrix.runs import start as experiment
from actrix.runs.config import RunError, resolve
from actrix.runs.folder import OUTPUT, load_config
from actrix.show.log import Logger
from actrix.show.metrics import STEP

PPO_SMALL = dict(n_steps=16, n_envs=2, batch_size=32, n_epochs=1)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """A compiled run of two seeds, and its configuration."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    settings = {
        "n_steps": 16,
        "batch_size": 32,
        "n_epochs": 1,
        "gamma": 0.99,
        "learning_rate": 3e-4,
        "critic": "gae:0.95",
        "actor": "ppo-clip:0.2:advantage",
    }  # as PPO's defaults, not the zoo's
    config = resolve(
        "ppo", "CartPole-v1", seeds=[0, 1], steps=256, n_envs=2, backend="jax", settings=settings
    )
    experiment.start(config, folder, quiet=True)
    return folder


def copied(folder: Path, to: Path) -> Path:
    """A copy that has not been evaluated yet."""
    shutil.copytree(folder, to)
    for path in [*to.glob("seed-*/model.safetensors"), *to.glob("seed-*/evaluation.json"), to / "curve.png"]:
        path.unlink()
    return to


def tensors(folder: Path) -> bytes:
    """All numbers of a seed's newest checkpoint."""
    data = newest(folder).read_bytes()
    return data[8 + struct.unpack("<Q", data[:8])[0] :]


def newest(folder: Path) -> Path:
    return checkpoint.checkpoints(folder / "checkpoints")[-1]


def test_a_seed_without_a_checkpoint_begins_anew_and_the_others_keep_theirs(two_seeds, tmp_path, capsys):
    folder = copied(two_seeds, tmp_path / "run")
    kept = checkpoint.checkpoints(folder / "seed-0" / "checkpoints")
    for path in checkpoint.checkpoints(folder / "seed-1" / "checkpoints"):
        path.unlink()
    experiment.resume(folder, quiet=True)
    assert "no checkpoint of seed 1 yet" in capsys.readouterr().err
    assert kept[-1].exists()
    for seed in ("seed-0", "seed-1"):  # as without the kill
        assert tensors(folder / seed) == tensors(two_seeds / seed)


def test_a_resume_killed_between_two_configs_is_made_up_for(two_seeds, tmp_path):
    """`--steps` reached the run's config, but not the seeds'."""
    folder = copied(two_seeds, tmp_path / "run")
    data = json.loads((folder / "config.json").read_text()) | {"n_timesteps": 512}
    (folder / "config.json").write_text(json.dumps(data))
    experiment.resume(folder, quiet=True)
    for seed in (0, 1):
        assert json.loads((folder / f"seed-{seed}" / "config.json").read_text())["n_timesteps"] == 512
        assert checkpoint.newest_step(folder / f"seed-{seed}" / "checkpoints") >= 512


def test_the_folder_of_a_seed_is_locked_with_the_run(two_seeds, tmp_path):
    folder = copied(two_seeds, tmp_path / "run")
    with RunLock(folder / "seed-1"), pytest.raises(RunLockedError, match="seed-1 is in use"):
        experiment.resume(folder, quiet=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_timesteps", -5), ("n_envs", 0), ("workers", [1]), ("step_timeout", "x"), ("max_restarts", None)],
)
def test_a_config_that_makes_no_sense_is_named(two_seeds, tmp_path, key, value):
    data = json.loads((two_seeds / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match=key):
        load_config(tmp_path)


def test_an_evaluation_without_returns_is_named(two_seeds, tmp_path):
    folder = copied(two_seeds, tmp_path / "run")
    (folder / "seed-0" / "evaluation.json").write_text('{"num_timesteps": 256}')
    with pytest.raises(RunError, match=r"evaluation\.json cannot be read: it has no 'returns'"):
        experiment.resume(folder, quiet=True)


def test_a_file_is_no_run_folder(two_seeds):
    with pytest.raises(RunError, match="not a run folder"):
        experiment.resume(two_seeds / "config.json")


# ------------------------------------------------------------------ checkpoints of `learn`


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints of PPO, seed 0."""
    folder = tmp_path_factory.mktemp("learn") / "c"
    PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL).learn(
        96, checkpoint_dir=folder, checkpoint_seconds=0
    )
    assert len(checkpoint.checkpoints(folder)) >= 2
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in checkpoint.checkpoints(folder):
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_another_training_does_not_write_among_its_checkpoints(trained, tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", seed=7, **PPO_SMALL)
    before = sorted(os.listdir(trained))
    with pytest.raises(ValueError, match=r"checkpoints of another training, up to step 96"):
        model.learn(32, checkpoint_dir=trained)
    other = tmp_path / "other"
    model.learn(32, checkpoint_dir=other)
    with pytest.raises(
        ValueError, match="another training"
    ):  # counting would begin at 0 among higher numbers
        model.learn(32, checkpoint_dir=other)
    model.learn(32, checkpoint_dir=other, reset_num_timesteps=False)
    assert checkpoint.newest_step(other) == 64
    assert sorted(os.listdir(trained)) == before


def test_what_was_just_written_is_never_rotated_out(tmp_path):
    snapshot = checkpoint.Snapshot({"w": np.ones(1, np.float32)}, {"x": 0})
    numbers = dict.fromkeys(
        ("iterations", "seed", "episodes", "start_steps", "resumes", "dropped_episodes"), 0
    )
    for step in (10, 11, 12, 13, 5):
        path = checkpoint.save(
            tmp_path, snapshot, numbers | {"num_timesteps": step, "run": {}, "versions": {}}
        )
        assert path.exists()
    assert len(checkpoint.checkpoints(tmp_path)) == checkpoint.KEEP


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_checkpoint_is_told_of(trained, tmp_path):
    folder = copy_of(trained, tmp_path / "c")
    newest = checkpoint.checkpoints(folder)[-1]
    damage(newest)
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL)
    with pytest.warns(RuntimeWarning, match="was damaged and is set aside"):
        model.learn(96, resume_from=folder)
    assert newest.with_name(newest.name + ".damaged").exists()


def test_a_damaged_checkpoint_of_a_run_folder_is_passed_over(two_seeds, tmp_path):
    folder = copied(two_seeds, tmp_path / "run") / "seed-0"
    before = sorted(os.listdir(folder / "checkpoints"))
    assert len(before) == 1
    newest = checkpoint.checkpoints(folder / "checkpoints")[0]
    later = newest.with_name("step_000000009999.safetensors")
    later.write_bytes(newest.read_bytes())
    damage(later)
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL)
    with pytest.warns(RuntimeWarning, match="passed over"):
        model.learn(256, resume_from=folder)
    assert sorted(os.listdir(folder / "checkpoints")) == [*before, later.name]


def test_a_later_format_is_not_damage(trained, tmp_path, monkeypatch):
    folder = copy_of(trained, tmp_path / "c")
    newest = checkpoint.checkpoints(folder)[-1]
    header = container.read_header(newest)
    arrays = {"w": np.ones(1, np.float32)}
    monkeypatch.setattr(container, "FORMAT", 2)
    modelfile.save(newest, {k: v for k, v in header.meta.items() if k != "format"}, arrays)
    monkeypatch.undo()
    with pytest.raises(container.ModelFileError, match="has format 2; this version reads 1: upgrade"):
        PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL).learn(96, resume_from=folder)
    assert newest.exists()


def test_other_versions_are_warned_of(trained, tmp_path, monkeypatch):
    folder = copy_of(trained, tmp_path / "c")
    now = modelfile.versions()
    monkeypatch.setattr(modelfile, "versions", lambda: now | {"jax": "99.0"})
    with pytest.warns(RuntimeWarning, match=r'under other versions \(jax is "99\.0"'):
        PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL).learn(96, resume_from=folder)


@pytest.mark.parametrize("key", ["num_timesteps", "iterations", "seed"])
@pytest.mark.parametrize("value", [-5, 10**30])
def test_counters_out_of_range_are_refused(tmp_path, key, value):
    snapshot = checkpoint.Snapshot({"w": np.ones(1, np.float32)}, {"x": 0})
    names = ("num_timesteps", "iterations", "seed", "episodes", "start_steps", "resumes", "dropped_episodes")
    path = checkpoint.save(tmp_path, snapshot, dict.fromkeys(names, 0) | {"run": {}, "versions": {}})
    meta = container.read_header(path).meta
    meta = {k: v for k, v in meta.items() if k != "format"} | {key: value}
    modelfile.save(path, meta, {"learner": snapshot.learner, "loop": []})
    with pytest.raises(container.ModelFileError, match=key):
        checkpoint.load(path, snapshot.learner)


def test_a_typing_error_makes_no_folder(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL)
    with pytest.raises(FileNotFoundError, match="nope is no folder"):
        model.learn(32, resume_from=tmp_path / "nope")
    assert not (tmp_path / "nope").exists()


def test_leftovers_of_a_killed_writer_go(trained, tmp_path):
    folder = copy_of(trained, tmp_path / "c")
    (folder / ".tmp-x.safetensors").write_bytes(b"half")
    PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL).learn(96, resume_from=folder)
    assert not (folder / ".tmp-x.safetensors").exists()


class Walk(gym.Env):
    """A walk on a line, the reward of a step its direction times `sign`."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, sign: float = 1.0):
        self.sign, self.count = sign, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 70:
            raise OSError("the robot fell over")
        return np.full(1, self.count, np.float32), self.sign, False, False, {}


class Backwards(Walk):
    """Another environment with the same spaces."""


SMALL_DQN = dict(buffer_size=500, learning_starts=10, batch_size=8, seed=0)


def test_another_environment_is_refused(tmp_path):
    make = lambda env: DQN("MlpPolicy", gym.wrappers.TimeLimit(env, 20), **SMALL_DQN)
    make(Walk()).learn(40, checkpoint_dir=tmp_path / "c")
    with pytest.raises(ValueError, match=r'env\S* is \["Backwards"'):
        make(Backwards()).learn(40, resume_from=tmp_path / "c")
    lake = lambda **kwargs: QLearning(env="FrozenLake-v1", env_kwargs=kwargs, seed=0)
    lake(is_slippery=False).learn(40, checkpoint_dir=tmp_path / "lake")
    with pytest.raises(ValueError, match=r"env_kwargs\.is_slippery is true, the checkpoint has false"):
        lake(is_slippery=True).learn(40, resume_from=tmp_path / "lake")


def test_an_error_of_the_environment_leaves_a_checkpoint(tmp_path):
    model = DQN("MlpPolicy", gym.wrappers.TimeLimit(Walk(), 100), **SMALL_DQN)
    with pytest.raises(Exception, match="fell over"):
        model.learn(200, checkpoint_dir=tmp_path / "c", checkpoint_seconds=1e9)
    assert checkpoint.newest_step(tmp_path / "c") >= 60


def test_a_non_finite_update_leaves_a_checkpoint(tmp_path):
    model = DQN(
        "MlpPolicy", "CartPole-v1", learning_rate=1e38, max_grad_norm=1e38, optimizer="sgd", **SMALL_DQN
    )
    with pytest.raises(NonFiniteError):
        model.learn(2000, checkpoint_dir=tmp_path / "c", checkpoint_seconds=1e9)
    assert checkpoint.newest_step(tmp_path / "c") > 0
    assert (tmp_path / "c" / "nonfinite_batch.npz").exists()


# ------------------------------------------------------------------ signals during `learn`

SCRIPT = """
import signal, sys
from actrix import PPO
from actrix.callbacks import BaseCallback

class Told(BaseCallback):
    def _on_rollout_end(self):
        if self.num_timesteps > 100:
            print("trains", flush=True)

    def _on_step(self):
        return True

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
model = PPO("MlpPolicy", "CartPole-v1", seed=0, n_steps=16, n_envs=2, batch_size=32, n_epochs=1)
model.learn(10**8, callback=Told(), checkpoint_dir=sys.argv[1], checkpoint_seconds=1e9)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_during_learn_saves_and_ends(tmp_path, number):
    """No clock saves: the checkpoint is the signal's."""
    folder = tmp_path / "c"
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        guard = threading.Timer(100, process.kill)
        guard.start()
        try:
            assert process.stdout.readline().strip() == b"trains"
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            guard.cancel()
            process.kill()
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in err
        assert process.returncode != 0
    else:
        assert process.returncode == -signal.SIGTERM
    steps = checkpoint.newest_step(folder)
    assert steps > 0
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **PPO_SMALL)
    model.learn(steps, resume_from=folder)  # already there: nothing is missing
    assert model.num_timesteps == steps


def test_no_checkpoint_is_newer_than_the_log(tmp_path, monkeypatch):
    """Every row is forced to disk before the checkpoint that counts it is."""
    done = []
    for owner, name in ((Logger, "dump"), (Logger, "sync"), (checkpoint, "save")):
        original = getattr(owner, name)

        def noted(*args, name=name, original=original, **kwargs):
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)
    config = resolve("ppo", "CartPole-v1", seeds=[0], steps=256, n_envs=2, backend="gymnasium",
                                settings={"n_steps": 16, "batch_size": 32, "n_epochs": 1})  # fmt: skip
    experiment.start(config, tmp_path / "run", quiet=True, checkpoint_seconds=0)
    saves = [i for i, name in enumerate(done) if name == "save"]
    assert len(saves) > 1
    for save, before in zip(saves, [0, *saves], strict=False):
        since = done[before:save]
        assert "sync" in since
        assert "dump" not in since[len(since) - since[::-1].index("sync") :]


def test_processes_that_do_not_end_are_killed(tmp_path, monkeypatch):
    """A seed's process that ignores SIGTERM is waited for so long, then killed."""
    monkeypatch.setattr(seeds, "STOP_SECONDS", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout.readline() == b"1\n"
    with open(tmp_path / "log", "wb") as log:
        begun = time.monotonic()
        ended = seeds.stop_all({0: (child, tmp_path, log)})
    child.stdout.close()
    assert ended == [(0, tmp_path, -signal.SIGKILL)]
    assert time.monotonic() - begun < 30


def test_a_log_that_is_no_file_is_neither_written_to_nor_waited_for(tmp_path):
    config = resolve("ppo", "CartPole-v1", seeds=[0, 1], steps=256, backend="gymnasium")
    pairs = [(tmp_path / f"seed-{seed}", seed) for seed in (0, 1)]
    log, precious = pairs[1][0] / OUTPUT, tmp_path / "precious"
    log.parent.mkdir()
    precious.write_text("kept")
    for make in (lambda: log.symlink_to(precious), lambda: os.mkfifo(log)):
        make()
        with pytest.raises(ValueError, match=f"{re.escape(str(log))} is no regular file: remove it"):
            seeds.train_in_processes(config, pairs, session.Session(quiet=True))
        log.unlink()
    assert precious.read_text() == "kept"


@pytest.mark.parametrize("code", [0, 3, 130, -signal.SIGTERM])
def test_a_seed_that_fails_while_it_is_stopped_is_named(tmp_path, monkeypatch, code):
    """Asked to stop, a seed saves and exits with 130, or ends by the signal where it has nothing to save."""
    handler = f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))" if code >= 0 else "pass"
    program = f"import signal, sys, time\n{handler}\nprint('no room', flush=True)\ntime.sleep(100)"
    Popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **kw: Popen([sys.executable, "-c", program], **kw))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    config = resolve("ppo", "CartPole-v1", seeds=[0, 1], steps=256, backend="gymnasium")
    pairs = [(tmp_path / f"seed-{seed}", seed) for seed in (0, 1)]
    outputs = [path / OUTPUT for path, _ in pairs]
    for output in outputs:
        output.parent.mkdir()
        output.write_text("of an earlier session\n")

    def stop():  # both print after they have a handler, and are started after we have ours
        while not all("no room" in output.read_text() for output in outputs):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    run = functools.partial(seeds.train_in_processes, config, pairs, session.Session(quiet=True))
    if code != 3:
        assert run() is (code == 0)  # then all were done at that moment
        return
    with pytest.raises(
        seeds.SeedError, match=r"seed 0 \(and 1 more\) failed with exit code 3: no room; go on"
    ):
        run()


def test_seeds_that_have_ended_count_in_the_progress_of_a_resumed_run(tmp_path, monkeypatch, capsys):
    """The line said 12%, as only the logs of running processes were read."""
    config = resolve("ppo", "CartPole-v1", seeds=[0, 1], steps=1000, backend="gymnasium")
    pairs = [(tmp_path / f"seed-{seed}", seed) for seed in (0, 1)]
    for (path, _), steps in zip(pairs, (1000, 250), strict=True):
        path.mkdir()
        (path / "metrics.csv").write_text(f"{STEP},rollout/ep_rew_mean\n{steps},{steps / 10}\n")
    monkeypatch.setattr(seeds, "evaluated_steps", lambda path: 1000 if path == pairs[0][0] else -1)
    learns = "import sys; open(sys.argv[-1] + '/metrics.csv', 'a').write('500,50\\n')"
    monkeypatch.setattr(seeds, "PROGRAM", (sys.executable, "-c", learns))
    seeds.train_in_processes(config, pairs, session.Session(resumed=True))
    line = capsys.readouterr().out.splitlines()[-1]
    assert "75%, 1.5k/2k steps, return 75.0 (mean of 2 seeds)" in line
    assert "k steps/s" not in line  # as 250 were taken, not 1,500


def test_only_a_second_ctrl_c_aborts():
    """A service sends SIGTERM to all processes, and the parent of many seeds its own: one must not undo the other."""
    # It is ignored where the tests run in the background.
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    for takes_over in (True, False):
        with StopRequest(takes_over=takes_over) as stop:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, old)


def test_a_handler_of_somebody_else_stays_in_charge_of_a_model_s_training():
    """The command line takes the signals over; `learn` leaves them to who handles them."""
    heard = []
    old = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with StopRequest(takes_over=False) as stop:
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
            assert not stop.requested
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
            assert stop.requested
    finally:
        signal.signal(signal.SIGTERM, old)


# ------------------------------------------------------------------ links, paths, foreign files


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
def test_a_lock_that_leads_elsewhere_is_refused(two_seeds, tmp_path):
    folder = copied(two_seeds, tmp_path / "run")
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(RunLockedError, match="cannot be locked"):
        experiment.resume(folder, quiet=True)
    assert precious.read_text() == "mine"
    (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    with pytest.raises(RunLockedError, match="no regular file"):
        experiment.resume(folder, quiet=True)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    import errno

    from actrix.files import lock

    def refuse(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock", refuse)
    with pytest.raises(RunLockedError, match="does its file system have locks"), RunLock(tmp_path):
        pass


def test_the_folder_one_is_in_can_be_named(two_seeds, monkeypatch, capsys):
    monkeypatch.chdir(two_seeds / "seed-0")
    assert main(["inspect", "."]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert main(["inspect", "/"]) == 2
    assert "no model file at /" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": [1]}, "spec is '[1]'"),
        ({"settings": [1]}, "settings is '[1]'"),
        ({"versions": 5}, "versions is '5'"),
        ({"kind": "virus"}, "neither a model nor a checkpoint"),
        ({"kind": None}, "neither a model nor a checkpoint"),
    ],
)
def test_foreign_metadata_is_refused(tmp_path, capsys, change, said):
    path = tmp_path / "x.safetensors"
    modelfile.save(path, {"kind": "checkpoint"} | change, {"w": np.ones(1, np.float32)})
    assert main(["inspect", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_slow_saves_come_less_often(tmp_path, monkeypatch):
    """After a save that took 0.04 s the next one waits until that was at most a fifth of the time."""
    times = []

    def slow(runner, runs):
        begun = time.monotonic()
        time.sleep(0.04)
        times.append((begun, time.monotonic()))

    monkeypatch.setattr(train, "save_checkpoints", slow)
    monkeypatch.setattr(train, "SAVE_SHARE", 0.2)
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, backend="gymnasium", **PPO_SMALL)

    class Enough(BaseCallback):
        def _on_step(self):
            return len(times) < 4

    model.learn(10**7, callback=Enough(), checkpoint_dir=tmp_path / "c", checkpoint_seconds=0)
    pauses = [later[0] - ended for (_, ended), later in itertools.pairwise(times[:4])]
    assert all(pause >= 0.2 for pause in pauses)
