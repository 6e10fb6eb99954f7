"""Random play: what most checks look at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import mask_length
from actrix.doctor.finding import Finding, blame
from actrix.envs.guard import EnvError, Guard
from actrix.envs.masks import find_masks_of, masks_now, told

SECONDS, STEPS, EPISODES = 10.0, 5000, 20
"""Random play stops at the first of these; seeds and resets are looked at in about as much time again."""


@dataclasses.dataclass
class Play:
    """Random episodes: what the other checks look at."""

    rewards: list[float] = dataclasses.field(default_factory=list)
    returns: list[float] = dataclasses.field(default_factory=list)
    ends: list[tuple[int, bool, bool]] = dataclasses.field(default_factory=list)
    """(length, terminated, truncated) of each finished episode."""
    seconds: float = 0.0
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def complain(self, level: str, check: str, result: str, remedy: str) -> None:
        """A finding, once for each check."""
        if all(finding.check != check for finding in self.findings):
            self.findings.append(Finding(level, check, result, remedy))


Complain = Callable[[str, str, str, str], None]
"""(level, check, result, remedy)."""


def random_action(env: gym.Env, info: dict[str, Any], masks: str) -> Any:
    """A random action, one that the mask allows where there is one (`masks`: where it is found)."""
    space = env.action_space
    if masks == "none":
        return space.sample()
    mask = masks_now(env) if masks == "method" else told(info, mask_length(space))
    mask = np.asarray(mask, np.int8)
    if mask.shape != (mask_length(space),):
        raise EnvError(
            f"the action mask has shape {mask.shape}; the action space {space} needs ({mask_length(space)},)."
        )
    return legal_action(space, mask)


def legal_action(space: Any, mask: np.ndarray) -> Any:
    """A random action that a mask (int8, `mask_length` long) allows."""
    if isinstance(space, spaces.Discrete):
        return space.sample(mask)
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * mask.size
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    return space.sample(tuple(parts)) if isinstance(space, spaces.MultiDiscrete) else space.sample()


def random_play(env: gym.Env, seed: int) -> Play:
    """Random episodes of `env`, each step looked at; what it raises ends them and is a finding."""
    play = Play()
    with blame(play.findings, "data"):
        masks = find_masks_of(env)
        guard = Guard(env)
        env.action_space.seed(seed)
        begun = time.perf_counter()
        obs, info = guard.reset(seed=seed)
        _look(env.observation_space, obs, "reset", play.complain)
        total, length = 0.0, 0
        while (
            len(play.rewards) < STEPS and len(play.ends) < EPISODES and time.perf_counter() - begun < SECONDS
        ):
            held, before, tick = obs, copied(obs), time.perf_counter()
            obs, reward, terminated, truncated, info = guard.step(random_action(env, info, masks))
            play.seconds += time.perf_counter() - tick
            where = f"step {guard.steps}"
            if not equal(held, before):
                text = f"{where} changed the array that was returned before it; actrix copies, other code may not"
                play.complain("note", "reused arrays", text, "return a copy: obs.copy()")
            _look(env.observation_space, obs, where, play.complain)
            _look_at_reward_and_flags(reward, terminated and truncated, where, play.complain)
            play.rewards.append(float(reward))
            total, length = total + float(reward), length + 1
            if terminated or truncated:
                play.ends.append((length, bool(terminated), bool(truncated)))
                play.returns.append(total)
                obs, info = guard.reset()
                _look(env.observation_space, obs, "reset", play.complain)
                total, length = 0.0, 0
    return play


def _look_at_reward_and_flags(reward: Any, both: bool, where: str, complain: Complain) -> None:
    if not np.isfinite(reward):
        complain(
            "fix",
            "finite rewards",
            f"{where}: the reward is {reward}",
            "find the division by zero or overflow",
        )
    if both:
        complain("note", "flags", f"{where}: terminated and truncated are both true; it counts as terminated",
                 "set truncated only where the task could have gone on")  # fmt: skip


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


def _look(space: gym.Space, obs: Any, where: str, complain: Complain) -> None:
    """Dtype, finiteness and bounds of one observation."""
    for name, part, x in _leaves(space, obs):
        if x.dtype != part.dtype and isinstance(part, spaces.Box):
            text = f"{where}: {name} is converted. Expected: {part.dtype}, actual dtype: {x.dtype}"
            complain("note", "dtype", text, f"return np.asarray(obs, np.{part.dtype})")  # fmt: skip
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            complain("fix", "finite observations", f"{where}: {name} holds {x[~np.isfinite(x)][0]}",
                     "find the division by zero or overflow")  # fmt: skip
        elif isinstance(part, spaces.Box) and ((x < part.low) | (x > part.high)).any():
            wrong = np.argwhere((x < part.low) | (x > part.high))
            i = tuple(wrong[0])
            index, many = ",".join(map(str, i)), f" ({len(wrong)} invalid indices: the first is shown)"
            text = f"{where}: {name} is out of bounds{many if len(wrong) > 1 else ''}. Expected: "
            text += f"{part.low[i]} <= obs[{index}] <= {part.high[i]}, actual value: {x[i]}"
            complain("fix", "bounds", text, "widen the space's bounds, or clip the observation")


def copied(obs: Any) -> Any:
    """A copy of an observation's arrays."""
    if isinstance(obs, dict):
        return {key: copied(part) for key, part in obs.items()}
    return tuple(copied(part) for part in obs) if isinstance(obs, tuple) else np.array(obs)


def equal(one: Any, two: Any) -> bool:
    """Whether two observations are the same, NaN and all."""
    if isinstance(one, dict):
        return all(equal(one[key], two[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(equal, one, two))
    return np.array_equal(one, two, equal_nan=np.asarray(one).dtype.kind == "f")
