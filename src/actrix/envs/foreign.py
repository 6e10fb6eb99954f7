"""Vector environments that are none of Gymnasium's, behind its `VectorEnv`: EnvPool's objects, SuperSuit's, SB3's."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from actrix.envs.guard import EnvError

FINAL = ("final_obs", "final_observation", "terminal_observation")
"""Where an info says what an episode's last observation was."""


def is_foreign(env: Any) -> bool:
    """Several environments side by side whose `observation_space` is that of one of them."""
    return (
        hasattr(env, "reset")
        and hasattr(env, "step")
        and (hasattr(env, "num_envs") or is_pool(env))
        and hasattr(env, "observation_space")
        and not hasattr(env, "single_observation_space")
    ) or is_pool(env)


def is_pool(env: Any) -> bool:
    """Whether it is EnvPool's: its `spec` has a `config`, and it says which rows a step returned."""
    return hasattr(getattr(env, "spec", None), "config") and hasattr(env, "async_reset")


class ForeignVectorEnv(VectorEnv):
    """Such an object as Gymnasium has it: 4 or 5 values from `step`, observations alone or with infos from `reset`.

    EnvPool resets an ended row in the next step. Others reset it in the same one and say in `infos` (a list of dicts,
    or a dict of arrays) what the last observation was; EnvError where they do not, as its value could not be told from
    the next episode's. Of four values an end is a truncation where `infos` say "TimeLimit.truncated".
    """

    def __init__(self, env: Any):
        self.env = env
        pool = is_pool(env)
        self.num_envs = int(env.config["num_envs"] if pool else env.num_envs)
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, self.num_envs)
        self.action_space = batch_space(env.action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP if pool else AutoresetMode.SAME_STEP}
        self.max_episode_steps = (
            getattr(getattr(env.spec, "config", None), "max_episode_steps", None) if pool else None
        )

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all; an object that takes no seeds gets none."""
        del options
        if (
            seed is not None
            and hasattr(self.env, "seed")
            and not is_pool(self.env)
            and callable(self.env.seed)
        ):
            self.env.seed(int(np.atleast_1d(seed)[0]))
        result = self.env.reset()
        obs, infos = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        return obs, _of_rows(infos, self.num_envs)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all."""
        obs, reward, *flags, infos = self.env.step(actions)
        infos = _of_rows(infos, self.num_envs)
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

    def close(self, **kwargs: Any) -> None:
        """Close the object."""
        self.env.close()


def _of_rows(infos: Any, n: int) -> dict[str, Any]:
    """Infos by key: those of a list of dicts gathered, None where a row has none."""
    if isinstance(infos, dict):
        return dict(infos)
    rows = list(infos) if infos is not None else []
    rows += [{}] * (n - len(rows))
    keys = dict.fromkeys(key for row in rows for key in row or {})
    return {key: _column([(row or {}).get(key) for row in rows]) for key in keys}


def _column(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    for i, value in enumerate(values):
        column[i] = value
    return column
