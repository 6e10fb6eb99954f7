"""What is looked at, one function for each line or group of lines of the report."""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from actrix.core.plain import from_bytes, to_bytes
from actrix.core.spaces import (
    UnsupportedSpaceError,
    check_action_space,
    check_observation_space,
    is_image,
    space_leaves,
)
from actrix.doctor import play
from actrix.doctor.finding import Finding, blame, fine, fix, note, said
from actrix.doctor.play import Play, copied, equal, random_action
from actrix.envs.careful import autoreset_mode
from actrix.envs.guard import EnvError
from actrix.envs.gymnasium import own
from actrix.envs.make import as_host_env, make_vec_env
from actrix.envs.masks import find_masks_of
from actrix.envs.state import whole

SLOW = 2e-3
"""Seconds per step from which a process for each environment pays."""


def gymnasiums_own(env: gym.Env) -> list[Finding]:
    """What Gymnasium's checker says; `env` is closed afterwards."""
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except (Exception, SystemExit) as error:
            findings.append(fix("Gymnasium's checker", said(error), "mend what the sentence names"))
        with blame(findings, "close"):
            env.close()
    texts = dict.fromkeys(said(w.message).split(": ", 1)[1].removeprefix("WARN: ") for w in caught)
    scaled = lambda text: "nothing: actrix scales actions" if "symmetric and normalized" in text else ""
    findings += [note("Gymnasium's checker", text, scaled(text)) for text in texts if "render" not in text]
    return findings or [fine("Gymnasium's checker", "no complaint")]


def supported(observation_space: gym.Space, action_space: gym.Space) -> list[Finding]:
    """Whether actrix can learn in these spaces."""
    findings = []
    for check, name, space in (
        (check_observation_space, "observation space", observation_space),
        (check_action_space, "action space", action_space),
    ):
        try:
            check(space)
            findings.append(fine(name, str(space)[:200]))
        except UnsupportedSpaceError as error:
            findings.append(fix(name, str(error), "wrap the environment so that it has a supported space"))
    findings += [_unlike_an_image(leaf) for leaf in space_leaves(observation_space) if _flat_image(leaf)]
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded("both"):
        findings.append(
            note("action bounds", "infinite: actions pass unscaled, and SAC, TD3 and their kin need bounds",
                    "give low and high"))  # fmt: skip
    return findings


def _flat_image(space: gym.Space) -> bool:
    """Whether it has an image's shape and numbers, and is none by its bounds or dtype."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or min(space.shape) > 4 or is_image(space):
        return False
    return space.dtype == np.uint8 or bool(1 < space.high.max() < np.inf)


def _unlike_an_image(space: gym.Space) -> Finding:
    text = f"{space} is flattened and not scaled: an image is uint8 with bounds 0 and 255"
    return note("images", text, "return such, or scale it to 0 … 1 and take CnnPolicy")


def _own_limit(env: gym.Env, length: int) -> str | None:
    """The name of an attribute that looks like a time limit of this length."""
    for name, value in vars(env.unwrapped).items():
        if type(value) is int and value == length and re.search("max|limit|horizon|length", name, re.I):
            return name
    return None


def ends(env: gym.Env, played: Play) -> list[Finding]:
    """How episodes end: whether a time limit is one, and is told apart from a termination."""
    limit = env.spec.max_episode_steps if env.spec else None
    lengths = [length for length, *_ in played.ends]
    if not lengths:
        return _endless(played, limit)
    terminated, truncated = (sum(end[i] for end in played.ends) for i in (1, 2))
    ended = f"{terminated} of {len(lengths)} episodes terminated, {truncated} truncated"
    step = limit or _shared(lengths)
    at_limit = [(t, cut) for length, t, cut in played.ends if length == step]
    name = _own_limit(env, step) if step else None
    remedy = "at the limit return terminated=False, truncated=True: the value of what would have followed still counts"
    if limit and any(length > limit for length in lengths):
        text = f"an episode took {max(lengths)} steps; the limit is {limit}"
        return [fix("time limit", text, "end it there")]
    if at_limit and all(t and not cut for t, cut in at_limit) and (name or len(at_limit) >= 3):
        what = (
            f"{len(at_limit)} of {len(lengths)} episodes ended after exactly {step} steps, all as terminated"
        )
        if name or limit:
            known = f"{name} = {step}" if name else f"max_episode_steps = {limit}"
            return [fix("time limit", f"{what}, and {known}", remedy)]
        return [note("time limit", what, f"if that is a time limit: {remedy}")]
    text = f"{limit or 'none registered'}; {ended}, {min(lengths)} to {max(lengths)} steps long"
    return [fine("time limit", text)]


def _endless(played: Play, limit: int | None) -> list[Finding]:
    """Random play saw no episode end."""
    steps = len(played.rewards)
    if played.findings and not steps:
        return []
    if limit and limit > steps:
        return [fine("time limit", f"{limit} steps; none of {steps} random steps ended an episode")]
    return [note("time limit", f"no episode ended in {steps} random steps, and no time limit",
                 "register it with max_episode_steps, or wrap it in gymnasium.wrappers.TimeLimit")]  # fmt: skip


def _shared(lengths: list[int]) -> int | None:
    """The length that the longest episodes share, if several do and it is more than one step."""
    longest = max(lengths)
    return longest if longest > 1 and lengths.count(longest) >= 3 else None


def rewards(played: Play) -> list[Finding]:
    """Their scale, and whether they say anything."""
    rewards = np.asarray(played.rewards)
    if not rewards.size or not np.isfinite(rewards).all():
        return []
    low, mean, high, std = rewards.min(), rewards.mean(), rewards.max(), rewards.std()
    figures = f"min {low:g}, mean {mean:.3g}, max {high:g}, std {std:.3g} per step"
    if played.returns:
        figures += f"; return {np.mean(played.returns):.4g} ± {np.std(played.returns):.3g}"
    if not rewards.any():
        return [note("reward scale", f"every reward of {rewards.size} random steps was 0",
                        "if success is that rare: shape the reward, or start nearer to the goal")]  # fmt: skip
    if rewards.std() == 0 and len({length for length, *_ in played.ends}) == 1:
        text = f"{figures}: in random play every episode had the same length and reward"
        return [
            note("reward scale", text, "if success is not just rare: let the reward depend on what is done")
        ]
    if not 1e-3 <= np.abs(rewards).max() <= 100:
        remedy = "train with normalize_reward=True, or scale the reward to about ±1"
        return [note("reward scale", figures, remedy)]
    return [fine("reward scale", figures)]


def speed(played: Play) -> list[Finding]:
    """Whether a process for each environment would pay."""
    if not played.rewards:
        return []
    step = played.seconds / len(played.rewards)
    text = f"{1e6 * step:.0f} µs per step of one environment"
    if step > SLOW:
        return [note("speed", text, "a process for each pays: --workers, or make_vec_env(…, workers=True)")]
    return [fine("speed", text)]


def _trajectory(env: gym.Env, seed: int, steps: int) -> list[tuple]:
    masks = find_masks_of(env)
    obs, info = env.reset(seed=seed)
    return [(copied(obs), 0.0, False, False), *_play_on(env, info, masks, seed, steps)[0]]


def _play_on(
    env: gym.Env, info: dict[str, Any], masks: str, seed: int, steps: int
) -> tuple[list[tuple], dict[str, Any]]:
    """So many random steps from where `env` is: their rows, those of resets among them, and the newest info."""
    rows = []
    env.action_space.seed(seed)  # each time: two environments may share one space
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(random_action(env, info, masks))
        rows.append((copied(obs), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            obs, info = env.reset()
            rows.append((copied(obs), 0.0, False, False))
    return rows, info


def seeds(build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    """Whether the same seed and actions give the same episodes."""
    findings: list[Finding] = []
    with blame(findings, "seeds"):
        one, two = build(), build()
        first, again = _trajectory(one, seed, steps), _trajectory(two, seed, steps)
        reused, other = _trajectory(one, seed, steps), _trajectory(two, seed + 1, steps)
        one.close()
        two.close()
        remedy = "draw all randomness from self.np_random, after super().reset(seed=seed)"
        for rows, what in ((again, "two environments"), (reused, "two resets of one environment")):
            differ = _first_difference(first, rows)
            if differ is not None or len(first) != len(rows):
                text = f"{what} with the same seed and actions differ at row {differ}"
                return [fix("seeds", text, remedy)]
        text = "the same seed gives the same episodes"
        if len(first) == len(other) and _same(first[0], other[0]):
            text += "; another seed starts in the same state"
        findings.append(fine("seeds", text))
    return findings


def resuming(env: gym.Env, build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    """Whether a resumed run goes on in the same episodes: an environment is put into the state of another one."""
    if reason := whole.unsupported(env):
        return [fine("resuming", f"a resumed run begins new episodes: {reason}")]
    findings: list[Finding] = []
    remedy = "give plain data (numbers, text, arrays, lists, dicts), and take it back"
    with (
        blame(findings, "resuming", remedy),
        contextlib.closing(build()) as one,
        contextlib.closing(build()) as two,
    ):
        masks = find_masks_of(one)  # which resets it
        _, info = one.reset(seed=seed)
        _, info = _play_on(one, info, masks, seed, steps // 2)
        begun = time.perf_counter()
        saved = to_bytes(whole.get_state(one))
        seconds = time.perf_counter() - begun
        whole.set_state(two, from_bytes(saved))
        rows, others = (_play_on(each, info, masks, seed, steps // 2)[0] for each in (one, two))
        if (differ := _first_difference(rows, others)) is not None:
            text = f"an environment with a saved state goes on otherwise: step {differ + 1} after it differs"
            return [fix("resuming", text, "put all that the next steps depend on into get_state()")]
        text = f"a resumed run goes on in the same episodes: {len(saved):,} bytes each, saved in {1e3 * seconds:.1f} ms"
        findings.append(fine("resuming", text))
    return findings


def _first_difference(rows: list[tuple], others: list[tuple]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(rows, others, strict=False)) if not _same(a, b)), None)


def _same(one: tuple, two: tuple) -> bool:
    return equal(one[0], two[0]) and np.array_equal(one[1:], two[1:], equal_nan=True)


def resets(build: Callable[[], Any], seed: int, steps: int) -> list[Finding]:
    """Whether the last observation of an episode is its own, and two copies run side by side."""
    findings: list[Finding] = []
    with blame(findings, "resets"):
        moved = _moved(build, seed, steps)
        if len(moved) >= 3 and all(equal(last, start) for last, start in moved):
            remedy = "return the last observation of the old episode; reset is called for the next one"
            return [
                fix("resets", "every episode ends with a first observation: step resets by itself", remedy)
            ]
        _side_by_side(build, seed, min(20, steps))
        findings.append(fine("resets", "an episode's last observation is its own; two run side by side"))
    return findings


def _moved(build: Callable[[], Any], seed: int, steps: int) -> list[tuple[Any, Any]]:
    """(last, first) observation of the episodes, of five, that ended in time and had left their first one for good."""
    env, moved = build(), []
    masks = find_masks_of(env)
    env.action_space.seed(seed)
    for episode in range(5):
        obs, info = env.reset(seed=seed + episode)
        start, seen, back = copied(obs), False, False
        for _ in range(steps):
            obs, _, terminated, truncated, info = env.step(random_action(env, info, masks))
            if terminated or truncated:
                moved += [(copied(obs), start)] if seen and not back else []
                break
            first = equal(obs, start)
            seen, back = seen or not first, back or (seen and first)
    env.close()
    return moved


def _side_by_side(build: Callable[[], Any], seed: int, steps: int) -> None:
    """Step two copies together; whatever they raise passes on."""
    envs = make_vec_env(build, 2, seed)
    envs.reset([seed, seed + 1])
    space = envs.spec.action_space
    if isinstance(space, spaces.Box | spaces.Discrete) and envs.spec.mask_size is None:
        dtype = np.float32 if isinstance(space, spaces.Box) else np.int32
        for _ in range(steps):
            envs.step(np.zeros((2, *(space.shape or ())), dtype))
    envs.close()


def vector(envs: VectorEnv, seed: int) -> list[Finding]:
    """A vector environment of the user's own: its autoreset mode, declared and real."""
    findings: list[Finding] = []
    declared = envs.metadata.get("autoreset_mode")
    if declared is None:
        findings.append(note("autoreset", "metadata has no autoreset_mode: it is taken as NEXT_STEP",
                             'metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.…'))  # fmt: skip
    try:
        mode = autoreset_mode(envs)
    except EnvError:
        modes = ", ".join(mode.name for mode in AutoresetMode)
        text = f"metadata has autoreset_mode {declared!r}"
        return [*findings, fix("autoreset", text, f"one of gymnasium.vector.AutoresetMode: {modes}")]
    with blame(findings, "autoreset"):
        host = as_host_env(envs, seed=seed)
        host.reset()
        findings += _autoreset(envs, mode, seed)
    return findings


def _autoreset(envs: VectorEnv, mode: AutoresetMode, seed: int) -> list[Finding]:
    """Random steps of an environment that was reset, until one contradicts `mode`."""
    envs.action_space.seed(seed)
    ended, begun, seen = np.zeros(envs.num_envs, bool), time.perf_counter(), 0
    for _ in range(play.STEPS):
        obs, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        if mode is AutoresetMode.NEXT_STEP and (ended & ((reward != 0) | terminated | truncated)).any():
            i = int(np.flatnonzero(ended)[0])
            text = f"environment {i}: the step after an end has a reward or ends again, unlike {mode.name}"
            return [fix("autoreset", text, 'set metadata["autoreset_mode"] to what it does')]
        ended = terminated | truncated
        seen += int(ended.sum())
        if mode is AutoresetMode.SAME_STEP and ended.any() and "final_obs" not in infos:
            remedy = "put the last observations there: without them a truncated value is wrong"
            return [
                fix("autoreset", "an episode ended in SAME_STEP mode, and infos has no 'final_obs'", remedy)
            ]
        if mode is AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
        if seen >= play.EPISODES or time.perf_counter() - begun > play.SECONDS:
            break
    own(obs)  # raises where it cannot be copied
    return [fine("autoreset", f"{mode.name}, {seen} ends seen")]
