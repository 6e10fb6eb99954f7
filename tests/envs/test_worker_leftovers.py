"""What an environment in a process starts, prints and leaves behind when nobody closes it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_workers import alive, gone, shared_memory_since
from toys import HangsOnClose, Simulator

from actrix.envs.guard import EnvError
from actrix.envs.workers import process
from actrix.envs.workers.parent import ProcessEnvs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux only"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def programs(folder):
    return [int(path.name) for path in folder.iterdir()]


def stopped(folder):
    """Whether all programs end; they are ended in any case."""
    pids = programs(folder)
    assert pids
    try:
        return gone(pids)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("fork", [False, True])
def test_what_an_environment_started_ends_with_it(fork, tmp_path, monkeypatch):
    """A worker with a process of multiprocessing's waits for that at its exit, and is ended after its grace."""
    monkeypatch.setattr(process, "GRACE", 0.5)
    envs = ProcessEnvs(lambda: Simulator(tmp_path, fork=fork), 2, [1, 2])
    envs.reset()
    assert len(programs(tmp_path)) == 3  # one is the probe's
    assert sum(map(alive, programs(tmp_path))) >= 2
    envs.close()
    assert stopped(tmp_path)


def test_what_a_hanging_environment_started_ends_with_it(tmp_path):
    envs = ProcessEnvs(lambda: Simulator(tmp_path, hang=True), 1, [1], step_timeout=1.0)
    envs.reset()
    for _ in range(4):
        envs.step(np.zeros(1, np.int32))
    with pytest.raises(EnvError, match="took longer than 1 s"):
        envs.step(np.zeros(1, np.int32))
    assert stopped(tmp_path)


def test_a_close_that_does_not_return_has_the_limit_of_a_step(tmp_path):
    begun = time.monotonic()
    with pytest.raises(EnvError, match="close took longer than 2 s"):
        ProcessEnvs(lambda: HangsOnClose(tmp_path), 1, [1], step_timeout=2.0)
    assert time.monotonic() - begun < 60
    assert stopped(tmp_path)


SCRIPT = """
import os, sys
import gymnasium as gym
import numpy as np
from actrix.envs.workers.parent import ProcessEnvs

class Dies(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        print("the last words")
        if sys.argv[1] == "dies":
            os._exit(3)
        return np.zeros(1, np.float32), 0.0, False, False, {}

if __name__ == "__main__":
    envs = ProcessEnvs(Dies, 1, [1])
    envs.reset()
    print("pids", *(worker.process.pid for worker in envs._workers), flush=True)
    envs.step(np.zeros(1, np.int32))
    # and nobody closes it
"""


@pytest.mark.parametrize("how", ["dies", "lives"])
def test_last_words_are_seen_and_a_forgotten_close_leaves_nothing(how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    before = set(os.listdir("/dev/shm"))
    begun = time.monotonic()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, str(script), how], capture_output=True, text=True, timeout=60, env=buffered
    )
    assert "the last words" in done.stdout
    assert (done.returncode != 0) == (how == "dies")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("pids")]
    assert gone(list(map(int, line.split()[1:])))
    assert time.monotonic() - begun < 40
    assert not shared_memory_since(before)
