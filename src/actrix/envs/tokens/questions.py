"""Prompts of the user's and a verifier in Python: `reward(prompt, answer)`, called where an answer ends."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.fields import positive, whole
from actrix.envs.tokens.env import END, Instance, TokenEnv

LARGEST = float(np.finfo(np.float32).max)
"""A reward is a number of 32 bits."""


@dataclasses.dataclass(frozen=True)
class Questions(TokenEnv):
    """One of `prompts` each time, an answer of characters, and `reward(prompt, answer)` of it: a finite number.

    The verifier is plain Python on two strings; nothing that is answered is run. It is called on the host from the
    compiled loop, and must give the same for the same. Where it raises, gives no finite number or takes longer than
    `seconds`, training stops and says on which prompt and answer.
    """

    prompts: tuple[str, ...]
    reward: Callable[[str, str], float]
    answers: tuple[str, ...] | None = None
    """A right answer to each, for a supervised start."""
    room: int = 16
    """Characters of the longest answer."""
    characters: str = ""
    """What answers may hold, besides all that prompts and `answers` do."""
    seconds: float = 1.0
    complaints: list[str] = dataclasses.field(default_factory=list, compare=False, repr=False, kw_only=True)
    """What went wrong in the verifier, first things first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "answers"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name}={value[:40]!r} is one text: give a list of them.")
            object.__setattr__(self, name, None if value is None else tuple(map(str, value)))
        whole(self, "room")
        positive(self, "seconds")
        if not callable(self.reward):
            raise ValueError(f"reward={self.reward!r} must be a function of a prompt and an answer.")
        if not self.prompts or not all(self.prompts):
            raise ValueError("prompts: give at least one, and none that is empty.")
        if self.held_out:
            raise ValueError(
                "held_out=True is of tasks that make longer questions: give other prompts instead."
            )
        if self.answers is not None and len(self.answers) != len(self.prompts):
            raise ValueError(f"{len(self.answers)} answers do not go with {len(self.prompts)} prompts.")
        long = [a for a in self.answers or () if len(a) > self.room]
        if long:
            raise ValueError(
                f"the answer {long[0]!r} has {len(long[0])} characters: room={self.room} is too small."
            )

    @functools.cached_property
    def vocabulary(self):  # type: ignore[override]
        return ("", *sorted(set("".join((*self.prompts, *(self.answers or ()), self.characters)))))

    @property
    def prompt_room(self):
        return max(map(len, self.prompts))

    @property
    def answer_room(self):
        return self.room + 1

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts, their lengths and answers, as tokens."""
        place = {c: i for i, c in enumerate(self.vocabulary)}

        def tokens(text: str, room: int) -> list[int]:
            return [place[c] for c in text] + [END] * (room - len(text))

        lengths = np.array([len(p) for p in self.prompts], np.int32)
        prompts = np.array([tokens(p, self.prompt_room) for p in self.prompts], np.int32)
        answers = [tokens(a, self.answer_room) for a in self.answers or [""] * len(self.prompts)]
        return prompts, lengths, np.array(answers, np.int32)

    def draw(self, key):
        i = jax.random.randint(key, (), 0, len(self.prompts))
        return Instance(*(jnp.asarray(table)[i] for table in self._tables))

    def score(self, instance, answer, done):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(
            self._judge, shape, instance.prompt, instance.length, answer, done, vmap_method="broadcast_all"
        )

    @property
    def complaint(self) -> str | None:
        """What went wrong in the verifier first; None = nothing."""
        return self.complaints[0] if self.complaints else None

    def _judge(self, prompt: Any, length: Any, answer: Any, done: Any) -> np.ndarray:
        """Rewards of a batch, 0 where the answer goes on, NaN where the verifier gave none."""
        prompt, length, answer, done = map(np.asarray, (prompt, length, answer, done))
        out = np.zeros(done.shape, np.float32)
        for i in zip(*np.nonzero(done), strict=True):
            asked = "".join(self.vocabulary[t] for t in prompt[i][: length[i]])
            out[i] = self._verify(asked, self.write(answer[i]))
        return out

    def _verify(self, prompt: str, answer: str) -> float:
        found: list[Any] = []

        def call() -> None:
            try:
                found.append(float(self.reward(prompt, answer)))
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.seconds)
        value = found[0] if found else None
        if isinstance(value, float) and abs(value) <= LARGEST:
            return value
        what = f"took longer than {self.seconds:g} s" if value is None else f"gave {value}"
        what = f"raised {type(value).__name__}: {value}" if isinstance(value, BaseException) else what
        self.complaints.append(f"the verifier {what} on prompt {prompt!r} and answer {answer!r}.")
        return np.nan
