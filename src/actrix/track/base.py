"""What all trackers share: when a run of theirs begins, which rows it gets, when it ends."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from actrix.algorithms.settings import settings_of
from actrix.callbacks import BaseCallback


class TrackerCallback(BaseCallback):
    """Sends each row of metrics to a tracker, at its environment step and under SB3's tags.

    As `learn(callback=…)`, or by hand: `begin`, `log` of each row, `finish`.

    Args:
        project: the tracker's project (MLflow: experiment).
        name: the run's name; None: "ppo on CartPole-v1".
        group: what the runs of several seeds have in common.
        run_id: the tracker's run to go on with; None begins one. `begin` sets it.
    Raises (`check`, `begin`): `ImportError` without the tracker's package, `ValueError` without a login, `OSError`
        where the tracker refuses the run.
    """

    package = ""

    def __init__(
        self,
        project: str = "actrix",
        name: str | None = None,
        group: str | None = None,
        run_id: str | None = None,
    ):
        super().__init__()
        self.project, self.name, self.group, self.run_id = project, name, group, run_id
        self._run: Any = None

    def check(self) -> None:
        """Raise unless the package is there, with a login where it needs one."""
        self._check(self._library())

    def begin(self, config: Mapping[str, Any]) -> str:
        """Begin the run, or go on with `run_id`; returns the tracker's id of it."""
        self.check()
        try:
            self._run, self.run_id = self._begin(self._library(), dict(config))
        except Exception as error:  # each library has its own kinds
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise OSError(f"{self.package} did not begin a run: {said[0]}") from error
        return self.run_id

    def log(self, row: Mapping[str, float | int], step: int) -> None:
        """Send what is known of a row. A tracker that fails is left out with a warning: training goes on."""
        if self._run is None:
            return
        try:
            self._log({key: value for key, value in row.items() if math.isfinite(value)}, step)
        except Exception as error:
            self._run = None
            warnings.warn(f"{self.package} failed and gets no more metrics: {error}", stacklevel=2)

    def finish(self, done: bool = True) -> None:
        """End the tracker's run in this process; `begin` can go on with it. `done` False: it was interrupted."""
        run, self._run = self._run, None
        if run is not None:
            self._finish(run, done)

    def _library(self) -> Any:
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(
                f"tracking with {self.package} needs its package ({error}): pip install 'actrix[track]'."
            ) from error

    def _on_training_start(self) -> None:
        model = self.model
        env_id = getattr(model, "env_id", None)
        name = model.preset.name
        if self.name is None:
            self.name = f"{name} on {env_id}" if env_id else name
        outputs = getattr(self.logger, "outputs", None)
        if outputs is None:
            raise ValueError(
                f"{type(self).__name__} needs the model's own logger, not {type(self.logger).__name__}."
            )
        self.begin(
            {
                "algorithm": name,
                "env_id": env_id,
                "seed": model.seed,
                "settings": settings_of(model.algorithm),
            }
        )
        outputs.append(self.log)

    def _on_training_end(self) -> None:
        outputs = getattr(self.logger, "outputs", [])
        if self.log in outputs:
            outputs.remove(self.log)
        self.finish()

    # What a tracker fills in.

    def _check(self, library: Any) -> None: ...

    def _begin(self, library: Any, config: dict[str, Any]) -> tuple[Any, str]:
        raise NotImplementedError

    def _log(self, row: dict[str, float | int], step: int) -> None:
        raise NotImplementedError

    def _finish(self, run: Any, done: bool) -> None:
        run.finish()
