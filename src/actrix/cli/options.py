"""What several commands read alike: numbers, KEY=VALUE, the folders of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

AddCommand = Callable[..., argparse.ArgumentParser]
"""(name, what runs it, summary) → its parser."""


def count(text: str) -> int:
    """A whole number of at least 1, also as 1e6 or 1_000_000."""
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = 0.5
    if not value.is_integer() or value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(value)


def seconds(text: str) -> float:
    """A number of seconds of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return value


def pairs(words: Sequence[str], option: str) -> dict[str, Any]:
    """KEY=VALUE words as a dict; SettingError names the option."""
    from actrix.algorithms.settings import SettingError
    from actrix.core.words import read_value

    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise SettingError(f"{option} {word!r}: write KEY=VALUE.")
        out[key] = read_value(value)
    return out


def from_file(path: Path | None) -> dict[str, Any]:
    """The settings of a YAML file, NAME: VALUE; {} for None. SettingError says what is wrong with the file."""
    if path is None:
        return {}
    from actrix.algorithms.settings import SettingError
    from actrix.algorithms.written import read_yaml
    from actrix.core.words import read_value

    found = read_yaml(path, f"--settings {path}")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise SettingError(f"--settings {path} must map settings to values, e.g. gamma: 0.98.")
    # YAML takes 1e-3 for a word.
    return {name: read_value(value) if isinstance(value, str) else value for name, value in found.items()}


def model_paths(path: Path) -> dict[Any, Path]:
    """Seed → its folder, of a run folder; role → its folder, of a folder of roles; else the file or folder itself, or
    the file of hub:USER/REPO, as seed 0's."""
    from actrix.runs.folder import load_config, seed_folders
    from actrix.runs.roles import has_roles, load_plan

    if str(path).startswith("hub:"):
        from actrix.runs.hub import load_from_hub

        return {0: load_from_hub(str(path).removeprefix("hub:"))}
    if has_roles(path):
        return {role: path / role for role in load_plan(path).roles}
    if (path / "config.json").is_file():
        config = load_config(path)
        return {seed: folder for folder, seed in seed_folders(path, config)}
    return {0: path}
