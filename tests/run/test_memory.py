"""What saving and loading a large replay memory cost in memory, by the kernel's own count of a process's peak."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resets the peak through /proc")

SCRIPT = """
import dataclasses, functools, sys
import gymnasium as gym, jax, jax.numpy as jnp, numpy as np
from actrix import DQN
from actrix.envs.probes import ActionObs
from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints

class Frames(gym.Env):  # host: 28 kB a row, flat, for which no convolution is compiled
    observation_space = gym.spaces.Box(0, 255, (28224,), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros((28224,), np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((28224,), self.t, np.uint8), 1.0, self.t > 20, False, {}

    def get_state(self):
        return {"t": self.t}

    def set_state(self, state):
        self.t = state["t"]

class Wide(ActionObs):  # compiled: as much in float32
    @functools.cached_property
    def spec(self):
        return dataclasses.replace(super().spec, observation_space=gym.spaces.Box(-1.0, 1.0, (7056,), np.float32))

    def _observe(self, state):
        return jnp.zeros(7056)

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

def peak_above(floor, function):
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    function()
    return status("VmHWM") - floor

folder, env = sys.argv[1:]
settings = {"buffer_size": 7_500, "learning_starts": 40, "train_freq": 4, "batch_size": 8}
model = DQN("MlpPolicy", Frames() if env == "host" else Wide(), seed=0, n_envs=1, policy_kwargs={"net_arch": [4]},
            **settings)
learner = (model.runner.learner if env == "host" else model.runner.state.learner)
size = sum(x.nbytes for x in jax.tree.leaves(learner.memory))
del learner
run = SeedRun(0, checkpoints=folder, iterations=1)
model.learn(60)
saving = peak_above(status("VmRSS"), lambda: save_checkpoints(model.runner, [run]))
# All else that the process holds is no matter of the memory's size.
loading = peak_above(status("VmRSS") - size, lambda: load_checkpoints(model.runner, [run]))
model.learn(60)  # what was loaded is the loop's own: it may be given away
print(size, saving, loading)
"""


def measure(folder, env):
    """(bytes of the memory, of the peak while saving and while loading)"""
    command = [sys.executable, "-c", SCRIPT, str(folder), env]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return map(int, done.stdout.split())


@pytest.mark.parametrize("env", ["host", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_large_memory_is_saved_from_where_it_is_and_read_once(env, tmp_path):
    """Saving takes no room. While reading there are the loop's memory and the file's, then the file's and the copy of
    it: twice the memory, as while the learner is made."""
    size, more, peak = measure(tmp_path, env)
    assert size > 200e6
    assert more < 0.2 * size
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size > size
    assert peak < 2.2 * size
