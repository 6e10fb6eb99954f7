"""Model files, format 0: one safetensors file with JSON metadata. Data only; no promise is made for format 0.

Nothing in a file is executed or imported: the algorithm is looked up among the presets, spaces are rebuilt from
numbers, and the tensors expected from that description must be there exactly. A SHA-256 digest over metadata and
tensors detects damage.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import safetensors
import safetensors.numpy
from gymnasium import spaces

from actrix.core.types import PyTree, Spec
from actrix.run import atomic

FORMAT = 0
KEY = "actrix"
DIGEST = "sha256"


class ModelFileError(ValueError):
    """The file is not a model file, is damaged, or does not fit."""


def leaf_names(tree: PyTree) -> list[str]:
    """A readable, unique name for each leaf: '.net.pi.layers[0].weight'."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def save(path: str | os.PathLike, meta: dict[str, Any], tree: PyTree) -> Path:
    """Write `tree`'s arrays and `meta` (JSON) to `path` (.safetensors is added if there is no suffix)."""
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".safetensors")
    arrays = {
        n: np.asarray(x, order="C") for n, x in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
    }
    text = json.dumps({"format": FORMAT, **meta}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {KEY: text, DIGEST: _digest(text, arrays)}
    atomic.write_bytes(path, safetensors.numpy.save(arrays, metadata=metadata))
    return path


def find(path: str | os.PathLike) -> Path:
    """The file itself, with .safetensors added, or a run folder's model; FileNotFoundError names what was tried."""
    path = Path(path)
    tried = [path, path.with_suffix(".safetensors"), path / "model.safetensors"]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no model file at {path} (looked for {', '.join(map(str, tried))}).")


def read_meta(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata of a file; raises ModelFileError."""
    return _read(find(path))[0]


def read_tree(path: str | os.PathLike, template: PyTree) -> PyTree:
    """The tensors of a file in the structure of `template`; names, shapes, dtypes and finiteness must match.

    Raises ModelFileError that lists every difference.
    """
    path = find(path)
    arrays = _read(path)[1]
    names, leaves = leaf_names(template), jax.tree.leaves(template)
    wrong = [f"missing {n}" for n in names if n not in arrays] + [
        f"unknown {n}" for n in arrays if n not in names
    ]
    for name, leaf in zip(names, leaves, strict=True):
        if name in arrays:
            x = arrays[name]
            if x.shape != leaf.shape or x.dtype != leaf.dtype:
                wrong.append(f"{name} is {x.dtype}{list(x.shape)}, expected {leaf.dtype}{list(leaf.shape)}")
            elif np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                wrong.append(f"{name} holds non-finite numbers")
            elif name.endswith((".var", ".count")) and (x < 0).any():
                wrong.append(f"{name} holds negative numbers")
    if wrong:
        raise ModelFileError(f"{path} does not fit: {'; '.join(wrong)}.")
    return jax.tree.unflatten(jax.tree.structure(template), [jax.numpy.asarray(arrays[n]) for n in names])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ModelFileError(f"{path} is damaged or no safetensors file: {error}") from None
    if KEY not in metadata:
        raise ModelFileError(f"{path} has no {KEY!r} metadata: it was not written by actrix.")
    try:
        meta = json.loads(metadata[KEY])
        version = meta["format"]
    except Exception:
        raise ModelFileError(f"{path}: its metadata is not the JSON that actrix writes.") from None
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}; this version reads {FORMAT}: upgrade actrix.")
    if metadata.get(DIGEST) != _digest(metadata[KEY], arrays):
        raise ModelFileError(f"{path} is damaged: its contents do not match its checksum.")
    return meta, arrays


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, x in sorted(arrays.items()):
        digest.update(f"\0{name}\0{x.dtype}{x.shape}\0".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------- spaces as JSON


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


def space_from_json(data: dict[str, Any]) -> gym.Space:
    """The inverse of `space_to_json`; raises ModelFileError for anything else."""
    try:
        kind = data["type"]
        if kind == "Box":
            dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
            low, high = (_unbound(data[k], shape, dtype) for k in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
        if kind == "MultiDiscrete":
            dtype = np.dtype(data["dtype"]).type
            return spaces.MultiDiscrete(
                np.asarray(data["nvec"], dtype), dtype, start=np.asarray(data["start"], dtype)
            )
        if kind == "MultiBinary":
            shape = data["shape"]
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        if kind == "Dict":
            return spaces.Dict({k: space_from_json(v) for k, v in data["spaces"].items()})
        if kind == "Tuple":
            return spaces.Tuple([space_from_json(v) for v in data["spaces"]])
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"cannot rebuild a space from {data!r}: {error}") from None
    raise ModelFileError(f"cannot rebuild a space of type {kind!r}.")


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
    """The inverse of `spec_to_json`."""
    return Spec(
        space_from_json(data["observation_space"]), space_from_json(data["action_space"]),
        data["max_episode_steps"], data["mask_size"], data.get("frame_stack"),
    )  # fmt: skip
