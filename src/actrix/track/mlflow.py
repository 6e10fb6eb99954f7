"""MLflow."""

from __future__ import annotations

import time
from typing import Any

from actrix.track.base import TrackerCallback


class MlflowCallback(TrackerCallback):
    """MLflow, at its tracking address (`MLFLOW_TRACKING_URI`); settings are parameters, the group is a tag."""

    package = "mlflow"

    def _begin(self, library: Any, config: dict[str, Any]) -> tuple[Any, str]:
        client = library.MlflowClient()
        if self.run_id is not None:
            client.update_run(self.run_id, status="RUNNING")
            return client, self.run_id
        found = client.get_experiment_by_name(self.project)
        experiment = client.create_experiment(self.project) if found is None else found.experiment_id
        tags = {} if self.group is None else {"group": self.group}
        run_id = client.create_run(experiment, run_name=self.name, tags=tags).info.run_id
        settings = config.pop("settings", {})
        for key, value in (config | {f"settings.{key}": value for key, value in settings.items()}).items():
            client.log_param(run_id, key, value)
        return client, run_id

    def _log(self, row: dict[str, float | int], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._run.log_batch(self.run_id, [Metric(key, float(value), now, step) for key, value in row.items()])

    def _finish(self, run: Any, done: bool) -> None:
        run.set_terminated(self.run_id, "FINISHED" if done else "KILLED")
