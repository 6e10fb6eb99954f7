"""Learning curves as picture files: one run, many seeds, or several algorithms side by side."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from actrix.files import atomic
from actrix.files.container import nearby
from actrix.show.log import human
from actrix.show.metrics import METRICS, STEP, read_metrics
from actrix.show.stats import MIN_SEEDS, Curve, align, amount, bootstrap_interval, clean, iqm

RETURN = "rollout/ep_rew_mean"
SPREAD = "rollout/ep_rew_std"
PASS = "eval/pass@1"
EVALUATION = "eval/mean_reward"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any colour vision; yellow is left out, too pale on white."""
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
SIZE = (7.0, 4.2)
DPI = 150
GRID = 300
POINTS = 1500
WORDS = (
    "off", "trace", "rainbow", "soft", "discrete", "lambda", "learning", "double", "sarsa", "expected",
    "tree", "backup",
)  # fmt: skip
SPELLING = {word: word for word in WORDS} | {"crossq": "CrossQ"}
GREY = "#555555"

Folder = str | os.PathLike


class Run(NamedTuple):
    """What a plot needs of a run folder."""

    folder: Path
    algorithm: str | None
    env_id: str | None
    seed: int | None
    metrics: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        """For example "PPO on LunarLander-v3"; the folder's name if it says neither."""
        if self.algorithm and self.env_id:
            return f"{self.algorithm} on {self.env_id}"
        return self.algorithm or self.env_id or self.folder.name

    @property
    def key(self) -> str:
        """What its learning is seen by: the return, or of a policy that was only shown answers its own right ones."""
        return PASS if PASS in self.metrics and RETURN not in self.metrics else RETURN

    def curve(self, key: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of one metric, by default its `key`, without unknown points; empty if it was not recorded."""
        key = key or self.key
        if key not in self.metrics or STEP not in self.metrics:
            return np.empty(0), np.empty(0)
        return _thin(*clean(self.metrics[STEP], self.metrics[key]))


def load_run(folder: Folder) -> Run:
    """Read `metrics.csv` and, if it is there and whole, `config.json` (`algorithm`, `env_id`, `seed`).

    Raises: `FileNotFoundError` if the folder has no `metrics.csv`.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(
            f"{folder} is not a run folder: it has no {METRICS}.{nearby(folder, METRICS)}"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if not isinstance(config, dict):
        config = {}
    algorithm, env_id, seed = (config.get(k) for k in ("algorithm", "env_id", "seed"))
    return Run(
        folder,
        _name(algorithm),
        str(env_id) if env_id else None,
        seed if isinstance(seed, int) else None,
        read_metrics(folder),
    )


def plot_run(run_folders: Folder | Sequence[Folder], out: Folder) -> Path:
    """Plot the learning curve of a run: episode return over environment steps.

    The strong line is smoothed, the faint one as recorded (the mean of the last 100 training episodes), the
    band ± one standard deviation of those episodes where `rollout/ep_rew_std` was recorded; evaluations are
    marked and the last one is named. Several folders are seeds of one experiment and are drawn by
    `plot_seeds`.

    Args:
        run_folders: one run folder or several.
        out: picture to write, replaced atomically; the suffix chooses the format (.png, .svg, .pdf).
    Returns: the path written.
    Raises: `FileNotFoundError` for a folder without `metrics.csv`; `ValueError` if no folder is given.
    """
    folders = [run_folders] if isinstance(run_folders, str | os.PathLike) else list(run_folders)
    if not folders:
        raise ValueError("no run folder to plot")
    runs = [load_run(f) for f in folders]
    if len(runs) > 1:
        return plot_seeds([r.curve() for r in runs], out, _shared_title(runs), _shared_label(runs))
    run = runs[0]
    figure, axes = _figure(run.title if run.seed is None else f"{run.title}, seed {run.seed}")
    x, y = run.curve()
    colour = PALETTE[0]
    if len(x):
        band_x, band = run.curve(SPREAD)
        inside = (x[0] <= band_x) & (band_x <= x[-1])
        band_x, band = band_x[inside], band[inside]
        if len(band_x) > 1:
            middle = np.interp(band_x, x, smooth(y))
            spread = smooth(band)
            axes.fill_between(
                band_x, middle - spread, middle + spread, color=colour, alpha=0.15, linewidth=0,
                label="± std of recent episodes",
            )  # fmt: skip
        name = "mean of last 100 episodes" if run.key == RETURN else "of 64 prompts"
        axes.plot(x, y, color=colour, alpha=0.45, linewidth=0.8, label=name)
        axes.plot(x, smooth(y), color=colour, linewidth=2.0, marker=_dot(x), label="smoothed")
    axes.set_ylabel(_shared_label(runs))
    _mark_evaluations(axes, run)
    _finish(axes, run.metrics.get(STEP, np.empty(0)))
    return _save(figure, axes, out)


def plot_seeds(curves: Sequence[Curve], out: Folder, title: str = "", ylabel: str = "episode return") -> Path:
    """Plot seeds of one experiment: the interquartile mean, its 95% bootstrap band and each seed faintly.

    Below 5 seeds the line is the mean and the band runs from the lowest to the highest seed; the legend says
    which. Line and band cover the steps that all seeds have reached, the faint lines all there is. Each
    seed's curve is smoothed (`smooth`) before anything is computed across seeds.

    Args:
        curves: (steps, values) per seed; their steps may differ.
        out: picture to write.
        title: above the plot.
        ylabel: of the vertical axis.
    Returns: the path written.
    Raises: `ValueError` if no curve is given.
    """
    if not len(curves):
        raise ValueError("no curves to plot")
    figure, axes = _figure(title)
    cleaned = [_thin(*clean(*c)) for c in curves]
    _aggregate(axes, cleaned, PALETTE[0], "-", "")
    if len(cleaned) > 1:
        for i, (x, y) in enumerate(cleaned):
            name = "" if i else "each seed, smoothed"
            axes.plot(x, smooth(y), color=PALETTE[0], alpha=0.4, linewidth=0.8, label=name, zorder=1.5)
    axes.set_ylabel(ylabel)
    _finish(axes, np.concatenate([x for x, _ in cleaned]))
    return _save(figure, axes, out)


def plot_compare(
    groups: Mapping[str, Folder | Sequence[Folder]], out: Folder, title: str | None = None
) -> Path:
    """Plot several algorithms or settings together, each as in `plot_seeds` without its single seeds.

    Args:
        groups: label of each line → its run folder, or the folders of its seeds.
        out: picture to write.
        title: default "ENV", or "ALGORITHM on ENV", where all runs share them.
    Returns: the path written.
    Raises: `FileNotFoundError` for a folder without `metrics.csv`; `ValueError` for no or empty groups.
    """
    if not groups:
        raise ValueError("no runs to compare")
    loaded: dict[str, list[Run]] = {}
    for label, folders in groups.items():
        listed = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        if not listed:
            raise ValueError(f"{label!r} has no run folders")
        loaded[label] = [load_run(f) for f in listed]
    runs = [run for group in loaded.values() for run in group]
    curves = {label: [run.curve() for run in group] for label, group in loaded.items()}
    return plot_curves(curves, out, _shared_title(runs) if title is None else title, _shared_label(runs))


def plot_curves(
    groups: Mapping[str, Sequence[Curve]], out: Folder, title: str = "", ylabel: str = "episode return"
) -> Path:
    """The same of curves: label of each line → (steps, values) of its seeds."""
    figure, axes = _figure(title)
    ends = []
    for i, (label, group) in enumerate(groups.items()):
        # Dashes too, for print in grey and for more lines than colours.
        dash = DASHES[(i // len(PALETTE)) % len(DASHES)]
        cleaned = [_thin(*clean(*curve)) for curve in group]
        _aggregate(axes, cleaned, PALETTE[i % len(PALETTE)], dash, label)
        ends += [x for x, _ in cleaned]
    axes.set_ylabel(ylabel)
    _finish(axes, np.concatenate(ends))
    return _save(figure, axes, out)


def plot_profiles(groups: Mapping[str, Sequence[ArrayLike]], out: Folder, title: str = "") -> Path:
    """Plot performance profiles (Agarwal et al. 2021): the share of episodes with a return above τ, over τ.

    Each seed's share counts alike; from 5 seeds on with a 95% bootstrap band over seeds.

    Args:
        groups: label → the returns `[episodes]` of each seed's evaluation.
        out: picture to write.
        title: above the plot.
    Raises: `ValueError` for no groups.
    """
    if not groups:
        raise ValueError("no returns to plot")
    figure, axes = _figure(title)
    every = np.concatenate([np.asarray(x, float) for seeds in groups.values() for x in seeds])
    pad = 0.02 * max(np.ptp(every), 1e-9)
    taus = np.linspace(every.min() - pad, every.max() + pad, GRID)
    for i, (label, seeds) in enumerate(groups.items()):
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[(i // len(PALETTE)) % len(DASHES)]
        shares = np.array([(np.asarray(x, float)[:, None] > taus).mean(axis=0) for x in seeds])
        if len(shares) >= MIN_SEEDS:
            low, high = bootstrap_interval(shares, np.mean)
            axes.fill_between(taus, low, high, color=colour, alpha=0.2, linewidth=0)
        n = amount(len(shares), "seed")
        axes.plot(
            taus, shares.mean(axis=0), color=colour, linestyle=dash, linewidth=2.0, label=f"{label}: {n}"
        )
    axes.set(xlabel="return τ", ylabel="share of episodes above τ", ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    return _save(figure, axes, out)


def smooth(values: ArrayLike, fraction: float = 0.03) -> np.ndarray:
    """Centred Gaussian average over neighbouring points, its width `fraction` of the curve.

    Near an end only the points inside count, so the last value is an average of the last points, not pulled
    to 0.
    """
    y = np.asarray(values, dtype=float)
    sigma = fraction * len(y)
    reach = min(math.ceil(3 * sigma), len(y) - 1)
    if sigma < 0.5 or reach < 1:
        return y.copy()
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weight = np.convolve(np.ones_like(y), kernel)[reach:-reach]
    return np.convolve(y, kernel)[reach:-reach] / weight


def _aggregate(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], colour: str, dash: Any, label: str
) -> None:
    """The line and band of a group of seeds; what they are goes into the legend."""
    curves = [(x, smooth(y)) for x, y in curves]
    prefix = f"{label}: " if label else ""
    filled = [(x, y) for x, y in curves if len(x)]
    if len(filled) < len(curves):
        prefix += f"{len(curves) - len(filled)} of {len(curves)} without data; "
    n = len(filled)
    if n == 0:
        axes.plot([], [], color=colour, linestyle=dash, label=prefix.rstrip("; "))
        return
    if n == 1:
        axes.plot(
            *filled[0],
            color=colour,
            linestyle=dash,
            linewidth=2.0,
            marker=_dot(filled[0][0]),
            label=f"{prefix}1 seed",
        )
        return
    start, stop = max(x[0] for x, _ in filled), min(x[-1] for x, _ in filled)
    if start > stop:
        axes.plot([], [], color=colour, linestyle=dash, label=f"{prefix}{n} seeds without common steps")
        return
    grid = np.linspace(start, stop, GRID)
    values = align(filled, grid)
    if n >= MIN_SEEDS:
        middle, (low, high) = iqm(values, axis=0), bootstrap_interval(values)
        name = f"IQM of {n} seeds, band: 95% bootstrap interval"
    else:
        middle, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        name = f"mean of {n} seeds, band: lowest to highest"
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(grid, middle, color=colour, linestyle=dash, linewidth=2.0, label=prefix + name)


def _mark_evaluations(axes: Axes, run: Run) -> None:
    x, y = run.curve(EVALUATION)
    if not len(x):
        return
    style: dict[str, Any] = {"color": PALETTE[1], "linestyle": "none", "markeredgecolor": "white"}
    if len(x) > 1:
        axes.plot(x[:-1], y[:-1], marker="o", markersize=4, label="evaluation", **style)
    axes.plot(x[-1], y[-1], marker="D", markersize=7, label=f"last evaluation: {y[-1]:.1f}", **style)


def _figure(title: str) -> tuple[Figure, Axes]:
    # Figure and canvas without pyplot: no global state, no display, usable from any thread.
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # A "$" in a name is not mathematics.
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor="black")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def _finish(axes: Axes, steps: np.ndarray) -> None:
    last = np.nanmax(steps, initial=0.0)
    axes.set_xlim(0, 1.02 * last if last > 0 else 1)
    if not any(np.size(line.get_xdata()) for line in axes.lines):
        axes.text(0.5, 0.5, "no episode finished", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])


def _save(figure: Figure, axes: Axes, out: Folder) -> Path:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(handles, labels, loc="best", frameon=True, fontsize=9, framealpha=0.85)
        legend.get_frame().set_edgecolor("none")
        for text in legend.get_texts():
            text.set_parse_math(False)
    out = atomic.with_suffix(out, ".png")  # else Matplotlib adds it, to a name that is not awaited
    with atomic.replacing(out) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")
    return out


def _dot(x: np.ndarray) -> str:
    return "o" if len(x) == 1 else ""


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points, each the mean of its neighbours: finer than a pixel, and quick to smooth."""
    if len(x) <= POINTS:
        return x, y
    starts = np.arange(POINTS) * len(x) // POINTS
    sizes = np.diff(starts, append=len(x))
    thin_x, thin_y = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
    # The curve still ends where the run ended.
    thin_x[0], thin_x[-1] = x[0], x[-1]
    return thin_x, thin_y


def _name(written: Any) -> str | None:
    """A command-line name (ppo, q-learning, off-pac) as it is written in text (PPO, Q-learning, Off-PAC)."""
    if not isinstance(written, str) or not written.islower():
        return written if isinstance(written, str) else None
    words = [SPELLING.get(word, word.upper()) for word in written.split("-")]
    return "-".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _shared_label(runs: Sequence[Run]) -> str:
    """Of the vertical axis: a right answer's return is 1, so that both may stand in one picture."""
    return "right answers (share)" if all(run.key == PASS for run in runs) else "episode return"


def _shared_title(runs: Iterable[Run]) -> str:
    runs = list(runs)
    algorithms, envs = {r.algorithm for r in runs}, {r.env_id for r in runs}
    algorithm = algorithms.pop() if len(algorithms) == 1 else None
    env = envs.pop() if len(envs) == 1 else None
    return f"{algorithm} on {env}" if algorithm and env else algorithm or env or ""
