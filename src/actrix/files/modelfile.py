"""Model files: what a container holds of a model, and which of it is believed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.core.types import PyTree, Spec
from actrix.files import atomic, container
from actrix.files.container import (
    MAX_LIST,
    Header,
    ModelFileError,
    as_bytes,
    header_bytes,
    leaf_names,
    refuse,
)
from actrix.files.manifest import own_version
from actrix.files.spaces import spec_from_json, spec_to_json


def save(path: str | os.PathLike, meta: dict[str, Any], tree: PyTree) -> Path:
    """Write `tree`'s arrays and `meta` (JSON) to `path`, by the name that `container.named` makes.

    The file is whole and on disk when this returns; on any error `path` is as before.
    """
    path = container.named(path)
    text = json.dumps({"format": container.FORMAT, **meta}, allow_nan=False)
    if meta.get("kind") == "model":  # what could not be read again is not written
        spec_from_json(check_model(Header(path, json.loads(text), {}, 0, ""))["spec"])
    named = zip(leaf_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True)
    arrays = dict(sorted(named, key=lambda item: -item[1].itemsize))  # so every tensor is aligned
    digest = hashlib.sha256()
    for x in arrays.values():
        digest.update(as_bytes(x))
    entries = {name: (x.dtype, x.shape) for name, x in arrays.items()}
    head = header_bytes(text, entries, digest.hexdigest())
    with atomic.replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(head)
        for x in arrays.values():
            file.write(as_bytes(x))
    return path


def write_model(
    path: str | os.PathLike, name: str, settings: dict[str, Any], acting: PyTree, spec: Spec, *,
    env_id: str | None, env_kwargs: dict[str, Any] | None, seed: int, num_timesteps: int, n_envs: int,
    reference: bool = False, left_out: Sequence[str] = (), told: dict[str, int] | None = None,
) -> Path:  # fmt: skip
    """One model file for these acting parameters and the algorithm's `settings_of`: a model's, and a run's.

    `left_out` names the environment's arguments that are not among `env_kwargs`, as JSON cannot hold them; `told` is
    what `DEFAULTS` has, of which only others are written.
    """
    # The weights' folder is where a training began: a file holds the numbers themselves, and leads to no folder.
    kwargs = {k: x for k, x in settings.get("policy_kwargs", {}).items() if k != "weights"}
    settings = settings | ({"policy_kwargs": kwargs} if "policy_kwargs" in settings else {})
    meta = {
        "kind": "model", "algorithm": name, "settings": settings,
        "spec": spec_to_json(spec), "env_id": env_id, "env_kwargs": env_kwargs, "seed": seed,
        "num_timesteps": num_timesteps, "n_envs": n_envs, "reference": reference, "versions": versions(),
    }  # fmt: skip
    others = {k: int(x) for k, x in (told or {}).items() if x != DEFAULTS[k]}
    more = ({LEFT_OUT: list(left_out)} if left_out else {}) | ({TOLD: others} if others else {})
    return save(path, meta | more, acting)


_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (int,), "kind": (str,), "algorithm": (str,), "settings": (dict,), "spec": (dict,),
    "env_id": (str, type(None)), "env_kwargs": (dict, type(None)), "seed": (int,), "num_timesteps": (int,),
    "n_envs": (int,), "reference": (bool,), "versions": (dict,),
}  # fmt: skip
LEFT_OUT = "env_kwargs_left_out"
TOLD = "told"
DEFAULTS = {"verbose": 0, "stats_window_size": 100}
"""What a file holds of how training is told of, under `TOLD`, where it is another."""
"""The one field that a file need not have."""
_LEAST = {"seed": 0, "num_timesteps": 0, "n_envs": 1}
# A model's other arguments, which a file must not reach: an environment, a data set, a folder to write to.
_NO_SETTINGS = ("policy", "env", "dataset", "reference", "tensorboard_log", "device", "seed", "backend", "n_envs",
                "env_kwargs", "verbose", "stats_window_size")  # fmt: skip


def versions() -> dict[str, str]:
    """What wrote a file."""
    others = {name: importlib.metadata.version(name) for name in ("jax", "numpy")}
    return {"actrix": own_version()} | others


def check_model(header: Header) -> dict[str, Any]:
    """The metadata of a model, every field of the right kind and size; raises ModelFileError naming the field."""
    path, meta = header.path, header.meta
    if meta.get("kind") != "model":
        raise ModelFileError(f"{path} holds a {meta.get('kind')!r}, not a model.")
    wrong = [f"missing {name}" for name in _FIELDS if name not in meta]
    wrong += [f"unknown {name}" for name in meta if name not in (*_FIELDS, LEFT_OUT, TOLD)]
    names = meta.get(LEFT_OUT, [])
    if not isinstance(names, list) or len(names) > MAX_LIST or not all(isinstance(n, str) for n in names):
        wrong.append(f"{LEFT_OUT} is {str(names)[:80]!r}")
    told = meta.get(TOLD, {})
    if not isinstance(told, dict) or any(
        k not in DEFAULTS or type(x) is not int or x < 0 for k, x in told.items()
    ):
        wrong.append(f"{TOLD} is {str(told)[:80]!r}")
    for name, kinds in _FIELDS.items():
        value: Any = meta.get(name)
        if name in meta and (type(value) not in kinds or (name in _LEAST and value < _LEAST[name])):
            wrong.append(f"{name} is {str(value)[:80]!r}")
    settings = meta.get("settings")
    if isinstance(settings, dict):
        wrong += [f"settings has {name!r}, which is none" for name in _NO_SETTINGS if name in settings]
        wrong += [f"settings {fault}" for fault in _unbounded(settings)]
        if not isinstance(settings.get("policy_kwargs"), dict):
            wrong.append("settings must have policy_kwargs, an object")
        elif "weights" in settings["policy_kwargs"]:
            wrong.append("settings policy_kwargs has 'weights', which is none")
    refuse(path, wrong)
    return meta


def _unbounded(value: Any, where: str = "") -> Iterator[str]:
    """What of the settings would make reading long: longer lists and more critics than any network has."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("n_critics", "n_layers") and isinstance(part, int | float) and part > MAX_LIST:
                yield f"{key} is {part}, above {MAX_LIST}"
            yield from _unbounded(part, key)
    elif isinstance(value, list):
        if len(value) > MAX_LIST:
            yield f"{where} has {len(value)} entries, above {MAX_LIST}"
        else:
            for part in value:
                yield from _unbounded(part, where)


def shapes_of(build: Callable[[jax.Array], PyTree]) -> PyTree:
    """Shapes and dtypes of what `build(key)` would make; nothing is allocated."""
    return jax.eval_shape(build, jax.random.key(0))
