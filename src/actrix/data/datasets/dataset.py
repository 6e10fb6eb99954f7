"""Fixed data sets: episodes, checked and laid end to end in one chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import (
    check_action_space,
    check_observation_space,
    from_env_action,
)
from actrix.core.types import Chunk, PyTree, Spec

EDGE = 1e-5
"""How far beyond its bounds a Box action may lie (rounding); it is clipped to them."""


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
        checked = checked_episode(episode, spec, f"{name}: episode {number}" if name else f"episode {number}")
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


def checked_episode(episode: Episode, spec: Spec, where: str) -> Episode:
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
