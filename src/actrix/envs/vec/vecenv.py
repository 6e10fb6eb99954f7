"""Stable-Baselines3's `VecEnv` over a `HostEnv`: for scripts that step, look into or change their environments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from actrix.core.spaces import from_env_action
from actrix.envs.base import HostEnv, JaxEnv, infos_with_ends
from actrix.envs.guard import Guard, env_seeds
from actrix.envs.jax_envs import HostJax
from actrix.envs.make import make_vec_env
from actrix.envs.vec.monitor import ENDING, Monitor

Indices = int | Iterable[int] | None


class VecEnv:
    """N environments: what `make_vec_env` and `Model.get_env` return, and a model takes.

    `reset() → obs`, `step(actions) → (obs, rewards, dones, infos)` as in Stable-Baselines3: actions in the
    environment's units, an ended environment is reset at once, `infos[i]` then has "terminal_observation" and
    "TimeLimit.truncated". Observations are the environment's own, also where a model normalises (it does so itself).

    `env_method`, `get_attr`, `set_attr`, `env_is_wrapped` and `envs` reach environments that are Python objects of this
    process (and, all of them at once, `AsyncVectorEnv`'s); AttributeError says why where they are not.
    """

    def __init__(self, host: HostEnv, trained: Any = None):
        """`trained`: the JAX environment that a model trains on, where `host` is a copy to look at."""
        self.host, self.trained = host, host if trained is None else trained
        self.num_envs = host.num_envs
        self.observation_space, self.action_space = host.spec.observation_space, host.spec.action_space
        self._seeds: list[int] | None = None
        self._actions: Any = None

    # ------------------------------------------------------------------ stepping

    def reset(self) -> Any:
        """Start a new episode in every environment; its observations `[N, …]`."""
        seeds, self._seeds = self._seeds, None
        self.host.played = True  # type: ignore[attr-defined] # training then begins new episodes
        return self.host.reset(seeds)[0]

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """(observations, rewards, dones, infos) of one step with actions `[N, …]` in the environment's units."""
        actions = np.asarray(actions, self.action_space.dtype)
        if actions.shape != (self.num_envs, *(self.action_space.shape or ())):
            expected = (self.num_envs, *(self.action_space.shape or ()))
            raise ValueError(f"actions have shape {actions.shape}; expected {expected}.")
        self.host.played = True  # type: ignore[attr-defined]
        step = self.host.step(np.asarray(from_env_action(self.action_space, actions)))
        done = step.terminated | step.truncated
        return step.obs, step.reward, done, infos_with_ends(self.host, step, done)

    def step_async(self, actions: Any) -> None:
        """Remember the actions that `step_wait` takes."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """The step that `step_async` asked for."""
        return self.step(self._actions)

    def seed(self, seed: int | None = None) -> list[int]:
        """Seeds of the next `reset`, one per environment, spawned from `seed` (Stable-Baselines3: seed + i)."""
        self._seeds = env_seeds(seed, self.num_envs)
        return self._seeds

    def action_masks(self) -> np.ndarray | None:
        """Legal actions now `[N, n]`, of environments that have a method of that name."""
        return np.stack(self.env_method("action_masks"))

    def close(self) -> None:
        """Give the environments back."""
        self.host.close()

    # ------------------------------------------------------------------ reaching the environments

    @property
    def envs(self) -> list[gym.Env]:
        """The environments themselves, with their own wrappers."""
        inner = getattr(self.host, "envs", None)
        if not isinstance(inner, gym.vector.VectorEnv) or not isinstance(inner.unwrapped, SyncVectorEnv):
            raise AttributeError(
                f"the environments of {type(self.host).__name__} are no Python objects of this process: "
                'env_method, get_attr and set_attr need backend="gymnasium" and no workers.'
            )
        return [env.env if isinstance(env, Guard) else env for env in inner.unwrapped.envs]

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment (of those at `indices`)."""
        pool = self._processes()
        if pool is not None:
            return self._all(indices, lambda: list(pool.call(method_name, *args, **kwargs)))
        return [env.get_wrapper_attr(method_name)(*args, **kwargs) for env in self._at(indices)]

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of each environment, looked for through its wrappers."""
        pool = self._processes()
        if pool is not None:
            return self._all(indices, lambda: list(pool.get_attr(attr_name)))
        return [env.get_wrapper_attr(attr_name) for env in self._at(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute where the wrappers have it, else on the environment itself."""
        pool = self._processes()
        if pool is not None:
            self._all(indices, lambda: pool.set_attr(attr_name, value))
            return
        for env in self._at(indices):
            if not env.set_wrapper_attr(attr_name, value, force=False):
                setattr(env.unwrapped, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        """Whether every environment has it."""
        return all(env.has_wrapper_attr(attr_name) for env in self.envs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Indices = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        return [_wrapped(env, wrapper_class) for env in self._at(indices)]

    @property
    def render_mode(self) -> str | None:
        """That of the environments; None where they are no Python objects."""
        try:
            return self.envs[0].render_mode
        except AttributeError:
            return None

    def get_images(self) -> list[np.ndarray]:
        """A picture of each environment made with render_mode="rgb_array"."""
        return [np.asarray(env.render()) for env in self.envs]

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """Draw: all pictures side by side as one array (rgb_array), or each in its window (human)."""
        asked, made = mode or self.render_mode, self.render_mode
        if made is None or asked != made:
            raise ValueError(
                f"render_mode is {made!r}: make them with env_kwargs={{'render_mode': {asked or 'human'!r}}}."
            )
        if made != "rgb_array":
            for env in self.envs:
                env.render()
            return None
        return tile(self.get_images())

    @property
    def unwrapped(self) -> VecEnv:
        """Itself."""
        return self

    @property
    def spec(self) -> Any:
        """Spaces, time limit and mask size of one environment."""
        return self.host.spec

    @property
    def env_id(self) -> str | None:
        """The id that makes these environments, where one does."""
        return getattr(self.host, "env_id", None)

    def _at(self, indices: Indices) -> list[gym.Env]:
        envs = self.envs
        if indices is None:
            return envs
        return [envs[i] for i in ([indices] if isinstance(indices, int) else indices)]

    def _processes(self) -> Any:
        inner = getattr(self.host, "envs", None)
        inner = getattr(inner, "unwrapped", None)
        return inner if isinstance(inner, AsyncVectorEnv) else None

    def _all(self, indices: Indices, call: Callable[[], Any]) -> Any:
        if indices is not None:
            raise ValueError("AsyncVectorEnv is asked as a whole: leave indices out.")
        return call()


def tile(images: Sequence[np.ndarray]) -> np.ndarray:
    """N pictures `[H, W, 3]` as one, in rows of about √N; what is missing is black."""
    columns = int(np.ceil(np.sqrt(len(images))))
    black = [np.zeros_like(images[0])] * (-len(images) % columns)
    full = [*images, *black]
    return np.vstack([np.hstack(full[i : i + columns]) for i in range(0, len(full), columns)])


def _wrapped(env: gym.Env, kind: type[gym.Wrapper]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, kind):
            return True
        env = env.env
    return False


def vec_env(env: HostEnv | JaxEnv, n_envs: int, seed: int) -> VecEnv:
    """What a model trains on as a `VecEnv`; of a compiled environment a copy to look at, with episodes of its own."""
    if isinstance(env, HostEnv):
        return VecEnv(env)
    return VecEnv(HostJax(env, n_envs, env_seeds(seed, 1)[0]), trained=env)


def made(
    env_id: Any, n_envs: int = 1, seed: int | None = None, start_index: int = 0,
    monitor_dir: str | os.PathLike | None = None, wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None, vec_env_cls: Any = None, vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None, wrapper_kwargs: dict[str, Any] | None = None, **more: Any,
) -> VecEnv:  # fmt: skip
    """`actrix.make_vec_env`: `n_envs` environments side by side, with Stable-Baselines3's parameters.

    `monitor_dir` has each environment write its episodes there (`Monitor`, with `monitor_kwargs`) under numbers from
    `start_index`. `vec_env_cls`: DummyVecEnv, SubprocVecEnv, or Gymnasium's SyncVectorEnv, AsyncVectorEnv. `more`:
    `backend`, `workers`, `step_timeout`, `max_restarts` of `actrix.envs.make.make_vec_env`, which raises the errors.
    """
    if vec_env_kwargs:
        raise ValueError(
            f"vec_env_kwargs={vec_env_kwargs}: there are none; environments in processes: workers=True."
        )
    if monitor_kwargs and monitor_dir is None:
        raise ValueError("monitor_kwargs without monitor_dir have no effect: give both.")
    vec_env_cls = getattr(vec_env_cls, "gymnasium", vec_env_cls)
    if monitor_dir is not None:
        options = dict(monitor_kwargs or {})
        if options.pop("override_existing", True):
            # Once, and here: each environment then goes on with its own, also in a process that replaces another.
            for i in range(int(n_envs)):
                Path(monitor_dir, f"{start_index + i}.{ENDING}").unlink(missing_ok=True)
        wrapper_class = _Monitored(wrapper_class, (monitor_dir, start_index), options)
    elif start_index:
        raise ValueError("start_index numbers the files of monitor_dir: give that too.")
    host = make_vec_env(
        env_id, n_envs, seed, wrapper_class=wrapper_class, env_kwargs=env_kwargs, wrapper_kwargs=wrapper_kwargs,
        vec_env_cls=vec_env_cls, **more,
    )  # fmt: skip
    return VecEnv(host)


@dataclasses.dataclass(frozen=True)
class _Monitored:
    """Wraps an environment in a `Monitor` that learns its number from the guard around it, then as the user does."""

    wrapper: Any
    folder: tuple[str | os.PathLike, int]
    options: dict[str, Any]

    def __call__(self, env: gym.Env, **kwargs: Any) -> gym.Env:
        env = Monitor(env, **self.options)
        env.folder = self.folder
        return env if self.wrapper is None else self.wrapper(env, **kwargs)
