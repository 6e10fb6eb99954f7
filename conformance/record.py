"""The record, one line of JSON for each outcome, and the table that is made from it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from conformance.probe import Outcome
from conformance.probes import PROBES

FIELDS = {field.name for field in dataclasses.fields(Outcome)}
KEYS = {"library", "versions", "date"} | FIELDS
SIGNS = {"pass": "✓", "fail": "✗", "by design": "by design", "n/a": "–", "unsettled": "?", "error": "error"}


def read(file: Path, must_exist: bool = False) -> list[dict[str, Any]]:
    """The lines of a record. Raises ValueError that names the broken one, FileNotFoundError."""
    if not file.exists():
        if must_exist:
            raise FileNotFoundError(f"{file} does not exist.")
        return []
    rows = []
    for number, text in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or row.keys() != KEYS or row["status"] not in list(SIGNS):
            raise ValueError(f"{file}, line {number}, is no outcome of this suite; nothing was written.")
        rows.append(row)
    return rows


def append(file: Path, library: str, versions: dict[str, str], outcome: Outcome) -> None:
    """Add an outcome on a line of its own; those before it stay as they are."""
    row = {"library": library, "versions": versions, "date": datetime.date.today().isoformat()}
    torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
    with file.open("a", encoding="utf-8") as out:
        out.write("\n" * torn + json.dumps(row | dataclasses.asdict(outcome), ensure_ascii=False) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: who was asked, every probe by library, and every deviation with its command.

    Of each probe a library's newest outcome counts; its versions and date are those of the newest of all.
    """
    if not rows:
        raise ValueError("the record is empty: run `python -m conformance LIBRARY --json FILE` first.")
    newest = {row["library"]: row for row in rows}
    by: dict[str, dict] = {name: {} for name in newest}
    for row in rows:
        by[row["library"]][row["probe"]] = {name: row[name] for name in FIELDS}
    return "\n".join([*_libraries(newest, by), "", *_matrix(by), "", *_deviations(by)])


def _libraries(newest: dict, by: dict) -> list[str]:
    lines = [
        "| library | versions | date | pass | by design | fail | not applicable |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in newest.items():
        statuses = [o["status"] for o in by[name].values()]
        count = lambda *which, found=statuses: sum(status in which for status in found)
        shown = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        failed = count("fail", "error", "unsettled")
        lines.append(
            f"| {name} | {shown} | {row['date']} | {count('pass')} | {count('by design')} | {failed} | {count('n/a')} |"
        )
    return lines


def _matrix(by: dict) -> list[str]:
    lines = [f"| what is right | {' | '.join(by)} |", "|---|" + "---|" * len(by)]
    for one in PROBES.values():
        signs = [SIGNS[found[one.name]["status"]] if one.name in found else "" for found in by.values()]
        lines.append(f"| {one.right.replace('|', chr(92) + '|')} (`{one.name}`) | {' | '.join(signs)} |")
    return lines


def _deviations(by: dict) -> list[str]:
    lines = []
    for name, found in by.items():
        for o in found.values():
            if o["status"] in ("pass", "n/a"):
                continue
            said = f"expected {o['expected']}, got {o['got']}" if o["expected"] else ""
            why = "; ".join(x for x in (said, o["why"]) if x)
            word = {"by design": "by design", "fail": "differs"}.get(o["status"], o["status"])
            lines.append(f"- `python -m conformance {name} --only {o['probe']}` ({word}): {why}.")
    return lines
