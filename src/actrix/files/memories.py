"""A replay memory as a file of its own: data only, in the container of model files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.core.types import PyTree
from actrix.files import container, modelfile

KIND = "replay-memory"


class Memory:
    """What Stable-Baselines3's scripts read of a replay buffer; the rows themselves are the learner's."""

    def __init__(self, rows: Any, buffer_size: int, n_envs: int):
        self.rows, self.buffer_size, self.n_envs = rows, buffer_size, n_envs

    def __getattr__(self, name: str) -> Any:
        """Say where the rows are."""
        raise AttributeError(
            f"the replay memory has no {name!r}: its rows are the learner's, on the device; size(), full, buffer_size "
            "and n_envs can be read, model.save_replay_buffer writes them."
        )

    def size(self) -> int:
        """Rows that an environment's ring holds."""
        return min(int(np.max(np.asarray(self.rows.count))), self.buffer_size)

    @property
    def full(self) -> bool:
        """Whether new rows replace old ones."""
        return self.size() >= self.buffer_size


def write(path: str | os.PathLike, memory: PyTree, algorithm: str) -> Path:
    """Write a memory to `path` (`.safetensors` is added)."""
    return modelfile.save(path, {"kind": KIND, "algorithm": algorithm}, memory)


def read(path: str | os.PathLike, template: PyTree) -> PyTree:
    """A memory of the shapes of `template`; ModelFileError that lists what differs (buffer size, environments)."""
    header = container.read_header(container.find(path, "replay buffer"))
    if header.meta.get("kind") != KIND:
        raise container.ModelFileError(f"{path} holds a {header.meta.get('kind')!r}, not a replay memory.")
    return container.read_tree(
        header, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), template)
    )
