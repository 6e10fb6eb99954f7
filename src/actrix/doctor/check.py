"""`check_env`: the examination of one environment object, under Stable-Baselines3's name."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym

from actrix.doctor.examine import examine

COPIES = 8
"""More than an examination builds of an environment."""


def check_env(env: gym.Env, warn: bool = True, skip_render_check: bool = True) -> None:
    """AssertionError that names all that must be mended in an environment; a UserWarning for each advice if `warn`.

    It is `actrix doctor` on an object, which is stepped and closed. TypeError for what is no `gym.Env`.
    """
    if not isinstance(env, gym.Env):
        raise TypeError(f"a {type(env).__name__} is no environment: inherit from gymnasium.Env.")
    try:
        copies = [copy.deepcopy(env) for _ in range(COPIES)]
    except Exception:  # a window, a simulator: one object must do
        copies = []
    found = examine(lambda: copies.pop() if copies else env)
    # An environment without randomness need not seed any.
    advice = lambda f: f.level == "note" or "random number generator" in f.result
    wrong = [f"{f.check}: {f.result}" for f in found if f.level == "fix" and not advice(f)]
    if wrong:
        raise AssertionError("; ".join(wrong))
    for finding in found:
        if warn and advice(finding):
            warnings.warn(f"{finding.check}: {finding.result}", UserWarning, stacklevel=2)
