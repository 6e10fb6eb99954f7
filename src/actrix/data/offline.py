"""Fixed data sets in Minari's format: read into one chunk, written from episodes, recorded from a policy.

Nothing in a file is executed: an environment's id stays a piece of text, no module is imported because a file names
it, nothing is downloaded. Missing Minari raises ImportError with the command that installs it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from actrix.core.spaces import (
    UnsupportedSpaceError,
    check_action_space,
    check_observation_space,
    from_env_action,
)
from actrix.core.types import Chunk, PyTree, Spec

FLUSH_STEPS = 20_000
"""Steps that a writer holds back: opening the file anew for every short episode would take most of the time."""
EDGE = 1e-5
"""How far beyond its bounds a Box action may lie (rounding); it is clipped to them."""

Predict = Callable[[Any, Any, np.ndarray], tuple[Any, Any]]
"""`predict(obs, state, episode_start) -> (action, state)` for one observation; action as `env.step` takes it."""


class DatasetError(ValueError):
    """The files are no data set, are damaged, or hold what cannot be learned from; the message says which."""


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """n steps as an environment gave them; observations have n + 1 rows, everything else n."""

    obs: PyTree
    """s_0 … s_n: arrays `[n+1, ...]`, in dicts and tuples as the space nests them."""
    action: Any
    """a_0 … a_{n−1} in the ENVIRONMENT's coordinates."""
    reward: Any
    terminated: Any
    truncated: Any
    seed: int | None = None
    """Of the environment's reset, where known."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes of one environment, laid end to end."""

    spec: Spec
    chunk: Chunk
    """Numpy arrays `[T, 1, ...]`: `action` in POLICY coordinates, `next_obs` the true successors, `first` marks each
    episode's first row. An episode's last row is terminated or truncated."""
    env_id: str | None = None
    """What the files say; inert text."""
    env_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the environment that the files name; inert too."""
    name: str = ""
    """Minari's id of the data set, or its folder."""

    @property
    def transitions(self) -> int:
        """T, the number of steps."""
        return len(self.chunk.reward)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.starts)

    @property
    def starts(self) -> np.ndarray:
        """Row of each episode's first step."""
        return np.flatnonzero(np.asarray(self.chunk.first)[:, 0])

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode."""
        return np.diff(self.starts, append=self.transitions)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode."""
        return np.add.reduceat(np.asarray(self.chunk.reward)[:, 0].astype(np.float64), self.starts)

    @property
    def mean_return(self) -> float:
        """Mean of `returns`."""
        return float(np.mean(self.returns))

    def __str__(self) -> str:
        of = f" of {self.env_id}" if self.env_id else ""
        return (
            f"{self.name or 'data set'}{of}: {self.transitions:,} transitions in {self.episodes:,} episodes, "
            f"mean return {self.mean_return:.2f}"
        )


def assemble(
    episodes: Iterable[Episode],
    spec: Spec,
    *,
    env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    name: str = "",
) -> Dataset:
    """The data set of these episodes; DatasetError names the first thing that is wrong with one of them.

    Episodes of no steps are left out. The last row of an episode that neither terminated nor truncated counts as
    truncated: the data end there, the episode does not.
    """
    check_observation_space(spec.observation_space)
    check_action_space(spec.action_space)
    parts = []
    for number, episode in enumerate(episodes):
        checked = _check(episode, spec, f"{name}: episode {number}" if name else f"episode {number}")
        if len(checked.reward):
            parts.append(_rows(checked, spec.action_space))
    if not parts:
        raise DatasetError(f"{name or 'the data set'} is empty: it holds no transition.")
    chunk = jax.tree.map(lambda *x: np.concatenate(x)[:, None], *parts)
    return Dataset(spec, chunk, env_id, dict(env_kwargs or {}), name)


def _rows(episode: Episode, action_space: gym.Space) -> Chunk:
    """A checked episode's transitions, `[n, ...]`."""
    truncated = episode.truncated.copy()
    truncated[-1] |= not episode.terminated[-1]
    action = from_env_action(action_space, episode.action)
    return Chunk(
        obs=jax.tree.map(lambda x: x[:-1], episode.obs), next_obs=jax.tree.map(lambda x: x[1:], episode.obs),
        action=action.astype(np.float32 if isinstance(action_space, spaces.Box) else np.int32),
        reward=episode.reward, terminated=episode.terminated, truncated=truncated,
        first=np.arange(len(episode.reward)) == 0,
    )  # type: ignore[arg-type] # fmt: skip


def mix(datasets: Sequence[Dataset], sizes: Sequence[int], seed: int) -> Dataset:
    """Whole episodes drawn without replacement from several data sets of the same spaces.

    From each as many as give `sizes[i]` transitions (the last episode may go beyond). ValueError where a data set
    has fewer, or other spaces than the first.
    """
    if len(datasets) != len(sizes) or not datasets:
        raise ValueError(f"mix needs one size for each data set, got {len(datasets)} and {len(sizes)}.")
    parts, streams = [], np.random.SeedSequence(seed).spawn(len(datasets))
    for data, size, stream in zip(datasets, sizes, streams, strict=True):
        check_spaces(datasets[0], data.spec, f"the data set {data.name}" if data.name else "another data set")
        if not 1 <= size <= data.transitions:
            raise ValueError(
                f"{data.name or 'a data set'} has {data.transitions} transitions: {size} cannot be drawn."
            )
        order = np.random.default_rng(stream).permutation(data.episodes)
        total = np.cumsum(data.lengths[order])
        for i in np.sort(order[: 1 + int(np.searchsorted(total, size))]):
            rows = slice(data.starts[i], data.starts[i] + data.lengths[i])
            parts.append(jax.tree.map(lambda x, rows=rows: x[rows], data.chunk))
    chunk = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    same = all((d.env_id, d.env_kwargs) == (datasets[0].env_id, datasets[0].env_kwargs) for d in datasets)
    name = " + ".join(d.name or "data set" for d in datasets)
    env_id, kwargs = (datasets[0].env_id, datasets[0].env_kwargs) if same else (None, {})
    return Dataset(datasets[0].spec, chunk, env_id, dict(kwargs), name)


def check_spaces(dataset: Dataset, spec: Spec, whose: str = "the environment") -> None:
    """Raise ValueError, with the difference, unless `whose` spaces, an environment's by default, are the data set's."""
    for what in ("observation_space", "action_space"):
        difference = _difference(getattr(dataset.spec, what), getattr(spec, what), what)
        if difference:
            raise ValueError(f"{whose} does not fit the data set {dataset.name}: {difference}.")


def _difference(ours: gym.Space, theirs: gym.Space, where: str) -> str:
    """What differs between two spaces, '' if nothing; Minari does not keep the dtype of a Discrete space."""
    if type(ours) is type(theirs):
        if isinstance(ours, spaces.Discrete) and isinstance(theirs, spaces.Discrete):
            if (int(ours.n), int(ours.start)) == (int(theirs.n), int(theirs.start)):
                return ""
        elif isinstance(ours, spaces.Dict | spaces.Tuple):
            mine, other = _parts(ours), _parts(theirs)
            if set(mine) != set(other):
                return f"{where} has the parts {sorted(map(str, other))}, the data {sorted(map(str, mine))}"
            found = (_difference(part, other[k], f"{where}[{k!r}]") for k, part in mine.items())
            return next(filter(None, found), "")
        elif ours == theirs:
            return ""
    return f"its {where} is {theirs}, the data's is {ours}"


def _parts(space: Any) -> dict[Any, gym.Space]:
    """The parts of a Dict or Tuple space by key or index."""
    return dict(space.spaces if isinstance(space, spaces.Dict) else enumerate(space.spaces))


# ---------------------------------------------------------------------------- one episode, checked


def _check(episode: Episode, spec: Spec, where: str) -> Episode:
    """The episode in the types that JAX holds, or DatasetError; actions stay in the environment's coordinates."""

    def complain(sentence: str) -> NoReturn:
        raise DatasetError(f"{where}: {sentence}")

    try:
        reward = np.asarray(episode.reward)
        steps = len(reward)
    except (TypeError, ValueError):
        complain("rewards is no array.")
    number = spaces.Box(-np.inf, np.inf, (), np.float32)
    reward = _array(number, reward, steps, "rewards", complain)
    flags = []
    for field, given in (("terminations", episode.terminated), ("truncations", episode.truncated)):
        flag = np.asarray(given)
        if flag.shape != (steps,) or not np.isin(flag, (False, True)).all():
            complain(f"{field} has shape {flag.shape}, dtype {flag.dtype}; expected {steps} truth values.")
        flags.append(flag.astype(bool))
    inside = np.flatnonzero((flags[0] | flags[1])[:-1])
    if len(inside):
        complain(f"it goes on after its end at step {inside[0]}.")
    obs = _observations(spec.observation_space, episode.obs, steps + 1, "observations", complain)
    action = _array(spec.action_space, episode.action, steps, "actions", complain)
    if isinstance(spec.action_space, spaces.Box):
        action = _inside(spec.action_space, action, complain)
    return Episode(obs, action, reward, flags[0], flags[1], episode.seed)


def _observations(
    space: Any, given: Any, rows: int, field: str, complain: Callable[[str], NoReturn]
) -> PyTree:
    """`given` in the structure of `space`, each leaf checked."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return _array(space, given, rows, field, complain)
    if isinstance(space, spaces.Dict):
        found = set(given) if isinstance(given, dict) else set()
    else:
        found = set(range(len(given))) if isinstance(given, tuple | list) else set()
    parts = _parts(space)
    missing, unknown = set(parts) - found, found - set(parts)
    if missing or unknown:
        what, names = ("lacks", missing) if missing else ("has the unknown", unknown)
        complain(f"{field} {what} {', '.join(sorted(map(repr, names)))}.")
    out = {k: _observations(part, given[k], rows, f"{field}[{k!r}]", complain) for k, part in parts.items()}
    return out if isinstance(space, spaces.Dict) else tuple(out.values())


def _array(space: Any, given: Any, rows: int, field: str, complain: Callable[[str], NoReturn]) -> np.ndarray:
    """`rows` elements of a space without parts, as the float32, int32 or smaller integers that JAX holds."""
    x, shape = np.asarray(given), (rows, *space.shape)
    if x.shape != shape:
        hint = ", one row more than rewards" if field.startswith("observations") else ""
        complain(f"{field} has shape {x.shape}, expected {shape}{hint}.")
    if x.dtype.kind not in "biuf" or not np.can_cast(x.dtype, space.dtype, "same_kind"):
        complain(f"{field} holds {x.dtype}; its space says {space.dtype}, which cannot hold it.")
    if np.issubdtype(space.dtype, np.floating):
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is refused
            x = x.astype(np.float32)
        _require(np.isfinite(x), x, field, "it must be finite", complain)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        low, high = (
            space.start,
            space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1,
        )
        _require((x >= low) & (x <= high), x, field, f"it must lie in {space}", complain)
    elif isinstance(space, spaces.MultiBinary):
        _require((x == 0) | (x == 1), x, field, "it must be 0 or 1", complain)
    narrow = {"int64": "int32", "uint64": "uint32"}.get(str(space.dtype), str(space.dtype))
    return x.astype(np.float32 if np.issubdtype(space.dtype, np.floating) else narrow)


def _inside(space: spaces.Box, action: np.ndarray, complain: Callable[[str], NoReturn]) -> np.ndarray:
    """Actions clipped to the bounds, of which they miss no more than rounding explains."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    slack = lambda bound: EDGE * np.maximum(1.0, np.abs(bound))
    good = (action >= low - slack(low)) & (action <= high + slack(high))
    _require(good, action, "actions", f"it must lie in {space}", complain)
    return np.clip(action, low, high)


def _require(
    good: np.ndarray, x: np.ndarray, field: str, must: str, complain: Callable[[str], NoReturn]
) -> None:
    if not good.all():
        step, *rest = np.argwhere(~good)[0].tolist()
        entry = f" at index {rest}" if rest else ""
        complain(f"at step {step}, {field}{entry} is {x[(step, *rest)]}; {must}.")


# ---------------------------------------------------------------------------- reading


def load_dataset(path_or_id: str | os.PathLike) -> Dataset:
    """The data set in a folder, or Minari's own of that id (`minari download ID` puts it there).

    `path_or_id` is the folder that Minari made (it holds `data/main_data.hdf5` and `data/metadata.json`), its `data`
    folder, or an id such as 'mujoco/halfcheetah/medium-v0' in Minari's store ($MINARI_DATASETS_PATH, else
    ~/.minari/datasets). The whole set is read into memory.

    Raises DatasetError (see there), ImportError.
    """
    _require_minari()
    folder = _find(path_or_id)
    meta, spec = _metadata(folder)
    env_id, kwargs, limit = _env_spec(meta.get("env_spec"))
    spec = dataclasses.replace(spec, max_episode_steps=limit)
    name = _printable(meta.get("dataset_id")) or str(path_or_id)
    return assemble(_episodes(folder, meta, name), spec, env_id=env_id, env_kwargs=kwargs, name=name)


def _require_minari() -> Any:
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


def _episodes(folder: Path, meta: dict[str, Any], name: str) -> Iterator[Episode]:
    """Each episode as Minari decodes it; DatasetError names the one, and the field, that cannot be read."""
    from minari.dataset.minari_storage import MinariStorage

    try:
        storage = MinariStorage.read(folder)
    except ImportError as error:
        raise ImportError(f'data sets need more of Minari ({error}): pip install "actrix[offline]"') from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from None
    for number in range(meta["total_episodes"]):
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


# ---------------------------------------------------------------------------- writing


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
        self._minari = _require_minari()
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

        checked = _check(episode, self.spec, f"episode {self.episodes}")
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


# ---------------------------------------------------------------------------- recording


def record_episodes(
    predict: Predict, env: gym.Env, *, steps: int | None = None, episodes: int | None = None, seed: int = 0
) -> Iterator[Episode]:
    """Play a policy in one environment and yield its episodes: `episodes` whole ones, or exactly `steps` steps.

    With `steps` the last episode is cut there, as a truncation. Every reset has a seed of its own, derived from
    `seed`. Minari's DataCollector is not used: it writes into Minari's store and keeps no budget of steps.
    """
    if (steps is None) == (episodes is None) or (steps or episodes or 0) < 1:
        raise ValueError(f"record either steps or episodes, at least 1: steps={steps}, episodes={episodes}.")
    number, left, state = 0, steps, None
    while (left is None or left > 0) and (episodes is None or number < episodes):
        reset_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
        seen: list[PyTree] = []
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        terminated = truncated = False
        obs, _ = env.reset(seed=reset_seed)
        seen.append(_copy(env.observation_space, obs))
        while not (terminated or truncated):
            action, state = predict(obs, state, np.array([not rewards]))
            obs, reward, terminated, truncated, _ = env.step(action)
            seen.append(_copy(env.observation_space, obs))
            actions.append(np.array(action))
            rewards.append(float(reward))
            truncated = bool(truncated) or len(rewards) == left
        left = None if left is None else left - len(rewards)
        ends = np.arange(1, len(rewards) + 1) == len(rewards)
        observations = jax.tree.map(lambda *x: np.stack(x), *seen)
        yield Episode(
            observations,
            np.stack(actions),
            np.asarray(rewards),
            ends & bool(terminated),
            ends & truncated,
            reset_seed,
        )
        number += 1


def _copy(space: Any, obs: Any) -> PyTree:
    """A copy of one observation in plain dicts and tuples: environments may use their arrays again."""
    if isinstance(space, spaces.Dict):
        return {k: _copy(part, obs[k]) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_copy(part, o) for part, o in zip(space.spaces, obs, strict=True))
    return np.array(obs)
