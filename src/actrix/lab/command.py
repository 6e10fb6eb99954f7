"""`actrix lab NAME`: the registry of studies, and what running one prints and writes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actrix.lab.report import Report

STUDIES = {
    "variance": "bias and variance of policy gradients over ψ, baselines and GAE's λ",
    "credit": "how MC, TD(0), TD(n) and TD(λ) spread one reward over a grid world",
    "importance": "variance of importance sampling against horizon and policy distance",
    "bounds": "the return, its surrogate and its lower bounds along a step",
    "clip": "the objectives of PPO-clip and PPO-KL and their gradients over the ratio",
    "soft": "temperature, soft values, and policy gradient = soft Q-learning",
    "sequence": "GRPO, RLOO, GPG, DAPO, GSPO and KL estimators against the exact gradient of a decoder",
}
"""name → summary; the study is `study(seed)` of the module `actrix.lab.NAME`."""


def study(name: str, seed: int = 0) -> Report:
    """Run one study in float64. Raises ValueError for an unknown name or a negative seed."""
    if name not in STUDIES:
        raise ValueError(f"no study is named {name!r}: choose one of {', '.join(STUDIES)}.")
    if seed < 0:
        raise ValueError(f"--seed {seed} must be at least 0.")
    import jax

    with jax.enable_x64(True):
        return importlib.import_module(f"actrix.lab.{name}").study(seed)


def run(name: str | None, out: Path | None = None, seed: int = 0) -> None:
    """Print the study's tables and write its files to `out` (default lab/NAME); without a name list the studies."""
    from rich.console import Console

    if name is None:
        print("\n".join(f"actrix lab {known:<11} {summary}" for known, summary in STUDIES.items()))
        return
    report = study(name, seed)
    report.show(Console(highlight=False))
    for path in report.write(out or Path("lab") / name, name):
        print(f"wrote {path}")
