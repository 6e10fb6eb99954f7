"""The scripts of `benchmarks/` run on what the library is today; what they measure is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"
CALLS = [
    ("ours.py", "random_actions", {"env_id": "CartPole-v1", "n_envs": 2, "total_steps": 40}),
    ("bare.py", "dqn", {"env_id": "CartPole-v1", "total_steps": 5}),
    pytest.param(
        "ours.py", "ppo", {"env_id": "CartPole-v1", "n_envs": 2, "n_steps": 32, "total_steps": 64,
                           "backend": "gymnasium"}, marks=pytest.mark.slow),
    pytest.param(
        "ours.py", "off_policy", {"algo": "sac", "env_id": "Pendulum-v1", "total_steps": 5, "learning_starts": 10},
        marks=pytest.mark.slow),
    pytest.param("ours.py", "tabular_q", {"total_steps": 200}, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("script", "function", "arguments"), CALLS)
def test_a_side_says_what_it_ran(script, function, arguments):
    command = [sys.executable, str(HERE / script), function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["steps"] > 0
    assert said["seconds"] > 0
    assert said["what"]["versions"]["gymnasium"]


def test_generation_times_this_side():
    sizes = ["--prompt=3", "--new=2", "--batch=16", "--steps=1", "--repeats=1", "--pairs=1"]
    command = [sys.executable, str(HERE / "generation.py"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row["tokens_per_second"][0][0] > 0
    assert row["seconds_per_step"][0][0] > 0


@pytest.mark.slow
def test_sequences_writes_a_row_of_each_seed_once(tmp_path):
    results = tmp_path / "rows.jsonl"
    command = [
        sys.executable, str(HERE / "sequences.py"), "--tasks", "sort", "--methods", "grpo", "--seeds", "1",
        "--steps", "2000", "--prompts", "20", "--runs", str(tmp_path / "runs"), "--results", str(results),
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["method"] for row in rows] == ["start", "grpo"]
    assert all(0 <= row["right"]["sampled"] <= 100 for row in rows)
    assert rows[1]["curve"][-1][0] >= 2000
