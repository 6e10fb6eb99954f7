"""Trials, one after the other: in this process, or in several that share a study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrix.files import atomic
from actrix.loops.interrupt import StopRequest
from actrix.loops.train import NonFiniteError
from actrix.runs.seeds import PROGRAM, Running, SeedError, nodes_at, spawn, stop_all
from actrix.show.stats import iqm
from actrix.tune.plan import Plan
from actrix.tune.study import REFUSED, WORKERS, ask, give_up, open_study
from actrix.tune.trial import Trial

STORAGE = "ACTRIX_TUNE_STORAGE"
"""The environment variable that hands the storage's URL, which may hold a password, to the processes."""


def work(
    study: Any, plan: Plan, folder: Path, trials: int, seen: Callable[[], object] = lambda: None
) -> None:
    """Run trials until the study has as many as wanted; `seen` is called after each checkpoint.

    What breaks a trial off, Ctrl-C among it, is raised; the trial counts for nothing and its settings stay queued.
    """
    while (trial := ask(study, plan, folder, trials)) is not None:
        try:
            _run(study, plan, trial, seen)
        except BaseException:
            give_up(study, study.trials[trial.number])
            raise
        seen()


def _run(study: Any, plan: Plan, trial: Any, seen: Callable[[], object]) -> None:
    """One trial, from its settings to what the study is told."""
    from optuna.trial import TrialState

    begun = time.monotonic()

    def report(steps: int, returns: list[float]) -> bool:
        trial.report(iqm(returns), steps)
        trial.set_user_attr(f"returns at {steps}", returns)
        seen()
        return not trial.should_prune()

    seen()
    trial.set_user_attr("settings", plan.settings(trial.params))
    try:
        seeds = Trial(plan.config(trial.params), plan.evaluations)
    except ValueError as error:  # sizes that do not go together
        trial.set_user_attr(REFUSED, str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return
    try:
        returns = seeds.run(report)
    except NonFiniteError as error:
        trial.set_user_attr("diverged", str(error))
        returns = None
    finally:
        seeds.close()
    if returns is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        trial.set_user_attr(f"returns at {plan.base.n_timesteps}", returns)
        trial.set_user_attr("seconds", round(time.monotonic() - begun, 1))
        study.tell(trial, iqm(returns))


def work_in_processes(
    study: Any, plan: Plan, folder: Path, trials: int, jobs: int | None, url: str | None,
    seen: Callable[[], object], address: str | None = None,
) -> None:  # fmt: skip
    """The same in so many processes, here or on the Ray cluster at an address (None: as many as it has cores for).

    Raises SeedError with the last line of one that failed, ValueError (no cluster), KeyboardInterrupt.
    """
    running: Running = {}
    more = {} if url is None else {STORAGE: url}
    with StopRequest() as stop, nodes_at(address) as nodes:
        jobs = jobs or (1 if nodes is None else min(nodes.room, trials))
        try:
            for job in range(jobs):
                path = (folder / WORKERS / f"{job}.log").resolve()
                atomic.check_regular(path)
                log = open(path, "wb")  # noqa: SIM115
                # The first draws as the study's own process would: with one job, the study is that of no other.
                command = [
                    "tune-folder",
                    str(folder.resolve()),
                    "--trials",
                    str(trials),
                    "--worker",
                    str(job),
                ]
                if nodes is None:
                    child = spawn(command, log, {**os.environ, **more})
                else:
                    child = nodes.start([*PROGRAM, *command], folder, path, more)
                running[job] = (child, path, log)
            while running and not stop.requested:
                time.sleep(0.3)
                seen()
                for job, (child, path, log) in list(running.items()):
                    if child.poll() is not None:
                        log.close()
                        del running[job]
                        _refuse_failure(job, path, child.returncode)
        finally:
            stop_all(running)
    if stop.requested:
        raise KeyboardInterrupt


def _refuse_failure(job: int, path: Path, code: int) -> None:
    if code:
        lines = path.read_text("utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("actrix: ") if lines else "no output"
        raise SeedError(f"process {job} of the study failed with exit code {code}: {said}")


def work_for(folder: Path, trials: int, worker: int) -> None:
    """What one of these processes does."""
    plan = Plan.load(folder)
    work(open_study(plan, folder, os.environ.get(STORAGE), trials, worker), plan, folder, trials)
