"""Prompts of the user's and a verifier in Python: `reward(prompt, answer)`, called where an answer ends."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.fields import positive, whole
from actrix.envs.tokens.env import Instance, TokenEnv
from actrix.envs.tokens.texts import Characters, Pieces

LARGEST = float(np.finfo(np.float32).max)
"""A reward is a number of 32 bits."""


@dataclasses.dataclass(frozen=True)
class Questions(TokenEnv):
    """One of `prompts` each time, an answer of characters or tokens, `reward(prompt, answer)` of it: a finite number.

    The verifier is plain Python on two strings; nothing that is answered is run. It is called on the host from the
    compiled loop, and must give the same for the same. Where it raises, gives no finite number or takes longer than
    `seconds`, training stops and says on which prompt and answer.
    """

    prompts: tuple[str, ...]
    reward: Callable[[str, str], float]
    answers: tuple[str, ...] | None = None
    """A right answer to each, for a supervised start."""
    room: int = 16
    """Characters, or tokens, of the longest answer."""
    characters: str = ""
    """What answers may hold, besides all that prompts and `answers` do."""
    seconds: float = 1.0
    held_out_prompts: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """What training never asks; `held_out=True` asks these."""
    tokenizer: str = dataclasses.field(default="", kw_only=True)
    """A folder with `tokenizer.json` and `config.json`, whose tokens are taken in place of characters (`Pieces`)."""
    end: str = dataclasses.field(default="", kw_only=True)
    """The tokenizer's token that ends an answer; "" = that of `config.json`."""
    complaints: list[str] = dataclasses.field(default_factory=list, compare=False, repr=False, kw_only=True)
    """What went wrong in the verifier, first things first."""

    beyond: ClassVar[str] = "none of them in training"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "answers", "held_out_prompts"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name}={value[:40]!r} is one text: give a list of them.")
            object.__setattr__(self, name, None if value is None else tuple(map(str, value)))
        object.__setattr__(self, "tokenizer", os.fspath(self.tokenizer))
        whole(self, "room")
        positive(self, "seconds")
        if not callable(self.reward):
            raise ValueError(f"reward={self.reward!r} must be a function of a prompt and an answer.")
        if not self.prompts or not all((*self.prompts, *self.held_out_prompts)):
            raise ValueError("prompts: give at least one, and none that is empty.")
        if self.held_out and not self.held_out_prompts:
            raise ValueError("held_out=True asks held_out_prompts: give some.")
        if both := set(self.prompts) & set(self.held_out_prompts):
            raise ValueError(f"{min(both)!r} is among prompts and held_out_prompts: training would ask it.")
        if self.answers is not None and len(self.answers) != len(self.prompts):
            raise ValueError(f"{len(self.answers)} answers do not go with {len(self.prompts)} prompts.")
        if self.tokenizer and self.characters:
            raise ValueError("characters are of answers without a tokenizer: leave them out.")
        if self.end and not self.tokenizer:
            raise ValueError("end is a token of a tokenizer: give one, or leave it out.")
        _ = self.texts.end, self.vocabulary  # a folder that does not fit is no prompt's fault
        for answer, tokens in zip(self.answers or (), self._read(self.answers or (), "answer"), strict=True):
            if len(tokens) > self.room:
                raise ValueError(
                    f"the answer {answer!r} has {len(tokens)} {self.texts.unit}: room={self.room} is too small."
                )
        if len(self._asked) < len(set(self.asked)):
            raise ValueError(
                "prompts: two of them are the same tokens, so that a verifier could not be told which."
            )

    @functools.cached_property
    def texts(self):
        if self.tokenizer:
            return Pieces(self.tokenizer, self.end)
        known = (*self.prompts, *self.held_out_prompts, *(self.answers or ()), self.characters)
        return Characters(("", *sorted(set("".join(known)))))

    @property
    def vocabulary(self):
        return self.texts.vocabulary

    @property
    def asked(self) -> tuple[str, ...]:
        """The prompts of this environment."""
        return self.held_out_prompts if self.held_out else self.prompts

    @property
    def answered(self):
        return self.answers is not None and not self.held_out

    @property
    def prompt_room(self):
        return self._tables[0].shape[1]

    @property
    def answer_room(self):
        return self.room + 1

    def question(self, prompt):
        return self._asked[tuple(prompt.tolist())]

    def _read(self, texts: tuple[str, ...], what: str) -> list[list[int]]:
        """Their tokens; ValueError names the first that has none."""
        out = []
        for text in texts:
            try:
                out.append(self.texts.read(text, prompt=what == "prompt"))
                if what == "prompt" and not out[-1]:
                    raise ValueError("has no token")
            except ValueError as error:
                raise ValueError(f"the {what} {text!r} {error}.") from None
        return out

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts, their lengths and answers, as tokens."""
        prompts = self._read(self.asked, "prompt")
        answers = self._read(self.answers or (), "answer") if not self.held_out else []

        def table(rows: list[list[int]], room: int) -> np.ndarray:
            return np.array([row + [self.texts.end] * (room - len(row)) for row in rows], np.int32)

        lengths = np.array([len(p) for p in prompts], np.int32)
        answers = answers or [[]] * len(prompts)
        return table(prompts, int(lengths.max())), lengths, table(answers, self.answer_room)

    @functools.cached_property
    def _asked(self) -> dict[tuple[int, ...], str]:
        """The text of each prompt's tokens: as it was given, which reading and writing it need not give back."""
        prompts, lengths, _ = self._tables
        rows = [tuple(p[:n]) for p, n in zip(prompts.tolist(), lengths, strict=True)]
        return dict(zip(rows, self.asked, strict=True))

    def draw(self, key):
        i = jax.random.randint(key, (), 0, len(self.asked))
        return Instance(*(jnp.asarray(table)[i] for table in self._tables))

    def score(self, instance, answer, done):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(
            self._judge, shape, instance.prompt, instance.length, answer, done, vmap_method="broadcast_all"
        )

    def complaint(self) -> str | None:
        """What went wrong in the verifier first, once: what begins then has none."""
        first = self.complaints[0] if self.complaints else None
        self.complaints.clear()
        return first

    def _judge(self, prompt: Any, length: Any, answer: Any, done: Any) -> np.ndarray:
        """Rewards of a batch, 0 where the answer goes on, NaN where the verifier gave none."""
        prompt, length, answer, done = map(np.asarray, (prompt, length, answer, done))
        out = np.zeros(done.shape, np.float32)
        for i in zip(*np.nonzero(done), strict=True):
            out[i] = self._verify(self.question(prompt[i][: length[i]]), self.write(answer[i]))
        return out

    def _verify(self, prompt: str, answer: str) -> float:
        # Its reward, and what is said of it where that is no finite number.
        found: list[tuple[float, str]] = []

        def call() -> None:
            try:
                value = self.reward(prompt, answer)
            except BaseException as error:
                found.append((np.nan, f"raised {type(error).__name__}: {error}"))
                return
            try:
                found.append((float(value), f"gave {value}"))
            except Exception:
                found.append((np.nan, f"gave {value!r:.80}, which is no number,"))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.seconds)
        value, what = found[0] if found else (np.nan, f"took longer than {self.seconds:g} s")
        if abs(value) <= LARGEST:
            return value
        self.complaints.append(f"the verifier {what} on prompt {prompt!r} and answer {answer!r}.")
        return np.nan
