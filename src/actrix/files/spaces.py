"""Spaces and specs as JSON, and back within bounds that a stranger's file cannot leave."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import DTYPES, check_action_space, check_observation_space, mask_length
from actrix.core.types import Spec
from actrix.files.container import MAX_LIST, ModelFileError, are_sizes

MAX_NUMBERS, MAX_ACTION_NUMBERS = 2**24, 2**16
"""Of an observation, all its parts together, and of an action."""


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """A supported space as numbers and strings."""
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        start, dtype = int(space.start), str(space.dtype)
        return {"type": "Discrete", "n": int(space.n), "start": start, "dtype": dtype}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start, dtype = space.nvec.tolist(), space.start.tolist(), str(space.dtype)
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": dtype}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {k: space_to_json(v) for k, v in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(v) for v in space.spaces]}
    raise ModelFileError(f"{type(space).__name__} cannot be stored.")


_SPACES: dict[str, set[str]] = {
    "Box": {"shape", "dtype", "low", "high"}, "Discrete": {"n", "start", "dtype"},
    "MultiDiscrete": {"nvec", "start", "dtype"}, "MultiBinary": {"shape"}, "Dict": {"spaces"}, "Tuple": {"spaces"},
}  # fmt: skip
LEAST_NUMBERS = MAX_NUMBERS // MAX_LIST


def space_from_json(data: dict[str, Any]) -> gym.Space:
    """The inverse of `space_to_json`; raises ModelFileError for anything else."""
    try:
        if _numbers(data) > MAX_NUMBERS:
            raise ValueError(f"it has more than {MAX_NUMBERS} numbers")
        with np.errstate(over="raise", invalid="raise"):  # a bound that its dtype cannot hold
            return _space(data)
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"cannot rebuild a space from {str(data)[:200]}: {error}") from None


def _numbers(data: Any) -> int:
    """How many numbers a space's element has, before anything of that size is made; a part counts as many at least."""
    kind = data["type"]
    if set(data) - {"type"} != _SPACES[kind]:
        raise ValueError(f"{kind} must have {', '.join(sorted(_SPACES[kind]))} and nothing else")
    if data.get("dtype", "int64") not in DTYPES:
        raise ValueError(f"dtype {str(data['dtype'])[:80]!r}")
    if kind in ("Box", "MultiBinary"):
        if not are_sizes(data["shape"], 32):
            raise ValueError(f"shape {str(data['shape'])[:80]}")
        return max(math.prod(data["shape"]), LEAST_NUMBERS)
    if kind in ("Dict", "Tuple"):
        return sum(map(_numbers, data["spaces"].values() if kind == "Dict" else data["spaces"]))
    # Each component of a MultiDiscrete is encoded by itself.
    return LEAST_NUMBERS if kind == "Discrete" else LEAST_NUMBERS * max(np.size(data["nvec"]) // 64, 1)


def _space(data: dict[str, Any]) -> gym.Space:
    kind = data["type"]
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (_unbound(data[k], shape, dtype) for k in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
    if kind == "MultiDiscrete":
        dtype = np.dtype(data["dtype"]).type
        start = np.asarray(data["start"], dtype)
        return spaces.MultiDiscrete(np.asarray(data["nvec"], dtype), dtype, start=start)
    if kind == "MultiBinary":
        shape = data["shape"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "Dict":
        return spaces.Dict({k: _space(v) for k, v in data["spaces"].items()})
    return spaces.Tuple([_space(v) for v in data["spaces"]])


def _bound(x: np.ndarray) -> Any:
    flat = [_number(v) for v in x.reshape(-1).tolist()]
    return flat[0] if flat and all(v == flat[0] for v in flat) else flat


def _number(v: float) -> Any:
    return v if math.isfinite(v) else str(v)


def _unbound(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    number = float if np.issubdtype(dtype, np.floating) else int
    if isinstance(data, list):
        return np.asarray([number(v) for v in data], dtype).reshape(shape)
    return np.full(shape, number(data), dtype)


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """A `Spec` as JSON."""
    return {
        "observation_space": space_to_json(spec.observation_space),
        "action_space": space_to_json(spec.action_space),
        "max_episode_steps": spec.max_episode_steps,
        "mask_size": spec.mask_size,
        "frame_stack": spec.frame_stack,
    }


def spec_from_json(data: dict[str, Any]) -> Spec:
    """The inverse of `spec_to_json`; raises ModelFileError."""
    names = {"observation_space", "action_space", "max_episode_steps", "mask_size", "frame_stack"}
    if set(data) != names:
        raise ModelFileError(f"spec must have {', '.join(sorted(names))} and nothing else.")
    numbers = [data[name] for name in ("max_episode_steps", "mask_size", "frame_stack")]
    if not all(n is None or (type(n) is int and n >= 1) for n in numbers):
        raise ModelFileError(f"spec: {str(numbers)[:200]} must be whole numbers of at least 1, or null.")
    observation_space, action_space = (
        space_from_json(data[n]) for n in ("observation_space", "action_space")
    )
    if math.prod(action_space.shape or ()) > MAX_ACTION_NUMBERS:
        raise ModelFileError(f"spec: an action has more than {MAX_ACTION_NUMBERS} numbers.")
    check_observation_space(observation_space)
    check_action_space(action_space)
    spec = Spec(observation_space, action_space, *numbers)
    if spec.mask_size is not None and spec.mask_size != mask_length(action_space):
        raise ModelFileError(f"spec: mask_size {spec.mask_size} is not that of {action_space}.")
    return spec
