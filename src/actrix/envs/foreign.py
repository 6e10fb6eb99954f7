"""Vector environments that are none of Gymnasium's, behind its `VectorEnv`: EnvPool's objects, SuperSuit's, SB3's."""

from __future__ import annotations

from inspect import getattr_static as _static
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from actrix.envs.careful import FINAL, is_info, warn_unseeded
from actrix.envs.guard import EnvError, takes
from actrix.envs.masks import size_of, stands_at, told, told_rows, value_of
from actrix.envs.rows import gathered


def is_foreign(env: Any) -> bool:
    """Several environments side by side whose `observation_space` is that of one of them."""
    has = ("reset", "step", "num_envs", "observation_space")
    side_by_side = all(hasattr(env, name) for name in has) and not hasattr(env, "single_observation_space")
    return side_by_side or is_pool(env)


def is_pool(env: Any) -> bool:
    """Whether it is EnvPool's: its `spec` has a `config`, and it says which rows a step returned."""
    return hasattr(getattr(env, "spec", None), "config") and hasattr(env, "async_reset")


def as_gymnasiums(env: Any) -> Any:
    """What is none of Gymnasium's behind its `VectorEnv`, also inside of its wrappers; anything else as it is."""
    if isinstance(env, gym.Wrapper) and is_pool(env.unwrapped):
        raise EnvError(
            f"{type(env).__name__} is a wrapper of one environment, and stands around an EnvPool of several: take one "
            "of gymnasium.wrappers.vector."
        )
    if not isinstance(env, VectorWrapper):
        return ForeignVectorEnv(env) if is_foreign(env) else env
    level: Any = env
    while isinstance(level.env, VectorWrapper):
        level = level.env
    level.env = ForeignVectorEnv(level.env) if is_foreign(level.env) else level.env
    return env


class ForeignVectorEnv(VectorEnv):
    """Such an object as Gymnasium has it: 4 or 5 values from `step`, observations alone or with infos from `reset`.

    EnvPool resets an ended row in the next step. Others reset it in the same one and say in `infos` (a list of dicts,
    or a dict of arrays) what the last observation was; EnvError where they do not, as its value could not be told from
    the next episode's, and of an asynchronous EnvPool, which answers for other rows than it was asked. Of four values
    an end is a truncation where `infos` say "TimeLimit.truncated".
    """

    def __init__(self, env: Any):
        self.env = env
        pool = is_pool(env)
        if not hasattr(env, "observation_space"):
            raise EnvError(
                "an EnvPool of env_type='dm' gives dm_env's time steps: make it with env_type='gymnasium'."
            )
        if pool and getattr(env, "is_async", False) is True:
            raise EnvError(
                "an EnvPool with batch_size below num_envs answers for other environments than it was asked: make it "
                "with batch_size=num_envs."
            )
        self.num_envs = int(env.config["num_envs"] if pool else env.num_envs)
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, self.num_envs)
        self.action_space = batch_space(env.action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP if pool else AutoresetMode.SAME_STEP}
        self.max_episode_steps = (
            getattr(getattr(env.spec, "config", None), "max_episode_steps", None) if pool else None
        )

        if stands_at(env, "action_masks") and not getattr(_static(env, "action_masks"), "of_copies", False):
            self.action_masks = lambda: value_of(env.action_masks)
        elif _in_copies(env, "action_masks"):
            self.action_masks = lambda: np.stack(env.env_method("action_masks"))

    @property
    def reset_infos(self) -> Any:
        """What the object tells of resets; None where it does not."""
        return getattr(self.env, "reset_infos", None)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Reset all; `seed` is one number, which such objects spread over their rows. RuntimeWarning where unused."""
        del options
        if isinstance(seed, list):
            raise TypeError("seed must be a number.")
        given = {"seed": seed} if seed is not None and takes(self.env.reset, "seed") else {}
        if seed is not None and not given:
            if is_pool(self.env) or not callable(getattr(self.env, "seed", None)):
                warn_unseeded()
            else:
                self.env.seed(seed)
        result = self.env.reset(**given)
        pair = isinstance(result, tuple) and len(result) == 2 and is_info(result[1])
        obs, infos = result if pair else (result, self.reset_infos)
        self._check_batch(obs)
        return obs, infos

    def _check_batch(self, obs: Any) -> None:
        """`observation_space` is that of one environment, but in a `VectorEnv` that forgot to say what that is."""
        shape = self.env.observation_space.shape
        if isinstance(self.env, VectorEnv) and shape and np.shape(obs) == shape:
            raise EnvError(
                f"{type(self.env).__name__} has no single_observation_space: set it, and single_action_space, to the "
                "spaces of one of its environments."
            )

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all."""
        obs, reward, *flags, infos = self.env.step(actions)
        infos = dict(infos) if isinstance(infos, dict) else gathered(infos or ())
        if len(flags) == 2:
            terminated, truncated = (np.asarray(flag, bool) for flag in flags)
        else:
            done = np.asarray(flags[0], bool)
            cut = np.array([bool(x) for x in infos.get("TimeLimit.truncated", [False] * self.num_envs)])
            terminated, truncated = done & ~cut, done & cut
        if not is_pool(self.env):
            self._with_final(infos, terminated | truncated)
        return obs, np.asarray(reward, np.float64), terminated, truncated, infos

    def _with_final(self, infos: dict[str, Any], ended: np.ndarray) -> None:
        if not ended.any():
            return
        found = next((infos[name] for name in FINAL if name in infos), None)
        if found is None or any(found[i] is None for i in np.flatnonzero(ended)):
            raise EnvError(
                f"an episode ended in {type(self.env).__name__}, whose infos have none of {', '.join(FINAL)}: the last "
                "observation is lost, and a time limit could not be told from an end. Make its vector environment "
                "with Gymnasium's SyncVectorEnv, or give one environment to make_vec_env."
            )
        infos["final_obs"] = found
        size = size_of(self.single_action_space)
        last = told_rows(infos, size)
        if last is not None:  # of the last states; the new ones' are told like a reset's
            masks, new = list(last), self.reset_infos
            infos["final_info"], infos["action_mask"] = {"action_mask": last}, masks
            for i in np.flatnonzero(ended):
                masks[i] = None if new is None else told(new[i], size)

    def close(self, **kwargs: Any) -> None:
        """Close the object."""
        self.env.close()


def _in_copies(env: Any, name: str) -> bool:
    ask = getattr(env, "env_method", None)
    try:  # not for the method itself: that kills a process whose environment lacks it
        return ask is not None and any(ask("has_wrapper_attr", name))
    except (AttributeError, TypeError, NotImplementedError):  # a VecEnv of one's own may leave it out
        return False
