"""Runs killed with SIGKILL at random moments, resumed, and compared with the uninterrupted run, array by array."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_resume import assert_same

from actrix.cli import main
from actrix.files import checkpoint
from actrix.files.lock import RunLockedError
from actrix.runs import session
from actrix.runs import start as experiment
from actrix.runs.config import RunError, resolve
from actrix.runs.folder import load_config
from actrix.show.metrics import STEP, read_metrics

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
    pytest.mark.timeout(240),
]

# Saving may take any share of the time here, so that there is a checkpoint wherever the kill comes.
DRIVER = """
import sys
from actrix.loops import train
train.SAVE_SHARE = float("inf")
from actrix.cli import main
sys.exit(main(sys.argv[1:]))
"""
NET = "policy_kwargs={'net_arch': [8]}"
PPO = ["--envs", "4", "--set", "n_steps=16", "batch_size=32", "n_epochs=2", "normalize=True", NET]
DQN = ["--per", "--set", "learning_starts=64", "train_freq=4", "batch_size=16", "buffer_size=512", NET]
SAC = ["--set", "learning_starts=64", "batch_size=16", "buffer_size=512", NET]
CASES = {
    "ppo compiled": ["ppo", "CartPole-v1", "--backend", "jax", "--steps", "400000", *PPO],
    "ppo gymnasium": ["ppo", "CartPole-v1", "--backend", "gymnasium", "--steps", "12000", *PPO],
    "dqn prioritised gymnasium": ["dqn", "CartPole-v1", "--backend", "gymnasium", "--steps", "1200", *DQN],
    "dqn prioritised compiled": ["dqn", "CartPole-v1", "--backend", "jax", "--steps", "6000", *DQN],
    "sac gymnasium": ["sac", "Pendulum-v1", "--backend", "gymnasium", "--steps", "2500", *SAC],
}
MANY = [(case, 6) for case in CASES]
CASES["dqn shortly"] = ["500" if word == "1200" else word for word in CASES["dqn prioritised gymnasium"]]
KILLS = [("dqn shortly", 1)]
"""Case and how often it is killed before it may end. Slow: PPO, in both loops, is killed in test_interruptions.py, and
test_resume.py goes on with DQN's memory."""


def launch(words, **kwargs):
    command = [sys.executable, "-c", DRIVER, *map(str, words), "--quiet", "--checkpoint-seconds", "0"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, **pipes | kwargs)


def kill(child):
    child.kill()
    child.wait(30)
    with contextlib.suppress(AttributeError):
        child.stderr.close()


def finish(folder):
    """Resume to the end, in this process; what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["resume", str(folder), "--quiet"])
    assert code == 0, said.getvalue()
    return said.getvalue()


def ended(child):
    """What it said; it must end well."""
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    return said


def wait_until(true, child=None, seconds=90):
    """False if the process ended before it was true."""
    end = time.monotonic() + seconds
    while not true():
        if child is not None and child.poll() is not None:
            return False
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)
    return True


def newest(folder):
    return checkpoint.newest_step(folder / "checkpoints")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the uninterrupted run of a case, made once, in this process."""
    made = {}

    def make(case, words=None):
        if case not in made:
            made[case] = tmp_path_factory.mktemp("whole") / "run"
            words = ["train", *(words or CASES[case]), "--seed", "3", "--quiet", "--out", str(made[case])]
            assert main(words) == 0
        return made[case]

    return make


def survive(case, kills, whole, tmp_path, seed):
    reference = whole(case)
    folder, rng, killed = tmp_path / "run", random.Random(seed), 0
    first = ["train", *CASES[case], "--seed", "3", "--out", folder]
    for attempt in range(6 * kills):
        # After a share of the run that leaves something for the kills to come; less if it was too late before.
        share = 0.8 * (killed + rng.random()) / kills / (1 + attempt // kills)
        target = max(newest(folder), int(share * newest(reference)))
        child = launch(["resume", folder] if folder.exists() else first)
        if wait_until(lambda target=target: newest(folder) > target, child):
            time.sleep(0.02 * rng.random())
        ended = child.poll() is not None
        kill(child)
        if ended or (folder / "model.safetensors").exists():  # too late: once more from the beginning
            killed = 0
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            folder.rmdir()
            continue
        killed += 1
        if killed == kills:
            break
    assert killed == kills, "every attempt came too late"
    assert newest(folder) < newest(reference), "it was killed before its end"
    assert "exactly where it was" in finish(folder)
    assert_same(folder / "checkpoints", reference / "checkpoints")
    steps = read_metrics(folder)[STEP]
    assert (np.diff(steps[:-1]) > 0).all(), "no row twice"
    assert steps[-1] == steps[-2] == read_metrics(reference)[STEP][-1], "the last is the final evaluation's"
    assert not list(folder.rglob(".tmp-*"))
    events = [s["event"] for s in json.loads((folder / "manifest.json").read_text())["sessions"]]
    assert events == ["start"] + ["resume"] * kills


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kills"), KILLS, ids=[case for case, _ in KILLS])
def test_killed_and_resumed(case, kills, whole, tmp_path):
    survive(case, kills, whole, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("case", "kills"), MANY, ids=[case for case, _ in MANY])
def test_killed_many_times_and_resumed(case, kills, whole, tmp_path):
    """30 kills."""
    survive(case, kills, whole, tmp_path, seed=1)


@pytest.mark.slow  # test_folders.py begins such a run anew in its own process
def test_killed_before_the_first_checkpoint(whole, tmp_path):
    """The run begins anew, which comes to the same."""
    words, folder = ["2000" if word == "12000" else word for word in CASES["ppo gymnasium"]], tmp_path / "run"
    reference = whole("a short ppo", words)
    child = launch(["train", *words, "--seed", "3", "--out", folder])
    wait_until(lambda: (folder / "config.json").exists(), child)
    kill(child)
    assert newest(folder) < 0
    assert "begins anew" in finish(folder)
    assert_same(folder / "checkpoints", reference / "checkpoints")


def processes_naming(folder):
    # Twice w: without a terminal a line ends after 80 columns, before the folder.
    found = subprocess.run(
        ["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in found.splitlines() if str(folder) in line and "ps -eww" not in line]


@pytest.mark.slow
def test_a_killed_parent_leaves_no_processes(tmp_path):
    """Those of the seeds notice it, save and end; then the run can be resumed."""
    folder = tmp_path / "run"
    words = ["train", *CASES["ppo gymnasium"], "--seeds", "2", "--out", folder]
    words[words.index("--steps") + 1] = "50000000"
    child = launch(words)
    seeds = [folder / "seed-0", folder / "seed-1"]
    assert wait_until(lambda: all(newest(path) > 0 for path in seeds), child)
    assert len(processes_naming(folder)) == 3
    kill(child)
    begun = time.monotonic()
    wait_until(lambda: not processes_naming(folder), seconds=60)
    assert time.monotonic() - begun < 20
    assert not list(folder.rglob(".tmp-*")), "they ended by themselves"
    steps = [newest(path) for path in seeds]
    for path in (folder, *seeds):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "n_timesteps": max(steps) + 64}))
    assert experiment.resume(folder, quiet=True).finished
    assert all(newest(path) >= max(steps) + 64 for path in seeds)


@pytest.mark.slow  # test_interruptions.py asks both inside a longer chunk and of killed runs
def test_a_second_ctrl_c_aborts_and_a_second_process_is_refused(tmp_path):
    folder = tmp_path / "run"
    words = ["train", *CASES["ppo gymnasium"], "--seed", "1", "--out", folder]
    words[words.index("--steps") + 1] = "50000000"
    child = launch(words)
    assert wait_until(lambda: newest(folder) > 0, child)
    before = {p: p.read_bytes() for p in folder.glob("*.json")}
    with pytest.raises(RunLockedError, match=rf"is in use by another process \(pid {child.pid}\)"):
        experiment.resume(folder, quiet=True)
    assert before == {p: p.read_bytes() for p in folder.glob("*.json")}
    for _ in range(2):
        child.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert child.wait(30) == 130, child.stderr.read()
    child.stderr.close()
    (snapshot, counters) = checkpoint.load_newest(folder / "checkpoints", _learner(folder))
    assert counters["num_timesteps"] == newest(folder)
    assert snapshot.loop["env"] is not None


def _learner(folder):
    config = load_config(folder)
    env = session.make_env(config, 1)
    try:
        return session.host_runner(config.build(), env, 1).snapshots()[0].learner
    finally:
        env.close()


def test_another_configuration_and_other_versions(tmp_path, capsys):
    """A changed setting is refused and nothing is touched; other versions are told."""
    settings = {"n_steps": 16, "batch_size": 32, "policy_kwargs": {"net_arch": [4]}}
    config = resolve(
        "ppo", "CartPole-v1", steps=128, n_envs=4, seeds=[2], backend="gymnasium", settings=settings
    )
    folder = tmp_path / "run"
    experiment.start(config, folder, quiet=True)
    right = (folder / "config.json").read_text()
    (folder / "config.json").write_text(right.replace('"gamma": 0.98', '"gamma": 0.5'))
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(RunError, match=r"settings.gamma is 0.5, the checkpoint has 0.98"):
        experiment.resume(folder, steps=256, quiet=True)
    assert files == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    (folder / "config.json").write_text(right)
    manifest = (folder / "manifest.json").read_text()
    version = json.loads(manifest)["sessions"][0]["versions"]["jax"]
    manifest = manifest.replace(f'"jax": "{version}"', '"jax": "0.1"')
    manifest = manifest.replace('"jax_enable_x64": false', '"jax_enable_x64": true')
    (folder / "manifest.json").write_text(manifest)
    capsys.readouterr()
    assert experiment.resume(folder, steps=256, quiet=True).finished
    text = capsys.readouterr().err
    assert "exactly where it was" in text
    assert f"jax 0.1 → {version}" in text
    assert "jax_enable_x64 True → False" in text
    sessions = json.loads((folder / "manifest.json").read_text())["sessions"]
    assert [(s["event"], s["step"]) for s in sessions] == [("start", 0), ("resume", 128)]
    assert sessions[1]["exact"] is True
