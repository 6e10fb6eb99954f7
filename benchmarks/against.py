"""This checkout against a commit of its past: speed, peak memory and compile time as ratios (`speed.py --against`)."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine
from record import append

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "against.jsonl"
PAIRS = 7
SLOWER = 0.95
"""A row is slower where the whole interval of its speed ratio lies below."""
MORE = 1.1
"""More memory, a longer compilation: a ratio above."""


def against(ref: str, jobs: Mapping[str, tuple[str, dict[str, Any]]], pairs: int) -> bool:
    """Measure every job (a function of `ours.py` and its arguments) on both sides; whether none became worse."""
    fine = True
    with checkout(ref) as theirs:
        versions = {"this": commit("HEAD") + dirty(), "that": commit(ref)}
        print(f"{versions['this']} against {versions['that']}, {pairs} pairs", flush=True)
        for name, (function, arguments) in jobs.items():
            try:
                row = compare(theirs, function, arguments, pairs)
            except Failed as error:  # the commit may not know the job: that says nothing of the other rows
                print(f"{name:32} not measured: {error}", flush=True)
                fine = False
                continue
            row = {"name": name, **versions, **row, **where(ref, name, pairs)}
            append(RESULTS, row)
            print(line(row), flush=True)
            fine = fine and not row["worse"]
    return fine


def compare(theirs: Path, function: str, arguments: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Ratios of this checkout over the other, from runs in turn."""
    found = []
    for i in range(pairs):
        both = {}
        for folder in (ROOT, theirs) if i % 2 == 0 else (theirs, ROOT):  # a drift of the machine cancels
            both[folder] = run(folder, function, arguments)
        found.append((both[ROOT], both[theirs]))
    ratios = {
        name: [this[name] / that[name] for this, that in found]
        for name in ("speed", "memory_mib", "compile_seconds")
    }
    middle = {name: round(median(x), 3) for name, x in ratios.items()}
    low_high = interval(ratios["speed"])
    worse = [name for name in ("memory_mib", "compile_seconds") if middle[name] > MORE]
    if low_high is not None and low_high[1] < SLOWER:
        worse.insert(0, "speed")
    sides: dict[str, Any] = {}
    for side, number in (("this", 0), ("that", 1)):
        measured = [pair[number] for pair in found]
        sides[f"{side}_median"] = {name: round(median(m[name] for m in measured), 3) for name in ratios}
    return {
        "ratio": middle["speed"], "interval": low_high, "ratios": [round(r, 3) for r in ratios["speed"]],
        "memory_ratio": middle["memory_mib"], "compile_ratio": middle["compile_seconds"], "worse": worse, **sides,
        "what": found[-1][0]["what"],
    }  # fmt: skip


def interval(ratios: list[float]) -> list[float] | None:
    """95% bootstrap interval of the median; None of one pair."""
    if len(ratios) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    # 'percentile': the jackknife that BCa takes says nothing of a median.
    result = bootstrap(
        (np.asarray(ratios),), np.median, confidence_level=0.95, method="percentile", random_state=0
    )
    return [round(float(x), 3) for x in result.confidence_interval]


class Failed(Exception):
    """A side did not run."""


def run(folder: Path, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One process: the checkout's own `ours.py` on its own `src`, compiling everything anew."""
    env = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(folder / "src"), "ACTRIX_CACHE_DIR": ""}
    script = folder / "benchmarks" / "ours.py"
    command = [sys.executable, str(HERE / "measured.py"), str(script), function, json.dumps(arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().strip().splitlines())
    if process.returncode:
        raise Failed((texts[1] or [f"exit status {process.returncode}"])[-1])
    timed, measured = map(json.loads, texts[0][-2:])
    if folder / "src" not in Path(measured["package"]).resolve().parents:
        raise Failed(f"{measured['package']} ran, which is not in {folder}.")
    return {
        "speed": timed["steps"] / timed["seconds"], "memory_mib": usage.ru_maxrss / 1024,
        "compile_seconds": measured["compile_seconds"], "what": timed["what"],
    }  # fmt: skip


@contextlib.contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """The sources of a commit in a folder of their own, for a while."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", ref, "src", "benchmarks"], cwd=ROOT, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"--against {ref}: {done.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="actrix-against-") as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder).resolve()


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def commit(ref: str) -> str:
    return git("rev-parse", "--short", f"{ref}^{{commit}}")


def dirty() -> str:
    """'+' where the sources that run are not the commit's."""
    changed = git("status", "--porcelain", "--", "src", "benchmarks/ours.py", "benchmarks/peers.py")
    return "+" if changed else ""


def where(ref: str, name: str, pairs: int) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/speed.py --against {ref} --only {name} --pairs {pairs}",
        "date": datetime.date.today().isoformat(), "machine": machine(), "python": platform.python_version(),
    }  # fmt: skip


WORDS = {"speed": "slower", "memory_mib": "more memory", "compile_seconds": "longer to compile"}


def line(row: dict[str, Any]) -> str:
    spread = "" if row["interval"] is None else " [{:.2f}, {:.2f}]".format(*row["interval"])
    worse = ", ".join(WORDS[name] for name in row["worse"])
    return (
        f"{row['name']:32} speed {row['ratio']:5.2f}{spread}  memory {row['memory_ratio']:4.2f}  "
        f"compile {row['compile_ratio']:4.2f}" + (f"  WORSE: {worse}" if worse else "")
    )
