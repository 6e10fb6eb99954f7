"""Experiment trackers: each row of metrics also goes to Weights & Biases, MLflow or Trackio."""

from __future__ import annotations

from typing import Any

from actrix.track.base import TrackerCallback
from actrix.track.mlflow import MlflowCallback
from actrix.track.trackio import TrackioCallback
from actrix.track.wandb import WandbCallback

TRACKERS: dict[str, type[TrackerCallback]] = {
    one.package: one for one in (WandbCallback, MlflowCallback, TrackioCallback)
}


def tracker(kind: str, /, **options: Any) -> TrackerCallback:
    """The tracker of this kind; ValueError for another name."""
    if kind not in TRACKERS:
        raise ValueError(f"tracker {kind!r:.80}: choose one of {', '.join(TRACKERS)}.")
    return TRACKERS[kind](**options)


__all__ = ["TRACKERS", "MlflowCallback", "TrackerCallback", "TrackioCallback", "WandbCallback", "tracker"]
