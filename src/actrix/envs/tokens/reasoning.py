"""The procedural tasks of the library `reasoning-gym` (extra `reasoning`), judged by their own verifiers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from actrix.envs.tokens.questions import Questions


@dataclasses.dataclass(frozen=True)
class Verifier:
    """`score_answer` of a data set, held-out questions among it: a number from 0 to 1."""

    task: str
    size: int
    seed: int
    config: tuple[tuple[str, Any], ...] = ()

    def made(self, seed: int) -> Any:
        """The data set; ImportError without the library, ValueError for a task or setting that it does not have."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError(
                'ReasoningGym-v0 needs reasoning-gym: pip install "actrix[reasoning]"'
            ) from error
        try:
            return reasoning_gym.create_dataset(self.task, size=self.size, seed=seed, **dict(self.config))
        except (
            Exception
        ) as error:  # ValueError, TypeError, AssertionError: what its configurations make of it
            raise ValueError(f"reasoning-gym refuses task={self.task!r}: {error}") from error

    @functools.cached_property
    def sets(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Question → (data set, entry), of training and of those that it never asks: the next seed's others."""
        both = [self.made(seed) for seed in (self.seed, self.seed + 1)]
        asked, others = ({entry["question"]: (data, entry) for entry in data} for data in both)
        return asked, {question: found for question, found in others.items() if question not in asked}

    def __call__(self, prompt: str, answer: str) -> float:
        """The score of an answer."""
        asked, others = self.sets
        data, entry = asked.get(prompt) or others[prompt]
        return float(data.score_answer(answer, entry))


def reasoning_task(
    task: str = "chain_sum", size: int = 1000, seed: int = 0, room: int = 16, seconds: float = 5.0, group: int = 8,
    held_out: bool = False, tokenizer: str = "", end: str = "", **config: Any,
) -> Questions:  # fmt: skip
    """`size` questions of a task of reasoning-gym, which takes `config`; answers have at most `room` characters, or
    tokens of a `tokenizer`. Held out are those questions of the next seed that are not among them."""
    verifier = Verifier(task, size, seed, tuple(sorted(config.items())))
    asked, others = verifier.sets
    answers = tuple(str(entry["answer"]) for _, entry in asked.values())
    return Questions(
        tuple(asked), verifier, answers, room, seconds=seconds, group=group, held_out=held_out,
        held_out_prompts=tuple(others), tokenizer=tokenizer, end=end,
    )  # fmt: skip
