"""An actor as the learner sees it, and what of it goes wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from actrix.envs.build import UnknownEnvError
from actrix.envs.guard import EnvError
from actrix.envs.workers.process import WorkerTraceback
from actrix.loops.groups import Start
from actrix.remote.cluster import watched
from actrix.remote.member import Wrong

GONE = object()
"""What came of a call whose actor died."""


@dataclasses.dataclass(eq=False)
class Mate:
    """An actor as the learner sees it."""

    number: int
    groups: range
    starts: list[Start] = dataclasses.field(default_factory=list)
    handle: Any = None
    node: str = ""
    pid: int | None = None
    states: list[dict[str, Any] | None] | None = None
    """Where its environments are; None before their first step."""
    open_episodes: int = 0
    restart: bool = False
    """New episodes begin with the next chunk."""
    deaths: int = 0
    """Since its last chunk."""
    seen: Any = None
    """How far it said it was, and since when."""
    since: float = 0.0
    sent: float = 0.0
    """When it was asked for its chunk."""
    why: str = ""
    """Why it was ended."""

    @property
    def lost(self) -> bool:
        """Whether its environments' state cannot be had."""
        return self.states is not None and any(state is None for state in self.states)


class Order(NamedTuple):
    """What is to be collected in one call, and with what."""

    rows: int
    keys: Sequence[np.ndarray]
    leaves: Any
    call: int


class Task(NamedTuple):
    """Who collects, since which call, and for which time with that call's keys."""

    mate: Mate
    call: int
    again: int


def pickled(ray: Any, value: Any, what: str) -> bytes:
    """The value as bytes; TypeError where it cannot be sent."""
    try:
        return bytes(ray.cloudpickle.dumps(value))
    except Exception as error:
        raise TypeError(f"{what} cannot be sent to actors: {type(error).__name__}: {error}") from error


def result(ray: Any, task: Any) -> Any:
    """What a call returned; GONE where its actor died. Raises what the actor's method raised, and EnvError where Ray
    itself has died."""
    try:
        with watched():
            out = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise EnvError(f"an actor failed: {error}") from error
    except ray.exceptions.RayError:
        return GONE
    if isinstance(out, Wrong):
        raise raised(out)
    return out


def raised(wrong: Wrong) -> Exception:
    """What the actor's method raised, as it would have been raised here."""
    cause = WorkerTraceback(wrong.origin, wrong.text)
    error: Exception
    if wrong.kind in ("ImportError", "ModuleNotFoundError", "AttributeError"):
        error = ImportError(
            f"an actor cannot make the environment: {wrong.sentence}; its module must be installed, or on PYTHONPATH, "
            "on every node"
        )
    else:
        kinds = {"UnknownEnvError": UnknownEnvError, "EnvError": EnvError, "ValueError": ValueError}
        kind = kinds.get(wrong.kind)
        error = (
            EnvError(f"an actor failed: {wrong.kind}: {wrong.sentence}")
            if kind is None
            else kind(wrong.sentence)
        )
    error.__cause__ = cause
    return error
