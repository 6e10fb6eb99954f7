"""Learning results: train each job's seeds, evaluate 100 fresh episodes per seed, append to results.jsonl.

    python benchmarks/returns.py                 # every job of jobs.py that has no result yet
    python benchmarks/returns.py --only ppo-CartPole-v1 a2c    # names, or how they begin
    python benchmarks/returns.py --sb3 PEERS/bin/python        # Stable-Baselines3 with the same settings
    python benchmarks/returns.py --list

A job that was interrupted goes on from its checkpoints; each runs in a process of its own, which stands still while
anything is timed on this machine (`machine.quiet`). Protocol: the final policy (no best-of), deterministic
actions, fresh episodes on Gymnasium's own environment; interquartile mean over seeds with a 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import record
from jobs import JOBS, PEERS, Job
from machine import LOOKS, family, machine, paused, tell

from actrix.cli.train import end_with_parent
from actrix.envs.classic import ClassicEnv
from actrix.envs.make import make_vec_env
from actrix.envs.probes import MaskVelocity, PositionOnly
from actrix.files import atomic, manifest
from actrix.loops.compiled import CompiledRunner
from actrix.loops.evaluate import Policy, evaluate
from actrix.loops.train import SeedRun, train
from actrix.model import Model
from actrix.runs import start
from actrix.runs.config import RunConfig, resolve
from actrix.runs.folder import load_config, seed_folders
from actrix.show.metrics import read_metrics
from actrix.show.plot import load_run
from actrix.show.stats import summarize
from actrix.zoo import settings as tuned

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
RUNS = HERE.parent / "runs" / "returns"
POINTS = 60
"""Of a curve in the record."""


def last_hundred(folder: Path) -> float:
    """Mean return of the last hundred training episodes."""
    column = read_metrics(folder)["rollout/ep_rew_mean"]
    return round(float(column[~np.isnan(column)][-1]), 2)


def train_by_id(job: Job) -> tuple[RunConfig, dict[int, np.ndarray], float, list[float] | None, list | None]:
    """Train (or go on with) a job through run folders: (configuration, returns by seed, seconds, `last_hundred`s,
    `curve_of`s)."""
    folder = RUNS / job.folder
    config = resolve(
        job.algorithm, job.env_id, critic=job.critic, actor=job.actor, steps=job.steps, seeds=job.seeds,
        settings=dict(job.settings), n_envs=job.n_envs, policy=job.policy, tuned=job.zoo,
        dataset=[str(datasets.build(job.dataset))] if job.dataset else (),
    )  # fmt: skip
    begun = (folder / "config.json").exists()
    if begun and (other := differs(config, load_config(folder))):
        record.refuse(f"{folder} was begun with another {other}: remove it to train {job.name} as it is now.")
    finished = all((path / "evaluation.json").exists() for path, _ in seed_folders(folder, config))
    seconds = 0.0  # of a run that had finished before: not known
    if not finished:
        results = start.resume(folder) if begun else start.start(config, folder)
        if not results.finished:
            raise KeyboardInterrupt
        seconds = results.seconds
    returns = {}
    folders = seed_folders(folder, config)
    for path, seed in folders:
        returns[seed] = start.evaluate_model(Model.load(path), job.episodes, seed)[0]
    trained = None if job.dataset else [last_hundred(path) for path, _ in folders]
    curves = None if job.dataset else [curve_of(*load_run(path).curve()) for path, _ in folders]
    return config, returns, seconds, trained, curves


def differs(wanted: RunConfig, begun: RunConfig) -> str | None:
    """What of a job a folder was begun with otherwise; None where nothing."""
    names = ("algorithm", "env_id", "env_kwargs", "n_timesteps", "seeds", "n_envs", "backend", "settings",
             "dataset")  # fmt: skip
    return next((name for name in names if getattr(wanted, name) != getattr(begun, name)), None)


def train_without_velocities(job: Job) -> tuple[RunConfig, dict[int, np.ndarray], float, None, None]:
    """The same for CartPole without its velocities, which has no id; not resumable, but short."""
    config = resolve(
        job.algorithm,
        job.env_id,
        steps=job.steps,
        seeds=job.seeds,
        settings=dict(job.settings),
        n_envs=job.n_envs,
    )
    begun, algorithm = time.monotonic(), config.build()
    runner = CompiledRunner(algorithm, MaskVelocity(ClassicEnv(job.env_id)), config.n_envs, job.seeds)
    train(runner, [SeedRun(seed) for seed in job.seeds], job.steps)
    env = make_vec_env(job.env_id, 10, wrapper_class=PositionOnly, backend="gymnasium")
    returns = {
        seed: evaluate(Policy(algorithm, learner.acting), env, job.episodes, seed=seed + 10**6)[0]
        for seed, learner in zip(job.seeds, runner.learners, strict=True)
    }
    return config, returns, time.monotonic() - begun, None, None


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate a job; the row for results.jsonl."""
    train_job = train_without_velocities if job.hide_velocities else train_by_id
    config, returns, seconds, trained, curves = train_job(job)
    critic, actor, data = config.build().answers
    return figures(job, returns) | {
        "job": job.name, "zoo": job.zoo,
        "algorithm": config.algorithm, "critic": critic, "actor": actor, "data": data, "bar": job.bar,
        "train_per_seed": trained, "curves": curves,
        "backend": config.backend, "n_envs": config.n_envs, "seconds": round(seconds, 1),
        "settings": config.settings, "command": f"python benchmarks/returns.py --only {job.name}",
        "versions": manifest.package_versions(),
    }  # fmt: skip


def _round(x: float | None) -> float | None:
    return None if x is None or not np.isfinite(x) else round(float(x), 2)


def curve_of(steps: Any, values: Any) -> list[list[float]]:
    """[steps, returns] in at most so many points."""
    keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int))
    return [[int(steps[i]) for i in keep], [round(float(values[i]), 2) for i in keep]]


def by_sb3(job: Job, python: str) -> dict[str, Any]:
    """The row of Stable-Baselines3, by the same settings; each seed is kept until all are there."""
    zoo, _ = tuned(job.algorithm or "", job.env_id)
    zoo.pop("n_timesteps", None)
    normal = {"n_envs": zoo.pop("n_envs", 1), "normalize": bool(zoo.pop("normalize", False))}
    each, begun = [], time.monotonic()
    for seed in job.seeds:
        kept = RUNS / "sb3" / f"{job.folder}-{seed}.json"
        keywords = {"algo": job.algorithm, "env_id": job.env_id, "seed": seed, "steps": job.steps, **normal, **zoo,
                    "n_eval_episodes": job.episodes}  # fmt: skip
        if kept.exists() and json.loads(kept.read_text()).get("asked") != keywords:
            record.refuse(
                f"{kept} was trained with other settings: remove it to train {job.name} as it is now."
            )
        if not kept.exists():
            command = [python, str(HERE / "peers.py"), "sb3_return", json.dumps(keywords)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            kept.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(kept, json.loads(said.strip().splitlines()[-1]) | {"asked": keywords})
        each.append(json.loads(kept.read_text()))
    returns = {seed: np.asarray(x["returns"]) for seed, x in zip(job.seeds, each, strict=True)}
    return figures(job, returns) | {
        "job": f"sb3/{job.name}", "algorithm": job.algorithm, "n_envs": normal["n_envs"], "settings": zoo,
        "seconds": round(time.monotonic() - begun, 1),
        "curves": [curve_of(*zip(*x["curve"], strict=True)) for x in each],
        "command": f"python benchmarks/returns.py --sb3 PYTHON --only {job.name}",
        "versions": each[0]["what"]["versions"],
    }  # fmt: skip


def figures(job: Job, returns: dict[int, np.ndarray]) -> dict[str, Any]:
    """What a row says of the seeds' returns."""
    summary = summarize(returns)
    return {
        "env": job.env_id, "steps": job.steps, "seeds": list(job.seeds),
        "per_seed": [round(float(np.mean(returns[s])), 2) for s in job.seeds],
        "iqm": _round(summary.iqm), "low": _round(summary.low), "high": _round(summary.high),
        "mean": _round(summary.mean), "std": _round(summary.std), "episodes_per_seed": job.episodes,
        "date": datetime.date.today().isoformat(), "machine": machine(),
    }  # fmt: skip


def done() -> set[str]:
    """Jobs that results.jsonl has a row for."""
    return {row["job"] for row in record.read(RESULTS, "job")}


def apart(name: str, sb3: str | None) -> None:
    """Run a job in a process of its own, which stands still while something is timed; its row goes into the record with
    the processor hours of all its tries. SystemExit where it was stopped, or failed."""
    job = BY_NAME[name]
    row, spent = (RUNS / f"{'sb3-' if sb3 else ''}{job.folder}.{end}" for end in ("row", "seconds"))
    row.parent.mkdir(parents=True, exist_ok=True)
    row.unlink(missing_ok=True)
    more = ["--sb3", sb3] if sb3 else []
    command = [sys.executable, __file__, "--only", name, "--row", str(row), *more]
    kept = [RUNS / "sb3" / f"{job.folder}-{seed}.json" for seed in job.seeds] if sb3 else [RUNS / job.folder]
    if not any(path.exists() for path in kept):
        spent.unlink(missing_ok=True)  # of folders that are gone
    before = float(spent.read_text()) if spent.exists() else 0.0
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE)  # whose end it watches
    still, looks = False, 0
    while True:
        try:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if paused() != still:
                still = not still
                tell(child.pid, signal.SIGSTOP if still else signal.SIGCONT)
            if (looks := looks + 1) % 30 == 0:  # this process may be killed
                atomic.write_text(spent, f"{before + sum(family(child.pid).values()):.1f}")
            time.sleep(LOOKS)
        except KeyboardInterrupt:
            tell(child.pid, signal.SIGCONT)
            os.kill(child.pid, signal.SIGINT)
    child.stdin.close()
    seconds = before + used.ru_utime + used.ru_stime
    atomic.write_text(spent, f"{seconds:.1f}")
    child.returncode = os.waitstatus_to_exitcode(status)  # as `wait4` has reaped it
    if child.returncode == 2:  # refused, in a sentence of its own
        sys.exit(2)
    if child.returncode or not row.exists():
        sys.exit(f"{name} has not come to its end; the same command goes on with it.")
    made = json.loads(row.read_text()) | {"processor_hours": round(seconds / 3600, 2)}
    record.append(RESULTS, made)
    figure = made["iqm"] if made["iqm"] is not None else made["mean"]
    print(f"{made['job']}: {figure} (bar {made.get('bar')}), per seed {made['per_seed']}", flush=True)


BY_NAME = {job.name: job for job in JOBS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only",
        nargs="+",
        type=record.word,
        default=[],
        help="jobs, by name or by how it begins, done or not",
    )
    parser.add_argument(
        "--sb3",
        metavar="PYTHON",
        type=record.word,
        help="train Stable-Baselines3 instead, which this Python has",
    )
    parser.add_argument(
        "--row", type=Path, help=argparse.SUPPRESS
    )  # the process of one job: where its row goes
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    finished, names = done(), list(PEERS if args.sb3 else BY_NAME)
    if args.list:
        for name in names:
            job, known = BY_NAME[name], (f"sb3/{name}" if args.sb3 else name) in finished
            print(f"{name:45} {job.steps:>9,} steps  bar {job.bar}  {'done' if known else ''}")
        return
    wanted = record.chosen(args.only, names, f"returns.py {'--sb3 PYTHON ' * bool(args.sb3)}--list")
    if args.sb3 and not args.row and (why := record.lacks(args.sb3, "stable_baselines3")):
        record.refuse(f"--sb3 {args.sb3}: Stable-Baselines3 cannot be trained by it ({why}).")
    if args.row:
        end_with_parent()
        if args.sb3:  # what trains is another process, which ends with this one then
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        job = BY_NAME[wanted[0]]
        args.row.write_text(json.dumps(by_sb3(job, args.sb3) if args.sb3 else run(job)))
        return
    prefix = "sb3/" if args.sb3 else ""
    for name in wanted or [n for n in names if prefix + n not in finished]:
        apart(name, args.sb3)


if __name__ == "__main__":
    main()
