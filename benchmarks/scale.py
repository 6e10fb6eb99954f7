"""What actors gain: `python benchmarks/scale.py`, on a quiet machine.

An environment whose step sleeps (a simulator elsewhere), one environment to an actor, 1 to 16 of them, and LunarLander
in Gymnasium's own environments with 2 actors against one process. For each: environment steps per second, the ratio to
one process without actors (asleep: with one environment), the efficiency (that ratio per actor), and the share of the
learner's time that it waits for chunks; the rest it learns. The first updates, in which programs are compiled, are not
counted. `--kill N` compares a run with kills after each N updates with one without: the same hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from actrix import PPO


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


class Waits:
    """Measures how long the learner waits for chunks, from the second update on; and kills actors."""

    def __init__(self, model: PPO, kill_every: int = 0):
        self.model, self.kill_every, self.updates, self.killed = model, kill_every, 0, 0
        self.waited, self.begun, self.steps = 0.0, 0.0, 0
        runner, plain = model.runner, model.runner._next_chunk  # type: ignore[union-attr]

        def timed() -> Any:
            tick = time.perf_counter()
            found = plain()
            self.waited += time.perf_counter() - tick
            return found

        runner._next_chunk = timed  # type: ignore[union-attr, method-assign]

    def __call__(self, locals_: dict[str, Any], _: dict[str, Any]) -> bool:
        """After each update."""
        self.updates += 1
        if self.updates == 2:
            self.waited, self.begun, self.steps = 0.0, time.perf_counter(), self.model.num_timesteps
        mates = getattr(self.model._env, "_mates", [])
        if self.kill_every and self.updates % self.kill_every == 0 and mates:
            pid = mates[self.killed % len(mates)].pid
            if pid is None:  # it is just being replaced
                return True
            os.kill(pid, signal.SIGKILL)
            self.killed += 1
        return True

    def found(self) -> dict[str, float]:
        """Steps per second and the share of waiting."""
        seconds = time.perf_counter() - self.begun
        return {"fps": (self.model.num_timesteps - self.steps) / seconds, "waits": self.waited / seconds}


def digest(model: PPO) -> str:
    """Of all that was learned."""
    leaves = jax.tree.leaves(model.runner.learners[0])  # type: ignore[union-attr]
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()[:16]


def run(env: Any, n_envs: int, updates: int, n_steps: int, kill_every: int = 0, **how: Any) -> dict[str, Any]:
    """Train so many updates; what they cost, and the model's hash."""
    settings: dict[str, Any] = dict(n_steps=n_steps, batch_size=n_steps * n_envs // 4, n_epochs=4, seed=0)
    model = PPO("MlpPolicy", env, n_envs=n_envs, backend="gymnasium", **settings, **how)
    waits = Waits(model, kill_every)
    try:
        model.learn(updates * n_steps * n_envs, callback=waits)
        return {**waits.found(), "hash": digest(model), "killed": waits.killed,
                "restarts": getattr(model._env, "restarts", 0)}  # fmt: skip
    finally:
        close = getattr(model._env, "close", None)
        if close is not None:
            close()


def main() -> None:
    """Print a table; `--out` writes it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--n-steps", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5e-3, help="that a step sleeps")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill an actor after each N updates")
    parser.add_argument("--no-lander", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds = args.seconds
    make = lambda: Asleep(seconds)
    one = run(make, 1, args.updates, args.n_steps, envs_per_group=1, behind=1)
    print(
        f"{'environment':12} {'actors':>6} {'steps/s':>8} {'times one':>9} {'efficiency':>10} {'waits':>6}  hash"
    )
    rows: list[dict[str, Any]] = []

    def add(name: str, actors: int, found: dict[str, Any], base: float) -> None:
        gain = found["fps"] / base
        rows.append(
            {"env": name, "actors": actors, **found, "gain": gain, "efficiency": gain / max(actors, 1)}
        )
        print(f"{name:12} {actors:6} {found['fps']:8.0f} {gain:9.2f} {gain / max(actors, 1):10.2f} "
              f"{found['waits']:6.0%}  {found['hash']}", flush=True)  # fmt: skip

    add("sleeps", 0, one, one["fps"])
    for actors in args.actors:
        add(
            "sleeps",
            actors,
            run(make, actors, args.updates, args.n_steps, envs_per_group=1, actors=actors),
            one["fps"],
        )
    if args.kill:
        for kill in (0, args.kill):
            found = run(make, 4, 2 * args.updates, args.n_steps, kill, envs_per_group=1, actors=2)
            add(f"{found['restarts']} kills", 2, found, one["fps"])
    if not args.no_lander:
        lander = lambda **how: run("LunarLander-v3", 16, args.updates, args.n_steps, **how)
        base = lander()
        add("LunarLander", 0, base, base["fps"])
        add("LunarLander", 2, lander(actors=2), base["fps"])
    if args.out:
        args.out.write_text(
            json.dumps({"rows": rows, "cores": os.cpu_count(), "n_steps": args.n_steps}, indent=1)
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "actor .* died", RuntimeWarning)
    main()
