"""A fault at every file operation of a whole run, from its first `config.json` to its curve; then it goes on.

Either the disk refuses one operation, or the process is gone: half of what was being written is there, and from then on
nothing reaches the disk, as after SIGKILL.
"""

import errno
import io
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from test_resume import assert_same
from test_write_faults import Faults, _File

from actrix.cli import main
from actrix.files import checkpoint
from actrix.loops import train
from actrix.show import log, plot
from actrix.show.metrics import STEP, read_metrics

MORE = ["--quiet", "--checkpoint-seconds", "0"]
TRAIN = ["train", "sarsa", "FrozenLake-v1", "--backend", "gymnasium", "--envs", "2", "--steps", "160",
         "--seed", "1", "--set", "train_freq=16"]  # fmt: skip


TIMES = {"time/fps", "time/time_elapsed"}


class Gone(BaseException):
    """The process does not exist any more."""


class RunFaults(Faults):
    """Also of the log's own file. Names say what kind of file it was: "write .json"."""

    def __init__(self, n, fault, lasting):
        super().__init__(n, fault)
        self.lasting = lasting

    @property
    def over(self):
        return self.lasting and self.count >= self.n

    def tick(self, name, half=lambda: None):
        if self.over:
            self.fault()
        super().tick(name, half)

    def wrap(self, name, function):
        def wrapped(*args):
            target = args[0] if isinstance(args[0], int) else Path(args[-1] if name == "replace" else args[0])
            self.tick(f"{name} {'' if isinstance(target, int) else target.suffix}")
            return None if name == "fsync" else function(*args)  # no power fails here

        return wrapped

    def open(self, path, mode="r", *args, **kwargs):
        if "r" in mode and "+" not in mode:
            return open(path, mode, *args, **kwargs)
        self.tick(f"open {Path(path).suffix}")
        file = _File(open(path, mode, *args, **kwargs), self)  # noqa: SIM115
        file.faults = types.SimpleNamespace(tick=lambda name, half: self.tick(name + Path(path).suffix, half))
        return file

    def install(self, setattr_=setattr):
        super().install(setattr_)
        faults = self

        class File(io.FileIO):
            def write(self, data):
                faults.tick("write log", lambda: io.FileIO.write(self, bytes(data)[: len(data) // 2]))
                return super().write(data)

            def truncate(self, size=None):
                if not faults.over:
                    super().truncate(size)

        setattr_(log, "io", types.SimpleNamespace(FileIO=File, StringIO=io.StringIO))
        return self


def go(folder, n=0, fault=None, lasting=False):
    """(exit code or None, names of the operations) of a run into a folder, or of going on with it."""
    begun = (folder / "config.json").exists()
    words = ["resume", str(folder), *MORE] if begun else [*TRAIN, *MORE, "--out", str(folder)]
    faults = RunFaults(n, fault, lasting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "SAVE_SHARE", np.inf)
        patch.setattr(train, "SEGMENT_SECONDS", 0.0)  # as many operations whatever the time
        patch.setattr(plot, "DPI", 20)  # a curve is drawn in each
        faults.install(lambda owner, name, f: patch.setattr(owner, name, f, raising=False))
        try:
            code = main(words)
        except Gone:
            code = None
    return code, faults.names


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, names = go(folder)
    assert code == 0
    assert len(names) > 150
    assert len(checkpoint.checkpoints(folder / "checkpoints")) == checkpoint.KEEP
    return folder, names


def chosen(names, every, last=False):
    """Numbers from 1: all, or the first of each kind, or the last."""
    numbers = list(enumerate(names, 1))
    return (
        range(1, len(names) + 1)
        if every
        else sorted({name: n for n, name in (numbers if last else reversed(numbers))}.values())
    )


def check_went_on(folder, reference, where, lost_rows=0):
    finished = (folder / "curve.png").exists()  # the last that is written
    code, _ = go(folder)
    assert code == (2 if finished else 0), where
    assert_same(folder / "checkpoints", reference / "checkpoints")
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), where
    evaluations = [json.loads((f / "evaluation.json").read_text()) for f in (folder, reference)]
    assert evaluations[0] == evaluations[1], where
    assert (folder / "curve.png").exists(), where
    assert not list(folder.rglob(".tmp-*")), where
    one, two = read_metrics(folder), read_metrics(reference)
    assert one.keys() == two.keys(), where
    found, wanted = (
        list(zip(*(m[name] for name in sorted(one.keys() - TIMES)), strict=True)) for m in (one, two)
    )
    assert len(wanted) - lost_rows <= len(found) <= len(wanted), where
    assert set(map(str, found)) <= set(map(str, wanted)), where
    assert (np.diff(one[STEP][:-1]) > 0).all(), f"{where}: a row twice"


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.timeout(1500)
def test_the_disk_refuses(every, whole, tmp_path, capsys):
    """One line that says so, exit code 1; with room again the run goes on to what it would have been."""
    reference, names = whole

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for n in chosen(names, every):
        folder, where = tmp_path / "run", f"{n}: {names[n - 1]}"
        code, _ = go(folder, n, refuse)
        said = capsys.readouterr().err
        print(where, said)
        assert code == 1, where
        assert "No space left on device" in said, where
        assert str(folder) in said.replace("\n", ""), where
        assert said.count("\n") == 1, where
        # What was learned is worth more than the row of the log that found no room.
        lost = int(names[n - 1] == "write log")
        check_went_on(folder, reference, where, lost)
        capsys.readouterr()
        shutil.rmtree(folder)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.timeout(1500)
def test_the_process_is_gone(every, whole, tmp_path):
    reference, names = whole

    def gone():
        raise Gone

    for n in chosen(names, every, last=True):
        folder, where = tmp_path / "run", f"{n}: {names[n - 1]}"
        code, _ = go(folder, n, gone, lasting=True)
        assert code is None, where
        check_went_on(folder, reference, where)
        shutil.rmtree(folder)
