"""`check_env`: the examination of one environment object, under Stable-Baselines3's name."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym

from actrix.doctor.examine import examine
from actrix.doctor.finding import Finding

COPIES = 8
"""More than an examination builds of an environment."""
_LEARNING = ("seeds", "reward scale", "speed", "resuming")
_REPEATABLE = (
    "random number generator",
    "Deterministic step",
    "`seed` function",
    "is infinity",
    "is -infinity",
)
"""What Gymnasium's checker says of seeds, and of bounds that CartPole has."""
_WRAPPED = ("observation space", "action space", "time limit")
"""What a wrapper may change."""


class BadEnvError(AssertionError, TypeError):
    """What must be mended in an environment. (Stable-Baselines3's is now the one, now the other.)"""


def check_env(env: gym.Env, warn: bool = True, skip_render_check: bool = True) -> None:
    """BadEnvError, an AssertionError, of all that must be mended in an environment; if `warn` UserWarnings of advice.

    It is about the interface, as Stable-Baselines3's is: a space that no algorithm takes and a limit that is no
    truncation are advice, since a wrapper may change them; whether seeds repeat episodes and rewards have a good scale
    is said by `actrix doctor`. The object is stepped and closed. TypeError for what is no `gym.Env`.
    """
    if not isinstance(env, gym.Env):
        raise TypeError(f"a {type(env).__name__} is no environment: inherit from gymnasium.Env.")
    try:
        copies = [copy.deepcopy(env) for _ in range(COPIES)]
    except Exception:  # a window, a simulator: one object must do
        copies = []
    found = [f for f in examine(lambda: copies.pop() if copies else env) if _interface(f)]
    wrong = [f for f in found if f.level == "fix" and f.check not in _WRAPPED]
    if wrong:
        wrong += [f for f in found if f.check == "dtype"]  # Gymnasium's checker does not say which
        raise BadEnvError("; ".join(f"{f.check}: {f.result}" for f in wrong))
    for f in found if warn else ():
        lacking = " It is not supported as it is." if f.level == "fix" and "space" in f.check else ""
        warnings.warn(f"{f.check}: {f.result}{lacking}", UserWarning, stacklevel=2)


def _interface(finding: Finding) -> bool:
    """Whether it is of the interface, and no praise."""
    if finding.check == "time limit":
        return finding.level == "fix"
    told = finding.check in _LEARNING or any(text in finding.result for text in _REPEATABLE)
    return finding.level in ("fix", "note") and not told
