"""A run that begins where another ended: `--init`, whose policy is also the reference of a KL."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from actrix.algorithms.settings import settings_of
from actrix.core.contract import Acting, Algorithm
from actrix.core.types import Spec
from actrix.files import modelfile
from actrix.files.container import ModelFileError
from actrix.loops.runner import Runner
from actrix.model import Model
from actrix.runs.config import RunConfig, RunError


def initial_model(path: str) -> Model:
    """The model of `--init`; RunError in one sentence where there is none."""
    try:
        return Model.load(path)
    except (OSError, ModelFileError, ValueError) as error:
        raise RunError(f"--init {path}: {error}") from error


def network_of(path: str) -> dict[str, Any]:
    """Its `policy_kwargs`."""
    return settings_of(initial_model(path).algorithm)["policy_kwargs"]


def initial_acting(config: RunConfig, algorithm: Algorithm, spec: Spec) -> Acting | None:
    """What a run with `--init` begins with; None without. RunError where it does not fit."""
    if not config.init:
        return None
    model = initial_model(config.init)
    held = model._known_spec()
    for what in ("observation_space", "action_space"):
        ours, theirs = getattr(spec, what), getattr(held, what)
        if ours != theirs:
            raise RunError(
                f"--init {config.init}: its {what} is {theirs}, that of {config.env_id} is {ours}."
            )
    shapes = modelfile.shapes_of(lambda key: algorithm.initial_acting(key, spec))
    alike = lambda acting: (
        jax.tree.structure((acting.net, acting.obs_moments)),
        [(x.shape, x.dtype) for x in jax.tree.leaves((acting.net, acting.obs_moments))],
    )
    if alike(model.acting) != alike(shapes):
        raise RunError(
            f"--init {config.init}: the network of {model.preset.name} there is another than that of {config.title}: "
            "it must have the same policy_kwargs, normalisation and kind of critic (sft fits the answers' presets)."
        )
    return model.acting


def begins_from(runner: Runner, algorithm: Algorithm, acting: Acting) -> None:
    """Put these acting parameters into every seed's learner, as if training began with them."""
    learners = []
    for learner in runner.learners:
        own = jax.tree.map(jnp.array, (acting.net, acting.obs_moments))
        mine = dataclasses.replace(learner.acting, net=own[0], obs_moments=own[1])
        learners.append(algorithm.with_acting(learner, mine))
    runner.set_learners(learners, [0] * len(learners))


def reference_of(algorithm: Algorithm, acting: Acting | None) -> Acting | None:
    """The policy to stay near: the one begun from, where there is a KL to one."""
    return acting if algorithm.stays_near else None


def resolved(path: str | None) -> str:
    """A path that stays right wherever the run is resumed; '' for none."""
    return "" if not path else str(Path(path).resolve()) if Path(path).exists() else path
