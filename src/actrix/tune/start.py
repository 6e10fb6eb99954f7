"""A study from its beginning, or from where it was left, to its result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actrix.algorithms.settings import SettingError
from actrix.files.lock import made
from actrix.runs.config import RunError, resolve
from actrix.runs.seeds import nodes_at
from actrix.runs.start import check
from actrix.show.stats import Summary, amount
from actrix.tune.board import Board
from actrix.tune.compare import BEST_FILE, ROUNDS, Outcome, check_rounds, compare, standards, verdict
from actrix.tune.plan import STUDY, Plan, make_plan
from actrix.tune.study import WORKERS, begin, counted, need_optuna, open_study, recover, repair
from actrix.tune.trial import check_smallest
from actrix.tune.work import work, work_in_processes

OWN = "the folder's"
"""Of the storage: the journal in the study's folder."""
IN_MEMORY = re.compile(r"^sqlite(\+\w+)?:/*(\?.*)?$|:memory:|mode=memory")
"""URLs of databases that live in one process."""


def tune(
    algorithm: str | None, env_id: str, folder: str | Path, trials: int = 100, *, seeds: int = 4, held_out: int = 10,
    evaluations: int = 5, space: str | Path | None = None, settings: Mapping[str, Any] = {}, storage: str | None = None,
    jobs: int | None = None, address: str | None = None, quiet: bool = True, **run: Any,
) -> Outcome:  # fmt: skip
    """`actrix tune ALGORITHM ENV` from Python; goes on with the study where the folder has one.

    Args:
        algorithm, env_id: as for `actrix train`; None with `critic`, `actor` and `data` in `run`.
        folder: of the study; its name is the study's.
        trials: how many the study shall have.
        seeds: of each trial: 0, 1, …
        held_out: seeds of each of the two rounds after the search (`tune.compare`).
        evaluations: checkpoints of a trial.
        space: a YAML file that changes what is searched (`tune.derive.read_space`).
        settings: fixed ones.
        storage: an Optuna URL; None = a journal in the folder.
        jobs: processes (None: one, or at an address one for each core that it has).
        address: of a Ray cluster, over which trials and held-out seeds are spread; every node sees the folder.
        run: further arguments of `runs.config.resolve` (`steps`, `n_envs`, `backend`, `env_kwargs`, …).

    Raises ImportError (no Optuna, no Ray), SettingError, RunError (another study in the folder), ValueError (no
    cluster), KeyboardInterrupt.
    """
    need_optuna()
    if seeds < 1:
        raise SettingError(f"seeds={seeds} must be at least 1.")
    run |= {"settings": dict(settings), "seeds": list(range(seeds))}
    base, default = (resolve(algorithm, env_id, tuned=tuned, tell=tuned, **run) for tuned in (True, False))
    plan = make_plan(base, default, settings, None if space is None else Path(space), held_out, evaluations)
    outcome = run_study(plan, Path(folder), trials, jobs=jobs, storage=storage, quiet=quiet, address=address)
    if outcome is None:
        raise KeyboardInterrupt
    return outcome


def run_study(
    plan: Plan, folder: Path, trials: int, *, jobs: int | None = None, storage: str | None = None,
    quiet: bool = False, address: str | None = None,
) -> Outcome | None:  # fmt: skip
    """Search until the study has so many trials, draw it, and compare; None where the comparison was interrupted."""
    need_optuna()
    _check(folder, trials, jobs, storage, address)
    place = _place(storage)
    _check_study(plan, folder, trials, place, storage)
    with nodes_at(address), made(folder):
        _same(plan, folder, place)
        say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
        of = f"{amount(trials, 'trial')} of {amount(len(plan.base.seeds), 'seed')}"
        each = f"{of} × {plan.base.n_timesteps:,} steps"
        say(f"tuning {plan.title}: {each}, {len(plan.space)} settings → {folder}")
        study = open_study(plan, folder, storage, trials)
        check_rounds(plan, study, folder)
        again = recover(study, folder, own=storage is None)
        begin(study, plan)
        done = len(counted(study.get_trials(deepcopy=False)))
        if done or again:
            say(
                f"going on with {done} of {trials} trials"
                + (f", {again} broken off and tried again" if again else "")
            )
        try:
            with Board(plan, study, trials, enabled=False if quiet else None) as board:
                if address is None and jobs in (None, 1):
                    work(study, plan, folder, trials, board.seen)
                elif done < trials:
                    work_in_processes(study, plan, folder, trials, jobs, storage, board.seen, address)
        except BaseException:
            recover(study, folder, own=storage is None)  # those of processes that were stopped
            raise
        from actrix.tune.pictures import curves, pictures  # loads matplotlib

        pictures(plan, study, folder)
        outcome = compare(plan, study, folder, quiet, say, address)
        if outcome is not None:
            curves(plan, outcome)
        return outcome


def _check(folder: Path, trials: int, jobs: int | None, storage: str | None, address: str | None) -> None:
    """Refuse what makes no sense, before anything is written."""
    for name, value in (("trials", trials), ("jobs", jobs)):
        if value is not None and value < 1:
            raise SettingError(f"{name}={value} must be at least 1.")
    if address is not None and storage is not None and storage.startswith("sqlite"):
        raise SettingError(
            "nodes of a cluster cannot share SQLite: leave --storage out, or name a database server."
        )
    if storage is not None and IN_MEMORY.search(storage):
        raise SettingError(
            f"--storage {storage} lies in memory, which no other process sees and nothing goes on from: name a file, "
            "e.g. sqlite:///study.db, or leave --storage out."
        )
    held = [p.name for p in folder.iterdir()] if folder.is_dir() else [folder.name] * folder.exists()
    if STUDY not in held and any(name != ".lock" for name in held):
        raise RunError(f"{folder} exists and holds no study: choose another --out.")


def _place(storage: str | None) -> str:
    """What `study.json` says of the storage: its URL without a user's name, password and options."""
    if storage is None:
        return OWN
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError:
        return "no URL"  # which the storage itself refuses
    database = url.database
    if database and url.get_backend_name() == "sqlite":
        database = str(Path(database).resolve())
    return url._replace(username=None, password=None, database=database).set(query={}).render_as_string()


def _check_study(plan: Plan, folder: Path, trials: int, place: str, storage: str | None) -> None:
    """The same of what would only show when a folder is written, or after the search."""
    if (folder / STUDY).exists():
        plan.check_same(folder, place)
    else:
        check_smallest(plan)
        for one in standards(plan):  # both rounds train them
            check(one.config)
    if storage is not None:
        open_study(plan, folder, storage, trials)


def _same(plan: Plan, folder: Path, place: str) -> None:
    """Refuse another study than the folder's, or another storage; write what a new one is."""
    if (folder / STUDY).exists():
        plan.check_same(folder, place)
    else:
        plan.save(folder, place)
    (folder / WORKERS).mkdir(exist_ok=True)
    if place == OWN:
        repair(folder)


def show(plan: Plan, outcome: Outcome, console: Console) -> None:
    """Print both rounds, how the chosen setting stands, and what trains with it."""
    for name, found in zip(ROUNDS, (outcome.choice, outcome.result), strict=True):
        what = "chooses among the best trials" if name == ROUNDS[0] else "seeds that chose nothing"
        table = Table(title=f"{name}: {amount(plan.held_out, 'held-out seed')}, {what}", title_justify="left")
        for column in ("settings", "IQM", "95% interval", "worst seed", "best seed"):
            table.add_column(column, justify="left" if column == "settings" else "right", no_wrap=True)
        for who, summary in found.items():
            table.add_row(who, *_row(summary), style="bold" if who == outcome.chosen.name else "")
        console.print(table)
    for sentence in verdict(outcome):
        console.print(sentence, soft_wrap=True)
    console.print(f"settings: {outcome.folder / BEST_FILE}", soft_wrap=True)


def _row(summary: Summary) -> list[str]:
    ends = f"{min(summary.values):.4g}", f"{max(summary.values):.4g}"
    if summary.iqm is None:
        return [f"mean {summary.mean:.4g}", "too few seeds", *ends]
    return [f"{summary.iqm:.4g}", f"{summary.low:.4g} to {summary.high:.4g}", *ends]
