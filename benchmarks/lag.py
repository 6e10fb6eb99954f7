"""V-trace against the same learner without correction, when the behaviour policy is k updates old (CartPole-v1).

    python benchmarks/lag.py            # lags 0, 8, 16, 32; ten seeds each; rows go to lag.jsonl

'Uncorrected' learns from the same chunks as if they were its own: every ratio π/μ is replaced by 1, nothing else
changes. The library refuses that composition, so the ratio is replaced here.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import record
from machine import machine

from actrix.core.distributions import importance_ratio
from actrix.envs.make import make_vec_env
from actrix.files import manifest
from actrix.loops.compiled import CompiledRunner
from actrix.loops.evaluate import Policy, evaluate
from actrix.loops.train import SeedRun, train
from actrix.runs import session
from actrix.runs.config import resolve
from actrix.show.stats import summarize

RESULTS = Path(__file__).parent / "lag.jsonl"
SEEDS, STEPS, EPISODES = tuple(range(10, 20)), 500_000, 100


def run(lag: int, corrected: bool) -> dict[str, Any]:
    """Train ten seeds at one lag and evaluate the final policies; the row for lag.jsonl."""
    config = resolve("v-trace", "CartPole-v1", steps=STEPS, seeds=SEEDS, settings={"data": f"lag:{lag}"})
    algorithm, ones = config.build(), lambda target, behaviour: jnp.ones_like(target)
    env = session.make_env(config, 0)
    ratio = importance_ratio if corrected else ones
    with mock.patch("actrix.algorithms.estimates.importance_ratio", ratio):
        runner = CompiledRunner(algorithm, env, config.n_envs, SEEDS)
        train(runner, [SeedRun(s) for s in SEEDS], STEPS)
    test = make_vec_env("CartPole-v1", 10, backend="gymnasium")
    returns = {
        s: evaluate(Policy(algorithm, learner.acting), test, EPISODES, seed=s + 10**6)[0]
        for s, learner in zip(SEEDS, runner.learners, strict=True)
    }
    summary = summarize(returns)
    return {
        "lag": lag, "corrected": corrected, "iqm": round(float(summary.iqm), 1), "low": round(float(summary.low), 1),
        "high": round(float(summary.high), 1), "per_seed": [round(float(np.mean(returns[s])), 1) for s in SEEDS],
        "seeds": list(SEEDS), "steps": STEPS, "episodes_per_seed": EPISODES, "settings": config.settings,
        "command": "python benchmarks/lag.py", "date": datetime.date.today().isoformat(),
        "versions": manifest.package_versions(), "machine": machine(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lags", nargs="+", type=int, default=[0, 8, 16, 32])
    lags = parser.parse_args().lags
    record.read(RESULTS, "lag")  # a broken record is found before the work
    for lag in lags:
        for corrected in (True, False):
            row = run(lag, corrected)
            record.append(RESULTS, row)
            who = "V-trace" if corrected else "uncorrected"
            print(
                f"lag {lag:3} {who:12} {row['iqm']:6} [{row['low']}, {row['high']}] {row['per_seed']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
