"""Every script of examples/ runs, with few steps."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
BY_HAND = EXAMPLES / "ppo_by_hand.py"


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != BY_HAND], ids=lambda path: path.stem)
def test_example_runs(script, tmp_path, monkeypatch):
    few = {"sb3_off_policy": "160"}  # an update per step
    monkeypatch.setenv("EXAMPLE_STEPS", few.get(script.stem, "512"))
    monkeypatch.chdir(tmp_path)
    if script.stem == "quickstart":  # printed in the README as it is: the numbers are replaced here
        code = script.read_text(encoding="utf-8")
        code = code.replace("1_000_000", "1024").replace("n_steps=1024", "n_steps=64")
        script = tmp_path / "quickstart.py"
        script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")


SAVE_BOTH = """
import runpy, sys, jax, numpy as np
run = runpy.run_path(sys.argv[1], run_name="__main__")
nets = {"hand": run["build"](run["params"]), "preset": run["model"].acting.net, "initial": run["net"]}
leaves = {f"{name}{i}": x for name, net in nets.items() for i, x in enumerate(jax.tree.leaves(net))}
np.savez("nets.npz", steps=run["model"].num_timesteps, **leaves)
"""


@pytest.mark.timeout(600)  # eight seconds of work, wherever other work leaves room
def test_ppo_by_hand_has_the_presets_parameters(tmp_path):
    """In a process that compiles as users do: with the flags of these tests the two programs round differently."""
    ours = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {name: x for name, x in os.environ.items() if name not in ours}
    env["EXAMPLE_STEPS"] = "2048"  # two updates: in the second the policy has moved
    command = [sys.executable, "-c", SAVE_BOTH, str(BY_HAND)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    assert "bit for bit: True" in done.stdout
    assert "2,048 steps  return" in done.stdout
    saved = np.load(tmp_path / "nets.npz")
    assert saved["steps"] == 2048
    count = len(saved.files) // 3
    assert count == 12
    for i in range(count):
        hand, preset, initial = (saved[f"{name}{i}"] for name in ("hand", "preset", "initial"))
        assert hand.tobytes() == preset.tobytes()
        assert hand.tobytes() != initial.tobytes()


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [s.name for s in SCRIPTS if f"`{s.name}`" not in listed] == []
