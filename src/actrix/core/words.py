"""The one grammar of answers: `name[:positional…][:flag|key=value,…]`, e.g. `q:double,dueling,c51` or `replay:per,n=3`.

A class that may be named so has `name`, `positional` (which fields may be given by position; all by default) and
perhaps `aliases` (other names of fields). A field with `parts` in its metadata holds one of these small classes, chosen
by its name as a flag; `part=value` chooses it and sets its first field; its fields are set like the answer's own.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar


class WordError(ValueError):
    """A word that cannot be read; the message says what would be right."""


def read_value(text: str) -> Any:
    """'256' → 256, 'None' → None, '1e-3' → 0.001, 'true' → True, 'lin_2.5e-4' → itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)


def write_value(value: Any) -> str:
    """The inverse of `read_value`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: str, names: Iterable[str], none: str = "") -> str:
    """'did you mean …?', or what there is."""
    names = list(names)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=3, cutoff=0.5)
    near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else none or f"choose one of {', '.join(names)}."


F = TypeVar("F", bound=Callable[..., Any])


def once(function: F) -> F:
    """What a class says of itself is read once: every word that is read or written asks for it."""
    return functools.cache(function)  # type: ignore[return-value]


@once
def positions(cls: Any) -> tuple[str, ...]:
    """The fields that may be given by position, in order."""
    given = getattr(cls, "positional", None)
    if given is not None:
        return tuple(given)
    return tuple(f.name for f in dataclasses.fields(cls) if not f.kw_only and not f.metadata and f.init)


@once
def part_fields(cls: Any) -> dict[str, tuple[Any, ...]]:
    """Field → the classes that it may hold an instance of."""
    return {f.name: f.metadata["parts"] for f in dataclasses.fields(cls) if "parts" in f.metadata}


def flag_of(f: dataclasses.Field) -> str:
    """What a field is called as a flag."""
    return f.metadata.get("flag", f.name)


def with_changes(part: Any, changes: Mapping[str, Any]) -> Any:
    """The dataclass with fields, flags, parts and fields of its parts replaced; WordError for one it does not have."""
    cls: Any = type(part)
    own: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    names = _renamed(cls)
    parts = {field: getattr(part, field) for field in part_fields(cls)}
    for name, value in changes.items():
        field = names.get(name, name)
        chosen = _part(cls, name)
        if field in parts:
            # The name of what is held changes nothing: `c51` beside `v_min` keeps the bounds.
            held = getattr(parts[field], "name", None)
            parts[field] = (
                parts[field] if held is not None and held == value else _instance(cls, field, value)
            )
        elif field in _names(cls):
            own[field] = value
        elif chosen is not None:
            field, kind = chosen
            default = {f.name: f.default for f in dataclasses.fields(cls)}[field]
            if value is False:  # off: back to the default
                parts[field] = default if isinstance(parts[field], kind) else parts[field]
            else:
                same = isinstance(parts[field], kind)
                parts[field] = parts[field] if same and value is True else _first(kind, value)
        else:
            inner[name] = value
    for field, held in parts.items():
        mine = {} if held is None else {n: v for n, v in inner.items() if n in _names(type(held))}
        inner = {n: v for n, v in inner.items() if n not in mine}
        parts[field] = with_changes(held, mine) if mine else held
    if inner:
        name = next(iter(inner))
        owners = [kind.name for kinds in part_fields(cls).values() for kind in kinds if name in _names(kind)]
        if owners:
            raise WordError(f"{cls.name} has no {name!r} without {' or '.join(owners)}.")
        raise WordError(f"{cls.name} has no {name!r}: {nearest(name, setting_names(part))}")
    return dataclasses.replace(part, **own, **parts)


def with_those_it_has(part: Any, changes: Mapping[str, Any]) -> Any:
    """The dataclass with its own fields among these replaced."""
    return dataclasses.replace(part, **{name: x for name, x in changes.items() if name in _names(type(part))})


@once
def own_names(cls: Any) -> tuple[str, ...]:
    """Every name that `with_changes` takes but for those of what its fields hold."""
    names = [name for f in dataclasses.fields(cls) for name in dict.fromkeys((f.name, flag_of(f)))]
    parts = [kind.name for kinds in part_fields(cls).values() for kind in kinds]
    return (*names, *getattr(cls, "aliases", {}), *parts)


def setting_names(part: Any) -> list[str]:
    """Every name that `with_changes` takes."""
    cls = type(part)
    held = [getattr(part, field) for field in part_fields(cls)]
    inner = [name for x in held if x is not None for name in _names(type(x))]
    return list(dict.fromkeys([*own_names(cls), *inner]))


@once
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


@once
def _flags(cls: Any) -> dict[str, dataclasses.Field]:
    """Its fields by what they are called as flags."""
    return {flag_of(f): f for f in dataclasses.fields(cls)}


@once
def _renamed(cls: Any) -> dict[str, str]:
    """Flags and aliases → the fields they set."""
    return getattr(cls, "aliases", {}) | {flag: f.name for flag, f in _flags(cls).items()}


def _part(cls: Any, name: str) -> tuple[str, Any] | None:
    """(field, class) of the part with that name."""
    for field, kinds in part_fields(cls).items():
        for kind in kinds:
            if kind.name == name:
                return field, kind
    return None


def _first(kind: Any, value: Any) -> Any:
    """The part; with its first field set unless `value` is only True."""
    if value is True:
        return kind()
    if not positions(kind):
        raise WordError(
            f"{kind.name} takes no value, not {value!r}: write {kind.name}, or {kind.name}=false."
        )
    return kind(**{positions(kind)[0]: value})


def _instance(cls: Any, field: str, value: Any) -> Any:
    """A part by its name, or the part itself."""
    kinds = {kind.name: kind for kind in part_fields(cls)[field]}
    none = value is None and next(f.default for f in dataclasses.fields(cls) if f.name == field) is None
    if none or isinstance(value, tuple(kinds.values())):
        return value
    if not isinstance(value, str) or value not in kinds:
        raise WordError(f"{field}={value!r}: {nearest(str(value), kinds)}")
    return kinds[value]()


Said = dict[str, tuple[str, Any]]
"""Field → (the word that sets it, what it is set to)."""


def parse(text: str, classes: Mapping[str, Any], what: str, base: Any = None) -> Any:
    """The answer that a word names; WordError says which there are, or what the word may hold.

    What the word leaves out is the class's default, or `base`'s value where that has the field and the word could not
    have given it by position.
    """
    name, *segments = str(text).split(":")
    if name not in classes:
        raise WordError(f"{what} {text!r}: unknown; {nearest(name, classes)}")
    cls = classes[name]
    where, odd = f"{what} {text!r}", list[str]()
    hint = lambda: "".join(
        [f" As for {word!r}: {x}" for word in odd if (x := _near(cls, word)).startswith(("did", "write"))][:1]
    )
    try:
        return with_changes(_begin(cls, base), _changes(cls, segments, {}, odd))
    except WordError as error:
        raise WordError(f"{where}: {error}") from None
    except TypeError:  # of a comparison in the answer's own checks
        raise WordError(f"{where}: cannot read it; the form is {form(cls)}.{hint()}") from None
    except ValueError as error:
        raise WordError(f"{where}: {error}{hint()}") from None


def said_in(text: str, cls: Any) -> Said:
    """What a word of this class, which `parse` has read, sets."""
    said: Said = {}
    _changes(cls, text.split(":")[1:], said, [])
    return said


def _changes(cls: Any, segments: Iterable[str], said: Said, odd: list[str]) -> dict[str, Any]:
    """The changes of the arguments behind a name; `odd` gets what stands by place and is no number."""
    changes: dict[str, Any] = {}
    open_positions, aliases, fields = list(positions(cls)), getattr(cls, "aliases", {}), _flags(cls)
    for word in (word for segment in segments for word in segment.split(",") if word):
        key, equals, value = word.partition("=")
        flag = aliases.get(word, word)
        if equals:
            changes[key] = read_value(value)
        elif _part(cls, word) is not None or (flag in fields and isinstance(fields[flag].default, bool)):
            changes[key] = True
        elif open_positions:
            key = open_positions.pop(0)
            changes[key] = read_value(word)
            odd += [word] if isinstance(changes[key], str) else []
        else:
            raise WordError(f"cannot read {word!r}; {_near(cls, word)}")
        say(cls, said, word, key, changes[key])
    return changes


def _near(cls: Any, word: str) -> str:
    names = own_names(cls)
    return f"write {word}=…" if word in names else nearest(word, names, f"the form is {form(cls)}.")


def say(cls: Any, said: Said, word: str, key: str, value: Any) -> None:
    """`agree` on what a word sets by a name that `with_changes` takes."""
    part = _part(cls, key)
    field = _renamed(cls).get(key, key) if part is None else part[0]
    if field not in part_fields(cls):
        return agree(said, field, word, value)
    chosen, off = value if part is None else key, part is not None and value is False
    if isinstance(chosen, str):
        agree(said, f"{field} {chosen}", word, not off)
    if off:  # whatever else is chosen
        return None
    agree(said, field, word, chosen)
    if part is not None and value is not True and positions(part[1]):
        agree(said, positions(part[1])[0], word, value)
    return None


def agree(said: Said, what: str, word: str, value: Any) -> None:
    """Note that a word sets this; WordError where another has set it to something else."""
    if what not in said:
        said[what] = word, value
    before, known = said[what]
    if known is not value and known != value:
        raise WordError(f"{before!r} and {word!r} set the same, {what.split()[0]}: leave one out.")


def _begin(cls: Any, base: Any) -> Any:
    """The answer before its word is read."""
    if base is None:
        return cls()
    shared = [name for name in _names(cls) if name in _names(type(base)) and name not in part_fields(cls)]
    return cls(**{name: getattr(base, name) for name in shared if name not in positions(cls)})


def form(cls: Any) -> str:
    """'name:positional…[:flag|key=value,…]' of a class."""
    return ":".join([cls.name, *positions(cls)])


def write(answer: Any, base: Any = None, full: bool = False) -> str:
    """The word of an answer in its canonical form, the inverse of `parse`: what is as in `base`, an answer of the same
    class with nothing said of it (the class's defaults), is left out; `full`: nothing is.

    A value stands by its place where all before it are said, else by its name.
    """
    cls: Any = type(answer)
    base = cls() if base is None else base
    said = [f for f in dataclasses.fields(cls) if full or getattr(answer, f.name) != getattr(base, f.name)]
    names = [f.name for f in said]
    by_place = list(itertools.takewhile(names.__contains__, positions(cls)))
    rest = []
    for f in said:
        value = getattr(answer, f.name)
        if "parts" in f.metadata:
            rest += _write_part(value, getattr(base, f.name), full)
        elif f.name not in by_place:
            rest.append(flag_of(f) if value is True else f"{flag_of(f)}={write_value(value)}")
    places = [write_value(getattr(answer, name)) for name in by_place]
    return ":".join([cls.name, *places, *([",".join(rest)] if rest else [])])


def _write_part(part: Any, base: Any, full: bool) -> list[str]:
    """The flag that chooses a part, with its first field where that is said; its other fields."""
    if part is None:
        return []
    base = base if type(base) is type(part) else type(part)()
    said = [
        f.name for f in dataclasses.fields(part) if full or getattr(part, f.name) != getattr(base, f.name)
    ]
    first = [name for name in positions(part)[:1] if name in said]
    texts = {name: write_value(getattr(part, name)) for name in said}
    return ["=".join([part.name, *(texts.pop(name) for name in first)]), *map("=".join, texts.items())]
