"""Speed as ratios: both sides of a pair run alternately, each time in a process of its own.

    python benchmarks/speed.py --only ppo sac      # every row of PPO and of SAC
    python benchmarks/speed.py --only ppo-cartpole-compiled --pairs 5
    python benchmarks/speed.py --against v0.1.0    # our sides, and the same of that commit (README.md)
    python benchmarks/speed.py --list

Prints `name ratio` lines (median over the pairs) and appends a row per comparison to speed.jsonl. The peers may live
in an environment of their own: ACTRIX_BENCH_PYTHON names its interpreter. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import record
from against import PAIRS, Failed, against
from against import RESULTS as AGAINST
from machine import machine, quiet

HERE = Path(__file__).parent
RESULTS = HERE / "speed.jsonl"
PEER_PYTHON = os.environ.get("ACTRIX_BENCH_PYTHON", sys.executable)
LONGEST = 1800
"""Seconds of one run."""
RUN = datetime.datetime.now().isoformat(timespec="seconds")
"""When this run of the script began: rows of one run share a machine, a commit and an hour."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A function of ours.py, peers.py or bare.py with its arguments."""

    script: str
    function: str
    arguments: dict[str, Any]

    def run(self) -> dict[str, Any]:
        """One timing in a fresh process: {'steps', 'seconds', 'what'}."""
        python = PEER_PYTHON if self.script == "peers.py" else sys.executable
        command = [python, str(HERE / self.script), self.function, json.dumps(self.arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"{self.function}: {error}") from error
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise Failed(f"{self.function}: {said[-1]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`ratio` is our speed over theirs, or with `time_ratio` our time over theirs."""

    name: str
    ours: Side
    theirs: Side
    bar: float
    stretch: float | None = None
    time_ratio: bool = False


def ours(function: str = "ppo", **arguments: Any) -> Side:
    return Side("ours.py", function, arguments)


def peer(function: str, **arguments: Any) -> Side:
    return Side("peers.py", function, arguments)


CARTPOLE = dict(env_id="CartPole-v1", n_envs=8, n_steps=256, batch_size=64, n_epochs=10)
LANDER = dict(env_id="LunarLander-v3", n_envs=16, n_steps=1024, batch_size=64, n_epochs=4, gamma=0.999,
              gae_lambda=0.98, ent_coef=0.01)  # fmt: skip
# MinAtar's network in both, an encoder for the actor and one for the critic, which is how rejax has them.
BREAKOUT = dict(env_id="Breakout-MinAtar", n_envs=64, n_steps=128, batch_size=1024, n_epochs=4)
SEPARATE = dict(policy_kwargs=dict(cnn=True, share_features_extractor=False))
CHEETAH = dict(env_id="HalfCheetah-v5", n_envs=1, n_steps=2048, batch_size=64, n_epochs=10)
# Both libraries' own defaults but for the number of rows: the policy's one step takes a chunk, the critic minibatches.
TRPO_CARTPOLE = dict(env_id="CartPole-v1", n_envs=8, n_steps=256, batch_size=128, n_critic_updates=10,
                     target_kl=0.01, cg_max_steps=15, cg_damping=0.1, gae_lambda=0.95, learning_rate=1e-3)  # fmt: skip

# Targets once a chunk, as PureJaxQL has them; its own sizes of chunks.
PQN = dict(n_envs=32, n_steps=64, batch_size=128, n_epochs=4)
PQN_BREAKOUT = dict(env_id="Breakout-MinAtar", n_envs=128, n_steps=32, batch_size=128, n_epochs=2)
PLAIN_IMAGES = dict(cnn=True, layer_norm=False, net_arch=[])
PQN_OURS = dict(algo="pqn", backend="jax", recompute_advantages=False)
# Default settings of both libraries, which are the same: networks, batch, one update per step.
SAC_CHEETAH = dict(algo="sac", env_id="HalfCheetah-v5", buffer_size=100_000, learning_starts=1000)
TQC_CHEETAH = SAC_CHEETAH | dict(algo="tqc")
# The same widths in all three: 256 for the actor, 1024 for its critics.
CROSSQ_CHEETAH = SAC_CHEETAH | dict(
    algo="crossq", policy_kwargs=dict(net_arch=dict(pi=[256, 256], qf=[1024, 1024]))
)
TD3_PENDULUM = dict(algo="td3", env_id="Pendulum-v1", buffer_size=100_000, learning_starts=1000)
DQN_CARTPOLE = dict(algo="dqn", env_id="CartPole-v1", buffer_size=100_000, learning_starts=1000, train_freq=1)


# PyTorch on every core, which is its best for networks of this size (one thread: 0.75 to 0.8 of it here); for the small
# ones of the other rows more than one only wait for each other.
LARGE = dict(torch_threads=os.cpu_count())
# The same table, ε and learning rate; the acting table is refreshed every 64 steps on both sides.
TAXI = dict(train_freq=64, learning_rate=0.1, epsilon=0.1)


def replay(rows: int) -> Side:
    """Adding, sampling and updating with a buffer of so many rows."""
    return ours("off_policy", **{**DQN_CARTPOLE, "buffer_size": rows}, total_steps=10_000)


def learned(name: str, function: str, arguments: dict[str, Any]) -> Comparison:
    """`learn` as a user calls it, over the loop that the other rows time."""
    return Comparison(f"learn-{name}/loop", ours("learn", **arguments), ours(function, **arguments), 0.9)


LOOPS = {
    "ppo-cartpole-compiled": ("ppo", CARTPOLE | dict(backend="jax", total_steps=819_200)),
    "ppo-cartpole-host": ("ppo", CARTPOLE | dict(backend="envpool", total_steps=204_800)),
    "ppo-lander": ("ppo", LANDER | dict(backend="auto", total_steps=327_680)),
    "ppo-lander-behind": ("ppo", LANDER | dict(backend="auto", behind=1, total_steps=327_680)),
    "ppo-cheetah": ("ppo", CHEETAH | dict(backend="auto", total_steps=61_440)),
    "sac-cheetah": ("off_policy", SAC_CHEETAH | dict(backend="gymnasium", total_steps=4500)),
    "td3-pendulum": ("off_policy", TD3_PENDULUM | dict(backend="gymnasium", total_steps=4500)),
    "dqn-cartpole": ("off_policy", DQN_CARTPOLE | dict(backend="gymnasium", total_steps=20_000)),
}

COMPARISONS = [
    Comparison("ppo-cartpole-compiled/sb3", ours(**CARTPOLE, backend="jax", total_steps=819_200),
               peer("sb3_ppo", **CARTPOLE, total_steps=20_480), 20, 30),
    Comparison("ppo-cartpole-compiled/rejax", ours(**CARTPOLE, backend="jax", total_steps=819_200),
               peer("rejax_ppo", **CARTPOLE, total_steps=819_200), 1.4, 1.9),
    Comparison("ppo-cartpole-compiled/purejaxrl", ours(**CARTPOLE, backend="jax", total_steps=409_600),
               peer("purejaxrl_ppo", **CARTPOLE, total_steps=409_600), 1.4),
    Comparison("ppo-cartpole-compiled/bare", ours(**CARTPOLE, backend="jax", total_steps=819_200),
               Side("bare_ppo.py", "ppo", dict(CARTPOLE, total_steps=819_200)), 0.85),
    Comparison("ppo-breakout-compiled/rejax", ours(**BREAKOUT, **SEPARATE, backend="jax", total_steps=24_576),
               peer("rejax_ppo", **BREAKOUT, cnn=True, total_steps=24_576), 1.4),
    Comparison("pqn-cartpole-compiled/purejaxql", ours(env_id="CartPole-v1", **PQN, **PQN_OURS, total_steps=409_600),
               peer("purejaxql_pqn", env_id="CartPole-v1", **PQN, total_steps=409_600), 1),
    Comparison("pqn-breakout-compiled/purejaxql",
               ours(**PQN_BREAKOUT, **PQN_OURS, policy_kwargs=PLAIN_IMAGES, total_steps=49_152),
               peer("purejaxql_pqn", **PQN_BREAKOUT, cnn=True, total_steps=49_152), 1),
    Comparison("ppo-cartpole-host/sb3", ours(**CARTPOLE, backend="auto", total_steps=204_800),
               peer("sb3_ppo", **CARTPOLE, total_steps=20_480), 7, 12),
    Comparison("ppo-lander-best/sb3", ours(**LANDER, backend="auto", total_steps=327_680),
               peer("sb3_ppo", **LANDER, total_steps=32_768), 8, 12),
    Comparison("ppo-lander-gymnasium/sb3", ours(**LANDER, backend="gymnasium", total_steps=163_840),
               peer("sb3_ppo", **LANDER, total_steps=32_768), 4, 6),
    Comparison("ppo-lander-best/ceiling", ours(**LANDER, backend="auto", total_steps=327_680),
               ours("random_actions", env_id="LunarLander-v3", n_envs=16), 0.4, 0.55),
    Comparison("ppo-lander-best/apart", ours(**LANDER, backend="auto", total_steps=163_840),
               ours("host_apart", **LANDER), 0.75),
    Comparison("ppo-lander-behind/sb3", ours(**LANDER, backend="auto", behind=1, total_steps=163_840),
               peer("sb3_ppo", **LANDER, total_steps=32_768), 13, 15),
    Comparison("ppo-lander-behind/apart", ours(**LANDER, backend="auto", behind=1, total_steps=163_840),
               ours("host_apart", **LANDER, behind=1), 0.85),
    Comparison("ppo-cheetah/sb3", ours(**CHEETAH, backend="auto", total_steps=61_440),
               peer("sb3_ppo", **CHEETAH, total_steps=10_240), 5, 6),
    Comparison("ppo-cheetah/apart", ours(**CHEETAH, backend="auto", total_steps=61_440),
               ours("host_apart", **CHEETAH), 0.85),
    Comparison("trpo-cartpole-compiled/sb3-contrib",
               ours(algo="trpo", **TRPO_CARTPOLE, backend="jax", total_steps=819_200),
               peer("sb3_contrib_trpo", **TRPO_CARTPOLE, total_steps=20_480), 5),
    Comparison("trpo-cartpole-host/sb3-contrib",
               ours(algo="trpo", **TRPO_CARTPOLE, backend="auto", total_steps=204_800),
               peer("sb3_contrib_trpo", **TRPO_CARTPOLE, total_steps=20_480), 5),
    Comparison("trpo-cartpole-host/apart", ours(algo="trpo", **TRPO_CARTPOLE, backend="auto", total_steps=204_800),
               ours("host_apart", algo="trpo", **TRPO_CARTPOLE), 0.85),
    Comparison("ppo-two-seeds/one-seed", ours(**CARTPOLE, backend="jax", total_steps=819_200, seeds=2),
               ours(**CARTPOLE, backend="jax", total_steps=819_200), 1.15, 1.05, time_ratio=True),
    Comparison("off-policy-sac-cheetah/sb3", ours("off_policy", **SAC_CHEETAH, total_steps=1500),
               peer("sb3_off_policy", **SAC_CHEETAH, **LARGE, total_steps=500), 2.8, 3.5),
    Comparison("off-policy-sac-cheetah/sbx", ours("off_policy", **SAC_CHEETAH, total_steps=1500),
               peer("sbx_off_policy", **SAC_CHEETAH, total_steps=1500), 1.5, 2.3),
    Comparison("off-policy-tqc-cheetah/sb3-contrib", ours("off_policy", **TQC_CHEETAH, total_steps=1500),
               peer("sb3_contrib_off_policy", **TQC_CHEETAH, **LARGE, total_steps=500), 1),
    Comparison("off-policy-tqc-cheetah/sbx", ours("off_policy", **TQC_CHEETAH, total_steps=1500),
               peer("sbx_off_policy", **TQC_CHEETAH, total_steps=1500), 1),
    Comparison("off-policy-crossq-cheetah/sb3-contrib", ours("off_policy", **CROSSQ_CHEETAH, total_steps=1500),
               peer("sb3_contrib_off_policy", **CROSSQ_CHEETAH, **LARGE, total_steps=500), 1),
    Comparison("off-policy-crossq-cheetah/sbx", ours("off_policy", **CROSSQ_CHEETAH, total_steps=1500),
               peer("sbx_off_policy", **CROSSQ_CHEETAH, total_steps=1500), 1),
    Comparison("off-policy-td3-pendulum/sb3", ours("off_policy", **TD3_PENDULUM, total_steps=1500),
               peer("sb3_off_policy", **TD3_PENDULUM, **LARGE, total_steps=500), 2.8, 5),
    Comparison("off-policy-dqn-cartpole/sb3", ours("off_policy", **DQN_CARTPOLE, total_steps=10_000),
               peer("sb3_off_policy", **DQN_CARTPOLE, total_steps=4000), 6, 10),
    Comparison("off-policy-sac-cheetah/bare", ours("off_policy", **SAC_CHEETAH, total_steps=1500),
               Side("bare.py", "sac", dict(env_id="HalfCheetah-v5", total_steps=1500)), 0.85),
    Comparison("off-policy-td3-pendulum/bare", ours("off_policy", **TD3_PENDULUM, total_steps=1500),
               Side("bare.py", "td3", dict(env_id="Pendulum-v1", total_steps=1500)), 0.85),
    Comparison("off-policy-dqn-cartpole/bare", ours("off_policy", **DQN_CARTPOLE, total_steps=10_000),
               Side("bare.py", "dqn", dict(env_id="CartPole-v1", total_steps=10_000)), 0.85),
    Comparison("off-policy-dqn-cartpole-compiled/sb3",
               ours("off_policy", **DQN_CARTPOLE, backend="jax", total_steps=16_000),
               peer("sb3_off_policy", **DQN_CARTPOLE, total_steps=4000), 6, 10),
    Comparison("tabular-q-taxi-1-env/python-loop", ours("tabular_q", **TAXI, total_steps=1_000_000),
               peer("python_tabular_q", **TAXI, total_steps=100_000), 5, None),
    Comparison("tabular-q-taxi-256-envs/python-loop", ours("tabular_q", **TAXI, n_envs=256, total_steps=20_480_000),
               peer("python_tabular_q", **TAXI, total_steps=100_000), 50, None),
    *(learned(name, *job) for name, job in LOOPS.items()),
    Comparison("off-policy-replay-growth", replay(1_000_000), replay(10_000), 1.3, 1.1, time_ratio=True),
]  # fmt: skip


def compare(c: Comparison, pairs: int) -> dict[str, Any]:
    """Run the two sides alternately; the row for speed.jsonl."""
    rows = []
    for _ in range(pairs):
        b, a = c.theirs.run(), c.ours.run()  # the peer first: it may not be installed
        speeds = a["steps"] / a["seconds"], b["steps"] / b["seconds"]
        ratio = a["seconds"] / b["seconds"] if c.time_ratio else speeds[0] / speeds[1]
        rows.append((ratio, *speeds))
    return _row(c.name, [r[0] for r in rows], c.bar, c.stretch, c.time_ratio,
                ours=a["what"], theirs=b["what"], ours_per_second=median(r[1] for r in rows),
                theirs_per_second=median(r[2] for r in rows))  # fmt: skip


def cold_and_warm(pairs: int) -> dict[str, Any]:
    """Process start to first PPO update: warm compilation cache over cold."""
    ratios, times = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (ours("first_update", cache=cache).run()["seconds"] for _ in range(2))
        ratios.append(warm / cold)
        times.append((warm, cold))
    row = _row("ppo-first-update-warm/cold", ratios, 0.5, 0.4, True)
    return {**row, "warm_seconds": median(t[0] for t in times), "cold_seconds": median(t[1] for t in times)}


def cold(pairs: int) -> dict[str, Any]:
    """Seconds from process start to the first PPO update where nothing was compiled before."""
    seconds = []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as cache:
            seconds.append(ours("first_update", cache=cache).run()["seconds"])
    return _row("ppo-first-update-cold-seconds", seconds, 5.0, None, True)


def memory(pairs: int) -> dict[str, Any]:
    """Peak resident memory of host-mode PPO on LunarLander, in GiB."""
    peak = [ours("memory", **LANDER).run()["what"]["peak_mib"] / 1024 for _ in range(1)]
    return _row("ppo-lander-memory-gib", peak, 1.0, None, True)


@functools.cache
def commit() -> str | None:
    """The checkout's commit, with a + where files differ from it; None where git does not know."""
    said = lambda *words: subprocess.run(
        ["git", "-C", HERE, *words], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        changed = said("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return said("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


SPECIAL = {"ppo-first-update-warm/cold": cold_and_warm, "ppo-first-update-cold-seconds": cold,
           "ppo-lander-memory-gib": memory}  # fmt: skip


def _row(
    name: str, ratios: list[float], bar: float, stretch: float | None, lower: bool, **more: Any
) -> dict[str, Any]:
    ratio = median(ratios)
    return {
        "name": name, "ratio": round(ratio, 3), "ratios": [round(r, 3) for r in ratios], "bar": bar, "stretch": stretch,
        "met": ratio <= bar if lower else ratio >= bar, "lower_is_better": lower, **more,
        "command": f"python benchmarks/speed.py --only {name}", "date": datetime.date.today().isoformat(),
        "machine": machine(), "python": platform.python_version(), "run": RUN, "commit": commit(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", type=record.word, default=[""], help="names, or how they or a part begin"
    )
    parser.add_argument("--pairs", type=record.count, help=f"default 3, with --against {PAIRS}")
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        type=record.word,
        help="compare with our own past instead of with others",
    )
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    jobs = {c.name.partition("/")[0]: (c.ours.function, c.ours.arguments) for c in COMPARISONS}
    names = list(jobs) if args.against else [c.name for c in COMPARISONS] + list(SPECIAL)
    if args.list:
        print("\n".join(names))
        return
    chosen = record.chosen(args.only, names, "speed.py --list")
    record.read(AGAINST if args.against else RESULTS, "name")  # a broken record is found before the work
    with quiet():
        if args.against:
            fine = against(args.against, {name: jobs[name] for name in chosen}, args.pairs or PAIRS)
        else:
            fine = measure(chosen, args.pairs or 3)
    sys.exit(0 if fine else 1)


def measure(chosen: list[str], pairs: int) -> bool:
    """Measure these rows, append them to the record and print them; whether all could be."""
    fine = True
    for name in chosen:
        special = SPECIAL.get(name)
        comparison = next((c for c in COMPARISONS if c.name == name), None)
        try:
            row = special(pairs) if special else compare(comparison, pairs)  # type: ignore[arg-type]
        except Failed as error:  # a peer that is not installed says nothing of the other rows
            print(f"{name:32} not measured: {error}", flush=True)
            fine = False
            continue
        record.append(RESULTS, row)
        sign = "≤" if row["lower_is_better"] else "≥"
        print(f"{name:32} {row['ratio']:7.2f}  (bar {sign} {row['bar']}, pairs {row['ratios']})", flush=True)
    return fine


if __name__ == "__main__":
    main()
