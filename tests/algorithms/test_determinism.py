"""Same seed, same bits: in this process and in another with another hash seed, folder, order and empty cache."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import restart, shared_runner

from actrix.algorithms.presets import PRESETS

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import actrix
import jax
from helpers import shared_runner
from test_determinism import digest

for name in reversed(json.loads(sys.argv[2])):
    print(json.dumps([name, digest(name)]), flush=True)
    shared_runner.cache_clear()
    jax.clear_caches()
"""


def digest(name):
    """sha256 of everything after two iterations of a preset: learner, optimiser, memory and environments."""
    np.random.seed(hash("anything") % 2**32)  # noqa: NPY002 - the global state, different in the two
    runner = restart(shared_runner(name), 7, total_steps=10_000)
    runner.advance(2)
    found = hashlib.sha256()
    for x in jax.tree.leaves((runner.state.learner, runner.state.env)):
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def digests_elsewhere(names, folder):
    """Name → digest, computed by a process that compiles everything itself."""
    env = os.environ | {"PYTHONHASHSEED": "4242", "ACTRIX_CACHE_DIR": str(folder / "its own cache")}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), json.dumps(names)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))


# test_golden_updates.py compares with what another process has recorded, bit for bit on its machine, and
# run/test_interruptions.py begins PPO in one process and ends it in another, in both loops.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("names", [[*PRESETS][i::3] for i in range(3)], ids=["1", "2", "3"])
def test_same_seed_same_bits_in_another_process(names, tmp_path):
    """Every preset. The programs of this process serve other tests, too."""
    here, there = {name: digest(name) for name in names}, digests_elsewhere(names, tmp_path)
    assert there.keys() == set(names)
    assert {n for n in names if here[n] != there[n]} == set()
    assert len(set(here.values())) == len(names), "and no two presets are the same"
