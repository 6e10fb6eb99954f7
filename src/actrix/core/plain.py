"""Plain data (dict, list, tuple, numbers, text, numpy arrays) as strict JSON and a list of arrays, and back.

For what a file may hold without pickle: nothing is executed on the way back, and everything is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MAX_DEPTH = 64
"""Containers in containers; a cycle, or a hostile file, is deeper."""
_DTYPES = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
)


def copy_plain(value: Any) -> Any:
    """A deep copy of plain data: equal types and values, no array shared.

    Plain are None, bool, int, float, str, numpy arrays and scalars of bool, integers and floats up to 64 bits, and
    list, tuple and dict (with string keys) of plain data; exactly these types, no subclass.

    Raises ValueError, naming the entry, for anything else and for more than `MAX_DEPTH` levels.
    """
    return _copy(value, "", 0)


def pack(value: Any) -> tuple[Any, list[np.ndarray]]:
    """Plain data (see `copy_plain`) as `(skeleton, arrays)`; `unpack` gives it back bit for bit.

    The skeleton is strict JSON (no NaN, no integer beyond 64 bits); its keys may be reordered. Objects stand for
    dicts; every JSON array begins with what it stands for: `["list", *items]`, `["tuple", *items]`,
    `["array", k, dtype, shape]` and `["scalar", k, dtype]` for the k-th array, `["float", k]` for a float that is not
    finite, and `["int", "0x..."]` for one beyond 64 bits. `arrays` are copies, C-contiguous; scalars are 0-d.

    Raises ValueError as `copy_plain` does.
    """
    arrays: list[np.ndarray] = []
    return _pack(copy_plain(value), arrays), arrays


def unpack(skeleton: Any, arrays: Sequence[np.ndarray]) -> Any:
    """The value that `pack` was given; arrays are copied.

    Raises ValueError for a skeleton that `pack` does not make, for arrays of another dtype or shape than it says, and
    for arrays that it names twice or not at all.
    """
    if not all(type(array) is np.ndarray for array in arrays):
        raise ValueError("arrays must be a list of numpy arrays.")
    used: set[int] = set()
    value = _unpack(skeleton, arrays, used, 0)
    if len(used) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays are given, of which the skeleton names {len(used)}.")
    return value


def to_bytes(value: Any) -> bytes:
    """Plain data as bytes, for a pipe: the length of a JSON header, the header, the arrays one after the other.

    Raises ValueError as `pack` does.
    """
    skeleton, arrays = pack(value)
    head = json.dumps([skeleton, [[x.dtype.name, list(x.shape)] for x in arrays]], allow_nan=False).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *(x.tobytes() for x in arrays)])


def from_bytes(data: bytes) -> Any:
    """What `to_bytes` was given; ValueError for bytes that it does not make."""
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        skeleton, kinds = json.loads(data[8:start])
        arrays = []
        for dtype, shape in kinds:
            if dtype not in _DTYPES:
                raise ValueError(f"dtype {_short(dtype)}")
            arrays.append(np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape))
            start += arrays[-1].nbytes
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the header is not readable: {error}") from error
    if start != len(data):
        raise ValueError(f"{len(data)} bytes are given, of which {start} are described.")
    return unpack(skeleton, arrays)


def _copy(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is np.ndarray or isinstance(value, np.generic):
        if value.dtype.name not in _DTYPES or not value.dtype.isnative or value.dtype.metadata:
            raise ValueError(f"{_at(path)} holds {value.dtype}, which is neither bool, integer nor float.")
        return np.array(value, order="C") if kind is np.ndarray else value
    if kind not in (list, tuple, dict):
        raise ValueError(f"{_at(path)} is a {kind.__name__}, which is no plain data.")
    if depth == MAX_DEPTH:
        raise ValueError(f"{_at(path[:60])} is nested deeper than {MAX_DEPTH} levels.")
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise ValueError(f"{_at(path)} has the key {key!r}, which is no string.")
        return {key: _copy(part, f"{path}[{key!r}]", depth + 1) for key, part in value.items()}
    return kind(_copy(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(value))


def _at(path: str) -> str:
    return f"the entry {path}" if path else "the value"


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _pack(part, arrays) for key, part in value.items()}
    if kind in (list, tuple):
        return [kind.__name__, *(_pack(part, arrays) for part in value)]
    if kind is int and not -(2**63) <= value < 2**64:
        return ["int", hex(value)]  # decimal text of thousands of digits would be refused by json.loads
    if isinstance(value, np.generic | np.ndarray):
        arrays.append(np.asarray(value))
        array = arrays[-1]
        what: list[Any] = ["array" if kind is np.ndarray else "scalar", len(arrays) - 1, array.dtype.name]
        return [*what, list(array.shape)] if kind is np.ndarray else what
    if kind is float and not math.isfinite(value):
        arrays.append(np.array(value))
        return ["float", len(arrays) - 1]
    return value


def _unpack(node: Any, arrays: Sequence[np.ndarray], used: set[int], depth: int) -> Any:
    kind = type(node)
    if node is None or kind in (bool, str):
        return node
    if kind is float and math.isfinite(node):
        return node
    if kind is int and -(2**63) <= node < 2**64:
        return node
    if depth > MAX_DEPTH:
        raise ValueError(f"the skeleton is nested deeper than {MAX_DEPTH} levels.")
    if kind is dict:
        if not all(type(key) is str for key in node):
            raise ValueError("the skeleton has a key that is no string.")
        return {key: _unpack(part, arrays, used, depth + 1) for key, part in node.items()}
    match node:
        case ["list", *parts] if kind is list:
            return [_unpack(part, arrays, used, depth + 1) for part in parts]
        case ["tuple", *parts] if kind is list:
            return tuple(_unpack(part, arrays, used, depth + 1) for part in parts)
        case ["array", k, dtype, shape] if kind is list:
            array = _take(arrays, used, k, dtype)
            if (
                type(shape) is not list
                or list(array.shape) != shape
                or not all(type(n) is int for n in shape)
            ):
                raise ValueError(f"array {k} has shape {array.shape}; the skeleton says {_short(shape)}.")
            return array
        case ["scalar", k, dtype] if kind is list:
            return _zero_d(_take(arrays, used, k, dtype))[()]
        case ["float", k] if kind is list:
            return float(_zero_d(_take(arrays, used, k, "float64"))[()])
        case ["int", str(text)] if kind is list:
            return _big(text)
    raise ValueError(f"the skeleton has {_short(node)}, which stands for nothing.")


def _take(arrays: Sequence[np.ndarray], used: set[int], k: Any, dtype: Any) -> np.ndarray:
    if type(k) is not int or not 0 <= k < len(arrays) or k in used:
        raise ValueError(f"the skeleton names array {_short(k)}, which is unknown or taken.")
    used.add(k)
    if type(dtype) is not str or dtype not in _DTYPES or arrays[k].dtype != np.dtype(dtype):
        raise ValueError(f"array {k} holds {arrays[k].dtype}; the skeleton says {_short(dtype)}.")
    return np.array(arrays[k], order="C")


def _zero_d(array: np.ndarray) -> np.ndarray:
    if array.shape != ():
        raise ValueError(f"a number is stored as an array of shape {array.shape}.")
    return array


def _big(text: str) -> int:
    try:
        value = int(text, 16)
    except ValueError:
        raise ValueError(f"{_short(text)} is no hexadecimal integer.") from None
    if hex(value) != text or -(2**63) <= value < 2**64:
        raise ValueError(f"{_short(text)} is not how a big integer is written.")
    return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, arrays and data frames by their contents; False where that cannot be said."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    try:
        if hasattr(one, "equals"):
            return bool(one.equals(other))
        return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind in "fc"))
    except Exception:
        return False
