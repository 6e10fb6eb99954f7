"""Learning results: train each job's seeds, evaluate 100 fresh episodes per seed, append to results.jsonl.

    python benchmarks/returns.py                 # every job that has no result yet
    python benchmarks/returns.py --only ppo-CartPole-v1 a2c-CartPole-v1
    python benchmarks/returns.py --list

A job that was interrupted goes on from its checkpoints. Protocol: the final policy (no best-of), deterministic
actions, fresh episodes on Gymnasium's own environment; interquartile mean over seeds with a 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from machine import machine

from actrix import make_vec_env
from actrix.envs.classic import ClassicEnv
from actrix.envs.probes import MaskVelocity, PositionOnly
from actrix.files import manifest
from actrix.loops.compiled import CompiledRunner
from actrix.loops.evaluate import Policy, evaluate
from actrix.loops.train import SeedRun, train
from actrix.model import Model
from actrix.runs import start
from actrix.runs.config import RunConfig, resolve
from actrix.runs.folder import seed_folders
from actrix.show.log import read_metrics
from actrix.show.stats import summarize

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
RUNS = HERE.parent / "runs" / "returns"


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the table: an algorithm on an environment, with the figure to reach."""

    env_id: str
    steps: int
    bar: float | None
    algorithm: str | None = None
    critic: str | None = None
    actor: str | None = None
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Not the seeds that settings were tuned with (0–3)."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    n_envs: int | None = None
    policy: str | None = None
    episodes: int = 100
    hide_velocities: bool = False
    """CartPole's positions only: solved with memory alone."""
    label: str = ""
    """Tells apart jobs of one algorithm with other settings."""
    dataset: str = ""
    """Offline: the name of a data set of datasets.py; `steps` counts updates."""

    @property
    def name(self) -> str:
        what = self.algorithm or f"{self.critic}+{self.actor}"
        return f"{what}-{self.env_id}" + ("-positions-lstm" if self.hide_velocities else "") + self.label


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "double": (dict(double=True), dict(double=False)),
    "dueling": (dict(dueling=True), dict(dueling=False)),
    "per": (dict(prioritized=True), dict(prioritized=False)),
    "n-step": (dict(n_steps=3), dict(n_steps=1)),
    "c51": (dict(distributional="c51"), dict(distributional=None)),
    "noisy": (dict(noisy=True), dict(noisy=False, exploration_fraction=0.2, exploration_final_eps=0.02)),
}
"""Each part of Rainbow: the settings that switch it on and off."""


def rainbow_parts() -> list[Job]:
    """Each part of Rainbow alone on top of DQN, and Rainbow without it; all else as in Rainbow's CartPole settings."""

    def job(on: set[str], label: str) -> Job:
        settings: dict[str, Any] = {}
        for name, (yes, no) in PARTS.items():
            settings |= yes if name in on else no
        return Job("CartPole-v1", 20_000, None, "rainbow", settings=settings, label="-parts" + label)

    every = set(PARTS)
    jobs = [job(set(), "=none"), job(every, "=all")]
    for name in PARTS:
        jobs += [job({name}, f"+{name}"), job(every - {name}, f"-no-{name}")]
    return jobs


def composition(critic: str, actor: str, **settings: Any) -> Job:
    """A free composition on CartPole-v1."""
    return Job("CartPole-v1", 500_000, 475, critic=critic, actor=actor, settings=settings)


JOBS = [
    Job("CartPole-v1", 100_000, 495, "ppo"),
    Job("Acrobot-v1", 1_000_000, -78, "ppo"),
    Job("MountainCar-v0", 1_000_000, -110, "ppo"),
    Job("Pendulum-v1", 100_000, -175, "ppo"),
    Job("LunarLander-v3", 1_000_000, 255, "ppo"),
    Job("CartPole-v1", 500_000, 475, "a2c"),
    Job("CartPole-v1", 500_000, 475, "reinforce"),
    Job("CartPole-v1", 500_000, 475, "vpg"),
    Job("CartPole-v1", 500_000, 475, "qac"),
    Job("CartPole-v1", 500_000, 475, "tdac"),
    Job("CartPole-v1", 500_000, 475, "ppo-kl"),
    Job("CartPole-v1", 100_000, 475, "trpo"),
    Job("Acrobot-v1", 100_000, -86, "trpo"),
    Job("CartPole-v1", 500_000, 475, "npg"),
    Job("CartPole-v1", 500_000, 475, "acktr"),
    Job(
        "CartPole-v1",
        500_000,
        450,
        "ppo",
        hide_velocities=True,
        n_envs=8,
        settings=dict(
            n_steps=128,
            batch_size=128,
            n_epochs=10,
            learning_rate="lin_1e-3",
            gae_lambda=0.8,
            gamma=0.98,
            sequence_length=16,
            policy_kwargs={"cell": "lstm", "hidden_size": 64, "net_arch": [64]},
        ),
    ),
    composition("td-lambda:0.9", "ppo-clip:0.2"),
    composition("n-step:16", "ppo-clip:0.2"),
    composition("td", "ppo-clip:0.2"),
    composition("mc", "ppo-clip:0.2"),
    composition("gae:0.95", "ppo-kl:0.01"),
    composition("q-td-lambda:0.9", "ppo-clip:0.2"),
    composition("td-lambda:0.9", "score"),
    composition("n-step:5", "score"),
    composition("gae:0.95", "score"),
    composition("mc", "score"),
    composition("none", "score:moving-average"),
    composition("none", "score:optimal"),
    composition("q-n-step:5", "score:advantage"),
    Job("CartPole-v1", 50_000, 475, "dqn"),
    Job("Acrobot-v1", 100_000, -82, "dqn"),
    Job("LunarLander-v3", 100_000, 150, "dqn"),
    Job("MountainCar-v0", 120_000, -105, "dqn"),
    Job("Pendulum-v1", 20_000, -160, "sac"),
    Job("Pendulum-v1", 20_000, -160, "td3"),
    Job("Pendulum-v1", 20_000, -160, "ddpg"),
    Job("CartPole-v1", 50_000, 475, "discrete-sac"),
    Job("CartPole-v1", 50_000, 475, "soft-q"),
    Job("CartPole-v1", 500_000, 475, "pqn"),
    Job("CartPole-v1", 500_000, 475, "off-pac"),
    Job("CartPole-v1", 500_000, 475, "v-trace"),
    Job("CartPole-v1", 500_000, 475, "acer"),
    Job("CartPole-v1", 500_000, 475, "pgql"),
    Job("LunarLanderContinuous-v3", 500_000, 250, "sac", seeds=(10,)),
    Job("LunarLanderContinuous-v3", 300_000, 210, "td3", seeds=(10,)),
    Job("HalfCheetah-v5", 300_000, None, "sac", seeds=(10,), episodes=20),
    *(
        Job("Pendulum-v1", 20_000, None, name, dataset="pendulum-mixed", label="-mixed")
        for name in ("bc", "iql", "cql", "td3-bc")
    ),
    # Without exploration gymnax's Breakout has two games, by the side the ball starts on: compare `train_per_seed`, at
    # the same ε in both.
    Job("Breakout-MinAtar", 500_000, None, "dqn", settings=dict(exploration_final_eps=0.01)),
    Job("Breakout-MinAtar", 500_000, None, "rainbow"),
    *rainbow_parts(),
    Job("Breakout-MinAtar", 2_000_000, 10, "ppo", seeds=(10,)),
    Job("HalfCheetah-v5", 1_000_000, 5700, "ppo", seeds=(10,), episodes=20),
    Job("Hopper-v5", 1_000_000, 2400, "trpo", seeds=(10,), episodes=20),
]


def last_hundred(folder: Path) -> float:
    """Mean return of the last hundred training episodes."""
    column = read_metrics(folder)["rollout/ep_rew_mean"]
    return round(float(column[~np.isnan(column)][-1]), 2)


def train_by_id(job: Job) -> tuple[RunConfig, dict[int, np.ndarray], float, list[float] | None]:
    """Train (or go on with) a job through run folders: (configuration, returns by seed, seconds, `last_hundred`s)."""
    folder = RUNS / job.name.replace(":", "_").replace("+", "-").replace("/", "-")
    config = resolve(
        job.algorithm, job.env_id, critic=job.critic, actor=job.actor, steps=job.steps, seeds=job.seeds,
        settings=dict(job.settings), n_envs=job.n_envs, policy=job.policy,
        dataset=[str(datasets.build(job.dataset))] if job.dataset else (),
    )  # fmt: skip
    finished = all((path / "evaluation.json").exists() for path, _ in seed_folders(folder, config))
    seconds = 0.0  # of a run that had finished before: not known
    if not finished:
        begun = (folder / "config.json").exists()
        results = start.resume(folder) if begun else start.start(config, folder)
        if not results.finished:
            raise KeyboardInterrupt
        seconds = results.seconds
    returns = {}
    folders = seed_folders(folder, config)
    for path, seed in folders:
        returns[seed] = start.evaluate_model(Model.load(path), job.episodes, seed)[0]
    trained = None if job.dataset else [last_hundred(path) for path, _ in folders]
    return config, returns, seconds, trained


def train_without_velocities(job: Job) -> tuple[RunConfig, dict[int, np.ndarray], float, None]:
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
    return config, returns, time.monotonic() - begun, None


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate a job; the row for results.jsonl."""
    config, returns, seconds, trained = (train_without_velocities if job.hide_velocities else train_by_id)(
        job
    )
    summary = summarize(returns)
    critic, actor, data = config.build().answers
    return {
        "job": job.name, "env": job.env_id, "algorithm": config.algorithm, "critic": critic, "actor": actor,
        "data": data, "steps": job.steps, "bar": job.bar,
        "seeds": list(job.seeds), "per_seed": [round(float(np.mean(returns[s])), 2) for s in job.seeds],
        "train_per_seed": trained,
        "iqm": _round(summary.iqm), "low": _round(summary.low), "high": _round(summary.high),
        "mean": _round(summary.mean), "std": _round(summary.std), "episodes_per_seed": job.episodes,
        "backend": config.backend, "n_envs": config.n_envs, "seconds": round(seconds, 1),
        "settings": config.settings, "command": f"python benchmarks/returns.py --only {job.name}",
        "date": datetime.date.today().isoformat(), "versions": manifest.package_versions(),
        "machine": machine(),
    }  # fmt: skip


def _round(x: float | None) -> float | None:
    return None if x is None or not np.isfinite(x) else round(float(x), 2)


def done() -> set[str]:
    """Jobs that results.jsonl has a row for."""
    if not RESULTS.exists():
        return set()
    return {json.loads(line)["job"] for line in RESULTS.read_text().splitlines() if line.strip()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of jobs (also those that have a result)")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    names = {job.name: job for job in JOBS}
    unknown = [n for n in args.only if n not in names]
    if unknown:
        parser.error(f"no job named {', '.join(unknown)}; see --list")
    finished = done()
    if args.list:
        for name, job in names.items():
            print(f"{name:45} {job.steps:>9,} steps  bar {job.bar}  {'done' if name in finished else ''}")
        return
    for name in args.only or [n for n in names if n not in finished]:
        row = run(names[name])
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        figure = row["iqm"] if row["iqm"] is not None else row["mean"]
        print(f"{name}: {figure} (bar {row['bar']}), per seed {row['per_seed']}", flush=True)


if __name__ == "__main__":
    main()
