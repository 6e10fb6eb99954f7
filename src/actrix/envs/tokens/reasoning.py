"""The procedural tasks of the library `reasoning-gym` (extra `reasoning`), judged by their own verifiers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from actrix.envs.tokens.questions import Questions


@dataclasses.dataclass(frozen=True)
class Verifier:
    """`score_answer` of a data set: a number from 0 to 1."""

    task: str
    size: int
    seed: int
    config: tuple[tuple[str, Any], ...] = ()

    @functools.cached_property
    def entries(self) -> dict[str, Any]:
        """Question → entry; ImportError without the library, ValueError for a task or setting that it does not have."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError(
                'ReasoningGym-v0 needs reasoning-gym: pip install "actrix[reasoning]"'
            ) from error
        try:
            made = reasoning_gym.create_dataset(
                self.task, size=self.size, seed=self.seed, **dict(self.config)
            )
        except (
            Exception
        ) as error:  # ValueError, TypeError, AssertionError: what its configurations make of it
            raise ValueError(f"reasoning-gym refuses task={self.task!r}: {error}") from error
        self.__dict__["dataset"] = made
        return {entry["question"]: entry for entry in made}

    def __call__(self, prompt: str, answer: str) -> float:
        """The score of an answer."""
        entry = self.entries[prompt]
        return float(self.__dict__["dataset"].score_answer(answer, entry))


def reasoning_task(
    task: str = "chain_sum", size: int = 1000, seed: int = 0, room: int = 16, seconds: float = 5.0, group: int = 8,
    **config: Any,
) -> Questions:  # fmt: skip
    """`size` questions of a task of reasoning-gym, which takes `config`; answers have at most `room` characters."""
    verifier = Verifier(task, size, seed, tuple(sorted(config.items())))
    entries = verifier.entries
    answers = tuple(str(entry["answer"]) for entry in entries.values())
    return Questions(tuple(entries), verifier, answers, room, seconds=seconds, group=group)
