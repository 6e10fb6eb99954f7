"""What stands in a run folder: its configuration, its seeds, how far they came."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from actrix.files import checkpoint, manifest
from actrix.files.container import nearby
from actrix.runs.config import RunConfig, RunError
from actrix.show.metrics import METRICS, STEP, read_metrics

EVALUATION, CURVE, OUTPUT = "evaluation.json", "curve.png", "output.log"
PLAN = "roles.json"
"""What a folder of roles holds beside theirs; see `runs.roles`."""


def default_folder(config: RunConfig) -> Path:
    """runs/ALGO-ENV-DATE."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / file_name(f"{config.algorithm}-{config.env_id}-{stamp}")


def file_name(text: str) -> str:
    """The text as part of a file's name on any system."""
    return re.sub(r"[^\w.-]+", "-", text)


def resuming(folder: Path) -> str:
    """The command that goes on with a run; an id that imports a module is confirmed in it."""
    name = PLAN if (folder / PLAN).exists() else "config.json"
    try:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        env_id = data.get("config", data)["env_id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        env_id = None
    return f"actrix resume {folder}" + (f" --env {env_id}" if ":" in str(env_id) else "")


def refuse_taken(folder: Path) -> None:
    """Raise RunError where there is anything but what a start that was killed before its `config.json` leaves."""

    def ours(path: Path) -> bool:
        if path.name == ".lock" or path.name.startswith(".tmp-"):
            return True
        of_seed = path.name == "config.json" and path.parent != folder
        return of_seed or (path.is_dir() and path.name.startswith("seed-"))

    if folder.exists() and (not folder.is_dir() or not all(map(ours, folder.rglob("*")))):
        raise RunError(f"{folder} exists already: choose another --out, or go on with `{resuming(folder)}`.")


def seed_folders(folder: Path, config: RunConfig) -> list[tuple[Path, int]]:
    """(folder, seed) of each seed: the run folder itself for one seed."""
    if len(config.seeds) == 1:
        return [(folder, config.seeds[0])]
    return [(folder / f"seed-{seed}", seed) for seed in config.seeds]


_KINDS: dict[str, Any] = {
    "algorithm": str, "env_id": str, "n_timesteps": int, "n_envs": int, "backend": str, "settings": dict,
    "env_kwargs": dict, "dataset": tuple, "step_timeout": (int, float), "max_restarts": int, "workers": (bool, int),
    "init": str,
    "actors": int, "envs_per_group": (int, NoneType), "behind": (int, str, NoneType), "address": (str, NoneType),
}  # fmt: skip


def load_config(folder: Path) -> RunConfig:
    """Read `config.json`; RunError if the folder is none of ours."""
    try:
        return config_from(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / PLAN).exists():
            raise RunError(
                f"{folder} is a folder of roles, each of which is a run: name one of them."
            ) from None
        raise RunError(
            f"{folder} is not a run folder: it has no config.json.{nearby(folder, 'config.json')}"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be read: {error}") from None


def config_from(data: dict[str, Any]) -> RunConfig:
    """What `config_json` gave; ValueError, TypeError, KeyError where that cannot be."""
    data["seeds"], data["dataset"] = tuple(data["seeds"]), tuple(data.get("dataset", ()))
    config = RunConfig(**{f.name: data[f.name] for f in dataclasses.fields(RunConfig) if f.name in data})
    for name, kind in _KINDS.items():
        value = getattr(config, name)
        if not isinstance(value, kind) or (isinstance(value, str) and not value.isprintable()):
            raise ValueError(f"{name} is {value!r}.")
    if not config.seeds or not all(isinstance(seed, int) for seed in config.seeds):
        raise ValueError(f"seeds is {list(config.seeds)}.")
    if config.n_timesteps < 1 or config.n_envs < 1:
        raise ValueError(f"n_timesteps is {config.n_timesteps} and n_envs {config.n_envs}: at least 1 each.")
    return config


def config_json(config: RunConfig) -> dict[str, Any]:
    """What `config.json` holds."""
    return {**dataclasses.asdict(config), "seed": config.seeds[0], "versions": manifest.package_versions()}


def checkpointed_steps(path: Path) -> int:
    """Environment steps at a seed's newest checkpoint; -1 without one."""
    return checkpoint.newest_step(path / "checkpoints")


def evaluated_steps(path: Path) -> int:
    """Environment steps at a seed's final evaluation; -1 if there is none of its newest checkpoint."""
    try:
        steps, _ = evaluation(path)
    except FileNotFoundError:
        return -1
    return steps if steps == checkpointed_steps(path) else -1


def evaluation(path: Path) -> tuple[int, np.ndarray]:
    """(environment steps, returns) of a seed's final evaluation."""
    try:
        found = json.loads((path / EVALUATION).read_text())
        return int(found["num_timesteps"]), np.asarray(found["returns"], float).reshape(-1)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(f"{path / EVALUATION} cannot be read: {reason}") from None


def noted(path: Path, steps: int) -> bool:
    """Whether the log ends with the row of the final evaluation: a process was killed right after it."""
    metrics = read_metrics(path)
    last = {name: values[-1] for name, values in metrics.items() if len(values)}
    return last.get(STEP) == steps and not np.isnan(last.get("eval/mean_ep_length", np.nan))


def remove_traces(path: Path) -> None:
    """Of an attempt that left no checkpoint, so that it can begin anew."""
    for file in (path / METRICS, *path.glob("events.out.tfevents*")):
        file.unlink(missing_ok=True)
