"""Schedules: a number, or a function of training progress that hashes by value and fits into JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Number = float | int


@dataclasses.dataclass(frozen=True)
class Linear:
    """`initial` at the start, falling linearly to `final` at the end of training; written `lin_<initial>`."""

    initial: float
    final: float = 0.0

    def __call__(self, progress: jax.Array | float) -> jax.Array | float:
        return self.initial + (self.final - self.initial) * progress

    def __str__(self) -> str:
        return f"lin_{float(self.initial)!r}" + (f"_{float(self.final)!r}" if self.final else "")


@dataclasses.dataclass(frozen=True)
class Tabulated:
    """A user's function of the remaining progress, read off at equal distances and interpolated linearly."""

    values: tuple[float, ...]
    """Values at progress 0 (the start), ..., 1 (the end)."""

    def __call__(self, progress: jax.Array | float) -> jax.Array | float:
        grid = jnp.linspace(0.0, 1.0, len(self.values))
        return jnp.interp(jnp.asarray(progress), grid, jnp.asarray(self.values))

    def __str__(self) -> str:
        return "tab_" + "_".join(f"{float(v)!r}" for v in self.values)


Schedule = float | Linear | Tabulated


def as_schedule(value: Any, name: str = "schedule") -> Schedule:
    """Number, 'lin_2.5e-4', a Stable-Baselines3 function of the remaining progress, or a schedule.

    Raises ValueError naming `name` for anything else.
    """
    if isinstance(value, Linear | Tabulated):
        return value
    if isinstance(value, str):
        try:
            kind, *numbers = value.split("_")
            floats = [float(n) for n in numbers]
            if kind == "lin" and len(floats) in (1, 2):
                return Linear(*floats)
            if kind == "tab" and len(floats) >= 2:
                return Tabulated(tuple(floats))
            return float(value)
        except ValueError:
            raise ValueError(
                f"{name}={value!r}: write a number or 'lin_<number>', e.g. lin_2.5e-4."
            ) from None
    if isinstance(value, bool) or not (isinstance(value, Number | np.number) or callable(value)):
        raise ValueError(
            f"{name}={value!r}: expected a number, 'lin_<number>' or a function of the progress."
        )
    if callable(value):
        return _tabulate(value)
    return float(value)


def _tabulate(function: Callable[[float], float], points: int = 101) -> Tabulated:
    values = tuple(float(function(1.0 - i / (points - 1))) for i in range(points))
    return Tabulated(values)


def evaluate(schedule: Schedule, progress: jax.Array | float) -> jax.Array | float:
    """Value at `progress` ∈ [0, 1] (fraction of the training budget already spent)."""
    return schedule(progress) if callable(schedule) else schedule


def bounds(schedule: Schedule) -> tuple[float, float]:
    """Smallest and largest value over training, for checks at construction; NaN where one is not finite."""
    values: tuple[float, ...]
    if isinstance(schedule, Linear):
        values = schedule.initial, schedule.final
    else:
        values = schedule.values if isinstance(schedule, Tabulated) else (schedule,)
    return (min(values), max(values)) if all(map(math.isfinite, values)) else (math.nan, math.nan)
