"""Where the standard output goes: a terminal that redraws, a notebook's cell, or neither."""

from __future__ import annotations

import os
import sys
from typing import Any


def redraws() -> bool:
    """Whether lines can be drawn again in place.

    A command that a notebook runs (`!actrix …`) writes to a terminal by name, behind which the cell puts every line.
    """
    in_cell = "JPY_PARENT_PID" in os.environ
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not in_cell


class Cell:
    """One output of the running notebook's cell, which each `show` replaces."""

    def __init__(self, display: Any):
        self._display, self._handle = display, None

    def show(self, text: str) -> None:
        """Put the text there."""
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def cell() -> Cell | None:
    """An output of the cell that runs in this process; None outside of a notebook. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if ipython is None or shell is None or not shell.has_trait("kernel"):
        return None
    return Cell(ipython.display.display)
