"""Write the measured tables into docs/benchmarks.md, docs/tuning.md and README.md from the records beside this file.

python benchmarks/tables.py            # rewrite, and draw the pictures that the records alone make
python benchmarks/tables.py --curves   # also those of single jobs, docs/results/*.png, from their runs' folders
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record
from jobs import JOBS

from actrix.zoo import load as entries

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RUNS = HERE.parent / "runs" / "returns"

APART = "its environments, acting and learning measured apart, added"
SPEED_TITLES = {
    "ppo-cartpole-compiled/sb3": ("PPO CartPole, 8×256, 10 epochs, batch 64, compiled", "Stable-Baselines3"),
    "ppo-cartpole-compiled/rejax": ("the same", "rejax"),
    "ppo-cartpole-compiled/purejaxrl": ("the same", "PureJaxRL"),
    "ppo-cartpole-compiled/bare": ("the same", "its arithmetic alone, one bare program (`bare_ppo.py`)"),
    "ppo-breakout-compiled/rejax": (
        "PPO MinAtar Breakout, 64×128, 4 epochs, batch 1024, convolutions, compiled",
        "rejax",
    ),
    "pqn-cartpole-compiled/purejaxql": ("PQN CartPole, 32×64, 4 epochs, batch 128, compiled", "PureJaxQL"),
    "pqn-breakout-compiled/purejaxql": (
        "PQN MinAtar Breakout, 128×32, 2 epochs, batch 128, convolutions, compiled",
        "PureJaxQL",
    ),
    "ppo-cartpole-host/sb3": ("PPO CartPole, 8×256, host loop (EnvPool)", "Stable-Baselines3"),
    "ppo-lander-best/sb3": ("PPO LunarLander, 16×1024, 4 epochs, host loop (EnvPool)", "Stable-Baselines3"),
    "ppo-lander-gymnasium/sb3": ("the same, Gymnasium's synchronous environments", "Stable-Baselines3"),
    "ppo-lander-best/ceiling": (
        "PPO LunarLander, host loop (EnvPool)",
        "its environments with random actions",
    ),
    "ppo-lander-best/apart": ("the same", APART),
    "ppo-lander-behind/sb3": (
        "PPO LunarLander, host loop (EnvPool), `behind=1`",
        "Stable-Baselines3",
    ),
    "ppo-lander-behind/apart": (
        "the same",
        "its learning beside its environments and acting: the longest, or all processor time over the cores",
    ),
    "ppo-cheetah/sb3": ("PPO HalfCheetah, 1×2048, 10 epochs, host loop", "Stable-Baselines3"),
    "ppo-cheetah/apart": ("the same", APART),
    "off-policy-sac-cheetah/sb3": ("SAC HalfCheetah, one update per step, host loop", "Stable-Baselines3"),
    "off-policy-sac-cheetah/sbx": ("the same", "SBX"),
    "off-policy-sac-cheetah/bare": ("the same", "its arithmetic and its environment alone (`bare.py`)"),
    "off-policy-tqc-cheetah/sb3-contrib": ("TQC HalfCheetah, one update per step, host loop", "sb3-contrib"),
    "off-policy-tqc-cheetah/sbx": ("the same", "SBX"),
    "off-policy-crossq-cheetah/sb3-contrib": (
        "CrossQ HalfCheetah, critics of 1024, one update per step, host loop",
        "sb3-contrib",
    ),
    "off-policy-crossq-cheetah/sbx": ("the same", "SBX"),
    "off-policy-td3-pendulum/sb3": ("TD3 Pendulum, one update per step, host loop", "Stable-Baselines3"),
    "off-policy-td3-pendulum/bare": ("the same", "its arithmetic and its environment alone"),
    "off-policy-dqn-cartpole/sb3": ("DQN CartPole, one update per step, host loop", "Stable-Baselines3"),
    "off-policy-dqn-cartpole/bare": ("the same", "its arithmetic and its environment alone"),
    "off-policy-dqn-cartpole-compiled/sb3": (
        "the same, compiled loop (what `auto` takes for CartPole)",
        "Stable-Baselines3",
    ),
    "off-policy-replay-growth": (
        "DQN with 1,000,000 rows of memory: time of a step with its update",
        "10,000 rows",
    ),
    "trpo-cartpole-compiled/sb3-contrib": ("TRPO CartPole, equal settings, compiled", "sb3-contrib"),
    "trpo-cartpole-host/sb3-contrib": ("the same, host loop (EnvPool)", "sb3-contrib"),
    "trpo-cartpole-host/apart": ("the same", APART),
    "tabular-q-taxi-1-env/python-loop": (
        "tabular Q-learning on Taxi, compiled, one environment, learning every 64 steps",
        "the same updates in a Python loop",
    ),
    "tabular-q-taxi-256-envs/python-loop": (
        "the same with 256 environments",
        "the same loop, one environment",
    ),
    "learn-ppo-cartpole-compiled/loop": (
        "PPO CartPole, compiled, by `learn`",
        "its loop, which the rows above time",
    ),
    "learn-ppo-cartpole-host/loop": ("PPO CartPole, host loop (EnvPool), by `learn`", "the same"),
    "learn-ppo-lander/loop": ("PPO LunarLander, host loop (EnvPool), by `learn`", "the same"),
    "learn-ppo-lander-behind/loop": ("the same with `behind=1`", "the same"),
    "learn-ppo-cheetah/loop": ("PPO HalfCheetah, by `learn`", "the same"),
    "learn-sac-cheetah/loop": ("SAC HalfCheetah, by `learn`", "the same"),
    "learn-td3-pendulum/loop": ("TD3 Pendulum, by `learn`", "the same"),
    "learn-dqn-cartpole/loop": ("DQN CartPole, host loop, by `learn`", "the same"),
    "ppo-two-seeds/one-seed": ("two seeds at once, compiled: time", "one seed"),
    "ppo-first-update-warm/cold": (
        "process start to first update, warm compilation cache: time",
        "cold cache",
    ),
    "ppo-first-update-cold-seconds": ("process start to first PPO update, nothing compiled before (s)", "—"),
    "ppo-lander-memory-gib": ("peak resident memory of PPO LunarLander, host loop (GiB)", "—"),
}

PARTS, MIXED, LONG, SB3 = "-parts", "-mixed", ("-1M", "-100k"), "sb3/"
"""Parts of the names of jobs that have tables of their own."""
BARS = {job.name: job.bar for job in JOBS}
"""Of today's jobs; a record may have rows of others, which no table shows."""


MADE = ("date", "machine")
SPEED = ("name", "ratio", "ratios", "bar", "met", "lower_is_better", *MADE)
PAST = ("name", "that", "ratio", "interval", "ratios", "memory_ratio", "compile_ratio", *MADE)
RETURN = ("job", "algorithm", "env", "steps", "seeds", "per_seed", "iqm", "low", "high", "mean", *MADE)
TUNED = ("name", "env_id", "steps", "chosen", "result", "steps_to_zoo", *MADE)
"""What a row must have, its name first."""
Rows = dict[str, dict[str, Any]]


def newest(path: Path, keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The last row of each name."""
    return {row[keys[0]]: row for row in record.read(path, *keys)}


def speed_table(rows: dict[str, dict[str, Any]], named: bool = False) -> str:
    """Markdown of the speed ratios, in the order above; a ceiling is what a row would be where its parts alone are.

    Parts of another run are told by their date, those of another machine are none. `named`: a last column has what
    `--only` takes.
    """
    lines = ["| job | against | ratio | ceiling | bar | pairs | measured |", "|---|---|---|---|---|---|---|"]
    lines = [line + end * named for line, end in zip(lines, (" `--only` |", "---|"), strict=True)]
    for name, (job, against) in SPEED_TITLES.items():
        if name in rows:
            r = rows[name]
            unit = "" if against == "—" else "×"
            parts = next(
                (rows[p] for p in _parts(name) if p in rows and rows[p]["machine"] == r["machine"]), None
            )
            most = None if parts is None else r["ratio"] / parts["ratio"]
            ceiling = "" if most is None else f"{most:.2f}×"
            if parts is not None and (
                parts["date"] != r["date"] or parts.get("run", 0) != r.get("run", 1)
            ):  # old rows have none
                ceiling += f" (of {parts['date']})"
            least = most if name.startswith(LESS) else None
            cells = (
                job,
                against,
                f"**{r['ratio']:.2f}{unit}**",
                ceiling,
                _bar(r, least),
                _pairs(r),
                r["date"],
            )
            lines.append(f"| {' | '.join(cells)} |" + f" `{name}` |" * named)
    return "\n".join(lines)


REACHABLE = 0.85
"""Of its ceiling: what a row is asked for where that is less than its bar."""
LESS = ("off-policy-", "trpo-cartpole-host/", "ppo-cheetah/")
"""The rows of which that is so: replayed updates, and host loops of cheap environments. Others keep their bar."""


def _bar(r: dict[str, Any], ceiling: float | None) -> str:
    """What a row was to reach, and whether it has not."""
    bar = f"{'≤' if r['lower_is_better'] else '≥'} {r['bar']:g}"
    if ceiling is None or REACHABLE * ceiling >= r["bar"]:
        return bar + ("" if r["met"] else " (missed)")
    limit = REACHABLE * ceiling
    return f"{bar}, or {limit:.2f}: {REACHABLE:g} of the ceiling" + (
        "" if r["ratio"] >= limit else " (missed)"
    )


def _pairs(r: dict[str, Any]) -> str:
    return ", ".join(f"{x:.2f}" for x in r["ratios"])


def _parts(name: str) -> list[str]:
    """The rows of the same job beside its parts measured alone; of a row that is one, none."""
    job, _, against = name.partition("/")
    return [] if against in ("bare", "apart", "ceiling") else [f"{job}/bare", f"{job}/apart"]


def against_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of this library against its past."""
    lines = ["| row | against | speed | memory | compiling | pairs |", "|---|---|---|---|---|---|"]
    for name, r in rows.items():
        interval = "" if r["interval"] is None else " [{:.2f}, {:.2f}]".format(*r["interval"])  # of one pair
        lines.append(
            f"| `{name}` | {r['that']} | **{r['ratio']:.2f}×**{interval} | {r['memory_ratio']:.2f}× "
            f"| {r['compile_ratio']:.2f}× | {_pairs(r)} |"
        )
    return "\n".join(lines)


def returns_table(rows: dict[str, dict[str, Any]], composed: bool) -> str:
    """Markdown of the learning results."""
    lines = [
        "| algorithm | environment | steps | return | bar | per seed | `--only` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in plain(rows, composed).items():
        what = f"`{r['critic']}` × `{r['actor']}`" if composed else r["algorithm"]
        env = r["env"] + (" without velocities, LSTM" if "positions" in name else "")
        env += f"@{r['zoo']}" if r.get("zoo", 1) > 1 else ""  # as the zoo names its versions
        if r["iqm"] is None:
            figure, value = ", ".join(f"{x:.1f}" for x in r["per_seed"]), r["mean"]
        else:
            figure, value = f"**{r['iqm']:.1f}** [{r['low']:.1f}, {r['high']:.1f}]", r["iqm"]
        each = ", ".join(f"{x:.1f}" for x in r["per_seed"])
        lines.append(
            f"| {what} | {env} | {r['steps']:,} | {figure} | {bar_of(name, value)} | {each} | `{name}` |"
        )
    return "\n".join(lines)


def plain(rows: Rows, composed: bool) -> Rows:
    """Those of today's jobs that have no table of their own."""
    special = lambda name: any(tag in name for tag in (PARTS, MIXED, SB3, *LONG))
    return {
        name: r
        for name, r in rows.items()
        if not special(name) and name in BARS and (r["algorithm"] == "actor-critic") == composed
    }


def only(rows: Rows, part: str) -> Rows:
    """Those with this part in their name."""
    return {name: r for name, r in rows.items() if part in name}


def bar_of(name: str, value: float) -> str:
    """What a job's figure was to reach, and whether it has not."""
    bar = BARS.get(name)
    return "–" if bar is None else f"{bar:g}" + ("" if value >= bar else " (missed)")


def figure_of(r: dict[str, Any] | None) -> str:
    """The interquartile mean with its interval; of few seeds the mean."""
    if r is None:
        return "–"
    return (
        f"{r['mean']:.1f} (mean)"
        if r["iqm"] is None
        else f"**{r['iqm']:.1f}** [{r['low']:.1f}, {r['high']:.1f}]"
    )


def long_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: the jobs with their steps in the name, by environment."""
    lines = [
        "| environment | algorithm | steps | return | bar | per seed | processor hours | `--only` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, r in sorted((x for x in rows.items() if is_long(x[0])), key=lambda x: x[1]["env"]):
        each = ", ".join(f"{x:.1f}" for x in r["per_seed"])
        hours = r.get("processor_hours")  # None: tries were killed
        lines.append(
            f"| {r['env']} | {r['algorithm']} | {r['steps']:,} | {figure_of(r)} "
            f"| {bar_of(name, r['mean'] if r['iqm'] is None else r['iqm'])} | {each} "
            f"| {'–' if hours is None else f'{hours:.2f}'} "
            f"| `{name}` |"
        )
    return "\n".join(lines)


def is_long(name: str) -> bool:
    """Whether this is a job of ours with its steps in the name."""
    return name.endswith(LONG) and not name.startswith(SB3)


def sb3_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: Stable-Baselines3 and ours, by the same settings and protocol."""
    lines = [
        "| job | steps | actrix | Stable-Baselines3 | its seeds | ours ≥ its lower end | `--only` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        if name.startswith(SB3):
            job, each = name.removeprefix(SB3), ", ".join(f"{x:.1f}" for x in r["per_seed"])
            what, ours = f"{r['algorithm']} on {r['env']}", rows.get(job)
            fine = "–" if ours is None else "yes" if ours["iqm"] >= r["low"] else "no"
            lines.append(
                f"| {what} | {r['steps']:,} | {figure_of(ours)} | {figure_of(r)} | {each} | {fine} | `{job}` |"
            )
    return "\n".join(lines)


def long_curves(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pictures: 'environment-steps' of `long_table` → {algorithm: its seeds' curves, as they are in the record}."""
    groups: dict[str, dict[str, Any]] = {}
    for name, r in sorted(x for x in rows.items() if is_long(x[0])):
        group = groups.setdefault(name.removeprefix(f"{r['algorithm']}-"), {})
        group[r["algorithm"]] = r["curves"]
        if (peer := rows.get(SB3 + name)) is not None:
            group[f"{r['algorithm']}, SB3"] = peer["curves"]
    return dict(sorted(groups.items()))


def shown(groups: dict[str, dict[str, Any]]) -> str:
    """Markdown: those pictures."""
    return "\n\n".join(
        f"![{name}: returns in training of {', '.join(who)}](results/{name}.png)"
        for name, who in groups.items()
    )


def parts_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: each part of Rainbow alone on DQN, and Rainbow without it."""

    def cell(ending: str) -> str:
        r = rows.get(f"rainbow-CartPole-v1{PARTS}{ending}")
        return "–" if r is None else f"**{r['iqm']:.0f}** [{r['low']:.0f}, {r['high']:.0f}]"

    lines = ["| part | DQN with it alone | Rainbow without it |", "|---|---|---|"]
    lines.append(f"| (plain DQN, whole Rainbow) | {cell('=none')} | {cell('=all')} |")
    for part in ("double", "dueling", "per", "n-step", "c51", "noisy"):
        lines.append(f"| {part} | {cell(f'+{part}')} | {cell(f'-no-{part}')} |")
    return "\n".join(lines)


def minatar_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: DQN and Rainbow on MinAtar Breakout, in training and without exploration."""
    lines = [
        "| algorithm | last 100 training episodes | per seed | without exploration, per seed |",
        "|---|---|---|---|",
    ]
    each = lambda values: ", ".join(f"{x:.1f}" for x in values)
    for name in ("dqn", "rainbow"):
        r = rows[f"{name}-Breakout-MinAtar"]
        x = r["train_per_seed"]
        figure = f"**{statistics.mean(x):.1f}** ± {statistics.stdev(x):.1f}"
        lines.append(f"| {name} | {figure} | {each(x)} | {each(r['per_seed'])} |")
    shown = {name: rows[f"{name}-Breakout-MinAtar"] for name in ("dqn", "rainbow")}
    return "\n".join(lines) + f"\n\n{provenance(shown)}"


def offline_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: algorithms on the fixed mixed data set."""
    lines = ["| algorithm | updates | return | per seed |", "|---|---|---|---|"]
    for name, r in rows.items():
        if name.endswith(MIXED):
            each = ", ".join(f"{x:.1f}" for x in r["per_seed"])
            lines.append(
                f"| {r['algorithm']} | {r['steps']:,} | **{r['iqm']:.1f}** [{r['low']:.1f}, {r['high']:.1f}] | {each} |"
            )
    return "\n".join(lines)


def lag_table(path: Path) -> str:
    """Markdown: V-trace and the uncorrected learner by lag."""
    rows = record.read(path, "lag", "corrected", "iqm", "low", "high")
    last = {(r["lag"], r["corrected"]): r for r in rows}
    cell = lambda r: "–" if r is None else f"**{r['iqm']:.1f}** [{r['low']:.1f}, {r['high']:.1f}]"
    lines = ["| lag (updates) | V-trace | uncorrected |", "|---|---|---|"]
    for lag in sorted({lag for lag, _ in last}):
        lines.append(f"| {lag} | {cell(last.get((lag, True)))} | {cell(last.get((lag, False)))} |")
    return "\n".join(lines) + f"\n\n{provenance(last)}"


def tuned_table(rows: Rows) -> str:
    """Markdown: what tuning chose, beside the zoo's setting and the default one, on seeds that chose nothing."""
    lines = [
        "| environment | steps | chosen | zoo | default | steps to the zoo's return: chosen, zoo | enters |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for r in rows.values():
        each, sooner = r["result"]["settings"], r["steps_to_zoo"]
        chosen, zoo, default = (each[who] for who in (r["chosen"], "zoo", "default"))
        cells = [f"{x['iqm']:,.1f} [{x['low']:,.1f}, {x['high']:,.1f}]" for x in (chosen, zoo, default)]
        if chosen["low"] > zoo["high"]:
            figure, _, interval = cells[0].partition(" ")
            cells[0] = f"**{figure}** {interval}"
        reached = ["never" if sooner[who] is None else f"{sooner[who]:,}" for who in ("chosen", "zoo")]
        enters = "`--zoo 2`" if f"{r['env_id']}@2" in entries(r["algorithm"]) else "no"
        lines.append(
            f"| {r['env_id']} | {r['steps']:,} | {' | '.join(cells)} | {', '.join(reached)} | {enters} |"
        )
    return "\n".join(lines)


def tuned_picture(rows: Rows, path: Path) -> None:
    """A panel for each environment: returns in training by steps, and what the final policies come to."""
    import matplotlib.pyplot as plt

    from actrix.show.log import human
    from actrix.show.plot import GREY, PALETTE

    drawn = [r for r in rows.values() if "curves" in r]
    height = -(-len(drawn) // 2)
    figure, grid = plt.subplots(height, 2, figsize=(9, 2.6 * height), layout="constrained")
    for axes, r in zip(grid.flat, drawn, strict=False):
        last = max(x["steps"][-1] for x in r["curves"].values())
        looks = (("chosen", PALETTE[0], 1.03), ("zoo", PALETTE[1], 1.05), ("default", GREY, 1.07))
        for label, color, at in looks:
            who = r["chosen"] if label == "chosen" else label
            curve, end = r["curves"][who], r["result"]["settings"][who]
            axes.plot(curve["steps"], curve["returns"], color=color, label=label)
            ends = [[max(end["iqm"] - end["low"], 0)], [max(end["high"] - end["iqm"], 0)]]  # or −1e-15
            axes.errorbar(last * at, end["iqm"], ends, color=color, marker="o", markersize=4, capsize=2)
        axes.set_title(r["env_id"], loc="left", weight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda x, _: human(x))
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    figure.supxlabel("steps; right: the final policies, interquartile mean and 95% interval", fontsize=10)
    figure.supylabel("return in training, interquartile mean of the seeds", fontsize=10)
    grid.flat[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def provenance(rows: Mapping[Any, dict[str, Any]]) -> str:
    """When, where and with what these rows were measured: a sentence for each machine, which other days' rows share."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows.values():
        groups.setdefault(row["machine"], []).append(row)
    lines = []
    for where, measured in groups.items():
        dates = sorted({r["date"] for r in measured})
        versions: dict[str, dict[str, None]] = {}
        for r in measured:
            for side in (r, *(r.get(who) or {} for who in ("ours", "what", "theirs"))):
                for package, version in (side.get("versions") or {}).items():
                    versions.setdefault(package, {})[version] = None
        listed = ", ".join(f"{package} {' and '.join(each)}" for package, each in versions.items())
        whose = "" if len(groups) == 1 else f" ({len(measured)} of {len(rows)} rows)"
        lines.append(
            f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {where}{whose}, with {listed}."
        )
    return "\n".join(lines)


def replace(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = path.read_text()
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(content), f"{path} has no {begin}"
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", content))


def curves(rows: dict[str, dict[str, Any]]) -> None:
    """The pictures of single jobs that pages show: a job's seeds in training."""
    from actrix.show.plot import plot_run

    pages = "".join(path.read_text("utf-8") for path in DOCS.rglob("*.md"))
    for name, row in rows.items():
        folder = RUNS / name.replace(":", "_").replace("+", "-").replace("/", "-")
        drawn = name in BARS and not name.endswith(LONG) and f"results/{name}.png" in pages
        if drawn and (folder / "config.json").exists():
            seeds = [folder] if len(row["seeds"]) == 1 else [folder / f"seed-{s}" for s in row["seeds"]]
            plot_run(seeds, DOCS / "results" / f"{name}.png")


HOME = {
    "ppo-cartpole-compiled/sb3": "PPO CartPole, compiled",
    "off-policy-dqn-cartpole-compiled/sb3": "DQN CartPole, compiled",
    "ppo-cartpole-host/sb3": "PPO CartPole, EnvPool",
    "ppo-lander-best/sb3": "PPO LunarLander, EnvPool",
    "off-policy-dqn-cartpole/sb3": "DQN CartPole",
    "ppo-cheetah/sb3": "PPO HalfCheetah",
    "off-policy-sac-cheetah/sb3": "SAC HalfCheetah",
    "off-policy-td3-pendulum/sb3": "TD3 Pendulum",
}
"""The rows of the home page's picture."""


def speed_picture(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Median ratio of speeds to Stable-Baselines3's with the range of its pairs, the fast and the slow alike."""
    import matplotlib.pyplot as plt

    known = {title: rows[name] for name, title in HOME.items() if name in rows}
    bars = dict(sorted(known.items(), key=lambda x: -x[1]["ratio"]))
    dates = sorted({row["date"] for row in bars.values()})
    when, where = " to ".join(dict.fromkeys((dates[0], dates[-1]))), {row["machine"] for row in bars.values()}
    ratios = [row["ratio"] for row in bars.values()]
    ends = [[r["ratio"] - min(r["ratios"]), max(r["ratios"]) - r["ratio"]] for r in bars.values()]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.barh(list(bars), ratios, xerr=list(zip(*ends, strict=True)), color="#0072b2", ecolor="#666666")
    for i, (ratio, (_, above)) in enumerate(zip(ratios, ends, strict=True)):
        axes.text(ratio + above + 0.4, i, f"{ratio:.1f}×", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xlabel="steps per second, times Stable-Baselines3's (line: equal)", xlim=(0, 1.3 * max(ratios)))
    axes.set_title("Speed on two cores: median and range of the pairs", loc="left", weight="bold")
    made_by = "\n".join([*sorted(where), when])
    axes.text(1, 0.02, made_by, transform=axes.transAxes, ha="right", va="bottom", color="#666666")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Description": json.dumps(ratios)})  # a test compares them
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--curves", action="store_true")
    args = parser.parse_args()
    speed, results = newest(HERE / "speed.jsonl", SPEED), newest(HERE / "results.jsonl", RETURN)
    past, tuned = newest(HERE / "against.jsonl", PAST), newest(HERE / "tuning.jsonl", TUNED)
    long = long_curves(results)
    page, tuning = made(speed, past, results, long), tuned_table(tuned)  # all are made before any is written
    for name, text in page.items():
        replace(DOCS / "benchmarks.md", name, text)
    replace(DOCS / "tuning.md", "tuned", tuning)
    replace(HERE.parent / "README.md", "speed", readme_table(speed))
    pictures(speed, long)
    tuned_picture(tuned, DOCS / "results" / "tune-eight.png")
    if args.curves:
        curves(results)


LIBRARIES = ("Stable-Baselines3", "sb3-contrib", "SBX", "rejax", "PureJaxRL", "PureJaxQL")


def readme_table(speed: Rows) -> str:
    """The speeds beside other libraries, as the README has them."""
    told = {
        name: speed[name] for name, (_, other) in SPEED_TITLES.items() if other in LIBRARIES and name in speed
    }
    lines = ["| job | against | times as fast | pairs |", "|---|---|--:|---|"]
    for name, r in told.items():
        lines.append(f"| {' | '.join(SPEED_TITLES[name])} | **{r['ratio']:.2f}** | {_pairs(r)} |")
    return "\n".join(lines) + f"\n\n{provenance(told)}"


def made(speed: Rows, past: Rows, results: Rows, long: dict[str, Any]) -> dict[str, str]:
    """What stands between the page's markers: name → Markdown."""
    lasting = {name: r for name, r in results.items() if is_long(name)}
    return {
        "speed": f"{speed_table(speed, named=True)}\n\n{provenance(speed)}",
        "against": f"{against_table(past)}\n\n{provenance(past)}",
        "returns": f"{returns_table(results, False)}\n\n{provenance(plain(results, False))}",
        "long": f"{long_table(results)}\n\n{provenance(lasting)}\n\n{shown(long)}",
        "sb3": f"{sb3_table(results)}\n\n{provenance(only(results, SB3))}",
        "rainbow-parts": f"{parts_table(results)}\n\n{provenance(only(results, PARTS))}",
        "minatar": minatar_table(results),
        "offline": f"{offline_table(results)}\n\n{provenance(only(results, MIXED))}",
        "lag": lag_table(HERE / "lag.jsonl"),
        "compositions": f"{returns_table(results, True)}\n\n{provenance(plain(results, True))}",
    }


def pictures(speed: Rows, long: dict[str, Any]) -> None:
    """Draw what the records alone make."""
    from actrix.show.plot import plot_curves

    label = "return, mean of the last 100 episodes"
    for name, each in long.items():
        plot_curves(each, DOCS / "results" / f"{name}.png", name.rpartition("-")[0], label)
    speed_picture(speed, DOCS / "pictures" / "speed.png")


if __name__ == "__main__":
    main()
