"""What tuning comes to on eight environments, on seeds that neither searched nor chose: the zoo's setting beside it.

    python benchmarks/tuning.py --only cartpole     # names, or how they begin; without --only: all eight, hours
    python benchmarks/tuning.py --list

A job is a study (`actrix tune`) in runs/tuning/NAME, gone on with where it broke off; its row goes to tuning.jsonl,
won or lost. `steps_to_zoo` is where the interquartile mean of the seeds' training returns first reaches what the zoo's
has at its end, of the setting that was chosen and of the zoo's; `curves` are those means. Sizes were set before
anything was run, each to take less than forty minutes of two cores; jobs without a row were not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import record
from machine import machine

from actrix.files import manifest
from actrix.runs.folder import load_config, seed_folders
from actrix.show.plot import load_run
from actrix.show.stats import align, common_grid, iqm
from actrix.tune.start import tune

ROWS = Path(__file__).parent / "tuning.jsonl"
STUDIES = Path("runs") / "tuning"


@dataclasses.dataclass(frozen=True)
class Job:
    """One study."""

    env_id: str
    steps: int
    trials: int
    seeds: int = 4
    algorithm: str = "ppo"
    held_out: int = 10
    jobs: int = 1


JOBS = {
    "cartpole": Job("CartPole-v1", 30_000, 16),
    "acrobot": Job("Acrobot-v1", 100_000, 16),
    "mountaincar": Job("MountainCar-v0", 200_000, 16),
    "pendulum": Job("Pendulum-v1", 100_000, 16),
    "breakout": Job("Breakout-MinAtar", 100_000, 10, seeds=2, held_out=8),
    "asterix": Job("Asterix-MinAtar", 100_000, 10, seeds=2, held_out=8),
    "lunarlander": Job("LunarLander-v3", 100_000, 10, seeds=2, held_out=8),
    "halfcheetah": Job("HalfCheetah-v5", 100_000, 10, seeds=2, held_out=8),
}
POINTS = 40
"""Of a curve, as it is recorded."""


def steps_to(folder: Path, level: float) -> float | None:
    """The step at which the seeds' interquartile mean first reaches a return; None where it never does."""
    grid, middle = curve(folder)
    reached = np.flatnonzero(middle >= level)
    return round(float(grid[reached[0]])) if len(reached) else None


def curve(folder: Path, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """(steps, interquartile mean over seeds of the training returns) of a run folder."""
    curves = [load_run(path).curve() for path, _ in seed_folders(folder, load_config(folder))]
    grid = common_grid(curves, points)
    return grid, iqm(align(curves, grid), axis=0)


def recorded(folder: Path) -> dict[str, list[float]]:
    """The same, as a row holds it."""
    steps, returns = curve(folder, POINTS)
    return {"steps": steps.round().tolist(), "returns": returns.round(3).tolist()}


def run(name: str, job: Job) -> dict[str, Any]:
    """The row of a job."""
    folder = STUDIES / name
    outcome = tune(
        job.algorithm, job.env_id, folder, job.trials, seeds=job.seeds, held_out=job.held_out, jobs=job.jobs,
        steps=job.steps, quiet=False,
    )  # fmt: skip
    result = folder / "result"
    chosen, zoo = result / outcome.chosen.name, result / "zoo"
    level = float(curve(zoo)[1][-1])
    return {
        "name": name, **dataclasses.asdict(job), **json.loads((folder / "result.json").read_text()),
        "best": outcome.chosen.trial.user_attrs["settings"], "cpu_minutes_of_last_session": cpu_minutes(),
        "steps_to_zoo": {"level": round(level, 3), "chosen": steps_to(chosen, level), "zoo": steps_to(zoo, level)},
        "curves": {who: recorded(result / who) for who in outcome.result},
        "command": f"python benchmarks/tuning.py --only {name}", "date": datetime.date.today().isoformat(),
        "versions": manifest.package_versions(), "machine": machine(),
    }  # fmt: skip


def cpu_minutes() -> float:
    """What this process and those that it waited for have used, whatever else the machine did."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(x.ru_utime + x.ru_stime for x in used) / 60, 1)


def main() -> None:
    """Run the jobs that have no row yet, or those named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", type=record.word, default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    done = {row["name"] for row in record.read(ROWS, "name")}
    wanted = record.chosen(args.only, JOBS, "tuning.py --list") or [n for n in JOBS if n not in done]
    for name, job in JOBS.items():
        if args.list:
            print(f"{name:12} {'recorded' if name in done else 'not run':9} {job}")
        elif name in wanted:
            row = run(name, job)
            record.append(ROWS, row)
            print(
                f"{name}: {'; '.join(row['verdict'])}; steps to the zoo's return {row['steps_to_zoo']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
