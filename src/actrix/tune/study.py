"""The study in its storage: opened, cleared of what a kill left behind, and asked for one trial after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.algorithms.settings import SettingError
from actrix.files.lock import RunLock
from actrix.runs.config import RunError
from actrix.show.stats import amount
from actrix.tune.plan import Plan

JOURNAL = "journal.log"
WORKERS = "workers"
"""The folder of the processes' logs, and of the lock that they ask for trials under."""
REFUSED, FOLDER = "refused", "folder"
"""User attributes: why a trial's settings were refused; which study folder began it."""
RANDOM = 10
"""At most so many trials are drawn at random before the sampler learns from them; of few trials a third."""
IN_A_ROW = 50


def need_optuna() -> Any:
    """Optuna, silent; ImportError says how to get it."""
    try:
        import optuna
    except ImportError:
        raise ImportError("tuning needs Optuna: pip install 'actrix[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(plan: Plan, folder: Path, url: str | None, trials: int, worker: int = 0) -> Any:
    """The study of this plan, made if there is none. `worker` numbers the processes, which draw differently.

    Its storage is `journal.log` in the folder or, with `url`, whatever Optuna makes of that. Raises RunError where that
    cannot be opened, or holds another study under this name.
    """
    optuna = need_optuna()
    name = folder.resolve().name
    drawn = np.random.SeedSequence([plan.base.seeds[0], worker])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=plan.base.n_timesteps // 3)
    try:
        study = optuna.create_study(
            study_name=name, storage=_storage(folder, url), direction="maximize", load_if_exists=True, pruner=pruner
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if url is not None:
            raise
        told = f"{folder / JOURNAL} cannot be read ({type(error).__name__}: {error})"
        raise RunError(f"{told}: restore it, or choose another --out.") from None
    done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    seed = int(np.random.SeedSequence([*drawn.generate_state(2), done]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, min(RANDOM, trials // 3)))
    identity = json.dumps(plan.json(), sort_keys=True)
    held = study.user_attrs.get("plan")
    if held is None:
        _refuse_foreign(study)
        study.set_user_attr("plan", identity)
    elif held != identity:
        raise RunError(f"the storage has another study named {name!r}: choose another --out or --storage.")
    return study


def _refuse_foreign(study: Any) -> None:
    """Raise RunError for a study without a plan that somebody uses: it would be written to, and its trials counted."""
    trials = study.get_trials(deepcopy=False)
    if trials or [one.name for one in study.directions] != ["MAXIMIZE"]:
        raise RunError(
            f"the storage has a study named {study.study_name!r} that actrix did not begin "
            f"({amount(len(trials), 'trial')}): choose another --out or --storage."
        )


def _storage(folder: Path, url: str | None) -> Any:
    optuna = need_optuna()
    if url is None:
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        # Its lock is a link to this path, which must be found from anywhere: a relative one would never be released.
        path = str((folder / JOURNAL).resolve())
        journal = JournalFileBackend(path, lock_obj=JournalFileSymlinkLock(path, grace_period=10))
        return optuna.storages.JournalStorage(journal)
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # of whatever driver the URL names
        scheme = url.partition(":")[0]
        reason = str(error).strip().splitlines()[0] if "@" not in str(error) else type(error).__name__
        raise RunError(f"--storage {scheme}:… cannot be opened: {reason}") from None


def repair(folder: Path) -> None:
    """Cut off the part of a line that a crash left at the journal's end; only while nobody else writes to it."""
    path = folder / JOURNAL
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


def counted(trials: Sequence[Any]) -> list[Any]:
    """The trials that count: those that were finished or pruned, not those whose settings were refused."""
    from optuna.trial import TrialState

    done = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in trials if t.state in done and REFUSED not in t.user_attrs]


def recover(study: Any, folder: Path, own: bool) -> int:
    """Fail the trials that a killed process of this folder left running, and queue their settings again; how many.

    `own`: the storage is the folder's, so that every running trial is.
    """
    from optuna.trial import TrialState

    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    left = [t for t in left if own or t.user_attrs.get(FOLDER) == str(folder.resolve())]
    for trial in left:
        give_up(study, trial)
    return len(left)


def give_up(study: Any, trial: Any) -> None:
    """A trial that was broken off counts for nothing; the same settings are tried again."""
    from optuna.trial import TrialState

    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    params = trial.params or trial.system_attrs.get("fixed_params")
    if params:
        study.enqueue_trial(params, user_attrs={"again": trial.number})


def begin(study: Any, plan: Plan) -> None:
    """Of a new study, queue the points nearest to the zoo's and the default settings."""
    if study.get_trials(deepcopy=False):
        return
    first, second = plan.nearest(plan.base), plan.nearest(plan.default)
    for params in [first] if first == second else [first, second]:
        study.enqueue_trial(params)


def ask(study: Any, plan: Plan, folder: Path, trials: int) -> Any:
    """The next trial; None where as many as wanted are done or under way. One process asks at a time.

    Raises SettingError where the last `IN_A_ROW` trials were all refused.
    """
    from optuna.trial import TrialState

    with RunLock(folder / WORKERS, patience=60.0):
        known = study.get_trials(deepcopy=False)
        running = [t for t in known if t.state is TrialState.RUNNING]
        if len(counted(known)) + len(running) >= trials:
            return None
        last = [t for t in known if t.state.is_finished()][-IN_A_ROW:]
        if len(last) == IN_A_ROW and all(REFUSED in t.user_attrs for t in last):
            reason = last[-1].user_attrs[REFUSED]
            raise SettingError(
                f"{IN_A_ROW} settings in a row were refused ({reason}): narrow the space with --space, or give more "
                "--steps."
            )
        trial = study.ask({one.param: one.distribution() for one in plan.space})
        trial.set_user_attr(FOLDER, str(folder.resolve()))
        return trial


def best(study: Any, n: int) -> list[Any]:
    """The n best finished trials: by their last returns and, where these are equal, by those before."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    rank = lambda t: (t.value, float(np.mean([*t.intermediate_values.values(), t.value])), -t.number)
    found: list[Any] = []
    for trial in sorted(done, key=rank, reverse=True):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:n]
