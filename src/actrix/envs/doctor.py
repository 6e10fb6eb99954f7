"""What is wrong with an environment, in plain words: Gymnasium's checker, and what it does not look at."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from actrix.core.plain import from_bytes, to_bytes
from actrix.core.spaces import UnsupportedSpaceError, check_action_space, check_observation_space, mask_length
from actrix.core.types import Spec
from actrix.envs import state
from actrix.envs.guard import EnvError, Guard, words
from actrix.envs.gymnasium import find_masks_of, own
from actrix.envs.make import as_host_env, make_vec_env

SECONDS, STEPS, EPISODES = 10.0, 5000, 20
"""Random play stops at the first of these; seeds and resets are looked at in about as much time again."""
LIMIT = 120.0
"""Seconds after which an examination that is not done is given up."""
SLOW = 2e-3
"""Seconds per step from which a process for each environment pays."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """'fine', 'note' (may be meant so) or 'fix' (training would learn something wrong, or fail)."""
    check: str
    result: str
    remedy: str = ""


_fine, _note, _fix = (functools.partial(Finding, level) for level in ("fine", "note", "fix"))


@dataclasses.dataclass
class Play:
    """Random episodes: what the other checks look at."""

    rewards: list[float] = dataclasses.field(default_factory=list)
    returns: list[float] = dataclasses.field(default_factory=list)
    ends: list[tuple[int, bool, bool]] = dataclasses.field(default_factory=list)
    """(length, terminated, truncated) of each finished episode."""
    seconds: float = 0.0
    findings: list[Finding] = dataclasses.field(default_factory=list)


def examine(build: Callable[[], Any], seed: int = 0) -> list[Finding]:
    """Examine what `build()` makes (a `gym.Env`, or a vector environment); every finding in the order of the checks.

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
        return [*findings, _fix("hanging", text, "let every call return soon")]
    return findings


def _examine(build: Callable[[], Any], seed: int, findings: list[Finding]) -> None:
    """`examine` into a list, which holds what was found before a call that does not return."""
    with _blame(findings, "construction", "the constructor must not raise"):
        env = build()
    if findings:
        return
    with _blame(findings, "examination"):
        if isinstance(env, VectorEnv):
            findings += _space_findings(env.single_observation_space, env.single_action_space)
            findings += _vector(env, seed)
        elif isinstance(env, gym.Env):
            _examine_one(env, build, seed, findings)
        else:
            findings += [_fix("construction", f"it is a {type(env).__name__}", "inherit from gymnasium.Env")]
            return
    with _blame(findings, "close"):
        env.close()


def _examine_one(env: gym.Env, build: Callable[[], Any], seed: int, findings: list[Finding]) -> None:
    findings += _gymnasium(build())
    findings += _space_findings(env.observation_space, env.action_space)
    if any(finding.level == "fix" for finding in findings if finding.check.endswith("space")):
        return
    play = _play(env, seed)
    findings += play.findings or [
        _fine("data", f"{len(play.rewards)} random steps: shapes, dtypes, bounds, flags, finite")
    ]
    pace = play.seconds / max(1, len(play.rewards))
    findings += [*_ends(env, play), *_rewards(play)]
    findings += (seeds := _determinism(build, seed, _fitting(pace, 4, 200)))
    if not any(finding.level == "fix" for finding in seeds):  # else nothing could be compared
        findings += _resuming(env, build, seed, _fitting(pace, 4, 100))
    findings += _autoreset(build, seed, _fitting(pace, 5, 1000))
    findings += _speed(play)


def _fitting(pace: float, times: int, most: int) -> int:
    """How many steps of `pace` seconds each to take so many times, in half of `SECONDS` together."""
    return max(3, min(most, int(SECONDS / 2 / times / max(pace, 1e-9))))


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
    with _blame(findings, "construction"):
        env = build()
        findings += describe(spec_of(env))
        env.close()
    return findings


def spec_of(env: Any) -> Spec:
    """What algorithms need to know of what `build()` made."""
    if isinstance(env, VectorEnv):
        return as_host_env(env).spec
    limit = env.spec.max_episode_steps if env.spec else None
    masked = find_masks_of(env) != "none"
    return Spec(
        env.observation_space, env.action_space, limit, mask_length(env.action_space) if masked else None
    )


def _said(error: Any) -> str:
    text = re.sub(
        r"\x1b\[[0-9;]*m", "", words(error) if isinstance(error, BaseException) else str(error)
    ).strip()
    return f"{type(error).__name__}: {' '.join(text.split())[:400]}"


@contextlib.contextmanager
def _blame(
    findings: list[Finding], check: str, remedy: str = "mend what the sentence names"
) -> Iterator[None]:
    """What an environment raises becomes a finding."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a step that calls sys.exit() would end the training
        text = str(error) if isinstance(error, EnvError) else _said(error)
        findings.append(_fix(check, text, remedy))


def _gymnasium(env: gym.Env) -> list[Finding]:
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except (Exception, SystemExit) as error:
            findings.append(_fix("Gymnasium's checker", _said(error), "mend what the sentence names"))
        with _blame(findings, "close"):
            env.close()
    said = dict.fromkeys(_said(w.message).split(": ", 1)[1].removeprefix("WARN: ") for w in caught)
    scaled = lambda text: "nothing: actrix scales actions" if "symmetric and normalized" in text else ""
    findings += [_note("Gymnasium's checker", text, scaled(text)) for text in said if "render" not in text]
    return findings or [_fine("Gymnasium's checker", "no complaint")]


def _space_findings(observation_space: gym.Space, action_space: gym.Space) -> list[Finding]:
    findings = []
    for check, name, space in (
        (check_observation_space, "observation space", observation_space),
        (check_action_space, "action space", action_space),
    ):
        try:
            check(space)
            findings.append(_fine(name, str(space)[:200]))
        except UnsupportedSpaceError as error:
            findings.append(_fix(name, str(error), "wrap the environment so that it has a supported space"))
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded("both"):
        findings.append(
            _note("action bounds", "infinite: actions pass unscaled, and SAC, TD3 and their kin need bounds",
                    "give low and high"))  # fmt: skip
    return findings


# ---------------------------------------------------------------------------- random play


def _random_action(env: gym.Env, info: dict[str, Any], masks: str) -> Any:
    space = env.action_space
    if masks == "none":
        return space.sample()
    mask = env.get_wrapper_attr("action_masks")() if masks == "method" else info["action_mask"]
    mask = np.asarray(mask, np.int8)
    if mask.shape != (mask_length(space),):
        raise EnvError(
            f"the action mask has shape {mask.shape}; the action space {space} needs ({mask_length(space)},)."
        )
    if isinstance(space, spaces.Discrete):
        return space.sample(mask)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * mask.size
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    return space.sample(tuple(parts)) if isinstance(space, spaces.MultiDiscrete) else space.sample()


def _play(env: gym.Env, seed: int) -> Play:
    play, noted = Play(), set()

    def complain(level: str, check: str, result: str, remedy: str) -> None:
        if check not in noted:
            noted.add(check)
            play.findings.append(Finding(level, check, result, remedy))

    with _blame(play.findings, "data"):
        masks = find_masks_of(env)
        guard = Guard(env)
        env.action_space.seed(seed)
        begun = time.perf_counter()
        obs, info = guard.reset(seed=seed)
        _look(env.observation_space, obs, "reset", complain)
        total, length = 0.0, 0
        while (
            len(play.rewards) < STEPS and len(play.ends) < EPISODES and time.perf_counter() - begun < SECONDS
        ):
            before = _copy(obs)
            held, tick = obs, time.perf_counter()
            obs, reward, terminated, truncated, info = guard.step(_random_action(env, info, masks))
            play.seconds += time.perf_counter() - tick
            where = f"step {guard.steps}"
            if not _equal(held, before):
                text = f"{where} changed the array that was returned before it; actrix copies, other code may not"
                complain("note", "reused arrays", text, "return a copy: obs.copy()")
            _look(env.observation_space, obs, where, complain)
            if not np.isfinite(reward):
                complain(
                    "fix",
                    "finite rewards",
                    f"{where}: the reward is {reward}",
                    "find the division by zero or overflow",
                )
            if terminated and truncated:
                complain("note", "flags", f"{where}: terminated and truncated are both true; it counts as terminated",
                         "set truncated only where the task could have gone on")  # fmt: skip
            play.rewards.append(float(reward))
            total, length = total + float(reward), length + 1
            if terminated or truncated:
                play.ends.append((length, bool(terminated), bool(truncated)))
                play.returns.append(total)
                obs, info = guard.reset()
                _look(env.observation_space, obs, "reset", complain)
                total, length = 0.0, 0
    return play


def _leaves(
    space: gym.Space, obs: Any, name: str = "observation"
) -> Iterator[tuple[str, gym.Space, np.ndarray]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, obs[key], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _leaves(part, obs[i], f"{name}[{i}]")
    else:
        yield name, space, np.asarray(obs)


def _look(space: gym.Space, obs: Any, where: str, complain: Callable[[str, str, str, str], None]) -> None:
    """Dtype, finiteness and bounds of one observation."""
    for name, part, x in _leaves(space, obs):
        if x.dtype != part.dtype and isinstance(part, spaces.Box):
            complain("note", "dtype", f"{where}: {name} is {x.dtype}, its space says {part.dtype}; it is converted",
                     f"return np.asarray(obs, np.{part.dtype})")  # fmt: skip
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            complain("fix", "finite observations", f"{where}: {name} holds {x[~np.isfinite(x)][0]}",
                     "find the division by zero or overflow")  # fmt: skip
        elif isinstance(part, spaces.Box) and ((x < part.low) | (x > part.high)).any():
            i = tuple(np.argwhere((x < part.low) | (x > part.high))[0])
            bounds = f"[{part.low[i]:g}, {part.high[i]:g}]"
            complain("fix", "bounds", f"{where}: {name} is {x[i]:g} at index {[int(n) for n in i]}, outside {bounds}",
                     "widen the space's bounds, or clip the observation")  # fmt: skip


def _copy(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: _copy(part) for key, part in obs.items()}
    return tuple(_copy(part) for part in obs) if isinstance(obs, tuple) else np.array(obs)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(_equal, one, two))
    return np.array_equal(one, two, equal_nan=np.asarray(one).dtype.kind == "f")


# ---------------------------------------------------------------------------- episodes' ends, rewards, speed


def _own_limit(env: gym.Env, length: int) -> str | None:
    """The name of an attribute that looks like a time limit of this length."""
    for name, value in vars(env.unwrapped).items():
        if type(value) is int and value == length and re.search("max|limit|horizon|length", name, re.I):
            return name
    return None


def _ends(env: gym.Env, play: Play) -> list[Finding]:
    limit = env.spec.max_episode_steps if env.spec else None
    lengths = [length for length, *_ in play.ends]
    if not lengths:
        if play.findings and not play.rewards:
            return []
        if limit and limit > len(play.rewards):
            return [
                _fine(
                    "time limit",
                    f"{limit} steps; none of {len(play.rewards)} random steps ended an episode",
                )
            ]
        return [_note("time limit", f"no episode ended in {len(play.rewards)} random steps, and no time limit",
                        "register it with max_episode_steps, or wrap it in gymnasium.wrappers.TimeLimit")]  # fmt: skip
    terminated, truncated = (sum(end[i] for end in play.ends) for i in (1, 2))
    ends = f"{terminated} of {len(lengths)} episodes terminated, {truncated} truncated"
    step = limit or _shared(lengths)
    at_limit = [(t, cut) for length, t, cut in play.ends if length == step]
    name = _own_limit(env, step) if step else None
    remedy = "at the limit return terminated=False, truncated=True: the value of what would have followed still counts"
    if limit and any(length > limit for length in lengths):
        return [
            _fix(
                "time limit",
                f"an episode took {max(lengths)} steps; the limit is {limit}",
                "end it there",
            )
        ]
    if at_limit and all(t and not cut for t, cut in at_limit) and (name or len(at_limit) >= 3):
        what = (
            f"{len(at_limit)} of {len(lengths)} episodes ended after exactly {step} steps, all as terminated"
        )
        if name or limit:
            known = f"{name} = {step}" if name else f"max_episode_steps = {limit}"
            return [_fix("time limit", f"{what}, and {known}", remedy)]
        return [_note("time limit", what, f"if that is a time limit: {remedy}")]
    return [
        _fine(
            "time limit",
            f"{limit or 'none registered'}; {ends}, {min(lengths)} to {max(lengths)} steps long",
        )
    ]


def _shared(lengths: list[int]) -> int | None:
    """The length that the longest episodes share, if several do and it is more than one step."""
    longest = max(lengths)
    return longest if longest > 1 and lengths.count(longest) >= 3 else None


def _rewards(play: Play) -> list[Finding]:
    rewards = np.asarray(play.rewards)
    if not rewards.size or not np.isfinite(rewards).all():
        return []
    low, mean, high, std = rewards.min(), rewards.mean(), rewards.max(), rewards.std()
    figures = f"min {low:g}, mean {mean:.3g}, max {high:g}, std {std:.3g} per step"
    if play.returns:
        figures += f"; return {np.mean(play.returns):.4g} ± {np.std(play.returns):.3g}"
    if not rewards.any():
        return [_note("reward scale", f"every reward of {rewards.size} random steps was 0",
                        "if success is that rare: shape the reward, or start nearer to the goal")]  # fmt: skip
    if rewards.std() == 0 and len({length for length, *_ in play.ends}) == 1:
        text = f"{figures}: in random play every episode had the same length and reward"
        return [
            _note("reward scale", text, "if success is not just rare: let the reward depend on what is done")
        ]
    if not 1e-3 <= np.abs(rewards).max() <= 100:
        return [
            _note(
                "reward scale",
                figures,
                "train with normalize_reward=True, or scale the reward to about ±1",
            )
        ]
    return [_fine("reward scale", figures)]


def _speed(play: Play) -> list[Finding]:
    if not play.rewards:
        return []
    step = play.seconds / len(play.rewards)
    text = f"{1e6 * step:.0f} µs per step of one environment"
    if step > SLOW:
        return [_note("speed", text, "a process for each pays: --workers, or make_vec_env(…, workers=True)")]
    return [_fine("speed", text)]


# ---------------------------------------------------------------------------- seeds, resets


def _trajectory(env: gym.Env, seed: int, steps: int) -> list[tuple]:
    masks = find_masks_of(env)
    obs, info = env.reset(seed=seed)
    return [(_copy(obs), 0.0, False, False), *_play_on(env, info, masks, seed, steps)[0]]


def _play_on(
    env: gym.Env, info: dict[str, Any], masks: str, seed: int, steps: int
) -> tuple[list[tuple], dict[str, Any]]:
    """So many random steps from where `env` is: their rows, those of resets among them, and the newest info."""
    rows = []
    env.action_space.seed(seed)  # each time: two environments may share one space
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(_random_action(env, info, masks))
        rows.append((_copy(obs), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            obs, info = env.reset()
            rows.append((_copy(obs), 0.0, False, False))
    return rows, info


def _determinism(build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    findings: list[Finding] = []
    with _blame(findings, "seeds"):
        one, two = build(), build()
        first, again = _trajectory(one, seed, steps), _trajectory(two, seed, steps)
        reused, other = _trajectory(one, seed, steps), _trajectory(two, seed + 1, steps)
        one.close()
        two.close()
        remedy = "draw all randomness from self.np_random, after super().reset(seed=seed)"
        for rows, what in ((again, "two environments"), (reused, "two resets of one environment")):
            differ = _first_difference(first, rows)
            if differ is not None or len(first) != len(rows):
                return [
                    _fix(
                        "seeds",
                        f"{what} with the same seed and actions differ at row {differ}",
                        remedy,
                    )
                ]
        text = "the same seed gives the same episodes"
        if len(first) == len(other) and _same(first[0], other[0]):
            text += "; another seed starts in the same state"
        findings.append(_fine("seeds", text))
    return findings


def _resuming(env: gym.Env, build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    """Whether a resumed run goes on in the same episodes: an environment is put into the state of another one."""
    if reason := state.unsupported(env):
        return [_fine("resuming", f"a resumed run begins new episodes: {reason}")]
    findings: list[Finding] = []
    remedy = "give plain data (numbers, text, arrays, lists, dicts), and take it back"
    with (
        _blame(findings, "resuming", remedy),
        contextlib.closing(build()) as one,
        contextlib.closing(build()) as two,
    ):
        masks = find_masks_of(one)  # which resets it
        _, info = one.reset(seed=seed)
        _, info = _play_on(one, info, masks, seed, steps // 2)
        begun = time.perf_counter()
        saved = to_bytes(state.get_state(one))
        seconds = time.perf_counter() - begun
        state.set_state(two, from_bytes(saved))
        rows, others = (_play_on(each, info, masks, seed, steps // 2)[0] for each in (one, two))
        if (differ := _first_difference(rows, others)) is not None:
            text = f"an environment with a saved state goes on otherwise: step {differ + 1} after it differs"
            return [_fix("resuming", text, "put all that the next steps depend on into get_state()")]
        text = f"a resumed run goes on in the same episodes: {len(saved):,} bytes each, saved in {1e3 * seconds:.1f} ms"
        findings.append(_fine("resuming", text))
    return findings


def _first_difference(rows: list[tuple], others: list[tuple]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(rows, others, strict=False)) if not _same(a, b)), None)


def _same(one: tuple, two: tuple) -> bool:
    return _equal(one[0], two[0]) and np.array_equal(one[1:], two[1:], equal_nan=True)


def _autoreset(build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    """Whether the last observation of an episode is its own, and two copies run side by side."""
    findings: list[Finding] = []
    with _blame(findings, "resets"):
        env = build()
        masks, starts, lasts = find_masks_of(env), [], []
        env.action_space.seed(seed)
        for episode in range(5):
            obs, info = env.reset(seed=seed + episode)
            starts.append(_copy(obs))
            seen = False
            for _ in range(steps):
                obs, _, terminated, truncated, info = env.step(_random_action(env, info, masks))
                if terminated or truncated:
                    lasts.append((_copy(obs), starts[-1], seen))
                    break
                seen = seen or not _equal(obs, starts[-1])
        env.close()
        moved = [(last, start) for last, start, seen in lasts if seen]
        if len(moved) >= 3 and all(_equal(last, start) for last, start in moved):
            remedy = "return the last observation of the old episode; reset is called for the next one"
            return [
                _fix("resets", "every episode ends with a first observation: step resets by itself", remedy)
            ]
        envs = make_vec_env(build, 2, seed)
        envs.reset([seed, seed + 1])
        space = envs.spec.action_space
        if isinstance(space, spaces.Box | spaces.Discrete) and envs.spec.mask_size is None:
            for _ in range(min(20, steps)):
                envs.step(
                    np.zeros(
                        (2, *(space.shape or ())), np.float32 if isinstance(space, spaces.Box) else np.int32
                    )
                )
        envs.close()
        findings.append(_fine("resets", "an episode's last observation is its own; two run side by side"))
    return findings


def _vector(envs: VectorEnv, seed: int) -> list[Finding]:
    """A vector environment of the user's own: its autoreset mode, declared and real."""
    findings: list[Finding] = []
    declared = envs.metadata.get("autoreset_mode")
    if declared is None:
        findings.append(_note("autoreset", "metadata has no autoreset_mode: it is taken as NEXT_STEP",
                                'metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.…'))  # fmt: skip
    try:
        mode = AutoresetMode(declared or AutoresetMode.NEXT_STEP)
    except ValueError:
        modes = ", ".join(mode.name for mode in AutoresetMode)
        text = f"metadata has autoreset_mode {declared!r}"
        return [*findings, _fix("autoreset", text, f"one of gymnasium.vector.AutoresetMode: {modes}")]
    with _blame(findings, "autoreset"):
        host = as_host_env(envs, seed=seed)
        host.reset()
        envs.action_space.seed(seed)
        ended, begun, seen = np.zeros(envs.num_envs, bool), time.perf_counter(), 0
        for _ in range(STEPS):
            obs, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
            if mode is AutoresetMode.NEXT_STEP and (ended & ((reward != 0) | terminated | truncated)).any():
                i = int(np.flatnonzero(ended)[0])
                text = (
                    f"environment {i}: the step after an end has a reward or ends again, unlike {mode.name}"
                )
                findings.append(_fix("autoreset", text, 'set metadata["autoreset_mode"] to what it does'))
                break
            ended = terminated | truncated
            seen += int(ended.sum())
            if mode is AutoresetMode.SAME_STEP and ended.any() and "final_obs" not in infos:
                remedy = "put the last observations there: without them a truncated value is wrong"
                text = "an episode ended in SAME_STEP mode, and infos has no 'final_obs'"
                findings.append(_fix("autoreset", text, remedy))
                break
            if mode is AutoresetMode.DISABLED and ended.any():
                envs.reset(options={"reset_mask": ended})
            if seen >= EPISODES or time.perf_counter() - begun > SECONDS:
                break
        own(obs)
        if all(finding.level != "fix" for finding in findings):
            findings.append(_fine("autoreset", f"{mode.name}, {seen} ends seen"))
    return findings
