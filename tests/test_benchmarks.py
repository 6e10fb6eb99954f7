"""The scripts of `benchmarks/` run on what the library is today; what they measure is not asked here."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from actrix.runs.folder import config_json

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
HERE = Path(__file__).parents[1] / "benchmarks"
CALLS = [
    ("ours.py", "random_actions", {"env_id": "CartPole-v1", "n_envs": 2, "total_steps": 40}),
    ("bare.py", "dqn", {"env_id": "CartPole-v1", "total_steps": 5}),
    ("bare_ppo.py", "ppo", {"env_id": "CartPole-v1", "n_envs": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1,
                            "total_steps": 16}),
    pytest.param(
        "ours.py", "ppo", {"env_id": "CartPole-v1", "n_envs": 2, "n_steps": 32, "total_steps": 64,
                           "backend": "gymnasium"}, marks=pytest.mark.slow),
    pytest.param(
        "ours.py", "off_policy", {"algo": "sac", "env_id": "Pendulum-v1", "total_steps": 5, "learning_starts": 10},
        marks=pytest.mark.slow),
    pytest.param(
        "ours.py", "learn", {"algo": "dqn", "env_id": "CartPole-v1", "total_steps": 50, "learning_starts": 10,
                             "backend": "gymnasium"}, marks=pytest.mark.slow),
    pytest.param("ours.py", "tabular_q", {"total_steps": 200}, marks=pytest.mark.slow),
    pytest.param(
        "ours.py", "host_apart", {"env_id": "Pendulum-v1", "algo": "trpo", "n_envs": 2, "n_steps": 32, "repeats": 1},
        marks=pytest.mark.slow),
    pytest.param(
        "ours.py", "host_apart", {"env_id": "CartPole-v1", "n_envs": 2, "n_steps": 32, "repeats": 1, "behind": 1},
        marks=pytest.mark.slow),
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


@pytest.fixture
def scripts(monkeypatch):
    """The modules of these names."""
    monkeypatch.syspath_prepend(str(HERE))
    return lambda *names: map(importlib.import_module, names)


def test_every_comparison_has_a_line_in_the_table(scripts):
    speed, tables = scripts("speed", "tables")
    assert {c.name for c in speed.COMPARISONS} | set(speed.SPECIAL) == set(tables.SPEED_TITLES)


def test_a_ceiling_is_what_the_parts_alone_would_reach(scripts):
    (tables,) = scripts("tables")
    row = lambda ratio: {"ratio": ratio, "ratios": [ratio], "bar": 5, "met": False, "lower_is_better": False,
                         "date": "2026-01-02", "machine": "2 cores"}  # fmt: skip
    rows = {"ppo-cheetah/sb3": row(3.0), "ppo-cheetah/apart": row(0.5), "ppo-cartpole-host/sb3": row(12.0)}
    ceilings = lambda: [line.split("|")[4].strip() for line in tables.speed_table(rows).splitlines()[2:]]
    assert ceilings() == ["", "6.00× (of 2026-01-02)", ""]  # of which run, older rows do not say
    rows["ppo-cheetah/apart"]["run"] = "2026-01-02T10:00:00"
    assert ceilings() == ["", "6.00× (of 2026-01-02)", ""]
    rows["ppo-cheetah/sb3"]["run"] = "2026-01-02T10:00:00"
    assert ceilings() == ["", "6.00×", ""]
    rows["ppo-cheetah/apart"]["machine"] = "4 cores"  # where all may be otherwise
    assert ceilings() == ["", "", ""]


def test_only_some_rows_are_asked_for_less_than_their_bar(scripts):
    """A compiled loop that is no faster than a peer's has missed its bar, however near it is to its arithmetic."""
    (tables,) = scripts("tables")
    row = lambda ratio, bar: {"ratio": ratio, "ratios": [ratio], "bar": bar, "met": ratio >= bar,
                              "lower_is_better": False, "date": "2026-01-02", "machine": "2 cores"}  # fmt: skip
    rows = {"ppo-cartpole-compiled/rejax": row(1.1, 1.4), "ppo-cartpole-compiled/bare": row(0.96, 0.85),
            "off-policy-td3-pendulum/sb3": row(1.3, 2.8), "off-policy-td3-pendulum/bare": row(0.95, 0.85)}  # fmt: skip
    bars = [line.split("|")[5].strip() for line in tables.speed_table(rows).splitlines()[2:]]
    assert bars == ["≥ 1.4 (missed)", "≥ 0.85", "≥ 2.8, or 1.16: 0.85 of the ceiling", "≥ 0.85"]


def test_a_row_whose_ceiling_is_low_is_asked_for_most_of_it(scripts):
    """0.85 of the ceiling, where that is less than the bar; TD3 was said to miss a bar that it cannot have."""
    (tables,) = scripts("tables")
    row = lambda ratio: {"ratio": ratio, "bar": 2.8, "met": False, "lower_is_better": False}
    assert tables._bar(row(1.9), None) == "≥ 2.8 (missed)"
    assert tables._bar(row(1.9), 4.0) == "≥ 2.8 (missed)"
    assert tables._bar(row(1.9), 2.0) == "≥ 2.8, or 1.70: 0.85 of the ceiling"
    assert tables._bar(row(1.6), 2.0) == "≥ 2.8, or 1.70: 0.85 of the ceiling (missed)"


def test_the_page_and_its_pictures_are_those_of_the_records(scripts):
    """Where not: `python benchmarks/tables.py`."""
    from PIL import Image

    (tables,) = scripts("tables")
    speed, past, results = (
        tables.newest(HERE / f"{name}.jsonl", keys)
        for name, keys in (("speed", tables.SPEED), ("against", tables.PAST), ("results", tables.RETURN))
    )
    long = tables.long_curves(results)
    page, home = ((HERE.parent / name).read_text("utf-8") for name in ("docs/benchmarks.md", "README.md"))
    stale = [
        name
        for name, text in tables.made(speed, past, results, long).items()
        if f"\n{text}\n<!-- {name}:end" not in page
    ]
    assert not stale
    assert f"\n{tables.readme_table(speed)}\n<!-- speed:end" in home
    tuned = tables.newest(HERE / "tuning.jsonl", tables.TUNED)
    tuning = (tables.DOCS / "tuning.md").read_text("utf-8")
    assert f"\n{tables.tuned_table(tuned)}\n<!-- tuned:end" in tuning
    drawn = json.loads(Image.open(tables.DOCS / "pictures" / "speed.png").text["Description"])
    assert drawn == sorted((speed[name]["ratio"] for name in tables.HOME), reverse=True)
    assert all((tables.DOCS / "results" / f"{name}.png").exists() for name in long)


def test_a_peer_of_no_registry_is_a_checkout(scripts, tmp_path, monkeypatch):
    (peers,) = scripts("peers")
    monkeypatch.delenv("OWNPEER", raising=False)
    with pytest.raises(ImportError, match=r"a checkout of github.com/me/ownpeer: name its folder in OWNPEER"):
        peers.checkout("me/ownpeer", "train")
    (tmp_path / "ownpeer").mkdir()
    (tmp_path / "ownpeer" / "train.py").write_text("import json\nfrom notinstalled import tool\n")
    monkeypatch.setenv("OWNPEER", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "notinstalled", None)
    del sys.modules["notinstalled"]
    script = peers.checkout("me/ownpeer", "train", notinstalled={"tool": 3}, json={"loads": None})
    assert (script.tool, script.json) == (3, json)


@pytest.mark.slow
def test_generation_times_this_side():
    sizes = ["--prompt=3", "--new=2", "--batch=16", "--steps=1", "--repeats=1", "--pairs=1"]
    command = [sys.executable, str(HERE / "generation.py"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row["tokens_per_second"][0][0] > 0
    assert row["seconds_per_step"][0][0] > 0


@pytest.fixture
def sequences(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("sequences")


def test_sequences_starts_come_first_and_changes_go_seed_by_seed(sequences):
    found = sequences.jobs(["reverse", "changes"], [], [1, 2])
    assert len(set(found)) == len(found)
    for task, method, seed in found:
        start = (sequences.TASKS[task].begins or task, "start", seed)
        assert found.index(start) <= found.index((task, method, seed))
    changes = [job for job in found if job[0] == "changes"]
    assert [seed for _, _, seed in changes] == sorted(seed for _, _, seed in changes)
    assert [name for _, name, seed in changes if seed == 1] == list(sequences.CHANGES)
    arguments = sequences.command("changes", "group-4", 2, Path("runs"))
    assert arguments[arguments.index("--init") + 1] == "runs/reverse-start-2"
    assert "group=4" in arguments
    gone_on = sequences.command("copy", "grpo-long", 1, Path("runs"))
    assert gone_on == ["resume", "runs/copy-grpo-long-1", "--steps", "7500000"]


def test_sequences_make_again_what_a_run_begins_with(sequences, monkeypatch, tmp_path):
    """On another machine the record is there, and no folder."""
    asked = []

    def train(arguments):
        asked.append(arguments[0] + " " + Path(arguments[arguments.index("--out") + 1]).name)
        raise RuntimeError("enough")

    monkeypatch.setattr(sequences, "actrix", train)
    for task, method in (
        ("copy", "grpo-long"),
        ("copy", "expert"),
        ("changes", "std-off"),
        ("copy", "start"),
    ):
        with pytest.raises(RuntimeError, match="enough"):
            sequences.run(task, method, 4, tmp_path, 10, None)
    assert asked == [f"train {task}-start-4" for task in ("copy", "copy", "reverse", "copy")]
    (tmp_path / "copy-start-4").mkdir()
    (tmp_path / "copy-start-4" / "evaluation.json").touch()
    with pytest.raises(RuntimeError, match="enough"):
        sequences.run("copy", "grpo-long", 4, tmp_path, 10, None)
    assert asked[-1] == "train copy-grpo-4"


def test_sequences_table_of_changes_compares_seed_by_seed(sequences):
    from sequences_table import CHANGED, LAB, changes_table

    assert tuple(CHANGED) == sequences.CHANGES
    lab = json.loads(LAB.read_text())["predicted"]
    assert set(lab) == set(CHANGED)
    row = lambda value: {"right": {"sampled": value}}
    rows = {
        ("changes", "grpo"): {1: row(40.0), 2: row(50.0)},
        ("changes", "std-off"): {2: row(47.0), 1: row(41.0)},
        ("changes", "steps"): {1: row(60.0)},
        ("changes", "clip-higher"): {1: row(65.0), 2: row(71.0)},
    }
    lines = changes_table(rows, lab).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[2:5]] for line in lines]
    assert cells == [
        ["40.0, 50.0", "45.0", "—"],
        ["41.0, 47.0", "44.0", "-1.0"],
        ["60.0", "60.0", "+20.0"],
        ["65.0, 71.0", "68.0", "+5.0"],
    ]


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


@pytest.fixture
def returns(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(HERE))
    script = importlib.import_module("returns")
    monkeypatch.setattr(script, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results.jsonl")
    return script


def test_jobs_are_chosen_by_how_they_begin(returns, scripts):
    (record,), names = scripts("record"), list(returns.BY_NAME)
    assert record.chosen(["ppo-CartPole-v1"], names, "") == ["ppo-CartPole-v1"]
    assert record.chosen(["sac-Pendulum-v1", "pqn-Ast"], names, "") == [
        "sac-Pendulum-v1",
        "pqn-Asterix-MinAtar-1M",
    ]
    assert len(record.chosen(["pqn-"], names, "")) == 5
    assert {name.split("-")[1] for name in record.chosen(["Hopper"], names, "")} == {"Hopper"}
    compared = [c.name for c in next(scripts("speed")).COMPARISONS]
    assert record.chosen(["sac"], compared, "") == [
        *(f"off-policy-sac-cheetah/{x}" for x in ("sb3", "sbx", "bare")),
        "learn-sac-cheetah/loop",
    ]
    assert len({job.folder for job in returns.JOBS}) == len(names) == len(returns.JOBS)
    assert set(returns.PEERS) < set(names)


def test_a_job_stands_still_while_something_is_timed(returns, tmp_path, monkeypatch, capsys):
    """The job's work is a clock in a session of its own, as seeds have one: only the job itself was stopped."""
    ticking = tmp_path / "ticking.py"
    ticking.write_text(
        "import pathlib, sys, time\n"
        "for tick in range(20):\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(tick))\n"
        "    time.sleep(0.1)\n"
    )
    clock = tmp_path / "clock.py"
    clock.write_text(
        "import json, os, pathlib, stat, subprocess, sys\n"
        "ticks = sys.argv[sys.argv.index('--row') + 1] + 's'\n"
        f"subprocess.run([sys.executable, {str(ticking)!r}, ticks], start_new_session=True)\n"
        "row = {'job': 'clock', 'iqm': 1.0, 'per_seed': [1.0], 'piped': stat.S_ISFIFO(os.fstat(0).st_mode)}\n"
        "pathlib.Path(sys.argv[sys.argv.index('--row') + 1]).write_text(json.dumps(row))\n"
    )
    machine = sys.modules["machine"]
    monkeypatch.setattr(machine, "PAUSE", tmp_path / "PAUSE")
    monkeypatch.setattr(machine, "LOOKS", 0.1)
    monkeypatch.setattr(returns, "LOOKS", 0.1)
    monkeypatch.setattr(returns, "__file__", str(clock))
    name = "ppo-CartPole-v1"
    ticks = tmp_path / "runs" / f"{name}.rows"
    job = threading.Thread(target=returns.apart, args=(name, None))
    job.start()
    while not ticks.exists():
        time.sleep(0.05)
    with machine.quiet():
        time.sleep(0.5)
        before = ticks.read_text()
        with pytest.raises(SystemExit), machine.quiet():  # it would end the other's quiet
            pass
        time.sleep(0.5)
        assert ticks.read_text() == before
    job.join()
    assert not machine.paused()
    row = json.loads(returns.RESULTS.read_text())
    assert row["job"] == "clock"
    assert row["piped"]  # whose end it sees when who started it is killed
    assert 0 <= row["processor_hours"] < 0.01


def test_a_job_whose_starter_is_killed_ends(returns, tmp_path, monkeypatch):
    """It trained on for hours, and nobody took its row."""
    watched = []
    monkeypatch.setattr(returns, "end_with_parent", lambda: watched.append(True))
    monkeypatch.setattr(returns, "run", lambda job: {"watched": list(watched)})
    row = tmp_path / "row"
    monkeypatch.setattr(sys, "argv", ["returns.py", "--only", "ppo-CartPole-v1", "--row", str(row)])
    returns.main()
    assert json.loads(row.read_text()) == {"watched": [True]}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_what_a_process_s_children_took_counts(returns):
    """A job that is killed has told what it took until then."""
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    waits = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); "
    with subprocess.Popen([sys.executable, "-c", waits + "time.sleep(60)"], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        found = sys.modules["machine"].family(parent.pid)
        parent.kill()
    assert list(found) == [parent.pid]
    assert 0.3 <= found[parent.pid] < 5


def test_a_folder_of_other_settings_is_no_beginning_of_a_job(returns, tmp_path):
    """Its row would name settings that it was not trained with."""
    job = returns.BY_NAME["ppo-CartPole-v1"]
    config = returns.resolve(job.algorithm, job.env_id, steps=job.steps, seeds=job.seeds)
    assert returns.differs(config, config) is None
    other = dataclasses.replace(config, settings=config.settings | {"gamma": 0.5})
    folder = returns.RUNS / job.folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(other)))
    with pytest.raises(SystemExit):
        returns.run(job)
    for seed in job.seeds:  # neither is one that has ended
        (folder / f"seed-{seed}").mkdir()
        (folder / f"seed-{seed}" / "evaluation.json").touch()
    with pytest.raises(SystemExit):
        returns.run(job)


def test_the_timer_may_be_gone(tmp_path, monkeypatch, returns):
    machine = sys.modules["machine"]
    monkeypatch.setattr(machine, "PAUSE", tmp_path / "PAUSE")
    for text in ("", "word", "4194304000"):
        machine.PAUSE.write_text(text)
        assert not machine.paused()


def gpu(*arguments, timeout=60):
    """The script as a process, on a CPU."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(GPU), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "JAX sees no GPU here"),
        (["--only", "pong"], "no row is called 'pong', nor begins"),
        (["--smoke", "--out", "broken.jsonl"], "broken.jsonl, line 2, is no JSON"),
    ],
)
def test_gpu_says_why_not(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "broken.jsonl"
    record.write_text(before := '{"name": "row"}\n{')
    done = gpu(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(says)
    assert record.read_text() == before


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU.parent))
    return importlib.import_module("gpu")


def test_a_wrong_update_on_a_gpu_is_seen(script):
    before = [np.zeros(3, np.float32), np.arange(2)]
    learned = [np.float32([0.1, -0.2, 0.0]), np.arange(2)]
    off = [learned[0] + np.float32([0, 0, 1e-3]), np.arange(2)]
    assert script.apart(before, learned, learned) == 0
    assert script.apart(before, learned, off) == pytest.approx(5e-3)
    assert "DIFFERS" in script.line(script.ROWS["check-ppo"], {"apart": 5e-3})
    with pytest.raises(AssertionError, match="changed nothing"):
        script.apart(before, before, before)


def test_a_check_that_was_not_run_is_no_agreement(script, tmp_path, monkeypatch):
    for found, fine in (({"why": "no CPU"}, False), ({"apart": 1e-2}, False), ({"apart": 1e-4}, True)):
        monkeypatch.setattr(script, "run", lambda *given, found=found: found)
        assert script.measure([script.ROWS["check-sac"]], tmp_path / "rows.jsonl", 1, True, {}) is fine


def test_a_row_that_does_not_fit_is_said(script, tmp_path, capsys):
    rows, out = [script.ROWS["ppo-cartpole-64"], script.ROWS["ppo-cartpole-256"]], tmp_path / "rows.jsonl"
    assert script.measure(rows, out, 0.2, True, {})
    assert capsys.readouterr().out.count("not run: more than its share") == 2
    assert [json.loads(line)["name"] for line in out.read_text().splitlines()] == [row.name for row in rows]


@pytest.mark.slow
def test_gpu_runs_on_a_cpu(tmp_path):
    out = tmp_path / "rows.jsonl"
    done = gpu("--smoke", "--out", out, timeout=480)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert not [row["why"] for row in rows.values() if "why" in row]
    assert rows["check-ppo"]["apart"] <= 1e-3
    assert rows["sac-halfcheetah-host"]["leanrl"] == 725
    assert rows["ppo-breakout-64"]["steps_per_second"] > 0
    assert rows["seeds-4-vmapped"]["versions"]["jaxlib"]


def test_the_page_states_why_tests_of_the_peers_do_not_pass():
    lists = yaml.safe_load((HERE / "peers_suites.yaml").read_text())
    page = " ".join((HERE.parent / "docs" / "migrating-from-sb3.md").read_text().split())
    reasons = [*lists["internals"], *lists["stated"]]
    assert [why for why in reasons if f"| {why} |" not in page] == []
    named = [name for kind in lists.values() for tests in kind.values() for name in tests]
    assert len(named) == len(set(named))


def test_the_pages_figures_of_the_peers_suites_add_up():
    page = (HERE.parent / "docs" / "migrating-from-sb3.md").read_text().split("## Their own test suites")[1]
    tables = [table.splitlines()[2:] for table in page.split("\n\n") if table.startswith("|")][:3]
    rows = [[[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table] for table in tables]
    files, stated, internals = ([[int(n or 0) for n in row[1:]] for row in table] for table in rows)
    tests, inside, passed, skipped, other = sums = files.pop()
    assert [sum(column) for column in zip(*files, strict=True)] == sums
    assert all(row[0] == sum(row[1:]) for row in [*files, sums])
    assert sum(n for (n,) in stated) == other
    assert sum(n for (n,) in internals) == inside
    said = re.search(
        r"(?s)Of (\d+) tests (\d+) .* other (\d+) \*\*(\d+) pass\*\*, (\d+) .*, (\d+) stop", page
    )
    assert [*map(int, said.groups())] == [tests, inside, tests - inside, passed, skipped, other]
