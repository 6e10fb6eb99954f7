"""Tables and curves of docs/sequences.md from sequences.jsonl (`python benchmarks/sequences.py --table`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from tables import DOCS, HERE, replace

RESULTS = HERE / "sequences.jsonl"
LAB = HERE / "sequences_lab.json"
CHANGED = {
    "grpo": "GRPO as in the table above",
    "std-off": "no deviation (`dr-grpo`, `aggregate=sequence`)",
    "per-token": "`aggregate=token`",
    "constant": "`aggregate=constant`",
    "beta-0.01": "`ref_kl_coef=0.01`",
    "beta-0.04": "`ref_kl_coef=0.04`",
    "group-4": "`--env-kwargs group=4`",
    "group-16": "`--env-kwargs group=16`",
    "dynamic": "`dynamic=true`",
    "dynamic-keep": "`dynamic=true keep=16`, of 32 groups drawn",
    "steps": "8 steps with a batch in place of 1",
    "clip-higher": "8 steps, `clip_range_high=0.28`",
    "ratio-sequence": "8 steps, `ratio=sequence`",
}
"""What is changed."""
STEPS = ("clip-higher", "ratio-sequence")
"""Compared with `steps`, the others with `grpo`."""

Rows = dict[tuple[str, str], dict[int, dict[str, Any]]]


def read(path: Path) -> Rows:
    """Rows by (task, method) and seed, the newest of each."""
    found: Rows = {}
    for row in record.read(path, "task", "method", "seed", "right") or record.refuse(f"{path} has no rows."):
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
    """Start, GRPO, more supervised training and expert iteration of each task; GRPO gone on with, where it was."""
    lines = [
        "| task | seeds | start | GRPO | its most likely answer | supervised | expert iteration | tokens | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for task in tasks:
        start, grpo, longer = (rows.get((task, m), {}) for m in ("start", "grpo", "grpo-long"))
        others = [cell(rows.get((task, m), {}), "sampled") for m in ("supervised", "expert")]
        before = f"{np.mean([row['tokens'] for row in start.values()]):,.0f}" if start else ""
        for name, found, rest in ((task, grpo, others), (f"{task}, gone on", longer, ["—", "—"])):
            if not found:
                continue
            cells = [cell(start, "sampled"), cell(found, "sampled"), cell(found, "most likely"), *rest]
            known = [taken(seed, grpo, found) for seed in found]
            seconds = mean([s for s in known if s]) if any(known) else "—"
            tokens = f"{before} + {found[min(found)]['tokens']:,}"
            lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} | {tokens} | {seconds} |")
    return "\n".join(lines)


def taken(seed: int, first: dict[int, dict[str, Any]], found: dict[int, dict[str, Any]]) -> float:
    """Processor seconds of a seed, with those of the run it went on with; 0 where they are not known."""
    seconds = found[seed]["processor_seconds"] or 0
    earlier = 0 if found is first else first[seed]["processor_seconds"] or 0
    return seconds + earlier


def changes_table(rows: Rows, lab: dict[str, dict[str, float]], task: str = "changes") -> str:
    """GRPO with one thing changed: every seed, the mean difference of seeds, and what the lab says."""
    lines = [
        "| GRPO with | sampled, each seed | mean | differs by | lab: cosine | length | noise |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    sampled = {
        method: {seed: row["right"]["sampled"] for seed, row in rows.get((task, method), {}).items()}
        for method in CHANGED
    }
    for method, what in CHANGED.items():
        found, base = sampled[method], sampled["steps" if method in STEPS else "grpo"]
        if found:
            each = ", ".join(f"{found[seed]:.1f}" for seed in sorted(found))
            gains = [found[seed] - base[seed] for seed in found if seed in base]
            gain = f"{np.mean(gains):+.1f}" if gains and found is not base else "—"
            told = [
                f"{lab[method][m]:.2f}" if m in lab[method] else "—" for m in ("cosine", "length", "noise")
            ]
            lines.append(f"| {what} | {each} | {mean(list(found.values()))} | {gain} | {' | '.join(told)} |")
    return "\n".join(lines)


def middle(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and the IQM of the curves there; of fewer than five their mean."""
    from actrix.show.stats import MIN_SEEDS, iqm

    summary: Callable = iqm if len(curves) >= MIN_SEEDS else np.mean
    grid = np.linspace(max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves), 60)
    return grid, np.asarray(summary([np.interp(grid, c[:, 0], c[:, 1]) for c in curves], axis=0))


def picture(rows: Rows, tasks: Sequence[str], path: Path) -> None:
    """Share of right answers while GRPO trains, thin lines for seeds; the middle of expert iteration, dashed."""
    import matplotlib.pyplot as plt

    from actrix.show.plot import PALETTE

    shown = {task: rows.get((task, "grpo-long")) or rows.get((task, "grpo")) for task in tasks}
    shown = {task: found for task, found in shown.items() if found}
    figure, panels = plt.subplots(
        1, len(shown), figsize=(2.3 * len(shown) + 0.6, 2.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (task, found), colour in zip(panels[0], shown.items(), PALETTE, strict=False):
        curves = [np.array(row["curve"]) for row in found.values()]
        for curve in curves:
            axes.plot(curve[:, 0] / 1000, 100 * curve[:, 1], color=colour, linewidth=0.7, alpha=0.5)
        lines = [(curves, "GRPO", {"color": colour, "linewidth": 2})]
        if expert := [np.array(row["curve"]) for row in rows.get((task, "expert"), {}).values()]:
            lines.append((expert, "expert iteration", {"color": "0.35", "linewidth": 1.5, "linestyle": "--"}))
        for each, label, look in lines:
            grid, values = middle(each)
            axes.plot(grid / 1000, 100 * values, label=label, **look)
        axes.set(title=task, xlabel="thousand tokens", ylim=(0, 101))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", fontsize="small")
    panels[0][0].set_ylabel("right answers, sampled, %")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_tables(path: Path, tasks: list[str]) -> None:
    """Rewrite the page's tables of these tasks, that of changes once there are any, and its picture."""
    rows, page = read(path), DOCS / "sequences.md"
    replace(page, "tasks", tasks_table(rows, tasks))
    if ("changes", "grpo") in rows:
        replace(page, "changes", changes_table(rows, json.loads(LAB.read_text())["predicted"]))
    picture(rows, tasks, DOCS / "pictures" / "sequences.png")
