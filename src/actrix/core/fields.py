"""Checks of a frozen dataclass's fields at its construction."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from actrix.core.schedules import as_schedule, bounds


def whole(part: Any, *names: str, least: int = 1) -> None:
    """Raise ValueError unless these fields hold whole numbers of at least `least`; make them ints."""
    for name in names:
        value = getattr(part, name)
        number = isinstance(value, int) or (
            value is not None and not isinstance(value, str) and math.isfinite(value)
        )
        if isinstance(value, bool) or not number or int(value) != value or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
        object.__setattr__(part, name, int(value))


def finite(part: Any, *names: str, least: float = -math.inf) -> None:
    """Raise ValueError unless these fields hold finite numbers of at least `least`."""
    for name in names:
        value = getattr(part, name)
        if isinstance(value, str | bool) or value is None or not (math.isfinite(value) and value >= least):
            bound = "" if least == -math.inf else f" of at least {least:g}"
            raise ValueError(f"{name}={value!r} must be a finite number{bound}.")


def switch(part: Any, *names: str) -> None:
    """Raise ValueError unless these fields hold True or False: the word 'no' would count as yes."""
    for name in names:
        if not isinstance(getattr(part, name), bool):
            raise ValueError(f"{name}={getattr(part, name)!r} must be True or False.")


def names(part: Any, name: str, only_with: str) -> None:
    """Raise ValueError unless this field is None or a list of names, made a tuple, with the other field on."""
    value = getattr(part, name)
    if value is None:
        return
    if isinstance(value, str) or not all(isinstance(x, str) for x in value):
        raise ValueError(f"{name}={value!r} must be a list of names, or None.")
    if not getattr(part, only_with):
        raise ValueError(f"{name}={list(value)} has no effect with {only_with}=False: leave it out.")
    object.__setattr__(part, name, tuple(value))


def choose(part: Any, **choices: Collection) -> None:
    """Raise ValueError unless each field holds one of its choices; None is the choice 'none' (`--set KEY=none`)."""
    for name, allowed in choices.items():
        if getattr(part, name) is None and "none" in allowed:
            object.__setattr__(part, name, "none")
        if getattr(part, name) not in allowed:
            raise ValueError(f"{name}={getattr(part, name)!r}: choose one of {', '.join(map(str, allowed))}.")


def share(part: Any, *names: str) -> None:
    """Raise ValueError unless these fields hold numbers in [0, 1]."""
    for name in names:
        value = getattr(part, name)
        if isinstance(value, str | bool) or value is None or not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r} must lie in [0, 1].")


def rate(part: Any, *names: str) -> None:
    """Turn these fields into schedules; raise ValueError unless they are positive."""
    for name in names:
        value = as_schedule(getattr(part, name), name)
        object.__setattr__(part, name, value)
        low, high = bounds(value)
        if not (low >= 0 and high > 0):
            raise ValueError(f"{name}={value} must be positive.")


def positive_or_none(part: Any, *names: str) -> None:
    """Raise ValueError unless these fields hold positive numbers, or None for 'off'."""
    for name in names:
        value = getattr(part, name)
        if value is not None and (isinstance(value, str | bool) or not value > 0):
            raise ValueError(f"{name}={value!r} must be positive, or None for 'off'.")


def positive(part: Any, *names: str) -> None:
    """Raise ValueError unless these fields hold finite numbers above 0."""
    finite(part, *names)
    for name in names:
        if not getattr(part, name) > 0:
            raise ValueError(f"{name}={getattr(part, name)} must be positive.")
