"""Vector environments of any make, spoken to as Gymnasium documents them, and what they answer made regular."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from actrix.envs.guard import LARGEST, TOO_LARGE, EnvError, conform, shown, takes
from actrix.envs.rows import gathered

FINAL = ("final_obs", "final_observation", "terminal_observation")
"""Keys of infos that only environments have which reset in the step that ends an episode."""


def autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    """The declared mode, also where it is written as text; Gymnasium's default NEXT_STEP without one; EnvError."""
    declared = (envs.metadata or {}).get("autoreset_mode")
    if declared is None or isinstance(declared, AutoresetMode):
        return declared or AutoresetMode.NEXT_STEP
    word = str(declared).rpartition(".")[2].replace("_", "").replace("-", "").lower()
    for mode in AutoresetMode:
        if word == mode.value.lower().replace("_", ""):
            return mode
    modes = ", ".join(mode.name for mode in AutoresetMode)
    raise EnvError(
        f"the vector environment's metadata has autoreset_mode {declared!r}; it must be one of "
        f"gymnasium.vector.AutoresetMode: {modes}."
    )


class Careful:
    """`reset` and `step` of a vector environment that is not one of ours.

    Seeds go as they are taken: one for each environment, one number, or none, with a RuntimeWarning. Rewards and flags
    may be lists, infos None or a list of dicts. EnvError, one sentence, for all else, and where the data contradict the
    autoreset mode: final observations without SAME_STEP, a reward or an end in the row that NEXT_STEP resets in, rows
    that a DISABLED environment resets without being asked.
    """

    def __init__(self, envs: Any, mode: AutoresetMode):
        self.envs, self.mode, self.num_envs, self.steps = envs, mode, envs.num_envs, 0
        self._batch: Any = batch_space(envs.single_observation_space, envs.num_envs)
        self._known = isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        # A wrapper may change the reward of a row that is a reset, and observations at each look.
        self._bare = not (self._known or isinstance(envs, VectorWrapper))
        self._takes = {name: takes(envs.reset, name) for name in ("seed", "options")}
        self._one_seed, self._ended, self._obs = False, np.zeros(envs.num_envs, bool), None
        gymnasiums = self._known or type(envs.unwrapped).__module__.startswith("gymnasium.")
        self._declared = gymnasiums or (envs.metadata or {}).get("autoreset_mode") is not None

    def reset(self, *, seed: list[int] | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """New episodes everywhere, or where `options["reset_mask"]` says so."""
        if options is not None and not self._takes["options"]:
            self._complain(
                "autoreset is DISABLED, and reset takes no options: it must take options={'reset_mask': …}"
            )
        result = self._seeded({} if options is None else {"options": options}, seed)
        if not (isinstance(result, tuple) and len(result) == 2 and is_info(result[1])):
            self._complain(f"reset returned {shown(result)}; it must return (obs, infos)")
        obs = conform(self._batch, result[0], self._say)
        if options is not None and self._bare:
            self._check_untouched(obs, options["reset_mask"])
        self._ended = np.zeros(self.num_envs, bool)
        return obs, self._infos(result[1])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all, in the types that Gymnasium has for it."""
        self.steps += 1
        result = self.envs.step(actions)
        if not (isinstance(result, tuple | list) and len(result) == 5):
            what = "4 values" if isinstance(result, tuple) and len(result) == 4 else shown(result)
            self._complain(
                f"step returned {what}; it must return (obs, reward, terminated, truncated, infos), in which a time "
                "limit is truncated and not terminated"
            )
        obs = conform(self._batch, result[0], self._say)
        reward = self._row("reward", result[1], "biuf")
        if (large := (np.abs(reward) > LARGEST) & np.isfinite(reward)).any():
            i = int(np.argmax(large))
            self._complain(f"reward of environment {i} is {reward[i]}, {TOO_LARGE}")
        terminated, truncated = (self._row(n, x, "b") for n, x in zip(FLAGS, result[2:4], strict=True))
        infos = self._infos(result[4])
        ended = terminated | truncated
        self._check_mode(reward, ended, infos)
        self._ended, self._obs = ended, obs if self.mode is AutoresetMode.DISABLED else None
        return obs, reward, terminated, truncated, infos

    def _seeded(self, options: dict[str, Any], seeds: list[int] | None) -> Any:
        if seeds is None:
            return self.envs.reset(**options)
        if not self._takes["seed"]:
            warn_unseeded()
            return self.envs.reset(**options)
        if not (self._known or self._one_seed):
            try:
                return self.envs.reset(seed=seeds, **options)
            except Exception:  # Gymnasium's own take one number, and refuse a list in many ways
                self._one_seed = True
        return self.envs.reset(seed=seeds[0] if self._one_seed else seeds, **options)

    def _row(self, name: str, value: Any, kinds: str) -> np.ndarray:
        try:
            array = np.asarray(value)
        except Exception:
            array = np.asarray(None)
        if array.dtype == np.uint8 and kinds == "b" and (array <= 1).all():
            array = array.astype(bool)  # PettingZoo's wrappers count so
        if array.shape != (self.num_envs,):
            what = f"has shape {array.shape}" if array.dtype.kind in "biuf" else f"is {shown(value)}"
            self._complain(f"{name} {what}; it must be an array ({self.num_envs},)")
        if array.dtype.kind not in kinds:
            self._complain(f"{name} holds {array.dtype}; it must be {'bool' if kinds == 'b' else 'numbers'}")
        return array

    def _infos(self, infos: Any) -> dict[str, Any]:
        if isinstance(infos, Mapping):
            return dict(infos)
        if infos is None or (isinstance(infos, list | tuple) and not infos):
            return {}
        if not isinstance(infos, list | tuple) or len(infos) != self.num_envs or not is_info(infos):
            self._complain(f"infos is {shown(infos)}; it must be a dict, or a list of {self.num_envs} dicts")
        return gathered(infos)

    def _check_mode(self, reward: np.ndarray, ended: np.ndarray, infos: dict[str, Any]) -> None:
        """Say so where this step is not what `mode` means."""
        if self.mode is AutoresetMode.SAME_STEP:
            return
        found = next((key for key in FINAL if key in infos), None)
        if not self._declared and not found and ended.any():
            self._declared = True  # said once
            warn_undeclared(self.envs.unwrapped)
        if found and ended.any():
            self._contradicted(f"at the end of an episode infos has {found!r}, as in SAME_STEP mode")
        again = self._ended & (ended | (self._bare & (reward != 0)))
        if self.mode is AutoresetMode.NEXT_STEP and again.any():
            self._contradicted(
                f"the step of environment {int(np.argmax(again))} after an end has a reward or ends again"
            )

    def _contradicted(self, what: str) -> NoReturn:
        declared = (self.envs.metadata or {}).get("autoreset_mode") is not None
        says = "its metadata declares" if declared else "its metadata has no autoreset_mode, which means"
        self._complain(
            f"{what}, but {says} {self.mode.name}: set metadata['autoreset_mode'] to the "
            "gymnasium.vector.AutoresetMode that it follows"
        )

    def _check_untouched(self, obs: Any, asked: np.ndarray) -> None:
        """A reset of some environments must leave the others where they are."""
        if self._obs is None or not isinstance(obs, np.ndarray):
            return
        # NaN is not equal to itself, and for another check to name.
        moved = ~asked & ((obs != self._obs) & (obs == obs)).reshape(self.num_envs, -1).any(axis=1)
        if self._obs is not obs and moved.any():
            self._complain(
                f"reset with reset_mask {asked.tolist()} moved environment {int(np.argmax(moved))} too: it must "
                "reset those alone, and return the others' observations as they are"
            )

    def _complain(self, sentence: str) -> NoReturn:
        self._say(f"{sentence}.")

    def _say(self, sentence: str) -> NoReturn:
        raise EnvError(f"the vector environment at step {self.steps}: {sentence}")


FLAGS = ("terminated", "truncated")


def warn_undeclared(envs: Any) -> None:
    """Say which mode was assumed: a wrong one costs transitions, and often nothing in the data contradicts it."""
    warnings.warn(
        f"{type(envs).__name__} declares no autoreset mode, and is taken for NEXT_STEP, Gymnasium's default: the step "
        "after an end counts as the reset, not as a transition. Declare what it does, metadata = {'autoreset_mode': "
        "gymnasium.vector.AutoresetMode.SAME_STEP} (or NEXT_STEP, DISABLED).", UserWarning, stacklevel=3)  # fmt: skip


def warn_unseeded() -> None:
    """Say that a seed has no effect."""
    warnings.warn(
        "the vector environment's reset takes no seed, so its episodes cannot be repeated from here: seed it where it "
        "is made.", RuntimeWarning, stacklevel=3)  # fmt: skip


def is_info(value: Any) -> bool:
    """A dict, nothing, or a list of these."""
    if isinstance(value, list | tuple):
        return all(one is None or isinstance(one, Mapping) for one in value)
    return value is None or isinstance(value, Mapping)
