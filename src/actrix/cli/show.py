"""Commands that show: plot, report, push, inspect, export, doctor, list, lab."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from actrix.cli.options import EXIT_FAILED, AddCommand, count, model_paths, pairs
from actrix.core.contract import Algorithm


def add_files(command: AddCommand) -> None:
    """`actrix plot`, `report`, `push`, `inspect` and `export`."""
    p = command("plot", _plot, "Plot one run, or compare several.")
    p.add_argument("paths", type=Path, nargs="+", metavar="RUN")
    p.add_argument("--out", type=Path, default=None, help="default: RUN/curve.png, or compare.png")

    p = command("report", _report, "Write one page about runs: result, curves, settings, video, commands.")
    p.add_argument("paths", type=Path, nargs="+", metavar="RUN")
    p.add_argument(
        "-o", "--out", type=Path, default=Path("report"), help="the page's folder (default: report)"
    )

    p = command(
        "push", _push, "Publish a run on the Hugging Face hub: model, card, curve, evaluation; no code."
    )
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("repo", metavar="USER/NAME")
    p.add_argument("--private", action="store_true")

    p = command("inspect", _inspect, "Print what a model file says of itself, without building anything.")
    p.add_argument("path", type=Path, metavar="FILE|RUN")

    p = command("export", _export, "Write a run's deterministic policy as a file that runs without actrix.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--to", required=True, choices=["onnx", "stablehlo"], help="the format")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: beside the model, e.g. RUN/model.onnx")


def add_doctor(command: AddCommand) -> None:
    """`actrix doctor`."""
    p = command("doctor", _doctor, "Examine an environment and say in plain words what to fix.")
    p.add_argument("env", metavar="ENV|MODULE:CLASS")
    p.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    p.add_argument("--seed", type=int, default=0)


def add_lists(command: AddCommand) -> None:
    """`actrix list` and `lab`."""
    p = command("list", _list,
                "List the algorithms by their three answers, the tuned environments, or all compositions.")  # fmt: skip
    p.add_argument("--compositions", action="store_true",
                   help="which critic × actor × data are sound: a summary, or those with the words given")  # fmt: skip
    p.add_argument("--all", action="store_true", help="with --compositions: all of them")
    p.add_argument("names", nargs="*", metavar="ALGORITHM [ENV]",
                   help="its words, with ENV the tuned ones; with --compositions critics, actors, ψ, data")  # fmt: skip
    p.add_argument("--envs", metavar="ALGORITHM", help="the environments an algorithm has tuned settings for")
    p.add_argument("--zoo", type=count, metavar="VERSION", help="with ENV: of the tuned settings")

    p = command("lab", _lab, "Study estimators and bounds against exact MDPs: table, figure, JSON.")
    p.add_argument("study", nargs="?", metavar="NAME", help="without it: lists the studies")
    p.add_argument("--out", type=Path, help="folder of the files (default: lab/NAME)")
    p.add_argument("--seed", type=int, default=0)


def _plot(args: argparse.Namespace) -> None:
    from actrix.runs.folder import load_config
    from actrix.runs.roles import has_roles
    from actrix.show.plot import plot_compare, plot_run

    def folders(path: Path) -> Any:
        seeds = list(model_paths(path).values())
        return seeds if len(seeds) > 1 else path

    if len(args.paths) == 1 and has_roles(args.paths[0]):
        out = plot_compare(model_paths(args.paths[0]), args.out or args.paths[0] / "curve.png")
    elif len(args.paths) == 1:
        out = plot_run(folders(args.paths[0]), args.out or args.paths[0] / "curve.png")
    else:
        labels: dict[str, Any] = {}
        for path in args.paths:
            title = load_config(path).title
            labels[title if title not in labels else f"{title} ({path.name})"] = folders(path)
        out = plot_compare(labels, args.out or Path("compare.png"))
    print(f"wrote {out}")


def _report(args: argparse.Namespace) -> None:
    from actrix.runs.report import report

    print(f"wrote {report(args.paths, args.out)}")


def _push(args: argparse.Namespace) -> None:
    from actrix.runs.hub import push_to_hub

    print(f"published {push_to_hub(args.path, args.repo, args.private)}")


def _inspect(args: argparse.Namespace) -> None:
    from actrix.show.describe import describe_file

    print("\n\n".join(describe_file(path) for path in model_paths(args.path).values()))


def _export(args: argparse.Namespace) -> None:
    from actrix.algorithms.settings import SettingError
    from actrix.files import container
    from actrix.files.export import FORMATS
    from actrix.model import Model
    from actrix.runs.roles import has_roles

    if has_roles(args.path):
        raise SettingError(f"{args.path} is a folder of roles: name the one to export, {args.path}/ROLE.")
    path = next(iter(model_paths(args.path).values()))
    model = Model.load(path)
    print(model.export(args.out or container.find(path).with_suffix(FORMATS[args.to]), args.to))


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from actrix.algorithms.settings import SettingError
    from actrix.doctor.examine import examine, uses
    from actrix.files.container import printable

    kwargs = pairs(args.env_kwargs, "--env-kwargs")
    if args.seed < 0:
        raise SettingError(f"--seed {args.seed} must be at least 0.")
    build = _builder(args.env, kwargs)
    findings = examine(build, args.seed)
    stopped = ("construction", "data", "examination", "hanging")
    if not any(f.level == "fix" and f.check in stopped for f in findings):
        findings += uses(build, lambda spec: _uses(args.env, kwargs, spec))
    table = Table(title=printable(args.env), title_justify="left")
    for column in ("", "check", "result", "what to do"):
        table.add_column(column, overflow="fold")
    for f in findings:
        mark = Text(f.level, {"fine": "green", "note": "yellow", "fix": "bold red"}[f.level])
        table.add_row(mark, *(Text(printable(text)) for text in (f.check, f.result, f.remedy)))
    Console(highlight=False).print(table)
    wrong = sum(f.level == "fix" for f in findings)
    print(f"{wrong} to fix: see 'fix' above" if wrong else "nothing to fix")
    return EXIT_FAILED if wrong else 0


def _builder(name: str, kwargs: dict[str, Any]) -> Any:
    """What makes the environment that the user typed."""
    from actrix.algorithms.settings import SettingError
    from actrix.envs.agents.make import make_agents, maker
    from actrix.envs.build import named, single_env
    from actrix.envs.jax_envs import JAX_TWINS, has_jax_env

    if has_jax_env(name) and name not in JAX_TWINS:
        raise SettingError(f"{name} is a JAX environment: the doctor examines Gymnasium's.")
    if (game := maker(name)) is not None:
        return lambda: make_agents(name, game, 1, None, kwargs)
    if made := named(name):
        return functools.partial(made, **kwargs)
    single_env(name, kwargs).close()  # an unknown id is a mistake in what was typed
    return lambda: single_env(name, kwargs)


def _uses(name: str, kwargs: dict[str, Any], spec: Any) -> list[Any]:
    """Which backend would train, and which algorithms fit the spaces."""
    from actrix.algorithms.presets import PRESETS
    from actrix.doctor.finding import Finding
    from actrix.envs.agents.make import PREFIX
    from actrix.envs.make import choose_backend

    module = ":" in name and not name.startswith(PREFIX)
    backend = "gymnasium" if module else choose_backend("auto", name, kwargs, 8)
    loop = "the compiled loop" if backend == "jax" else "the host loop"
    fits = []
    for preset in PRESETS.values():
        try:
            preset.algorithm.check(spec, preset.n_envs)
            fits += [] if preset.offline else [preset.name]
        except (ValueError, TypeError):
            continue
    fitting = f"for {type(spec.action_space).__name__} actions: {', '.join(fits) or 'none'}"
    return [
        Finding("fine", "backend", f"{backend}, {loop}"),
        Finding("fine" if fits else "fix", "algorithms", fitting),
    ]


def _list(args: argparse.Namespace) -> None:
    from rich.console import Console

    from actrix import zoo
    from actrix.algorithms.presets import PRESETS, find_preset
    from actrix.algorithms.settings import SettingError
    from actrix.cli import compositions

    if args.all and not args.compositions:
        raise SettingError("--all is of --compositions.")
    if args.zoo and (args.compositions or args.envs or len(args.names) < 2):
        raise SettingError(
            "--zoo is a version of the settings for an environment: list ALGORITHM ENV --zoo 2."
        )
    if args.envs and (args.compositions or args.names):
        raise SettingError(
            f"--envs {args.envs} lists the environments of {args.envs}: nothing else goes with it."
        )
    if args.compositions:
        compositions.show(Console(highlight=False), args.names, args.all)
    elif args.envs:
        for env_id in zoo.load(find_preset(args.envs).name):
            name, at, version = env_id.partition("@")
            if env_id != "default":
                print(f"{name} --zoo {version}" if at else name)
    elif args.names:
        _list_one(*args.names, version=args.zoo)
    else:
        for preset in PRESETS.values():
            print(f"{preset.name}: {preset.class_name} ({preset.paper})")
            print(f"    {_in_words(preset.algorithm, preset.n_envs)}")
        print("compose your own: actrix train --critic td-lambda:0.9 --actor ppo-clip:0.2 ENV")


def _list_one(name: str, env_id: str | None = None, *more: str, version: int | None = None) -> None:
    """An algorithm's words, with the zoo's values for an environment: what `train` takes after it."""
    from actrix import zoo
    from actrix.algorithms import presets
    from actrix.algorithms.policy_kwargs import named_policy
    from actrix.algorithms.settings import SettingError, configure, differing
    from actrix.runs.config import fitted, usual_steps

    if more:
        raise SettingError(f"list takes an algorithm and an environment; {more[0]!r} is one too many.")
    preset = presets.find_preset(name)
    if env_id is None:
        print(_in_words(preset.algorithm, preset.n_envs))
        print(f"`train` adds tuned settings, or defaults for environments without: actrix list {name} ENV")
        return
    entry, tuned = zoo.settings(preset.name, env_id, version or True)
    steps, envs, policy = (entry.pop(key, None) for key in zoo.RUN_KEYS)
    entry["policy_kwargs"] = named_policy(policy or preset.policy) | entry.pop("policy_kwargs", {})
    envs, steps = envs or preset.n_envs, f"--steps {steps or usual_steps(preset.offline)}"
    algorithm = fitted(configure(preset.algorithm, entry), entry, env_id, envs)
    if presets.words_of(algorithm) is None:  # no composition: its name, and what differs from it
        print(_with_settings([preset.name, env_id], differing(algorithm, preset.algorithm), envs), steps)
    else:
        data = ["--dataset DATA"] if preset.offline else []
        print(_in_words(algorithm, envs), steps, env_id, *data)
    print("tuned for this environment" if tuned else "the defaults: there are no tuned settings for it")


def _in_words(algorithm: Algorithm, n_envs: int) -> str:
    """The command line that names an algorithm by its answers alone."""
    import shlex

    from actrix.algorithms.presets import words_of

    said = words_of(algorithm)
    if said is None:
        return f"critic {', actor '.join(algorithm.answers[:2])}, data {algorithm.answers[2]}"
    settings = said.pop("settings")
    return _with_settings([f"--{name} {shlex.quote(word)}" for name, word in said.items()], settings, n_envs)


def _with_settings(line: list[str], settings: dict[str, Any], n_envs: int) -> str:
    """A command line and what it sets."""
    import shlex

    from actrix.core.words import write_value

    # Within the shell's single quotes a dict's own are double.
    texts = [f"{name}={write_value(value)}".replace("'", '"') for name, value in settings.items()]
    # --set takes all that follows up to the next option: what is pasted goes on with the environment.
    return " ".join([*line, *(["--set", *map(shlex.quote, texts)] if texts else []), f"--envs {n_envs}"])


def _lab(args: argparse.Namespace) -> None:
    from actrix.lab import command

    command.run(args.study, args.out, args.seed)
