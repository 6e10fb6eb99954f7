"""What a killed process leaves behind: a log without gap or torn row, no lock, no children, its checkpoint."""

import contextlib
import errno
import os
import runpy
import signal
import time

import numpy as np
import pytest
from test_resume import assert_same
from test_survival import CASES, ended, finish, kill, launch, newest, wait_until

from actrix.cli import main
from actrix.files import lock
from actrix.files.lock import RunLock, RunLockedError
from actrix.loops.interrupt import StopRequest
from actrix.runs import start as experiment
from actrix.runs.config import RunError, resolve
from actrix.runs.folder import load_config
from actrix.show.metrics import STEP, read_metrics

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="POSIX signals"), pytest.mark.timeout(240)]


LINUX = os.path.exists("/proc/self/fd")


def words(case, folder, steps=None, *more):
    out = ["train", *CASES[case], *more, "--out", folder]
    if steps is not None:
        out[out.index("--steps") + 1] = str(steps)
    return out


def uninterrupted(words):
    """In this process: other processes must come to the same bits."""
    assert main([*map(str, words), "--quiet"]) == 0


def rows(folder):
    """The log's rows but for what the clock says."""
    metrics = read_metrics(folder)
    names = sorted(metrics.keys() - {"time/fps", "time/time_elapsed"})
    return names, [tuple(map(str, row)) for row in zip(*(metrics[n] for n in names), strict=True)]


def test_the_log_has_no_gap_and_the_lock_goes_with_its_process_gymnasium(tmp_path, capsys):
    """Killed twice in one run, each time with a last row that is torn; others are refused while it lives."""
    case, steps = "ppo gymnasium", 2400
    uninterrupted(words(case, tmp_path / "whole", steps, "--seed", "3"))
    folder = tmp_path / "run"
    first = words(case, folder, steps, "--seed", "3")
    for target in (0, steps // 3):
        child = launch(["resume", folder] if folder.exists() else first)
        assert wait_until(lambda target=target: newest(folder) > target, child)
        os.kill(child.pid, signal.SIGSTOP)  # it lives, and does not end while the others are refused
        config = (folder / "config.json").read_bytes()
        assert main(["resume", str(folder), "--steps", str(10 * steps)]) == 2
        assert f"is in use by another process (pid {child.pid}): wait for it" in capsys.readouterr().err
        assert main([*map(str, first), "--quiet"]) == 2
        assert "exists already" in capsys.readouterr().err
        assert (folder / "config.json").read_bytes() == config
        kill(child)
        assert newest(folder) < steps, "killed before its end"
        with RunLock(folder):
            pass
        with open(folder / "metrics.csv", "ab") as file:
            file.write(b"99999999,0.1,0.")
    assert "exactly where it was" in finish(folder)
    assert_same(folder / "checkpoints", tmp_path / "whole" / "checkpoints")
    assert rows(folder) == rows(tmp_path / "whole")
    assert (np.diff(read_metrics(folder)[STEP][:-1]) > 0).all()


def test_seeds_whose_parent_was_killed_go_on_to_the_same_bits_gymnasium(tmp_path):
    """Their processes save and end within seconds; a `resume` at once waits for the locks of their folders."""
    case, steps = "ppo gymnasium", 1600
    for seed in ("0", "1"):  # as each is alone
        uninterrupted(words(case, tmp_path / "whole" / f"seed-{seed}", steps, "--seed", seed))
    folder = tmp_path / "run"
    seeds = [folder / "seed-0", folder / "seed-1"]
    child = launch([*words(case, folder, steps, "--seeds", "2")])
    pids = {}

    def held():
        """Whether both stand still: each from its first save on, to be there when the run is resumed."""
        for path in seeds:
            if path not in pids and newest(path) > 0:
                pids[path] = int((path / ".lock").read_text().removeprefix("pid "))
                os.kill(pids[path], signal.SIGSTOP)
        return len(pids) == len(seeds)

    try:
        assert wait_until(held, child)
        kill(child)
        assert all(map(locked, seeds))
        assert max(map(newest, seeds)) < steps
        resumed = launch(["resume", folder])
        assert wait_until(lambda: asked_for(seeds), resumed)
        time.sleep(0.5)
        assert resumed.poll() is None
        assert all(map(locked, seeds))
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
    ended(resumed)
    assert not list(folder.rglob(".tmp-*")), "they ended by themselves"
    for path in seeds:
        other = tmp_path / "whole" / path.name
        assert_same(path / "checkpoints", other / "checkpoints")
        assert rows(path) == rows(other)


def asked_for(folders):
    """Whether each folder's lock is open in a second process; where that cannot be seen, after five seconds."""
    time.sleep(0.2 if LINUX else 5)
    opened = []
    for process in filter(str.isdigit, os.listdir("/proc") if LINUX else ()):
        with contextlib.suppress(OSError):  # it is gone, or somebody else's
            fds = f"/proc/{process}/fd"
            opened += {os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)}
    return not LINUX or all(opened.count(str(folder / ".lock")) > 1 for folder in folders)


def locked(folder):
    try:
        with RunLock(folder):
            return False
    except RunLockedError:
        return True


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_seeds_in_one_program_go_on_to_the_same_bits_compiled(kills, tmp_path):
    """They are saved one after the other: a kill in between leaves one ahead of the other."""
    case, steps = "ppo compiled", 4000 * kills
    uninterrupted(words(case, tmp_path / "whole", steps, "--seeds", "2"))
    folder, rng = tmp_path / "run", np.random.default_rng(kills)
    seeds = [folder / "seed-0", folder / "seed-1"]
    for i in range(kills):
        child = launch(["resume", folder] if folder.exists() else words(case, folder, steps, "--seeds", "2"))
        target = 0.8 * steps * i / kills
        assert wait_until(lambda target=target: newest(seeds[0]) > target, child)
        time.sleep(0.05 * rng.random())
        kill(child)
        assert newest(seeds[1]) < steps
    finish(folder)
    for path in seeds:
        assert_same(path / "checkpoints", tmp_path / "whole" / path.name / "checkpoints")
        steps_ = read_metrics(path)[STEP]
        assert (np.diff(steps_[:-1]) > 0).all()
    assert not list(folder.rglob(".tmp-*"))


def test_a_second_ctrl_c_aborts_inside_a_chunk_gymnasium(tmp_path):
    """The first one waits for the end of the chunk, which takes seconds here; the second one does not."""
    folder, steps = tmp_path / "run", 2 * 4 * 8000
    more = ["--seed", "3", "--set", "n_steps=8000", "batch_size=8000", "n_epochs=1"]
    child = launch(words("ppo gymnasium", folder, steps, *more))
    assert wait_until(lambda: newest(folder) > 0, child)
    step = newest(folder)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert child.poll() is None, "the first one waits"
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert time.monotonic() - begun < 10, "and no chunk was ended, see below"
    assert said.strip().endswith("interrupted")
    assert "Traceback" not in said
    assert newest(folder) == step
    assert not list(folder.rglob(".tmp-*"))
    assert not (folder / "model.safetensors").exists()


def test_a_start_that_was_killed_is_no_run_yet(tmp_path, monkeypatch):
    """What stood there before the `config.json` of the run; but not a run that another process began meanwhile."""
    config = resolve("ppo", "CartPole-v1", seeds=[0, 1])
    monkeypatch.setattr(experiment, "_train", lambda config, folder, session: folder)
    folder = tmp_path / "run"
    for name in (".lock", ".tmp-ab.json", "seed-0/config.json", "seed-1/.tmp-cd.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(RunError, match=r"has no config\.json"):
        experiment.resume(folder)
    assert experiment.start(config, folder) == folder
    assert load_config(folder) == config
    for name in ("notes.txt", "seed-0/metrics.csv", "config.json"):
        other = tmp_path / name.replace("/", " ") / name
        other.parent.mkdir(parents=True)
        other.write_text("mine")
        taken = tmp_path / name.replace("/", " ")
        with pytest.raises(RunError, match="exists already"):
            experiment.start(config, taken)
        assert other.read_text() == "mine"

    late = tmp_path / "late"
    monkeypatch.setattr(
        experiment, "check", lambda config: (late.mkdir(), (late / "config.json").write_text("its"))
    )
    with pytest.raises(RunError, match="exists already"):
        experiment.start(config, late)
    assert (late / "config.json").read_text() == "its"


def test_a_lock_is_refused_where_the_platform_lacks_an_error_number(tmp_path, monkeypatch):
    """macOS has no EDEADLOCK; neither the module nor "in use" must become an AttributeError there."""
    monkeypatch.delattr(errno, "EDEADLOCK", raising=False)
    there = runpy.run_path(lock.__file__)
    with (
        there["RunLock"](tmp_path),
        pytest.raises(there["RunLockedError"], match="in use by another process"),
        there["RunLock"](tmp_path),
    ):
        pass


def test_a_second_ctrl_c_inside_a_finaliser_still_aborts():
    """Python ignores the exception there, e.g. in the callback by which JAX collects garbage."""

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def stopped_twice():
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            one = Finalised()
            del one
            time.sleep(20)

    begun, before = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopped_twice()
    assert time.monotonic() - begun < 10, "it was woken"
    assert signal.getsignal(signal.SIGINT) is before
