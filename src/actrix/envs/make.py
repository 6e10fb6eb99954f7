"""Build environments from a name, a class, or what the user already has."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from actrix.core.spaces import check_action_space, check_observation_space
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.envpool import EnvPoolEnvs, has_envpool
from actrix.envs.goals import GOAL_ENVS
from actrix.envs.guard import EnvError, Guard, env_seeds
from actrix.envs.gymnasium import GymnasiumEnvs, RowVectorEnv, find_masks_of, quiet_make
from actrix.envs.jax_envs import JAX_TWINS, HostJax, gymnax_ids, has_jax_env, jax_env
from actrix.envs.workers import STEP_TIMEOUT, ProcessEnvs, WorkerTraceback, check_options

BACKENDS = ("auto", "gymnasium", "envpool", "jax")


class UnknownEnvError(ValueError):
    """No environment of that name, or with those keyword arguments; the message has the nearest names."""


def make_vec_env(
    env_id: str | Callable[..., gym.Env] | JaxEnv,
    n_envs: int = 1,
    seed: int | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VectorEnv] | None = None,
    backend: str = "auto",
    *,
    workers: bool | int = False,
    step_timeout: float = STEP_TIMEOUT,
    max_restarts: int = 0,
) -> HostEnv:
    """`n_envs` environments stepped together; Stable-Baselines3's parameter names.

    `env_id` is an id, a class or function that returns a `gym.Env`, or a JAX environment (a `FiniteMDP`). Backend
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
    count = worker_count(n_envs, workers, step_timeout, max_restarts)
    if count and (vec_env_cls or backend not in ("auto", "gymnasium")):
        raise ValueError("workers run Gymnasium environments: no other backend, no vec_env_cls.")
    seeds = env_seeds(seed, n_envs)
    if isinstance(env_id, JaxEnv) and not isinstance(env_id, type | gym.Env):
        if wrapper_class or env_kwargs or vec_env_cls or count or backend not in ("auto", "jax"):
            raise ValueError(
                "a JAX environment takes no wrapper_class, env_kwargs, vec_env_cls, workers or other backend."
            )
        return HostJax(env_id, n_envs, seeds[0])
    name = env_id if isinstance(env_id, str) else ""
    plain = name and not (wrapper_class or env_kwargs or vec_env_cls or count)
    if backend == "envpool" and not plain:
        raise ValueError("backend='envpool' takes an id only: no class, wrapper, env_kwargs or vec_env_cls.")
    if plain and (backend == "envpool" or (backend == "auto" and n_envs > 1)) and has_envpool(name):
        return EnvPoolEnvs(name, n_envs, seed)
    if backend == "envpool":
        raise UnknownEnvError(f"EnvPool is not installed or has no environment like Gymnasium's {env_id!r}.")
    if backend == "jax":
        if not name or wrapper_class or vec_env_cls:
            raise ValueError("backend='jax' takes an id only: no class, wrapper_class or vec_env_cls.")
        return HostJax(make_jax_env(name, **(env_kwargs or {})), n_envs, seeds[0])
    build = functools.partial(single_env, env_id, env_kwargs, wrapper_class, wrapper_kwargs)
    if count:
        registered = gym.registry.get(name)
        known = registered.id if registered and not (wrapper_class or env_kwargs) else None
        return _in_workers(
            build, n_envs, seeds, workers=count, step_timeout=step_timeout, max_restarts=max_restarts,
            env_id=known, registered=registered,
        )  # fmt: skip
    return _vectorise(build, n_envs, seeds, vec_env_cls)


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
    from actrix.envs.atari import is_atari, make_atari_env  # which needs this module

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
) -> str:
    """'jax', 'envpool' or 'gymnasium' for an id.

    'auto' takes JAX where it matches Gymnasium's dynamics or Gymnasium has no such environment, else EnvPool
    where it has the id and there are several environments (one alone is faster without its threads), else
    Gymnasium; keyword arguments rule out what would not know them, `workers` all but Gymnasium (whose environment
    is not built here then). Raises UnknownEnvError with the nearest names, EnvError where the constructor raises.
    """
    from actrix.envs.atari import atari_backend, is_atari  # which needs this module

    if workers and backend == "auto":
        return "gymnasium"
    if is_atari(env_id):
        return atari_backend(backend, env_id, n_envs, env_kwargs=env_kwargs)
    if backend != "auto":
        return backend
    if has_jax_env(env_id) and (env_id not in JAX_TWINS or not env_kwargs):
        return "jax"
    if n_envs > 1 and not env_kwargs and has_envpool(env_id):
        return "envpool"
    _construct(functools.partial(single_env, env_id, env_kwargs), 0).close()
    return "gymnasium"


def make_jax_env(env_id: str, **params: Any) -> JaxEnv:
    """`jax_env` with `UnknownEnvError`: the nearest names of an unknown id, or the unknown keyword."""
    if not has_jax_env(env_id) and gymnax_ids():
        raise UnknownEnvError(f"no JAX environment is named {env_id!r}{_nearest(env_id)}.")
    try:
        return jax_env(env_id, **params)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        reason = str(error).split(" was raised from")[0]
        raise UnknownEnvError(f"{env_id} refuses the env_kwargs: {reason}.") from error


def single_env(
    env_id: str | Callable[..., gym.Env],
    env_kwargs: dict[str, Any] | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    render_mode: str | None = None,
) -> gym.Env:
    """One Gymnasium environment, as `make_vec_env` builds it: for evaluation, video, watching."""
    kwargs = dict(env_kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    env = _make(env_id, kwargs) if isinstance(env_id, str) else env_id(**kwargs)
    if not isinstance(env, gym.Env):
        raise TypeError(f"{env_id} gave a {type(env).__name__}, which is not a gymnasium.Env.")
    return wrapper_class(env, **(wrapper_kwargs or {})) if wrapper_class else env


def as_host_env(env: Any, n_envs: int = 1, seed: int | None = None) -> HostEnv:
    """Any environment as a `HostEnv`.

    Takes a HostEnv (returned as it is), a gym.Env (becomes a batch of one), a gym.vector.VectorEnv in any
    autoreset mode, a JaxEnv (`n_envs` copies), an id or a class (see `make_vec_env`).
    """
    if isinstance(env, VectorEnv):
        return GymnasiumEnvs(env, seeds=None if seed is None else env_seeds(seed, env.num_envs))
    if isinstance(env, gym.Env):
        if n_envs != 1:
            raise ValueError(
                f"one environment object cannot be {n_envs}: pass its id or class to make_vec_env."
            )
        return _vectorise(lambda: env, 1, None if seed is None else env_seeds(seed, 1))
    if isinstance(env, str | type) or (callable(env) and not isinstance(env, HostEnv | JaxEnv)):
        return make_vec_env(env, n_envs, seed)
    if isinstance(env, HostEnv):
        return env
    if isinstance(env, JaxEnv):
        return HostJax(env, n_envs, env_seeds(seed, 1)[0])
    raise TypeError(
        f"cannot use a {type(env).__name__} as an environment: give an id, a gymnasium.Env or its class, "
        "a gymnasium vector environment, a JaxEnv, or what make_vec_env returns."
    )


def _vectorise(
    build: Callable[[], gym.Env], n_envs: int, seeds: list[int] | None, vec_env_cls: Any = None
) -> GymnasiumEnvs:
    guarded = functools.partial(_construct, build)
    # The first one shows, before any worker starts, whether its spaces are supported and where masks are.
    first = guarded(0)
    check_observation_space(first.observation_space)
    check_action_space(first.action_space)
    masks, limit = find_masks_of(first), first.spec.max_episode_steps if first.spec else None
    makers: list[Callable[[], gym.Env]] = [functools.partial(guarded, i) for i in range(n_envs)]
    options: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
    if vec_env_cls is not None and issubclass(vec_env_cls, AsyncVectorEnv):
        first.close()
        options["context"] = "forkserver"  # forking a process in which JAX runs can deadlock
    else:
        makers[0] = lambda: first
    envs = RowVectorEnv(makers) if vec_env_cls is None else vec_env_cls(makers, **options)
    return GymnasiumEnvs(envs, limit, seeds, masks)


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
        ):  # as in `_construct`
            raise (UnknownEnvError if name == "UnknownEnvError" else ImportError)(
                message
            ) from error.__cause__
        raise


def _construct(build: Callable[[], gym.Env], index: int) -> gym.Env:
    try:
        return Guard(build(), index)
    except (EnvError, UnknownEnvError, ImportError):
        raise
    except Exception as error:
        raise EnvError(
            f"environment {index}: its constructor raised {type(error).__name__}: {error}"
        ) from error


def check_inert(env_id: str | None) -> None:
    """Refuse an id that a FILE gives and that would import a module ('module:Id'); raises UnknownEnvError.

    A user may type such an id; a file may not, else opening a stranger's model would run a stranger's code.
    """
    if env_id is not None and ":" in env_id:
        raise UnknownEnvError(
            f"the file names {env_id!r}, which would import a module: if you trust it, give --env {env_id} yourself."
        )


def _make(env_id: str, kwargs: dict[str, Any]) -> gym.Env:
    if env_id.startswith("ALE/"):
        _register_atari()
    made = named(env_id)
    try:
        return quiet_make(env_id, **kwargs) if made is None else made(**kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(
            f'{env_id} needs an optional package: pip install "actrix[envs]" ({error})'
        ) from error
    except gym.error.UnregisteredEnv as error:
        hint = " (the module has no such class or function, and registers no such id)"
        why = hint if ":" in env_id else _nearest(env_id)
        raise UnknownEnvError(f"no environment is named {env_id!r}{why}.") from error
    except gym.error.Error as error:  # a deprecated version, a malformed id, an unknown render mode
        raise UnknownEnvError(f"{env_id!r}: {error}") from error
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        reason = str(error).split(" was raised from")[0]
        raise UnknownEnvError(f"{env_id} refuses the env_kwargs: {reason}.") from error


def named(env_id: str) -> Callable[..., Any] | None:
    """The class or function that 'module:name' names; None for an id, also one that the module registers.

    A module that is not installed is looked for in the current folder, which from then on ends `sys.path`: only where
    the user named one, so that nothing else in a folder is ever run.
    """
    module, colon, name = env_id.partition(":")
    if not colon:
        return None
    if not name or not all(module.split(".")):
        raise UnknownEnvError(f"no environment is named {env_id!r}: write module:Class, or module:Id.")
    try:
        if not sys.flags.safe_path and _not_installed(module) and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever its code does when it is imported
        raise ImportError(
            f"{module} cannot be imported for {name}: {type(error).__name__}: {error}"
        ) from error
    if name in gym.registry:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not None and not callable(found):
        raise UnknownEnvError(
            f"{env_id} is a {type(found).__name__}: name a class, or a function that makes one environment."
        )
    return found


def _not_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is None
    except ValueError:  # a module without a spec, such as __main__
        return False


def _register_atari() -> None:
    try:
        import ale_py
    except ImportError as error:
        raise ImportError('ALE/* environments need ale-py: pip install "actrix[atari]"') from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
    gym.register_envs(ale_py)


def _nearest(env_id: str) -> str:
    names = {name.lower(): name for name in (*gym.registry, *GOAL_ENVS, *gymnax_ids())}
    close = difflib.get_close_matches(env_id.lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(names[name] for name in close)}?" if close else ""
