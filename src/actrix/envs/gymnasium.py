"""Gymnasium vector environments, in any autoreset mode, behind the host contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate
from gymnasium.vector.utils import create_empty_array as empty

from actrix.core.plain import same
from actrix.core.spaces import (
    _box_map,
    check_action_space,
    check_observation_space,
    is_action_space,
    mask_length,
    to_env_action,
)
from actrix.core.types import Spec
from actrix.envs.base import Step
from actrix.envs.careful import FINAL, Careful, autoreset_mode
from actrix.envs.goals import host_goals_of
from actrix.envs.guard import EnvError, Guard, check_apart
from actrix.envs.masks import all_legal_if_none, find_masks, mask_reader, size_of, told_rows, with_rows
from actrix.envs.rows import listed
from actrix.envs.state import whole


class GymnasiumEnvs:
    """A `gymnasium.vector.VectorEnv` as a `HostEnv`.

    Autoreset mode (`envs.metadata["autoreset_mode"]`; where it is missing, Gymnasium's default NEXT_STEP):
    DISABLED: finished rows are reset right after the step, so every row is a transition (what we build).
    SAME_STEP: `next_obs` comes from `infos["final_obs"]`. NEXT_STEP: the row after an end is a reset, not
    valid.

    Action masks come from a method `action_masks()` of the environments or from `info["action_mask"]` (or
    "action_masks"), flat
    bool [mask_length(action_space)]. At the end of an episode a mask without any legal action is replaced by
    all-true; so is the unknown `next_mask` of an ended row in SAME_STEP mode where only the method gives
    masks.

    `obs` and `next_obs` of a step are one array where no episode ended; none is written again. float64
    becomes float32, int64 becomes int32. Raises `EnvError` for what the environments raise or return wrongly.
    """

    backend = "gymnasium"

    def __init__(
        self,
        envs: VectorEnv,
        max_episode_steps: int | None = None,
        seeds: Sequence[int] | None = None,
        masks: str | None = None,
        any_actions: bool = False,
    ):
        """`seeds` serve the first reset; `masks` is 'method', 'info' or 'none' (None = look).

        With `any_actions` the action space may be one in which no policy acts; `step` then takes a list of actions.
        """
        check_observation_space(envs.single_observation_space)
        if not any_actions:
            check_action_space(envs.single_action_space)
        self.envs: Any = envs
        self.num_envs, self.steps, self.env_id = envs.num_envs, 0, _env_id(envs)
        self.mode = autoreset_mode(envs)
        self._masks_from = masks or find_masks(envs)
        mask_size = None if self._masks_from == "none" else mask_length(envs.single_action_space)
        self._maskable = size_of(envs.single_action_space)
        limit = max_episode_steps or _time_limit(envs)
        goals = host_goals_of(envs)
        self.spec = Spec(
            envs.single_observation_space, envs.single_action_space, limit, mask_size, goals=goals
        )
        known = is_action_space(envs.single_action_space)
        self._to_env: Any = action_map(envs.single_action_space) if known else _as_given(envs)
        if isinstance(envs.unwrapped, SyncVectorEnv):
            check_apart(envs.unwrapped.envs)
        self._guards = isinstance(envs, SyncVectorEnv) and all(isinstance(env, Guard) for env in envs.envs)
        self._speaks: Any = envs if self._guards else Careful(envs, self.mode)
        self._reader: Any = mask_reader(envs) if self._masks_from == "method" else None
        self._seeds, self._failed = seeds, False
        self._ended = np.zeros(self.num_envs, bool)
        self._infos: dict[str, Any] = {}
        self._began = np.full(self.num_envs, {}, object)
        """The infos among which each row's last reset said its own."""

    def infos(self) -> list[dict[str, Any]]:
        """What each environment's last step said in `info`; the values are the environment's own objects."""
        rows = getattr(self.envs, "infos", None)
        if rows is not None:
            return [dict(info) for info in rows]
        return listed(self._infos, self.num_envs)

    def reset_infos(self) -> list[dict[str, Any]]:
        """What each environment's last reset said."""
        rows = getattr(self.envs, "reset_infos", None)
        if rows is None:
            told = {id(infos): listed(infos, self.num_envs) for infos in self._began}
            rows = [told[id(infos)][i] for i, infos in enumerate(self._began)]
        ending = (*FINAL, "final_info")  # of the step that the reset was in
        return [{name: x for name, x in info.items() if name not in ending} for info in rows]

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """Start a new episode everywhere; return (obs [N, ...], mask [N, n] or None)."""
        seeds, self._seeds = (self._seeds if seeds is None else seeds), None
        if seeds is not None:
            seeds = [int(seed) for seed in seeds]
        obs, infos = self._guarded(self._speaks.reset, seed=seeds)
        self._began[:] = infos
        self._ended = np.zeros(self.num_envs, bool)
        mask = self._masks(infos, range(self.num_envs))
        self._check_legal(mask)
        return own(obs), mask

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] in policy coordinates."""
        self.steps += 1
        obs, reward, terminated, truncated, infos = self._guarded(self._speaks.step, self._to_env(action))
        self._infos = infos
        obs, reward, valid = own(obs), reward.astype(np.float32), None
        mask = self._masks(infos, range(self.num_envs))
        if np.count_nonzero(self._ended):  # NEXT_STEP only; count_nonzero is ten times cheaper than any
            valid = ~self._ended
            self._began[self._ended] = infos
            reward = np.where(valid, reward, np.float32(0))
            terminated, truncated = terminated & valid, truncated & valid
        terminated, truncated = terminated.copy(), truncated & ~terminated
        ended = terminated | truncated
        next_obs, next_mask = obs, mask
        if self.mode is AutoresetMode.NEXT_STEP:
            self._ended = ended
        elif np.count_nonzero(ended):
            rows = np.flatnonzero(ended)
            if self.mode is AutoresetMode.SAME_STEP:
                next_obs, next_mask = _final_obs(obs, infos, rows), self._final_mask(mask, infos, rows)
            else:
                obs, infos = self._guarded(self._speaks.reset, options={"reset_mask": ended})
                obs, mask = own(obs), with_rows(mask, rows, self._masks(infos, rows))
            self._began[rows] = infos
        if mask is not None and next_mask is not None:
            next_mask = all_legal_if_none(next_mask, ended)
            if self.mode is AutoresetMode.NEXT_STEP:
                mask = next_mask
            self._check_legal(mask)
        return Step(obs, next_obs, reward, terminated, truncated, valid, mask, next_mask)

    @property
    def unsupported(self) -> str | None:
        """Why the environments' state cannot be saved, or None where it can (see `actrix.envs.state.whole`)."""
        if not self._guards or self.mode is not AutoresetMode.DISABLED:
            return "the state of a vector environment of one's own, or of AsyncVectorEnv, is not known"
        return next(filter(None, map(whole.unsupported, self.envs.envs)), None)

    def get_state(self) -> dict[str, Any] | None:
        """Everything that the next steps depend on, as plain data; None where it cannot be had."""
        if self.unsupported is not None:
            return None
        return {"steps": self.steps, "envs": [whole.get_state(env) for env in self.envs.envs]}

    def set_state(self, saved: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; EnvError where that was of other environments."""
        if len(saved["envs"]) != self.num_envs:
            raise EnvError(
                f"the state of {len(saved['envs'])} environments was saved, here are {self.num_envs}."
            )
        for env, one in zip(self.envs.envs, saved["envs"], strict=True):
            whole.set_state(env, one)
        self.steps, self._seeds = saved["steps"], None
        self._ended = np.zeros(self.num_envs, bool)

    def close(self) -> None:
        if self._failed and isinstance(self.envs.unwrapped, AsyncVectorEnv):
            _end_workers(self.envs.unwrapped)
        self.envs.close()

    def _guarded(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            self._failed = True
            if isinstance(error, EnvError):
                raise
            what = _dead_workers(self.envs, error) or f"{type(error).__name__}: {error}"
            raise EnvError(f"the vector environment failed at step {self.steps}: {what}") from error

    def _masks(self, infos: dict[str, Any], rows: Any) -> np.ndarray | None:
        """Masks [len(rows), n] of these rows, from the method or from infos."""
        size = self.spec.mask_size
        if size is None:
            if self._maskable and told_rows(infos, self._maskable) is not None:
                raise EnvError(
                    f"infos has an 'action_mask' at step {self.steps}, and had none at the first reset: give it there "
                    "too."
                )
            return None
        if self._masks_from == "method":
            found = self._guarded(self._reader)
        else:
            found = told_rows(infos, size)
            found = [None] * self.num_envs if found is None else found
        masks = np.empty((len(rows), size), bool)
        for k, i in enumerate(rows):
            if found[i] is None and self._masks_from == "info":
                raise EnvError(f"environment {i} at step {self.steps}: info has no 'action_mask'.")
            mask = np.asarray(found[i])
            if mask.shape != (size,):
                raise EnvError(
                    f"environment {i} at step {self.steps}: the action mask has shape {mask.shape}; "
                    f"the action space {self.spec.action_space} needs ({size},)."
                )
            masks[k] = mask.astype(bool)
        return masks

    def _final_mask(
        self, mask: np.ndarray | None, infos: dict[str, Any], rows: np.ndarray
    ) -> np.ndarray | None:
        if mask is None:
            return None
        final = infos.get("final_info", {})
        known = self._masks_from == "info" and told_rows(final, self._maskable) is not None
        return with_rows(mask, rows, self._masks(final, rows) if known else True)

    def _check_legal(self, mask: np.ndarray | None) -> None:
        if mask is not None and not mask.any(axis=-1).all():
            i = int(np.flatnonzero(~mask.any(axis=-1))[0])
            raise EnvError(f"environment {i} at step {self.steps}: the action mask allows no action.")


def quiet_make(env_id: str, **kwargs: Any) -> gym.Env:
    """`gym.make` without the environment checker.

    Box2D's SWIG types warn while they are imported; where warnings are errors that is a segmentation fault.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "builtin type (Swig|swig)", DeprecationWarning)
        return gym.make(env_id, disable_env_checker=True, **kwargs)


def own(obs: Any) -> Any:
    """A copy of an observation tree in the dtypes JAX holds: float32 for floats, int32 for wide integers.

    Raises EnvError for an integer that 32 bits cannot hold.
    """
    if isinstance(obs, dict):
        return {key: own(part) for key, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(own(part) for part in obs)
    dtype = obs.dtype
    if dtype.kind == "f":
        return obs.astype(np.float32)
    if dtype.kind not in "iu" or dtype.itemsize < 8:
        return obs.astype(dtype)
    narrow = obs.astype(np.int32)
    if (narrow != obs).any():
        raise EnvError(
            f"an observation holds {obs[narrow != obs].flat[0]}, which no 32-bit integer can, and JAX has no "
            "wider ones: return it as floats, or scale it."
        )
    return narrow


def action_map(space: gym.Space) -> Callable[[np.ndarray], np.ndarray]:
    """`to_env_action` for batches of this space, with its constants computed once."""
    if not isinstance(space, spaces.Box):
        return lambda action: to_env_action(space, np.asarray(action)).astype(space.dtype, copy=False)
    _, centre, half = _box_map(space)
    low, high = space.low, space.high
    return lambda action: (action * half + centre).clip(low, high).astype(space.dtype, copy=False)


def _as_given(envs: VectorEnv) -> Callable[[Sequence[Any]], Any]:
    """A list of actions as the vector environment takes them: as it is, or (in processes) as a batch."""
    space: Any = envs.single_action_space
    n = envs.num_envs
    if not isinstance(envs.unwrapped, AsyncVectorEnv):
        return lambda actions: actions
    return lambda actions: concatenate(space, actions, cast(Any, empty(space, n)))


def _time_limit(envs: VectorEnv) -> int | None:
    if (limit := getattr(envs.unwrapped, "max_episode_steps", None)) is not None:
        return int(limit)
    spec = envs.spec
    if spec is None and isinstance(envs.unwrapped, SyncVectorEnv):
        spec = envs.unwrapped.envs[0].spec
    return None if spec is None else spec.max_episode_steps


def _env_id(envs: VectorEnv) -> str | None:
    """The id that alone makes these environments anew, or None (other arguments, wrappers, not registered)."""
    if not isinstance(envs, SyncVectorEnv):
        return None
    env = envs.envs[0]
    spec = env.env.spec if isinstance(env, Guard) else env.spec
    known = None if spec is None else gym.registry.get(spec.id)
    if spec is None or known is None or spec.additional_wrappers:
        return None
    what = lambda s: (s.max_episode_steps, {k: v for k, v in s.kwargs.items() if k != "render_mode"})
    return spec.id if same(what(spec), what(known)) else None


def _final_obs(obs: Any, infos: dict[str, Any], rows: np.ndarray) -> Any:
    if "final_obs" not in infos:
        raise EnvError("an episode ended in SAME_STEP mode, but infos has no 'final_obs'.")
    final = infos["final_obs"]

    def fill(tree, path):
        if isinstance(tree, dict):
            return {key: fill(part, (*path, key)) for key, part in tree.items()}
        if isinstance(tree, tuple):
            return tuple(fill(part, (*path, i)) for i, part in enumerate(tree))
        tree = tree.copy()
        for i in rows:
            leaf = final[i]
            for key in path:
                leaf = leaf[key]
            tree[i] = leaf
        return tree

    return fill(obs, ())


def _end_workers(envs: AsyncVectorEnv) -> None:
    # AsyncVectorEnv.close would first wait for the step that failed.
    for process in envs.processes:
        process.terminate()
    for process in envs.processes:
        process.join(5)
    for pipe in envs.parent_pipes:
        if pipe is not None:
            pipe.close()
    envs.closed = True


def _dead_workers(envs: Any, error: Exception) -> str:
    if not (isinstance(envs.unwrapped, AsyncVectorEnv) and isinstance(error, EOFError | OSError)):
        return ""
    for process in envs.unwrapped.processes:
        process.join(0.1)  # its pipe closes a little before it is gone
    dead = [(i, p.exitcode) for i, p in enumerate(envs.unwrapped.processes) if not p.is_alive()]
    return ", ".join(f"the worker of environment {i} died with exit code {code}" for i, code in dead)
