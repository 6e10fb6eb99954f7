"""What a probe is, and how it is run."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class Absent(Exception):
    """The library does not offer what a probe needs; the message says what."""


class NotAsked(Absent):
    """Our adapter does not ask, whatever the library has; the message says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Numbers that a probe takes; every probe is asked with two of them."""

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
        for digits in (4, 8, 17):  # what is apart looks apart
            said = [
                {k: _text(k, parts[k], digits) for k in apart or expected if k in parts}
                for parts in (expected, got)
            ]
            if all(said[0][k] != said[1].get(k) for k in apart):
                break
        return ", ".join(said[0].values()), ", ".join(said[1].values())


def _parts(x: Any) -> dict[str, np.ndarray]:
    parts = x if isinstance(x, dict) else {"": x}
    return {k: np.asarray(np.nan if v is None else v, float) for k, v in parts.items()}


def _text(name: str, values: np.ndarray, digits: int) -> str:
    shown = {"float_kind": lambda x: f"{x:.{digits}g}"}
    return " ".join(f"{name} {np.array2string(values, formatter=shown, separator=', ')}".split())


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
    """What became of a probe; `status` is one of `STATUSES`."""

    probe: str
    status: str
    expected: str = ""
    got: str = ""
    why: str = ""


STATUSES = {
    "pass": "right with both settings",
    "by design": "wrong with both, and another answer is intended",
    "refuses": "the library raises, in a sentence about this very thing",
    "fail": "wrong with both settings",
    "error": "the library raises something else with both settings",
    "unsettled": "the two settings disagree",
    "n/a": "the library does not offer it",
    "not asked": "our adapter does not ask it",
}


def run(one: Probe, adapter: Any, settings: Iterable[Setting] = SETTINGS) -> Outcome:
    """Ask with every setting; what all of them say counts, and where they disagree it is unsettled."""
    missing = one.missing(adapter.offers)
    if missing:
        status = "n/a" if lacked(missing, adapter.lacks) else "not asked"
        return Outcome(one.name, status, why=f"offers no {', '.join(missing)}")
    if one.name in adapter.absent:
        return Outcome(one.name, "n/a", why=adapter.absent[one.name])
    if one.name in adapter.not_asked:
        return Outcome(one.name, "not asked", why=adapter.not_asked[one.name])
    answers = {setting: _answer(one, adapter, setting) for setting in settings}
    shown = next((a for a in answers.values() if a.status != "pass"), next(iter(answers.values())))
    if len({a.status for a in answers.values()}) > 1:
        said = "; ".join(f"seed {s.seed}: {a.status} {a.why}".strip() for s, a in answers.items())
        return dataclasses.replace(shown, status="unsettled", why=said)
    if shown.status == "fail" and one.name in adapter.by_design:
        return dataclasses.replace(shown, status="by design", why=adapter.by_design[one.name])
    return shown


def lacked(missing: list[str], lacks: frozenset[str]) -> list[str]:
    """Those needs that the library itself cannot fill in any way."""
    return [need for need in missing if set(need.split("|")) <= lacks]


def _answer(one: Probe, adapter: Any, setting: Setting) -> Outcome:
    """What one setting says."""
    try:
        check = one.ask(adapter, setting)
    except Absent as reason:
        return Outcome(one.name, "not asked" if isinstance(reason, NotAsked) else "n/a", why=str(reason))
    except Exception as error:  # of another's code: anything
        line = next(iter(str(error).splitlines()), "").rstrip(":")
        if adapter.refusals.get(one.name, "\n") in line:
            return Outcome(one.name, "refuses", why=f"{type(error).__name__}: {line}")
        trace = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{trace.filename.rpartition('site-packages/')[2]}:{trace.lineno}"
        return Outcome(one.name, "error", why=f"{type(error).__name__}: {line} ({where})")
    return Outcome(one.name, "pass" if check.passed else "fail", *check.said())


def each(adapter: Any, names: Iterable[str], ask: Callable[[str], Any]) -> dict[str, Any]:
    """{algorithm: answer} for those of them that the library has and that can do it; Absent where there is none."""
    answers, reasons = {}, []
    for name in names:
        if name not in adapter.offers:
            continue
        try:
            answers[name] = ask(name)
        except Absent as reason:
            reasons.append(reason)
    if not answers:
        kind = NotAsked if any(isinstance(reason, NotAsked) for reason in reasons) else Absent
        said = "; ".join(dict.fromkeys(map(str, reasons)))
        raise kind(said or f"has none of {', '.join(names)}")
    return answers


def alike(answers: dict[str, Any], expected: Any, tolerance: float) -> Check:
    """All of them must be the same thing."""
    return Check(dict.fromkeys(answers, expected), answers, tolerance)
