"""Observation and action spaces: what is supported, and the map between policy and environment coordinates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeGuard

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from actrix.core.types import GOAL_KEYS, Spec

SUPPORTED_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
SUPPORTED_ACTIONS = "Discrete, MultiDiscrete, MultiBinary, Box"
DTYPES = (
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
)
"""What a space may hold: what networks read, and files can store."""


class UnsupportedSpaceError(TypeError, AssertionError):
    """The environment has a space no policy here can handle."""


def check_observation_space(space: gym.Space, where: str = "observation space") -> None:
    """Raise `UnsupportedSpaceError` naming the offending part unless `space` is supported."""
    if isinstance(space, spaces.Dict | spaces.Tuple) and not len(space.spaces):
        raise UnsupportedSpaceError(
            f"{where} is an empty {type(space).__name__}, with nothing to see: put a constant in, Box(0, 0, (1,))."
        )
    if 0 in (space.shape or ()):
        raise UnsupportedSpaceError(
            f"{where} is a {type(space).__name__} of shape {space.shape} without a number in it: leave it out, e.g. "
            "with gymnasium.wrappers.FilterObservation, or return a constant."
        )
    _check_dtype(space, where)
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            if not isinstance(name, str):
                raise UnsupportedSpaceError(
                    f"{where} has the key {name!r} ({type(name).__name__}); keys of a Dict must be text, which is what "
                    f"files can hold: {str(name)!r}."
                )
            check_observation_space(part, f"{where}[{name!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            check_observation_space(part, f"{where}[{i}]")
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise UnsupportedSpaceError(
            f"{where} {space} has {space.nvec.ndim} axes; MultiDiscrete must have one."
        )
    elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UnsupportedSpaceError(
            f"{where} is {type(space).__name__}; supported are {SUPPORTED_OBSERVATIONS}: leave it out "
            "(gymnasium.wrappers.FilterObservation), or encode it (gymnasium.wrappers.TransformObservation)."
        )


def _check_dtype(space: gym.Space, where: str) -> None:
    """Raise `UnsupportedSpaceError` for numbers of a kind, or in a byte order, that is not read here."""
    if space.dtype is not None and str(space.dtype) in DTYPES:
        return
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        near = np.dtype(space.dtype).newbyteorder("=")
        raise UnsupportedSpaceError(
            f"{where} holds {space.dtype}; it must be one of {', '.join(DTYPES)}, in this machine's byte order: make "
            f"the space, and what is returned, {near if str(near) in DTYPES else 'float64'}."
        )


def check_action_space(space: gym.Space) -> None:
    """Raise `UnsupportedSpaceError` unless `space` is a supported action space with sound bounds."""
    _check_dtype(space, "action space")
    if 0 in (space.shape or ()):
        raise UnsupportedSpaceError(f"action space {space} is empty: give it at least one action.")
    if isinstance(space, spaces.Box):
        if not np.issubdtype(space.dtype, np.floating):
            raise UnsupportedSpaceError(
                f"action space {space} holds {space.dtype}; a Box of actions must be floating point."
            )
        if np.any(space.low >= space.high):
            i = np.argwhere(space.low >= space.high)[0].tolist()
            raise UnsupportedSpaceError(
                f"action space has low {space.low[tuple(i)]} >= high {space.high[tuple(i)]} at index {i}."
            )
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise UnsupportedSpaceError(f"action space {space} has several axes; MultiDiscrete must have one.")
    elif isinstance(space, spaces.MultiBinary) and len(space.shape) != 1:
        raise UnsupportedSpaceError(
            f"Multi-dimensional {space} action space is not supported: MultiBinary must have one axis."
        )
    elif not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UnsupportedSpaceError(
            f"action space is {type(space).__name__}; supported are {SUPPORTED_ACTIONS}: map it to one of these in a "
            "gymnasium.ActionWrapper."
        )


def is_action_space(space: gym.Space) -> bool:
    """Whether it is one that policies act in."""
    try:
        check_action_space(space)
    except UnsupportedSpaceError:
        return False
    return True


def has_goals(space: gym.Space) -> TypeGuard[spaces.Dict]:
    """Whether these are a goal environment's observations."""
    return isinstance(space, spaces.Dict) and set(GOAL_KEYS) <= set(space.spaces)


def check_goals(spec: Spec, info: Any) -> None:
    """Raise ValueError unless these are environments with goals, whose rewards of any goal can be had with `info`."""
    space, wanted = spec.observation_space, "hindsight needs an environment"
    if not has_goals(space):
        raise ValueError(f"{wanted} that observes a Dict with {', '.join(GOAL_KEYS)}, not {space}.")
    if spec.goals is None:
        raise ValueError(f"{wanted} in this process with compute_reward(achieved_goal, desired_goal, info).")
    two = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), space["achieved_goal"].sample())
    function = spec.goals.compute_reward
    try:
        shape = np.shape(getattr(function, "on_host", function)(two, two, info))
    except AttributeError:  # it knows only what a reset brings, and is asked after one
        return
    if shape != (2,):
        raise ValueError(f"{wanted} whose compute_reward takes a batch: of two goals it has shape {shape}.")


@dataclasses.dataclass(frozen=True)
class Cells:
    """The finitely many observations of a space, numbered 0 … size − 1 in mixed radix, the last component fastest."""

    leaves: tuple[tuple[tuple[int, int], ...] | tuple[int, int], ...]
    """(start, n) of each Discrete leaf, a tuple of such pairs for each MultiDiscrete or MultiBinary leaf."""

    @property
    def size(self) -> int:
        """How many observations there are."""
        return math.prod(n for _, n in self._components())

    def _components(self) -> list[tuple[int, int]]:
        out: list[Any] = []
        for leaf in self.leaves:
            out += [leaf] if isinstance(leaf[0], int) else list(leaf)
        return out

    def index(self, obs: Any) -> jax.Array:
        """The number of each observation, int32 `[*B]`."""
        columns: list[jax.Array] = []
        for leaf, x in zip(self.leaves, jax.tree.leaves(obs), strict=True):
            x = jnp.asarray(x).astype(jnp.int32)
            columns += [x] if isinstance(leaf[0], int) else [x[..., i] for i in range(len(leaf))]
        index = jnp.zeros_like(columns[0])
        for (start, n), x in zip(self._components(), columns, strict=True):
            index = index * n + (x - start)
        return index


def cells(space: gym.Space) -> Cells:
    """The cells of a finite space (Discrete, MultiDiscrete, MultiBinary, Dict and Tuple of these).

    Raises `UnsupportedSpaceError` for a Box: a table has no row for a real number.
    """
    leaves: list[Any] = []

    def visit(part: gym.Space) -> None:
        if isinstance(part, spaces.Dict):
            for name in sorted(part.spaces):  # the order of JAX's leaves
                visit(part.spaces[name])
        elif isinstance(part, spaces.Tuple):
            for inner in part.spaces:
                visit(inner)
        elif isinstance(part, spaces.Discrete):
            leaves.append((int(part.start), int(part.n)))
        elif isinstance(part, spaces.MultiDiscrete):
            leaves.append(tuple((int(s), int(n)) for s, n in zip(part.start, part.nvec, strict=True)))
        elif isinstance(part, spaces.MultiBinary) and len(part.shape) == 1:
            leaves.append(((0, 2),) * part.shape[0])
        else:
            raise UnsupportedSpaceError(
                f"a table needs finitely many observations, and {part} has none that can be numbered: round them in a "
                "wrapper, or take an algorithm with a network (dqn, ppo)."
            )

    visit(space)
    return Cells(tuple(leaves))


def is_image(space: gym.Space) -> bool:
    """uint8 Box of three axes with bounds 0 and 255."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


def channels_last(space: gym.Space) -> bool:
    """Whether it is an image whose channels are not first: they are the smallest axis, as SB3 takes it."""
    return is_image(space) and int(np.argmin(space.shape)) != 0  # type: ignore[arg-type]


def space_leaves(space: gym.Space) -> list[gym.Space]:
    """The parts of a (nested) Dict or Tuple space, in the order in which JAX flattens an observation of it."""
    if isinstance(space, spaces.Dict):
        return [leaf for name in sorted(space.spaces) for leaf in space_leaves(space.spaces[name])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in space_leaves(part)]
    return [space]


def normalized_shapes(
    space: gym.Space, keys: tuple[str, ...] | None = None, images: bool = False
) -> tuple[tuple[int, ...] | None, ...]:
    """Shape of each leaf whose observations are normalised (a Box, with `images` also of these), None for the others.

    Of a Dict those under `keys` only (None = all); ValueError where it has no such key, or nothing to normalise there.
    """
    if keys is not None:
        parts = getattr(space, "spaces", {})
        found = {
            k: normalized_shapes(parts[k], images=images)
            for k in sorted(parts)
            if isinstance(space, spaces.Dict)
        }
        usable = [k for k, shapes in found.items() if any(shape is not None for shape in shapes)]
        if not keys or set(keys) - set(usable):
            raise ValueError(
                f"norm_obs_keys={list(keys)} must name keys of a Dict observation with numbers to normalise; "
                f"here these are {', '.join(map(repr, usable)) or 'none'}."
            )
        return tuple(s if k in keys else None for k, shapes in found.items() for s in shapes)
    return tuple(
        leaf.shape if isinstance(leaf, spaces.Box) and (images or not is_image(leaf)) else None
        for leaf in space_leaves(space)
    )


def mask_length(space: gym.Space) -> int:
    """Length of an action mask: n for Discrete, Σ nvec for MultiDiscrete, 2n for MultiBinary (off, on pairs)."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return 2 * int(space.shape[0])
    raise UnsupportedSpaceError(f"action masks need a discrete action space, not {type(space).__name__}.")


def to_env_action(space: gym.Space, action: Any) -> Any:
    """Policy coordinates → environment coordinates, for numpy and JAX arrays alike.

    Discrete kinds: 0-based → `start`-based. Box: [-1, 1] → [low, high] where both bounds are finite, then
    clipped to the bounds; a dimension without two finite bounds passes unscaled.
    """
    if isinstance(space, spaces.Discrete):
        return action + np.int32(space.start) if space.start else action
    if isinstance(space, spaces.MultiDiscrete):
        return action + space.start.astype(np.int32) if np.any(space.start) else action
    if isinstance(space, spaces.Box):
        return unclipped_env_action(space, action).clip(space.low, space.high)
    return action


def unclipped_env_action(space: gym.Space, action: Any) -> Any:
    """`to_env_action` without the clipping to a Box's bounds."""
    if isinstance(space, spaces.Box):
        _, centre, half = _box_map(space)
        return action * half + centre
    return to_env_action(space, action)


def from_env_action(space: gym.Space, action: Any) -> Any:
    """Environment coordinates → policy coordinates; the inverse of `to_env_action` inside the bounds."""
    if isinstance(space, spaces.Discrete):
        return action - np.int32(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return action - space.start.astype(np.int32)
    if isinstance(space, spaces.Box):
        _, centre, half = _box_map(space)
        return (action - centre) / half
    return action


def _box_map(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # float64 bounds beyond float32 are as good as none.
    finite = np.maximum(np.abs(space.low), np.abs(space.high)) <= np.finfo(np.float32).max
    low, high = np.where(finite, space.low, -1.0), np.where(finite, space.high, 1.0)
    # Halves before the sum: high - low may overflow float32.
    centre, half = low * 0.5 + high * 0.5, high * 0.5 - low * 0.5
    return finite, centre.astype(np.float32), half.astype(np.float32)
