"""Tuned settings, one YAML file per algorithm."""

from __future__ import annotations

import fnmatch
import functools
from importlib import resources
from typing import Any

import yaml

RUN_KEYS = ("n_timesteps", "n_envs", "policy")
"""Keys that say how to run rather than how to learn."""


@functools.cache
def load(algorithm: str) -> dict[str, dict[str, Any]]:
    """Environment id → settings; {} for an algorithm without a file."""
    file = resources.files(__package__) / f"{algorithm}.yaml"
    if not file.is_file():
        return {}
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def settings(algorithm: str, env_id: str, version: bool | int = True) -> tuple[dict[str, Any], bool | int]:
    """(settings, version): this environment's entry, that of a pattern ('ALE/*'), or the default with version False.

    An entry is never changed once results name it: better settings are another one, 'ENV@2', 'ENV@3', …, of that
    `version`. True is the first; False is the default entry. Raises ValueError for a version that there is none of.
    """
    entries = load(algorithm)
    if version > 1:
        if (name := f"{env_id}@{version}") in entries:
            return dict(entries[name]), version
        known = [n for n in sorted(entries) if n == env_id or n.startswith(f"{env_id}@")]
        has = f"it has {', '.join(known)}" if known else "it has no entry"
        raise ValueError(f"the zoo has no version {version} of {algorithm} on {env_id}: {has}.")
    if version and env_id in entries and env_id != "default":
        return dict(entries[env_id]), True
    for pattern, entry in entries.items() if version else ():
        if "*" in pattern and fnmatch.fnmatchcase(env_id, pattern):
            return dict(entry), True
    return dict(entries.get("default", {})), False
