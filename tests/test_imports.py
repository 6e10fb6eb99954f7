"""Imports point one way: core ← nets ← critics, data ← actors ← algorithms ← loops ← model ← command line."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import actrix

ROOT = Path(actrix.__file__).parent
PACKAGES = sorted({p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")})
MAY_IMPORT = {
    "core": set(),
    "nets": {"core"},
    "critics": {"core", "nets"},
    "data": {"core", "nets"},
    "actors": {"core", "nets", "critics"},
    "algorithms": {"core", "nets", "critics", "data", "actors"},
    "envs": {"core"},
    "files": {"core", "nets"},
    "show": {"files"},
    "doctor": {"core", "envs"},
    "loops": {"core", "nets", "critics", "data", "actors", "algorithms", "envs", "files", "show"},
    "remote": {"core", "envs", "files", "loops"},
    "lab": {"core", "critics", "actors", "envs", "files", "show"},
    "zoo": {"core", "critics", "actors", "algorithms"},
    "track": {"algorithms", "callbacks", "show"},
    "runs": {
        "algorithms",
        "core",
        "crews",
        "data",
        "envs",
        "files",
        "loops",
        "model",
        "remote",
        "show",
        "track",
        "zoo",
    },
    "tune": {"algorithms", "core", "crews", "envs", "files", "lab", "loops", "runs", "show", "zoo"},
    "cli": {
        "algorithms",
        "core",
        "data",
        "doctor",
        "envs",
        "files",
        "lab",
        "loops",
        "model",
        "runs",
        "show",
        "tune",
        "zoo",
    },
}
"""What stands above (model, callbacks, the command line) may import everything."""
LEARNING = ("core", "nets", "critics", "data", "actors", "algorithms")


def imports(file):
    """(line, package of actrix) of each import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "actrix":
            parts = (node.module or "").split(".")
            for name in [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]:
                yield node.lineno, name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "actrix":
                    yield node.lineno, alias.name.split(".")[1] if "." in alias.name else "__init__"


@pytest.mark.parametrize("package", sorted(set(PACKAGES) & set(MAY_IMPORT)))
def test_imports_point_one_way(package):
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for line, name in imports(file)
        if name != package and name not in MAY_IMPORT[package]
    ]
    assert not wrong, wrong


def test_no_two_files_of_the_learning_need_each_other():
    """So each can be read after what it imports: in these rooms no chain of imports leads back."""
    graph = {}
    for file in (file for room in LEARNING for file in (ROOT / room).rglob("*.py")):
        needs = graph[file.relative_to(ROOT)] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("actrix."):
                continue
            path = Path(*node.module.split(".")[1:])
            files = [path.with_suffix(".py"), *(path / f"{alias.name}.py" for alias in node.names)]
            needs |= {one for one in files if (ROOT / one).is_file()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the files


def test_networks_know_no_answers():
    """`core.answers` gives the networks names of types and nothing to call."""
    for file in (ROOT / "nets").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "actrix.core.answers":
                assert {alias.name for alias in node.names} <= {"Metrics", "Params"}, f"{file}:{node.lineno}"


def test_no_relative_imports_and_no_package_forgotten():
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno}"
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders <= set(MAY_IMPORT), f"say what {folders - set(MAY_IMPORT)} may import"


def test_every_public_name_exists_and_imports_are_light():
    assert len(set(actrix.__all__)) == len(actrix.__all__)
    assert all(hasattr(actrix, name) for name in actrix.__all__)
    here = "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    code = f"import sys, actrix; {here}; import actrix.cli; actrix.cli.parser(); {here}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, by_commands = map(set, map(str.split, done.stdout.splitlines()))
    assert not {"torch", "stable_baselines3", "gymnax", "envpool", "matplotlib", "moviepy"} & loaded
    assert "optuna" not in by_commands


@pytest.mark.parametrize("before", ["enable", "disable"])
def test_the_garbage_collector_is_as_it_was(before):
    code = f"import gc; gc.{before}(); import actrix; print(gc.isenabled())"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == [str(before == "enable")]
