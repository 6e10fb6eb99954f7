"""Weights & Biases."""

from __future__ import annotations

import os
from typing import Any

from actrix.show.metrics import STEP
from actrix.track.base import TrackerCallback


class WandbCallback(TrackerCallback):
    """Weights & Biases; `WANDB_MODE=offline` needs no login."""

    package = "wandb"

    def _check(self, library: Any) -> None:
        if os.environ.get("WANDB_MODE", "online") != "online":
            return
        try:
            known = library.login(prompt=False, verify=False)
        except library.errors.AuthenticationError as error:  # of a key's form
            raise ValueError(f"wandb cannot log in: {error}") from error
        if not known:
            raise ValueError(
                "wandb has no login: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline."
            )

    def _begin(self, library: Any, config: dict[str, Any]) -> tuple[Any, str]:
        run = library.init(
            project=self.project, name=self.name, group=self.group, config=config, id=self.run_id,
            resume="allow" if self.run_id else None, reinit="create_new",
        )  # fmt: skip
        # Not its own step, which never goes back: a resumed run does, to its checkpoint.
        run.define_metric("*", step_metric=STEP)
        return run, run.id

    def _log(self, row: dict[str, float | int], step: int) -> None:
        self._run.log(row | {STEP: step})

    def _finish(self, run: Any, done: bool) -> None:
        run.finish(exit_code=0 if done else 1)
