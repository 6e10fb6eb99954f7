"""The numbers of a configuration that learning reads from its state.

Learning rates, coefficients and clip ranges are no part of the compiled program: `Training.numbers` holds them, so that
they can change between two updates without a new compilation, and seeds in one program may each have their own.
Fields whose number decides what is computed at all (a λ of 0, a penalty that is off), or which acting reads, stay in
the program; their class names them in `structural`, beside those of the classes above it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def numbers_of(part: Any) -> dict[str, float]:
    """Path of fields → number, e.g. {'gamma': 0.99, 'fit.learning_rate': 3e-4}, of a configuration and its parts."""
    return {path: value for path, value in _fields(part, "") if isinstance(value, float)}


def with_numbers(part: Any, numbers: Mapping[str, Any]) -> Any:
    """The same configuration with these numbers, which may be traced and are not checked."""
    new, nested = copy.copy(part), dict[str, dict[str, Any]]()
    for path, value in numbers.items():
        name, _, rest = path.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            object.__setattr__(new, name, value)
    for name, inner in nested.items():
        object.__setattr__(new, name, with_numbers(getattr(part, name), inner))
    return new


def packed(numbers: Mapping[str, float]) -> np.ndarray:
    """Numbers in their order as one float32 vector: a call of a compiled program costs by the number of its arrays."""
    return np.array([*numbers.values()], np.float32)


def unpacked(part: Any, vector: Any) -> Any:
    """The same configuration with the numbers of `packed`, which may be traced."""
    return with_numbers(part, dict(zip(numbers_of(part), vector, strict=True)))


def same_program(a: Any, b: Any) -> bool:
    """Whether two configurations differ in nothing but such numbers."""
    blank = lambda part: with_numbers(part, dict.fromkeys(numbers_of(part), 0.0))
    return numbers_of(a).keys() == numbers_of(b).keys() and blank(a) == blank(b)


def _fields(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    fixed = {name for cls in type(part).__mro__ for name in vars(cls).get("structural", ())}
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if f.name in fixed:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _fields(value, f"{path}{f.name}.")
        else:
            yield path + f.name, value
