"""What a probe is, and how it is run."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class Absent(Exception):
    """The library does not offer what a probe needs; the message says what."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Numbers that a probe takes; a failure must show with two of them."""

    seed: int
    gamma: float
    limit: int


SETTINGS = (Setting(seed=1, gamma=0.5, limit=3), Setting(seed=2, gamma=0.7, limit=5))


@dataclasses.dataclass(frozen=True)
class Check:
    """What is right and what was found, numbers or dicts of numbers, and how far apart they may be."""

    expected: Any
    got: Any
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether everything is there, finite and near enough."""
        expected, got = _parts(self.expected), _parts(self.got)
        return expected.keys() == got.keys() and all(
            got[k].shape == expected[k].shape
            and np.isfinite(got[k]).all()
            and np.abs(got[k] - expected[k]).max(initial=0) <= self.tolerance
            for k in expected
        )

    def said(self) -> tuple[str, str]:
        """(expected, got) as text, only the parts that are apart where some are and some are not."""
        expected, got = _parts(self.expected), _parts(self.got)
        apart = [k for k in expected if not Check({k: expected[k]}, {k: got.get(k)}, self.tolerance).passed]
        shown = apart or list(expected)
        return _text({k: expected[k] for k in shown}), _text({k: got[k] for k in shown if k in got})


def _parts(x: Any) -> dict[str, np.ndarray]:
    parts = x if isinstance(x, dict) else {"": x}
    return {k: np.asarray(np.nan if v is None else v, float) for k, v in parts.items()}


def _text(parts: dict[str, np.ndarray]) -> str:
    number = lambda v: np.array2string(
        v, precision=3, suppress_small=True, separator=", ", max_line_width=1000
    )
    return ", ".join(" ".join(f"{k} {number(v)}".split()) for k, v in parts.items())


@dataclasses.dataclass(frozen=True)
class Probe:
    """A question to a library with one right answer."""

    name: str
    right: str
    """One line: what is right."""
    needs: tuple[str, ...]
    """Capabilities that must all be there; of 'a|b' one."""
    ask: Callable[[Any, Setting], Check]

    def missing(self, offers: Iterable[str]) -> list[str]:
        """The needs that are not among what is offered."""
        offers = set(offers)
        return [need for need in self.needs if not offers & set(need.split("|"))]


PROBES: dict[str, Probe] = {}


def probe(right: str, *needs: str) -> Callable[[Callable[[Any, Setting], Check]], Callable]:
    """Register a function `(adapter, setting) → Check` under its own name."""

    def register(ask: Callable[[Any, Setting], Check]) -> Callable:
        name = ask.__name__
        if name in PROBES:
            raise ValueError(f"two probes are called {name}.")
        PROBES[name] = Probe(name, right, needs, ask)
        return ask

    return register


@dataclasses.dataclass(frozen=True)
class Outcome:
    """'pass', 'fail', 'by design', 'n/a', 'unsettled' (right with one setting, wrong with another) or 'error'."""

    probe: str
    status: str
    expected: str = ""
    got: str = ""
    why: str = ""


def run(one: Probe, adapter: Any, settings: Iterable[Setting] = SETTINGS) -> Outcome:
    """Ask until one setting's answer is right; a failure is one with every setting."""
    missing = one.missing(adapter.offers)
    if missing:
        return Outcome(one.name, "n/a", why=f"offers no {', '.join(missing)}")
    if one.name in adapter.absent:
        return Outcome(one.name, "n/a", why=adapter.absent[one.name])
    checks: list[Check] = []
    try:
        for setting in settings:
            checks.append(one.ask(adapter, setting))
            if checks[-1].passed:
                break
    except Absent as reason:
        return Outcome(one.name, "n/a", why=str(reason))
    except Exception as error:  # of another's code: anything
        trace = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{trace.filename.rpartition('site-packages/')[2]}:{trace.lineno}"
        return Outcome(
            one.name, "error", why=f"{type(error).__name__}: {str(error).splitlines()[:1]} ({where})"
        )
    if len(checks) == 1:
        expected, got = checks[0].said()
        return Outcome(one.name, "pass", expected, got)
    expected, got = checks[0].said()
    if checks[-1].passed:
        return Outcome(one.name, "unsettled", expected, got, "right with another setting")
    if one.name in adapter.by_design:
        return Outcome(one.name, "by design", expected, got, adapter.by_design[one.name])
    return Outcome(one.name, "fail", expected, got)


def each(adapter: Any, names: Iterable[str], ask: Callable[[str], Any]) -> dict[str, Any]:
    """{algorithm: answer} for those of them that the library has and that can do it; Absent where there is none."""
    answers, reasons = {}, []
    for name in names:
        if name not in adapter.offers:
            continue
        try:
            answers[name] = ask(name)
        except Absent as reason:
            reasons.append(str(reason))
    if not answers:
        raise Absent("; ".join(dict.fromkeys(reasons)) or f"has none of {', '.join(names)}")
    return answers


def alike(answers: dict[str, Any], expected: Any, tolerance: float) -> Check:
    """All of them must be the same thing."""
    return Check(dict.fromkeys(answers, expected), answers, tolerance)
