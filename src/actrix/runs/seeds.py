"""Many seeds, each in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.files import atomic
from actrix.loops.interrupt import StopRequest
from actrix.runs.config import RunConfig
from actrix.runs.folder import OUTPUT, evaluated_steps
from actrix.runs.session import EXIT_INTERRUPTED, Session
from actrix.show.display import Display
from actrix.show.metrics import STEP, read_metrics

ORPHAN_SECONDS = 60.0
"""How long a seed's process waits for that of a killed parent to end."""
STOP_SECONDS = 60.0
"""How long the processes of a stopped run may take to write their checkpoints."""


class SeedError(RuntimeError):
    """The process of a seed failed."""


def train_in_processes(config: RunConfig, pairs: Sequence[tuple[Path, int]], session: Session) -> bool:
    """One process per seed, as many at a time as there are cores; their logs show the progress. At the address of a Ray
    cluster they run on its nodes, unless actors do.

    Returns False if it was asked to stop. The processes have sessions of their own, so that Ctrl-C reaches
    them once, through this one.
    """
    waiting, ended = list(pairs), []
    if session.resumed:
        waiting = [(path, seed) for path, seed in pairs if evaluated_steps(path) < config.n_timesteps]
    for path, _ in waiting:
        atomic.check_regular(path / OUTPUT)
    running: Running = {}
    begun: dict[int, int] = {}  # where this session's lines begin in the log
    reached = {seed: _latest(path) for path, seed in pairs} if session.resumed else {}
    shows = functools.partial(
        Display, config.n_timesteps, config.title, enabled=False if session.quiet else None,
        seeds=[seed for _, seed in pairs], start=[int(reached.get(seed, {}).get(STEP, 0)) for _, seed in pairs],
        plays=not (config.dataset or config.build().shown),
    )  # fmt: skip
    with nodes_at(None if config.actors else config.address) as nodes:
        room = (os.cpu_count() or 1) if nodes is None else nodes.room
        try:
            with StopRequest() as stop, shows() as display:
                for seed, latest in reached.items():  # of whom has ended nothing else will be heard
                    _show(display, latest, seed)
                while waiting or running:
                    if stop.requested:
                        display.message("interrupted: saving checkpoints")
                        ended += stop_all(running)
                        break
                    while waiting and len(running) < room:
                        path, seed = waiting.pop(0)
                        log = open(path / OUTPUT, "ab")  # noqa: SIM115
                        begun[seed] = log.tell()
                        running[seed] = (_child(path, log, session, nodes), path, log)
                    time.sleep(0.3)
                    ended += _ended(running, display)
        except BaseException:
            stop_all(running)
            raise
    _refuse_failures(ended, begun, stop.requested)
    return not waiting and not any(code for _, _, code in ended)


@contextlib.contextmanager
def cluster_of(config: RunConfig) -> Iterator[None]:
    """The Ray of a run: what of it is not there is refused here, before anything is written. Raises ImportError,
    ValueError."""
    if config.actors or config.learner_processes > 1:
        from actrix.remote.cluster import ray_module

        ray_module()
    with nodes_at(config.address):
        yield


@contextlib.contextmanager
def nodes_at(address: str | None) -> Iterator[Any]:
    """Where processes run: the cluster at an address, or None, this machine. Raises ImportError, ValueError."""
    if address is None:
        yield None
        return
    from actrix.remote.process import Nodes

    nodes = Nodes(address)
    try:
        yield nodes
    finally:
        nodes.close()


TAIL = 1 << 14
"""Bytes at the end of a seed's metrics that are read at each look, three times a second."""

Running = dict[int, tuple[Any, Path, Any]]
"""Seed → its process (`subprocess.Popen`, or `RemoteProcess`), folder and log."""

PROGRAM = (sys.executable, "-X", "faulthandler", "-m", "actrix")
"""A crash leaves its traces in the log."""


def _child(path: Path, log: Any, session: Session, nodes: Any = None) -> Any:
    """The process of one seed."""
    command = ["train-folder", "--quiet", "--follow", "--checkpoint-seconds", str(session.checkpoint_seconds)]
    command += [*(["--resume"] if session.resumed else []), str(path.resolve())]
    return spawn(command, log) if nodes is None else nodes.start([*PROGRAM, *command], path, path / OUTPUT)


def spawn(command: Sequence[str], log: Any, env: dict[str, str] | None = None) -> subprocess.Popen:
    """`actrix COMMAND` as a process, whose input is a pipe: its end tells it that this process is gone."""
    return subprocess.Popen(
        [*PROGRAM, *command], stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True, env=env
    )


def _ended(running: Running, display: Display) -> list[tuple[int, Path, int]]:
    """Show how far each is; take out those that ended: (seed, folder, exit code)."""
    ended = []
    for seed, (child, path, log) in list(running.items()):
        _show(display, _latest(path), seed)
        if child.poll() is not None:
            log.close()
            _close_input(child)
            del running[seed]
            ended.append((seed, path, child.returncode))
    return ended


def _refuse_failures(ended: Sequence[tuple[int, Path, int]], begun: dict[int, int], stopped: bool) -> None:
    """Raise SeedError with the last line of the first process that failed."""
    # Who is stopped before it trains, or in its final evaluation, has nothing to save and ends by the signal.
    fine = (0, EXIT_INTERRUPTED, -signal.SIGTERM) if stopped else (0,)
    failed = [(seed, path, code) for seed, path, code in ended if code not in fine]
    if not failed:
        return
    seed, path, code = failed[0]
    with open(path / OUTPUT, "rb") as output:
        output.seek(begun[seed])
        lines = output.read().decode(errors="replace").strip().splitlines()
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    hint = f"; go on from the checkpoints with: actrix resume {path.parent}" if stopped else ""
    raise SeedError(
        f"seed {seed}{more} failed with exit code {code}: {lines[-1] if lines else 'no output'}{hint}"
    )


def stop_all(running: Running) -> list[tuple[int, Path, int]]:
    """Ask each once to save a checkpoint and end, kill what has not ended in time; (seed, folder, exit code)."""
    for child, _, _ in running.values():
        child.terminate()
    end = time.monotonic() + STOP_SECONDS
    ended = []
    for seed, (child, path, log) in running.items():
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            log.write(
                f"killed: it had not saved a checkpoint {STOP_SECONDS:g} s after it was asked to stop\n".encode()
            )
        log.close()
        _close_input(child)
        ended.append((seed, path, child.returncode))
    return ended


def _close_input(child: subprocess.Popen) -> None:
    """The end of a pipe whose closing tells the child that this process is gone."""
    if child.stdin is not None:
        child.stdin.close()


def _latest(path: Path) -> dict[str, float]:
    """The last line of a seed's metrics, {} where there is none yet."""
    try:
        metrics = read_metrics(path, last=TAIL)
    except (OSError, ValueError):
        return {}
    if not len(metrics.get(STEP, ())):
        return {}
    return {k: float(v[-1]) for k, v in metrics.items() if not np.isnan(v[-1])}


def _show(display: Display, latest: dict[str, float], seed: int) -> None:
    if latest:
        display.update(int(latest[STEP]), latest, seed=seed)
