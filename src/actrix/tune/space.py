"""What may be searched, and on which scale: a range or a choice of one setting, as one plain parameter of Optuna's."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

SCALES = ("linear", "log", "complement", "power")
"""Even in x, in log x, in log(1 − x), in log₂ x over the powers of two."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both allowed. Raises ValueError for ends that make no sense on their scale."""

    name: str
    low: float
    high: float
    scale: str = "linear"
    whole: bool = False
    """Whole numbers only."""
    schedule: str = "constant"
    """'linear': the number is where a schedule starts that falls to 0 ('lin_<number>')."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale={self.scale!r}: choose one of {', '.join(SCALES)}")
        if self.schedule not in ("constant", "linear"):
            raise ValueError(f"schedule={self.schedule!r}: choose constant or linear")
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
                raise ValueError(f"{end!r} is not a number")
        if not self.low < self.high:
            raise ValueError(f"low={self.low:g} is not below high={self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0, not {self.low:g}")
        if self.scale == "complement" and not 0 <= self.low < self.high < 1:
            raise ValueError(f"a complement scale lies in [0, 1), not in [{self.low:g}, {self.high:g}]")
        if self.scale == "power" and any(not is_power(end) for end in (self.low, self.high)):
            raise ValueError(
                f"a power scale goes from one power of two to another, not {self.low:g} to {self.high:g}"
            )
        if self.whole and any(end != int(end) for end in (self.low, self.high)):
            raise ValueError(f"{self.low:g} to {self.high:g} must be whole numbers")

    @property
    def param(self) -> str:
        """What Optuna and its dashboard call it."""
        return {"complement": f"1-{self.name}", "power": f"log2 {self.name}"}.get(self.scale, self.name)

    def distribution(self) -> Any:
        """Optuna's distribution of that parameter."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.scale == "power":
            return IntDistribution(int(math.log2(self.low)), int(math.log2(self.high)))
        if self.scale == "complement":
            return FloatDistribution(_tidy(1 - self.high), _tidy(1 - self.low), log=True)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.scale == "log")
        return FloatDistribution(float(self.low), float(self.high), log=self.scale == "log")

    def read(self, x: Any) -> Any:
        """Parameter → the setting's value, a number of few digits."""
        if self.scale == "power":
            return 2 ** int(x)
        if self.whole:
            return int(x)
        value = round(1 - x, 6) if self.scale == "complement" else _tidy(x, 4)
        value = min(max(value, self.low), self.high)
        return f"lin_{value!r}" if self.schedule == "linear" else value

    def nearest(self, value: Any) -> Any:
        """The parameter nearest to a value of the setting; None where that is no number."""
        x = number(value)
        if x is None:
            return None
        x = min(max(x, self.low), self.high)
        if self.scale == "power":
            return round(math.log2(x))
        return _tidy(1 - x) if self.scale == "complement" else int(x) if self.whole else float(x)

    def spec(self) -> dict[str, Any]:
        """What a space file says of it."""
        out: dict[str, Any] = {"low": self.low, "high": self.high, "scale": self.scale}
        return out | ({"schedule": self.schedule} if self.schedule != "constant" else {})

    def ends(self) -> list[Any]:
        """The setting's values at both ends."""
        ends = [int(x) if self.whole or self.scale == "power" else float(x) for x in (self.low, self.high)]
        return [f"lin_{x!r}" for x in ends] if self.schedule == "linear" else ends


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values, of any kind that YAML has. Raises ValueError for fewer than two, or two equal ones."""

    name: str
    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len({*map(_label, self.choices)}) < len(self.choices):
            raise ValueError(f"choices {list(self.choices)} must be at least two different ones")

    @property
    def param(self) -> str:
        """What Optuna and its dashboard call it."""
        return self.name

    def distribution(self) -> Any:
        """Optuna's distribution, over the choices as text where they are no plain values."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([_label(x) for x in self.choices])

    def read(self, x: Any) -> Any:
        """Parameter → the setting's value."""
        return next(choice for choice in self.choices if _label(choice) == x)

    def nearest(self, value: Any) -> Any:
        """The parameter of that value; None where it is not among the choices."""
        return next((_label(choice) for choice in self.choices if choice == value), None)

    def spec(self) -> dict[str, Any]:
        """What a space file says of it."""
        return {"choices": list(self.choices)}

    def ends(self) -> list[Any]:
        """Every choice."""
        return list(self.choices)


Space = tuple[Range | Choice, ...]


def from_spec(name: str, spec: dict[str, Any]) -> Range | Choice:
    """The dimension that `spec()` describes, with `whole` besides; raises ValueError, TypeError for others."""
    if "choices" in spec:
        if len(spec) > 1 or not isinstance(spec["choices"], list):
            raise ValueError("choices must be a list, and stand alone")
        return Choice(name, tuple(spec["choices"]))
    return Range(name, **spec)


def number(value: Any) -> float | None:
    """A setting's number, a falling schedule's first one; None for anything else."""
    if isinstance(value, str) and value.startswith("lin_"):
        head, _, final = value.removeprefix("lin_").partition("_")
        return number(float(head)) if not final else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def is_power(x: float) -> bool:
    """Whether x is 1, 2, 4, 8, …"""
    return x >= 1 and x == int(x) and int(x) & (int(x) - 1) == 0


def _label(value: Any) -> Any:
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else json.dumps(value)


def _tidy(x: float, digits: int = 6) -> float:
    """x without the noise of its last digits."""
    return float(f"{x:.{digits}g}")
