"""Environments in groups and the learners: of a model, of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from actrix.core.contract import Algorithm
from actrix.envs.base import HostEnv
from actrix.envs.build import token_task
from actrix.envs.jax_envs import has_jax_env
from actrix.envs.make import choose_backend, make_vec_env, training_env
from actrix.loops.grouping import Grouping, check_grouping
from actrix.loops.groups import Crew, local_crew
from actrix.loops.learners import Learners


def backend_for(
    grouping: Grouping, backend: str, env_id: str, env_kwargs: Any, n_envs: int, workers: bool | int = False
) -> str:
    """The backend of an id that is collected from so (`choose_backend`); ValueError where nobody but the learner's own
    program can step it."""
    on_host = bool(workers or grouping.on_host)
    if on_host and env_id not in gym.registry:
        task = token_task(env_id, env_kwargs) if ":" in env_id else None
        if task is not None or has_jax_env(env_id):
            raise ValueError(
                f"{env_id} is a JAX environment, which the learner's own compiled program steps: it takes no actors, "
                "groups, behind, learner_processes or workers; learners share its copies."
            )
    # Groups can be restored when their actor dies, so far as Gymnasium's environments can.
    apart = bool(workers or grouping)
    return choose_backend(backend, env_id, env_kwargs, n_envs, apart, compiled=not on_host)


def crew_for(model: Any, env: Any) -> Crew:
    """What an id, a class or a function makes, in the model's groups; ValueError for an object."""
    size = model.n_envs // model.grouping.groups(model.n_envs)
    if isinstance(env, str):
        backend = backend_for(model.grouping, model.backend, env, model.env_kwargs, model.n_envs)
        return crew_of_id(
            model.algorithm, model.grouping, env, model.n_envs, model.seed, model.env_kwargs, backend
        )
    if not isinstance(env, type) and (isinstance(env, HostEnv) or not callable(env)):
        raise ValueError(
            "actors and groups make their environments themselves: give an id, a class or a function that makes one, "
            f"not a {type(env).__name__}."
        )
    check_grouping(model.algorithm, model.grouping, "gymnasium")
    make = functools.partial(make_vec_env, env, size, model.seed, env_kwargs=model.env_kwargs)
    return _crew(make, model.n_envs // size, model.grouping)


def crew_of_id(
    algorithm: Algorithm,
    grouping: Grouping,
    env_id: str,
    n_envs: int,
    seed: int,
    env_kwargs: Any,
    backend: str,
) -> Crew:
    """So many environments of an id in groups, here or with actors; raises what making them raises, ValueError."""
    check_grouping(algorithm, grouping, backend)
    groups = grouping.groups(n_envs)
    make = functools.partial(training_env, env_id, n_envs // groups, seed, env_kwargs, backend)
    return _crew(make, groups, grouping)


def _crew(make: Callable[[], Any], groups: int, grouping: Grouping) -> Crew:
    if not grouping.actors:
        return local_crew(make, groups)
    from actrix.remote.crew import RayCrew

    return RayCrew(
        make,
        groups,
        grouping.actors,
        grouping.address,
        step_timeout=grouping.step_timeout,
        free=grouping.free,
    )


def learners_of(grouping: Grouping) -> Learners:
    """Who learns: devices of this process, or processes on Ray that hold them; ImportError, ValueError."""
    if grouping.learner_processes == 1:
        return Learners(grouping.learners)
    from actrix.remote.team import Team

    return Team(grouping.learners, grouping.learner_processes, grouping.address)
