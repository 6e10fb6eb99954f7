"""What a GPU gives, in one command of at most eight minutes: `python benchmarks/gpu.py`.

First one update of PPO and one of SAC must be the CPU's within float tolerance. Then: PPO in the compiled loop with 64
to 8192 environments, SAC and TD3 in both loops beside LeanRL's published figures, seeds under `vmap` and one after
another; steps per second and memory of each. A row is a process of its own, which has a share of the time; one that
does not fit is said to be not run. The table is printed, and each row appended to gpu.jsonl.

    python benchmarks/gpu.py --list
    python benchmarks/gpu.py --only ppo sac          # names, or how they begin
    python benchmarks/gpu.py --smoke --out /tmp/x    # tiny, on a CPU: whether it runs, no figures
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import record

HERE = Path(__file__).parent
LEANRL = {"sac": 725, "td3": 936}
"""Steps per second with torch.compile and CUDA graphs on an H100, HalfCheetah-v4 simulated on the CPU: the README of
github.com/pytorch-labs/LeanRL at commit 13f83c8."""
TOLERANCE = 1e-3
"""Of the largest change that one update makes to any parameter."""

CARTPOLE = dict(algo="ppo", env_id="CartPole-v1", n_steps=128, n_epochs=4, minibatches=4)
BREAKOUT = CARTPOLE | dict(env_id="Breakout-MinAtar", policy_kwargs=dict(cnn=True))
ONE = dict(n_envs=1, buffer_size=100_000, learning_starts=1000, batch_size=256, train_freq=1,
           policy_kwargs=dict(net_arch=[256, 256]))  # fmt: skip
TINY = dict(n_steps=8, n_epochs=1, minibatches=1, buffer_size=200, learning_starts=20, batch_size=8)
"""What --smoke sets in place of a row's own numbers, where it has them."""


@dataclasses.dataclass(frozen=True)
class Row:
    """`do(**settings)` in a process of its own; `share` of the time that is left to it and the rows after it."""

    name: str
    do: str
    settings: dict[str, Any]
    share: float = 1.0
    leanrl: int | None = None


def _rows() -> list[Row]:
    rows = [
        Row("check-ppo", "agreement", CARTPOLE | dict(n_envs=64, n_epochs=1)),
        Row(
            "check-sac",
            "agreement",
            dict(algo="sac", env_id="Pendulum-v1") | ONE | dict(n_envs=8, train_freq=32),
        ),
    ]
    for n in (64, 256, 1024, 4096, 8192):
        rows.append(Row(f"ppo-cartpole-{n}", "compiled", CARTPOLE | dict(n_envs=n)))
        rows.append(Row(f"ppo-breakout-{n}", "compiled", BREAKOUT | dict(n_envs=n), 1.5))
    for algo, figure in LEANRL.items():
        host = dict(algo=algo, env_id="HalfCheetah-v5") | ONE
        rows.append(Row(f"{algo}-halfcheetah-host", "host", host, 1.5, figure))
        rows.append(
            Row(f"{algo}-pendulum-compiled", "compiled", dict(algo=algo, env_id="Pendulum-v1") | ONE, 1.5)
        )
    for n in (1, 4, 16, 32):
        seeds = CARTPOLE | dict(n_envs=64, seeds=n)
        rows.append(Row(f"seeds-{n}-vmapped", "vmapped", seeds))
        rows.append(Row(f"seeds-{n}-in-turn", "compiled", seeds))
    return rows


ROWS = {row.name: row for row in _rows()}


# ------------------------------------------------------------------------------------- in a row's own process


def _made(algo: str, env_id: str, n_envs: int, minibatches: int = 0, **settings: Any) -> Any:
    """(algorithm, settings of it): `minibatches` of a chunk become a `batch_size`."""
    from actrix.algorithms.presets import PRESETS
    from actrix.algorithms.settings import configure

    if minibatches:
        settings["batch_size"] = n_envs * settings["n_steps"] // minibatches
    return configure(PRESETS[algo].algorithm, settings)


def _compiled_runner(settings: dict[str, Any]) -> Any:
    from actrix.envs.jax_envs import jax_env
    from actrix.loops.compiled import CompiledRunner

    settings = dict(settings)
    seeds = range(settings.pop("seeds", 1))
    runner = CompiledRunner(_made(**settings), jax_env(settings["env_id"]), settings["n_envs"], seeds)
    runner.set_training(total_steps=1e9)
    return runner


def timed(advance: Callable[[int], object], rows: int, most: int, window: float) -> dict[str, Any]:
    """Steps per second of `advance(k)` over at least `window` seconds after two calls that compile; `rows` a round."""
    begun = time.perf_counter()
    advance(1)
    advance(1)
    compiled, k = time.perf_counter() - begun, 1
    while True:
        begun = time.perf_counter()
        advance(k)
        seconds = time.perf_counter() - begun
        if seconds >= window / 2 or k >= most:
            break
        k = min(most, 2 * k)
    done, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < window:
        advance(k)
        done += k
    return {"steps_per_second": round(done * rows / seconds), "compile_seconds": round(compiled, 1),
            "memory_mib": memory()}  # fmt: skip


def memory() -> int:
    """Largest memory in use, MiB: the device's, on a CPU the process's."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    peak = stats["peak_bytes_in_use"] / 1024 if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1024)


def compiled(window: float, **settings: Any) -> dict[str, Any]:
    """The compiled loop; several seeds one after another."""
    runner = _compiled_runner(settings)
    runner.warm()
    return timed(runner.advance, runner.rows * runner.num_envs * len(runner.seeds), runner.capacity, window)


def vmapped(window: float, **settings: Any) -> dict[str, Any]:
    """The same iterations of the same seeds side by side, under one `vmap`."""
    import jax

    from actrix.loops.compiled import collect
    from actrix.loops.runner import iteration_keys

    runner = _compiled_runner(settings)
    algorithm, env, rows = runner.algorithm, runner.env, runner.rows

    def iteration(state: Any) -> Any:
        noise_key, learn_key = iteration_keys(state.iteration_key, state.iteration)
        acting = state.learner.acting
        carry, chunk, _ = collect(algorithm, acting, env, state.env, state.env_key, noise_key, rows)
        learner, _ = algorithm.learn(state.learner, chunk, learn_key)
        return dataclasses.replace(state, learner=learner, env=carry, iteration=state.iteration + 1)

    program = jax.jit(lambda states, k: jax.lax.fori_loop(0, k, lambda _, s: jax.vmap(iteration)(s), states))
    states = jax.tree.map(lambda x: x[: len(runner.seeds)], runner.state)

    def advance(k: int) -> None:
        nonlocal states
        states = jax.block_until_ready(program(states, k))

    return timed(advance, rows * runner.num_envs * len(runner.seeds), runner.capacity, window)


def host(window: float, **settings: Any) -> dict[str, Any]:
    """The host loop on Gymnasium's environments, which run on the CPU."""
    from actrix.envs.make import make_vec_env
    from actrix.loops.stepping import host_runner

    env = make_vec_env(settings["env_id"], settings["n_envs"], 0, backend="gymnasium")
    runner = host_runner(_made(**settings), env, 0)
    runner.set_training(total_steps=1e9)
    runner.warm()
    return timed(runner.advance, runner.rows * runner.num_envs, getattr(runner, "capacity", 1), window)


def agreement(window: float, **settings: Any) -> dict[str, Any]:
    """How far one update from the same chunk lies from the CPU's, as a share of the largest change of a parameter.

    Products in full float32 on both sides; a large eps in Adam, so that a step is a smooth function of its gradient.
    """
    import jax

    from actrix.loops.compiled import collect
    from actrix.loops.runner import iteration_keys

    cpu, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    with jax.default_device(cpu), jax.default_matmul_precision("highest"):
        runner = _compiled_runner(settings | {"optimizer_eps": 1e-3})
        runner.warm()
        state = jax.device_put(jax.tree.map(lambda x: x[0], runner.state), cpu)
        noise_key, learn_key = iteration_keys(state.iteration_key, 0)
        acting = state.learner.acting
        draw = jax.jit(
            lambda s: collect(runner.algorithm, acting, runner.env, s.env, s.env_key, noise_key, runner.rows)
        )
        given = state.learner, draw(state)[1], learn_key
        learned = [jax.jit(runner.algorithm.learn)(*jax.device_put(given, d))[0] for d in (cpu, device)]
    nets = [jax.device_get(jax.tree.leaves(x.acting.net)) for x in (state.learner, *learned)]
    return {"apart": apart(*nets), "on": device.device_kind}


def apart(before: Sequence[Any], one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest difference between two updates' parameters over the largest change that the first one made."""
    import numpy as np

    floats = [i for i, x in enumerate(before) if np.issubdtype(np.asarray(x).dtype, np.floating)]
    change = max(np.abs(one[i] - before[i]).max(initial=0) for i in floats)
    difference = max(np.abs(one[i] - other[i]).max(initial=0) for i in floats)
    assert change > 0, "the update changed nothing"
    return float(difference / change)


def device(window: float) -> dict[str, Any]:
    """What JAX runs on."""
    import jax

    import actrix  # noqa: F401  sets JAX up

    first = jax.local_devices()[0]
    versions = {name: metadata.version(name) for name in ("actrix", "jax", "jaxlib", "gymnasium")}
    return {"platform": first.platform, "card": first.device_kind, "versions": versions}


# ----------------------------------------------------------------------------------------------- the command


def run(do: str, settings: dict[str, Any], limit: float, window: float) -> dict[str, Any]:
    """The row's result from its own process; `why` where there is none."""
    given = json.dumps({"do": do, "window": window, "settings": settings})
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ  # else memory could not be measured
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--row", given], capture_output=True, text=True, env=env, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"why": f"more than its share of {limit:.0f} s"}
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def driver() -> str | None:
    """The NVIDIA driver's version; None where there is no nvidia-smi."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def line(row: Row, found: dict[str, Any]) -> str:
    """One line of the table."""
    if "why" in found:
        return f"{row.name:24} not run: {found['why']}"
    if "apart" in found:
        verdict = "agrees with the CPU" if found["apart"] <= TOLERANCE else "DIFFERS from the CPU"
        return (
            f"{row.name:24} {verdict}: largest difference {found['apart']:.1e} of an update (≤ {TOLERANCE:g})"
        )
    beside = "" if row.leanrl is None else f" {row.leanrl:>8}"
    speed, seconds, size = (found[k] for k in ("steps_per_second", "compile_seconds", "memory_mib"))
    return f"{row.name:24} {speed:12,} {seconds:10} {size:10,}{beside}"


def measure(rows: list[Row], out: Path, seconds: float, smoke: bool, where: dict[str, Any]) -> bool:
    """Run the rows within the time, print and append each; whether the checks were run and agree."""
    end, left, fine = time.monotonic() + seconds, sum(row.share for row in rows), True
    print(f"{'row':24} {'steps/s':>12} {'compile s':>10} {'memory MiB':>10} {'LeanRL':>8}")
    for row in rows:
        limit = (end - time.monotonic()) * row.share / left
        left -= row.share
        settings = row.settings | ({k: v for k, v in TINY.items() if k in row.settings} if smoke else {})
        found = run(row.do, settings, limit, 0.1 if smoke else min(2.0, limit / 8))
        fine = fine and (row.do != "agreement" or found.get("apart", float("inf")) <= TOLERANCE)
        print(line(row, found), flush=True)
        record.append(out, {"name": row.name, **found, "leanrl": row.leanrl, "settings": settings, **where})
    return fine


def chosen(only: list[str] | None, smoke: bool) -> list[Row]:
    """Rows of these names, or whose names begin so, in the order of `ROWS`; with `smoke` one of each kind."""
    few = ["check", "ppo-cartpole-64", "ppo-breakout-64", "sac", "seeds-4-vmapped"] if smoke else [""]
    names = record.chosen(only or few, ROWS, "gpu.py --list")
    return [row for name, row in ROWS.items() if name in names]


def start(args: argparse.Namespace) -> bool:
    """Look at the machine and the record, then measure; ends where either will not do."""
    rows = chosen(args.only, args.smoke)
    record.read(args.out, "name")
    begun = time.monotonic()
    found = run("device", {}, 60 * args.minutes, 0)
    if "why" in found:
        record.refuse(f"JAX does not start here: {found['why']}")
    if found["platform"] == "cpu" and not args.smoke:
        record.refuse("JAX sees no GPU here: install its build for your card (`pip install \"jax[cuda12]\"`), "
                      "or try the script on a CPU with --smoke.")  # fmt: skip
    print(f"{found['card']}, driver {driver() or '–'}, jaxlib {found['versions']['jaxlib']}")
    where = found | {"driver": driver(), "smoke": args.smoke, "date": datetime.date.today().isoformat(),
                     "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])}  # fmt: skip
    return measure(rows, args.out, 60 * args.minutes - (time.monotonic() - begun), args.smoke, where)


def main() -> int:
    """0, 1 where a check differs from the CPU or was not run, 2 where nothing can be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", type=record.word, metavar="ROW", help="names, or how they begin")
    parser.add_argument("--list", action="store_true", help="the rows and what each runs")
    parser.add_argument("--smoke", action="store_true", help="tiny, also on a CPU")
    parser.add_argument("--minutes", type=record.amount, default=8.0, help="for everything (8)")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.jsonl")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        given = json.loads(args.row)
        print(json.dumps(globals()[given["do"]](given["window"], **given["settings"])))
        return 0
    if args.list:
        print("\n".join(f"{row.name:24} {row.do} {json.dumps(row.settings)}" for row in ROWS.values()))
        return 0
    return 0 if start(args) else 1


if __name__ == "__main__":
    sys.exit(main())
