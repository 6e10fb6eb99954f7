"""`VecNormalize`: Stable-Baselines3's name for a model's own normalisation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector.utils import create_empty_array

from actrix.core.normalize import (
    Moments,
    RewardScale,
    init_moments,
    init_observation_moments,
    normalize_observation,
    scale_reward,
)
from actrix.core.spaces import is_image, normalized_shapes, space_leaves
from actrix.envs.make import as_host_env
from actrix.envs.vec.names import unwrap_vec_wrapper
from actrix.envs.vec.vecenv import VecEnv


class VecNormalize(VecEnv):
    """Environments whose model standardises observations and divides rewards by the deviation of the return.

    The statistics are the model's: it is built with `normalize_obs`, `normalize_reward`, `clip_obs` and `clip_reward`
    as given here, holds them in its file, and freezes them from acting to the end of an update and in evaluation. What
    `step` and `reset` return, and `predict` takes, is as the environment gave it. So `training` and `norm_reward` may
    be set as in SB3's evaluations; nothing depends on them there. `learn` refuses what the model would not do.

    `gamma`: None = the model's, another one is refused when a model is built. `epsilon` is 1e-8: ValueError for others.
    `norm_obs_keys`: of a Dict observation; None = all.
    """

    def __init__(
        self, venv: Any, training: bool = True, norm_obs: bool = True, norm_reward: bool = True, clip_obs: float = 10.0,
        clip_reward: float = 10.0, gamma: float | None = None, epsilon: float = 1e-8,
        norm_obs_keys: Sequence[str] | None = None,
    ):  # fmt: skip
        host = as_host_env(venv)
        super().__init__(host, getattr(venv, "trained", None))
        if epsilon != 1e-8:
            raise ValueError(f"epsilon={epsilon}: it is 1e-8 here; leave it out.")
        keys = None if norm_obs_keys is None or not norm_obs else tuple(sorted(norm_obs_keys))
        shapes = normalized_shapes(host.spec.observation_space, keys, images=True)
        if norm_obs and all(shape is None for shape in shapes):
            raise ValueError(
                f"VecNormalize only supports observations with numbers (Box), not {host.spec.observation_space}: write "
                "norm_obs=False for rewards alone."
            )
        self.venv, self.training, self.gamma = venv, training, gamma
        self.norm_obs, self.norm_reward, self.norm_obs_keys = norm_obs, norm_reward, keys
        self.clip_obs, self.clip_reward = float(clip_obs), float(clip_reward)
        self.model: Any = None
        self._loaded: tuple[Any, Any] | None = None
        self._original_obs: Any = None
        self._original_reward: Any = None

    # ------------------------------------------------------------------ what a model takes from it

    @property
    def of_images(self) -> bool:
        """Whether it would standardise an image, where the model does not divide these by 255."""
        shapes = normalized_shapes(self.observation_space, self.norm_obs_keys, images=True)
        parts = zip(space_leaves(self.observation_space), shapes, strict=True)
        return self.norm_obs and any(is_image(leaf) and shape is not None for leaf, shape in parts)

    def settings(self) -> dict[str, Any]:
        """The settings of a model that normalises so."""
        made = {
            "normalize_obs": self.norm_obs,
            "normalize_reward": self.norm_reward,
            "clip_obs": self.clip_obs,
        } | ({"norm_obs_keys": self.norm_obs_keys} if self.norm_obs_keys else {})
        return made | ({"clip_reward": self.clip_reward} if self.norm_reward else {})

    def attach(self, model: Any) -> None:
        """Take the statistics of this model from now on, or give it those that were loaded.

        Raises ValueError for a model that normalises otherwise.
        """
        if self.gamma is not None and self.gamma != model.algorithm.gamma:
            raise ValueError(
                f"VecNormalize(gamma={self.gamma}): rewards are scaled with the model's gamma={model.algorithm.gamma}; "
                "leave it out, or give both the same."
            )
        if self.norm_obs != model.algorithm.normalize_obs:
            has = (
                "normalises observations"
                if model.algorithm.normalize_obs
                else "does not normalise observations"
            )
            raise ValueError(
                f"VecNormalize(norm_obs={self.norm_obs}): this model {has}; give it to the constructor."
            )
        if self.norm_obs_keys != model.algorithm.norm_obs_keys:
            raise ValueError(
                f"VecNormalize(norm_obs_keys={self.norm_obs_keys}): this model has "
                f"norm_obs_keys={model.algorithm.norm_obs_keys}; give it to the constructor."
            )
        self.model = model
        if self._loaded is not None:
            moments, scale = self._loaded
            if not _alike(moments, model.acting.obs_moments):
                raise ValueError("the loaded statistics are of other observations than the model's.")
            model.set_statistics(moments, scale)
            self._loaded = None

    def check_learning(self) -> None:
        """ValueError where an attribute was set that the model that is to learn does not follow."""
        if not self.training:
            raise ValueError(
                "VecNormalize.training is False, but statistics move while a model learns: set env.training = True."
            )
        for name, wanted in self.settings().items():
            if (has := getattr(self.model.algorithm, name)) != wanted:
                raise ValueError(
                    f"VecNormalize asks for {name}={wanted}, the model has {has}: they are the model's from its "
                    "construction on; set both alike."
                )

    def check_evaluation(self, model: Any) -> None:
        """ValueError where evaluation, which uses the model's own statistics, would be another than asked."""
        has = model.algorithm.normalize_obs
        if self.norm_obs and not has:
            raise ValueError(
                "VecNormalize(norm_obs=True): the model learned without, and evaluation normalises as the model does; "
                "leave VecNormalize out."
            )
        if has and self._loaded is not None and not _same(self._loaded[0], model.acting.obs_moments):
            raise ValueError(
                "the statistics of this VecNormalize are not the model's, with which evaluation normalises: give it to "
                "the model (load(path, env=env), set_env), or leave VecNormalize out."
            )

    def reset(self) -> Any:
        """Start a new episode in every environment; observations as the environment gives them."""
        self._original_obs = super().reset()
        return self._original_obs

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step, with observations and rewards as the environment gives them."""
        step = super().step(actions)
        self._original_obs, self._original_reward = step[:2]
        return step

    def get_original_obs(self) -> Any:
        """The last observations, as the environment gave them."""
        return self._original_obs

    def get_original_reward(self) -> Any:
        """The last rewards, as the environment gave them."""
        return self._original_reward

    def _statistics(self) -> tuple[Any, Any]:
        """(moments of the observation's leaves or None, of the discounted return or None)."""
        if self._loaded is not None:
            return self._loaded
        if self.model is None:  # those that a model begins with
            shapes = normalized_shapes(self.observation_space, self.norm_obs_keys, bool(self.norm_obs_keys))
            return init_observation_moments(shapes) if self.norm_obs else None, (
                init_moments(()) if self.norm_reward else None
            )
        scale = self.model.runner.learners[0].training.reward_scale
        return self.model.acting.obs_moments, None if scale is None else scale.moments

    @property
    def obs_rms(self) -> Any:
        """`mean`, `var` and `count` of the observations (a tree as they are); None where they are not normalised."""
        moments = self._statistics()[0]
        return None if moments is None else jax.tree.unflatten(self._tree(), moments)

    @property
    def ret_rms(self) -> Any:
        """The same of the discounted return."""
        return self._statistics()[1]

    def normalize_obs(self, obs: Any) -> Any:
        """The observation as the model's network sees it."""
        return jax.tree.map(np.asarray, normalize_observation(self._statistics()[0], obs, self.clip_obs))

    def unnormalize_obs(self, obs: Any) -> Any:
        """The inverse of `normalize_obs`, where nothing was clipped."""
        moments = self._statistics()[0]
        if moments is None:
            return obs
        back = lambda m, x: x if m is None else np.asarray(x * np.sqrt(m.var + 1e-8) + m.mean)
        leaves, tree = jax.tree.flatten(obs)
        return jax.tree.unflatten(tree, map(back, moments, leaves))

    def _tree(self) -> Any:
        return jax.tree.structure(create_empty_array(self.observation_space, 1))

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The reward as the model learns from it."""
        rms = self.ret_rms
        scale = None if rms is None else RewardScale(jnp.zeros(self.num_envs), rms)
        return (
            reward
            if scale is None
            else np.asarray(scale_reward(scale, jnp.asarray(reward), self.clip_reward))
        )

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The inverse of `normalize_reward`, where nothing was clipped."""
        rms = self.ret_rms
        return reward if rms is None else reward * np.sqrt(np.asarray(rms.var) + 1e-8)

    # ------------------------------------------------------------------ files

    def save(self, save_path: str | os.PathLike) -> None:
        """Write the statistics and settings, as NumPy's npz under just this name (a model's file has them too)."""
        moments, scale = self._statistics()
        arrays = {f"settings/{k}": np.asarray(v) for k, v in self.settings().items()}
        for i, part in enumerate([*(moments or ()), scale]):
            name = "return" if i == len(moments or ()) else f"obs/{i}"
            if part is not None:
                arrays |= {
                    f"{name}/{f.name}": np.asarray(getattr(part, f.name)) for f in dataclasses.fields(part)
                }
        with open(save_path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(load_path: str | os.PathLike, venv: Any) -> VecNormalize:
        """What `save` wrote, around `venv`: a model built or set on it starts with these statistics.

        Raises FileNotFoundError, ValueError for another file (pickles of Stable-Baselines3 are not read).
        """
        try:
            with np.load(Path(load_path), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            settings = {
                k.partition("/")[2]: v.tolist() for k, v in found.items() if k.startswith("settings/")
            }
            made = VecNormalize(
                venv, norm_obs=settings["normalize_obs"], norm_reward=settings["normalize_reward"],
                clip_obs=settings["clip_obs"], clip_reward=settings.get("clip_reward", 10.0),
                norm_obs_keys=settings.get("norm_obs_keys"),
            )  # fmt: skip
            moments = None
            if made.norm_obs:
                leaves = jax.tree.leaves(create_empty_array(made.observation_space, 1))
                moments = tuple(_read(found, f"obs/{i}", leaf.shape[1:]) for i, leaf in enumerate(leaves))
                if set(found) & {f"obs/{i}/mean" for i in range(len(leaves), len(found))}:
                    raise ValueError("they are of other observations")
            made._loaded = moments, _read(found, "return", ())
        except FileNotFoundError:
            raise
        except Exception as error:
            # NumPy would advise to read a pickle unsafely.
            why = "it is a pickle, which is not read" if "pickle" in str(error) else error
            raise ValueError(
                f"{load_path} holds no statistics that VecNormalize.save wrote: {why}."
            ) from error
        return made


def _read(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> Moments | None:
    if f"{name}/mean" not in found:
        return None
    mean, var, count = (np.asarray(found[f"{name}/{part}"], np.float32) for part in ("mean", "var", "count"))
    if not mean.shape == var.shape == shape or count.shape != ():
        raise ValueError(f"they are of shape {mean.shape}, the environment's {shape}")
    if not (np.isfinite([*mean.flat, *var.flat, count]).all() and (var >= 0).all() and count >= 0):
        raise ValueError("they hold what no statistics are")
    return Moments(*map(jnp.asarray, (mean, var, count)))


def _alike(a: Any, b: Any) -> bool:
    """Whether the same parts of an observation have statistics."""
    return [m is None for m in a or ()] == [m is None for m in b or ()]


def _same(a: Any, b: Any) -> bool:
    """Whether two trees of statistics are equal, number for number."""
    return _alike(a, b) and all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def unwrap_vec_normalize(env: Any) -> VecNormalize | None:
    """`env` or the `VecNormalize` in it; None without."""
    return unwrap_vec_wrapper(env, VecNormalize)


def sync_envs_normalization(env: Any, eval_env: Any) -> None:
    """Let `eval_env` show the statistics of `env`; evaluation uses the model's in any case."""
    ours, theirs = unwrap_vec_normalize(env), unwrap_vec_normalize(eval_env)
    if ours is not None and theirs is not None:
        theirs.model, theirs._loaded = ours.model, ours._loaded


def host_of(env: Any) -> Any:
    """What a model trains on: the environments behind a `VecEnv`, else `env` itself."""
    return env if getattr(env, "trained", None) is None or not isinstance(env, VecEnv) else env.trained
