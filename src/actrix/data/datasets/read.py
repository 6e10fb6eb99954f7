"""Data sets in Minari's format, read into one chunk.

Nothing in a file is executed: an environment's id stays a piece of text, no module is imported because a file names
it, nothing is downloaded. Missing Minari raises ImportError with the command that installs it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from actrix.core.spaces import (
    UnsupportedSpaceError,
    check_action_space,
    check_observation_space,
)
from actrix.core.types import Spec
from actrix.data.datasets.dataset import Dataset, DatasetError, Episode, assemble


def load_dataset(path_or_id: Any) -> Dataset:
    """The data set in a folder, or Minari's own of that id (`minari download ID` puts it there), or an object of its.

    `path_or_id` is the folder that Minari made (it holds `data/main_data.hdf5` and `data/metadata.json`), its `data`
    folder, or an id such as 'mujoco/halfcheetah/medium-v0' in Minari's store ($MINARI_DATASETS_PATH, else
    ~/.minari/datasets). The whole set is read into memory; of a `MinariDataset` the episodes that it has (it may be
    filtered).

    Raises DatasetError (see there), TypeError, ImportError.
    """
    require_minari()
    chosen = None
    if not isinstance(path_or_id, str | os.PathLike):
        path_or_id, chosen = _of_object(path_or_id)
    folder = _find(path_or_id)
    meta, spec = _metadata(folder)
    env_id, kwargs, limit = _env_spec(meta.get("env_spec"))
    spec = dataclasses.replace(spec, max_episode_steps=limit)
    name = _printable(meta.get("dataset_id")) or str(path_or_id)
    numbers = range(meta["total_episodes"]) if chosen is None else chosen
    return assemble(_episodes(folder, numbers, name), spec, env_id=env_id, env_kwargs=kwargs, name=name)


def _of_object(dataset: Any) -> tuple[Path, list[int]]:
    """(the folder of a `MinariDataset`, the numbers of its episodes)."""
    from minari import MinariDataset

    if not isinstance(dataset, MinariDataset):
        raise TypeError(
            f"a data set is a folder, an id or a MinariDataset, not {type(dataset).__name__}: write_dataset makes one."
        )
    if not len(dataset.episode_indices):
        raise DatasetError(f"{dataset.id}: no episode was left by its filter.")
    return Path(dataset.storage.data_path), [int(number) for number in dataset.episode_indices]


def require_minari() -> Any:
    """The module; ImportError with the command that installs it."""
    try:
        import h5py
        import minari
    except ImportError as error:
        raise ImportError(f'data sets need Minari ({error}): pip install "actrix[offline]"') from None
    del h5py  # Minari names it only when the file is opened
    return minari


def _find(path_or_id: str | os.PathLike) -> Path:
    """The folder with metadata.json; DatasetError says where it was looked for."""
    path = Path(path_or_id).expanduser()
    tried = [path, path / "data"]
    # An id is a relative path without '..'; Minari's own function would make its store's folder if there is none.
    if not path.is_absolute() and ".." not in path.parts:
        store = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
        tried.append(store / path / "data")
    for folder in tried:
        if (folder / "metadata.json").is_file():
            return folder
    older = next((folder for folder in tried if (folder / "main_data.hdf5").is_file()), None)
    if older is not None:
        raise DatasetError(
            f"{older} has no metadata.json: a file is missing, or a Minari before 0.5 wrote it."
        )
    raise DatasetError(
        f"{path_or_id} is no Minari data set: there is no metadata.json in {' or '.join(map(str, tried))}."
    )


def _metadata(folder: Path) -> tuple[dict[str, Any], Spec]:
    """metadata.json and the spaces in it. Both must be there: Minari would make the environment to ask for them."""
    path = folder / "metadata.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(meta, dict):
            raise ValueError("it holds no object.")
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    if meta.get("data_format") != "hdf5":
        raise DatasetError(f"{path} has data_format {meta.get('data_format')!r}; only 'hdf5' is read.")
    episodes = meta.get("total_episodes")
    if not isinstance(episodes, int) or episodes < 1:
        raise DatasetError(f"{path} has total_episodes={episodes!r}: the data set is empty or damaged.")
    found = []
    for what, check in (("observation_space", check_observation_space), ("action_space", check_action_space)):
        space = _space(meta.get(what), f"{path}: {what}")
        try:
            check(space)  # type: ignore[operator]
        except UnsupportedSpaceError as error:
            raise DatasetError(f"{path}: {error}") from None
        found.append(space)
    return meta, Spec(found[0], found[1])


def _space(text: Any, where: str) -> gym.Space:
    from minari.serialization import deserialize_space

    if not isinstance(text, str):
        raise DatasetError(f"{where} is missing.")
    try:
        return deserialize_space(text)
    except Exception as error:
        raise DatasetError(f"{where} cannot be read: {type(error).__name__}: {error}") from None


def _env_spec(text: Any) -> tuple[str | None, dict[str, Any], int | None]:
    """(id, kwargs, time limit) of a serialised `EnvSpec`, read as plain JSON; (None, {}, None) without one."""
    try:
        data = json.loads(text)
        env_id, kwargs, limit = data["id"], data.get("kwargs") or {}, data.get("max_episode_steps")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return None, {}, None
    limit = limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else None
    if not _printable(env_id) or not isinstance(kwargs, dict):
        return None, {}, limit
    return env_id, kwargs, limit


def _printable(text: Any) -> str | None:
    """The text, if it is one that a terminal can be given."""
    return text if isinstance(text, str) and text and text.isprintable() else None


def _episodes(folder: Path, numbers: Sequence[int], name: str) -> Iterator[Episode]:
    """Each episode as Minari decodes it; DatasetError names the one, and the field, that cannot be read."""
    from minari.dataset.minari_storage import MinariStorage

    try:
        storage = MinariStorage.read(folder)
    except ImportError as error:
        raise ImportError(f'data sets need more of Minari ({error}): pip install "actrix[offline]"') from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from None
    for number in numbers:
        try:
            (found,) = storage.get_episodes([number])
        except Exception as error:
            raise DatasetError(f"{name}: episode {number} {_unreadable(error, number)}") from None
        yield Episode(
            found["observations"],
            found["actions"],
            found["rewards"],
            found["terminations"],
            found["truncations"],
        )


def _unreadable(error: Exception, number: int) -> str:
    """What h5py's and Minari's errors say, in our words."""
    missing = re.search(r"object '([^']+)' doesn't exist", str(error))
    if missing and missing[1] == f"episode_{number}":
        return "is missing."
    if missing:
        return f"has no field {missing[1]!r}."
    if isinstance(error, KeyError):
        return f"has the field {error}, which its space does not know."
    return f"cannot be read: {type(error).__name__}: {error}"
