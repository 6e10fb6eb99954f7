"""One library each, imported when it is asked."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

ADAPTERS = {
    "actrix": ("actrix", ("actrix", "jax")),
    "sb3": ("stable_baselines", ("stable-baselines3", "torch")),
    "sb3-contrib": ("contrib", ("sb3-contrib", "stable-baselines3", "torch")),
    "sbx": ("sbx", ("sbx-rl", "stable-baselines3", "jax")),
    "rejax": ("rejax", ("rejax", "gymnax", "jax")),
    "cleanrl-style": ("cleanrl_style", ("torch",)),
    "tianshou": ("tianshou", ("tianshou", "torch")),
    "torchrl": ("torchrl", ("torchrl", "torch")),
}
"""Name → (module here, packages whose versions are recorded, the library's own first)."""


class NotInstalled(Exception):
    """The library is not there; the message is one sentence."""


def adapter(name: str) -> Any:
    """The adapter of a library. Raises KeyError for an unknown name, NotInstalled."""
    module, packages = ADAPTERS[name]
    try:
        return importlib.import_module(f"conformance.adapters.{module}").ADAPTER()
    except ImportError as error:
        raise NotInstalled(
            f"{name} is not installed here ({error}): `pip install {packages[0]}` and ask again."
        ) from error


def versions(name: str) -> dict[str, str]:
    """What is asked, with versions."""
    found = {}
    for package in (*ADAPTERS[name][1], "gymnasium", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "?"
    return found
