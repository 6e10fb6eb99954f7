"""`VecNormalize`: Stable-Baselines3's name for a model's own normalisation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from actrix.core.normalize import Moments, standardize
from actrix.core.spaces import UnsupportedSpaceError
from actrix.envs.make import as_host_env
from actrix.envs.vec.vecenv import VecEnv


class VecNormalize(VecEnv):
    """Environments whose model standardises observations and divides rewards by the deviation of the return.

    The statistics are the model's: it is built with `normalize_obs`, `normalize_reward`, `clip_obs` and `clip_reward`
    as given here, holds them in its file, and freezes them from acting to the end of an update and in evaluation. What
    `step` and `reset` return, and `predict` takes, is as the environment gave it. So `training` and `norm_reward` may
    be set as in SB3's evaluations; nothing depends on them there.

    `gamma`: None = the model's, another one is refused when a model is built. `epsilon` is 1e-8, and all keys of a Dict
    are normalised: ValueError for others.
    """

    def __init__(
        self, venv: Any, training: bool = True, norm_obs: bool = True, norm_reward: bool = True, clip_obs: float = 10.0,
        clip_reward: float = 10.0, gamma: float | None = None, epsilon: float = 1e-8,
        norm_obs_keys: Sequence[str] | None = None,
    ):  # fmt: skip
        host = venv.host if isinstance(venv, VecEnv) else as_host_env(venv)
        super().__init__(host, getattr(venv, "trained", None))
        keys = getattr(host.spec.observation_space, "spaces", {})
        if epsilon != 1e-8:
            raise ValueError(f"epsilon={epsilon}: it is 1e-8 here; leave it out.")
        if norm_obs_keys is not None and set(norm_obs_keys) != set(keys):
            raise ValueError(
                f"norm_obs_keys={list(norm_obs_keys)}: all of {sorted(keys)} are normalised here, or none."
            )
        self.venv, self.training, self.gamma = venv, training, gamma
        self.norm_obs, self.norm_reward = norm_obs, norm_reward
        self.clip_obs, self.clip_reward = float(clip_obs), float(clip_reward)
        self.model: Any = None
        self._loaded: tuple[Any, Any] | None = None

    # ------------------------------------------------------------------ what a model takes from it

    def settings(self) -> dict[str, Any]:
        """The settings of a model that normalises so."""
        made = {
            "normalize_obs": self.norm_obs,
            "normalize_reward": self.norm_reward,
            "clip_obs": self.clip_obs,
        }
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
        self.model = model
        if self._loaded is not None:
            moments, scale = self._loaded
            model.set_statistics(moments, scale)
            self._loaded = None

    def _statistics(self) -> tuple[Any, Any]:
        """(moments of the observation's leaves or None, of the discounted return or None)."""
        if self._loaded is not None:
            return self._loaded
        if self.model is None:
            raise ValueError(
                "no statistics yet: VecNormalize has those of the model that trains on it; build one."
            )
        scale = self.model.runner.learners[0].training.reward_scale
        return self.model.acting.obs_moments, None if scale is None else scale.moments

    @property
    def obs_rms(self) -> Any:
        """`mean`, `var` and `count` of the observations (of a Dict: by key); None where they are not normalised."""
        moments = self._statistics()[0]
        keys = getattr(self.observation_space, "spaces", None)
        if moments is None or keys is None:
            return None if moments is None else moments[0]
        return dict(zip(keys, moments, strict=True))

    @property
    def ret_rms(self) -> Any:
        """The same of the discounted return."""
        return self._statistics()[1]

    def normalize_obs(self, obs: Any) -> Any:
        """The observation as the model's network sees it."""
        rms = self.obs_rms
        if rms is None:
            return obs
        if isinstance(rms, dict):
            see = lambda key: (
                obs[key] if rms[key] is None else np.asarray(standardize(rms[key], obs[key], self.clip_obs))
            )
            return {key: see(key) for key in obs}
        return np.asarray(standardize(rms, jnp.asarray(obs), self.clip_obs))

    def unnormalize_obs(self, obs: Any) -> Any:
        """The inverse of `normalize_obs` for a Box; UnsupportedSpaceError for other spaces."""
        rms = self.obs_rms
        if isinstance(rms, dict):
            raise UnsupportedSpaceError(
                "unnormalize_obs takes a Box observation; take the parts of obs_rms yourself."
            )
        return obs if rms is None else np.asarray(obs * np.sqrt(rms.var + 1e-8) + rms.mean)

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The reward as the model learns from it."""
        rms = self.ret_rms
        bound = self.clip_reward
        return reward if rms is None else np.clip(reward / np.sqrt(float(rms.var) + 1e-8), -bound, bound)

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
            settings = {k.partition("/")[2]: v.item() for k, v in found.items() if k.startswith("settings/")}
            made = VecNormalize(
                venv, norm_obs=settings["normalize_obs"], norm_reward=settings["normalize_reward"],
                clip_obs=settings["clip_obs"], clip_reward=settings.get("clip_reward", 10.0),
            )  # fmt: skip
            moments = None
            if made.norm_obs:
                leaves = len(getattr(made.observation_space, "spaces", ())) or 1
                moments = tuple(_read(found, f"obs/{i}") for i in range(leaves))
            made._loaded = moments, _read(found, "return")
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{load_path} holds no statistics that VecNormalize.save wrote: {error}"
            ) from error
        return made


def _read(found: dict[str, np.ndarray], name: str) -> Moments | None:
    if f"{name}/mean" not in found:
        return None
    return Moments(*(jnp.asarray(found[f"{name}/{part}"], jnp.float32) for part in ("mean", "var", "count")))


def host_of(env: Any) -> Any:
    """What a model trains on: the environments behind a `VecEnv`, else `env` itself."""
    return env.trained if isinstance(env, VecEnv) else env
