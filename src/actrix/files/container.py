"""The container of model files and checkpoints, format 1: one safetensors file of numbers and JSON, never of code.

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
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import jax
import numpy as np

from actrix.core.host import own
from actrix.core.types import PyTree
from actrix.files.atomic import of_a_file

FORMAT = 1
KEY, DIGEST, HEADER_DIGEST = "actrix", "sha256", "sha256.header"
MAX_HEADER = 2**24
MAX_TENSORS = 2**14
MAX_EMPTY = 2**40
"""Of an array without numbers: the product of its other lengths."""
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


def as_bytes(x: np.ndarray) -> Any:
    """An array's bytes, without a copy where it lies in one piece."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


SUFFIX, ZIP = ".safetensors", ".zip"
MODEL = f"model{SUFFIX}"
"""A run folder's model."""


def named(path: str | os.PathLike) -> Path:
    """The name of a file: as it is where it ends in `.safetensors` or `.zip`, else with the former added.

    What stands in it is the same by either name. ValueError for a folder's.
    """
    path = of_a_file(path)
    return path if path.name.endswith((SUFFIX, ZIP)) else path.with_name(path.name + SUFFIX)


def find(path: str | os.PathLike, what: str = "model file") -> Path:
    """The file itself, one by its other names, or a run folder's model; FileNotFoundError names all that were tried."""
    path = Path(path)
    stem = path.name.removesuffix(ZIP).removesuffix(SUFFIX)
    others = [stem + SUFFIX, stem + ZIP, path.with_suffix(SUFFIX).name] if stem else []
    tried = [path, *map(path.with_name, others), path / MODEL]
    tried = list(dict.fromkeys(tried))
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no {what} at {path} (looked for {', '.join(map(str, tried))}).{nearby(path, MODEL)}"
    )


def nearby(path: Path, name: str) -> str:
    """' Did you mean …?' of run folders that have such a file: around `path`, or just below it, with models there."""
    if path.is_file():
        found = [path.parent] if (path.parent / name).is_file() else []
    else:
        models = [
            one for one in path.glob(f"*{SUFFIX}") if name == MODEL and not one.name.startswith("step_")
        ]
        found = sorted([*models, *(inner.parent for inner in path.glob(f"*/{name}"))])
    return f" Did you mean {' or '.join(map(str, found[-3:]))}?" if found else ""


def read_header(path: str | os.PathLike) -> Header:
    """Metadata and the description of every tensor, without reading a tensor; raises ModelFileError."""
    path = find(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if prefix.startswith(b"PK\x03\x04"):
            raise ModelFileError(
                f"{path} is a zip, as Stable-Baselines3 writes: its pickled objects are not read. Train anew, or take "
                "its arrays over with set_parameters."
            )
        if len(prefix) < 8 or length > min(size - 8, MAX_HEADER):
            raise ModelFileError(
                f"{path} is cut short or no safetensors file (and it wasn't a zip-file): its header would have "
                f"{length} bytes of {size}.{nearby(path, MODEL)}"
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
    refuse(header.path, sorted(wrong))
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
            arrays[name] = own(x) if device else x
    _check_digest(header, digest)
    refuse(header.path, faults)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[n] for n in expected])


def refuse(path: Path, wrong: list[str]) -> None:
    """Raise ModelFileError with all that is wrong, if anything is."""
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
        if not are_sizes(shape, 32) or not are_sizes(offsets, 2) or len(offsets) != 2:
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


def are_sizes(value: Any, length: int) -> bool:
    """Whether this is a list of at most `length` whole numbers of at least 0."""
    return isinstance(value, list) and len(value) <= length and all(type(n) is int and n >= 0 for n in value)


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
