"""Same seed, same bits: in two processes with other hash seeds, other folders and other things done before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actrix.algorithms.presets import PRESETS

SCRIPT = """
import hashlib, json, os, sys
sys.path.insert(0, sys.argv[1])
import actrix
import jax, numpy as np
jax.config.update("jax_disable_most_optimizations", True)
from helpers import restart, shared_runner

names = json.loads(sys.argv[2])
np.random.seed(hash("anything") % 2**32)  # global states differ between the two
for name in reversed(names) if hash("a") % 2 else names:
    runner = restart(shared_runner(name), 7, total_steps=10_000)
    runner.advance(2)
    digest = hashlib.sha256()
    for x in jax.tree.leaves((runner.state.learner, runner.state.env)):
        digest.update(np.ascontiguousarray(x).tobytes())
    print(json.dumps([name, digest.hexdigest()]), flush=True)
    shared_runner.cache_clear()
    jax.clear_caches()
"""


def digests(names, hash_seed, folder, **more):
    """Name → sha256 of everything after two iterations, computed by a process of its own."""
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed)} | more
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), json.dumps(names)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_same_seed_same_bits_in_another_process(part, tmp_path):
    """Every preset: learner, optimiser, memory and environments. 4242 and 0 hash strings in other orders."""
    names = list(PRESETS)[part::4]
    one = digests(names, 0, tmp_path / "one")  # may take what other tests have compiled
    two = digests(names, 4242, tmp_path / "two", ACTRIX_CACHE_DIR=str(tmp_path / "its own cache"))
    assert one.keys() == set(names)
    assert {n for n in names if one[n] != two[n]} == set()
    assert len(set(one.values())) == len(names), "and no two presets are the same"
