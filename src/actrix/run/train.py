"""The training loop over either runner: budget, episode statistics, logs, checkpoints, stopping."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.run import checkpoint
from actrix.run.atomic import replacing
from actrix.run.log import Logger
from actrix.run.runner import Report

SEGMENT_SECONDS = 0.5


class NonFiniteError(FloatingPointError):
    """An update produced a non-finite loss or parameter; the last good parameters were kept."""


@dataclasses.dataclass
class SeedRun:
    """Counters, statistics and outputs of one seed."""

    seed: int
    logger: Logger | None = None
    folder: Path | None = None
    steps: int = 0
    iterations: int = 0
    window: int = 100
    returns: deque = dataclasses.field(init=False)
    lengths: deque = dataclasses.field(init=False)
    episodes: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.returns, self.lengths = deque(maxlen=self.window), deque(maxlen=self.window)

    def add(self, report: Report) -> None:
        """Count a stretch of training."""
        self.steps += report.steps
        self.iterations += report.iterations
        self.returns.extend(report.ep_returns.tolist())
        self.lengths.extend(report.ep_lengths.tolist())
        self.episodes += len(report.ep_returns)
        self.metrics = dict(report.metrics)
        if self.returns:
            self.metrics["rollout/ep_rew_mean"] = float(np.mean(self.returns))
            self.metrics["rollout/ep_rew_std"] = float(np.std(self.returns))
            self.metrics["rollout/ep_len_mean"] = float(np.mean(self.lengths))

    @property
    def counters(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the learner."""
        return {
            "num_timesteps": self.steps, "iterations": self.iterations, "seed": self.seed,
            "episodes": self.episodes, "ep_returns": list(self.returns), "ep_lengths": list(self.lengths),
        }  # fmt: skip

    def restore(self, counters: dict[str, Any]) -> None:
        """Take the counters of a checkpoint."""
        self.steps, self.iterations = counters["num_timesteps"], counters["iterations"]
        self.episodes = counters["episodes"]
        self.returns.extend(counters["ep_returns"])
        self.lengths.extend(counters["ep_lengths"])


def train(
    runner: Any,
    runs: Sequence[SeedRun],
    total_steps: int,
    *,
    display: Any = None,
    on_update: Callable[[], bool] | None = None,
    log_interval: int = 1,
    checkpoint_seconds: float | None = None,
    warm: bool = True,
) -> bool:
    """Train every seed until it has taken `total_steps` environment steps; returns False if stopped early.

    `on_update` runs after each segment (compiled) or update (host); returning False stops. Checkpoints go to
    `<folder>/checkpoints` every `checkpoint_seconds`. Raises NonFiniteError after a non-finite update, with the
    last good parameters in the runner (and, in host mode, the batch saved as `nonfinite_batch.npz`).
    """
    runner.set_training(total_steps=total_steps)
    begun = saved = time.monotonic()
    start_steps = runs[0].steps
    if warm and runs[0].iterations == 0:
        for run, report in zip(runs, runner.warm(), strict=False):
            run.add(dataclasses.replace(report, iterations=0))
    chunk = runner.rows * runner.num_envs
    ahead, updates = 1, 0
    with _DeferredInterrupt() as interrupt:
        while any(run.steps < total_steps for run in runs):
            # A chunk holds at most `chunk` steps (whole episodes: fewer), so no seed overshoots by more than one.
            counts = [
                min(ahead, runner.capacity, max(0, math.ceil((total_steps - r.steps) / chunk))) for r in runs
            ]
            tick = time.monotonic()
            reports = runner.advance(counts)
            seconds = time.monotonic() - tick
            going = [(run, report) for run, report, n in zip(runs, reports, counts, strict=True) if n]
            for run, report in going:
                run.add(report)
            updates += 1
            _log(runs, [run for run, _ in going], begun, start_steps, updates % log_interval == 0, display)
            bad = [(run, report) for run, report in going if report.nonfinite]
            if bad:
                raise NonFiniteError(_describe(runner, *bad[0]))
            if on_update is not None and not on_update():
                return False
            if getattr(runner, "stopped", False):
                return False
            interrupt.check()
            if checkpoint_seconds is not None and time.monotonic() - saved > checkpoint_seconds:
                save_checkpoints(runner, runs)
                saved = time.monotonic()
            if updates > 1:  # the first call compiled
                iterations = math.ceil(total_steps / chunk)
                fitting = round(max(counts) * SEGMENT_SECONDS / max(seconds, 1e-4))
                ahead = max(1, min(fitting, iterations // 100, 2 * max(counts)))
    return True


class _DeferredInterrupt:
    """Ctrl-C is raised between segments: raised inside one, it could lose the state the segment was given.

    A second Ctrl-C is raised at once. A handler that somebody installed stays in charge.
    """

    def __enter__(self) -> _DeferredInterrupt:
        self._pending = False
        main = threading.current_thread() is threading.main_thread()
        self._ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, *_: Any) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def check(self) -> None:
        """Raise the Ctrl-C that came meanwhile."""
        if self._pending:
            raise KeyboardInterrupt


def save_checkpoints(runner: Any, runs: Sequence[SeedRun]) -> None:
    """One checkpoint per seed that has a folder."""
    for run, learner in zip(runs, runner.learners, strict=True):
        if run.folder is not None:
            checkpoint.save(run.folder / "checkpoints", learner, run.counters)


def _log(
    runs: Sequence[SeedRun], going: Sequence[SeedRun], begun: float, start: int, write: bool, display: Any
) -> None:
    elapsed = time.monotonic() - begun
    for run in going:
        values = {
            **run.metrics,
            "time/fps": (run.steps - start) / max(elapsed, 1e-9),
            "time/time_elapsed": elapsed,
            "time/iterations": run.iterations,
        }
        if run.logger is not None and write:
            for name, value in values.items():
                run.logger.record(name, value)
            run.logger.dump(run.steps)
        if display is not None:
            display.update(run.steps, values, seed=run.seed if len(runs) > 1 else None)


def _describe(runner: Any, run: SeedRun, report: Report) -> str:
    where = f"seed {run.seed}, around environment step {run.steps}"
    if report.bad_row is not None:  # the host loop would have named the value before it came here
        t, n = divmod(report.bad_row, runner.num_envs)
        return (
            f"environment {n} gave a non-finite reward or observation in row {t} of a chunk of {runner.rows} "
            f"({where}); the parameters before it were kept."
        )
    text = f"the update became non-finite ({where}); the parameters before it were kept."
    chunk, folder = getattr(runner, "bad_chunk", None), run.folder
    if chunk is not None and folder is not None:
        path = folder / "nonfinite_batch.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            leaves = jax.tree_util.tree_leaves_with_path(chunk)
            arrays: dict[str, Any] = {jax.tree_util.keystr(p).strip("."): np.asarray(x) for p, x in leaves}
            np.savez(file, **arrays)
        text += f" The batch is in {path}."
    return text + " Try a smaller learning_rate, max_grad_norm, or normalize=True."
