"""The folder of a published model, as data: its `config.json` and `tokenizer.json`. Nothing that it names is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn


class WeightsError(ValueError):
    """The folder holds no decoder, or no tokenizer, that fits; the message says what is wrong with which file."""


def read_json(path: Path, text: bytes | None) -> dict[str, Any]:
    """A JSON object; WeightsError where there is none."""

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    if text is None:
        raise WeightsError(f"there is no {path}: a folder of weights has config.json and model.safetensors.")
    try:
        value = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {str(error)[:200]}.") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} must hold a JSON object.")
    return value


def read_config(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """(path, contents) of the folder's `config.json`."""
    path = Path(folder) / "config.json"
    return path, read_json(path, path.read_bytes() if path.is_file() else None)


def positive(path: Path, config: dict[str, Any], name: str) -> int:
    """A whole number of at least 1."""
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise WeightsError(f"{path}: {name} is {str(value)[:40]}; it must be a whole number of at least 1.")
    return value


def tokenizer(folder: str | Path, vocabulary: int) -> Any:
    """The folder's `tokenizer.json` by the library `tokenizers`; WeightsError where an id has no row of the weights.

    ImportError without the extra `text`.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError('tokenizer.json needs tokenizers: pip install "actrix[text]".') from error
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"there is no {path}.")
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise WeightsError(f"{path} is no tokenizer: {error}.") from None
    largest = max(made.get_vocab().values(), default=0)
    if largest >= vocabulary:
        raise WeightsError(
            f"{path} has ids up to {largest}, the weights {vocabulary} tokens: they do not belong together."
        )
    return made
