"""Stable-Baselines3's `VecEnv` over a `HostEnv`: for scripts that step, look into or change their environments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from actrix.core.spaces import from_env_action, is_action_space
from actrix.envs.base import HostEnv, JaxEnv, infos_with_ends, reset_infos_of
from actrix.envs.guard import Guard, env_seeds, is_wrapped
from actrix.envs.jax_envs import HostJax

RESET_ROW = (
    "environments {} reset themselves in this step instead of taking it (NEXT_STEP): their actions had no effect, and "
    "infos[i]['reset_row'] marks such rows, which are no transitions (training leaves them out). Make the vector "
    "environment with autoreset_mode=AutoresetMode.SAME_STEP to have none."
)

Indices = int | Iterable[int] | None


class _Default:
    """A property that a subclass may set to something else."""

    def __init__(self, find: Callable[[Any], Any]):
        self._find, self.__doc__ = find, find.__doc__

    def __get__(self, env: Any, owner: Any = None) -> Any:
        return self if env is None else self._find(env)


class VecEnv:
    """N environments: what `make_vec_env` and `Model.get_env` return, and a model takes.

    `reset() → obs`, `step(actions) → (obs, rewards, dones, infos)` as in Stable-Baselines3: actions in the
    environment's units, an ended environment is reset at once, `infos[i]` then has "terminal_observation" and
    "TimeLimit.truncated". Where a vector environment of your own resets itself a step later (NEXT_STEP), that row has
    "reset_row" in its info, with a UserWarning at the first. Observations are the environment's own, also where a model
    normalises (it does so itself).

    `env_method`, `get_attr`, `set_attr` and `env_is_wrapped` reach environments that are Python objects of this process
    (`envs`) or of `AsyncVectorEnv`'s; AttributeError says why where they are not.
    """

    host: Any = None
    trained: Any = None

    def __init__(self, host: Any, trained: Any = None, action_space: Any = None):
        """`trained`: the JAX environment that a model trains on, where `host` is a copy to look at.

        A subclass that steps environments of its own (`reset`, `step_async`, `step_wait`, `close` as in SB3) gives its
        `num_envs`, `observation_space` and `action_space`, or sets them; a model takes it as it takes SB3's objects.
        """
        if action_space is not None:
            self.num_envs, self.observation_space, self.action_space = host, trained, action_space
            return
        self.host, self.trained = host, host if trained is None else trained
        self._stepped = [host] if not isinstance(self.trained, HostEnv) else [host, self.trained]
        self.num_envs = host.num_envs
        self.observation_space, self.action_space = host.spec.observation_space, host.spec.action_space
        self._known_actions = is_action_space(self.action_space)
        self._actions: Any = None
        self._warned = False

    def __getattr__(self, name: str) -> Any:
        """That of the vector environments inside, where one of them has it; AttributeError where two do."""
        if hasattr(type(self), name):  # a property that raised: once more, for its own words
            return object.__getattribute__(self, name)
        inner, found = self.__dict__.get("venv"), []
        while isinstance(inner, VecEnv) and not name.startswith("_"):
            found += [inner] if name in vars(inner) or hasattr(type(inner), name) else []
            inner = vars(inner).get("venv")
        if len(found) == 1:
            return getattr(found[0], name)
        who = " and ".join(type(one).__name__ for one in found)
        several = f": {who} inside have one each; ask env.venv…" if found else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{several}")

    # ------------------------------------------------------------------ stepping

    def reset(self) -> Any:
        """Start a new episode in every environment; its observations `[N, …]`."""
        seeds, options = getattr(self.host, "asked", (None, None))
        self.host.asked = None, None  # type: ignore[attr-defined] # wrappers share the host
        self._tell_training()
        for i, one in enumerate(options or ()):
            if self._processes() is not None:
                self._asked(i, "_call", ("reset_with", (one,), {}))
            else:
                self._rows()[i].reset_with(one)
        return self.host.reset(seeds)[0]

    @_Default
    def reset_infos(self) -> list[dict[str, Any]]:
        """What each environment's last reset said in `info`, also where an episode's end brought it about."""
        return [{} for _ in range(self.num_envs)] if self.host is None else reset_infos_of(self.host)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """(observations, rewards, dones, infos) of one step with actions `[N, …]` in the environment's units."""
        if self.host is None:
            self.step_async(actions)
            return self.step_wait()
        actions = self._as_taken(actions)
        self._tell_training()
        step = self.host.step(actions)
        done = step.terminated | step.truncated
        infos = infos_with_ends(self.host, step, done)
        if step.valid is not None and not np.all(step.valid):
            for i in np.flatnonzero(~step.valid):
                infos[i]["reset_row"] = True
            if not self._warned:
                self._warned = True
                warnings.warn(
                    RESET_ROW.format(np.flatnonzero(~step.valid).tolist()), UserWarning, stacklevel=2
                )
        return step.obs, step.reward, done, infos

    def _as_taken(self, actions: Any) -> Any:
        """The actions in the policy's coordinates; as they are where no policy acts in such a space."""
        if not self._known_actions:
            return actions
        actions = np.asarray(actions, self.action_space.dtype)
        if actions.shape != (self.num_envs, *(self.action_space.shape or ())):
            expected = (self.num_envs, *(self.action_space.shape or ()))
            raise ValueError(f"actions have shape {actions.shape}; expected {expected}.")
        return np.asarray(from_env_action(self.action_space, actions))

    def _tell_training(self) -> None:
        """That its open episodes were played on, so that it begins new ones."""
        for env in self._stepped:
            env.played = True

    def step_async(self, actions: Any) -> None:
        """Remember the actions that `step_wait` takes."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """The step that `step_async` asked for."""
        return self.step(self._actions)

    def seed(self, seed: int | None = None) -> list[int]:
        """Seeds of the next `reset`, one per environment, spawned from `seed` (Stable-Baselines3: seed + i)."""
        seeds = env_seeds(seed, self.num_envs)
        if self.host is None:
            self._seeds = seeds
            return seeds
        self.host.asked = seeds, getattr(self.host, "asked", (None, None))[1]  # type: ignore[attr-defined]
        return seeds

    def set_options(self, options: dict[str, Any] | Sequence[dict[str, Any]] | None = None) -> None:
        """Options of the next `reset`: for all environments, or a list with one dict for each."""
        each = [options] * self.num_envs if isinstance(options, dict) else options
        self.host.asked = getattr(self.host, "asked", (None, None))[0], each  # type: ignore[attr-defined]

    def action_masks(self) -> np.ndarray:
        """Legal actions now `[N, n]`, of environments that have a method of that name."""
        return np.stack(self.env_method("action_masks"))

    vars(action_masks)["of_copies"] = True  # not a subclass's own

    def close(self) -> None:
        """Give the environments back."""
        self.host.close()

    # ------------------------------------------------------------------ reaching the environments

    @property
    def envs(self) -> list[gym.Env]:
        """The environments themselves, with their own wrappers."""
        return [env.env if isinstance(env, Guard) else env for env in self._rows()]

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment (of those at `indices`)."""
        if self._processes() is not None:
            return self._asked(indices, "_call", (method_name, args, kwargs))
        return [env.get_wrapper_attr(method_name)(*args, **kwargs) for env in self._at(indices)]

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of each environment, looked for through its wrappers."""
        if self._processes() is not None:
            return self._asked(indices, "_call", (attr_name, (), {}))
        return [env.get_wrapper_attr(attr_name) for env in self._at(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute where the wrappers or the environment have it, a new one on the outermost wrapper."""
        if self._processes() is not None:
            self._asked(indices, "_setattr", (attr_name, value))
            return
        for env in self._at(indices):
            env.set_wrapper_attr(attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        """Whether every environment has it."""
        return all(self.env_method("has_wrapper_attr", attr_name))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Indices = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        if self._processes() is not None:
            return self.env_method("is_wrapped", wrapper_class, indices=indices)
        return [is_wrapped(env, wrapper_class) for env in self._at(indices)]

    @_Default
    def render_mode(self) -> str | None:
        """That of the environments; None where they are no Python objects."""
        try:
            return self.get_attr("render_mode", 0)[0]
        except AttributeError:
            return None

    def get_images(self) -> list[np.ndarray]:
        """A picture of each environment made with render_mode="rgb_array"."""
        return [np.asarray(image) for image in self.env_method("render")]

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """Draw: all pictures side by side as one array (rgb_array), or each in its window (human).

        Another `mode` than the environments were made with is a UserWarning that says so, as is none.
        """
        made = self.render_mode
        if made is None or mode not in (None, made):
            wanted = f"make them with env_kwargs={{'render_mode': {mode or 'human'!r}}}"
            warnings.warn(f"nothing is drawn: render_mode is {made!r}; {wanted}.", UserWarning, stacklevel=2)
            return None
        if made != "rgb_array":
            self.env_method("render")
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

    def _rows(self) -> list[Any]:
        inner = getattr(self.host, "envs", None)
        if not isinstance(inner, gym.vector.VectorEnv) or not isinstance(inner.unwrapped, SyncVectorEnv):
            raise AttributeError(
                f"the environments of {type(self.host).__name__} are no Python objects of this process: "
                'env_method, get_attr and set_attr need backend="gymnasium" and no workers.'
            )
        return list(inner.unwrapped.envs)

    def _at(self, indices: Indices) -> list[gym.Env]:
        envs = self.envs
        if indices is None:
            return envs
        return [envs[i] for i in ([indices] if isinstance(indices, int) else indices)]

    def _processes(self) -> Any:
        inner = getattr(self.host, "envs", None)
        inner = getattr(inner, "unwrapped", None)
        return inner if isinstance(inner, AsyncVectorEnv) else None

    def _asked(self, indices: Indices, command: str, data: Any) -> list[Any]:
        """What each process at `indices` answers; all of them are asked before one is waited for."""
        pool = self._processes()
        which = (
            range(self.num_envs)
            if indices is None
            else [indices]
            if isinstance(indices, int)
            else list(indices)
        )
        for i in which:
            pool.parent_pipes[i].send((command, data))
        answers, fine = zip(*(pool.parent_pipes[i].recv() for i in which), strict=True)
        pool._raise_if_errors(fine)
        return list(answers)


def tile(images: Sequence[np.ndarray]) -> np.ndarray:
    """N pictures `[H, W, 3]` as one, in rows of about √N; what is missing is black."""
    columns = int(np.ceil(np.sqrt(len(images))))
    black = [np.zeros_like(images[0])] * (-len(images) % columns)
    full = [*images, *black]
    return np.vstack([np.hstack(full[i : i + columns]) for i in range(0, len(full), columns)])


def vec_env(env: HostEnv | JaxEnv, n_envs: int, seed: int) -> VecEnv:
    """What a model trains on as a `VecEnv`; of a compiled environment a copy to look at, with episodes of its own."""
    if isinstance(env, HostEnv):
        return VecEnv(env)
    return VecEnv(HostJax(env, n_envs, env_seeds(seed, 1)[0]), trained=env)
