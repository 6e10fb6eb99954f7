"""An environment's arguments in a file: what JSON can hold is written, the rest is left out with a warning."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from actrix.files.container import ModelFileError

KEPT = (bool, int, str, type(None))


def plain(value: Any) -> tuple[Any, bool]:
    """(the value as JSON's types, whether that is the same value): NumPy's scalars become Python's, tuples lists."""
    if isinstance(value, np.generic) and np.ndim(value) == 0 and not isinstance(value, np.void):
        value = value.item()
    if type(value) in KEPT or (type(value) is float and math.isfinite(value)):
        return value, True
    if type(value) in (list, tuple):
        parts = [plain(part) for part in value]
        return [part for part, _ in parts], all(same for _, same in parts)
    if type(value) is dict:
        pairs = {key: plain(part) for key, part in value.items()}
        return {key: part for key, (part, _) in pairs.items()}, all(
            type(key) is str and same for key, (_, same) in pairs.items()
        )
    return told(value), False


def told(value: Any) -> str:
    """`repr`, without an address, which is another in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def left_out(env_kwargs: Mapping[str, Any] | None) -> list[str]:
    """The names of the arguments that a file cannot hold."""
    return sorted(name for name, value in (env_kwargs or {}).items() if not plain(value)[1])


def check_complete(model: Any, env_id: str | None, given: Collection[str] = ()) -> None:
    """Raise ModelFileError where the model's environment would be made without what its file could not hold, nor
    is `given`."""
    lost = [name for name in model.left_out if name not in given]
    if lost and env_id == model.env_id:
        again = ", ".join(f"{name!r}: …" for name in lost)
        raise ModelFileError(
            f"{env_id} was made with env_kwargs {', '.join(lost)}, which could not be written and are not in "
            f"the model's file: give them again, load(path, env_kwargs={{{again}}}), or name an environment that "
            "has them (on the command line --env-kwargs, or --env module:function)."
        )


def writable(env_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments that a file can hold; a UserWarning names the others, which are left out."""
    if env_kwargs is None:
        return None
    if lost := left_out(env_kwargs):
        warnings.warn(
            f"env_kwargs {', '.join(lost)} cannot be written and are left out of the file "
            f"({', '.join(type(env_kwargs[name]).__name__ for name in lost)}): give them again where it is loaded.",
            UserWarning,
            stacklevel=4,
        )
    return {name: plain(value)[0] for name, value in env_kwargs.items() if name not in lost}
