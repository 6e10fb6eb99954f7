"""Trackio."""

from __future__ import annotations

import uuid
from typing import Any

from actrix.track.base import TrackerCallback


class TrackioCallback(TrackerCallback):
    """Trackio, on this machine (`TRACKIO_DIR`). It knows a run by its name, which therefore gets a random end."""

    package = "trackio"

    def _begin(self, library: Any, config: dict[str, Any]) -> tuple[Any, str]:
        run_id = self.run_id or f"{self.name or 'run'} {uuid.uuid4().hex[:8]}"
        run = library.init(
            project=self.project, name=run_id, group=self.group, config=config, resume="allow", embed=False
        )
        return run, run_id

    def _log(self, row: dict[str, float | int], step: int) -> None:
        self._run.log(row, step=step)
