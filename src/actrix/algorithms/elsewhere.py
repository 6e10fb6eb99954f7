"""Names that scripts give as settings and that belong elsewhere: into `policy_kwargs`, to `learn`, to the model, to its
environment. Each is answered by what to write, in Python, on the command line and in files of settings."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from actrix.algorithms.policy_kwargs import POLICY_KEYS

STEPS = ("total_timesteps", "n_timesteps", "timesteps", "steps")
LEARN = (
    "callback", "log_interval", "tb_log_name", "reset_num_timesteps", "progress_bar", "checkpoint_dir",
    "checkpoint_seconds", "resume_from",
)  # fmt: skip
"""The other arguments of `learn`."""
MODEL = {
    "n_envs": "--envs", "backend": "--backend", "env_kwargs": "--env-kwargs", "seed": "--seed", "dataset": "--dataset",
    "actors": "--actors", "envs_per_group": "--envs-per-group", "behind": "--behind", "address": "--address",
    "learners": "--learners", "learner_processes": "--learner-processes", "step_timeout": "--step-timeout",
    "reference": "--init",
    **dict.fromkeys(("env", "tensorboard_log", "verbose", "device", "stats_window_size")),
}  # fmt: skip
"""Arguments of the model that are no settings → the command line's option; None = it has none."""
VECTOR = (
    "workers", "max_restarts", "start_index", "monitor_dir", "wrapper_class", "vec_env_cls",
    "vec_env_kwargs", "monitor_kwargs", "wrapper_kwargs",
)  # fmt: skip
"""Arguments of `make_vec_env`."""
ENV = (
    "render_mode", "max_episode_steps", "is_slippery", "map_name", "desc", "natural", "sab", "continuous", "gravity",
    "hardcore", "sutton_barto_reward", "g", "frameskip", "repeat_action_probability", "full_action_space",
)  # fmt: skip
"""Arguments of `gymnasium.make` and of well-known environments."""


def instead(name: str, value: Any) -> str | None:
    """What to write where `name` is no setting but something else of the library's; None for what is nothing at all."""
    if name in POLICY_KEYS:
        return f"it is the network's: write policy_kwargs={{{name!r}: {_shown(name, value)}}}."
    if name in STEPS:
        return f"write learn(total_timesteps={_shown(name, value)}), or --steps of the command line."
    if name in LEARN:
        return f"write learn(…, {name}=…)."
    if name in MODEL:
        option = f", or {MODEL[name]} of the command line" if MODEL[name] else " in Python"
        return f"it is the model's, not of its algorithm: write e.g. PPO(policy, env, {name}=…){option}."
    if name in VECTOR:
        return f"write env=make_vec_env(id, n_envs, {name}={_shown(name, value)})."
    if name in ENV:
        shown = _shown(name, value)
        return f"it is the environment's: write env_kwargs={{{name!r}: {shown}}}, or --env-kwargs {name}={shown}."
    return None


def hint(name: str, value: Any, names: Collection[str]) -> str:
    """What a name that is none of the settings `names` may have meant."""
    close = lambda known, n, cutoff: difflib.get_close_matches(name, sorted(known), n=n, cutoff=cutoff)
    meant = close(POLICY_KEYS, 1, 0.8)
    said = instead(name, value) or (instead(meant[0], value) if meant and not close(names, 1, 0.8) else None)
    initials = [full for full in sorted(names) if "".join(x[0] for x in full.split("_")) == name]  # lr
    near = close(names, 3, 0.5) or initials
    return said or (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(names))}."
    )


def _shown(name: str, value: Any) -> str:
    """A value as it would be written; widths as a list."""
    if name == "net_arch" and isinstance(value, int | tuple):
        value = list(value) if isinstance(value, tuple) else [value]
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)
