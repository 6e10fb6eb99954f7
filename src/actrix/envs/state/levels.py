"""How the state of one level, a wrapper or the base environment, is read and written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.core.plain import copy_plain
from actrix.envs.guard import EnvError
from actrix.envs.guard import shown as brief

_MISSING: Any = object()


def levels_of(env: gym.Env) -> list[Any]:
    """The wrappers, the outermost first, and the base environment."""
    levels: list[Any] = [env]
    while isinstance(levels[-1], gym.Wrapper):
        levels.append(levels[-1].env)
    return levels


def path_of(level: gym.Env) -> str:
    """A level's exact class: module and name."""
    # In a worker process the main module has another name.
    module = type(level).__module__.replace("__mp_main__", "__main__")
    return f"{module}.{type(level).__qualname__}"


def id_of(base: gym.Env) -> str | None:
    """The id that the environment was made by, if it was."""
    return None if base.spec is None else base.spec.id


def shown(value: Any) -> str:
    """The value in a message, whatever it is."""
    try:
        return brief(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def check_keys(what: str, given: Any, expected: set[str]) -> None:
    """Raise EnvError unless `given` is a dict with just these keys."""
    if type(given) is not dict:
        raise EnvError(f"the state of {what} is {shown(given)}; it must be a dict.")
    for key in sorted(expected - given.keys()):
        raise EnvError(f"the state of {what} lacks {key!r}.")
    for key in sorted(given.keys() - expected, key=str):
        raise EnvError(f"the state of {what} has {key!r}, which is unknown.")


class Asked:
    """A level that offers get_state() and set_state(state)."""

    def unsupported(self, level: Any) -> str | None:
        """Why the level's state cannot be saved, as a clause; None if it can."""
        return None

    def read(self, level: Any) -> Any:
        """The level's state, as plain data."""
        name = type(level).__name__
        try:
            state = level.get_state()
        except Exception as error:
            raise EnvError(f"get_state of {name} raised {type(error).__name__}: {error}") from error
        try:
            return copy_plain(state)
        except ValueError as error:
            raise EnvError(f"get_state of {name} returned what cannot be saved: {error}") from None

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        """What puts `state` into the level, which is not touched before; EnvError where it does not fit."""
        name, state = type(level).__name__, plain_copy(type(level).__name__, state)

        def write() -> None:
            try:
                level.set_state(state)
            except Exception as error:
                raise EnvError(f"set_state of {name} raised {type(error).__name__}: {error}") from error

        return write


Check = Callable[[Any, Any], bool]
"""(value, level) -> does it fit."""


class Fields:
    """A level whose state is some attributes; a name may have dots. Those not set yet are listed in 'unset'."""

    def __init__(self, **fields: Check):
        self.fields = {name.replace("__", "."): check for name, check in fields.items()}

    def unsupported(self, level: Any) -> str | None:
        """Why the level's state cannot be saved, as a clause; None if it can."""
        return None

    def read(self, level: Any) -> Any:
        """The level's state, as plain data."""
        found = {name: attribute(level, name) for name in self.fields}
        unset = [name for name, value in found.items() if value is _MISSING]
        values = {name: _to_plain(value) for name, value in found.items() if value is not _MISSING}
        return {"fields": plain_copy(type(level).__name__, values), "unset": unset}

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        """What puts `state` into the level, which is not touched before; EnvError where it does not fit."""
        name = type(level).__name__
        check_keys(name, state, {"fields", "unset"})
        values, unset = state["fields"], state["unset"]
        if type(unset) is not list or not all(type(field) is str for field in unset):
            raise EnvError(f"the state of {name} has no list of unset fields.")
        check_keys(name, values, set(self.fields) - set(unset))
        if not set(unset) <= set(self.fields):
            raise EnvError(f"the state of {name} has unset fields that are unknown.")
        values = plain_copy(name, values)
        for field, value in values.items():
            if not self.fields[field](value, level):
                raise EnvError(f"the state of {name} does not fit: {field} is {shown(value)}.")

        def write() -> None:
            for field in unset:
                level.__dict__.pop(field, None)
            for field, value in values.items():
                *owner, last = field.split(".")
                target, old = attribute(level, ".".join(owner)), attribute(level, field)
                setattr(target, last, deque(value, old.maxlen) if isinstance(old, deque) else value)

        return write


class Statistics(Fields):
    """RecordEpisodeStatistics: its clock is of this process, so the running episode's time starts anew."""

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        fields = super().write(level, state)

        def write() -> None:
            fields()
            level.episode_start_time = time.perf_counter()

        return write


class Checker(Fields):
    """PassiveEnvChecker: the objects it compares with the next step's are gone, so that check is over."""

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        fields = super().write(level, state)

        def write() -> None:
            fields()
            level._previous_data = None
            if level.checked_reset:
                level.checked_step = level.checked_data_reuse = True

        return write


def attribute(level: Any, name: str) -> Any:
    """The attribute, of an attribute where the name has dots; `_MISSING` where it is not set."""
    for part in name.split(".") if name else []:
        level = getattr(level, part, _MISSING)
    return level


def _to_plain(value: Any) -> Any:
    if isinstance(value, deque):
        return list(value)
    return str(value) if isinstance(value, np.str_) else value


def plain_copy(name: str, state: Any) -> Any:
    """A copy that holds plain data only; EnvError where there is more."""
    try:
        return copy_plain(state)
    except ValueError as error:
        raise EnvError(f"the state of {name} is no plain data: {error}") from None
