"""Token tasks from a supervised start: GRPO, more supervised training at equal tokens, and GRPO with one thing changed.

    python benchmarks/sequences.py                                  # what sequences.jsonl lacks: 5 tasks, 5 seeds
    python benchmarks/sequences.py --tasks changes --seeds 1 2 3    # GRPO with one thing changed, fewer tokens
    python benchmarks/sequences.py --table                          # tables and curves of docs/sequences.md

Runs are those of the command line, in this process; each seed has a start of its own. A row of sequences.jsonl is
written when a seed is done, and is not run again. Runs lie in --runs: what was interrupted there begins anew, what
is finished there is only evaluated.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import io
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from machine import machine
from sequences_table import RESULTS, write_tables

SEEDS, PROMPTS = (1, 2, 3, 4, 5), 1000
START = 25
"""Per cent of right answers, sampled: a start that has fewer goes on, an eighth of its first tokens at a time."""


class Task(NamedTuple):
    """Environment, --env-kwargs, tokens of the start and of each method after it, learning rates of both, memory."""

    env: str
    size: tuple[str, ...]
    start: int
    after: int
    start_rate: float
    rate: float | str
    memory: tuple[str, ...]
    """--policy, and its settings."""
    begins: str = ""
    """The task whose starts it takes; "" = its own."""
    answers: int = 128
    """Of one update, of which GRPO's `settings` make minibatches."""
    settings: tuple[str, ...] = ()


def transformer(context: int) -> tuple[str, ...]:
    """A transformer that sees so many tokens."""
    return "--policy", "MlpTransformerPolicy", "--set", f"policy_kwargs={{'context':{context}}}"


LSTM = ("--policy", "MlpLstmPolicy", "--set", "policy_kwargs={'net_arch':[],'hidden_size':128}")
"""As in the zoo."""
FALLING = "lin_0.0004_0.00002"


def eight_steps(tokens: int) -> tuple[str, ...]:
    """With each 512 answers of so many tokens, twice through four minibatches."""
    return f"sequence_length={tokens}", f"batch_size={128 * tokens}", "n_epochs=2", "ratio=sequence"


LETTERS = ("length=5", "letters=8")
TASKS = {
    "copy": Task("Copy-v0", LETTERS, 150_000, 2_500_000, 0.002, 0.001, LSTM),
    "reverse": Task("Reverse-v0", LETTERS, 150_000, 2_500_000, 0.002, 0.001, LSTM),
    "sort": Task("Sort-v0", LETTERS, 150_000, 2_500_000, 0.002, 0.001, LSTM),
    "addition": Task(
        "Addition-v0", ("digits=3", "backwards=true"), 500_000, 4_000_000, 0.001, FALLING, transformer(16),
        answers=512, settings=eight_steps(12),
    ),
    "countdown": Task(
        "Countdown-v0", ("numbers=3",), 300_000, 6_000_000, 0.001, FALLING, transformer(20),
        answers=512, settings=eight_steps(14),
    ),
}  # fmt: skip
TASKS["changes"] = TASKS["reverse"]._replace(after=300_000, begins="reverse")


class Method(NamedTuple):
    """Preset or composition, --set, --env-kwargs, environments; the method that it goes on with, to how many times as
    many tokens."""

    words: tuple[str, ...]
    settings: tuple[str, ...] = ()
    kwargs: tuple[str, ...] = ()
    envs: int = 128
    after: str = ""
    times: int = 1


def grpo(*settings: str, preset: str = "grpo", kwargs: tuple[str, ...] = ()) -> Method:
    """GRPO without a KL, but for what is changed."""
    return Method((preset,), ("ref_kl_coef=0", *settings), kwargs)


RIGHT = ("--critic", "none", "--actor", "score:right")
ONCE = ("gamma=1", "n_steps=None", "batch_size=None", "n_epochs=1", "aggregate=sequence")
STEPS = ("sequence_length=11", "batch_size=352", "n_epochs=2")
"""Eight steps with a batch, of whole answers: with one step the ratio is 1 and no clip is reached."""
METHODS = {
    "start": Method(("sft",), kwargs=("group=1",), envs=64),
    "grpo": grpo(),
    "grpo-long": grpo()._replace(after="grpo", times=3),
    "supervised": Method(("sft",), kwargs=("group=1",), envs=64),
    "expert": Method(RIGHT, ONCE),
    "std-off": grpo("aggregate=sequence", preset="dr-grpo"),
    "per-token": grpo("aggregate=token"),
    "constant": grpo("aggregate=constant"),
    "beta-0.01": grpo("ref_kl_coef=0.01"),
    "beta-0.04": grpo("ref_kl_coef=0.04"),
    "group-4": grpo(kwargs=("group=4",)),
    "group-16": grpo(kwargs=("group=16",)),
    "dynamic": grpo("dynamic=true"),
    "dynamic-keep": grpo("dynamic=true", "keep=16")._replace(envs=256),
    "steps": grpo(*STEPS),
    "clip-higher": grpo(*STEPS, "clip_range_high=0.28"),
    "ratio-sequence": grpo(*STEPS, "ratio=sequence"),
}
MAIN = ("grpo", "supervised", "expert")
CHANGES = ("grpo", *list(METHODS)[list(METHODS).index("std-off") :])


def jobs(tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """(task, method, seed) in their order: a start before what begins there; of changes each seed's all together."""
    found = []
    for task in tasks:
        starts, names = TASKS[task].begins or task, methods or (CHANGES if task == "changes" else MAIN)
        each = [(starts, "start", seed) for seed in seeds]
        if task == "changes":
            each += [(task, name, seed) for seed in seeds for name in names]
        else:
            each += [(task, name, seed) for name in names for seed in seeds]
        found += [job for job in each if job not in found]
    return found


def command(task: str, method: str, seed: int, runs: Path, steps: int | None = None) -> list[str]:
    """The arguments of `actrix` for one seed; method 'start' is the supervised start.

    A method that goes on with another resumes a copy of its folder, which `run` makes.
    """
    env, how, start = TASKS[task], METHODS[method], method == "start"
    folder, tokens = str(runs / f"{task}-{method}-{seed}"), (env.start if start else env.after) * how.times
    if how.after:
        return ["resume", folder, "--steps", str(steps or tokens)]
    rate = env.start_rate if "sft" in how.words else env.rate
    envs = how.envs if "sft" in how.words else how.envs * env.answers // 128
    own = env.settings if "grpo" in how.words else ()
    out = ["train", *how.words, env.env, "--envs", str(envs), *env.memory]
    out += [f"learning_rate={rate}", *own, *how.settings, "--env-kwargs", *env.size, *how.kwargs]
    out += ["--steps", str(steps or tokens), "--seed", str(seed)]
    out += [] if start else ["--init", str(runs / f"{env.begins or task}-start-{seed}")]
    return [*out, "--out", folder]


def actrix(arguments: list[str]) -> float:
    """Call `actrix` here; processor seconds, compiling among them. RuntimeError with what it printed where it fails."""
    from actrix.cli import main

    said, begun, code = io.StringIO(), time.process_time(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments) or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        raise RuntimeError(f"actrix {' '.join(arguments)}\n{said.getvalue()}")
    return time.process_time() - begun


def right(folder: Path, task: str, prompts: int) -> dict[str, float]:
    """Per cent of right answers, sampled and most likely, to prompts of training's lengths and, no changes, longer."""
    from actrix.envs.build import token_task
    from actrix.loops.answers import answers
    from actrix.model import Model

    model, found = Model.load(folder), {}
    size = {name: json.loads(number) for name, number in (x.split("=") for x in TASKS[task].size)}
    for where in ("", "held out, ")[: 1 if task == "changes" else 2]:
        env = token_task(TASKS[task].env, size | {"held_out": bool(where)})
        for how in ("sampled", "most likely"):
            given = answers(model.policy, env, prompts, 10**6, how == "most likely")
            found[where + how] = round(100 * float(np.mean([a.right for a in given])), 1)
    return found


def clipped(folder: Path) -> float | None:
    """Share of tokens past a clip, the mean of a run; None where none is logged."""
    with (folder / "metrics.csv").open() as file:
        found = [float(x) for r in csv.DictReader(file) if (x := r.get("train/clip_fraction"))]
    return round(float(np.mean(found)), 4) if found else None


def curve(folder: Path, points: int = 40) -> list[list[float]]:
    """[tokens, share of right answers in training] in so many equal stretches; [] where answers are shown."""
    with (folder / "metrics.csv").open() as file:
        rows = [(r["time/total_timesteps"], r.get("rollout/pass@1")) for r in csv.DictReader(file)]
    pairs = [(float(t), float(p)) for t, p in rows if p]
    parts = [part for part in np.array_split(np.array(pairs), points) if len(part)] if pairs else []
    return [[int(part[-1][0]), round(float(part[:, 1].mean()), 4)] for part in parts]


def before(task: str, method: str) -> tuple[str, str] | None:
    """(task, method) of the run that this one begins with; None of a start."""
    if method == "start":
        return None
    return (task, after) if (after := METHODS[method].after) else (TASKS[task].begins or task, "start")


def run(task: str, method: str, seed: int, runs: Path, prompts: int, steps: int | None) -> dict[str, Any]:
    """Train one seed, unless its folder holds a finished run, and evaluate it; its row.

    What it begins with is made again where its folder is gone: on another machine the record alone is there.
    """
    first = before(task, method)
    if first is not None and not (runs / f"{first[0]}-{first[1]}-{seed}" / "evaluation.json").exists():
        run(*first, seed, runs, prompts, steps)
    arguments = command(task, method, seed, runs, steps)
    folder, earlier, seconds = runs / f"{task}-{method}-{seed}", METHODS[method].after, None
    if not (folder / "evaluation.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if earlier:
            leave = shutil.ignore_patterns("evaluation.json")
            shutil.copytree(runs / f"{task}-{earlier}-{seed}", folder, ignore=leave)
        seconds = actrix(arguments)
        more = (steps or TASKS[task].start) // 8
        while method == "start" and steps is None and right(folder, task, prompts)["sampled"] < START:
            tokens = json.loads((folder / "config.json").read_text())["n_timesteps"] + more
            seconds += actrix(["resume", str(folder), "--steps", str(tokens)])
    config, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "manifest"))
    shown = " ".join(["actrix", *arguments]).replace(f"{runs}/", "runs/")
    if earlier:
        shown = f"cp -r runs/{task}-{earlier}-{seed} runs/{folder.name}; {shown}"
    return {
        "task": task, "method": method, "seed": seed, "right": right(folder, task, prompts), "prompts": prompts,
        "tokens": config["n_timesteps"], "curve": curve(folder), "clipped": clipped(folder),
        "processor_seconds": seconds and round(seconds, 1),
        "command": shown, "n_envs": config["n_envs"], "settings": config["settings"],
        "versions": manifest["sessions"][-1]["versions"], "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/sequences"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--steps", type=int, help="tokens of the start and of each method (default: the record's)"
    )
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="asked of each seed")
    parser.add_argument("--table", action="store_true", help="write the tables and curves, run nothing")
    args = parser.parse_args()
    if args.table:
        return write_tables(args.results, [name for name, task in TASKS.items() if not task.begins])
    for task, method, seed in jobs(args.tasks, args.methods, args.seeds):
        rows = record.read(args.results, "task", "method", "seed")
        if any((r["task"], r["method"], r["seed"]) == (task, method, seed) for r in rows):
            continue
        row = run(task, method, seed, args.runs, args.prompts, args.steps)
        record.append(args.results, row)
        print(task, method, seed, row["right"], f"{row['processor_seconds']} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
