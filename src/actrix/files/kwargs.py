"""An environment's arguments in a file: what JSON can hold is written, the rest is left out with a warning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

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
    return repr(value), False


def writable(env_kwargs: Mapping[str, Any] | None, warn: bool = True) -> dict[str, Any] | None:
    """The arguments that a file can hold; a UserWarning names the others, which are left out."""
    if env_kwargs is None:
        return None
    found = {name: plain(value) for name, value in env_kwargs.items()}
    lost = sorted(name for name, (_, same) in found.items() if not same)
    if lost and warn:
        warnings.warn(
            f"env_kwargs {', '.join(lost)} cannot be written and are left out of the file "
            f"({', '.join(type(env_kwargs[name]).__name__ for name in lost)}): give them again where it is loaded.",
            UserWarning,
            stacklevel=4,
        )
    return {name: value for name, (value, same) in found.items() if same}
