"""`python -m conformance LIBRARY [--only PROBE] [--json FILE]`, `--list`, `--table FILE`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from conformance import record
from conformance.adapters import ADAPTERS, NotInstalled, adapter, versions
from conformance.probe import Outcome, Probe, run
from conformance.probes import PROBES


def chosen(only: str | None) -> list[Probe]:
    """Probes with these names, or beginnings of names, between commas; all without. Raises ValueError."""
    if only is None:
        return list(PROBES.values())
    found: dict[str, Probe] = {}
    for word in only.split(","):
        if not word.strip():
            raise ValueError(f"--only {only!r} has an empty name: give names of probes between commas.")
        these = [word] if word in PROBES else [name for name in PROBES if name.startswith(word)]
        if not these:
            raise ValueError(
                f"no probe is called {word!r} or begins so: `python -m conformance --list` names them."
            )
        found |= {name: PROBES[name] for name in these}
    return list(found.values())


def _list() -> None:
    width = max(map(len, PROBES))
    for one in PROBES.values():
        print(f"{one.name:{width}}  {one.right}  [{', '.join(one.needs)}]")


def _one(one: Probe, asked: Any, outcomes: list[Outcome], closely: bool) -> None:
    began = time.monotonic()
    outcome = run(one, asked)
    outcomes.append(outcome)
    print(f"{outcome.status:9}  {one.name}  ({time.monotonic() - began:.0f} s)", flush=True)
    if outcome.status not in ("pass", "n/a", "not asked") or closely:
        print(f"           right: {one.right}")
        if outcome.expected:
            print(f"           expected {outcome.expected}\n           got      {outcome.got}")
    if outcome.why:
        print(f"           {outcome.why}", flush=True)


def _ask(name: str, only: str | None, file: Path | None) -> int:
    probes = chosen(only)
    if file is not None:
        record.writable(file)  # a broken record, or no place for one, is found before the work
    asked = adapter(name)
    print(f"{name}: {', '.join(f'{k} {v}' for k, v in versions(name).items())}", flush=True)
    outcomes: list[Outcome] = []
    for one in probes:
        _one(one, asked, outcomes, bool(only))
        if file is not None:  # at once: a run may be stopped
            record.append(file, name, versions(name), outcomes[-1])
    statuses = [o.status for o in outcomes]
    print(", ".join(f"{statuses.count(s)} {word}" for s, word in record.COLUMNS.items() if s in statuses))
    return 1 if {"fail", "error", "unsettled"} & set(statuses) else 0


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 all pass, 1 some do not, 2 the question cannot be asked."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("library", nargs="?", help=f"one of {', '.join(ADAPTERS)}")
    parser.add_argument(
        "--list", action="store_true", help="the probes, with what is right and what they need"
    )
    parser.add_argument(
        "--only", metavar="PROBE", help="probes by name, or by how names begin, between commas"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the outcomes to this file")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the Markdown table of a record")
    given = parser.parse_args(arguments)
    try:
        if given.list:
            _list()
            return 0
        if given.table is not None:
            print(record.table(record.read(given.table, must_exist=True)))
            return 0
        if given.library is None:
            raise ValueError(f"say which library is asked: {', '.join(ADAPTERS)}.")
        if given.library not in ADAPTERS:
            raise ValueError(f"{given.library!r} is no library known here; known are {', '.join(ADAPTERS)}.")
        return _ask(given.library, given.only, given.json)
    except (ValueError, NotInstalled, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
