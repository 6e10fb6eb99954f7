"""Data sets in Minari's format, written from episodes."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from actrix.core.spaces import (
    check_action_space,
    check_observation_space,
)
from actrix.core.types import Spec
from actrix.data.datasets.dataset import DatasetError, Episode, checked_episode
from actrix.data.datasets.read import require_minari

FLUSH_STEPS = 20_000
"""Steps that a writer holds back: opening the file anew for every short episode would take most of the time."""


class DatasetWriter:
    """Writes a Minari data set episode by episode; used in a `with` block, at whose end the folder appears.

    `path/data` is written as Minari does (HDF5, images uncompressed), in a folder beside `path` that is renamed at
    the end: where the block raises, or holds no episode, nothing is left. `minari.load_dataset(ID)` finds it where
    `path` is its store's folder for `dataset_id` (default: the folder's name, with -v0 where it has no version).

    Raises FileExistsError, DatasetError, ImportError.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        spec: Spec,
        *,
        env_id: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
        dataset_id: str | None = None,
        algorithm_name: str | None = None,
        author: str | None = None,
        description: str | None = None,
    ):
        self.path, self.spec, self.episodes, self.steps = Path(path).absolute(), spec, 0, 0
        check_observation_space(spec.observation_space)
        check_action_space(spec.action_space)
        self._minari = require_minari()
        self._env_spec = _make_env_spec(env_id, env_kwargs or {}, spec.max_episode_steps)
        self._meta: dict[str, Any] = {
            "dataset_id": dataset_id or _dataset_id(self.path.name),
            "minari_version": self._minari.__version__,
        }
        self._meta |= {"algorithm_name": algorithm_name} if algorithm_name else {}
        self._meta |= {"author": {author}} if author else {}
        self._meta |= {"description": description} if description else {}
        self._pending: list[Any] = []
        self._pending_steps = 0
        self._temporary = self.path.with_name(f".tmp-{secrets.token_hex(8)}")
        self._storage: Any = None

    def __enter__(self) -> DatasetWriter:
        from minari.dataset.minari_storage import MinariStorage

        if self.path.exists() or self.path.is_symlink():
            raise FileExistsError(f"{self.path} exists already: a data set is never written over.")
        self._temporary.mkdir(parents=True)
        try:
            self._storage = MinariStorage.new(
                self._temporary / "data", self.spec.observation_space, self.spec.action_space, self._env_spec,
                jpeg_encoding=False,
            )  # fmt: skip
            self._storage.update_metadata(self._meta)
        except BaseException:
            self._discard()
            raise
        return self

    def add(self, episode: Episode) -> None:
        """Append an episode; DatasetError where `load_dataset` would refuse it. One of no steps is left out."""
        from minari.data_collector.episode_buffer import EpisodeBuffer

        checked = checked_episode(episode, self.spec, f"episode {self.episodes}")
        if not len(checked.reward):
            return
        truncated = checked.truncated.copy()
        truncated[-1] |= not checked.terminated[-1]
        buffer = EpisodeBuffer(
            seed=episode.seed, observations=_stored(self.spec.observation_space, episode.obs),
            actions=_stored(self.spec.action_space, episode.action),
            rewards=np.asarray(episode.reward, np.float64),  # type: ignore[arg-type]
            terminations=checked.terminated, truncations=truncated, infos={},  # type: ignore[arg-type]
        )  # fmt: skip
        self._pending.append(buffer)
        self._pending_steps += len(checked.reward)
        self.episodes, self.steps = self.episodes + 1, self.steps + len(checked.reward)
        if self._pending_steps >= FLUSH_STEPS:
            self._flush()

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _flush(self) -> None:
        self._storage.update_episodes(self._pending)
        self._pending, self._pending_steps = [], 0

    def _finish(self) -> None:
        if not self.episodes:
            raise DatasetError(f"no episode was added: {self.path} is not written.")
        self._flush()
        for file in (self._temporary / "data").iterdir():
            with open(file, "r+b") as handle:
                os.fsync(handle.fileno())
        if self.path.exists():  # a rename would replace an empty folder
            raise FileExistsError(f"{self.path} exists already: a data set is never written over.")
        os.rename(self._temporary, self.path)

    def _discard(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


def write_dataset(path: str | os.PathLike, episodes: Iterable[Episode], spec: Spec, **kwargs: Any) -> Path:
    """Write these episodes as a Minari data set into the new folder `path`; `kwargs` as of `DatasetWriter`."""
    with DatasetWriter(path, spec, **kwargs) as writer:
        for episode in episodes:
            writer.add(episode)
    return Path(path)


def _stored(space: Any, x: Any) -> Any:
    """A checked part of an episode in the space's own dtypes: the file holds the environment's numbers, not float32."""
    if isinstance(space, spaces.Dict):
        return {k: _stored(part, x[k]) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stored(part, v) for part, v in zip(space.spaces, x, strict=True))
    return np.asarray(x, space.dtype)


def _dataset_id(name: str) -> str:
    """A folder's name as an id that Minari accepts."""
    name = re.sub(r"[^-\w]+", "-", name).strip("-") or "dataset"
    return name if re.fullmatch(r"[-\w]+-v\d+", name) else f"{name}-v0"


def _make_env_spec(env_id: str | None, kwargs: dict[str, Any], limit: int | None) -> EnvSpec | None:
    """Gymnasium's registered spec, so that Minari can make the environment again; else only its name.

    The registry is looked up directly: `gym.spec` would import the module that an id 'module:Id' names.
    """
    if env_id is None:
        return None
    bare = EnvSpec(env_id, entry_point=None, max_episode_steps=limit, kwargs=dict(kwargs))
    registered = gym.registry.get(env_id)
    if registered is not None:
        full = copy.deepcopy(registered)
        full.kwargs = full.kwargs | kwargs
        full.max_episode_steps = limit or full.max_episode_steps
        with contextlib.suppress(TypeError, ValueError):  # arguments that JSON cannot hold
            full.to_json()
            return full
    try:
        bare.to_json()
    except (TypeError, ValueError) as error:
        raise DatasetError(f"env_kwargs={kwargs!r} cannot be stored: {error}") from None
    return bare
