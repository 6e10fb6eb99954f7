"""Build environments from a name, a class, or what the user already has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from actrix.envs.agents.envs import AgentEnvs
from actrix.envs.agents.game import is_game
from actrix.envs.agents.make import PREFIX, make_agents, maker
from actrix.envs.atari import atari_backend, is_atari, make_atari_env
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.build import (
    UnknownEnvError,
    construct,
    full_id,
    nearest,
    refusing,
    single_env,
    token_task,
    vectorise,
)
from actrix.envs.envpool import EnvPoolEnvs, has_envpool
from actrix.envs.foreign import as_gymnasiums
from actrix.envs.guard import EnvError, env_seeds
from actrix.envs.gymnasium import GymnasiumEnvs
from actrix.envs.jax_envs import JAX_TWINS, HostJax, gymnax_ids, has_jax_env, jax_env
from actrix.envs.workers.parent import ProcessEnvs
from actrix.envs.workers.process import STEP_TIMEOUT, WorkerTraceback, check_options

BACKENDS = ("auto", "gymnasium", "envpool", "jax", "pettingzoo")


def make_vec_env(
    env_id: str | Callable[..., gym.Env] | JaxEnv, n_envs: int = 1, seed: int | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None, env_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None, vec_env_cls: type[VectorEnv] | None = None, backend: str = "auto", *,
    workers: bool | int = False, step_timeout: float = STEP_TIMEOUT, max_restarts: int = 0,
) -> HostEnv:  # fmt: skip
    """`n_envs` environments stepped together; Stable-Baselines3's parameter names.

    `env_id` is an id, a class or function that returns a `gym.Env`, a class of a PettingZoo environment or
    `pettingzoo:ID` (then a row for each agent, see `AgentEnvs`), or a JAX environment (a `FiniteMDP`). Backend
    'auto' takes EnvPool where it has the id, `n_envs` > 1 and nothing else is asked for, else Gymnasium (for one
    environment EnvPool's threads cost more than they gain). `vec_env_cls` is `SyncVectorEnv`
    (None: one of ours, which does the same more quickly) or `AsyncVectorEnv`. `seed` serves the first reset:
    environments get spawned seeds, never seed + i.

    `workers` puts Gymnasium environments into processes of their own (`ProcessEnvs`): True one each, a number so
    many that share them. A step or reset that takes longer than `step_timeout` seconds is a failure; `max_restarts`
    failures are answered by a fresh process, the next one ends training. Scripts then need `if __name__ ==
    "__main__":`.

    Raises UnknownEnvError, ImportError (a missing extra), UnsupportedSpaceError, EnvError (the environment's
    own constructor raised), ValueError (bad `n_envs`, `backend`, `seed`, `workers`), TypeError (what cannot be
    sent to a process).
    """
    if int(n_envs) != n_envs or n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, got {n_envs}.")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if isinstance(env_id, gym.Env):
        raise TypeError(
            f"make_vec_env makes copies of an id, a class or a function, and was given one {type(env_id).__name__} "
            "object: give its class, with env_kwargs."
        )
    if isinstance(env_id, str):
        env_id = full_id(env_id)
    count = worker_count(n_envs, workers, step_timeout, max_restarts)
    if (game := _maker(env_id, count)) is not None:
        if count or vec_env_cls or backend not in ("auto", "gymnasium", "pettingzoo"):
            raise ValueError(
                f"{env_id} has several agents: it takes no workers, vec_env_cls or other backend."
            )
        wrapper = functools.partial(wrapper_class, **(wrapper_kwargs or {})) if wrapper_class else None
        return make_agents(env_id, game, int(n_envs), env_seeds(seed, n_envs), env_kwargs, wrapper)
    if backend == "pettingzoo":
        raise ValueError(f"backend='pettingzoo' takes environments of several agents, not {env_id!r}.")
    asked = _Asked(
        env_id, n_envs, seed, wrapper_class, env_kwargs, wrapper_kwargs, vec_env_cls, backend, count
    )
    return _made(asked, step_timeout=step_timeout, max_restarts=max_restarts)


def _maker(env_id: Any, processes: int = 0) -> Callable[..., Any] | None:
    """What makes a game of several agents by this id or class; a module that workers will import is not, here."""
    if processes and not str(env_id).startswith(PREFIX):
        return None
    return maker(env_id)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What `make_vec_env` is asked for."""

    env_id: Any
    n_envs: int
    seed: int | None
    wrapper_class: Any
    env_kwargs: dict[str, Any] | None
    wrapper_kwargs: dict[str, Any] | None
    vec_env_cls: Any
    backend: str
    processes: int

    @property
    def name(self) -> str:
        """The id, if it is one."""
        return self.env_id if isinstance(self.env_id, str) else ""

    @property
    def plain(self) -> bool:
        """An id, and nothing that only Gymnasium's environments take."""
        return bool(self.name) and not (
            self.wrapper_class or self.env_kwargs or self.vec_env_cls or self.processes
        )


def _made(asked: _Asked, **limits: Any) -> HostEnv:
    """Which backend serves, and what it makes; `limits` are those of processes."""
    backend, name = asked.backend, asked.name
    if asked.processes and (asked.vec_env_cls or backend not in ("auto", "gymnasium")):
        raise ValueError("workers run Gymnasium environments: no other backend, no vec_env_cls.")
    seeds = env_seeds(asked.seed, asked.n_envs)
    if isinstance(asked.env_id, JaxEnv) and not isinstance(asked.env_id, type | gym.Env):
        return _of_jax_object(asked, seeds[0])
    if backend == "envpool" and not asked.plain:
        raise ValueError("backend='envpool' takes an id only: no class, wrapper, env_kwargs or vec_env_cls.")
    if (
        asked.plain
        and (backend == "envpool" or (backend == "auto" and asked.n_envs > 1))
        and has_envpool(name)
    ):
        return EnvPoolEnvs(name, asked.n_envs, asked.seed)
    if backend == "envpool":
        raise UnknownEnvError(
            f"EnvPool is not installed or has no environment like Gymnasium's {asked.env_id!r}."
        )
    if backend == "jax":
        if not name or asked.wrapper_class or asked.vec_env_cls:
            raise ValueError("backend='jax' takes an id only: no class, wrapper_class or vec_env_cls.")
        return HostJax(make_jax_env(name, **(asked.env_kwargs or {})), asked.n_envs, seeds[0])
    build = functools.partial(
        single_env, asked.env_id, asked.env_kwargs, asked.wrapper_class, asked.wrapper_kwargs
    )
    if not asked.processes:
        return vectorise(build, asked.n_envs, seeds, asked.vec_env_cls)
    registered = gym.registry.get(name)
    known = registered.id if registered and not (asked.wrapper_class or asked.env_kwargs) else None
    return _in_workers(
        build, asked.n_envs, seeds, workers=asked.processes, env_id=known, registered=registered, **limits
    )


def _of_jax_object(asked: _Asked, seed: int) -> HostEnv:
    if (
        asked.wrapper_class or asked.env_kwargs or asked.vec_env_cls or asked.processes
        or asked.backend not in ("auto", "jax")
    ):  # fmt: skip
        raise ValueError(
            "a JAX environment takes no wrapper_class, env_kwargs, vec_env_cls, workers or other backend."
        )
    return HostJax(asked.env_id, asked.n_envs, seed)


def training_env(
    env_id: str,
    n_envs: int,
    seed: int | None,
    env_kwargs: dict[str, Any] | None = None,
    backend: str = "auto",
    *,
    workers: bool | int = False,
    step_timeout: float = STEP_TIMEOUT,
    max_restarts: int = 0,
) -> HostEnv | JaxEnv:
    """What an id trains on: Atari games preprocessed (`make_atari_env`), else a JAX environment or `make_vec_env`.

    `backend` is what `choose_backend` gives; the rest is as in `make_vec_env`. Raises ValueError for `workers` where
    they cannot be had.
    """
    count = worker_count(n_envs, workers, step_timeout, max_restarts)
    if count and (is_atari(env_id) or backend not in ("auto", "gymnasium")):
        raise ValueError(f"workers run Gymnasium environments, not {env_id} with backend {backend!r}.")
    if is_atari(env_id):
        return make_atari_env(env_id, n_envs, seed, backend, env_kwargs=env_kwargs)
    if backend == "jax":
        return make_jax_env(env_id, **(env_kwargs or {}))
    return make_vec_env(
        env_id, n_envs, seed, env_kwargs=env_kwargs, backend=backend,
        workers=workers, step_timeout=step_timeout, max_restarts=max_restarts,
    )  # fmt: skip


def choose_backend(
    backend: str,
    env_id: str,
    env_kwargs: dict[str, Any] | None = None,
    n_envs: int = 2,
    workers: bool | int = False,
    compiled: bool = True,
) -> str:
    """'jax', 'envpool', 'gymnasium' or, for games of several agents, 'pettingzoo' for an id.

    'auto' takes JAX where it matches Gymnasium's dynamics or Gymnasium has no such environment, else EnvPool
    where it has the id and there are several environments (one alone is faster without its threads), else
    Gymnasium; keyword arguments rule out what would not know them, `workers` all but Gymnasium (whose environment
    is not built here then), not `compiled` JAX. Raises UnknownEnvError with the nearest names, EnvError where the
    constructor raises.
    """
    if workers and backend == "auto":
        return "gymnasium"
    if is_atari(env_id):
        return atari_backend(backend, env_id, n_envs, env_kwargs=env_kwargs)
    if backend != "auto":
        return backend
    if ":" in env_id and token_task(env_id, env_kwargs) is not None:
        return "jax"
    if maker(env_id) is not None:
        return "pettingzoo"
    if compiled and has_jax_env(env_id) and (env_id not in JAX_TWINS or not env_kwargs):
        return "jax"
    if n_envs > 1 and not env_kwargs and has_envpool(env_id):
        return "envpool"
    construct(functools.partial(single_env, env_id, env_kwargs), 0).close()
    return "gymnasium"


def make_jax_env(env_id: str, **params: Any) -> JaxEnv:
    """`jax_env` with `UnknownEnvError`: the nearest names of an unknown id, or the unknown keyword."""
    if ":" in env_id and (task := token_task(env_id, params)) is not None:
        return task
    if not has_jax_env(env_id) and gymnax_ids():
        raise UnknownEnvError(f"no JAX environment is named {env_id!r}{nearest(env_id)}")
    with refusing(env_id):
        return jax_env(env_id, **params)


def as_host_env(env: Any, n_envs: int = 1, seed: int | None = None) -> HostEnv:
    """Any environment as a `HostEnv`.

    Takes a HostEnv (returned as it is), a gym.Env (becomes a batch of one), a gym.vector.VectorEnv in any
    autoreset mode, a PettingZoo environment (`AgentEnvs` of it), a JaxEnv (`n_envs` copies), an id or a class
    (see `make_vec_env`).
    """
    host = getattr(env, "host", None)
    env = env if host is None else host  # a VecEnv's
    if not isinstance(env, HostEnv | str | type):
        env = as_gymnasiums(env)
    if isinstance(env, VectorEnv):
        return GymnasiumEnvs(env, seeds=None if seed is None else env_seeds(seed, env.num_envs))
    game = not isinstance(env, str | type) and is_game(env)
    if isinstance(env, gym.Env) or game:
        if n_envs != 1:
            raise ValueError(
                f"one environment object cannot be {n_envs}: pass its id or class to make_vec_env."
            )
        seeds = None if seed is None else env_seeds(seed, 1)
        return AgentEnvs([env], seeds) if game else vectorise(lambda: env, 1, seeds)
    if isinstance(env, str | type) or (callable(env) and not isinstance(env, HostEnv | JaxEnv)):
        return make_vec_env(env, n_envs, seed)
    if isinstance(env, HostEnv):
        return env
    if isinstance(env, JaxEnv):
        return HostJax(env, n_envs, env_seeds(seed, 1)[0])
    raise TypeError(
        f"cannot use {type(env).__name__} as an environment: give an id, a gymnasium.Env or its class, "
        "a gymnasium vector environment, a JaxEnv, or what make_vec_env returns."
    )


def worker_count(n_envs: int, workers: bool | int, step_timeout: float, max_restarts: int) -> int:
    """The number of processes asked for, 0 for none; ValueError for options that make no sense."""
    if isinstance(workers, str):
        raise ValueError(f"workers must be True, False or a number of processes, got {workers!r}.")
    if not workers:
        if step_timeout != STEP_TIMEOUT or max_restarts != 0:
            raise ValueError("step_timeout and max_restarts need workers: pass workers=True or a number.")
        return 0
    count = n_envs if workers is True else workers
    check_options(n_envs, count, step_timeout, max_restarts)
    return int(count)


def _in_workers(build: Callable[[], gym.Env], n_envs: int, seeds: list[int], **options: Any) -> ProcessEnvs:
    try:
        return ProcessEnvs(build, n_envs, seeds, **options)
    except EnvError as error:
        name = error.__cause__.kind if isinstance(error.__cause__, WorkerTraceback) else ""
        _, constructor, message = str(error).partition(f": its constructor raised {name}: ")
        if constructor and name in (
            "UnknownEnvError",
            "ImportError",
            "ModuleNotFoundError",
        ):  # as in `construct`
            raise (UnknownEnvError if name == "UnknownEnvError" else ImportError)(
                message
            ) from error.__cause__
        raise
