"""Files that are either the old version or the new one, never a part: write beside, flush to disk, rename."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    For writers that want a file name (a video encoder, a figure). The temporary name keeps `path`'s suffix
    and starts with a dot. Missing folders are made. If the block raises, the temporary file is removed,
    `path` is as it was and the error passes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}{path.suffix}")
    with naming(path):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def with_suffix(path: str | os.PathLike, suffix: str) -> Path:
    """The file's path, with `suffix` where it has none; ValueError for a folder's ('.', '..', '/')."""
    path = of_a_file(path)
    return path if path.suffix else path.with_suffix(suffix)


def of_a_file(path: str | os.PathLike) -> Path:
    """The path, which may name a file; ValueError for a folder's ('.', '..', '/')."""
    path = Path(path)
    if not path.name or path.name == "..":
        raise ValueError(f"'{path}' is a folder: name a file.")
    return path


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Let an `OSError` of the block name `path`: those of a full disk name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path`, whole and on disk when this returns; on `OSError` (disk full) `path` is as
    before."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of `text` in UTF-8, line ends as given."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON; NumPy scalars, arrays and paths are turned into numbers, lists and
    strings.

    Raises `ValueError` for NaN and infinity (not JSON) and `TypeError` for anything else JSON has no word
    for, both before a file is touched.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def check_regular(path: Path) -> None:
    """Raise ValueError where what is to be appended to would be written elsewhere (a link) or never (a pipe)."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} is no regular file: remove it, or move the real one there.")


def sync(path: str | os.PathLike) -> None:
    """Force the contents of the file `path` to disk."""
    # Windows flushes only through a handle opened for writing.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: str | os.PathLike) -> None:
    """Force a folder's entries (a rename) to disk; does nothing on Windows, which cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r:.80}")
