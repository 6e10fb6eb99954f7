"""A fault at every single write of a checkpoint: the disk refuses, or the process is gone.

Nothing is written in the background, so there is no failed save that could go unseen; weights and memory are one file,
so none can be older than the other.
"""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from actrix.cli import main
from actrix.files import atomic, checkpoint, container, modelfile
from actrix.files.checkpoint import CheckpointError, Snapshot
from actrix.loops import train
from actrix.loops.train import SeedRun
from actrix.runs.folder import load_config

STEPS = range(1, 6)  # the fourth is the first that removes an older one
WHAT = ("open", "write", "fsync", "replace", "unlink")


class Faults:
    """Calls `fault` instead of the n-th operation on a file, counted from 1."""

    def __init__(self, n, fault):
        self.n, self.fault, self.count, self.names = n, fault, 0, []

    def tick(self, name, half=lambda: None):
        self.count += 1
        self.names.append(name)
        if self.count == self.n:
            half()
            self.fault()

    def wrap(self, name, function):
        def wrapped(*args, **kwargs):
            self.tick(name)
            return function(*args, **kwargs)

        return wrapped

    def open(self, path, mode="r", *args, **kwargs):
        if "r" in mode and "+" not in mode:
            return open(path, mode, *args, **kwargs)
        self.tick("open")
        return _File(open(path, mode, *args, **kwargs), self)

    def install(self, setattr_=setattr):
        for name in ("fsync", "replace", "unlink"):
            setattr_(os, name, self.wrap(name, getattr(os, name)))
        setattr_(modelfile, "open", self.open)
        setattr_(atomic, "open", self.open)
        return self


class _File:
    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, data):
        half = lambda: (self.file.write(bytes(data)[: len(data) // 2]), self.file.flush())
        self.faults.tick("write", half)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def snapshot(step):
    learner = {"w": np.full(1000, step, np.float32), "memory": np.full((50, 4), step, np.uint8)}
    return Snapshot(learner, {"env": None, "x": np.arange(step)})


def save(folder, step):
    return checkpoint.save(folder, snapshot(step), SeedRun(0, steps=step, iterations=1).counters)


def save_all(folder, done):
    for step in STEPS:
        save(folder, step)
        done.append(step)


def newest(folder):
    """The step of the newest checkpoint that loads, after comparing all of it with what was saved."""
    found = checkpoint.load_newest(folder, snapshot(0).learner)
    if found is None:
        return 0
    step = found[1]["num_timesteps"]
    for name, array in snapshot(step).learner.items():
        np.testing.assert_array_equal(found[0].learner[name], array)
    np.testing.assert_array_equal(found[0].loop["x"], np.arange(step))
    return step


def operations(folder):
    """The names of all operations of the undisturbed sequence."""
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(0, None).install(lambda o, n, f: patch.setattr(o, n, f, raising=False))
        for step in STEPS:
            save(folder, step)
    return faults.names


def test_the_disk_refuses_at_every_write(tmp_path, monkeypatch):
    names = operations(tmp_path / "all")
    assert set(names) == set(WHAT)
    assert newest(tmp_path / "all") == 5

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for n in range(1, len(names) + 1):
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch:
            Faults(n, refuse).install(lambda o, name, f: patch.setattr(o, name, f, raising=False))
            done = []
            with pytest.raises(CheckpointError, match=r"cannot be written: No space left") as caught:
                save_all(folder, done)
        done = max(done, default=0)
        kept = f"that of step {done} is kept" if done else "there is none yet"
        assert kept in str(caught.value) or names[n - 1] == "unlink"
        assert newest(folder) in (done, done + 1), names[n - 1]
        assert newest(folder) == done or names[n - 1] in ("fsync", "unlink"), "only after the rename"
        save(folder, 9)  # the disk has room again
        assert newest(folder) == 9


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import test_write_faults as t
from pathlib import Path

for n in range(1, int(sys.argv[3]) + 1):
    folder = Path(sys.argv[2]) / str(n)
    folder.mkdir(parents=True)
    child = os.fork()  # JAX has not started here: only NumPy's arrays are written
    if child == 0:
        log = os.open(folder / "done", os.O_WRONLY | os.O_CREAT)
        t.Faults(n, lambda: os._exit(9)).install()
        for step in t.STEPS:
            t.save(folder, step)
            os.write(log, bytes([step]))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, n
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(120)
def test_the_process_is_gone_at_every_write(tmp_path):
    """As after SIGKILL: half of what was being written is there, nothing is cleaned up."""
    names = operations(tmp_path / "all")
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(tmp_path / "k"), str(len(names))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    torn = 0
    for n in range(1, len(names) + 1):
        folder = tmp_path / "k" / str(n)
        completed = max((folder / "done").read_bytes(), default=0)
        torn += len(list(folder.glob(".tmp-*")))
        assert newest(folder) in (completed, completed + 1), names[n - 1]
        assert len(checkpoint.checkpoints(folder)) <= checkpoint.KEEP + 1
        checkpoint.remove_leftovers(folder)
        assert not list(folder.glob(".tmp-*"))
        save(folder, 9)
        assert newest(folder) == 9
    assert torn > len(STEPS), "half-written files were there"


def test_a_run_whose_disk_is_full(tmp_path, monkeypatch, capsys):
    """One sentence, exit code 1, the checkpoint before is kept and the run goes on from it."""
    monkeypatch.setattr(train, "SAVE_SHARE", np.inf)
    folder, written = tmp_path / "run", []
    original = modelfile.save

    def full(path, meta, tree):
        if meta["kind"] == "checkpoint" and written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return original(path, meta, tree)

    words = [
        "train",
        "ppo",
        "CartPole-v1",
        "--backend",
        "gymnasium",
        "--envs",
        "2",
        "--steps",
        "96",
        "--seed",
        "3",
    ]
    small = ["--set", "n_steps=16", "batch_size=16", "n_epochs=1", "policy_kwargs={'net_arch': [4]}"]
    more = ["--quiet", "--checkpoint-seconds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(modelfile, "save", full)
        assert main([*words, *more, *small, "--out", str(folder)]) == 1
    text = capsys.readouterr().err
    assert "No space left on device; that of step" in text
    assert "Traceback" not in text
    assert len(checkpoint.checkpoints(folder / "checkpoints")) == 1
    assert main(["resume", str(folder), "--quiet"]) == 0
    assert main([*words, *small, "--quiet", "--out", str(tmp_path / "whole")]) == 0
    ends = [checkpoint.checkpoints(f / "checkpoints")[-1].name for f in (folder, tmp_path / "whole")]
    assert ends[0] == ends[1]
    config = load_config(folder)
    assert config.n_timesteps == 96


def test_a_checkpoint_put_together_of_two_is_refused(tmp_path):
    """Memory newer than weights: the bytes of one file's tensors behind the header of the other."""
    one = save(tmp_path / "a", 3)
    other, counters = snapshot(3), SeedRun(0, steps=3, iterations=1).counters
    other.learner["memory"] += 1
    two = checkpoint.save(tmp_path / "b", other, counters)
    start = container.read_header(one).start
    assert container.read_header(two).start == start
    data = two.read_bytes()[:start] + one.read_bytes()[start:]
    mixed = tmp_path / "c" / two.name
    mixed.parent.mkdir()
    mixed.write_bytes(data)
    with pytest.raises(container.ModelFileError, match="do not match their checksum"):
        checkpoint.load_newest(mixed.parent, snapshot(0).learner)
