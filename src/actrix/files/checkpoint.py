"""Checkpoints: the whole state of a run in one file, so that nothing of it can be older than the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.core.plain import pack, unpack
from actrix.core.types import PyTree
from actrix.files import container, modelfile
from actrix.files.container import Header, ModelFileError, NewerFormatError

KEEP = 3
LARGE, KEEP_LARGE = 2**30, 2
"""Of files with a big memory in them, fewer are kept."""
_NAME = re.compile(r"step_(\d+)\.safetensors$")
_LOOP = "['loop']"
_FIELDS: dict[str, type] = {
    "num_timesteps": int, "iterations": int, "seed": int, "episodes": int, "start_steps": int, "resumes": int,
    "dropped_episodes": int, "run": dict, "versions": dict, "loop": dict,
}  # fmt: skip


@dataclasses.dataclass
class Snapshot:
    """One seed's whole training state between two updates."""

    learner: PyTree
    """NumPy views of the runner's own arrays, which the next `advance` overwrites: nothing is doubled."""
    loop: dict[str, Any]
    """Plain data: random keys, and under "env" the environments, open episodes and what acting carries on; None there
    where environments cannot be restored, or were broken off inside a chunk."""


class CheckpointError(OSError):
    """A checkpoint could not be written; the message says what is kept."""


def save(folder: str | os.PathLike, snapshot: Snapshot, counters: dict[str, Any]) -> Path:
    """Write `step_<n>.safetensors` atomically, then remove all but the newest `KEEP` (`KEEP_LARGE` of large ones).

    `counters` has the JSON fields of `_FIELDS` besides "loop", and "history", plain data. Arrays go to the file from
    where they are. Raises CheckpointError where the disk refuses.
    """
    folder = Path(folder)
    path = folder / f"step_{counters['num_timesteps']:012d}.safetensors"
    meta = {key: value for key, value in counters.items() if key != "history"}
    skeleton, arrays = pack({"loop": snapshot.loop, "history": counters.get("history")})
    meta = {"kind": "checkpoint", **meta, "loop": skeleton}
    try:
        modelfile.save(path, meta, {"learner": snapshot.learner, "loop": arrays})
        others = [p for p in checkpoints(folder) if p != path]
        for old in others[: 1 - (KEEP if path.stat().st_size < LARGE else KEEP_LARGE)]:
            old.unlink(missing_ok=True)
    except OSError as error:
        left = [p for p in checkpoints(folder) if p != path]
        kept_ = f"that of step {_step(left[-1])} is kept" if left else "there is none yet"
        reason = error.strerror or error
        raise CheckpointError(f"the checkpoint {path} cannot be written: {reason}; {kept_}.") from error
    return path


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in Path(folder).glob("step_*.safetensors") if _NAME.search(p.name))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def newest_step(folder: str | os.PathLike) -> int:
    """Environment steps at the newest checkpoint; −1 without one."""
    found = checkpoints(folder)
    return _step(found[-1]) if found else -1


def load(
    path: str | os.PathLike, template: PyTree, check: Callable[[dict[str, Any]], None] | None = None
) -> tuple[Snapshot, dict[str, Any]]:
    """(snapshot, counters) of one file. `check` sees the metadata first, and may refuse it.

    `template` is the learner, or its shapes; the snapshot's is made of NumPy arrays that must not be written to. Raises
    ModelFileError for a file that is damaged or does not fit.
    """
    header = container.read_header(path)
    meta = _checked(header)
    if check is not None:
        check(meta)
    names = [f"{_LOOP}[{i}]" for i in range(sum(name.startswith(_LOOP) for name in header.tensors))]
    # What is missing is complained of.
    found = [header.tensors[name] for name in names if name in header.tensors]
    loop = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in found]
    tree = container.read_tree(header, {"learner": template, "loop": loop}, plain=_LOOP, device=False)
    with container.blaming(header.path, "its loop"):
        plain = unpack(meta["loop"], tree["loop"])
        snapshot, history = Snapshot(tree["learner"], plain["loop"]), plain["history"]
        if history is not None:
            returns, lengths = (np.asarray(history[name]) for name in ("ep_returns", "ep_lengths"))
            if returns.ndim != 1 or returns.shape != lengths.shape:
                raise ValueError(f"its history has {returns.shape} returns and {lengths.shape} lengths.")
    counters = {key: value for key, value in meta.items() if key not in ("format", "kind", "loop")}
    return snapshot, {**counters, "history": history}


def _checked(header: Header) -> dict[str, Any]:
    meta = header.meta
    if meta.get("kind") != "checkpoint":
        raise ModelFileError(f"{header.path} holds a {meta.get('kind')!r}, not a checkpoint.")
    wrong = [
        f"{name} is {str(meta.get(name))[:80]!r}"
        for name, kind in _FIELDS.items()
        if type(meta.get(name)) is not kind or (kind is int and not 0 <= meta[name] < 2**63)
    ]
    if wrong:
        raise ModelFileError(f"{header.path} does not fit: {'; '.join(wrong)}.")
    return meta


def newest_meta(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The metadata of the newest checkpoint; None without one whose header can be read."""
    for path in reversed(checkpoints(folder)):
        with contextlib.suppress(ModelFileError):
            return _checked(container.read_header(path))
    return None


def load_newest(
    folder: str | os.PathLike,
    template: PyTree,
    check: Callable[[dict[str, Any]], None] | None = None,
    damaged: Callable[[Path, ModelFileError], Any] | None = None,
) -> tuple[Snapshot, dict[str, Any]] | None:
    """`load` of the newest complete checkpoint; None if there is none.

    `damaged(path, error)` is called for each newer one that cannot be read; by default `set_aside`, with a warning. One
    of a later version's format is not damaged: ModelFileError.
    """
    if damaged is None:
        damaged = lambda path, error: warnings.warn(set_aside(path, error), RuntimeWarning, stacklevel=2)
    bad: list[tuple[Path, ModelFileError]] = []
    for path in reversed(checkpoints(folder)):
        try:
            found = load(path, template, check)
        except NewerFormatError:
            raise
        except ModelFileError as error:
            bad.append((path, error))
            continue
        for newer, reason in bad:
            damaged(newer, reason)
        return found
    if bad:
        raise ModelFileError(f"no checkpoint in {folder} can be read: {bad[0][1]}")
    return None


def set_aside(path: Path, error: ModelFileError) -> str:
    """Rename a damaged checkpoint `….damaged`, lest it pass for newer than what is written next; says so."""
    aside = path.with_name(path.name + ".damaged")
    path.rename(aside)
    return (
        f"the newest checkpoint was damaged and is set aside as {aside}, the one before it is taken: {error}"
    )


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files of a writer that was killed; only who holds the run's lock may."""
    for path in Path(folder).glob(".tmp-*"):
        path.unlink(missing_ok=True)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """In which entries the JSON of a checkpoint and of who resumes it differ, one sentence's part each."""
    if isinstance(old, dict) and isinstance(new, dict):
        path = f"{where}." if where else ""
        return [d for k in sorted({*old, *new}) for d in differences(old.get(k), new.get(k), path + k)]
    return [] if old == new else [f"{where} is {_short(new)}, the checkpoint has {_short(old)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
