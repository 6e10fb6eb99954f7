"""A log of one's own: Stable-Baselines3's `Logger` over objects with `write`, as scripts have for their trackers."""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from actrix.show import log as logs


class KVWriter(abc.ABC):
    """What a row is written to."""

    @abc.abstractmethod
    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """One row of numbers and texts; the outputs that shall leave a key out; the environment step."""

    def close(self) -> None:
        """End it."""


class HumanOutputFormat(KVWriter):
    """The table, printed to an open file."""

    def __init__(self, file: TextIO = sys.stdout):
        self.file = file

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Print it."""
        shown = {key: value for key, value in key_values.items() if "stdout" not in key_excluded[key]}
        print(logs.table(shown), file=self.file, flush=True)


class Logger(logs.Logger):
    """A log for `model.set_logger` whose rows go to these objects, each with `write` as `KVWriter` has it.

    `folder` is what `get_dir` says; `actrix.configure` makes a log of files. Subclasses may say otherwise what `dump`
    does. TypeError for what cannot write.
    """

    def __init__(self, folder: str | os.PathLike | None = None, output_formats: Sequence[Any] = ()):
        super().__init__()
        for one in output_formats:
            if not callable(getattr(one, "write", None)):
                raise TypeError(
                    f"output_formats are objects with write(key_values, key_excluded, step), not {one!r}."
                )
        self.folder = Path(folder) if folder else None
        self.output_formats = list(output_formats)

    def log(self, *args: Any, level: int = logs.INFO) -> None:
        """Print what is of the log's `level` or above."""
        if level >= self.level:
            print(*args, flush=True)

    def dump(self, step: int = 0) -> dict[str, float | int]:
        """Write what is recorded as one row, and clear it."""
        excluded = {key: tuple(names) for key, names in self._excluded.items()}
        texts = {key: text for key, (text, _) in self._shown.items() if text is not None}
        row = super().dump(step)
        for one in self.output_formats:
            one.write(row | texts, {key: excluded.get(key, ()) for key in row | texts}, step)
        return row

    def close(self) -> None:
        """Close each."""
        for one in self.output_formats:
            one.close()
