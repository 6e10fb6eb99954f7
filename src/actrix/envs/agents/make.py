"""PettingZoo's environments by id: `pettingzoo:knights_archers_zombies_v11`, the family found or named."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any

from actrix.envs.agents.envs import AgentEnvs, TeamEnv
from actrix.envs.agents.game import is_game
from actrix.envs.agents.roles import RoleGame, take_role
from actrix.envs.build import PREFIX, UnknownEnvError, named
from actrix.envs.guard import EnvError

FAMILIES = ("butterfly", "classic", "sisl", "mpe", "atari")


def maker(env_id: Any) -> Callable[..., Any] | None:
    """What makes a game by this id or class, None where it is none: `pettingzoo:name`, a class of PettingZoo's API, or
    `module:Class` of one. UnknownEnvError, ImportError."""
    if not isinstance(env_id, str):
        return env_id if isinstance(env_id, type) and is_game(env_id) else None
    if env_id.startswith(PREFIX):
        return _of_pettingzoo(env_id)
    found = named(env_id) if ":" in env_id else None
    return found if isinstance(found, type) and is_game(found) else None


def make_agents(
    env_id: Any,
    make: Callable[..., Any],
    n_envs: int,
    seeds: list[int] | None,
    env_kwargs: Any,
    wrapper: Any = None,
) -> AgentEnvs:
    """`n_envs` games that `make` makes, each in `wrapper` if there is one. UnknownEnvError, EnvError."""
    games = [make_game(env_id, make, env_kwargs, wrapper) for _ in range(n_envs)]
    return AgentEnvs(games, seeds)


def team_env(env_id: str, env_kwargs: Any, render_mode: str | None) -> TeamEnv | None:
    """The game of an id to play and draw, None where the id is none of a game."""
    make = maker(env_id)
    if make is None:
        return None
    kwargs = dict(env_kwargs or {}) | ({} if render_mode is None else {"render_mode": render_mode})
    return TeamEnv(make_game(env_id, make, kwargs))


def make_game(env_id: Any, make: Callable[..., Any], env_kwargs: Any, wrapper: Any = None) -> Any:
    """One game, or what one role sees of it (`take_role`).

    EnvError where its constructor raises, UnknownEnvError where it refuses the arguments, ValueError for wrong roles.
    """
    kwargs, seen = take_role(env_kwargs)
    try:
        env = make(**kwargs)
        env = env if wrapper is None else wrapper(env)
    except ImportError as error:
        raise ImportError(f"{env_id} needs a package that is not installed: {error}") from error
    except Exception as error:
        if isinstance(error, TypeError) and "keyword argument" in str(error):
            raise UnknownEnvError(f"{env_id} refuses the env_kwargs: {error}.") from error
        raise EnvError(f"{env_id}: its constructor raised {type(error).__name__}: {error}") from error
    if not is_game(env):
        raise EnvError(f"{env_id} gave a {type(env).__name__}, which is no PettingZoo environment.")
    return env if seen is None else RoleGame(env, **seen)


def _of_pettingzoo(env_id: str) -> Callable[..., Any]:
    """`parallel_env` of the module that the id names, else (agents in turns) its `env`."""
    name = env_id.removeprefix(PREFIX)
    try:
        import pettingzoo
    except ImportError as error:
        raise ImportError(f'{env_id} needs PettingZoo: pip install "actrix[pettingzoo]"') from error
    known = _modules(pettingzoo)
    key = name.replace("/", ".").removeprefix("pettingzoo.")
    if key not in known:
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(PREFIX + found for found in close)}?" if close else ""
        raise UnknownEnvError(f"PettingZoo has no environment named {name!r}{hint}")
    try:
        # 1.27 deprecates these modules for a registry, which 1.26 lacks.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = importlib.import_module(known[key])
    except ImportError as error:
        family = known[key].split(".")[1]
        raise ImportError(
            f'{env_id} needs an optional package: pip install "pettingzoo[{family}]" ({error})'
        ) from error
    return getattr(module, "parallel_env", None) or module.env


def _modules(pettingzoo: Any) -> dict[str, str]:
    """Names with and without their family → modules."""
    packages = {family: [f"{pettingzoo.__path__[0]}/{family}"] for family in FAMILIES}
    found = {}
    for family, path in packages.items():
        for module in pkgutil.iter_modules(path):
            if module.name.rpartition("_v")[2].isdigit():
                found[module.name] = found[f"{family}.{module.name}"] = f"pettingzoo.{family}.{module.name}"
    mpe = importlib.util.find_spec("mpe2")  # the particle environments have a package of their own by now
    for module in pkgutil.iter_modules(mpe.submodule_search_locations if mpe else []):
        if module.name.rpartition("_v")[2].isdigit():
            found[module.name] = found[f"mpe.{module.name}"] = f"mpe2.{module.name}"
    return found
