"""One library each, imported when it is asked."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.adapters.base import words

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


OWN_VECTORS = "next_step same_step disabled"
LACKS = {
    "sb3": words(
        "maskable_ppo masked_dqn recurrent_ppo prioritized quantile_huber gae_truncated", OWN_VECTORS
    ),
    "sb3-contrib": words("masked_dqn prioritized", OWN_VECTORS),
    "sbx": words("maskable_ppo masked_dqn recurrent_ppo prioritized", OWN_VECTORS),
    "rejax": words("maskable_ppo masked_dqn recurrent_ppo prioritized n_step ent_coef save", OWN_VECTORS),
    "cleanrl-style": words(
        "gae_truncated squashed_log_prob kl quantile_huber prioritized maskable_ppo masked_dqn recurrent_ppo",
        "multidiscrete multibinary reward_scale reward_returns n_step next_step disabled dict discrete_observations",
        "save resume evaluate statistics",
    ),
}
"""What a library itself does not have; what else an adapter does not offer is not asked, whatever the library has."""


class NotInstalled(Exception):
    """The library is not there; the message is one sentence."""


def adapter(name: str) -> Any:
    """The adapter of a library. Raises KeyError for an unknown name, NotInstalled."""
    module, packages = ADAPTERS[name]
    try:
        made = importlib.import_module(f"conformance.adapters.{module}").ADAPTER()
    except ImportError as error:
        raise NotInstalled(
            f"{name} is not installed here ({error}): `pip install {packages[0]}` and ask again."
        ) from error
    made.lacks = LACKS.get(name, frozenset())
    return made


def versions(name: str) -> dict[str, str]:
    """What is asked, with versions."""
    found = {}
    for package in (*ADAPTERS[name][1], "gymnasium", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "?"
    if name == "actrix":
        found[name] += commit_of(name)
    return found


def commit_of(package: str) -> str:
    """' (the last commit that changed the package)' in a checkout, where the version alone does not say which code."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent
    git = lambda *words: subprocess.run(
        ["git", *words, "--", "."], cwd=folder, capture_output=True, text=True
    )
    try:
        last = git("log", "-1", "--format=%h").stdout.strip()
        return f" ({last}{', changed since' * bool(git('status', '--porcelain').stdout)})" if last else ""
    except OSError:  # no git
        return ""
