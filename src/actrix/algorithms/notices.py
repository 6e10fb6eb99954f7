"""What a user is told of settings that have no effect: only what the user said, and only where it is another value."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actrix.algorithms.answers import said_in
from actrix.algorithms.settings import fields_of, own_fields, parts_of, unwrapped
from actrix.algorithms.usual import bare
from actrix.core import words
from actrix.core.contract import Algorithm
from actrix.core.idle import NoEffectWarning

ROOT = str(Path(__file__).parents[1])
ANYHOW = {"optimize_memory_usage": "observations are stored once in any case"}
"""Settings that ask for what is done anyhow."""

Said = dict[str, tuple[str, list[str]]]
"""Field → (what was said, the parts of which; '' = of none)."""


def tell(
    before: Algorithm, after: Algorithm, given: Mapping[str, Any], offline: bool | None = None, reference: Any = None
) -> None:  # fmt: skip
    """A NoEffectWarning, where the caller of this package stands, for each setting that was `given` without effect.

    `before` is the algorithm without them; `offline` as `Algorithm.idle` takes it. A `reference` has none without its
    coefficient: whoever says `ref_kl_coef=0` beside it knows that.
    """
    said, idle = _flat(before, after, given), after.idle(offline)
    if reference is not None and "ref_kl_coef" not in given:
        said["reference"] = "reference", [""]
    for name, (what, places) in said.items():
        needs = [idle.get(place, {}).get(name) for place in places]
        if all(needs):  # in each part that has it
            why = f" without {needs[0]}" if needs else f": {ANYHOW[name]}"
            warnings.warn(f"{what} has no effect{why}.", NoEffectWarning, stacklevel=_outside())


def offline(env: Any, dataset: Any) -> bool | None:
    """Whether a data set is learned from; None where neither is given yet."""
    return None if env is None and dataset is None else env is None


def _flat(before: Algorithm, after: Algorithm, given: Mapping[str, Any]) -> Said:
    """What settings say: flat ones that differ from the algorithm `before`, and words from what is usual."""
    said: Said = {}
    for name, x in unwrapped(given).items():
        if name in ANYHOW and x:
            said[name] = f"{name}={x}", []
        elif name in ("critic", "actor", "data") and isinstance(x, str):
            said |= _of_word(after, name, x)
        else:
            said |= _of_name(before, after, name, x)
    return said


def _of_word(after: Algorithm, part: str, word: str) -> Said:
    answers, three = parts_of(after), ("critic", "actor", "data")
    usual = dict(zip(three, bare(*map(answers.__getitem__, three)), strict=True))
    now, then = _values(answers[part]), _values(usual[part])
    names = [name for name in said_in(part, word) if name in now and _differs(name, now, then)]
    return {name: (f"{name}={now[name]}", [part]) for name in names}


def _of_name(before: Algorithm, after: Algorithm, name: str, value: Any) -> Said:
    said: Said = {}
    now, then = ({place: _values(x) for place, x in _places(a).items()} for a in (after, before))
    for field in fields_of(after, {name: value}):
        owners = [place for place, values in now.items() if field in values]
        if any(_differs(field, now[place], then[place]) for place in owners):
            said[field] = f"{field}={now[owners[0]][field]}", owners
    return said


def _differs(name: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    return name not in then or then[name] != now[name]


def _places(algorithm: Algorithm) -> dict[str, Any]:
    """Its own fields, by the name '', and its parts."""
    return {"": {name: getattr(algorithm, name) for name in own_fields(algorithm)}, **parts_of(algorithm)}


def _values(part: Any) -> dict[str, Any]:
    """The fields of a part, and of those inside it."""
    if isinstance(part, dict):
        return part
    own = {name: getattr(part, name) for name in part.__dataclass_fields__}
    inner = [_values(own[field]) for field in words.part_fields(type(part)) if own[field] is not None]
    return {name: x for values in [*inner, own] for name, x in values.items()}


def _outside() -> int:
    """The level of the first frame outside of this package, for `tell`."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ROOT):
        frame, level = frame.f_back, level + 1
    return level
