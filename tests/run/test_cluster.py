"""Seeds and trials over a cluster of three nodes: the folders of one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actrix.cli import main

ray = pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[2]
TRAIN = [
    "train",
    "ppo",
    "CartPole-v1",
    "--steps",
    "200",
    "--envs",
    "2",
    "--seed",
    "0",
    "--seeds",
    "20",
    "--quiet",
]
TRAIN += ["--backend", "gymnasium", "--set", "n_steps=16", "batch_size=16", "n_epochs=2"]
TUNE = [
    "tune",
    "q-learning",
    "FrozenLake-v1",
    "--seeds",
    "2",
    "--steps",
    "2000",
    "--held-out",
    "2",
    "--trials",
    "4",
]
SCRIPT = """
import json, sys
from actrix.remote.cluster import ray_module
ray = ray_module()
from ray.cluster_utils import Cluster
from actrix.cli import main
if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    sys.path += sys.argv[2:]  # what only the driver can import
    for command in json.loads(sys.argv[1]):
        print(main([*command, "--address", cluster.address]), flush=True)
    cluster.shutdown()
"""


def on_three_nodes(folder, commands, *drivers):
    """Run these commands at the address of a cluster: (exit codes, what it said); `drivers`: where only it imports."""
    (folder / "nodes.py").write_text(SCRIPT)
    known = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": known, "RAY_worker_niceness": "0"}
    command = [sys.executable, str(folder / "nodes.py"), json.dumps(commands), *map(str, drivers)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(word) for word in done.stdout.split() if word.isdigit()], done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_seeds_on_three_nodes_make_the_folder_of_one_machine(tmp_path):
    codes, _ = on_three_nodes(tmp_path, [[*TRAIN, "--out", str(tmp_path / "there")]])
    assert codes[-1] == 0
    assert main([*TRAIN, "--out", str(tmp_path / "here")]) == 0
    there, here = tmp_path / "there", tmp_path / "here"
    names = lambda folder: {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if "tfevents" not in p.name and "step-" not in str(p)
    }
    assert names(there) == names(here)
    for seed in range(20):
        for name in ("model.safetensors", "evaluation.json"):
            one, other = (folder / f"seed-{seed}" / name for folder in (there, here))
            assert one.read_bytes() == other.read_bytes(), (seed, name)
    config = [json.loads((folder / "config.json").read_text()) for folder in (there, here)]
    assert [one.pop("address", None) is None for one in config] == [False, True]
    assert config[0] == config[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_on_three_nodes_ends_like_any_other(tmp_path):
    study = tmp_path / "study"
    codes, said = on_three_nodes(tmp_path, [[*TUNE, "--quiet", "--out", str(study)]])
    assert codes[-1] == 0, said
    result = json.loads((study / "result.json").read_text())
    assert result["trials"] == 4
    assert len(list((study / "workers").glob("*.log"))) == 3
    assert main([*TUNE, "--quiet", "--out", str(study)]) == 0, "the same command here: nothing is left to do"
    assert json.loads((study / "result.json").read_text()) == result


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_environment_that_only_the_driver_has_ends_spread_seeds_in_a_sentence(tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "only_here.py").write_text(
        "import gymnasium as gym\ndef make():\n    return gym.make('CartPole-v1')\n"
    )
    command = ["train", "ppo", "only_here:make", *TRAIN[3:], "--seeds", "2", "--out", str(tmp_path / "run")]
    codes, said = on_three_nodes(tmp_path, [command], tmp_path / "hidden")
    assert codes[-1] == 1
    assert "seed 0" in said
    assert "only_here" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("words", [["train", "ppo", "CartPole-v1", "--seeds", "2"], TUNE])
def test_no_ray_and_no_cluster_end_a_command_in_a_sentence(words, tmp_path, capsys, monkeypatch):
    command = [*words, "--quiet", "--out", str(tmp_path / "out"), "--address"]
    assert main([*command, "localhost:1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("actrix: no Ray cluster of these versions answers this process at localhost:1")
    assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*words, "--quiet", "--out", str(tmp_path / "other"), "--address", "localhost:1"]) == 2
    assert 'not installed: pip install "actrix[ray]"' in capsys.readouterr().err
