"""Bad environments, named in one sentence: the error, the wrapper of one of them, the check of a chunk."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from actrix.envs.vec.monitor import Monitor

PyTree = Any


class EnvError(RuntimeError):
    """An environment raised or returned what is of no use; the message names environment, step and value."""


LARGEST = float(np.finfo(np.float32).max)
TOO_LARGE = f"which no 32-bit float can be (they end at {LARGEST:.1e}): scale it"


def as_scalar(value: Any) -> np.ndarray | None:
    """A number or flag of any library (NumPy's, JAX's, a tensor) as an array without axes; None for all else."""
    try:
        array = np.asarray(value)
    except Exception:  # whatever the user's own object raises
        return None
    return array if array.ndim == 0 else None


class SameObjectError(EnvError, ValueError):
    """One object was given for two environments. (Stable-Baselines3's is a ValueError.)"""


class Guard(gym.Wrapper):
    """Checks what one environment returns and names it when it raises; costs about a microsecond per step.

    Steps are counted from 1 over the life of the environment. Non-finite numbers are left to `check_chunk`.

    Raises EnvError: with the original exception as `__cause__` where the environment raised; where a step is
    not (obs, reward, terminated, truncated, info), an observation has the wrong shape or a dtype that the
    space cannot hold, the reward is no scalar, or a flag is neither bool nor numpy bool. KeyboardInterrupt
    passes.
    """

    def __init__(self, env: gym.Env, index: int = 0):
        super().__init__(env)
        self.index, self.steps = index, 0
        self.seed: int | None = None
        self._options: dict[str, Any] | None = None
        for monitor in self._monitors():
            monitor.numbered(index)
        space: Any = env.observation_space
        # What the fast path of `step` compares with; other spaces always take `conform`.
        self._shape: Any = space.shape if isinstance(space, spaces.Box) else None
        self._dtype: Any = space.dtype
        _take_plain(env.unwrapped)

    def _monitors(self) -> list[Monitor]:
        found, layer = [], self.env
        while isinstance(layer, gym.Wrapper):
            found += [layer] if isinstance(layer, Monitor) else []
            layer = layer.env
        return found

    def looked(self) -> None:
        """The last reset was only to look: it began no episode."""
        for monitor in self._monitors():
            monitor.needs_reset = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self.seed = seed
            for name in ("action_space", "observation_space"):  # some environments draw from their own spaces
                if isinstance(space := getattr(self.unwrapped, name, None), spaces.Space):
                    space.seed(seed)
        try:
            # Gymnasium hands {} to single resets of a vector, where environments expect None.
            result = self.env.reset(seed=seed, options=options or self._options or None)
        except Exception as error:
            self._raised("reset", error)
        self._options = None
        if not (isinstance(result, tuple) and len(result) == 2):
            self._complain(f"reset returned {shown(result)}; it must return (obs, info).")
        info = result[1] if isinstance(result[1], dict) else self._info(result[1])
        return conform(self.env.observation_space, result[0], self._complain), info

    def step(self, action: Any):
        self.steps += 1
        try:
            result = self.env.step(action)
        except Exception as error:
            self._raised("step", error)
        try:
            obs, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            self._complain(_not_a_step(result))
        if obs.__class__ is not np.ndarray or obs.shape != self._shape or obs.dtype != self._dtype:
            obs = conform(self.env.observation_space, obs, self._complain)
        if not isinstance(reward, float | int):
            reward = self._scalar(reward)
        if not -LARGEST <= reward <= LARGEST:
            self._check_size(reward)
        if terminated.__class__ is not bool and not isinstance(terminated, np.bool_):
            terminated = self._flag("terminated", terminated)
        if truncated.__class__ is not bool and not isinstance(truncated, np.bool_):
            truncated = self._flag("truncated", truncated)
        return obs, reward, terminated, truncated, info if isinstance(info, dict) else self._info(info)

    def reset_with(self, options: dict[str, Any]) -> None:
        """Options of the next reset, which a reset of all environments at once hands to none."""
        self._options = options

    def is_wrapped(self, kind: type[gym.Wrapper]) -> bool:
        """Whether the environment has such a wrapper."""
        return is_wrapped(self.env, kind)

    def _info(self, info: Any) -> dict[str, Any]:
        """Nothing, in the forms that people write it."""
        if info is not None and not (isinstance(info, list | tuple | str) and not info):
            self._complain(f"info is {shown(info)}; it must be a dict.")
        return {}

    def _scalar(self, reward: Any) -> float:
        array = as_scalar(reward)
        if array is None or array.dtype.kind not in "biuf":
            self._complain(f"reward is {shown(reward)}; it must be a number.")
        return float(array)

    def _flag(self, name: str, flag: Any) -> bool:
        array = as_scalar(flag)
        if array is None or array.dtype.kind != "b":
            self._complain(f"{name} is {shown(flag)}; it must be a bool.")
        return bool(array)

    def _check_size(self, reward: float) -> None:
        """NaN and infinity are for `check_chunk`, which would call this one infinity."""
        if isinstance(reward, int) or math.isfinite(reward):
            self._complain(f"reward is {shown(reward)}, {TOO_LARGE}.")

    def _where(self) -> str:
        seed = "" if self.seed is None else f" (seed {self.seed})"
        return f"environment {self.index} at step {self.steps}{seed}"

    def _raised(self, method: str, error: Exception) -> NoReturn:
        if isinstance(error, EnvError):
            raise error
        raise EnvError(f"{self._where()}: {method} raised {type(error).__name__}: {words(error)}") from error

    def _complain(self, sentence: str) -> NoReturn:
        raise EnvError(f"{self._where()}: {sentence}") from None


def _take_plain(env: Any) -> None:
    """Let an environment whose `reset` knows no `options`, or no `seed`, be reset by wrappers that pass them.

    Without `seed`, its `np_random` is seeded, and what an old `seed(seed)` method seeds.
    """
    plain = env.reset
    seeded, optional = takes(plain, "seed"), takes(plain, "options")
    if seeded and optional:
        return

    def reset(*, seed: int | None = None, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if options and not optional:
            raise TypeError(f"reset of {type(env).__name__} takes no options.")
        if seeded:
            kwargs["seed"] = seed
        elif seed is not None:
            gym.Env.reset(env, seed=seed)
            getattr(env, "seed", lambda _: None)(seed)
        return plain(**kwargs, options=options) if optional else plain(**kwargs)

    env.reset = reset


def takes(call: Callable, name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any."""
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):  # compiled code does not say
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def is_wrapped(env: gym.Env, kind: type[gym.Wrapper]) -> bool:
    """Whether an environment has a wrapper of this kind."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, kind):
            return True
        env = env.env
    return False


def check_apart(envs: Sequence[gym.Env]) -> None:
    """Raise SameObjectError where two of these are one object."""
    first: dict[int, int] = {}
    for i, env in enumerate(envs):
        j = first.setdefault(id(env.unwrapped), i)
        if j != i:
            raise SameObjectError(
                f"environments {j} and {i} are one and the same object, which both would step: make it inside the "
                "function, lambda: gym.make(...)."
            )


def words(error: BaseException) -> str:
    """An error's message, even where it cannot be had, and the line of the user's file that it comes from."""
    try:
        text = str(error)
    except BaseException:
        text = "(it has no message)"
    return (text if len(text) <= 1000 else f"{text[:1000]}...") + place(error)


def place(error: BaseException) -> str:
    """' (file.py, line 12)', the innermost line outside of installed packages and the library; '' without one."""
    library, found = str(Path(__file__).parents[1]), ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if not ("site-packages" in file.parts or frame.filename.startswith((library, "<frozen"))):
            found = f" ({file.name}, line {frame.lineno})"
    return found


def conform(space: Any, obs: Any, complain: Any, field: str = "observation") -> Any:
    """Return `obs` as arrays of the right shape, or call `complain(sentence)` with what is wrong."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
            found = f"has keys {sorted(map(str, obs))}" if isinstance(obs, Mapping) else f"is {shown(obs)}"
            complain(f"{field} {found}; it must be a dict with keys {sorted(space.spaces)}.")
        return {k: conform(part, obs[k], complain, f"{field}[{k!r}]") for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            complain(f"{field} is {shown(obs)}; it must be a tuple of {len(space.spaces)}.")
        parts = enumerate(zip(space.spaces, obs, strict=True))
        return tuple(conform(part, o, complain, f"{field}[{i}]") for i, (part, o) in parts)
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError):
        complain(f"{field} is {shown(obs)}, which is no array; it must have shape {space.shape}.")
    if array.shape != space.shape:
        complain(f"{field} is not its space's. Expected: {space.shape}, actual shape: {array.shape}.")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        complain(f"{field} holds {array.dtype}; its space says {space.dtype}, which cannot hold it.")
    if array.dtype != space.dtype and array.dtype.kind in "iu" and (array.astype(space.dtype) != array).any():
        wrong = array[array.astype(space.dtype) != array].flat[0]
        complain(f"{field} holds {wrong}; its space says {space.dtype}, which cannot hold it.")
    if isinstance(space, spaces.Discrete) and not space.start <= array < space.start + space.n:
        complain(f"{field} is {array}; it must lie in [{space.start}, {space.start + space.n - 1}].")
    if isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
        if ((array < low) | (array > high)).any():
            complain(f"{field} is {array}; it must lie in {low} to {high}.")
    return array


def check_chunk(obs: PyTree, next_obs: PyTree, reward: np.ndarray, first_step: int) -> None:
    """Raise EnvError where a chunk holds NaN or infinity, naming environment, step, field and value.

    Leaves are `[T, N, ...]`; `first_step` is the number of row 0 (1 for the very first step).
    """
    if obs.__class__ is np.ndarray and _finite(obs) and _finite(next_obs) and _finite(reward):
        return  # nearly always: the names below would cost more than the look
    for field, tree in (("reward", reward), ("next observation", next_obs), ("observation", obs)):
        for name, leaf in _leaves(field, tree):
            if not _finite(leaf):
                t, n, *rest = np.argwhere(~np.isfinite(leaf))[0].tolist()
                entry = f" at index {rest}" if rest else ""
                value = leaf[(t, n, *rest)]
                large = f" (32-bit floats are infinite beyond {LARGEST:.1e})" if np.isinf(value) else ""
                raise EnvError(
                    f"environment {n} at step {first_step + t}: {name}{entry} is {value}; it must be finite{large}."
                )


def _finite(x: np.ndarray) -> bool:
    if x.dtype.kind != "f":
        return True
    # One call instead of two: a finite sum of squares has finite terms. One that overflows is looked at closely.
    return math.isfinite(np.vdot(x, x)) or bool(np.isfinite(x).all())


def _leaves(name: str, tree: PyTree):
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from _leaves(f"{name}[{key!r}]", part)
    elif isinstance(tree, tuple):
        for i, part in enumerate(tree):
            yield from _leaves(f"{name}[{i}]", part)
    else:
        yield name, np.asarray(tree)


def env_seeds(seed: int | None, num_envs: int) -> list[int]:
    """Independent seeds below 2^31, one per environment, spawned from `seed` (None = fresh entropy)."""
    children = np.random.SeedSequence(whole_seed(seed)).spawn(num_envs)
    return [int(child.generate_state(1)[0] >> 1) for child in children]


def whole_seed(seed: Any) -> int | None:
    """The seed as Python's int; ValueError for what is neither None nor a whole number of at least 0."""
    if seed is None:
        return None
    try:
        right = not isinstance(seed, bool) and int(seed) == seed and seed >= 0
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0.")
    return int(seed)


def _not_a_step(result: Any) -> str:
    right = "it must return (obs, reward, terminated, truncated, info)"
    if isinstance(result, tuple) and len(result) == 4:
        return f"step returned 4 values, the API of the old gym; {right}."
    return f"step returned {shown(result)}; {right}."


def shown(value: Any) -> str:
    """A value in a message, on one line."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
