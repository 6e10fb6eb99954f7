"""`actrix.make_vec_env`: Stable-Baselines3's function, whose result is one of its vector environments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from actrix.envs.atari import ale_id, game_kwargs, settings_of, wrapped
from actrix.envs.base import HostEnv
from actrix.envs.make import make_vec_env
from actrix.envs.vec.monitor import ENDING, Monitor
from actrix.envs.vec.names import DummyVecEnv, SubprocVecEnv, started_by
from actrix.envs.vec.vecenv import VecEnv


def made(
    env_id: Any, n_envs: int = 1, seed: int | None = None, start_index: int = 0,
    monitor_dir: str | os.PathLike | None = None, wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None, vec_env_cls: Any = None, vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None, wrapper_kwargs: dict[str, Any] | None = None, **more: Any,
) -> VecEnv:  # fmt: skip
    """`actrix.make_vec_env`: `n_envs` environments side by side, with Stable-Baselines3's parameters.

    `monitor_dir` has each environment write its episodes there (`Monitor`, with `monitor_kwargs`) under numbers from
    `start_index`; `monitor_kwargs` alone a `Monitor` without files. `vec_env_cls`: DummyVecEnv, SubprocVecEnv (with
    `vec_env_kwargs={"start_method": …}`), or Gymnasium's SyncVectorEnv, AsyncVectorEnv. `more`: `backend`, `workers`,
    `step_timeout`, `max_restarts` of `actrix.envs.make.make_vec_env`, which raises the errors. TypeError for other
    `vec_env_kwargs`.
    """
    vec_env_cls = getattr(vec_env_cls, "gymnasium", vec_env_cls)
    vec_env_cls = _with_kwargs(vec_env_cls, dict(vec_env_kwargs or {}))
    if monitor_dir is not None:
        for taken in filter(Path.is_file, (Path(monitor_dir), *Path(monitor_dir).parents)):
            raise ValueError(f"monitor_dir={os.fspath(monitor_dir)!r}: {taken} is a file; name a folder.")
        options = dict(monitor_kwargs or {})
        if options.pop("override_existing", True):
            # Once, and here: each environment then goes on with its own, also in a process that replaces another.
            for i in range(int(n_envs)):
                Path(monitor_dir, f"{start_index + i}.{ENDING}").unlink(missing_ok=True)
        wrapper_class = _Monitored(wrapper_class, (monitor_dir, start_index), options)
    elif monitor_kwargs:
        wrapper_class = _Monitored(wrapper_class, None, dict(monitor_kwargs))
    elif start_index:
        raise ValueError("start_index numbers the files of monitor_dir: give that too.")
    host = make_vec_env(
        env_id, n_envs, seed, wrapper_class=wrapper_class, env_kwargs=env_kwargs, wrapper_kwargs=wrapper_kwargs,
        vec_env_cls=vec_env_cls, **more,
    )  # fmt: skip
    return vec_env_of(host)


def made_atari(
    env_id: str, n_envs: int = 1, seed: int | None = None, start_index: int = 0,
    monitor_dir: str | os.PathLike | None = None, wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None, vec_env_cls: Any = None, vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None, backend: str = "auto",
) -> VecEnv:  # fmt: skip
    """`actrix.make_atari_env`: Atari games with Stable-Baselines3's parameters and preprocessing.

    An observation is one picture, uint8 [84, 84, 1]: `VecFrameStack(env, 4)` puts four behind each other, zeros before
    an episode. `wrapper_kwargs` go to `AtariWrapper`, where `frame_stack` is 0 and `sb3_resets` true unless they are
    given; the rest is as in `made`. (An id that a model is given is stacked by itself, each picture stored once:
    PPO("CnnPolicy", "ALE/Pong-v5", n_envs=8).)

    Raises UnknownEnvError (with the nearest names), ImportError (a missing extra), ValueError (bad settings).
    """
    if backend not in ("auto", "gymnasium"):
        raise ValueError(
            f"backend={backend!r}: make_atari_env makes Gymnasium's environments; give a model the id, with backend="
            f"{backend!r}, or use actrix.envs.atari.make_atari_env."
        )
    settings = settings_of({"frame_stack": 0, "sb3_resets": True} | (wrapper_kwargs or {}))
    vec = made(
        ale_id(env_id), n_envs, seed, start_index, monitor_dir, wrapped, game_kwargs(settings, env_kwargs), vec_env_cls,
        vec_env_kwargs, monitor_kwargs, settings, backend="gymnasium",
    )  # fmt: skip
    limit = settings["max_episode_frames"] // settings["frame_skip"]
    vec.host.spec = dataclasses.replace(
        vec.host.spec, max_episode_steps=limit, frame_stack=settings["frame_stack"] or None
    )
    return vec


def vec_env_of(host: HostEnv) -> VecEnv:
    """A DummyVecEnv, a SubprocVecEnv or, where the environments are neither in a list nor in processes, a VecEnv."""
    inner = getattr(getattr(host, "envs", None), "unwrapped", None)
    kind = DummyVecEnv if isinstance(inner, SyncVectorEnv) else SubprocVecEnv
    made = object.__new__(kind if isinstance(inner, SyncVectorEnv | AsyncVectorEnv) else VecEnv)
    VecEnv.__init__(made, host)
    return made


def _with_kwargs(vec_env_cls: Any, given: dict[str, Any]) -> Any:
    """The class that takes these keywords; TypeError, ValueError."""
    if vec_env_cls is AsyncVectorEnv:
        vec_env_cls = started_by(given.pop("start_method", None))
    if given:
        raise TypeError(
            f"vec_env_kwargs={given}: {getattr(vec_env_cls, '__name__', 'DummyVecEnv')} takes none of these."
        )
    return vec_env_cls


@dataclasses.dataclass(frozen=True)
class _Monitored:
    """Wraps an environment in a `Monitor` that learns its number from the guard around it, then as the user does."""

    wrapper: Any
    folder: tuple[str | os.PathLike, int] | None
    options: dict[str, Any]

    def __call__(self, env: gym.Env, **kwargs: Any) -> gym.Env:
        env = Monitor(env, **self.options)
        env.folder = self.folder
        return env if self.wrapper is None else self.wrapper(env, **kwargs)
