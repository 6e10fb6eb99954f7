"""Training metrics: `metrics.csv`, TensorBoard events and a table on the terminal, under SB3's tags.

The tags are those of Stable-Baselines3: `rollout/ep_rew_mean`, `rollout/ep_len_mean`, `time/fps`,
`time/iterations`, `time/time_elapsed`, `time/total_timesteps`, `train/approx_kl`, `train/clip_fraction`,
`train/explained_variance`, `train/entropy_loss`, `train/value_loss`, `train/policy_gradient_loss`,
`train/loss`, `train/learning_rate`, `train/n_updates`, `eval/mean_reward`.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.show.events import Events
from actrix.show.metrics import METRICS, STEP, Csv
from actrix.show.summaries import summary_values, text_of

OUTPUTS = ("csv", "tensorboard", "stdout")
ABSENT = dict.fromkeys(("json", "log"), "metrics.csv holds the same numbers")
"""Outputs of Stable-Baselines3 that are not written; `exclude` may name them."""
DEBUG, INFO, WARN, ERROR, DISABLED = 10, 20, 30, 40, 50
"""Levels of messages."""
WIDE = 36
"""Characters of text in the table."""


def configure(
    folder: str | os.PathLike | None = None,
    format_strings: Sequence[str] | None = None,
    resume_step: int | None = None,
) -> Logger:
    """A log in `folder` for `model.set_logger`, as Stable-Baselines3's `logger.configure` makes it.

    `format_strings` are of "stdout", "csv" (the file is `metrics.csv`) and "tensorboard"; the first two by default. A
    folder is made where there is none; None takes a temporary one. `resume_step` continues the log that is there:
    `Logger`. Raises ValueError for another format, FileExistsError for a log that is not to be continued.
    """
    formats = (
        [format_strings] if isinstance(format_strings, str) else list(format_strings or ("stdout", "csv"))
    )
    for name in formats:
        if name not in OUTPUTS:
            why = f" ({ABSENT[name]})" if name in ABSENT else ""
            raise ValueError(f"format {name!r} is not written{why}: choose of {', '.join(OUTPUTS)}.")
    folder = Path(folder or tempfile.mkdtemp(prefix="actrix-"))
    folder.mkdir(parents=True, exist_ok=True)
    csv_, tensorboard = (folder if name in formats else None for name in ("csv", "tensorboard"))
    logger = Logger(csv_, tensorboard, int("stdout" in formats), resume_step)
    logger.folder = folder
    return logger


class Logger:
    """Collects scalars with `record` and writes them as one row with `dump`.

    Args:
        folder: where `metrics.csv` goes; None writes none.
        tensorboard: folder of a TensorBoard event file, one per log: continuing goes on with the newest that
            is there; None writes none.
        verbose: 1 or more prints a table at each `dump`.
        resume_step: continue an existing log from this environment step: a torn last row and rows with a
            later `time/total_timesteps` are removed. None starts a new log.

    Raises:
        FileExistsError: `metrics.csv` is already there and `resume_step` is None.
        ValueError: the log to continue has no `time/total_timesteps` column, or is no regular file.
        OSError: the folder cannot be written, or, from `dump`, the disk is full; the file then ends at its
            last full row.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        tensorboard: str | os.PathLike | None = None,
        verbose: int = 0,
        resume_step: int | None = None,
    ):
        self._values: dict[str, float | int] = {}
        self._row: dict[str, float | int] = {}
        self._means: dict[str, tuple[float, int]] = {}
        self._shown: dict[str, Any] = {}
        self._excluded: dict[str, frozenset[str]] = {}
        self._closed, self.level = False, INFO
        self.folder = None if (folder or tensorboard) is None else Path(folder or tensorboard or "")
        self._verbose = verbose
        self.outputs: list[Callable[[dict[str, float | int], int], Any]] = []  # of (row, step): trackers
        self._csv = Csv(Path(folder) / METRICS, resume_step) if folder is not None else None
        self._tensorboard: Events | None = None
        if tensorboard is not None:
            try:
                self._tensorboard = Events(Path(tensorboard), resume_step)
            except BaseException:
                if self._csv is not None:
                    self._csv.file.close()
                raise

    def record(self, key: str, value: Any, exclude: str | Iterable[str] | None = None) -> None:
        """Set `key` in the next row to a number (Python, NumPy or JAX scalar); the last value counts.

        NaN marks a value that is not known: an empty cell. Text is shown in the table and in TensorBoard, an array (a
        histogram), an `Image`, a `Figure` and an `HParam` in TensorBoard only; `metrics.csv` holds numbers. `exclude`
        names outputs that leave the key out, of "csv", "tensorboard", "stdout". Raises `TypeError` for anything
        else, `ValueError` for an empty key or one with control characters, or an unknown output.
        """
        shown = summary_values(_key(key), value)
        number = _scalar(key, value) if shown is None else None
        self._exclude(key, exclude)
        for kept in (self._values, self._means, self._shown):
            kept.pop(key, None)
        if number is not None:
            self._values[key] = number
        else:
            self._shown[key] = value if isinstance(value, str) else None, shown

    def record_mean(self, key: str, value: Any, exclude: str | Iterable[str] | None = None) -> None:
        """As `record` of a number, but several calls before a `dump` are averaged; NaN is left out of the average."""
        number = float(_scalar(key, value))
        total, count = self._means.get(_key(key), (0.0, 0))
        if not math.isnan(number):
            total, count = total + number, count + 1
        self._exclude(key, exclude)
        self._shown.pop(key, None)
        self._means[key] = (total, count)
        self._values[key] = total / count if count else math.nan

    @property
    def values(self) -> dict[str, float | int]:
        """A copy of the numbers that are recorded since the last `dump`."""
        return dict(self._values)

    @property
    def name_to_value(self) -> dict[str, float | int]:
        """`values`, and what the last `dump` wrote where nothing is recorded since."""
        return self._row | self._values

    def get_dir(self) -> str | None:
        """The folder that is written to."""
        return None if self.folder is None else str(self.folder)

    dir = property(get_dir)

    def dump(self, step: int = 0) -> dict[str, float | int]:
        """Write what is recorded as the row of environment step `step`, clear it and return its numbers.

        `time/total_timesteps` is set to `step`. The row is with the operating system when this returns, so a
        killed process loses at most the row it was writing. ValueError for a log that is closed.
        """
        if self._closed:
            raise ValueError("this log is closed: make another one, or close it after training.")
        row: dict[str, float | int] = {STEP: int(step)} | self._values
        row[STEP] = int(step)
        self._row = dict(row)
        excluded, shown = self._excluded, self._shown
        self._values, self._means, self._shown, self._excluded = {}, {}, {}, {}

        def part(output: str, of: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in of.items() if output not in excluded.get(k, ())}

        if self._csv is not None:
            self._csv.write(part("csv", row) | {STEP: int(step)})
        if self._tensorboard is not None:
            more = [value for _, values in part("tensorboard", shown).values() for value in values]
            self._tensorboard.write(part("tensorboard", row), int(step), more)
        if self._verbose >= 1:
            texts = {k: text for k, (text, _) in shown.items() if text is not None}
            print(table(part("stdout", row | texts)), flush=True)
        for output in self.outputs:
            output(dict(row), int(step))
        return row

    def log(self, *args: Any, level: int = INFO) -> None:
        """Print, where tables are printed, what is of the log's `level` or above."""
        if self._verbose >= 1 and level >= self.level:
            print(*args, flush=True)

    def debug(self, *args: Any) -> None:
        """`log` of the level DEBUG."""
        self.log(*args, level=DEBUG)

    def info(self, *args: Any) -> None:
        """`log` of the level INFO."""
        self.log(*args)

    def warn(self, *args: Any) -> None:
        """`log` of the level WARN."""
        self.log(*args, level=WARN)

    def error(self, *args: Any) -> None:
        """`log` of the level ERROR."""
        self.log(*args, level=ERROR)

    def set_level(self, level: int) -> None:
        """Print messages from this level on: DEBUG, INFO (the first), WARN, ERROR, DISABLED. It leaves rows alone."""
        self.level = level

    def sync(self) -> None:
        """Force all rows to disk, to survive a power cut; call it with each checkpoint."""
        if self._csv is not None:
            self._csv.sync()
        if self._tensorboard is not None:
            self._tensorboard.sync()

    def close(self) -> None:
        """Finish and close all files; a second call does nothing."""
        files = [file for file in (self._csv, self._tensorboard) if file is not None]
        self._closed = self._closed or bool(files)
        self._csv = self._tensorboard = None
        with contextlib.ExitStack() as stack:  # the second, too, where the first fails
            for file in files:
                stack.callback(file.close)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _exclude(self, key: str, exclude: str | Iterable[str] | None) -> None:
        names = frozenset([exclude] if isinstance(exclude, str) else exclude or ())
        if not names <= {*OUTPUTS, *ABSENT}:
            raise ValueError(f"exclude={exclude!r}: outputs are {', '.join(OUTPUTS)}")
        self._excluded[key] = names


def table(values: Mapping[str, float | int | str]) -> str:
    """The boxed table that SB3 prints: keys grouped by what stands before their first slash."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(values):
        group, _, name = key.rpartition("/") if key.count("/") <= 1 else key.partition("/")
        groups.setdefault(group, []).append((printable(name), format_value(values[key])))
    lines = []
    for group, items in groups.items():
        if group:
            lines.append((printable(group) + "/", ""))
        lines += [("   " + name if group else name, value) for name, value in items]
    wide = max((len(k) for k, _ in lines), default=0)
    narrow = max((len(v) for _, v in lines), default=0)
    rule = "-" * (wide + narrow + 7)
    return "\n".join([rule, *(f"| {k:<{wide}} | {v:<{narrow}} |" for k, v in lines), rule])


def format_value(value: float | int | str) -> str:
    """A number in few characters: three significant digits, whole above a thousand, a dash for NaN; text's start."""
    if isinstance(value, str):
        text = printable(text_of(value))
        return text if len(text) <= WIDE else text[: WIDE - 3] + "..."
    if isinstance(value, int | np.integer):
        return str(value)
    if math.isnan(value):
        return "-"
    if 1000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.3g}"


def human(count: float) -> str:
    """A count in at most three significant digits: 950, 41.2k, 200k, 1M, 1.05M."""
    for unit, size in [("G", 1e9), ("M", 1e6), ("k", 1e3)]:
        # Rounded first, so that 999,999 is 1M and not 1000k.
        if abs(float(f"{count:.3g}")) >= size:
            return f"{float(f'{count:.3g}') / size:g}{unit}"
    return f"{count:.3g}"


def printable(text: str) -> str:
    """`text` with control and other unprintable characters escaped, safe to send to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _key(key: str) -> str:
    if not isinstance(key, str) or not key or not key.isprintable():
        raise ValueError(f"a metric's name must be printable text, got {key!r}")
    return key


def _scalar(key: str, value: Any) -> float | int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    array = np.asarray(value)
    # JAX's bfloat16 and float8 have kind "V".
    if array.size != 1 or array.dtype.kind not in "biufV" or array.dtype.fields:
        raise TypeError(
            f"metric {key!r} must be one real number, text, an array of numbers, Image, Figure or HParam, "
            f"got {value!r:.80}"
        )
    number = array.reshape(())[()]
    if array.dtype.kind in "biu":
        return int(number)
    # The shortest text of a float32 (0.1), not its float64 expansion (0.10000000149011612).
    return float(str(number)) if array.dtype == np.float32 else float(number)
