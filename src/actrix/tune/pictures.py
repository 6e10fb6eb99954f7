"""Pictures of a study: its history, which settings mattered, the value over each, the curves on held-out seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from actrix.files import atomic
from actrix.lab.report import label, legend, panels
from actrix.runs.folder import load_config, seed_folders
from actrix.show.plot import DPI, PALETTE, plot_compare
from actrix.show.stats import amount
from actrix.tune.compare import ROUNDS, Outcome
from actrix.tune.plan import Plan
from actrix.tune.study import counted

ENOUGH = 4
"""Finished trials below which importance says nothing."""


def pictures(plan: Plan, study: Any, folder: Path) -> list[Path]:
    """Write history.png, slices.png and, from `ENOUGH` finished trials on, importance.png; the paths written."""
    trials = counted(study.get_trials(deepcopy=False))
    done = [t for t in trials if t.state.name == "COMPLETE"]
    if not done:
        return []
    paths = [
        _save(history(plan, trials), folder / "history.png"),
        _save(_slices(plan, done), folder / "slices.png"),
    ]
    if len(done) >= ENOUGH and len({t.value for t in done}) > 1:
        paths.append(_save(_importance(plan, study), folder / "importance.png"))
    return paths


def curves(plan: Plan, outcome: Outcome) -> Path:
    """Write result.png: learning curves of the last round, the chosen setting's beside the others'."""
    groups: dict[str, Any] = {}
    for name in outcome.result:
        path = outcome.folder / ROUNDS[1] / name
        groups[name] = [at for at, _ in seed_folders(path, load_config(path))]
    return plot_compare(groups, outcome.folder / "result.png", plan.title)


def _save(figure: Figure, path: Path) -> Path:
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")
    return path


def history(plan: Plan, trials: list[Any]) -> Figure:
    """The value of each trial in the order of their beginning, and the best so far."""
    figure, axes = panels(1, 1, plan.title, (7.0, 4.2))
    (ax,) = axes[0]
    done = [t for t in trials if t.state.name == "COMPLETE"]  # a pruned one has a value, too: its last
    pruned = [t for t in trials if t.state.name == "PRUNED" and t.intermediate_values]
    ax.plot(
        [t.number for t in done],
        [t.value for t in done],
        "o",
        color=PALETTE[0],
        markersize=5,
        label="finished",
    )
    last = [t.intermediate_values[t.last_step] for t in pruned]
    ax.plot(
        [t.number for t in pruned], last, "x", color=PALETTE[1], markersize=6, label="pruned, its last IQM"
    )
    leading = np.maximum.accumulate([t.value for t in done])
    ax.plot(
        [t.number for t in done],
        leading,
        color="black",
        linewidth=1.5,
        drawstyle="steps-post",
        label="best so far",
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label(ax, "", "trial", f"IQM of {amount(len(plan.base.seeds), 'seed')}")
    legend(ax, loc="best")
    return figure


def _importance(plan: Plan, study: Any) -> Figure:
    """How much each parameter separates the best trials from the others (PED-ANOVA, Watanabe et al. 2023)."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    names = sorted(found, key=lambda name: found[name])
    figure, axes = panels(1, 1, plan.title, (7.0, 1.2 + 0.3 * len(names)))
    (ax,) = axes[0]
    ax.barh(names, [found[name] for name in names], color=PALETTE[0], height=0.6)
    label(ax, "what separates the best trials from the others", "importance (PED-ANOVA)")
    ax.grid(axis="y", visible=False)
    return figure


def _slices(plan: Plan, done: list[Any]) -> Figure:
    """The value over each parameter; the colour is the trial's number."""
    columns = min(3, len(plan.space))
    rows = math.ceil(len(plan.space) / columns)
    figure, axes = panels(rows, columns, plan.title, (3.2 * columns, 0.4 + 2.3 * rows), sharey=True)
    dots = None
    for ax, one in zip(axes.flat, plan.space, strict=False):
        of = [t for t in done if one.param in t.params]
        x = [t.params[one.param] for t in of]
        dots = _scatter(ax, one, x, [t.value for t in of], [t.number for t in of])
        label(ax, "", one.name if getattr(one, "scale", "") == "power" else one.param)
    for ax in axes.flat[len(plan.space) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("IQM")
    if dots is not None:
        figure.colorbar(dots, ax=axes.ravel().tolist(), label="trial", shrink=0.8, pad=0.01)
    return figure


def _scatter(ax: Axes, one: Any, x: list[Any], values: list[float], numbers: list[int]) -> Any:
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in x):
        x = [str(v) for v in x]
    elif getattr(one.distribution(), "log", False):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if max(x) < 100 * min(x) else (1.0,)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    elif getattr(one, "scale", "") == "power":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{2**v:g}"))
    return ax.scatter(x, values, c=numbers, cmap="viridis", s=18)
