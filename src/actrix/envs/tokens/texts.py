"""How texts are tokens: a character each, or as the tokenizer of a published model cuts them."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from actrix.core.pretrained import WeightsError, positive, read_config, tokenizer

END = 0
"""The token that ends an answer of characters."""


class Texts(abc.ABC):
    """Texts ↔ tokens 0 … V − 1."""

    unit: ClassVar[str]
    """What a token is, in the plural."""
    vocabulary: tuple[str, ...]
    """How each token is written."""
    end: int
    """The token that ends an answer; also what is behind the ends of prompts and answers in arrays."""

    @abc.abstractmethod
    def read(self, text: str, prompt: bool = False) -> list[int]:
        """The tokens of an answer or a prompt, without the end; ValueError, "has …", where it has none."""

    @abc.abstractmethod
    def join(self, tokens: list[int]) -> str:
        """Tokens as text."""

    def write(self, tokens: Iterable[Any]) -> str:
        """Tokens as text, up to the first end."""
        kept: list[int] = []
        for token in map(int, tokens):
            if token == self.end:
                break
            kept.append(token)
        return self.join(kept)


@dataclasses.dataclass(frozen=True)
class Characters(Texts):
    """One each; the first of the vocabulary is the end."""

    vocabulary: tuple[str, ...]
    end = END
    unit = "characters"

    def read(self, text, prompt=False):
        place = {c: i for i, c in enumerate(self.vocabulary) if i != END}
        unknown = [c for c in text if c not in place]
        if unknown:
            raise ValueError(f"has {unknown[0]!r}, which is none of {''.join(place)!r}")
        return [place[c] for c in text]

    def join(self, tokens):
        return "".join(self.vocabulary[t] for t in tokens)


@dataclasses.dataclass(frozen=True)
class Pieces(Texts):
    """As the `tokenizer.json` of a folder cuts them (Llama's, Qwen2's or a smaller one's).

    `config.json` beside it says how many tokens the weights have and which ends an answer (`eos_token_id`, the first
    where there are several). A prompt is read with what the tokenizer puts around texts, as a token of the beginning.
    Raises WeightsError for a folder that does not fit, ImportError without the extra `text`.
    """

    folder: str
    ends: str = ""
    """The token that ends an answer, as it is written; "" = that of `config.json`."""
    unit = "tokens"

    @functools.cached_property
    def _size(self) -> int:
        return positive(*read_config(self.folder), "vocab_size")

    @functools.cached_property
    def _pieces(self) -> Any:
        return tokenizer(self.folder, self._size)

    @functools.cached_property
    def vocabulary(self):  # type: ignore[override]
        return tuple(self._pieces.id_to_token(i) or "" for i in range(self._size))

    @functools.cached_property
    def end(self):  # type: ignore[override]
        """The id of `ends`, or what the folder's configuration says."""
        path = Path(self.folder)
        if self.ends:
            found = self._pieces.token_to_id(self.ends)
            if found is None:
                raise WeightsError(f"end={self.ends!r} is no token of {path / 'tokenizer.json'}.")
            return found
        path, config = read_config(self.folder)
        said = config.get("eos_token_id")
        said = said[0] if isinstance(said, list) and said else said
        if type(said) is not int or not 0 <= said < self._size:
            raise WeightsError(
                f"{path}: eos_token_id is {str(said)[:40]}, no token: say which ends an answer, end='</s>'."
            )
        return said

    def read(self, text, prompt=False):
        tokens = self._pieces.encode(text, add_special_tokens=prompt).ids
        unknown = getattr(self._pieces.model, "unk_token", None)
        if unknown and self._pieces.token_to_id(unknown) in tokens and unknown not in text:
            raise ValueError("has characters that the tokenizer does not know")
        if not prompt and self.end in tokens:
            raise ValueError(f"has {self.vocabulary[self.end]!r}, which ends an answer")
        return tokens

    def join(self, tokens):
        return self._pieces.decode(tokens, skip_special_tokens=True)
