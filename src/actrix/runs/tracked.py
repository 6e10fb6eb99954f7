"""The tracker's run that belongs to a seed's folder: `tracker.json` keeps which it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actrix.files import atomic
from actrix.runs.config import RunConfig, RunError
from actrix.runs.folder import config_json
from actrix.track import TrackerCallback, tracker

TRACKER = "tracker.json"


class NotBegunError(OSError):
    """The tracker refuses a run that it has nothing of yet."""


def track(name: str, folder: Path, config: RunConfig, pairs: Sequence[tuple[Path, int]]) -> None:
    """Note in each seed's folder that it is tracked; RunError where it already is by another tracker."""
    for path, seed in pairs:
        if (path / TRACKER).exists():
            if (old := _read(path)["tracker"]) != name:
                raise RunError(f"--track {name}: {path} is tracked by {old}.")
            continue
        several = len(pairs) > 1
        label = f"{config.title}, seed {seed}" if several else config.title
        atomic.write_json(path / TRACKER, {"tracker": name, "project": "actrix", "name": label,
                                           "group": folder.name if several else None, "run_id": None})  # fmt: skip


def begun(path: Path) -> bool:
    """Whether the tracker has a run of this seed."""
    return (path / TRACKER).exists() and _read(path)["run_id"] is not None


def begin(path: Path, config: RunConfig, seed: int) -> TrackerCallback | None:
    """Begin, or go on with, the tracker's run of a seed's folder; None where it is not tracked. Raises NotBegunError,
    OSError."""
    if not (path / TRACKER).exists():
        return None
    noted = _read(path)
    one = _tracker(noted)
    try:
        run_id = one.begin(config_json(dataclasses.replace(config, seeds=(seed,))))
    except OSError as error:
        if noted["run_id"] is None:
            raise NotBegunError(error) from error
        raise
    noted["run_id"] = run_id
    atomic.write_json(path / TRACKER, noted)
    return one


def check(pairs: Sequence[tuple[Path, int]]) -> None:
    """Raise before anything trains where the tracker of a folder lacks its package or a login."""
    for path, _ in pairs:
        if (path / TRACKER).exists():
            _tracker(_read(path)).check()


def _tracker(noted: dict[str, Any]) -> TrackerCallback:
    return tracker(noted["tracker"], **{k: noted[k] for k in ("project", "name", "group", "run_id")})


def _read(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads((path / TRACKER).read_text("utf-8"))
        kinds = {"tracker": str, "project": str, "name": str, "group": str | None, "run_id": str | None}
        for key, kind in kinds.items():
            if not isinstance(noted[key], kind):
                raise ValueError(f"{key} is {noted[key]!r:.80}")
        return dict(noted)
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path / TRACKER} cannot be read: {error}") from None
