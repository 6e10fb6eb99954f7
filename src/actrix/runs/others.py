"""What plays the other roles of a game: the model files in the folders beside a role's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from actrix.envs.agents.roles import take_role
from actrix.model import Model
from actrix.runs.config import RunError
from actrix.runs.folder import PLAN

MODEL = "model.safetensors"


def with_others(
    env_kwargs: dict[str, Any] | None, beside: Path | None, deterministic: bool = False, needed: bool = True
) -> dict[str, Any]:
    """An environment's arguments, and, where they name the role of a game, the policies of the others.

    They are in the folder `beside`, one for each role, or in the one that the argument `models` names. A role that has
    no model yet acts at random, with a warning where it is `needed`. Raises RunError where there is no such folder, and
    what `Model.load` raises.
    """
    kwargs, seen = take_role(env_kwargs)
    if seen is None:
        return kwargs
    named = kwargs.pop("models", None)
    folder = beside if named is None else Path(str(named))
    others = {}
    for role in [role for role in seen["roles"] if role != seen["role"]]:
        if folder is None or not (folder / role).is_dir():
            where = f" in {folder}" if folder else ""
            raise RunError(
                f"role {seen['role']} plays with {role}, whose model is not beside it{where}: "
                f"give --env-kwargs models=FOLDER, which has {role}/{MODEL}."
            )
        if (folder / role / MODEL).exists():
            others[role] = Model.load(folder / role / MODEL)
        elif needed:
            warnings.warn(f"role {role} has no model in {folder} yet: it acts at random.", stacklevel=2)
    return kwargs | seen | {"others": others, "deterministic": deterministic}


def refuse_role(folder: Path) -> None:
    """Raise RunError for the folder of one role, which is trained by turns with the others."""
    if (folder.absolute().parent / PLAN).exists():
        parent = folder.absolute().parent
        raise RunError(f"{folder} is one role of {parent}: go on with all of them, `actrix resume {parent}`.")
