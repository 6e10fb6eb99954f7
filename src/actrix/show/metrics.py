"""`metrics.csv`: one row for each report of a run, read while it is written."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from actrix.files import atomic
from actrix.show.events import Growing

METRICS = "metrics.csv"
STEP = "time/total_timesteps"


class Csv(Growing):
    """A CSV file of numbers that grows by whole rows; a new column rewrites it atomically."""

    def __init__(self, path: Path, resume_step: int | None):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.check_regular(path)
        self.columns: list[str] = []
        if resume_step is None:
            # "x": a run's log is never silently replaced.
            try:
                io.FileIO(path, "x").close()
            except FileExistsError:
                raise FileExistsError(
                    f"{path} exists: pass resume_step to continue it, or another folder for a new run"
                ) from None
        elif path.exists():
            data = path.read_bytes()
            self.columns, rows = _parse(data)
            if self.columns and STEP not in self.columns:
                raise ValueError(f"{path} has no column {STEP}: it cannot be continued")
            kept = [
                r
                for r in rows
                if bool(r[self.columns.index(STEP)]) and float(r[self.columns.index(STEP)]) <= resume_step
            ]
            repaired = _lines([self.columns, *kept]) if self.columns else b""
            if repaired != data:
                atomic.write_bytes(path, repaired)
        self._open()

    def write(self, row: Mapping[str, float | int]) -> None:
        new = [k for k in row if k not in self.columns]
        if new:
            self._widen(new)
        cells = [_cell(row[k]) if k in row else "" for k in self.columns]
        self._append(_lines([cells]))

    def _widen(self, new: list[str]) -> None:
        if not self.columns:
            self._append(_lines([new]))
            self.columns = list(new)
            return
        columns, rows = _parse(self.path.read_bytes())
        wider = [columns + new, *(r + [""] * len(new) for r in rows)]
        self.file.close()
        try:
            atomic.write_bytes(self.path, _lines(wider))
            self.columns = wider[0]
        finally:
            self._open()


def read_metrics(path: str | os.PathLike, last: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a `metrics.csv`, as float64 arrays of one length; empty cells are NaN.

    Reads a file that is being written: an unfinished last line, or a line torn by a crash, is left out.

    Args:
        path: the file, or the run folder that holds it.
        last: only the rows in so many bytes at its end, for who looks often at a file that grows; the one row that
            reaches over them is left out.
    Raises: `FileNotFoundError`.
    """
    path = Path(path)
    with open(path / METRICS if path.is_dir() else path, "rb") as file:
        data = file.readline()
        if last is not None and file.seek(0, os.SEEK_END) - last > len(data):
            file.seek(-last, os.SEEK_END)
            file.readline()
        else:
            file.seek(len(data))
        columns, rows = _parse(data + file.read())
    values = np.array([[float(c or "nan") for c in r] for r in rows]).reshape(len(rows), len(columns))
    return {name: values[:, i].copy() for i, name in enumerate(columns)}


def _cell(value: float | int) -> str:
    return "" if math.isnan(value) else repr(value)


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _parse(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and whole rows of numbers; without a final newline a line may be cut, so it does not count."""
    lines = data.decode(errors="replace").split("\n")[:-1]
    if not lines:
        return [], []
    columns = next(csv.reader([lines[0]]), [])
    rows = [line.rstrip("\r").split(",") for line in lines[1:]]
    return columns, [r for r in rows if len(r) == len(columns) and all(map(_number, r))]


def _number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True
