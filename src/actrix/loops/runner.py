"""What both loops share: the random streams of a run, and the report of a stretch of training."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from actrix.core.contract import Algorithm
from actrix.core.host import fold_in, own
from actrix.core.types import Key, PyTree, Spec
from actrix.files.checkpoint import Snapshot


def run_keys(seed: int) -> tuple[Key, Key, Key]:
    """(initialisation, environments, iterations): the random streams of one run, for any seed ≥ 0."""
    # SeedSequence takes integers of any size, where a JAX key would wrap at 2^32.
    state = np.random.SeedSequence(seed).generate_state(2, np.uint32)
    key = as_key(state)
    return fold_in(key, 0), fold_in(key, 1), fold_in(key, 2)


def iteration_keys(key: Key, iteration: jax.Array | np.ndarray | int) -> tuple[Key, Key]:
    """(acting noise, learning) of one iteration, alike in both modes."""
    key = fold_in(key, iteration)
    return fold_in(key, 0), fold_in(key, 1)


def wrapped(iteration: int) -> np.ndarray:
    """An iteration's number as int32, wrapping at 2³¹ as the compiled loop's counter does.

    Random streams repeat after 2³² iterations; number `WARM_UP` and the few below it share theirs with the warm-up.
    """
    return np.asarray(iteration & 0xFFFFFFFF, np.uint32).astype(np.int32)


WARM_UP = 2**31 - 1
"""The iteration number that the first warm-up chunk draws its noise with; the next ones count down."""


def warm_up_key(key: Key, piece: jax.Array | int) -> Key:
    """Acting noise of one chunk of the warm-up."""
    return iteration_keys(key, WARM_UP - piece)[0]


def views(tree: PyTree) -> PyTree:
    """The arrays as NumPy's, without a copy on a CPU."""
    return jax.tree.map(np.asarray, tree)


def leaves(tree: PyTree) -> list[np.ndarray]:
    """The arrays of a tree, whose structure need not be kept: the runner that reads them back has it."""
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def with_leaves(template: PyTree, arrays: Sequence[Any], what: str) -> PyTree:
    """`arrays` in the structure of `template` (arrays, or their shapes and dtypes); ValueError where they differ."""
    expected, tree = jax.tree.flatten(template)
    found = [(np.shape(x), getattr(x, "dtype", None)) for x in arrays]
    wanted = [(x.shape, x.dtype) for x in expected]
    if found != wanted:
        raise ValueError(f"{what} holds {found}, which must be {wanted}.")
    return jax.tree.unflatten(tree, own(list(arrays)))


def as_key(data: np.ndarray | jax.Array) -> Key:
    """The random key of these numbers; an array of JAX's, which may lie on several processes, stays where it is."""
    return jax.random.wrap_key_data(
        data if isinstance(data, jax.Array) else jax.device_put(data), impl="threefry2x32"
    )


def key_from(data: Any, what: str) -> Key:
    """The random key of these numbers."""
    (data,) = with_leaves([jax.ShapeDtypeStruct((2,), np.uint32)], [data], what)
    return jax.random.wrap_key_data(data, impl="threefry2x32")


PROGRAMS = 64
"""Of each kind that one process keeps."""


def shared(make: Callable) -> Callable:
    """`make`, which compiles for its arguments, with its last programs kept: another runner of the same algorithm and
    environment traces nothing again. Only where all arguments are values; for an object that may change it makes them
    anew."""
    programs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def find(*arguments: Any) -> Any:
        try:
            key = hashed(arguments)
        except TypeError:
            return make(*arguments)
        found = programs.pop(key, None) or make(*arguments)
        programs[key] = found  # the last one now
        if len(programs) > PROGRAMS:
            programs.popitem(last=False)
        return found

    SHARED.append(programs)
    return find


SHARED: list[collections.OrderedDict] = []
"""What to clear after code that programs were traced from was replaced (in tests)."""


def hashed(x: Any) -> Hashable:
    """What tells values apart, 1 from 1.0 and True too; TypeError for an object that may change."""
    made: Any = getattr(type(x), "__dataclass_params__", None)
    if made is not None and made.frozen:
        if type(x).__eq__ is not object.__eq__ and not made.eq:  # by a rule of its own: it holds arrays
            return type(x), x
        return type(x), *(hashed(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, tuple):
        return type(x), *map(hashed, x)
    if x is None or isinstance(x, bool | int | float | str | type | FunctionType | jax.tree_util.PyTreeDef):
        hash(x)
        return type(x), x
    raise TypeError(f"{type(x).__name__} is no value")


@dataclasses.dataclass
class Report:
    """What happened in a stretch of training, for one seed."""

    steps: int
    """Environment steps taken (valid rows)."""
    iterations: int
    metrics: dict[str, float]
    """Means over the stretch, by Stable-Baselines3's tags."""
    ep_returns: np.ndarray
    ep_lengths: np.ndarray
    """The episodes that ended, in order of time."""
    ep_successes: np.ndarray
    """`info["is_success"]` of those whose environment told."""
    nonfinite: bool = False
    bad_row: int | None = None
    """t·N + n of the first row whose reward or observation was not finite."""
    batch: PyTree = None
    """What the first non-finite update learned from."""


class Runner(Protocol):
    """What drives training asks of a loop: stretches of it, and all of its state, for one seed or several."""

    spec: Spec
    num_envs: int
    rows: int
    """Rows per environment of a chunk."""
    capacity: int
    """Chunks that one call may make."""
    more: bool
    """Whether another chunk will follow the next one for certain."""

    @property
    def algorithm(self) -> Algorithm:
        """What learns."""

    @property
    def learners(self) -> list[Any]:
        """Views of each seed's learner."""

    @property
    def actings(self) -> list[Any]:
        """Copies of what each seed's policy acts with."""

    def set_learners(self, learners: Sequence[Any], iterations: Sequence[int]) -> None:
        """Go on from these, after so many iterations."""

    def set_training(self, **numbers: ArrayLike) -> None:
        """Replace numbers of the learners' `training`, e.g. its step counter or its settings (`core/numbers.py`)."""

    def snapshots(self) -> list[Snapshot]:
        """All that going on from here takes, of each seed."""

    def set_loops(self, loops: Sequence[dict[str, Any]]) -> bool:
        """Take the loops' part of snapshots; False where new episodes must start."""

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start new episodes from these seeds."""

    def warm(self) -> list[Report]:
        """Collect what comes before the first update; empty where nothing does."""

    def advance(self, iterations: Sequence[int]) -> list[Report]:
        """So many chunks and updates of each seed."""

    def close(self) -> None:
        """Give the environments back."""


def no_batch(shapes: tuple[dict[str, Any], PyTree]) -> tuple[jax.Array, PyTree]:
    """Room for what a non-finite update learned from; `shapes` are those of (metrics, chunk)."""
    metrics, chunk = shapes
    room = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics.get("batch", chunk))
    return jnp.zeros((), bool), room


def keep_batch(
    kept: tuple[jax.Array, PyTree], metrics: dict[str, Any], chunk: PyTree,
    pack: Callable[[PyTree], PyTree] = lambda batch: batch,
) -> tuple[tuple[jax.Array, PyTree], dict[str, Any]]:  # fmt: skip
    """`kept` with the batch of this update, packed, if it is the first non-finite one; and the metrics without it."""
    metrics = dict(metrics)
    batch, (known, old) = metrics.pop("batch", chunk), kept
    bad = metrics["nonfinite"] > 0
    return (known | bad, jax.lax.cond(bad & ~known, lambda: pack(batch), lambda: old)), metrics


def finished_episodes(
    done: np.ndarray, ep_return: np.ndarray, ep_length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the episodes that ended in `[..., T, N]` arrays, earliest first."""
    return ep_return[done].astype(np.float64), ep_length[done].astype(np.int64)


NONE_TOLD = np.zeros(0)


def report(
    steps: int, iterations: int, metrics: dict[str, Any], ep_returns: np.ndarray, ep_lengths: np.ndarray,
    ep_successes: np.ndarray = NONE_TOLD,
) -> Report:  # fmt: skip
    """A `Report` from metrics `[iterations]` (or scalars) as `learn` returns them."""
    values = {name: np.atleast_1d(np.asarray(x)) for name, x in metrics.items() if name != "batch"}
    nonfinite = bool(np.any(values.pop("nonfinite", np.zeros(1)) > 0))
    rows = values.pop("bad_row", np.full(1, -1))
    bad_row = int(rows[rows >= 0][0]) if np.any(rows >= 0) else None
    # NaN: a quantity that this update did not have (an actor that is updated every other time).
    known = {name: value[~np.isnan(value)] for name, value in values.items()}
    means = {name: float(np.mean(value)) for name, value in known.items() if value.size}
    return Report(steps, iterations, means, ep_returns, ep_lengths, ep_successes, nonfinite, bad_row)
