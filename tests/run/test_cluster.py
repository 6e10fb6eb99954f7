"""Seeds and trials over a cluster of three nodes on this machine: what one machine comes to."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_interruptions import rows

from actrix.cli import main
from actrix.runs import report

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["train", "ppo", "CartPole-v1", "--steps", "200", "--envs", "2", "--seed", "0", "--seeds", "6", "--quiet",
         "--backend", "gymnasium", "--set", "n_steps=16", "batch_size=16", "n_epochs=2", "--out"]  # fmt: skip
TUNE = ["tune", "q-learning", "FrozenLake-v1", "--seeds", "2", "--steps", "2000", "--quiet"]
ONE = [*TUNE, "--jobs", "1", "--held-out", "2", "--trials", "3", "--out"]
MANY = [*TUNE, "--held-out", "1", "--trials", "5", "--out"]
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
    print([main([*command, "--address", cluster.address]) for command in json.loads(sys.argv[1])], flush=True)
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The folder of what three nodes made."""
    folder = tmp_path_factory.mktemp("there")
    (folder / "nodes.py").write_text(SCRIPT)
    commands = [
        [*words, str(folder / name)] for words, name in ((TRAIN, "seeds"), (ONE, "one"), (MANY, "many"))
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(folder / "nodes.py"), json.dumps(commands)]
    done = subprocess.run(
        command, env=env | {"RAY_worker_niceness": "0"}, capture_output=True, text=True, timeout=1500
    )
    assert done.stdout.split("\n")[-2:] == ["[0, 0, 0]", ""], done.stdout[-1000:] + done.stderr[-3000:]
    return folder


def test_seeds_on_three_nodes_make_the_folder_and_the_report_of_one_machine(there, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_seconds", lambda path: 0.0)
    assert main([*TRAIN, str(tmp_path / "seeds")]) == 0
    names, tables, configs = [], [], []
    for folder in (there / "seeds", tmp_path / "seeds"):
        paths = (str(p.relative_to(folder)) for p in folder.rglob("*"))
        names.append({re.sub(r"tfevents.*", "tfevents", path) for path in paths})
        study = report._studies([folder])
        tables.append([part(study) for part in (report._summary, report._settings, report._commands)])
        configs.append(json.loads((folder / "config.json").read_text()))
    assert names[0] == names[1]
    assert tables[0] == tables[1]
    assert configs[0].pop("address") is not None
    assert configs[1].pop("address") is None
    assert configs[0] == configs[1]
    for seed in range(6):
        one, other = (folder / "seeds" / f"seed-{seed}" for folder in (there, tmp_path))
        for name in ("model.safetensors", "evaluation.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), (seed, name)
        assert str(rows(one)) == str(rows(other))


def test_a_study_in_one_process_of_a_cluster_is_that_of_one_machine(there, tmp_path):
    """Its trials, what they returned, and both rounds, whose seeds three nodes shared: to the last digit."""
    assert main([*ONE, str(tmp_path / "one")]) == 0
    one, other = (json.loads((folder / "one" / "result.json").read_text()) for folder in (there, tmp_path))
    assert one == other
    texts = [(folder / "one" / "best.yaml").read_text() for folder in (there, tmp_path)]
    assert texts[0].replace(str(there), "") == texts[1].replace(str(tmp_path), "")
    assert len(list((there / "one" / "workers").glob("*.log"))) == 1


def test_a_study_on_three_nodes_goes_on_without_them(there):
    study = there / "many"
    result = (study / "result.json").read_text()
    assert json.loads(result)["trials"] == 5
    assert len(list((study / "workers").glob("*.log"))) == 3
    assert not any(log.stat().st_size for log in (study / "workers").glob("*.log"))
    assert main([*MANY, str(study)]) == 0, "nothing is left to do"
    assert (study / "result.json").read_text() == result
    more = [word if word != "5" else "6" for word in MANY]
    assert main([*more, str(study)]) == 0
    assert json.loads((study / "result.json").read_text())["trials"] == 6
