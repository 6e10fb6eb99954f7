"""The training loop over either runner: budget, episode statistics, logs, checkpoints, stopping."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.envs.guard import EnvError
from actrix.files import checkpoint, container
from actrix.files.atomic import replacing
from actrix.files.modelfile import versions
from actrix.loops.interrupt import StopRequest
from actrix.loops.runner import Report, Runner
from actrix.show.log import Logger

SEGMENT_SECONDS = 0.5
SAVE_SHARE = 0.03
"""At most this share of the time is spent saving: where one save is long, the next comes later than asked for."""


class NonFiniteError(FloatingPointError):
    """An update produced a non-finite loss or parameter; the last good parameters were kept."""


@dataclasses.dataclass
class SeedRun:
    """Counters, statistics and outputs of one seed."""

    seed: int
    logger: Logger | None = None
    folder: Path | None = None
    """Where the batch of a non-finite update goes."""
    checkpoints: Path | None = None
    """Folder of the checkpoints; None = none are written."""
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What a run must share with a checkpoint to go on from it: algorithm, settings, environments (JSON)."""
    steps: int = 0
    start_steps: int = 0
    """`steps` when `learn` was called."""
    iterations: int = 0
    window: int = 100
    returns: deque = dataclasses.field(init=False)
    lengths: deque = dataclasses.field(init=False)
    successes: deque = dataclasses.field(init=False)
    ends: deque = dataclasses.field(init=False)
    """When each of these episodes was counted, in seconds since `began`; 0 for those of a checkpoint."""
    began: float = dataclasses.field(default_factory=time.time)
    episodes: int = 0
    resumes: int = 0
    """How often training went on in new episodes, because the environments could not be restored."""
    dropped_episodes: int = 0
    """Open episodes lost that way."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.returns, self.lengths, self.successes, self.ends = (deque(maxlen=self.window) for _ in range(4))

    def add(self, report: Report, shown: bool = False) -> None:
        """Count a stretch of training; returns of actions that were `shown` say nothing of the policy."""
        self.steps += report.steps
        self.iterations += report.iterations
        self.returns.extend(report.ep_returns.tolist())
        self.lengths.extend(report.ep_lengths.tolist())
        self.ends.extend([round(time.time() - self.began, 6)] * len(report.ep_returns))
        self.successes.extend(report.ep_successes.tolist())
        self.episodes += len(report.ep_returns)
        self.metrics = dict(report.metrics)
        if self.returns and not shown:
            self.metrics["rollout/ep_rew_mean"] = float(np.mean(self.returns))
            self.metrics["rollout/ep_rew_std"] = float(np.std(self.returns))
        if self.lengths:
            self.metrics["rollout/ep_len_mean"] = float(np.mean(self.lengths))
        if self.successes:
            self.metrics["rollout/success_rate"] = float(np.mean(self.successes))

    @property
    def counters(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the learner and the loop."""
        history = {
            "ep_returns": np.array(self.returns, float),
            "ep_lengths": np.array(self.lengths, np.int64),
            "ep_successes": np.array(self.successes, float),
        }
        return {
            "num_timesteps": self.steps, "iterations": self.iterations, "seed": self.seed, "episodes": self.episodes,
            "start_steps": self.start_steps, "resumes": self.resumes, "dropped_episodes": self.dropped_episodes,
            "run": self.identity, "versions": versions(), "history": history,
        }  # fmt: skip

    def restore(self, counters: dict[str, Any]) -> None:
        """Take the counters of a checkpoint."""
        self.seed, self.steps, self.iterations = (
            counters[n] for n in ("seed", "num_timesteps", "iterations")
        )
        self.episodes, self.resumes = counters["episodes"], counters["resumes"]
        self.start_steps, self.dropped_episodes = counters["start_steps"], counters["dropped_episodes"]
        self.returns.extend(counters["history"]["ep_returns"].tolist())
        self.lengths.extend(counters["history"]["ep_lengths"].tolist())
        self.ends.extend([0.0] * len(counters["history"]["ep_returns"]))
        self.successes.extend(np.ravel(counters["history"].get("ep_successes", ())).tolist())


def train(
    runner: Runner, runs: Sequence[SeedRun], total_steps: int, *, display: Any = None,
    on_update: Callable[[], bool] | None = None, log_interval: int = 1, checkpoint_seconds: float | None = None,
    warm: bool = True, stop: StopRequest | None = None,
) -> bool:  # fmt: skip
    """Train every seed until it has taken `total_steps` environment steps; returns False if stopped early.

    `on_update` runs after each segment (compiled) or update (host); returning False stops. Runs that have a folder for
    them get a checkpoint every `checkpoint_seconds`, less often where saving would take more than `SAVE_SHARE` of the
    time; Ctrl-C and SIGTERM, unless somebody else handles them, wait for the end of the segment and save one, too.
    Where `stop` is given the caller has the signals: a request ends training like `on_update`, and the caller saves.

    Raises NonFiniteError after a non-finite update, with the last good parameters in the runner and the batch saved as
    `nonfinite_batch.npz`, CheckpointError.
    """
    runner.set_training(total_steps=total_steps)
    log, save = _Log(runs, display), _Saving(runner, runs, checkpoint_seconds)
    if warm and all(run.iterations == 0 for run in runs):
        for run, report in zip(runs, runner.warm(), strict=False):
            run.add(dataclasses.replace(report, iterations=0))
    pace = _Pace(runner, total_steps)
    own = StopRequest(terminate=any(run.checkpoints for run in runs), takes_over=False)
    with own if stop is None else contextlib.nullcontext(stop) as signals:
        while any(run.steps < total_steps for run in runs):
            counts = pace.counts(runs)
            runner.more = any(total_steps - run.steps > pace.chunk for run in runs)
            tick = time.monotonic()
            reports = runner.advance(counts)
            pace.took(counts, time.monotonic() - tick)
            going = [(run, report) for run, report, n in zip(runs, reports, counts, strict=True) if n]
            _count(runner, going)
            log([run for run, _ in going], write=pace.segments % log_interval == 0)
            bad = [(run, report) for run, report in going if report.nonfinite]
            if bad:
                raise NonFiniteError(_describe(runner, *bad[0]))
            if on_update is not None and not on_update():
                return False
            if getattr(runner, "stopped", False) or (stop is not None and stop.requested):
                return False
            if signals.requested:
                save_checkpoints(runner, runs)
                signals.strike()
            save()
    return True


def _count(runner: Runner, going: Sequence[tuple[SeedRun, Report]]) -> None:
    env = getattr(runner, "env", None)
    restarts, staleness = getattr(env, "restarts", 0), getattr(env, "staleness", None)
    for run, report in going:
        run.add(report, runner.algorithm.shown)
        if restarts:
            run.metrics["rollout/env_restarts"] = float(restarts)
        if staleness:
            run.metrics |= {
                "time/staleness": float(np.mean(staleness)),
                "time/staleness_max": float(max(staleness)),
            }


class _Pace:
    """How many chunks a segment has: as many as take `SEGMENT_SECONDS`, and at most a hundredth of the budget."""

    def __init__(self, runner: Runner, total_steps: int):
        self.runner, self.total_steps = runner, total_steps
        self.chunk = runner.rows * runner.num_envs
        self.ahead, self.segments = 1, 0

    def counts(self, runs: Sequence[SeedRun]) -> list[int]:
        """The chunks of each seed's next segment."""
        # A chunk holds at most `chunk` steps (whole episodes: fewer), so no seed overshoots by more than one.
        left = [max(0, math.ceil((self.total_steps - run.steps) / self.chunk)) for run in runs]
        return [min(self.ahead, self.runner.capacity, n) for n in left]

    def took(self, counts: Sequence[int], seconds: float) -> None:
        """A segment of so many chunks took so long."""
        self.segments += 1
        if self.segments == 1:  # the first call compiled
            return
        iterations = math.ceil(self.total_steps / self.chunk)
        fitting = round(max(counts) * SEGMENT_SECONDS / max(seconds, 1e-4))
        self.ahead = max(1, min(fitting, iterations // 100, 2 * max(counts)))


class _Saving:
    """Checkpoints every so many seconds, later where one takes more than `SAVE_SHARE` of the time between them."""

    def __init__(self, runner: Runner, runs: Sequence[SeedRun], seconds: float | None):
        self.runner, self.runs, self.seconds = runner, runs, seconds
        self.saved, self.pause = time.monotonic(), 0.0

    def __call__(self) -> None:
        if self.seconds is None or time.monotonic() - self.saved <= max(self.seconds, self.pause):
            return
        tick = time.monotonic()
        save_checkpoints(self.runner, self.runs)
        self.saved = time.monotonic()
        self.pause = (self.saved - tick) / SAVE_SHARE


@contextlib.contextmanager
def kept(save: Callable[[], None]) -> Iterator[None]:
    """`save()` what `train` leaves behind: what it came to, or the last good state before an error."""
    try:
        yield
    except (KeyboardInterrupt, checkpoint.CheckpointError):
        raise  # a first Ctrl-C has saved, a second one took the state with it; a full disk takes no more
    except BaseException:
        save()
        raise
    save()


def save_checkpoints(runner: Runner, runs: Sequence[SeedRun]) -> None:
    """One checkpoint per seed that wants one; none before the first update, whose repetition costs nothing."""
    if not any(run.checkpoints and run.iterations for run in runs):
        return
    for run, snapshot in zip(runs, runner.snapshots(), strict=True):
        if run.logger is not None:
            run.logger.sync()  # no checkpoint is newer than the log
        if run.checkpoints is None or not run.iterations:
            continue
        # After an error inside a chunk: an older file of the same step still has its episodes.
        if snapshot.loop.get("env") is not None or checkpoint.newest_step(run.checkpoints) != run.steps:
            checkpoint.save(run.checkpoints, snapshot, run.counters)


def load_checkpoints(
    runner: Runner,
    runs: Sequence[SeedRun],
    check: Callable[[SeedRun, dict[str, Any]], None] | None = None,
    damaged: Callable[[Path, container.ModelFileError], Any] | None = None,
) -> str | None:
    """Put every run's newest checkpoint into the runner; why the episodes could not be gone on with, or None.

    `check(run, metadata)` may refuse one; `damaged`: `checkpoint.load_newest`. Of several seeds, those without a
    checkpoint begin anew. Where environments cannot be restored, all of them start anew with seeds from
    (the run's seed, how often that happened): open episodes are dropped, and two resumes of one checkpoint agree.
    Raises FileNotFoundError where there is none, ModelFileError where none can be read or fits.
    """
    found = _newest(runner, runs, check, damaged)
    if all(snapshot is None for snapshot, _ in found):
        raise FileNotFoundError(f"{runs[0].checkpoints} has no checkpoint to resume from.")
    if any(snapshot is None for snapshot, _ in found):  # killed between the first saves of two seeds
        found = _with_fresh(runner, runs, found)
    snapshots = [snapshot for snapshot, _ in found]
    for run, (_, numbers) in zip(runs, found, strict=True):
        if numbers is not None:
            run.restore(numbers)
    runner.set_learners([snapshot.learner for snapshot in snapshots], [run.iterations for run in runs])
    try:
        restored = runner.set_loops([snapshot.loop for snapshot in snapshots])
    except EnvError:
        raise
    except Exception as error:  # whatever a forged file makes of it
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise container.ModelFileError(
            f"the checkpoint in {runs[0].checkpoints} does not fit: {reason[:500]}"
        ) from error
    if restored:
        return None
    for run, snapshot in zip(runs, snapshots, strict=True):
        run.resumes += 1
        run.dropped_episodes += int(snapshot.loop.get("open", 0))
    runner.reseed([int(np.random.SeedSequence([run.seed, run.resumes]).generate_state(1)[0]) for run in runs])
    return _why_anew(getattr(runner, "env", None))


Found = list[tuple[Any, dict[str, Any] | None]]
"""A snapshot and its counters for each seed; None where there is none yet."""


def _newest(runner: Runner, runs: Sequence[SeedRun], check: Any, damaged: Any) -> Found:
    found: Found = []
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    # Shapes only: a view would keep the runner's own memory beside the file's and the copy of it.
    templates = [jax.tree.map(shape, snapshot.learner) for snapshot in runner.snapshots()]
    for run, shapes in zip(runs, templates, strict=True):
        assert run.checkpoints is not None
        may = functools.partial(check, run) if check else None
        found.append(checkpoint.load_newest(run.checkpoints, shapes, may, damaged) or (None, None))
    return found


def _with_fresh(runner: Runner, runs: Sequence[SeedRun], found: Found) -> Found:
    """Seeds without a checkpoint take the runner's own beginning."""
    found, reports = list(found), runner.warm()
    for i, (run, fresh) in enumerate(zip(runs, runner.snapshots(), strict=True)):
        if found[i][0] is None:
            fresh.learner, fresh.loop = jax.tree.map(np.array, fresh.learner), copy.deepcopy(fresh.loop)
            found[i] = fresh, None
            if reports:
                run.add(dataclasses.replace(reports[i], iterations=0))
    return found


def _why_anew(env: Any) -> str:
    if getattr(env, "unsupported", None):
        return str(env.unsupported)
    if not hasattr(env, "set_state"):
        return f"the state of {type(env).__name__} cannot be had"
    return "training was broken off inside a chunk"


class _Log:
    """Metrics and the speed since training began, to each seed's logger and to the display."""

    def __init__(self, runs: Sequence[SeedRun], display: Any):
        self.display, self.several = display, len(runs) > 1
        self.begun, self.start = time.monotonic(), runs[0].steps

    def __call__(self, going: Sequence[SeedRun], write: bool) -> None:
        elapsed = time.monotonic() - self.begun
        for run in going:
            values = {
                **run.metrics,
                "time/fps": (run.steps - self.start) / max(elapsed, 1e-9),
                "time/time_elapsed": elapsed,
                "time/iterations": run.iterations,
            }
            if run.logger is not None and write:
                for name, value in values.items():
                    run.logger.record(name, value)
                run.logger.dump(run.steps)
            if self.display is not None:
                self.display.update(run.steps, values, seed=run.seed if self.several else None)


def _describe(runner: Runner, run: SeedRun, report: Report) -> str:
    where = f"seed {run.seed}, around environment step {run.steps}"
    if (complain := getattr(getattr(runner, "env", None), "complaint", None)) and (said := complain()):
        return f"{where}: {said}"
    if report.bad_row is not None:  # the host loop would have named the value before it came here
        t, n = divmod(report.bad_row, runner.num_envs)
        return (
            f"environment {n} gave a non-finite reward or observation in row {t} of a chunk of {runner.rows} "
            f"({where}); the parameters before it were kept."
        )
    text = f"the update became non-finite ({where}); the parameters before it were kept."
    batch, folder = report.batch, run.folder or run.checkpoints
    if batch is not None and folder is not None:
        path = folder / "nonfinite_batch.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            leaves = jax.tree_util.tree_leaves_with_path(batch)
            arrays: dict[str, Any] = {jax.tree_util.keystr(p).strip("."): np.asarray(x) for p, x in leaves}
            np.savez(file, **arrays)
        text += f" The batch is in {path}."
    return text + " Try a smaller learning_rate, max_grad_norm, or normalize=True."
