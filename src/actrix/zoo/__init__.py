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


def settings(algorithm: str, env_id: str) -> tuple[dict[str, Any], bool]:
    """(settings, tuned): this environment's entry, that of a pattern ('ALE/*'), or the default with tuned False."""
    entries = load(algorithm)
    if env_id in entries and env_id != "default":
        return dict(entries[env_id]), True
    for pattern, entry in entries.items():
        if "*" in pattern and fnmatch.fnmatchcase(env_id, pattern):
            return dict(entry), True
    return dict(entries.get("default", {})), False
