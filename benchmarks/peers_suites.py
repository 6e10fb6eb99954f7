"""The test suites of Stable-Baselines3 and sb3-contrib, run on actrix with nothing but their imports moved.

    python benchmarks/peers_suites.py PATH/stable_baselines3-2.9.2 PATH/sb3_contrib-2.9.2 [-k EXPRESSION] [--log FILE]

The paths are unpacked source distributions (pip download --no-deps --no-binary :all: stable_baselines3), which nothing
here downloads; torch, pytest-timeout and what the suites import must be installed, best in an environment of its own.
Tests about their insides, which `peers_suites.yaml` lists with the reason, are collected and counted, but not run.
For every module of theirs one of the same name is written that looks each name up in actrix; their environments, which
are plain Gymnasium ones, are taken as they are. So the tests run unchanged. A name that actrix lacks is an object that
fails where it is used, with the sentence of `from actrix import NAME` where there is one.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
THEIRS = ("common/envs", "common/type_aliases.py")
"""What is copied: environments that the tests step."""
RENAMED = {"MaskablePPO": "PPO", "RecurrentPPO": "PPO", "MaskableEvalCallback": "EvalCallback"}
"""Classes that the migration page names as another of ours."""
PLACES = ("actrix", "actrix.callbacks", "actrix.envs.vec.names", "actrix.envs.vec.monitor", "actrix.show.log")
"""Where a name is looked up."""
LISTS = yaml.safe_load((HERE / "peers_suites.yaml").read_text())
"""Which tests are about internals, and what the migration page states of others, by reason."""
STUB = """from peers_suites import look_up
def __getattr__(name):
    return look_up(name)
"""


class Absence(type):
    """The class of a name that is not there: importing, subclassing and comparing it does nothing."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"ABSENT {cls.__name__}: {cls.why}")  # type: ignore[attr-defined]

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{cls.__name__}.{name}", cls.why)  # type: ignore[attr-defined]


def absent(name: str, why: str) -> Any:
    """A stand-in for `name`."""
    return Absence(name, (), {"why": why})


def look_up(name: str) -> Any:
    """What a script of theirs gets for `name` where it imports it from actrix."""
    if name == "__version__":
        return "2.9.2"
    if name.startswith("__"):
        raise AttributeError(name)
    why = "actrix has no such name"
    for place in PLACES:
        try:
            return getattr(importlib.import_module(place), RENAMED.get(name, name))
        except ImportError as error:
            why = str(error)
        except AttributeError:
            continue
    return absent(name, why)


def main() -> None:
    """Run the suites and print a table of outcomes, then the failures by their reason."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sources", nargs="*", type=Path, help="unpacked sdists: Stable-Baselines3's first")
    parser.add_argument("-k", default="", help="pytest's expression")
    parser.add_argument("--files", nargs="*", default=[], help="only these test files")
    parser.add_argument("--timeout", type=int, default=180, help="seconds for one test (default: 180)")
    parser.add_argument("--log", type=Path, help="where the output of pytest goes")
    parser.add_argument(
        "--record", type=Path, help="keep each file's outcomes in this folder; what is in it is not run again"
    )
    parser.add_argument("--again", action="store_true", help="run what failed in the record once more")
    parser.add_argument(
        "--zoo", type=Path, help="rl-baselines3-zoo's folder hyperparams: which entries construct"
    )
    asked = parser.parse_args()
    if asked.zoo:
        zoo(asked.zoo)
    with tempfile.TemporaryDirectory() as folder:
        for source in asked.sources:
            write_stubs(source, Path(folder))
        for source in asked.sources:
            found = {
                name: rest for path in run(source, Path(folder), asked) for name, *rest in outcomes(path)
            }
            report(found, collected(source, Path(folder), asked))


def write_stubs(source: Path, folder: Path) -> None:
    """A package of the same modules, whose names are ours."""
    package = next(p.parent for p in source.glob("*/__init__.py") if p.parent.name in source.name)
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package).as_posix()
        target = folder / package.name / inner
        target.parent.mkdir(parents=True, exist_ok=True)
        if inner.startswith(THEIRS):
            shutil.copy(path, target)
        else:
            target.write_text(STUB)


def run(source: Path, folder: Path, asked: argparse.Namespace) -> Iterator[Path]:
    """Run one suite, a file at a time; the file of outcomes of each."""
    suite = source.name.partition("-")[0]
    tests = folder / f"tests_{suite}"
    shutil.copytree(source / "tests", tests)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    expensive: theirs\n")
    kept = (asked.record or folder).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    inside = [f"--deselect={tests.name}/{name}" for names in LISTS["internals"].values() for name in names]
    for name in asked.files or sorted(p.name for p in tests.glob("test_*.py")):
        if not (tests / name).exists():
            continue
        stem = f"{suite}.{name.removesuffix('.py')}"
        out = kept / f"{stem}.xml"
        runs = functools.partial(runs_of, kept, stem)
        options = ["--tb=short", f"--timeout={asked.timeout}", "-k", asked.k, *inside]
        with open(asked.log or os.devnull, "a") as log:
            if not out.exists():
                pytest(tests, [*options, f"--junitxml={out}", name], stdout=log, stderr=log)
            found = {test: outcome for path in runs() for test, outcome, _ in outcomes(path)}
            failed = [test for test, outcome in found.items() if outcome == "failed"]
            if asked.again and failed:
                later = kept / f"{stem}.again{len(runs())}.xml"
                pytest(tests, [*options, f"--junitxml={later}", *failed], stdout=log, stderr=log)
        yield from runs()


def runs_of(kept: Path, stem: str) -> list[Path]:
    """The outcomes of a file's runs, the later behind."""
    return sorted(kept.glob(f"{stem}.*xml"), key=lambda path: (len(path.name), path.name))


def pytest(tests: Path, options: list[str], **pipes: Any) -> subprocess.CompletedProcess:
    """Pytest in a process, on the tests that their own CI runs; programs compile as in the tests of actrix."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", "../pytest.ini", "-p", "no:cacheprovider"]
    command += ["-p", "quick", "-m", "not expensive", *options]
    known = map(str, (tests.parent, tests, HERE, HERE.parent / "src", HERE.parent / "tests"))
    env = {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join(known)}
    return subprocess.run(command, cwd=tests, env=os.environ | env, text=True, **pipes)


def collected(source: Path, folder: Path, asked: argparse.Namespace) -> list[str]:
    """The names of all tests of a suite, those about internals included."""
    suite = source.name.partition("-")[0]
    kept = (asked.record or folder) / f"{suite}.txt"
    if not kept.exists():
        tests = folder / f"tests_{suite}"
        out = pytest(tests, ["--collect-only"], stdout=subprocess.PIPE).stdout
        names = [line.partition("/")[2] for line in out.splitlines() if line.startswith(tests.name)]
        kept.write_text("\n".join(names))
    return kept.read_text().split("\n")


def reason(name: str, kind: str) -> str | None:
    """Why a test is about internals, or what the page states of it."""
    found = (why for why, tests in LISTS[kind].items() if name.startswith(tuple(tests)))
    return next(found, None)


def outcomes(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file::test, passed | failed | skipped, the last line of what was said) of each test."""
    if not path.exists():
        return
    for case in ET.parse(path).iter("testcase"):
        module, _, cls = case.get("classname", "").partition(".")[2].partition(".")
        name = "::".join(filter(None, (f"{module}.py", cls, case.get("name"))))
        bad = [child for kind in ("failure", "error") for child in case.findall(kind)]
        if bad:
            yield name, "failed", (bad[0].get("message") or "").splitlines()[0][:200]
        else:
            yield name, "skipped" if case.find("skipped") is not None else "passed", ""


def report(found: dict[str, list[str]], names: list[str]) -> None:
    """Print a row for each file and the sum, the counts by reason, then the failures that the page does not state."""
    kinds = {name: kind_of(name, found) for name in names}
    columns = ("internals", "passed", "skipped", "stated", "failed", "not run")
    print(f"| file | tests | {' | '.join(columns)} |\n|---|{'---|' * (1 + len(columns))}")
    for file in [*sorted({name.partition("::")[0] for name in names}), ""]:
        of_file = Counter(kind for name, kind in kinds.items() if name.startswith(file))
        row = [of_file.total(), *(of_file[kind] for kind in columns)]
        print(f"| {file or 'all'} | {' | '.join(map(str, row))} |")
    for kind in ("internals", "stated"):
        for why, count in Counter(reason(n, kind) for n, k in kinds.items() if k == kind).most_common():
            print(f"{kind}\t{count}\t{why}")
    for name, kind in kinds.items():
        if kind == "failed":
            print(f"{name}\t{found[name][1]}")


def kind_of(name: str, found: dict[str, list[str]]) -> str:
    """What a test of theirs counts as."""
    if reason(name, "internals"):
        return "internals"
    outcome = found.get(name, ["not run"])[0]
    return "stated" if outcome == "failed" and reason(name, "stated") else outcome


ZOO = {"ppo_lstm": "PPO", "her": None, "ars": None}
"""Files whose class is not the name in capitals; HER's entries name one in `model_class`, ARS is not offered."""
NOT_MODELS = (
    "n_timesteps", "n_envs", "env_wrapper", "callback", "frame_stack", "normalize", "monitor_kwargs", "env_kwargs",
    "vec_env_wrapper", "vec_env_kwargs", "noise_type", "noise_std", "policy", "model_class",
)  # fmt: skip
"""What the zoo itself takes out before it makes a model."""


def zoo(folder: Path) -> None:
    """Print how many entries construct, and why others do not: each with its keywords, as the zoo hands them on."""
    import yaml

    made, refused = Counter(), Counter()
    for path in sorted(folder.glob("*.yml")):
        for name, entry in yaml.safe_load(path.read_text()).items():
            try:
                construct(path.stem, dict(entry))
                made[path.stem] += 1
            except Exception as error:
                refused[path.stem] += 1
                print(f"{path.stem} {name}: {type(error).__name__}: {str(error)[:200]}")
    print("| file | construct | refused |\n|---|---|---|")
    for name in sorted(made.keys() | refused.keys()):
        print(f"| {name} | {made[name]} | {refused[name]} |")
    print(f"| all | {made.total()} | {refused.total()} |")


def construct(file: str, entry: dict[str, Any]) -> None:
    """Make the model of an entry, and have its algorithm check a space of its kind; raises what they raise."""
    import actrix
    from actrix.envs.make import as_host_env

    cls = getattr(
        actrix,
        (ZOO.get(file, file.upper()) or entry.get("model_class", file).upper()).replace("CROSSQ", "CrossQ"),
    )
    settings = {k: x for k, x in entry.items() if k not in NOT_MODELS}
    for key in ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs"):
        if isinstance(settings.get(key), str):
            settings[key] = literal(ast.parse(settings[key].strip(), mode="eval").body)
    if isinstance(settings.get("train_freq"), list):
        settings["train_freq"] = tuple(settings["train_freq"])
    if entry.get("noise_type"):
        kind = (
            actrix.OrnsteinUhlenbeckActionNoise
            if "ornstein" in entry["noise_type"]
            else actrix.NormalActionNoise
        )
        settings["action_noise"] = kind(mean=[0.0], sigma=[entry["noise_std"]])
    model = cls(entry["policy"], **settings)
    discrete = file in ("dqn", "qrdqn")
    spec = as_host_env("CartPole-v1" if discrete else "Pendulum-v1").spec
    if "replay_buffer_class" not in settings:  # hindsight would look for goals
        model.algorithm.fitted(spec, entry.get("n_envs", 1)).check(spec, entry.get("n_envs", 1))


def literal(node: ast.expr) -> Any:
    """The value of an expression of literals, `dict(…)` and dotted names, which stay names (nn.ReLU → "ReLU")."""
    if isinstance(node, ast.Call):
        return {k.arg: literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {literal(k): literal(x) for k, x in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [literal(x) for x in node.elts]
    if isinstance(node, ast.Attribute | ast.Name):
        return node.attr if isinstance(node, ast.Attribute) else node.id
    return ast.literal_eval(node)


if __name__ == "__main__":
    main()
