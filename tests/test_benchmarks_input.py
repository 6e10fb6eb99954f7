"""Bad input of the scripts of `benchmarks/`: one sentence, nothing run, nothing overwritten."""

import importlib
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"
ROW = {"name": "row", "task": "copy", "method": "grpo", "seed": 1, "lag": 0, "job": "row"}


@pytest.fixture
def script(monkeypatch):
    """A module of this name, with arguments."""
    monkeypatch.syspath_prepend(str(HERE))

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        return importlib.import_module(name)

    return load


def refused(module, capsys):
    """The sentence that a script ends with."""
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert not said.out
    return said.err


RECORDS = [
    ("speed", "RESULTS", ["--only", "ppo-cartpole-host"]),
    ("speed", "AGAINST", ["--only", "ppo-cartpole-host", "--against", "HEAD"]),
    ("returns", "RESULTS", ["--only", "ppo-CartPole-v1"]),
    ("returns", "RESULTS", ["--list"]),
    ("tuning", "ROWS", ["--only", "cartpole"]),
    ("scale", "ROWS", ["--only", "sleeps"]),
    ("scale", "ROWS", ["--plot"]),
    ("lag", "RESULTS", []),
    ("checkpoints", "RESULTS", ["--record"]),
    ("sequences", None, ["--results"]),
    ("sequences", None, ["--table", "--results"]),
    ("generation", None, ["--results"]),
    ("gpu", None, ["--smoke", "--out"]),
]


@pytest.mark.parametrize(("name", "where", "arguments"), RECORDS)
@pytest.mark.parametrize(("end", "is_"), [('{"name": "ro', "no JSON"), ("[1]\n", "no row")])
def test_a_broken_record_is_said(name, where, arguments, end, is_, script, tmp_path, monkeypatch, capsys):
    record = tmp_path / "record.jsonl"
    row = ROW | {"right": {}, "generate_ratio": 1, "step_ratio": 1}
    record.write_text(before := json.dumps(row) + "\n" + end)
    module = script(name, *arguments, *([record] if where is None else []))
    if where is not None:
        monkeypatch.setattr(module, where, record)
    said = refused(module, capsys)
    assert said == f"{record}, line 2, is {is_}; nothing was run or written.\n"
    assert record.read_text() == before


def test_tables_are_written_all_or_none(script, tmp_path, monkeypatch, capsys):
    tables, docs = script("tables"), tmp_path / "docs"
    docs.mkdir()
    for name in ("speed", "results", "against", "tuning", "lag"):
        (tmp_path / f"{name}.jsonl").write_text((HERE / f"{name}.jsonl").read_text())
    page = (HERE.parent / "docs" / "benchmarks.md").read_text().replace("29.20", "0")
    (docs / "benchmarks.md").write_text(page)
    monkeypatch.setattr(tables, "HERE", tmp_path)
    monkeypatch.setattr(tables, "DOCS", docs)
    for name, lacks in (
        ("speed", "name"),
        ("results", "job"),
        ("against", "name"),
        ("tuning", "name"),
        ("lag", "lag"),
    ):
        whole = (tmp_path / f"{name}.jsonl").read_text()
        (tmp_path / f"{name}.jsonl").write_text(whole + "{}\n")
        number = len(whole.splitlines()) + 1
        assert f"{name}.jsonl, line {number}, is a row without {lacks}, " in refused(tables, capsys)
        (tmp_path / f"{name}.jsonl").write_text(whole)
        assert (docs / "benchmarks.md").read_text() == page


def test_a_table_of_no_record_is_not_written(script, tmp_path, capsys):
    assert "has no rows" in refused(script("sequences", "--table", "--results", tmp_path / "none"), capsys)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("speed", ["--only", "ppo-cheetah", "pong"]),
        ("speed", ["--against", "HEAD", "--only", "pong"]),
        ("returns", ["--only", "pong"]),
        ("returns", ["--sb3", "python", "--only", "pong"]),
        ("tuning", ["--only", "pong"]),
        ("gpu", ["--only", "pong"]),
    ],
)
def test_an_unknown_row_is_said(name, arguments, script, capsys):
    said = refused(script(name, *arguments), capsys)
    assert said.startswith(
        f"no row is called 'pong', nor begins a part of a name so: `python benchmarks/{name}.py"
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [("speed", "--only"), ("speed", "--against"), ("returns", "--only"), ("returns", "--sb3"), ("tuning", "--only"),
     ("gpu", "--only")],
)  # fmt: skip
def test_an_empty_word_is_no_row_and_no_python(name, option, script, capsys):
    """It chose every row, or trained this library for hours in another's place."""
    with pytest.raises(SystemExit):
        script(name, option, "").main()
    assert f"argument {option}: it is empty." in capsys.readouterr().err


@pytest.fixture
def bare(tmp_path):
    """A Python that can import nothing."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho Traceback: >&2\necho \"ModuleNotFoundError: No module named 'peer'\" >&2\nexit 1"
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("name", "option"), [("returns", "--sb3"), ("generation", "--peer"), ("trl_check", "--peer")]
)
def test_a_peer_that_is_not_installed_is_said(name, option, bare, script, capsys):
    assert "(ModuleNotFoundError: No module named 'peer')" in refused(script(name, option, bare), capsys)
    assert "No such file or directory" in refused(script(name, option, "nowhere/python"), capsys)
    if name != "returns":
        assert "--peer : " in refused(script(name, option, ""), capsys)


def test_a_side_of_a_peer_that_is_not_installed_ends_in_a_sentence(script, monkeypatch, capsys):
    peers = script(
        "peers", "sb3_ppo", '{"env_id": "CartPole-v1", "n_envs": 1, "n_steps": 8, "total_steps": 8}'
    )
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(SystemExit, match=r"^This benchmark needs stable-baselines3 .*`actrix\[bench\]`\.$"):
        peers.main()


def test_a_function_is_asked_for_by_its_name_alone(script, capsys):
    """`measured.py ours.py first_update`, as the page has it."""
    names = vars(script("peers", "sb3_ppo"))
    record = sys.modules["record"]
    assert record.asked(names) == ("sb3_ppo", {})
    for wrong in ([], ["no_such"], ["sb3_ppo", "[]"], ["sb3_ppo", "{"]):
        script("peers", *wrong)
        with pytest.raises(SystemExit):
            record.asked(names)
        assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_imported(script):
    record = script("record")
    assert record.lacks(sys.executable, "math", "json") is None
    assert record.lacks(sys.executable, "math", "no_such") == "ModuleNotFoundError: No module named 'no_such'"


def test_a_row_without_its_peer_leaves_the_others(script, bare, tmp_path, monkeypatch, capsys):
    speed = script("speed", "--only", "ppo-cartpole-host/sb3", "ppo-lander-memory-gib", "--pairs", "1")
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "speed.jsonl")
    monkeypatch.setattr(speed, "PEER_PYTHON", str(bare))
    monkeypatch.setattr(sys.modules["machine"], "PAUSE", tmp_path / "PAUSE")
    monkeypatch.setattr(sys.modules["machine"], "LOOKS", 0.0)
    row = {"name": "ppo-lander-memory-gib", "ratio": 0.5, "bar": 1, "ratios": [0.5], "lower_is_better": True}
    monkeypatch.setitem(speed.SPECIAL, row["name"], lambda pairs: row)
    asked = []
    run = speed.Side.run
    monkeypatch.setattr(speed.Side, "run", lambda side: asked.append(side.script) or run(side))
    with pytest.raises(SystemExit) as stop:
        speed.main()
    assert stop.value.code == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "not measured: sb3_ppo: ModuleNotFoundError: No module named 'peer'" in first
    assert second.startswith("ppo-lander-memory-gib")
    assert asked == ["peers.py"]  # ours was not run in vain
    assert [json.loads(x)["name"] for x in speed.RESULTS.read_text().splitlines()] == [row["name"]]


def test_a_row_is_added_on_a_line_of_its_own(script, tmp_path):
    record, file = script("record"), tmp_path / "rows.jsonl"
    record.append(file, {"name": "a"})
    file.write_text(file.read_text().strip())  # as an editor may leave it
    record.append(file, {"name": "b"})
    assert [row["name"] for row in record.read(file, "name")] == ["a", "b"]


@pytest.mark.parametrize("updates", [1, 2])
def test_updates_of_which_none_is_counted_are_refused(updates, script, monkeypatch, capsys):
    """They came to speeds of 0 and an efficiency of 1."""
    module = script("scale", "--only", "sleeps", "--updates", updates)
    monkeypatch.setattr(module, "start_ray", lambda: pytest.fail("it began"))
    assert f"--updates {updates}: give at least 3" in refused(module, capsys)
