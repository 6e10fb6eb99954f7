"""Right answers that the environment shows."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from actrix.core.answers import DataFacts
from actrix.data.chunk import OnPolicy


@dataclasses.dataclass(frozen=True)
class Shown(OnPolicy):
    """The environment shows right actions: it acts in the policy's place, and what it did is learned from."""

    name: ClassVar[str] = "shown"

    @property
    def facts(self):
        return DataFacts(on_policy=False, shown=True)

    def check(self, spec, num_envs, config):
        if spec.prompts is None:
            raise ValueError("data shown needs an environment that shows right answers, such as Reverse-v0.")
        if not spec.prompts.answered:
            raise ValueError(
                "data shown needs right answers, and these prompts have none: give Questions answers=…, one to each of "
                "prompts (held_out_prompts have none)."
            )
        super().check(spec, num_envs, config)
