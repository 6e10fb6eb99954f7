"""Tables and curves of docs/sequences.md from sequences.jsonl (`python benchmarks/sequences.py --table`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tables import DOCS, HERE, replace

RESULTS = HERE / "sequences.jsonl"
CHANGED = {
    "grpo": ("GRPO as in the table above", ""),
    "std-off": (
        "no deviation (`dr-grpo`, `aggregate=sequence`)",
        "0.875 in place of 2.31 to 1.74: smaller steps",
    ),
    "per-token": ("`aggregate=token`", "direction 0.99 in place of 0.93–0.95: better"),
    "constant": ("`aggregate=constant`", "the direction itself: best"),
    "clip-higher": ("`clip_range_high=0.28`", "a stop that comes later: hardly anything"),
    "ratio-sequence": ("`ratio=sequence`", "same cosine as tokens' at a small KL: nothing"),
    "beta-0.01": ("`ref_kl_coef=0.01`", "pulls towards the start, by another KL's gradient: worse"),
    "beta-0.04": ("`ref_kl_coef=0.04`", "the same, four times as strongly"),
    "group-4": ("`--env-kwargs group=4`", "the mean's length 1 − 1/G = 0.75; fewer groups vary"),
    "group-16": ("`--env-kwargs group=16`", "0.94; more of the groups vary"),
    "dynamic": ("`dynamic=true`", "longer steps where many groups are alike"),
}
"""What is changed, and what `actrix lab sequence` says of it."""

Rows = dict[tuple[str, str], dict[int, dict[str, Any]]]


def read(path: Path) -> Rows:
    """Rows by (task, method) and seed, the newest of each."""
    found: Rows = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.setdefault((row["task"], row["method"]), {})[row["seed"]] = row
    return found


def cell(rows: dict[int, dict[str, Any]], what: str) -> str:
    """IQM and its interval of five seeds or more; else every seed's number."""
    from actrix.show.stats import MIN_SEEDS, bootstrap_interval, iqm

    values = [rows[seed]["right"][what] for seed in sorted(rows)]
    if len(values) < MIN_SEEDS:
        return ", ".join(f"{v:.1f}" for v in values) or "—"
    low, high = bootstrap_interval(values)
    return f"{iqm(values):.1f} [{low:.1f}, {high:.1f}]"


def mean(values: Sequence[float]) -> str:
    """Their mean, with a decimal."""
    return f"{float(np.mean(values)):.1f}"


def tasks_table(rows: Rows, tasks: Sequence[str]) -> str:
    """Start, GRPO, more supervised training and expert iteration of each task."""
    lines = [
        "| task | seeds | start | GRPO | its most likely answer | supervised | expert iteration | tokens | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for task in tasks:
        names = ("start", "grpo", "supervised", "expert")
        start, grpo, longer, expert = (rows.get((task, m), {}) for m in names)
        if not grpo:
            continue
        first = grpo[min(grpo)]
        known = [row["processor_seconds"] for row in grpo.values() if row["processor_seconds"]]
        seconds = mean(known) if known else "—"
        tokens = f"{np.mean([row['tokens'] for row in start.values()]):,.0f} + {first['tokens']:,}"
        cells = (
            cell(start, "sampled"),
            cell(grpo, "sampled"),
            cell(grpo, "most likely"),
            cell(longer, "sampled"),
            cell(expert, "sampled"),
        )
        lines.append(f"| {task} | {len(grpo)} | {' | '.join(cells)} | {tokens} | {seconds} |")
    return "\n".join(lines)


def changes_table(rows: Rows, task: str) -> str:
    """GRPO with one thing changed: every seed."""
    lines = ["| GRPO with | sampled, each seed | mean | what the lab says of it |", "|---|--:|--:|---|"]
    some = {seed for method in CHANGED if method != "grpo" for seed in rows.get((task, method), {})}
    for method, (what, predicted) in CHANGED.items():
        found = {seed: row for seed, row in rows.get((task, method), {}).items() if seed in some}
        if found:
            values = [found[seed]["right"]["sampled"] for seed in sorted(found)]
            each = ", ".join(f"{v:.1f}" for v in values)
            lines.append(f"| {what} | {each} | {mean(values)} | {predicted} |")
    return "\n".join(lines)


def picture(rows: Rows, tasks: Sequence[str], path: Path) -> None:
    """Share of right answers while GRPO trains, thin lines for seeds and a thick one for their IQM."""
    import matplotlib.pyplot as plt

    from actrix.show.plot import PALETTE
    from actrix.show.stats import MIN_SEEDS, iqm

    shown = [task for task in tasks if rows.get((task, "grpo"))]
    figure, panels = plt.subplots(
        1, len(shown), figsize=(2.3 * len(shown) + 0.6, 2.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, task, colour in zip(panels[0], shown, PALETTE, strict=False):
        curves = [np.array(row["curve"]) for row in rows[task, "grpo"].values()]
        for curve in curves:
            axes.plot(curve[:, 0] / 1000, 100 * curve[:, 1], color=colour, linewidth=0.7, alpha=0.5)
        summary: Callable = iqm if len(curves) >= MIN_SEEDS else np.mean
        grid = np.linspace(max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves), 60)
        middle = summary([np.interp(grid, c[:, 0], c[:, 1]) for c in curves], axis=0)
        axes.plot(grid / 1000, 100 * np.asarray(middle), color=colour, linewidth=2)
        axes.set(title=task, xlabel="thousand tokens", ylim=(0, 101))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("right answers, sampled, %")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_tables(path: Path) -> None:
    """Rewrite the page's tables, that of changes once there are any, and its picture."""
    from sequences import TASKS

    rows, page = read(path), DOCS / "sequences.md"
    replace(page, "tasks", tasks_table(rows, list(TASKS)))
    if any((task, method) in rows for task in TASKS for method in CHANGED if method != "grpo"):
        replace(page, "changes", changes_table(rows, "reverse"))
    picture(rows, list(TASKS), DOCS / "pictures" / "sequences.png")
