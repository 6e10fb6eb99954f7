"""The figure of the sequence lab."""

from __future__ import annotations

from typing import Any

import numpy as np

from actrix.lab.report import label, legend, panels
from actrix.show.plot import DASHES, GREY, PALETTE

BENT = (
    "mean, per token", "mean, per sequence", "GRPO: std, per sequence", "DAPO: std, per token, dynamic",
    "best of G", "std of the sample",
)  # fmt: skip
"""Objectives whose direction is drawn; those left out point along the true gradient, or nearly as one of these."""


def draw(numbers: dict[str, Any]) -> Any:
    """Length by success rate and group size; direction; noise; ratios; the KL's estimators."""
    figure, axes = panels(
        3, 2, "What each shortcut costs: the expected update against the true gradient", (11, 11.6)
    )
    scales = numbers["scales"]
    for a, x, part in ((axes[0, 0], "success", "by success"), (axes[0, 1], "groups", "by group")):
        for k, (name, y) in enumerate(scales[part].items()):
            a.plot(scales[x], y, color=_colour(k), linestyle=DASHES[k % 4], label=name)
        a.set_yscale("log")
        a.set_ylim(0.45, 45)
        a.set_yticks((0.5, 1, 2, 5, 10), ("0.5", "1", "2", "5", "10"))
        a.axhline(1, color=GREY, linewidth=0.8)
    axes[0, 1].set_xscale("log", base=2)
    axes[0, 1].set_xticks(scales["groups"], [str(n) for n in scales["groups"]])
    length = "expected length / true length"
    label(axes[0, 0], f"one prompt, groups of {numbers['group']}", "success rate", length)
    label(axes[0, 1], "one prompt, success rate 0.25", "answers of a group", length)
    legend(axes[0, 0], loc="upper center", ncols=2)
    _directions(axes[1, 0], numbers)
    _noise(axes[1, 1], numbers)
    _ratios(axes[2, 0], numbers)
    _kl(axes[2, 1], numbers["kl"])
    return figure


def _colour(k: int) -> str:
    return (*PALETTE, GREY)[k % (len(PALETTE) + 1)]


def _band(a: Any, x: Any, y: Any, k: int, name: str) -> None:
    """The mean over decoders of [points, decoders], and their range."""
    middle = y.mean(axis=1)
    bars = a.errorbar(x, middle, [middle - y.min(axis=1), y.max(axis=1) - middle], fmt="o", linestyle=DASHES[k % 4],
                      color=_colour(k), markersize=4, capsize=2, elinewidth=0.8, label=name)  # fmt: skip
    for bar in bars[2]:
        bar.set_linestyle("-")


def _directions(a: Any, numbers: dict[str, Any]) -> None:
    for k, name in enumerate(BENT):
        _band(a, numbers["levels"], numbers["objectives"][name]["cosine"], k, name)
    a.axhline(1, color=GREY, linewidth=0.8)
    a.set_ylim(0.72, 1.01)
    label(a, "four prompts, one decoder: direction", "mean success rate", "cosine to the true gradient")
    legend(a, loc="lower right")


def _noise(a: Any, numbers: dict[str, Any]) -> None:
    names = list(numbers["objectives"])
    for place, name in enumerate(names):
        found = numbers["objectives"][name]
        y = (found["variance"] / found["length"] ** 2)[numbers["levels"].index(0.5)]
        a.plot([y.min(), y.max()], [-place] * 2, color=PALETTE[0], linewidth=3, alpha=0.3)
        a.plot(y.mean(), -place, "o", color=PALETTE[0])
    a.set_yticks(-np.arange(len(names)), names)
    a.set_xscale("log")
    a.set_xticks((0.2, 0.5, 1), ("0.2", "0.5", "1"))
    a.set_xticks((), minor=True)
    batch = f"{numbers['batch']} groups of {numbers['group']}"
    label(a, f"mean success 0.5, {batch}: noise", "variance / expected length²", "")


def _ratios(a: Any, numbers: dict[str, Any]) -> None:
    for k, (name, found) in enumerate(numbers["ratios"].items()):
        _band(a, numbers["distances"], found["cosine"], k, name)
    a.set_xscale("log")
    a.set_xticks(numbers["distances"], [f"{x:g}" for x in numbers["distances"]])
    a.set_xticks((), minor=True)
    a.axhline(0, color=GREY, linewidth=0.8)
    label(a, "answers of an older policy: direction by ratio and clip", "KL(old‖new) of an answer, nats",
          "cosine to the true gradient")  # fmt: skip
    a.set_ylim(-1.15, 1.08)
    legend(a, loc="lower left", ncols=2)


def _kl(a: Any, found: dict[str, Any]) -> None:
    names = list(found)
    for part, colour, shift in (("value", PALETTE[0], 0.15), ("length", PALETTE[1], -0.15)):
        name = {"value": "value / true KL", "length": "gradient along the true one / its length"}[part]
        for place, of in enumerate(names):
            y = found[of][part][0]
            a.plot([y.min(), y.max()], [-place + shift] * 2, color=colour, linewidth=3, alpha=0.3)
            a.plot(y.mean(), -place + shift, "o", color=colour, label=name if place == 0 else None)
    a.axvline(1, color=GREY, linewidth=0.8)
    a.axvline(0, color=GREY, linewidth=0.8)
    a.set_yticks(-np.arange(len(names)), names)
    a.set_ylim(-len(names) - 1, 0.6)
    label(a, "estimators of KL(π‖π_ref), mean success 0.5", "expected / exact", "")
    legend(a, loc="lower right")
