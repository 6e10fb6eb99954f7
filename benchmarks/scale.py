"""What actors gain: `python benchmarks/scale.py [--only NAME …] [--list]`, on a quiet machine; rows go to scale.jsonl.

    sleeps   an environment whose step sleeps 5 ms (a simulator elsewhere), one to an actor, 1 to 16 actors
    many     128 such environments whose step sleeps 50 ms, as 128 groups in 16 processes, feed one learner
    lander   LunarLander in Gymnasium's own environments, two actors against one process, in pairs
    zoo      the same with the zoo's settings for LunarLander: chunks of 1024 rows, not 256, and minibatches of 64
    kills    the same model after twenty kills of actors as without any, and the seconds that a kill costs
    rllib    PPO on LunarLander against RLlib's, two runners each, in pairs: steps per second and return in training
             (`--seeds 5 6 7`: of others; for more returns, which a busy machine gives as well)

Of each: environment steps per second, their ratio to one process without actors, the efficiency (that ratio per
environment that sleeps), the share of the time in which the learner waits for chunks, and that of Ray: what sending
weights and fetching chunks takes of the collecting thread, beyond waiting for actors. The first updates, in which
programs are compiled, are not counted. RLlib lives in an environment of its own (`--rllib PYTHON`, or .venv-rllib).
`--plot` draws docs/results/scale.png from the rows.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import record
from gymnasium import spaces
from machine import machine

from actrix import PPO
from actrix import zoo as tuned
from actrix.files import manifest
from actrix.remote import cluster

HERE = Path(__file__).parent
ROWS, PICTURE = HERE / "scale.jsonl", HERE.parent / "docs" / "results" / "scale.png"
ACTORS, MANY, PAIRS = (1, 2, 4, 8, 16), (128, 16), 3
PEER_SECONDS, SETTLES = 900.0, 8.0
RLLIB_PYTHON = HERE.parent / ".venv-rllib" / "bin" / "python"


class Asleep(gym.Env):
    """A step that sleeps; its state can be had, so that nothing is lost with an actor."""

    observation_space = spaces.Box(-1, 1, (8,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, seconds: float = 5e-3):
        self.seconds, self.t = seconds, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """The start of 200 steps."""
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        """Time passes."""
        time.sleep(self.seconds)
        self.t += 1
        return self._obs(), float(action == 1), False, self.t == 200, {}

    def get_state(self) -> dict[str, Any]:
        """Where the episode is."""
        return {"t": self.t}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on there."""
        self.t = state["t"]

    def _obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 8).astype(np.float32)


class RayCalls:
    """Ray as a crew uses it, which counts the seconds that its waits take."""

    def __init__(self, ray: Any):
        self.ray, self.waited = ray, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ray, name)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's, timed."""
        return self._timed(self.ray.wait, *args, **kwargs)

    def _timed(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        tick = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.waited += time.perf_counter() - tick


class Waits:
    """Measures how long the learner waits for chunks, from the second update on; and kills actors."""

    def __init__(self, model: PPO, kills: int = 0):
        self.model, self.kills, self.updates, self.killed = model, kills, 0, 0
        self.runner: Any = model.runner
        self.waited = self.collected = self.begun = 0.0
        self.steps = 0
        self.ray = RayCalls(getattr(model._env, "_ray", None))
        if self.ray.ray is not None:
            model._env._ray = self.ray  # type: ignore[union-attr]
        self.runner._next_chunk = self._timed("waited", self.runner._next_chunk)
        begin = self._timed("collected", self.runner._set_off)
        self.runner._set_off = lambda *args: self._timed("collected", begin(*args))

    def _timed(self, where: str, call: Callable) -> Callable:
        def timed(*args: Any) -> Any:
            tick = time.perf_counter()
            found = call(*args)
            setattr(self, where, getattr(self, where) + time.perf_counter() - tick)
            return found

        return timed

    def __call__(self, locals_: dict[str, Any], _: dict[str, Any]) -> bool:
        """After each update."""
        self.updates += 1
        if self.updates == 2:
            self.waited = self.collected = self.ray.waited = 0.0
            self.begun, self.steps = time.perf_counter(), self.model.num_timesteps
        mates = getattr(self.model._env, "_mates", [])
        pid = mates[self.updates % len(mates)].pid if self.killed < self.kills and mates else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.killed += 1
        return True

    def found(self) -> dict[str, float]:
        """Steps per second and the shares of the time."""
        seconds = time.perf_counter() - self.begun
        ray = 0.0 if self.ray.ray is None else max(0.0, self.collected - self.ray.waited)
        steps = self.model.num_timesteps - self.steps
        return {
            "seconds": seconds,
            "fps": steps / seconds,
            "waits": self.waited / seconds,
            "ray": ray / seconds,
        }


def digest(model: PPO) -> str:
    """Of all that was learned."""
    leaves = jax.tree.leaves(model.runner.learners[0])  # type: ignore[union-attr]
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()[:16]


def run(env: Any, n_envs: int, updates: int, n_steps: int, kills: int = 0, **how: Any) -> dict[str, Any]:
    """Train so many updates; what they cost, and the model's hash."""
    settings: dict[str, Any] = dict(n_steps=n_steps, batch_size=n_steps * n_envs // 4, n_epochs=4, seed=0)
    settings |= how.pop("settings", {})
    model = PPO("MlpPolicy", env, n_envs=n_envs, backend="gymnasium", **settings, **how)
    waits = Waits(model, kills)
    try:
        model.learn(updates * n_steps * n_envs, callback=waits)
        returns = [float(x) for x in list(model.run.returns)[-100:]]  # type: ignore[union-attr]
        return {**waits.found(), "hash": digest(model), "killed": waits.killed, "updates": updates,
                "n_steps": n_steps, "return": statistics.fmean(returns) if returns else None}  # fmt: skip
    finally:
        close = getattr(model._env, "close", None)
        if close is not None:
            close()


def asleep(seconds: float) -> Callable[[], gym.Env]:
    """What makes such an environment."""
    return lambda: Asleep(seconds)


def sleeps(args: argparse.Namespace) -> dict[str, Any]:
    """One environment in this process, then as many as there are actors."""
    make, updates = asleep(5e-3), args.updates or 12
    one = run(make, 1, updates, 128, envs_per_group=1, behind=1)
    rows = [compared(run(make, n, updates, 128, envs_per_group=1, actors=n), one, n) for n in ACTORS]
    return {"one": one, "rows": rows, "ratio": rows[-1]["gain"], "bar": 0.9 * ACTORS[-1]}


def many(args: argparse.Namespace) -> dict[str, Any]:
    """Logical actors, several to a process, against as many times one environment."""
    (envs, processes), make, updates = MANY, asleep(5e-2), args.updates or 10
    one = run(make, 1, max(3, updates // 2), 64, envs_per_group=1, behind=1)
    found = compared(run(make, envs, updates, 64, envs_per_group=1, actors=processes), one, envs)
    return {"one": one, "rows": [found], "processes": processes, "ratio": found["efficiency"], "bar": 0.8}


def lander(args: argparse.Namespace, n_steps: int = 256, **settings: Any) -> dict[str, Any]:
    """Pairs of one process and two actors, in turns; and what the machine gives two processes that share nothing."""
    updates, pairs = args.updates or 12, []
    for k in range(PAIRS):
        train = lambda **how: run("LunarLander-v3", 16, updates, n_steps, **settings, **how)
        found = {actors: train(actors=actors) for actors in (0, 2)[:: 1 if k % 2 == 0 else -1]}
        pairs.append(compared(found[2], found[0], 2))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        apart = sum(pool.starmap(half, [(4 * updates, n_steps, settings)] * 2, chunksize=1))
    apart /= statistics.median(x["one_fps"] for x in pairs)
    print(f"  two processes that share nothing, eight environments each: {apart:.2f} times", flush=True)
    return {"rows": pairs, "ratio": statistics.median(x["gain"] for x in pairs), "bar": 1.5, "apart": apart}


def zoo(args: argparse.Namespace) -> dict[str, Any]:
    """The same with the zoo's settings, as `actrix train ppo LunarLander-v3 --actors 2` has them."""
    entry, _ = tuned.settings("ppo", "LunarLander-v3")
    n_steps = entry.pop("n_steps")
    return lander(args, n_steps, settings={k: v for k, v in entry.items() if k not in tuned.RUN_KEYS})


def half(updates: int, n_steps: int, settings: dict[str, Any]) -> float:
    """Steps per second of a process of its own with half of the environments."""
    return run("LunarLander-v3", 8, updates, n_steps, **settings)["fps"]


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """Twenty updates, an actor killed after each, and twenty without."""
    make, updates = asleep(5e-3), args.updates or 22
    how = dict(envs_per_group=1, actors=2)
    quiet, killed = (run(make, 4, updates, 64, n, **how) for n in (0, min(20, updates - 2)))
    lost = (killed["seconds"] - quiet["seconds"]) / killed["killed"]
    print(f"  {killed['killed']} kills, {lost:.1f} s lost by each", flush=True)
    return {
        "rows": [compared(killed, quiet, 1)],
        "kills": killed["killed"],
        "lost": lost,
        "same": quiet["hash"] == killed["hash"],
    }


def rllib(args: argparse.Namespace) -> dict[str, Any] | None:
    """Pairs of RLlib and two actors, in turns; None, and a sentence, where it is not installed."""
    if why := record.lacks(args.rllib, "ray.rllib", "torch", "Box2D"):
        print(
            f"rllib: make an environment with ray[rllib]==2.60.*, torch and Box2D, and name its Python ({why})."
        )
        return None
    updates, pairs = args.updates or 120, []  # enough for the returns to tell something
    settings = dict(batch_size=256, n_epochs=4, learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, ent_coef=0.0)
    for i, k in enumerate(args.seeds):
        ours = lambda k=k: run("LunarLander-v3", 16, updates, 256, actors=2, settings=settings | {"seed": k})
        theirs = lambda k=k: peer(args.rllib, {"updates": updates, "rows": 16 * 256, **settings, "seed": k})
        sides = {side: side() for side in (ours, theirs)[:: 1 if i % 2 == 0 else -1]}
        mine, other = sides[ours], sides[theirs]
        pairs.append(compared(mine, other, 2) | {"their_fps": other["fps"], "their_return": other["return"]})
    mean = lambda key: statistics.fmean(x[key] for x in pairs)
    print(f"  mean return {mean('return'):.1f}, theirs {mean('their_return'):.1f}", flush=True)
    ratio = statistics.median(x["gain"] for x in pairs)
    command = f"python benchmarks/scale.py --only rllib --seeds {' '.join(map(str, args.seeds))}"
    return {"command": command, "rows": pairs, "ratio": ratio, "bar": 3, "peer": other["versions"]}


def peer(python: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """RLlib's side, in its own environment, with no Ray of ours beside it."""
    command = [str(python), str(HERE / "peers_rllib.py"), json.dumps(arguments)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    cluster.leave()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=PEER_SECONDS)
    finally:
        start_ray()
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(found: dict[str, Any], one: dict[str, Any], actors: int) -> dict[str, Any]:
    """A run beside that of one process."""
    gain = found["fps"] / one["fps"]
    row = {"actors": actors, **found, "one_fps": one["fps"], "gain": gain, "efficiency": gain / actors}
    print(f"  {actors:4} {found['fps']:8.0f} steps/s, {gain:6.2f} times {one['fps']:.0f}, efficiency "
          f"{gain / actors:.2f}, waits {found['waits']:.0%}, Ray {found['ray']:.1%}, return {found['return']}",
          flush=True)  # fmt: skip
    return row


def start_ray() -> None:
    """With the processes that it starts ahead, which take the cores for a while."""
    try:
        cluster.join(None, max(ACTORS))
    except ImportError as error:
        record.refuse(str(error))
    time.sleep(SETTLES)


JOBS: dict[str, Callable[[argparse.Namespace], dict[str, Any] | None]] = {
    job.__name__: job for job in (sleeps, many, lander, zoo, kills, rllib)
}


def plot() -> None:
    """Efficiency over actors, and where the learner's time goes."""
    import matplotlib.pyplot as plt

    last = {row["name"]: row for row in record.read(ROWS, "name") or record.refuse(f"{ROWS} has no rows.")}
    rows = [row for name in ("sleeps", "many") if name in last for row in last[name]["rows"]]
    names, x = [str(row["actors"]) for row in rows], range(len(rows))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.bar(x, [row["efficiency"] for row in rows], color="#0072b2")
    for i, row in enumerate(rows):
        left.text(i, row["efficiency"] - 0.07, f"{row['efficiency']:.2f}", ha="center", color="white")
    left.axhline(1, color="black", linewidth=1)
    left.set_title("speed per environment, times one alone", loc="left", weight="bold")
    learns = [1 - row["waits"] for row in rows]
    right.bar(x, learns, color="#009e73", label="learns")
    right.bar(x, [row["waits"] for row in rows], bottom=learns, color="#cccccc", label="waits for chunks")
    right.set_title("the learner's time", loc="left", weight="bold")
    right.legend(loc="center")
    for axes in (left, right):
        axes.set_xticks(list(x), names)
        axes.set(xlabel="environments that sleep, a logical actor each", ylim=(0, 1.15))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=120)
    print(PICTURE)


def main() -> None:
    """Run the jobs named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(JOBS), choices=list(JOBS), metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument(
        "--updates", type=record.count, help="of each run, at least 3; then nothing is recorded"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="of rllib")
    parser.add_argument("--rllib", type=Path, default=RLLIB_PYTHON, metavar="PYTHON")
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    if args.updates is not None and args.updates < 3:
        record.refuse(
            f"--updates {args.updates}: give at least 3, as the first two compile and are not counted."
        )
    if args.list:
        return print("\n".join(JOBS))
    if args.plot:
        return plot()
    record.read(ROWS, "name")  # a broken record is found before the work
    for name in args.only:
        print(name, flush=True)
        start_ray()  # one for all runs of a job
        try:
            row = JOBS[name](args)
        finally:
            cluster.leave()
        if row is None or args.updates:
            continue
        row = {"name": name, "command": f"python benchmarks/scale.py --only {name}", **row, "machine": machine(),
               "date": datetime.date.today().isoformat(), "versions": manifest.package_versions()}  # fmt: skip
        record.append(ROWS, row)
        print(f"{name}: {row.get('ratio', row.get('same'))}, asked {row.get('bar', 'the same')}", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "actor .* died", RuntimeWarning)
    sys.exit(main())
