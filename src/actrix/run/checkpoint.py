"""Run-state checkpoints: the learner and the counters, enough to go on training with fresh environments."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from actrix.core.types import PyTree
from actrix.run import modelfile

KEEP = 3
_NAME = re.compile(r"step_(\d+)\.safetensors$")


def save(folder: str | os.PathLike, learner: PyTree, counters: dict[str, Any], keep: int = KEEP) -> Path:
    """Write `step_<n>.safetensors` atomically, then remove all but the newest `keep`."""
    folder = Path(folder)
    path = folder / f"step_{counters['num_timesteps']:012d}.safetensors"
    modelfile.save(path, {"kind": "checkpoint", **counters}, learner)
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in Path(folder).glob("step_*.safetensors") if _NAME.search(p.name))


def load_newest(folder: str | os.PathLike, template: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """(learner, counters) of the newest complete checkpoint; a damaged one is passed over. None if there is none."""
    damaged = []
    for path in reversed(checkpoints(folder)):
        try:
            return modelfile.read_tree(path, template), modelfile.read_meta(path)
        except modelfile.ModelFileError as error:
            damaged.append(str(error))
    if damaged:
        raise modelfile.ModelFileError(f"no checkpoint in {folder} can be read: {damaged[0]}")
    return None
