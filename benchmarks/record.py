"""Rows of a record, one line of JSON each: read whole or not at all, added to and never written over; rows by name."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn


def refuse(why: str) -> NoReturn:
    """Say in a sentence why nothing is run, and end with status 2."""
    print(why, file=sys.stderr)
    raise SystemExit(2)


def read(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The rows of a record, each with these keys; of a file that is not there, none. Ends where a line is no row."""
    rows = []
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path} cannot be read as a record: {error}; nothing was run or written.")
    for number, text in enumerate(lines, 1):
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            refuse(f"{path}, line {number}, is no JSON; nothing was run or written.")
        if not isinstance(row, dict) or (lacks := [key for key in keys if key not in row]):
            what = f"a row without {', '.join(lacks)}" if isinstance(row, dict) else "no row"
            refuse(f"{path}, line {number}, is {what}; nothing was run or written.")
        rows.append(row)
    return rows


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row on a line of its own; those before it stay as they are."""
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * torn + json.dumps(row) + "\n")


def chosen(only: Iterable[str], names: Iterable[str], what: str) -> list[str]:
    """The names that are one of these words, or else begin like it, or else have a part that does, as the words are in
    turn; ends where a word is like none. `what` is who names them, e.g. 'speed.py --list'."""
    names, found = list(names), {}
    for word in only:
        these = [word] if word in names else [name for name in names if name.startswith(word)]
        these = these or [name for name in names if f"-{word}" in name]  # sac: off-policy-sac-cheetah/sb3
        if not these:
            refuse(
                f"no row is called {word!r}, nor begins a part of a name so: `python benchmarks/{what}` says them."
            )
        found |= dict.fromkeys(these)
    return list(found)


def asked(functions: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of one of a module's functions and its keywords, JSON, as the command line has them; ends in a sentence
    where it has not."""
    module = functions.get("__name__", "__main__")
    own = lambda f: isinstance(f, types.FunctionType) and f.__module__ == module and f.__name__ != "main"
    names = [name for name, f in functions.items() if own(f) and not name.startswith("_")]
    script, name, keywords = [*sys.argv, *("", "{}")[len(sys.argv) - 1 :]][:3]
    if name not in names:
        refuse(
            f"{Path(script).name} has no function {name!r}: name one of {', '.join(names)}, then its JSON keywords."
        )
    try:
        given = json.loads(keywords)
    except json.JSONDecodeError as error:
        refuse(f"the keywords of {name} are no JSON: {error}.")
    if not isinstance(given, dict):
        refuse(f"the keywords of {name} are JSON, but no object: {keywords}.")
    return name, given


def count(text: str) -> int:
    """A number of at least one, as argparse takes it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a number of at least 1, not {text!r}.")
    return int(text)


def word(text: str) -> str:
    """A word, as argparse takes it: an empty one would begin every name, or count as not given."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty.")
    return text


def amount(text: str) -> float:
    """A positive number, as argparse takes it."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"it is a positive number, not {text!r}.")
    return number


def lacks(python: str | Path, *modules: str) -> str | None:
    """What keeps this Python from importing them; None where it can."""
    command = [str(python), "-P", "-c", f"import {', '.join(modules)}"]  # -P: `datasets` is theirs, not ours
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["it ends"])[-1] if done.returncode else None
