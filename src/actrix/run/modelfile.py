"""Model files, format 1: one safetensors file of numbers and JSON, never of code.

    8 bytes   length of the header, little-endian
    header    JSON {"__metadata__": {"actrix": the metadata as JSON, "sha256": of the tensors' bytes,
              "sha256.header": of all bytes before the tensors}, name: {"dtype", "shape", "data_offsets"}, …}
    tensors   one after the other

Reading trusts nothing: the header is bounded, strict JSON and has its own checksum; the tensors that a model must
hold follow from its settings and spaces before a number is read; nothing is imported, looked up by name outside the
table of algorithms, or tried in another way after a refusal.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import check_action_space, check_observation_space, mask_length
from actrix.core.types import PyTree, Spec
from actrix.run import atomic

FORMAT = 1
KEY, DIGEST, HEADER_DIGEST = "actrix", "sha256", "sha256.header"
MAX_HEADER = 2**24
MAX_TENSORS = 2**14
MAX_EMPTY = 2**40
"""Of an array without numbers: the product of its other lengths."""
MAX_NUMBERS, MAX_ACTION_NUMBERS = 2**24, 2**16
"""Of an observation, all its parts together, and of an action."""
MAX_LIST = 256
"""Layers of a network, critics of an ensemble, parts of an observation."""

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_NO_DIGEST = "0" * 64


class ModelFileError(ValueError):
    """The file is not a model file, is damaged, or does not fit; the message is safe to print on a terminal."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class NewerFormatError(ModelFileError):
    """A file of a later version of actrix: nothing is wrong with it."""


def printable(text: str) -> str:
    r"""The text with control characters, line ends and other invisible ones written as escapes (\x1b)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Tensor(NamedTuple):
    """What a header says of one tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]
    size: int
    """In bytes."""

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Header(NamedTuple):
    """A file's beginning, whose checksum was right; no tensor has been read."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    start: int
    """Where the tensors begin."""
    digest: str
    """Of the tensors' bytes."""


def leaf_names(tree: PyTree) -> list[str]:
    """A readable, unique name for each leaf: '.net.pi.layers[0].weight'."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


# ---------------------------------------------------------------------------- writing


def save(path: str | os.PathLike, meta: dict[str, Any], tree: PyTree) -> Path:
    """Write `tree`'s arrays and `meta` (JSON) to `path` (.safetensors is added if there is no suffix).

    The file is whole and on disk when this returns; on any error `path` is as before.
    """
    path = atomic.with_suffix(path, ".safetensors")
    text = json.dumps({"format": FORMAT, **meta}, allow_nan=False)
    if meta.get("kind") == "model":  # what could not be read again is not written
        spec_from_json(check_model(Header(path, json.loads(text), {}, 0, ""))["spec"])
    named = zip(leaf_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True)
    arrays = dict(sorted(named, key=lambda item: -item[1].itemsize))  # so every tensor is aligned
    digest = hashlib.sha256()
    for x in arrays.values():
        digest.update(_bytes(x))
    entries = {name: (x.dtype, x.shape) for name, x in arrays.items()}
    head = header_bytes(text, entries, digest.hexdigest())
    with atomic.replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(head)
        for x in arrays.values():
            file.write(_bytes(x))
    return path


def header_bytes(text: str, tensors: dict[str, tuple[Any, tuple[int, ...]]], digest: str) -> bytes:
    """All that stands before the tensors, with its checksum: the metadata's JSON, name → (dtype, shape) in order."""
    header: dict[str, Any] = {"__metadata__": {KEY: text, DIGEST: digest, HEADER_DIGEST: _NO_DIGEST}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return sealed(json.dumps(header, separators=(",", ":")).encode())


def sealed(header: bytes) -> bytes:
    """Length and header, padded to whole words, with the checksum of both in the place kept free for it."""
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    place = _digest_field(_NO_DIGEST)
    return head.replace(place, _digest_field(hashlib.sha256(head).hexdigest()), 1)


def _digest_field(digest: str) -> bytes:
    # Inside the metadata's text every quote has a backslash before it: these bytes stand in one place only.
    return f'"{HEADER_DIGEST}":"{digest}"'.encode()


def _bytes(x: np.ndarray) -> Any:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


# ---------------------------------------------------------------------------- reading


def find(path: str | os.PathLike) -> Path:
    """The file itself, with .safetensors added, or a run folder's model; FileNotFoundError names what was tried."""
    path = Path(path)
    tried = [path, *([path.with_suffix(".safetensors")] if path.name else []), path / "model.safetensors"]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no model file at {path} (looked for {', '.join(map(str, tried))}).")


def read_header(path: str | os.PathLike) -> Header:
    """Metadata and the description of every tensor, without reading a tensor; raises ModelFileError."""
    path = find(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, MAX_HEADER):
            raise ModelFileError(
                f"{path} is cut short or no safetensors file: its header would have {length} bytes of {size}."
            )
        head = file.read(length)
    if len(head) < length:
        raise ModelFileError(f"{path} is cut short: {len(head)} of its header's {length} bytes are there.")
    header = _json(head, path, "its header")
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    if not texts or KEY not in metadata:
        raise ModelFileError(f"{path} has no {KEY!r} metadata: it was not written by actrix.")
    meta = _json(metadata[KEY], path, "its metadata")
    _check_format(path, meta.get("format"))
    seal, digest = metadata.get(HEADER_DIGEST, ""), metadata.get(DIGEST, "")
    if len(metadata) != 3 or not all(re.fullmatch("[0-9a-f]{64}", text) for text in (seal, digest)):
        raise ModelFileError(f"{path} is damaged: {DIGEST!r} and {HEADER_DIGEST!r} must be checksums.")
    blank = (prefix + head).replace(_digest_field(seal), _digest_field(_NO_DIGEST))
    if hashlib.sha256(blank).hexdigest() != seal:
        raise ModelFileError(f"{path} is damaged: its header does not match its checksum.")
    tensors = _tensors(path, header, size - 8 - length)
    return Header(path, meta, tensors, 8 + length, digest)


def read_meta(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata of a file whose checksums are right; raises ModelFileError."""
    header = read_header(path)
    with open(header.path, "rb") as file:
        file.seek(header.start)
        digest = hashlib.file_digest(file, "sha256")
    _check_digest(header, digest)
    return header.meta


def read_tree(
    path: str | os.PathLike | Header, template: PyTree, plain: str = "", device: bool = True
) -> PyTree:
    """The tensors of a file in the structure of `template` (arrays, or their shapes and dtypes).

    Names, shapes and dtypes are compared before anything is read; then the checksum must be right and every number
    finite. Tensors whose name begins with `plain` may hold any number and stay NumPy's, 64 bits wide where they are;
    without `device` the others stay NumPy's too, read-only and without a second copy. Raises ModelFileError that lists
    every difference.
    """
    header = path if isinstance(path, Header) else read_header(path)
    expected = dict(zip(leaf_names(template), jax.tree.leaves(template), strict=True))
    found = header.tensors
    wrong = [f"missing {n}" for n in expected if n not in found]
    wrong += [f"unknown {n}" for n in found if n not in expected]
    for name in expected.keys() & found.keys():
        shape, dtype = expected[name].shape, expected[name].dtype
        if (found[name].shape, found[name].dtype) != (shape, dtype):
            wrong.append(f"{name} is {found[name]}, expected {dtype}{list(shape)}")
    _refuse(header.path, sorted(wrong))
    digest, faults = hashlib.sha256(), []
    arrays: dict[str, Any] = {}
    with open(header.path, "rb") as file:
        file.seek(header.start)
        for name, x in _read(file, header, digest):
            if plain and name.startswith(plain):
                arrays[name] = x.copy()
                continue
            if fault := _fault(name, x):
                faults.append(f"{name} {fault}")
            # One at a time: a memory of many gigabytes is never there twice.
            arrays[name] = jax.numpy.array(x) if device else x
    _check_digest(header, digest)
    _refuse(header.path, faults)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[n] for n in expected])


def _refuse(path: Path, wrong: list[str]) -> None:
    if wrong:
        raise ModelFileError(f"{path} does not fit: {'; '.join(wrong)}.")


def _fault(name: str, x: np.ndarray) -> str | None:
    flat, piece = x.reshape(-1), 2**22  # in pieces: the flags of a large memory are a quarter of it
    if x.dtype.kind == "f" and not all(
        np.isfinite(flat[i : i + piece]).all() for i in range(0, x.size, piece)
    ):
        return "holds non-finite numbers"
    if x.dtype.kind == "b" and (x.view(np.uint8) > 1).any():
        return "holds bytes that are neither true nor false"
    if name.endswith((".var", ".count")) and (x < 0).any():
        return "holds negative numbers"
    return None


def _read(file: BinaryIO, header: Header, digest: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in header.tensors.items():
        data = file.read(tensor.size)
        if len(data) < tensor.size:
            raise ModelFileError(f"{header.path} is cut short in {name}.")
        digest.update(data)
        yield name, np.frombuffer(data, tensor.dtype).reshape(tensor.shape)


def _check_digest(header: Header, digest: Any) -> None:
    if digest.hexdigest() != header.digest:
        raise ModelFileError(f"{header.path} is damaged: its tensors do not match their checksum.")


def _check_format(path: Path, version: Any) -> None:
    if version == 0 and type(version) is int:
        raise ModelFileError(
            f"{path} has format 0, which was never released and is not read: retrain the model, or convert it with the "
            "version of actrix that wrote it (load it there, keep get_parameters(), and set_parameters() here)."
        )
    if type(version) is not int or version < 0:
        raise ModelFileError(f"{path}: its metadata has format {version!r}, which must be a whole number.")
    if version != FORMAT:
        raise NewerFormatError(f"{path} has format {version}; this version reads {FORMAT}: upgrade actrix.")


def _json(text: bytes | str, path: Path, what: str) -> dict[str, Any]:
    """Strict JSON: no key twice, no NaN, no infinity, an object at the top."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelFileError(f"{path}: {what} is not the JSON that actrix writes: {reason}.") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: {what} is not the JSON that actrix writes: it must be an object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)[:80]!r} occurs twice")
    return out


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:80])


def _tensors(path: Path, header: dict[str, Any], size: int) -> dict[str, Tensor]:
    """Every entry checked: known dtype, whole sizes, no gap, no overlap, the file's end."""
    tensors, at = {}, 0
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"{path} has {len(header)} tensors; at most {MAX_TENSORS} are read.")
    for name, entry in header.items():
        here = f"{path}: tensor {name[:200]!r}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ModelFileError(f"{here} must have dtype, shape and data_offsets and nothing else.")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ModelFileError(f"{here} has dtype {str(dtype)[:80]!r}; known are {', '.join(_DTYPES)}.")
        if not _sizes(shape, 32) or not _sizes(offsets, 2) or len(offsets) != 2:
            raise ModelFileError(f"{here}: shape and data_offsets must hold whole numbers of at least 0.")
        bytes_ = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        # An empty array may still have lengths that no array can have.
        if math.prod(n or 1 for n in shape) > MAX_EMPTY and not bytes_:
            raise ModelFileError(f"{here} has shape {str(shape)[:80]}, which is beyond any array.")
        if offsets != [at, at + bytes_] or at + bytes_ > size:
            raise ModelFileError(
                f"{here} of shape {shape} stands at {offsets}; it must stand at [{at}, {at + bytes_}], and the tensors "
                f"end at {size}."
            )
        tensors[name] = Tensor(np.dtype(_DTYPES[dtype]), tuple(shape), bytes_)
        at += bytes_
    if at != size:
        raise ModelFileError(f"{path}: the tensors have {at} bytes, the file has {size} for them.")
    return tensors


def _sizes(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) <= length and all(type(n) is int and n >= 0 for n in value)


# ---------------------------------------------------------------------------- a model's metadata

_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (int,), "kind": (str,), "algorithm": (str,), "settings": (dict,), "spec": (dict,),
    "env_id": (str, type(None)), "env_kwargs": (dict, type(None)), "seed": (int,), "num_timesteps": (int,),
    "n_envs": (int,), "reference": (bool,), "versions": (dict,),
}  # fmt: skip
_LEAST = {"seed": 0, "num_timesteps": 0, "n_envs": 1}
# A model's other arguments, which a file must not reach: an environment, a data set, a folder to write to.
_NO_SETTINGS = ("policy", "env", "dataset", "reference", "tensorboard_log", "device", "seed", "backend", "n_envs",
                "env_kwargs", "verbose", "stats_window_size")  # fmt: skip


def versions() -> dict[str, str]:
    """What wrote a file."""
    return {name: importlib.metadata.version(name) for name in ("actrix", "jax", "numpy")}


def check_model(header: Header) -> dict[str, Any]:
    """The metadata of a model, every field of the right kind and size; raises ModelFileError naming the field."""
    path, meta = header.path, header.meta
    if meta.get("kind") != "model":
        raise ModelFileError(f"{path} holds a {meta.get('kind')!r}, not a model.")
    wrong = [f"missing {name}" for name in _FIELDS if name not in meta]
    wrong += [f"unknown {name}" for name in meta if name not in _FIELDS]
    for name, kinds in _FIELDS.items():
        value: Any = meta.get(name)
        if name in meta and (type(value) not in kinds or (name in _LEAST and value < _LEAST[name])):
            wrong.append(f"{name} is {str(value)[:80]!r}")
    settings = meta.get("settings")
    if isinstance(settings, dict):
        wrong += [f"settings has {name!r}, which is none" for name in _NO_SETTINGS if name in settings]
        wrong += [f"settings {fault}" for fault in _unbounded(settings)]
        if not isinstance(settings.get("policy_kwargs"), dict):
            wrong.append("settings must have policy_kwargs, an object")
    _refuse(path, wrong)
    return meta


def _unbounded(value: Any, where: str = "") -> Iterator[str]:
    """What of the settings would make reading long: longer lists and more critics than any network has."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "n_critics" and isinstance(part, int | float) and part > MAX_LIST:
                yield f"n_critics is {part}, above {MAX_LIST}"
            yield from _unbounded(part, key)
    elif isinstance(value, list):
        if len(value) > MAX_LIST:
            yield f"{where} has {len(value)} entries, above {MAX_LIST}"
        else:
            for part in value:
                yield from _unbounded(part, where)


@contextlib.contextmanager
def blaming(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a file's contents raise in the block into a ModelFileError that names the file."""
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {what}: {error}") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ModelFileError(f"{path}: {what}: {reason[:500]}") from error


def shapes_of(build: Callable[[jax.Array], PyTree]) -> PyTree:
    """Shapes and dtypes of what `build(key)` would make; nothing is allocated."""
    return jax.eval_shape(build, jax.random.key(0))


# ---------------------------------------------------------------------------- spaces as JSON


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """A supported space as numbers and strings."""
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        start, dtype = int(space.start), str(space.dtype)
        return {"type": "Discrete", "n": int(space.n), "start": start, "dtype": dtype}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start, dtype = space.nvec.tolist(), space.start.tolist(), str(space.dtype)
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": dtype}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {k: space_to_json(v) for k, v in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(v) for v in space.spaces]}
    raise ModelFileError(f"{type(space).__name__} cannot be stored.")


_SPACES: dict[str, set[str]] = {
    "Box": {"shape", "dtype", "low", "high"}, "Discrete": {"n", "start", "dtype"},
    "MultiDiscrete": {"nvec", "start", "dtype"}, "MultiBinary": {"shape"}, "Dict": {"spaces"}, "Tuple": {"spaces"},
}  # fmt: skip
LEAST_NUMBERS = MAX_NUMBERS // MAX_LIST
_SPACE_DTYPES = ("float16", "float32", "float64", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


def space_from_json(data: dict[str, Any]) -> gym.Space:
    """The inverse of `space_to_json`; raises ModelFileError for anything else."""
    try:
        if _numbers(data) > MAX_NUMBERS:
            raise ValueError(f"it has more than {MAX_NUMBERS} numbers")
        with np.errstate(over="raise", invalid="raise"):  # a bound that its dtype cannot hold
            return _space(data)
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"cannot rebuild a space from {str(data)[:200]}: {error}") from None


def _numbers(data: Any) -> int:
    """How many numbers a space's element has, before anything of that size is made; a part counts as many at least."""
    kind = data["type"]
    if set(data) - {"type"} != _SPACES[kind]:
        raise ValueError(f"{kind} must have {', '.join(sorted(_SPACES[kind]))} and nothing else")
    if data.get("dtype", "int64") not in _SPACE_DTYPES:
        raise ValueError(f"dtype {str(data['dtype'])[:80]!r}")
    if kind in ("Box", "MultiBinary"):
        if not _sizes(data["shape"], 32):
            raise ValueError(f"shape {str(data['shape'])[:80]}")
        return max(math.prod(data["shape"]), LEAST_NUMBERS)
    if kind in ("Dict", "Tuple"):
        return sum(map(_numbers, data["spaces"].values() if kind == "Dict" else data["spaces"]))
    # Each component of a MultiDiscrete is encoded by itself.
    return LEAST_NUMBERS if kind == "Discrete" else LEAST_NUMBERS * max(np.size(data["nvec"]) // 64, 1)


def _space(data: dict[str, Any]) -> gym.Space:
    kind = data["type"]
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (_unbound(data[k], shape, dtype) for k in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
    if kind == "MultiDiscrete":
        dtype = np.dtype(data["dtype"]).type
        start = np.asarray(data["start"], dtype)
        return spaces.MultiDiscrete(np.asarray(data["nvec"], dtype), dtype, start=start)
    if kind == "MultiBinary":
        shape = data["shape"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "Dict":
        return spaces.Dict({k: _space(v) for k, v in data["spaces"].items()})
    return spaces.Tuple([_space(v) for v in data["spaces"]])


def _bound(x: np.ndarray) -> Any:
    flat = [_number(v) for v in x.reshape(-1).tolist()]
    return flat[0] if flat and all(v == flat[0] for v in flat) else flat


def _number(v: float) -> Any:
    return v if math.isfinite(v) else str(v)


def _unbound(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    number = float if np.issubdtype(dtype, np.floating) else int
    if isinstance(data, list):
        return np.asarray([number(v) for v in data], dtype).reshape(shape)
    return np.full(shape, number(data), dtype)


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """A `Spec` as JSON."""
    return {
        "observation_space": space_to_json(spec.observation_space),
        "action_space": space_to_json(spec.action_space),
        "max_episode_steps": spec.max_episode_steps,
        "mask_size": spec.mask_size,
        "frame_stack": spec.frame_stack,
    }


def spec_from_json(data: dict[str, Any]) -> Spec:
    """The inverse of `spec_to_json`; raises ModelFileError."""
    names = {"observation_space", "action_space", "max_episode_steps", "mask_size", "frame_stack"}
    if set(data) != names:
        raise ModelFileError(f"spec must have {', '.join(sorted(names))} and nothing else.")
    numbers = [data[name] for name in ("max_episode_steps", "mask_size", "frame_stack")]
    if not all(n is None or (type(n) is int and n >= 1) for n in numbers):
        raise ModelFileError(f"spec: {str(numbers)[:200]} must be whole numbers of at least 1, or null.")
    observation_space, action_space = (
        space_from_json(data[n]) for n in ("observation_space", "action_space")
    )
    if math.prod(action_space.shape or ()) > MAX_ACTION_NUMBERS:
        raise ModelFileError(f"spec: an action has more than {MAX_ACTION_NUMBERS} numbers.")
    check_observation_space(observation_space)
    check_action_space(action_space)
    spec = Spec(observation_space, action_space, *numbers)
    if spec.mask_size is not None and spec.mask_size != mask_length(action_space):
        raise ModelFileError(f"spec: mask_size {spec.mask_size} is not that of {action_space}.")
    return spec
