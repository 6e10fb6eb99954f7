"""One Gymnasium environment from a name, a class or a function, and several of them side by side."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from actrix.core.spaces import check_action_space, check_observation_space
from actrix.envs.guard import EnvError, Guard, shown, words
from actrix.envs.gymnasium import GymnasiumEnvs, quiet_make
from actrix.envs.jax_envs import OWN_ENVS, gymnax_ids, has_jax_env
from actrix.envs.masks import find_masks_of
from actrix.envs.rows import RowVectorEnv
from actrix.envs.tokens.env import TokenEnv
from actrix.envs.tokens.tasks import TOKEN_ENVS

PREFIX = "pettingzoo:"
"""Of ids that PettingZoo has: no module of the user's is looked for under that name."""
OWN_ID = "(One that a module of yours registers is module:{}.)"


class UnknownEnvError(ValueError):
    """No environment of that name, or with those keyword arguments; the message has the nearest names."""


class NotOneError(EnvError, TypeError):
    """What makes the environment made something else."""


def check_one(env: Any, made_by: Any) -> None:
    """Raise NotOneError unless it is a `gymnasium.Env`, EnvError where that has no spaces."""
    kind = type(env).__name__
    if isinstance(env, gym.Env) and not isinstance(env, VectorEnv):
        for name in ("observation_space", "action_space"):
            if not isinstance(space := getattr(env, name, None), gym.Space):
                raise EnvError(
                    f"{made_by} gave a {kind} whose {name} is {shown(space)}: set one of gymnasium.spaces."
                )
        return
    if isinstance(env, VectorEnv):
        raise NotOneError(
            f"{made_by} gave a {kind}, a vector environment, where one gymnasium.Env is wanted: give the vector "
            f"environment itself, as PPO('MlpPolicy', {kind}(…))."
        )
    says = f": say what it makes, def …() -> {kind}" if isinstance(env, TokenEnv) else ""
    raise NotOneError(f"{made_by} gave a {kind}, which is not a gymnasium.Env{says}.")


class DeprecatedEnvError(UnknownEnvError, gym.error.DeprecatedEnv):
    """A version that Gymnasium has no more, by its own error's name too: scripts catch that to take the next one."""


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
    env = make_one(env_id, kwargs) if isinstance(env_id, str) else env_id(**kwargs)
    check_one(env, getattr(env_id, "__name__", env_id))
    return wrapper_class(env, **(wrapper_kwargs or {})) if wrapper_class else env


def vectorise(
    build: Callable[[], gym.Env], n_envs: int, seeds: list[int] | None, vec_env_cls: Any = None
) -> GymnasiumEnvs:
    """`n_envs` of what `build` makes, in this process or by `vec_env_cls`; UnsupportedSpaceError, EnvError."""
    return of_functions([build] * n_envs, vec_env_cls, seeds)


def of_functions(
    builds: Sequence[Callable[[], gym.Env]], vec_env_cls: Any = None, seeds: list[int] | None = None,
    any_actions: bool = False,
) -> GymnasiumEnvs:  # fmt: skip
    """What each function makes, side by side; EnvError also where two of them give one object.

    With `any_actions` they may have an action space in which no policy acts: to be stepped by hand.
    """
    # The first one shows, before any worker starts, whether its spaces are supported and where masks are.
    first = construct(builds[0], 0)
    check_observation_space(first.observation_space)
    if not any_actions:
        check_action_space(first.action_space)
    masks, limit = find_masks_of(first), _time_limit(first)
    first.looked()
    makers: list[Callable[[], gym.Env]] = [
        functools.partial(construct, build, i) for i, build in enumerate(builds)
    ]
    options: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
    if vec_env_cls is not None and issubclass(vec_env_cls, AsyncVectorEnv):
        first.close()
        # Forking a process in which JAX runs can deadlock.
        options["context"] = vars(vec_env_cls).get("start_method", "forkserver")
        return GymnasiumEnvs(started(vec_env_cls, makers, options), limit, seeds, masks, any_actions)
    makers[0] = lambda: first
    envs = RowVectorEnv(makers) if vec_env_cls is None else vec_env_cls(makers, **options)
    return GymnasiumEnvs(envs, limit, seeds, masks, any_actions)


def _time_limit(env: gym.Env) -> int | None:
    """Of its registration, or of a TimeLimit around an environment that has none."""
    if env.spec is not None:
        return env.spec.max_episode_steps
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def started(vec_env_cls: Any, makers: Sequence[Callable[[], gym.Env]], options: dict[str, Any]) -> Any:
    """A vector environment in processes; EnvError names the guard that a script needs."""
    try:
        return vec_env_cls(makers, **options)
    except (EOFError, ConnectionError, BrokenPipeError, RuntimeError) as error:
        raise EnvError(
            f"the environments' processes did not start ({type(error).__name__}: {error}): a script that starts "
            'processes needs its code under if __name__ == "__main__":.'
        ) from error


def construct(build: Callable[[], gym.Env], index: int) -> Guard:
    """What `build` makes, guarded; EnvError where its constructor raises."""
    try:
        env = build()
        check_one(env, f"environment {index}: its function")
        return Guard(env, index)
    except (EnvError, UnknownEnvError, ImportError):
        raise
    except gym.error.DeprecatedEnv as error:
        raise DeprecatedEnvError(f"environment {index}: {error}") from error
    except Exception as error:
        raise EnvError(
            f"environment {index}: its constructor raised {type(error).__name__}: {words(error)}"
        ) from error


def check_inert(env_id: str | None) -> None:
    """Refuse an id that a FILE gives and that would import a module ('module:Id'); raises UnknownEnvError.

    A user may type such an id; a file may not, else opening a stranger's model would run a stranger's code.
    """
    if env_id is not None and ":" in env_id:
        raise UnknownEnvError(
            f"the file names {env_id!r}, which would import a module: if you trust it, give --env {env_id} yourself."
        )


def make_one(env_id: str, kwargs: dict[str, Any]) -> gym.Env:
    """Gymnasium's environment of an id, or the class that it names; UnknownEnvError, ImportError."""
    if env_id.startswith("ALE/"):
        register_atari()
    env_id = full_id(env_id)
    made = named(env_id)
    try:
        with refusing(env_id):
            return quiet_make(env_id, **kwargs) if made is None else made(**kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(
            f'{env_id} needs an optional package: pip install "actrix[envs]" ({error})'
        ) from error
    except gym.error.UnregisteredEnv as error:
        raise UnknownEnvError(f"no environment is named {env_id!r}{_why_not(env_id)}") from error
    except gym.error.DeprecatedEnv as error:
        raise DeprecatedEnvError(f"{env_id!r}: {error}") from error
    except gym.error.Error as error:  # a malformed id, an unknown render mode
        raise UnknownEnvError(f"{env_id!r}: {error}") from error


@contextlib.contextmanager
def refusing(env_id: str) -> Iterator[None]:
    """Within it an unknown keyword of an environment is an UnknownEnvError that names it."""
    try:
        yield
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        reason = str(error).split(" was raised from")[0]
        raise UnknownEnvError(f"{env_id} refuses the env_kwargs: {reason}.") from error


def full_id(env_id: str) -> str:
    """The id with the version that Gymnasium takes where none is said ('CartPole': 'CartPole-v1'); else as it is."""
    if env_id in gym.registry or ":" in env_id:
        return env_id
    try:
        space, name, version = registration.parse_env_id(env_id)
    except gym.error.Error:
        return env_id
    newest = registration.find_highest_version(space, name) if version is None else None
    return env_id if newest is None else f"{env_id}-v{newest}"


def named(env_id: str) -> Callable[..., Any] | None:
    """The class or function that 'module:name' names; None for an id, also one that the module registers.

    A module that is not installed is looked for in the current folder, which from then on ends `sys.path`: only where
    the user named one, so that nothing else in a folder is ever run.
    """
    module, colon, name = env_id.partition(":")
    if not colon or env_id.startswith(PREFIX):
        return None
    if not name or not all(module.split(".")):
        raise UnknownEnvError(f"no environment is named {env_id!r}: write module:Class, or module:Id.")
    if module.endswith(".py"):
        path = module.removesuffix(".py").replace("/", ".")
        raise UnknownEnvError(f"{env_id} names a file: write the module that it is, {path}:{name}.")
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


def token_task(env_id: str, env_kwargs: dict[str, Any] | None = None) -> TokenEnv | None:
    """The token environment of an id, or of a function that says it makes one (`-> Questions`); None for others."""
    kwargs = env_kwargs or {}
    if env_id in TOKEN_ENVS:
        with refusing(env_id):
            return TOKEN_ENVS[env_id](**kwargs)
    made = named(env_id)
    kind: Any = made
    if made is not None and not isinstance(made, type):
        try:
            kind = typing.get_type_hints(made).get("return")
        except Exception:  # annotations of the user's that cannot be read are not ours to complain about
            return None
    if made is None or not (isinstance(kind, type) and issubclass(kind, TokenEnv)):
        return None
    try:
        return made(**kwargs)
    except Exception as error:
        raise EnvError(f"{env_id} raised {type(error).__name__}: {error}") from error


def _why_not(env_id: str) -> str:
    """What an id that there is not may have meant, as the end of a sentence."""
    if ":" in env_id:
        return _not_in(env_id)
    if has_jax_env(env_id):
        return " in Gymnasium: it is a JAX environment, which backend='jax' makes."
    module = env_id.removesuffix(".py").replace("/", ".")
    if os.path.isfile(f"{module.replace('.', '/')}.py"):
        return f", which is a file: name the class in it, {module}:Class."
    return f"{nearest(env_id)} {OWN_ID.format(env_id)}"


def _not_in(env_id: str) -> str:
    """That a module has no such name, and which of its own is spelled like it."""
    module, _, name = env_id.partition(":")
    there = [
        n for n, x in vars(sys.modules[module]).items() if isinstance(x, type) and issubclass(x, gym.Env)
    ]
    near = difflib.get_close_matches(name, there, n=3)
    hint = f"; did you mean {' or '.join(f'{module}:{n}' for n in near)}?" if near else "."
    return f" (the module has no such class or function, and registers no such id){hint}"


def _not_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is None
    except ValueError:  # a module without a spec, such as __main__
        return False


def register_atari() -> None:
    """Make Gymnasium know the ids of ale-py; ImportError without it."""
    try:
        import ale_py
    except ImportError as error:
        raise ImportError('ALE/* environments need ale-py: pip install "actrix[atari]"') from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
    gym.register_envs(ale_py)


def nearest(env_id: str) -> str:
    """The ids that are spelled like this one, as the end of a sentence, which a full stop is without one."""
    names = {name.lower(): name for name in (*gym.registry, *OWN_ENVS, *gymnax_ids())}
    close = difflib.get_close_matches(env_id.lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(names[name] for name in close)}?" if close else "."
