"""The record, one line of JSON for each outcome, and the table that is made from it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

from conformance.adapters import LACKS
from conformance.probe import STATUSES, Outcome, lacked
from conformance.probes import PROBES

FIELDS = {field.name for field in dataclasses.fields(Outcome)}
KEYS = {"library", "versions", "date"} | FIELDS
SIGNS = {"pass": "✓", "fail": "✗", "unsettled": "?", "n/a": "–", "not asked": "·"}
COLUMNS = {status: status for status in STATUSES} | {"n/a": "not offered"}
MISSING = "offers no "
NOT_JUDGED = (
    "What the library does not have (–) and what the adapter does not ask (·), in the words of `--list`:"
)


def read(file: Path, must_exist: bool = False) -> list[dict[str, Any]]:
    """The lines of a record. Raises ValueError that names the file, or its broken line, FileNotFoundError."""
    if not file.exists():
        if must_exist:
            raise FileNotFoundError(f"{file} does not exist.")
        return []
    if not file.is_file():
        raise ValueError(f"{file} is a folder: name the file that `--json` wrote.")
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: name the file that `--json` wrote.") from error
    rows = []
    for number, text in enumerate(lines, 1):
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            row = None
        if not _is_outcome(row):
            raise ValueError(f"{file}, line {number}, is no outcome of this suite; nothing was written.")
        rows.append(row)
    return rows


def _is_outcome(row: Any) -> bool:
    if not isinstance(row, dict) or row.keys() != KEYS:
        return False
    texts = [row[k] for k in KEYS - {"versions"}]
    if isinstance(row["versions"], dict):
        texts += row["versions"].values()
    else:
        return False
    return all(isinstance(x, str) for x in texts) and row["status"] in STATUSES


def writable(file: Path) -> None:
    """Raises ValueError where `append` could not write."""
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is no folder: make it first, or name another file.")
    read(file)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(f"{file} cannot be written: name another file.")


def today() -> str:
    """The date of an outcome."""
    return datetime.date.today().isoformat()


def append(file: Path, library: str, versions: dict[str, str], outcome: Outcome) -> None:
    """Add an outcome on a line of its own; those before it stay as they are."""
    row = {"library": library, "versions": versions, "date": today()}
    torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
    with file.open("a", encoding="utf-8") as out:
        out.write("\n" * torn + json.dumps(row | dataclasses.asdict(outcome), ensure_ascii=False) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: who was asked, every probe by library, every deviation with its command, and why others were not asked.

    Of each probe a library's newest outcome counts.
    """
    if not rows:
        raise ValueError("the record is empty: run `python -m conformance LIBRARY --json FILE` first.")
    by: dict[str, dict] = {row["library"]: {} for row in rows}
    for row in rows:
        by[row["library"]][row["probe"]] = row | {"status": _status(row)}
    return "\n".join(
        [*_libraries(by), "", *_matrix(by), "", *_deviations(by), "", NOT_JUDGED, "", *_reasons(by)]
    )


def _status(row: dict) -> str:
    """As recorded; of what the adapter does not offer, whether the library has it is said by `LACKS`."""
    if not row["why"].startswith(MISSING) or row["status"] not in ("n/a", "not asked"):
        return row["status"]
    return "n/a" if _lacked(row) else "not asked"


def _lacked(row: dict) -> list[str]:
    return lacked(_missing(row), LACKS.get(row["library"], frozenset()))


def _missing(row: dict) -> list[str]:
    return row["why"].removeprefix(MISSING).split(", ")


def _libraries(by: dict) -> list[str]:
    lines = [
        f"| library | versions | date | {' | '.join(COLUMNS.values())} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for name, found in by.items():
        dates = sorted({row["date"] for row in found.values()})
        shown = dict.fromkeys(
            ", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in found.values()
        )
        statuses = [row["status"] for row in found.values()]
        counts = " | ".join(str(statuses.count(status)) for status in COLUMNS)
        lines.append(
            f"| {name} | {'; '.join(shown)} | {' to '.join(dict.fromkeys((dates[0], dates[-1])))} | {counts} |"
        )
    return lines


def _matrix(by: dict) -> list[str]:
    lines = [f"| what is right | {' | '.join(by)} |", "|---|" + "---|" * len(by)]
    for one in PROBES.values():
        statuses = [found[one.name]["status"] if one.name in found else "" for found in by.values()]
        signs = [SIGNS.get(status, status) for status in statuses]
        lines.append(f"| {one.right.replace('|', chr(92) + '|')} (`{one.name}`) | {' | '.join(signs)} |")
    return lines


def _deviations(by: dict) -> list[str]:
    lines = []
    for name, found in by.items():
        for o in found.values():
            if o["status"] in ("pass", "n/a", "not asked"):
                continue
            said = f"expected {o['expected']}, got {o['got']}" if o["expected"] else ""
            why = "; ".join(x for x in (said, o["why"]) if x)
            word = {"fail": "differs"}.get(o["status"], o["status"])
            lines.append(f"- `python -m conformance {name} --only {o['probe']}` ({word}): {why.rstrip('.')}.")
    return lines


def _reasons(by: dict) -> list[str]:
    lines = []
    for name, found in by.items():
        for status in ("n/a", "not asked"):
            needs, said = set(), {}
            for row in found.values():
                if row["status"] != status:
                    continue
                if row["why"].startswith(MISSING):
                    needs.update("|".join(_lacked(row) or _missing(row)).split("|"))
                else:
                    said.setdefault(row["why"], []).append(f"`{row['probe']}`")
            listed = [", ".join(f"`{need}`" for need in sorted(needs))] if needs else []
            listed += [f"{why} ({', '.join(probes)})" for why, probes in said.items()]
            if listed:
                lines.append(f"- {name}, {COLUMNS[status]} ({SIGNS[status]}): {'; '.join(listed)}.")
    return lines
