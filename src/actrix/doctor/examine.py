"""What is wrong with an environment, in plain words: Gymnasium's checker, and what it does not look at."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from actrix.core.spaces import mask_length
from actrix.core.types import Spec
from actrix.doctor import agents, checks, play
from actrix.doctor.finding import Finding, blame, fine, fix
from actrix.doctor.play import random_play
from actrix.envs.agents.envs import AgentEnvs
from actrix.envs.make import as_host_env
from actrix.envs.masks import find_masks_of

LIMIT = 120.0
"""Seconds after which an examination that is not done is given up."""


def examine(build: Callable[[], Any], seed: int = 0) -> list[Finding]:
    """Examine what `build()` makes (`gym.Env`, vector environment, `AgentEnvs`): findings in the order of the checks.

    Random play takes at most 5000 steps, 20 episodes or 10 seconds, the other checks about as long. An examination that
    is not done after `LIMIT` seconds, because a call does not return, ends with the finding which one; its thread is
    left behind. Whatever the environment raises is a finding.
    """
    findings: list[Finding] = []
    thread = threading.Thread(target=_examine, args=(build, seed, findings), daemon=True)
    thread.start()
    thread.join(LIMIT)
    if thread.is_alive():
        text = f"not done after {LIMIT:g} seconds: it was in {_call_of(thread)}"
        return [*findings, fix("hanging", text, "let every call return soon")]
    return findings


def _examine(build: Callable[[], Any], seed: int, findings: list[Finding]) -> None:
    """`examine` into a list, which holds what was found before a call that does not return."""
    with blame(findings, "construction", "the constructor must not raise"):
        env = build()
    if findings:
        return
    with blame(findings, "examination"):
        if isinstance(env, AgentEnvs):
            findings += checks.supported(env.spec.observation_space, env.spec.action_space)
            findings += agents.played(env, seed)
        elif isinstance(env, VectorEnv):
            findings += checks.supported(env.single_observation_space, env.single_action_space)
            findings += checks.vector(env, seed)
        elif isinstance(env, gym.Env):
            _examine_one(env, build, seed, findings)
        else:
            findings += [fix("construction", f"it is a {type(env).__name__}", "inherit from gymnasium.Env")]
            return
    with blame(findings, "close"):
        env.close()


def _examine_one(env: gym.Env, build: Callable[[], Any], seed: int, findings: list[Finding]) -> None:
    findings += checks.gymnasiums_own(build())
    findings += checks.supported(env.observation_space, env.action_space)
    if any(finding.level == "fix" for finding in findings if finding.check.endswith("space")):
        return
    played = random_play(env, seed)
    findings += played.findings or [
        fine("data", f"{len(played.rewards)} random steps: shapes, dtypes, bounds, flags, finite")
    ]
    pace = played.seconds / max(1, len(played.rewards))
    findings += [*checks.ends(env, played), *checks.rewards(played)]
    findings += (same := checks.seeds(build, seed, _fitting(pace, 4, 200)))
    if not any(finding.level == "fix" for finding in same):  # else nothing could be compared
        findings += checks.resuming(env, build, seed, _fitting(pace, 4, 100))
    findings += checks.resets(build, seed, _fitting(pace, 5, 1000))
    findings += checks.speed(played)


def _fitting(pace: float, times: int, most: int) -> int:
    """How many steps of `pace` seconds each to take so many times, in half of `SECONDS` together."""
    return max(3, min(most, int(play.SECONDS / 2 / times / max(pace, 1e-9))))


def _call_of(thread: threading.Thread) -> str:
    """The environment's call that a thread is in: "step of Endless (file.py, line 12)"."""
    frame: Any = sys._current_frames().get(thread.ident or 0)
    found = "no call of the environment"
    while frame is not None:
        name, this = frame.f_code.co_name, frame.f_locals.get("self")
        if name in ("__init__", "reset", "step", "close", "get_state", "set_state") and isinstance(
            this, gym.Env | VectorEnv
        ):
            found = f"{name} of {type(this).__name__} ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
            break  # the innermost: wrappers call it
        frame = frame.f_back
    return found


def uses(build: Callable[[], Any], describe: Callable[[Spec], list[Finding]]) -> list[Finding]:
    """`describe(spec)` of what `build()` makes; what that raises is a finding, too."""
    findings: list[Finding] = []
    with blame(findings, "construction"):
        env = build()
        findings += describe(spec_of(env))
        env.close()
    return findings


def spec_of(env: Any) -> Spec:
    """What algorithms need to know of what `build()` made."""
    if isinstance(env, VectorEnv | AgentEnvs):
        return as_host_env(env).spec
    limit = env.spec.max_episode_steps if env.spec else None
    masked = find_masks_of(env) != "none"
    return Spec(
        env.observation_space, env.action_space, limit, mask_length(env.action_space) if masked else None
    )
