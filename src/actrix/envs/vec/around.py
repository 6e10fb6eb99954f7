"""Environments around others: `VecMonitor`, `VecExtractDictObs`, and what `VecFrameStack` shares with them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from actrix.envs.base import HostEnv, Step, episode_info, infos_of
from actrix.envs.make import as_host_env
from actrix.envs.vec.monitor import Monitor, Rows
from actrix.envs.vec.vecenv import VecEnv


class Around:
    """A `HostEnv` around another: all that a subclass does not say is the other's."""

    def __init__(self, host: HostEnv):
        self.inner, self.num_envs, self.backend = host, host.num_envs, host.backend
        self.spec = host.spec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("inner", "get_state", "set_state"):
            raise AttributeError(name)
        return getattr(self.inner, name)  # envs, infos, …

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """As the environments'."""
        return self.inner.reset(seeds)

    def step(self, action: np.ndarray) -> Step:
        """As the environments'."""
        return self.inner.step(action)

    def close(self) -> None:
        """As the environments'."""
        self.inner.close()


class OneKey(Around):
    """Of Dict observations one key."""

    env_id = None  # an id alone makes them whole
    unsupported = "the state of VecExtractDictObs is not saved"

    def __init__(self, host: HostEnv, key: str):
        super().__init__(host)
        space = host.spec.observation_space
        if not isinstance(space, spaces.Dict) or key not in space.spaces:
            has = sorted(space.spaces) if isinstance(space, spaces.Dict) else f"{space}, no Dict"
            raise ValueError(f"VecExtractDictObs(key={key!r}): the observations are {has}.")
        self.spec = dataclasses.replace(host.spec, observation_space=space[key], goals=None)
        self._key = key

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """As the environments', with the key's part."""
        obs, mask = self.inner.reset(seeds)
        return obs[self._key], mask

    def step(self, action: np.ndarray) -> Step:
        """As the environments', with the key's part."""
        step = self.inner.step(action)
        obs = step.obs[self._key]
        same = step.next_obs is step.obs
        return step._replace(obs=obs, next_obs=obs if same else step.next_obs[self._key])


class Counted(Around):
    """Adds `info["episode"] = {"r", "l", "t"}` where an episode ends, and writes it to a file."""

    def __init__(self, host: HostEnv, filename: Any, keywords: Sequence[str]):
        super().__init__(host)
        self._keywords, start = tuple(keywords), time.time()
        self._file = None
        if filename is not None:
            self._file = Rows(filename, ["r", "l", "t", *keywords], start, getattr(host, "env_id", None))
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self._ended: dict[int, dict[str, Any]] = {}

    @property
    def unsupported(self) -> str | None:
        """Why the environments' state cannot be saved, or None where it can."""
        known = hasattr(self.inner, "set_state")
        return getattr(self.inner, "unsupported", None if known else "that of the environments is not known")

    def get_state(self) -> dict[str, Any] | None:
        """The environments' and what was counted of the open episodes."""
        inner = self.inner.get_state()  # type: ignore[attr-defined]
        return inner and {
            "inner": inner,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.inner.set_state(state["inner"])  # type: ignore[attr-defined]
        self._begin()
        self._returns, self._lengths = np.array(state["returns"]), np.array(state["lengths"])

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """As the environments'; counting begins anew."""
        self._begin()
        return self.inner.reset(seeds)

    def step(self, action: np.ndarray) -> Step:
        """As the environments'; rows that are no transitions count nothing."""
        step = self.inner.step(action)
        self._returns += step.reward
        self._lengths += 1 if step.valid is None else step.valid
        self._ended = {}
        ends = np.flatnonzero(step.terminated | step.truncated).tolist()
        infos = infos_of(self.inner) if ends and self._keywords else []
        for i in ends:
            episode = episode_info(self._returns[i], self._lengths[i], self._start)
            for name in self._keywords:
                said = infos[i] if name in infos[i] else infos[i].get("final_info", {})
                episode[name] = said[name]
            self._returns[i] = self._lengths[i] = 0
            self._ended[i] = episode
            if self._file is not None:
                self._file.write(episode)
        return step

    def infos(self) -> list[dict[str, Any]]:
        """The environments', with the episodes that ended."""
        infos = infos_of(self.inner)
        for i, episode in self._ended.items():
            infos[i]["episode"] = dict(episode)
        return infos

    def close(self) -> None:
        """Close the environments and the file."""
        self.inner.close()
        if self._file is not None:
            self._file.close()


def refuse_around_normalize(venv: Any, name: str, how: str) -> None:
    """Raise ValueError for `VecNormalize` inside: it shows the environment's own numbers, and belongs outside."""
    if hasattr(venv, "norm_obs"):
        raise ValueError(f"{name} around VecNormalize: write VecNormalize({name}{how}).")


class VecExtractDictObs(VecEnv):
    """Environments of whose Dict observations only `key` is seen; ValueError where they have none."""

    def __init__(self, venv: Any, key: str):
        refuse_around_normalize(venv, "VecExtractDictObs", f"(env, {key!r})")
        super().__init__(OneKey(as_host_env(venv), key))
        self.venv, self.key = venv, key


class VecMonitor(VecEnv):
    """Environments with `info["episode"] = {"r", "l", "t"}` where an episode ends, written to `FILENAME.monitor.csv`.

    `info_keywords` of the last info are added. (Training counts returns without it.) Around `VecNormalize`, which shows
    the environment's own rewards, ValueError: it belongs outside. KeyError for a keyword that is not there.
    """

    def __init__(
        self, venv: Any, filename: str | os.PathLike | None = None, info_keywords: tuple[str, ...] = ()
    ):
        refuse_around_normalize(venv, "VecMonitor", "(env)")
        with contextlib.suppress(AttributeError):  # that are no Python objects
            if any(venv.env_is_wrapped(Monitor)):
                text = "the environments have a Monitor already, whose info['episode'] this replaces."
                warnings.warn(text, UserWarning, stacklevel=2)
        super().__init__(Counted(as_host_env(venv), filename, info_keywords))
        self.venv = venv
