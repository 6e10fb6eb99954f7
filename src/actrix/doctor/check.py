"""`check_env`: the examination of one environment object, under Stable-Baselines3's name."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym

from actrix.doctor.examine import examine
from actrix.doctor.finding import Finding

_SPACES = ("observation space", "action space")
_SEEDING = ("random number generator", "Deterministic step")
"""What Gymnasium's checker says of an environment that seeds nothing; one without randomness need not."""
COPIES = 8
"""More than an examination builds of an environment."""


def check_env(env: gym.Env, warn: bool = True, skip_render_check: bool = True) -> None:
    """AssertionError that names all that must be mended in an environment; a UserWarning for each advice if `warn`.

    Advice is, as in Stable-Baselines3, also a space that no algorithm here takes (a wrapper may change it), and that
    the same seed does not give the same episodes: `actrix doctor`, which this is on an object, has these among what
    must be mended. The object is stepped and closed. TypeError for what is no `gym.Env`.
    """
    if not isinstance(env, gym.Env):
        raise TypeError(f"a {type(env).__name__} is no environment: inherit from gymnasium.Env.")
    try:
        copies = [copy.deepcopy(env) for _ in range(COPIES)]
    except Exception:  # a window, a simulator: one object must do
        copies = []
    found = examine(lambda: copies.pop() if copies else env)
    advice = lambda f: f.level == "note" or (f.level == "fix" and _mild(f))
    wrong = [f"{f.check}: {f.result}" for f in found if f.level == "fix" and not _mild(f)]
    if wrong:
        raise AssertionError("; ".join(wrong))
    for finding in found:
        if warn and advice(finding):
            lacking = finding.check in _SPACES and finding.level == "fix"
            space = " It is not supported as it is." if lacking else ""
            warnings.warn(f"{finding.check}: {finding.result}{space}", UserWarning, stacklevel=2)


def _mild(finding: Finding) -> bool:
    return finding.check in ("seeds", *_SPACES) or any(text in finding.result for text in _SEEDING)
