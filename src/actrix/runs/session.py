"""One process that trains a run: it goes on from what is there, saves, and stops when asked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.algorithms.settings import settings_of
from actrix.core.contract import Algorithm
from actrix.crews import crew_of_id, learners_of
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.build import token_task
from actrix.envs.make import training_env
from actrix.files import checkpoint, manifest, modelfile
from actrix.files.lock import RunLock
from actrix.loops.compiled import CompiledRunner
from actrix.loops.evaluate import Policy, evaluate, evaluation_env
from actrix.loops.interrupt import StopRequest
from actrix.loops.offline import OfflineRunner
from actrix.loops.runner import Runner
from actrix.loops.stepping import host_runner
from actrix.loops.train import SeedRun, kept, load_checkpoints, save_checkpoints, train
from actrix.runs import tracked, warm
from actrix.runs.answered import LiveAnswers
from actrix.runs.config import RunConfig, RunError, load_datasets
from actrix.runs.folder import checkpointed_steps, remove_traces
from actrix.runs.others import with_others
from actrix.show.display import Display
from actrix.show.log import Logger

CHECKPOINT_SECONDS = 60.0
EXIT_INTERRUPTED = 130
"""What a process ends with that was interrupted, and saved a checkpoint."""
EVAL_EPISODES = 20
OFFLINE_EVALUATIONS = 10
NOT_EXACT = "behind=any learns from chunks as they come: no two runs have the same bits (see time/staleness)"


@dataclasses.dataclass(frozen=True)
class Session:
    """How one process trains a run, which bears on nothing that it computes."""

    resumed: bool = False
    quiet: bool = False
    verbose: int = 0
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    until: int | None = None
    """A turn that ends after so many steps of the run's budget, at once where they are taken: it is kept whole, by the
    checkpoint at its end, or not at all."""


def make_env(config: RunConfig, seed: int) -> HostEnv | JaxEnv:
    """The training environment."""
    if config.grouping:
        return crew_of_id(
            config.build(), config.grouping, config.env_id, config.n_envs, seed, config.env_kwargs or None,
            config.backend,
        )  # fmt: skip
    return training_env(
        config.env_id, config.n_envs, seed, config.env_kwargs or None, config.backend,
        workers=config.workers, step_timeout=config.step_timeout, max_restarts=config.max_restarts,
    )  # fmt: skip


def make_runner(config: RunConfig, algorithm: Algorithm, seeds: Sequence[int]) -> Runner:
    """The loop that trains these seeds, in an environment of its own; a host loop takes one."""
    if config.dataset:
        return OfflineRunner(algorithm, load_datasets(config.dataset), seeds)
    env = make_env(config, seeds[0])
    algorithm.check(env.spec, env.num_envs if isinstance(env, HostEnv) else config.n_envs)
    begun = warm.initial_acting(config, algorithm, env.spec)
    reference = warm.reference_of(algorithm, begun)
    runner: Runner
    if isinstance(env, HostEnv):
        who = config.grouping
        runner = host_runner(algorithm, env, seeds[0], reference, who.lag, learners_of(who))
    else:
        runner = CompiledRunner(algorithm, env, config.n_envs, seeds, reference, config.learners)
    if begun is not None:
        warm.begins_from(runner, algorithm, begun)
    return runner


def train_here(config: RunConfig, pairs: Sequence[tuple[Path, int]], session: Session) -> bool:
    """Train these seeds in this process; whether they were finished."""
    algorithm = config.build()
    beside = pairs[0][0].absolute().parent
    played = with_others(config.env_kwargs, beside, needed=False)
    runner = make_runner(
        dataclasses.replace(config, env_kwargs=played), algorithm, [seed for _, seed in pairs]
    )
    runs = [
        SeedRun(seed, folder=path, checkpoints=path / "checkpoints", identity=identity_of(config))
        for path, seed in pairs
    ]
    with contextlib.ExitStack() as locks:
        for run in runs if len(runs) > 1 else []:  # a seed's folder is a run folder, too
            assert run.folder is not None
            locks.enter_context(RunLock(run.folder))
        return _train_runs(config, algorithm, runner, runs, session)


def _train_runs(
    config: RunConfig, algorithm: Algorithm, runner: Runner, runs: Sequence[SeedRun], session: Session
) -> bool:
    """`train_here` with everything built and locked."""
    seeds = [run.seed for run in runs]
    notes = _begin(config, runner, runs, session)
    verbose, shown = session.verbose, not (session.quiet or session.verbose)
    for run in runs:
        run.logger = Logger(run.folder, tensorboard=run.folder, verbose=verbose,
                            resume_step=run.steps if run.iterations else None)  # fmt: skip
    with (
        StopRequest() as stop,
        Display(config.n_timesteps, config.title, enabled=None if shown else False, start=runs[0].steps,
                seeds=seeds if len(seeds) > 1 else None, plays=not (config.dataset or algorithm.shown)) as display,
    ):  # fmt: skip
        for note in notes:
            display.message(note) if shown else print(note, file=sys.stderr, flush=True)
        display.status(f"compiling {_what(config)} ({config.backend}) …")
        looks = _looks(config, runner, runs, display)
        turn = None if session.until is None else _Turn(session.until, runs[0], stop)
        with contextlib.ExitStack() as stack:
            stack.callback(runner.close)
            for run in runs:
                stack.callback(run.logger.close)  # type: ignore[union-attr]
            for run in runs:
                _track(stack, config, run)
            # After a non-finite update, too: the runner holds the last good parameters.
            with kept(functools.partial(_write, config, algorithm, runner, runs)):
                if turn is not None and turn.over:
                    return True
                finished = train(
                    runner, runs, config.n_timesteps, display=display, on_update=turn or looks, stop=stop,
                    checkpoint_seconds=None if turn else session.checkpoint_seconds,
                    log_interval=_log_interval(config, runner),
                )  # fmt: skip
                if not finished and turn is None:
                    display.message("interrupted: saving a checkpoint")
        if turn is not None and stop.requested:  # at the end of its turn, which is saved
            raise KeyboardInterrupt
    return finished


def _what(config: RunConfig) -> str:
    """What is trained; the size of the groups is said, as the result depends on it."""
    if config.dataset:
        return config.title
    grouped = f" in groups of {config.envs_per_group}" if config.envs_per_group else ""
    return f"{config.algorithm} for {config.n_envs} × {config.env_id}{grouped}"


class _Turn:
    """Goes on until a number of steps is taken. KeyboardInterrupt, after which nothing is saved, where it is asked to
    stop before."""

    def __init__(self, until: int, run: SeedRun, stop: StopRequest):
        self.until, self.run, self.stop = until, run, stop

    @property
    def over(self) -> bool:
        """Whether they are taken."""
        return self.run.steps >= self.until

    def __call__(self) -> bool:
        if self.stop.requested and not self.over:
            raise KeyboardInterrupt
        return not self.over


def _track(stack: contextlib.ExitStack, config: RunConfig, run: SeedRun) -> None:
    """Send the rows of this seed to the tracker that its folder names, until the stack closes."""
    assert run.folder is not None
    assert run.logger is not None
    one = tracked.begin(run.folder, config, run.seed)
    if one is not None:
        run.logger.outputs.append(one.log)
        stack.callback(lambda: one.finish(run.steps >= config.n_timesteps))


def _write(config: RunConfig, algorithm: Algorithm, runner: Runner, runs: Sequence[SeedRun]) -> None:
    """Checkpoints and models of all that has learned something."""
    save_checkpoints(runner, runs)
    for run, acting in zip(runs, runner.actings, strict=True):
        if not run.iterations or run.folder is None:
            continue
        modelfile.write_model(
            run.folder / "model.safetensors", config.algorithm, settings_of(algorithm), acting, runner.spec,
            env_id=config.env_id or None, env_kwargs=config.env_kwargs or None, seed=run.seed,
            num_timesteps=run.steps, n_envs=config.n_envs,
            reference=bool(config.init) and algorithm.stays_near,
        )  # fmt: skip


def identity_of(config: RunConfig) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption: all that bears on what is computed."""
    free = ("seeds", "n_timesteps", "tuned", "workers", "step_timeout", "max_restarts", "actors", "address",
            "learners", "learner_processes")  # fmt: skip
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    return json.loads(json.dumps(kept))


def _begin(config: RunConfig, runner: Runner, runs: Sequence[SeedRun], session: Session) -> list[str]:
    """Restore what there is to go on from, and note the session in the manifest; lines that the user should see."""
    new = [run for run in runs if run.folder and checkpointed_steps(run.folder) < 0]
    notes = _begin_anew(new, some=len(new) < len(runs)) if session.resumed else []
    if session.until is not None:  # every turn is a resumption: no news
        notes.clear()
    event, reason = "start", None
    if session.resumed and len(new) < len(runs):
        event = "resume"
        first = next(run for run in runs if run not in new)
        assert first.folder is not None
        changed = manifest.differences(first.folder)
        reason = load_checkpoints(
            runner, runs, check_identity, lambda path, error: notes.append(checkpoint.set_aside(path, error))
        )
        notes += [f"resumed at step {first.steps:,}, " + (
            f"{'' if config.grouping.free else 'exactly '}where it was" if reason is None else
            f"in new episodes, {first.dropped_episodes} dropped so far: {reason}"
        )] if session.until is None else []  # fmt: skip
        changed += _other_learners(config, first.folder)
        if changed:
            notes.append(
                f"this is not quite where the run trained before ({'; '.join(changed)}): it goes on, but its bits may "
                "differ from those of an uninterrupted run"
            )
    if config.grouping.free:
        notes.append(NOT_EXACT)
    who = {"learners": config.learners} | ({"not_exact": NOT_EXACT} if config.grouping.free else {})
    for run in runs:
        assert run.folder is not None
        checkpoint.remove_leftovers(run.folder)
        checkpoint.remove_leftovers(run.folder / "checkpoints")
        anew = event == "start" or run in new
        exact = reason is None and not config.grouping.free
        more = {} if anew else {"exact": exact, "dropped_episodes": run.dropped_episodes}
        manifest.append(run.folder, event, run.steps, **more, **who)
    return notes


def _other_learners(config: RunConfig, folder: Path) -> list[str]:
    """What the number of learners was and is, where it has changed: sums over other shares round otherwise."""
    before = manifest.sessions(folder)[-1:]
    was = before[0].get("learners", 1) if before and isinstance(before[0], dict) else config.learners
    return [] if was == config.learners else [f"learners {was} → {config.learners}"]


def _begin_anew(new: Sequence[SeedRun], some: bool) -> list[str]:
    """Clear the folders of seeds that have no checkpoint, which `some` others have; lines to show."""
    notes = []
    for run in new:
        assert run.folder is not None
        if (run.folder / "model.safetensors").exists():
            raise RunError(
                f"{run.folder} has a model but not the checkpoint to go on from: start anew with another --out."
            )
        remove_traces(run.folder)
        whose = f"of seed {run.seed} yet: it" if some else "yet: the run"
        if run is new[0] or some:
            notes.append(f"there is no checkpoint {whose} begins anew")
    return notes


def check_identity(run: SeedRun, meta: dict[str, Any]) -> None:
    """Raise RunError where the checkpoint was written under another configuration."""
    old, new = meta["run"] | {"seed": meta["seed"]}, run.identity | {"seed": run.seed}
    changed = checkpoint.differences(old, new)
    if changed:
        raise RunError(
            f"{run.folder}/config.json is not what its checkpoint was trained with: {'; '.join(changed)}. Put it back, "
            "or start another run; only the number of steps may grow (--steps)."
        )


def _looks(
    config: RunConfig, runner: Runner, runs: Sequence[SeedRun], display: Display
) -> Callable[[], bool] | None:
    """What looks at the policy now and then: episodes beside a data set, answers to prompts."""
    if config.dataset:
        return _Evaluations(config, runner, runs) if config.env_id else None
    task = token_task(config.env_id, config.env_kwargs or None)
    return None if task is None else LiveAnswers(task, runner, runs, config.n_timesteps, display)


class _Evaluations:
    """Learning from a data set gives no returns: a few episodes after each tenth of the budget draw its curve."""

    def __init__(self, config: RunConfig, runner: Runner, runs: Sequence[SeedRun]):
        self.config, self.runner, self.runs = config, runner, runs
        self.every = max(1, config.n_timesteps // OFFLINE_EVALUATIONS)
        self.next = (runs[0].steps // self.every + 1) * self.every

    def __call__(self) -> bool:
        """Evaluate where it is time to; training goes on."""
        if self.runs[0].steps < self.next or self.runs[0].steps >= self.config.n_timesteps:
            return True
        self.next += self.every
        env = evaluation_env(self.config.env_id, EVAL_EPISODES // 2, self.config.env_kwargs or None)
        try:
            for run, acting in zip(self.runs, self.runner.actings, strict=True):
                returns, _ = evaluate(
                    Policy(self.runner.algorithm, acting), env, EVAL_EPISODES // 2, seed=run.seed
                )
                if run.logger is not None:
                    run.logger.record("eval/mean_reward", float(np.mean(returns)))
        finally:
            env.close()
        return True


def _log_interval(config: RunConfig, runner: Runner) -> int:
    """Host mode updates may be tiny (A2C: 40 steps): write about 500 rows."""
    if runner.capacity > 1:
        return 1
    return max(1, config.n_timesteps // (runner.rows * runner.num_envs) // 500)
