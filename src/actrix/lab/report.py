"""What a study hands over, and the style its figures share."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from actrix.files import atomic
from actrix.show.plot import DPI, GREY

NORMAL_95 = 1.959964
"""Half the width of a normal 95% interval, in standard errors."""


class Table(NamedTuple):
    """Rows of words and numbers under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Report:
    """A study's tables, figure and numbers; `frames`, uint8 [H, W, 3], become an animation."""

    tables: Sequence[Table]
    figure: Figure
    numbers: Mapping[str, Any]
    frames: Sequence[np.ndarray] = ()

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.png, NAME.json, NAME.txt (the tables) and, if there are frames, NAME.gif."""
        paths = [folder / f"{name}.{suffix}" for suffix in ("png", "json", "txt")]
        with atomic.replacing(paths[0]) as temporary:
            # 256 colours are enough for lines on white, and halve the file.
            _image(picture(self.figure)).quantize(256, dither=0).save(temporary, optimize=True)
        atomic.write_json(paths[1], _finite(self.numbers))
        text = io.StringIO()
        self.show(Console(file=text, width=160, highlight=False))
        atomic.write_text(paths[2], "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")
        if self.frames:
            paths.append(folder / f"{name}.gif")
            first, *rest = [_image(frame).quantize(64, dither=0) for frame in self.frames]
            with atomic.replacing(paths[-1]) as temporary:
                pause = [1500] + [500] * (len(rest) - 1) + [3000]
                first.save(
                    temporary, save_all=True, append_images=rest, duration=pause, loop=0, optimize=True
                )
        return paths

    def show(self, console: Console) -> None:
        """Print the tables."""
        for table in self.tables:
            rich = RichTable(title=table.title, title_justify="left")
            for k, column in enumerate(table.columns):
                numeric = any(isinstance(row[k], float | int) for row in table.rows)
                rich.add_column(column, justify="right" if numeric else "left", no_wrap=True)
            for row in table.rows:
                rich.add_row(*map(cell, row))
            console.print(rich)


def cell(x: Any) -> str:
    """A number with three digits, a missing one as –, a word as it is."""
    if x is None or (isinstance(x, float | np.floating) and not np.isfinite(x)):
        return "–"
    if not isinstance(x, float | np.floating):
        return str(x)
    return f"{x:.3g}" if 1e-3 <= abs(float(x)) < 1e3 or x == 0 else f"{x:.2e}"


def panels(
    n_rows: int, n_columns: int, title: str, size: tuple[float, float], **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]; `size` in inches."""
    figure = Figure(
        figsize=size, dpi=DPI, layout="constrained"
    )  # without pyplot: no display, no global state
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **kwargs)


def label(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title and labels in the style of the project's plots."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor="black", labelsize=9)
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)


def legend(axes: Axes, **kwargs: Any) -> None:
    """A legend without a frame line."""
    kwargs = {"fontsize": 8.5, "framealpha": 0.85, **kwargs}
    axes.legend(**kwargs).get_frame().set_edgecolor("none")


def picture(figure: Figure) -> np.ndarray:
    """The figure as uint8 [H, W, 3]."""
    figure.patch.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _image(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _finite(x: Any) -> Any:
    """The same with None for numbers that are not finite: JSON has no word for them."""
    if isinstance(x, Mapping):
        return {str(k): _finite(v) for k, v in x.items()}
    if isinstance(x, np.ndarray):
        return _finite(x.tolist())
    if isinstance(x, list | tuple):
        return [_finite(v) for v in x]
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    return x.item() if isinstance(x, np.generic) else x
