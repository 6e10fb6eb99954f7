"""`actrix report`: a study of one or several runs as one self-contained page."""

from __future__ import annotations

import dataclasses
import json
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrix.algorithms import presets
from actrix.algorithms.settings import differing
from actrix.core.words import write_value
from actrix.envs.agents.roles import take_role
from actrix.files import atomic
from actrix.files.manifest import MANIFEST
from actrix.runs.config import RunConfig, RunError, resolve
from actrix.runs.folder import EVALUATION, evaluation, load_config, seed_folders
from actrix.runs.roles import load_plan
from actrix.show import page
from actrix.show.metrics import read_metrics
from actrix.show.plot import plot_compare, plot_profiles, plot_run
from actrix.show.stats import Summary, amount, summarize

VIDEO_LIMIT = 30_000_000
"""Bytes of a video that is put into the page; a larger one is named."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One run of a report."""

    folder: Path
    label: str
    config: RunConfig
    seeds: tuple[tuple[Path, int], ...]

    @property
    def returns(self) -> dict[int, np.ndarray]:
        """Seed → returns of its final evaluation's episodes; seeds without one are missing."""
        done = {seed: path for path, seed in self.seeds if (path / EVALUATION).is_file()}
        return {seed: evaluation(path)[1] for seed, path in done.items()}

    @property
    def summary(self) -> Summary | None:
        """Of these; None without any."""
        return summarize(self.returns) if self.returns else None


def report(folders: Sequence[Path], out: Path) -> Path:
    """Write `out/index.html`: settings, curves, table, profiles, videos, versions and the commands of these runs.

    Raises RunError for a folder that is no run, runs of several environments, and a page that is there already and
    that no report wrote.
    """
    studies = _studies(folders)
    path = out / "index.html"
    if path.exists() and page.GENERATOR not in path.read_text("utf-8", errors="replace")[:400]:
        raise RunError(f"{path} exists and is no report: choose another --out.")
    env_id = studies[0].config.env_id
    names = list(dict.fromkeys(study.label for study in studies))
    title = f"{', '.join(names)} on {env_id}"
    parts = [
        _summary(studies),
        _pictures(studies),
        _settings(studies),
        _videos(studies),
        _origin(studies),
        _commands(studies),
    ]
    atomic.write_bytes(path, page.page(title, parts).encode())
    return path


def _studies(folders: Sequence[Path]) -> list[Study]:
    configs = [load_config(folder) for folder in folders]
    others = {_environment(config): folder for folder, config in zip(folders, configs, strict=True)}
    if len(others) > 1:
        told = ", ".join(f"{folder} is of {environment}" for environment, folder in others.items())
        raise RunError(f"these runs do not compare: {told}. Make one report for each environment.")
    titles = [config.algorithm for config in configs]
    labels = [t if titles.count(t) == 1 else f"{t} ({f.name})" for t, f in zip(titles, folders, strict=True)]
    return [
        Study(folder, label, config, tuple(seed_folders(folder, config)))
        for folder, label, config in zip(folders, labels, configs, strict=True)
    ]


def _environment(config: RunConfig) -> str:
    """What returns of runs must share to be compared: the id and its arguments."""
    given = [f"{name}={value!r}" for name, value in sorted((config.env_kwargs or {}).items())]
    return f"{config.env_id} with {', '.join(given)}" if given else config.env_id


# ------------------------------------------------------------------ parts


def _summary(studies: Sequence[Study]) -> str:
    head = [
        "run",
        "seeds",
        "steps",
        "return",
        "95% interval",
        "worst seed",
        "best seed",
        "hours of all seeds",
    ]
    rows = [_row(study) for study in studies]
    seeds = [
        [s.label, seed, f"{x.mean():.1f}", f"{x.std():.1f}", len(x)]
        for s in studies
        for seed, x in s.returns.items()
    ]
    each = page.table(["run", "seed", "mean return", "std of episodes", "episodes"], seeds, (1, 2, 3, 4))
    note = (
        "Return of the final policy on fresh episodes, undiscounted. From five seeds on the interquartile mean with a "
        "bootstrap interval (Agarwal et al. 2021); below that the mean ± the deviation between seeds."
    )
    return f'<h2>Result</h2>\n<p class="note">{note}</p>\n{page.table(head, rows, range(1, 8))}\n<h3>Seeds</h3>\n{each}'


def _row(study: Study) -> list[Any]:
    steps, summary = f"{study.config.n_timesteps:,}", study.summary
    hours = f"{sum(_seconds(path) for path, _ in study.seeds) / 3600:.2f}"
    if summary is None:
        return [study.label, len(study.seeds), steps, "not evaluated yet", "", "", "", hours]
    if summary.iqm is not None:
        middle, interval = f"{summary.iqm:.1f}", f"{summary.low:.1f} to {summary.high:.1f}"
    else:
        middle, interval = (
            f"{summary.mean:.1f}" + (f" ± {summary.std:.1f}" if summary.n > 1 else ""),
            "too few seeds",
        )
    ends = f"{min(summary.values):.1f}", f"{max(summary.values):.1f}"
    return [study.label, summary.n, steps, middle, interval, *ends, hours]


def _seconds(path: Path) -> float:
    try:
        elapsed = read_metrics(path).get("time/time_elapsed", np.empty(0))
    except FileNotFoundError:
        return 0.0
    known = elapsed[np.isfinite(elapsed)]
    return float(known[-1]) if len(known) else 0.0


def _pictures(studies: Sequence[Study]) -> str:
    found = {s.label: [path for path, _ in s.seeds if (path / "metrics.csv").is_file()] for s in studies}
    groups: dict[str, Any] = {label: paths for label, paths in found.items() if paths}
    parts = ["<h2>Learning</h2>"]
    with tempfile.TemporaryDirectory() as folder:
        if len(groups) > 1:
            curve = plot_compare(groups, Path(folder) / "curve.svg")
            parts.append(page.picture(curve, "Return of training episodes over environment steps."))
        elif groups:
            curve = plot_run(next(iter(groups.values())), Path(folder) / "curve.svg")
            parts.append(page.picture(curve, "Return of training episodes over environment steps."))
        returns = {s.label: list(s.returns.values()) for s in studies if s.returns}
        if returns:
            profile = plot_profiles(returns, Path(folder) / "profile.svg")
            said = "Performance profile of the final evaluation: the share of episodes with a return above τ."
            parts.append(page.picture(profile, said))
    return "\n".join(parts)


def _settings(studies: Sequence[Study]) -> str:
    flat = [
        {
            "environments": f"{s.config.n_envs} ({s.config.backend})",
            "env_kwargs": write_value(s.config.env_kwargs) if s.config.env_kwargs else "–",
            **{name: write_value(value) for name, value in _said(s.config).items()},
        }
        for s in studies
    ]
    rows = []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(name, "–") for one in flat]
        if set(values) == {"–"}:
            continue
        rows.append([name, *(map(page.Marked, values) if len(set(values)) > 1 else values)])
    bold = "" if len(studies) == 1 else " What differs between the runs is bold."
    note = f'<p class="note">What is left out is what such an algorithm takes anyway.{bold}</p>'
    return f"<h2>Settings</h2>\n{note}{page.table(['setting', *(s.label for s in studies)], rows)}"


def _said(config: RunConfig) -> dict[str, Any]:
    """The settings of a run: of a composition as words, from which what they stand for alone is left out."""
    algorithm = config.build()
    said = presets.words_of(algorithm)
    if said is None:
        return differing(algorithm, presets.find_preset(config.algorithm).algorithm)
    return said.pop("settings") | said


def _videos(studies: Sequence[Study]) -> str:
    parts = []
    for study in studies:
        newest = sorted(
            (p for f, _ in study.seeds for p in (f / "videos").glob("*.mp4")), key=lambda p: p.stat().st_mtime
        )
        if not newest:
            continue
        if newest[-1].stat().st_size > VIDEO_LIMIT:
            parts.append(f"<p>{page.text(newest[-1])} is too large for the page.</p>")
        else:
            parts.append(page.video(newest[-1], f"{study.label}: {newest[-1].name}"))
    none = f'<p class="note">None was recorded: <code>actrix video {page.text(studies[0].folder)}</code>.</p>'
    return "<h2>Video</h2>\n" + ("\n".join(parts) or none)


def _origin(studies: Sequence[Study]) -> str:
    """A row for the seeds' sessions that differ in their time alone, of which the first one's is said."""
    alike: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for study in studies:
        for path, seed in study.seeds:
            for session in _sessions(path):
                versions = ", ".join(f"{k} {v}" for k, v in session.get("versions", {}).items())
                event, machine = str(session.get("event", "")), _machine(session.get("machine", {}))
                begun = alike.setdefault((study.label, event, machine, versions), [])
                begun.append((str(session.get("time", "")), seed))
    rows = []
    for (label, event, where, versions), begun in alike.items():
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(seed for _, seed in begun))
        time = min(begun)[0].replace("T", " ").replace("+00:00", " UTC")
        rows.append([label, seeds, f"{len(begun)} × {event}", time, where, versions])
    head = ["run", "seeds", "sessions", "first begun", "machine", "versions"]
    return f"<h2>Origin</h2>\n{page.table(head, rows)}"


def _machine(known: dict[str, Any]) -> str:
    told = {"cores": amount(known["cores"], "core")} if isinstance(known.get("cores"), int) else {}
    return ", ".join(str((known | told)[k]) for k in ("processor", "cores", "platform") if k in known)


def _sessions(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads((path / MANIFEST).read_text("utf-8"))["sessions"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _commands(studies: Sequence[Study]) -> str:
    lines = "\n".join(repeat(study.config, study.folder) for study in studies)
    said = "Trains again; <code>actrix eval RUN</code> evaluates, <code>actrix report RUN</code> makes this page."
    return f'<h2>Commands</h2>\n<pre><code>{page.text(lines)}</code></pre>\n<p class="note">{said}</p>'


_OTHERWISE = {"env_kwargs", "tuned", "dataset", "workers", "address"}
"""Fields with a default that are no option of their name, or (the place) bear on no result."""


def repeat(config: RunConfig, folder: Path) -> str:
    """The command line that trains a run again: what differs from the algorithm's and the zoo's values, in `--set`.
    That of one role's trains all roles, as it was; seeds that do not follow each other have a line each."""
    first, many = config.seeds[0], len(config.seeds)
    if config.seeds != tuple(range(first, first + many)):
        alone = [dataclasses.replace(config, seeds=(seed,)) for seed in config.seeds]
        return "\n".join(repeat(one, folder) for one in alone)
    kwargs, seen = take_role(config.env_kwargs)
    if config.algorithm == presets.COMPOSED:
        answers = dict(zip(("critic", "actor", "data"), config.build().answers, strict=True))
        who = [word for name, value in answers.items() for word in (f"--{name}", value)]
    else:
        answers, who = {}, [config.algorithm]
    base = resolve(
        None if answers else config.algorithm, config.env_id, **answers, env_kwargs=kwargs, n_envs=config.n_envs,
        backend="auto" if config.dataset else config.backend, dataset=config.dataset, tuned=config.tuned or True,
        tell=False,
    )  # fmt: skip
    line = ["actrix", "train", *who, config.env_id, "--steps", str(config.n_timesteps)]
    line += ["--dataset", *config.dataset] if config.dataset else ["--envs", str(config.n_envs)]
    if config.backend not in ("offline", "pettingzoo"):  # which follow from what is named
        line += ["--backend", config.backend]
    if seen is not None:
        line += ["--roles", *(f"{role}={','.join(map(str, mine))}" for role, mine in seen["roles"].items())]
        line += ["--turn", str(load_plan(folder.absolute().parent).turn)]
    line += ["--zoo", str(config.tuned)] if config.tuned > 1 else []
    line += ["--seed", str(first), *(["--seeds", str(many)] if many > 1 else [])]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _OTHERWISE and field.default not in (dataclasses.MISSING, value):
            line += [f"--{field.name.replace('_', '-')}", str(value)]
    if config.workers:
        line += ["--workers", *([] if config.workers is True else [str(config.workers)])]
    changed = {k: v for k, v in config.settings.items() if base.settings.get(k) != v}
    if changed:
        line += ["--set", *(f"{name}={write_value(value)}" for name, value in changed.items())]
    if kwargs:
        line += ["--env-kwargs", *(f"{name}={write_value(value)}" for name, value in kwargs.items())]
    return shlex.join(line)
