"""One policy per role of a game: a run for each, which train by turns, each against the newest of the others."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from actrix.algorithms.settings import SettingError
from actrix.envs.agents.game import game_of
from actrix.envs.agents.make import make_game, maker
from actrix.envs.agents.roles import ROLE_KWARGS, members
from actrix.envs.build import check_inert
from actrix.files import atomic, checkpoint, container
from actrix.files.lock import RunLock
from actrix.runs.config import RunConfig, RunError, resolve
from actrix.runs.folder import (
    CURVE,
    PLAN,
    checkpointed_steps,
    config_from,
    config_json,
    evaluated_steps,
    evaluation,
    file_name,
    refuse_taken,
)
from actrix.runs.others import MODEL
from actrix.runs.session import Session, train_here
from actrix.runs.start import Results, check, final_evaluation
from actrix.show.metrics import read_metrics

TURNS = 20
"""How many turns each role has unless `turn` is given."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `roles.json` holds: which roles there are, what each trains with, and for how many steps at a time."""

    base: RunConfig
    roles: dict[str, list[Any]]
    turn: int

    def config(self, role: str) -> RunConfig:
        """The run of one role: an ordinary one, whose environment is the game as that role sees it."""
        return dataclasses.replace(
            self.base, env_kwargs={**self.base.env_kwargs, "role": role, "roles": self.roles}
        )


def plan_of(base: RunConfig, roles: Mapping[str, Iterable[Any]] | Iterable[str], turn: int | None) -> Plan:
    """The plan, checked as far as can be before anything is written. Raises ValueError (SettingError), EnvError."""
    for name, given in {
        "several seeds": len(base.seeds) > 1, "--dataset": base.dataset, "--init": base.init,
        "groups, actors, behind or learners": not base.grouping.ordinary, "--workers": base.workers,
    }.items():  # fmt: skip
        if given:
            raise SettingError(f"roles train by turns, one run each, in this process: leave {name} out.")
    if taken := sorted({*ROLE_KWARGS, "models"} & base.env_kwargs.keys()):
        raise SettingError(f"env_kwargs {', '.join(taken)} say which role is played: the roles do, here.")
    make = maker(base.env_id)
    if make is None:
        raise SettingError(f"roles are of environments of several agents, not of {base.env_id}.")
    env = make_game(base.env_id, make, base.env_kwargs)
    try:
        found = members(game_of(env).agents, roles)
    finally:
        env.close()
    wrong = [role for role in found if file_name(role) != role or role.startswith(".")]
    if wrong:
        raise SettingError(f"role {wrong[0]!r} cannot name a folder: use letters, digits, - and _.")
    plan = Plan(base, found, max(1, base.n_timesteps // TURNS) if turn is None else turn)
    if plan.turn < 1:
        raise SettingError(f"turn={turn} must be at least 1 step.")
    for role in found:
        check(plan.config(role))
    return plan


def start(
    plan: Plan, folder: Path, tell: Callable[[str], None] = lambda line: None,
    begins: Callable[[], None] = lambda: None,
) -> dict[str, Results]:  # fmt: skip
    """Train all roles into a new folder, `folder/ROLE` each; RunError if it exists. `tell` gets a line a turn, `begins`
    is called when all is checked."""
    refuse_taken(folder)
    begins()
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        refuse_taken(folder)
        _write(plan, folder)
        return _train(plan, folder, tell)


def resume(
    folder: Path, *, steps: int | None = None, env_id: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Results]:  # fmt: skip
    """Go on where training stopped, to the planned (or a larger) number of steps for each role.

    A turn counts whole or not at all: one that was broken off is played again from its beginning, so that the result is
    that of training without the interruption, bit for bit.
    """
    plan = load_plan(folder)
    if env_id is None:
        check_inert(plan.base.env_id)
    elif env_id != plan.base.env_id:
        raise RunError(f"--env {env_id}: these roles train on {plan.base.env_id}.")
    with RunLock(folder):
        if steps is not None:
            if steps < plan.base.n_timesteps:
                raise RunError(f"--steps {steps} is less than the {plan.base.n_timesteps} of these roles.")
            plan = dataclasses.replace(plan, base=dataclasses.replace(plan.base, n_timesteps=steps))
        if min(evaluated_steps(folder / role) for role in plan.roles) >= plan.base.n_timesteps:
            raise RunError(f"{folder} has already finished its {plan.base.n_timesteps} steps for each role: go on "
                           "with a larger --steps.")  # fmt: skip
        _write(plan, folder)
        return _train(plan, folder, tell)


def has_roles(folder: Path) -> bool:
    """Whether this is a folder of roles."""
    return (folder / PLAN).is_file()


def load_plan(folder: Path) -> Plan:
    """Read `roles.json`; RunError where it cannot be read."""
    path = folder / PLAN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        roles, turn = data["roles"], data["turn"]
        if not isinstance(turn, int) or turn < 1 or not isinstance(roles, dict) or not roles:
            raise ValueError(f"turn is {turn!r}, roles is {roles!r}.")
        for role, mine in roles.items():
            if file_name(role) != role or role.startswith(".") or not isinstance(mine, list):
                raise ValueError(f"role {role!r} is {mine!r}.")
        return Plan(config_from(data["config"]), roles, turn)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def train_roles(
    algorithm: str, env_id: str, roles: Mapping[str, Iterable[Any]] | Iterable[str], total_timesteps: int,
    folder: str | os.PathLike, turn: int | None = None, **kwargs: Any,
) -> dict[str, Results]:  # fmt: skip
    """`actrix train ALGORITHM ENV --roles …` from Python: role → results. `kwargs` are those of `resolve`.

    Each role takes `total_timesteps` steps of its agents, `turn` at a time (None: a twentieth).
    """
    base = resolve(algorithm, env_id, steps=total_timesteps, **kwargs)
    return start(plan_of(base, roles, turn), Path(folder))


def _write(plan: Plan, folder: Path) -> None:
    """The plan, and each role's folder with its configuration."""
    data = {"roles": plan.roles, "turn": plan.turn, "config": config_json(plan.base)}
    atomic.write_json(folder / PLAN, data)
    for role in plan.roles:
        (folder / role).mkdir(exist_ok=True)
        atomic.write_json(folder / role / "config.json", config_json(plan.config(role)))


def _train(plan: Plan, folder: Path, tell: Callable[[str], None]) -> dict[str, Results]:
    """All turns that are left, then the evaluations: role → results, {} where it was interrupted."""
    begun = time.monotonic()
    try:
        for role in plan.roles:
            if checkpointed_steps(folder / role) != _model_steps(folder / role):
                _play(plan, folder, role, 0)  # killed between the two: the model is written again
        while left := _left(plan, folder):
            role = left[0]
            until = (_taken(folder / role) // plan.turn + 1) * plan.turn
            _play(plan, folder, role, min(until, plan.base.n_timesteps))
            tell(
                f"{role} {_taken(folder / role):,} / {plan.base.n_timesteps:,}  return {_return(folder / role)}"
            )
    except KeyboardInterrupt:
        return {}
    from actrix.show.plot import plot_run

    results = {}
    for role in plan.roles:
        path, config = folder / role, plan.config(role)
        (seed,) = config.seeds
        done = evaluated_steps(path) >= 0
        returns = evaluation(path)[1] if done else final_evaluation(path, seed)
        plot_run(path, path / CURVE)
        results[role] = Results(path, config, {seed: returns}, time.monotonic() - begun)
    return results


def _left(plan: Plan, folder: Path) -> list[str]:
    """Who has turns left, in their order: first who had fewest. It follows from what the folders hold."""
    taken = {role: _taken(folder / role) for role in plan.roles}
    left = [role for role, steps in taken.items() if steps < plan.base.n_timesteps]
    return sorted(left, key=lambda role: taken[role] // plan.turn)


def _play(plan: Plan, folder: Path, role: str, until: int) -> None:
    """Train one role until it has taken so many steps; KeyboardInterrupt where it was asked to stop, and nothing is
    kept of this turn."""
    config = plan.config(role)
    path = folder / role
    checkpoint.remove_leftovers(path)
    train_here(config, [(path, config.seeds[0])], Session(resumed=True, quiet=True, until=until))


def _taken(path: Path) -> int:
    return max(0, checkpointed_steps(path))


def _model_steps(path: Path) -> int:
    """The steps that a role's model was trained for; -1 without one."""
    file = path / MODEL
    return int(container.read_meta(file)["num_timesteps"]) if file.exists() else -1


def _return(path: Path) -> str:
    returns = read_metrics(path).get("rollout/ep_rew_mean")
    return "unknown" if returns is None else f"{returns[-1]:.2f}"
