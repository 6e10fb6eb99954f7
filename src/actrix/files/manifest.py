"""`manifest.json` of a run folder: under which versions, machine and flags each session of the run trained.

The same seed under the same entry gives the same bits; where entries differ, they may not.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from actrix.files import atomic

MANIFEST = "manifest.json"
PACKAGES = (
    "actrix",
    "jax",
    "jaxlib",
    "optax",
    "equinox",
    "gymnasium",
    "numpy",
    "envpool",
    "gymnax",
    "mujoco",
)
JAX_OPTIONS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_optimization_level",
               "jax_disable_most_optimizations")  # fmt: skip
"""Of JAX's own configuration, what changes numbers."""


def own_version() -> str:
    """This package's, which a source tree on the path has without being installed."""
    return sys.modules[__name__.partition(".")[0]].__version__


def package_versions() -> dict[str, str]:
    """Python's and the packages' versions that bear on a result."""
    versions = {"python": platform.python_version(), "actrix": own_version()}
    for name in (name for name in PACKAGES if name not in versions):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """What of the machine bears on rounding: the processor, the devices, XLA's flags, JAX's options."""
    options = {name: getattr(jax.config, name, None) for name in JAX_OPTIONS}
    return {
        "system": platform.system(), "processor": _processor(), "platform": jax.default_backend(),
        "devices": jax.local_device_count(), "cores": os.cpu_count(), "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **{name: x if isinstance(x, bool | None) else str(x) for name, x in options.items()},
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def append(folder: Path, event: str, step: int, **more: Any) -> None:
    """Add a session: its event ("start", "resume"), the environment steps it began at, and what else is to be told."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    entry = {
        "event": event,
        "step": step,
        "time": now,
        **more,
        "versions": package_versions(),
        "machine": machine(),
    }
    atomic.write_json(folder / MANIFEST, {"sessions": [*sessions(folder), entry]})


def sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions so far, oldest first; [] without a manifest, or with one that cannot be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def differences(folder: Path) -> list[str]:
    """How this machine and its packages differ from those of the newest session: "jax 0.10.2 → 0.11.0"."""
    before = next(iter(sessions(folder)[-1:]), None)
    if not isinstance(before, dict):
        return []
    out = []
    for part, now in (("versions", package_versions()), ("machine", machine())):
        old = before.get(part)
        old = old if isinstance(old, dict) else {}
        out += [f"{n} {old.get(n)} → {now.get(n)}" for n in {**old, **now} if old.get(n) != now.get(n)]
    return out
