"""What `Model.learn` goes on from: which folder, and whether the checkpoints in it are this model's."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from actrix.algorithms.settings import settings_of
from actrix.files import checkpoint, container, modelfile
from actrix.files.kwargs import plain, told
from actrix.files.spaces import spec_to_json
from actrix.loops.groups import Crew
from actrix.loops.runner import Runner
from actrix.loops.train import SeedRun, load_checkpoints


def places(
    resume_from: str | os.PathLike | None, checkpoint_dir: str | os.PathLike | None
) -> tuple[Path | None, Path | None]:
    """(folder of the checkpoints to go on from, folder that gets new ones); FileNotFoundError if the first is none."""
    source = None if resume_from is None else Path(resume_from)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if source is not None and (source / "config.json").exists():  # a run folder: its own command writes there
        source = source / "checkpoints"
    else:
        folder = folder or source
    if source is not None and not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder: it has no checkpoint to resume from.")
    return source, folder


def identity(model: Any) -> dict[str, Any]:
    """What a checkpoint must share with this model."""
    kwargs = {name: plain(value)[0] for name, value in (model.env_kwargs or {}).items()}
    found = {
        "algorithm": model.preset.name, "settings": settings_of(model.algorithm), "spec": spec_to_json(model.spec),
        "n_envs": model.n_envs, "env_id": model.env_id or "", "env_kwargs": kwargs,
        "env": _env_class(model._env),
    }  # fmt: skip
    if isinstance(model._env, Crew):  # by whom they are stepped makes no difference
        found |= {"groups": list(model._env.sizes), "env": "in groups"}
    return json.loads(json.dumps(found, default=repr))


def _env_class(env: Any) -> list[Any]:
    """The class of the (first) environment under its wrappers, and what it was made with, as far as Gymnasium knows."""
    vector = getattr(env, "envs", env)
    inner = getattr(vector, "envs", None)
    first = inner[0] if isinstance(inner, list | tuple) and inner else vector
    spec = getattr(first, "spec", None)
    kwargs = getattr(spec, "kwargs", None) or {}
    return [
        type(getattr(first, "unwrapped", first)).__qualname__,
        {name: told(x) for name, x in kwargs.items()},
    ]


def refuse_taken(folder: Path, source: Path | None, goes_on: Path | None) -> None:
    """Raise ValueError where a training that does not go on from `folder` would write among its checkpoints.

    `source` is what it resumes from; without one, `goes_on` is where it wrote so far and goes on counting.
    """
    newest = checkpoint.newest_step(folder)
    if newest >= 0 and folder != (goes_on if source is None else source):
        raise ValueError(
            f"{folder} has checkpoints of another training, up to step {newest}: go on from them with "
            f"resume_from={str(folder)!r}, or choose another checkpoint_dir."
        )


def restore(runner: Runner, run: SeedRun, folder: Path, ours: bool) -> str | None:
    """Take the newest checkpoint's whole state; in a folder of `ours` damaged ones are set aside.

    Returns why new episodes had to begin, or None.
    """

    def damaged(path: Path, error: container.ModelFileError) -> None:
        said = checkpoint.set_aside(path, error) if ours else f"{path} is damaged and passed over: {error}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)

    return load_checkpoints(runner, [run], _check, damaged)


def _check(run: SeedRun, meta: dict[str, Any]) -> None:
    # A run folder's checkpoint says more of the environment.
    shared = meta["run"].keys() & run.identity.keys()
    old, new = ({name: x[name] for name in shared} for x in (meta["run"], run.identity))
    if changed := checkpoint.differences(old, new):
        raise ValueError(f"the checkpoints in {run.checkpoints} are of another model: {'; '.join(changed)}.")
    if other := checkpoint.differences(meta["versions"], modelfile.versions()):
        warnings.warn(
            f"resuming under other versions ({'; '.join(other)}): bits may differ from an uninterrupted run's.",
            RuntimeWarning,
            stacklevel=2,
        )
