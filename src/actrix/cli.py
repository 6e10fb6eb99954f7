"""The command line of actrix: train, eval, video, watch, record, plot, inspect, export, doctor, resume, list, lab.

Exit codes: 0 done, 1 a failed run, 2 a mistake in what was typed, 130 interrupted (a checkpoint was saved).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A user's mistake prints one line on stderr."""
    args = _parser().parse_args(argv)
    from rich.console import Console

    from actrix.algorithms.settings import SettingError
    from actrix.core.spaces import UnsupportedSpaceError
    from actrix.envs.guard import EnvError
    from actrix.envs.make import UnknownEnvError
    from actrix.experiment import RunError, SeedError
    from actrix.run.lock import RunLockedError
    from actrix.run.modelfile import ModelFileError, printable
    from actrix.run.train import NonFiniteError

    usage = (
        SettingError,
        UnknownEnvError,
        UnsupportedSpaceError,
        ModelFileError,
        RunError,
        RunLockedError,
        FileNotFoundError,
        ImportError,
    )
    failed = (EnvError, NonFiniteError, SeedError, OSError)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `actrix inspect FILE | head`; nothing more can be written, at the exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (*usage, *failed, ValueError) as error:
        if getattr(args, "debug", False):
            raise
        text = "\n".join(map(printable, str(error).splitlines()))  # it may quote a stranger's file
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"actrix: {text}", markup=False)
        return EXIT_FAILED if isinstance(error, failed) and not isinstance(error, usage) else EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(  # no default: the subcommand's would replace what came before its name
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = argparse.ArgumentParser(
        prog="actrix", description=(__doc__ or "").split("\n")[0], parents=[common], allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, **kwargs: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=summary, parents=[common], allow_abbrev=False, **kwargs
        )
        sub.set_defaults(run=run)
        return sub

    p = command("train", _train, "Train an agent with tuned settings into a run folder.")
    p.add_argument(
        "names",
        nargs="*",
        metavar="[ALGORITHM] ENV",
        help="e.g. `ppo LunarLander-v3`; with --critic/--actor only ENV",
    )
    p.add_argument("--critic", help="compose: e.g. gae:0.95, v-trace, q:double,dueling,c51, ensemble:2, none")
    p.add_argument("--actor", help="compose: e.g. ppo-clip:0.2, score:reward-to-go, boltzmann:0.1, soft")
    p.add_argument(
        "--data", help="compose: on-policy (default), lag:8, trajectories:4, replay:per,n=3, hindsight, fixed"
    )
    for part in ("double", "dueling", "per", "noisy"):
        p.add_argument(
            f"--{part}", action=argparse.BooleanOptionalAction, help=f"dqn and its relatives: {_PARTS[part]}"
        )
    p.add_argument("--n-step", type=_count, metavar="N", help="dqn and its relatives: n-step targets")
    p.add_argument(
        "--distributional",
        choices=["c51", "qr", "iqn", "none"],
        help="dqn and its relatives: what Q represents",
    )
    p.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="PATH",
        help="learn from Minari data sets; ENV then only evaluates",
    )
    p.add_argument(
        "--steps", type=_count, help="environment steps, or updates from a data set (default: the zoo's)"
    )
    p.add_argument("--seed", type=int, help="random seed (default: drawn, kept in config.json)")
    p.add_argument("--seeds", type=int, metavar="N", help="train N seeds together: seed, seed+1, …")
    p.add_argument("--envs", type=_count, metavar="N", help="parallel environments")
    p.add_argument("--backend", default="auto", choices=["auto", "gymnasium", "envpool", "jax"])
    p.add_argument(
        "--workers",
        type=_count,
        nargs="?",
        const=True,
        default=False,
        metavar="N",
        help="run Gymnasium's environments in processes: one each, or N in all",
    )
    p.add_argument(
        "--step-timeout", type=_seconds, default=60.0, metavar="S", help="with --workers (default: 60)"
    )
    p.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="with --workers: processes to replace (default: 0)",
    )
    p.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        help="algorithm settings, e.g. n_steps=256 gamma=0.98",
    )
    p.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        help="arguments of the environment",
    )
    p.add_argument("--recurrent", action="store_true", help="an LSTM policy")
    p.add_argument("--out", type=Path, help="the run folder (default: runs/ALGO-ENV-DATE)")
    p.add_argument("--video", action="store_true", help="record a video of the trained agent")
    p.add_argument(
        "--require",
        type=float,
        metavar="RETURN",
        help="exit with 1 unless the final evaluation reaches this mean",
    )
    _checkpoint_option(p)
    p.add_argument("--quiet", action="store_true", help="no live display")
    p.add_argument(
        "--verbose", action="store_true", help="print every row of metrics instead of the live display"
    )

    p = command("eval", _eval, "Evaluate a run or a model file on fresh episodes.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--episodes", type=_count, default=100)
    p.add_argument(
        "--stochastic", action="store_true", help="sample actions instead of taking the most likely"
    )
    p.add_argument("--seed", type=int, default=0)

    p.add_argument("--env", help="play there instead of in the model's own environment")

    p = command("video", _video, "Record an mp4 of a run's agent (works without a display).")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--episodes", type=_count, default=1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="default: RUN/videos/ENV-STEPS.mp4")

    p.add_argument("--env", help="play there instead of in the model's own environment")

    p = command("watch", _watch, "Watch a run's agent in a window.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--episodes", type=_count, default=3)
    p.add_argument("--seed", type=int, default=0)

    p.add_argument("--env", help="play there instead of in the model's own environment")

    p = command("record", _record_data, "Record a run's agent into a Minari data set.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new data set's folder")
    p.add_argument("--steps", type=_count, help="how many steps (default: 100 episodes)")
    p.add_argument("--episodes", type=_count, help="how many whole episodes")
    p.add_argument(
        "--stochastic", action="store_true", help="sample actions instead of taking the most likely"
    )
    p.add_argument("--random", action="store_true", help="uniformly random actions in the run's environment")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--env", help="play there instead of in the model's own environment")

    p = command("plot", _plot, "Plot one run, or compare several.")
    p.add_argument("paths", type=Path, nargs="+", metavar="RUN")
    p.add_argument("--out", type=Path, default=None, help="default: RUN/curve.png, or compare.png")

    p = command("inspect", _inspect, "Print what a model file says of itself, without building anything.")
    p.add_argument("path", type=Path, metavar="FILE|RUN")

    p = command("export", _export, "Write a run's deterministic policy as a file that runs without actrix.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--to", required=True, choices=["onnx", "stablehlo"], help="the format")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: beside the model, e.g. RUN/model.onnx")

    p = command("doctor", _doctor, "Examine an environment and say in plain words what to fix.")
    p.add_argument("env", metavar="ENV|MODULE:CLASS")
    p.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    p.add_argument("--seed", type=int, default=0)

    p = command("resume", _resume, "Go on with an interrupted run from its newest checkpoint.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--steps", type=_count, help="a larger budget than the run's")
    p.add_argument("--quiet", action="store_true")
    p.add_argument("--verbose", action="store_true")
    _checkpoint_option(p)

    p.add_argument("--env", help="confirms an environment that imports a module (module:Class)")

    p = command(
        "list",
        _list,
        "List the algorithms by their three answers, the tuned environments, or all compositions.",
    )
    p.add_argument(
        "--compositions",
        action="store_true",
        help="the critic × actor × data table, sound cells and refusals",
    )
    p.add_argument("names", nargs="*", metavar="ALGORITHM [ENV]", help="its words, with ENV the tuned ones")
    p.add_argument("--envs", metavar="ALGORITHM", help="the environments an algorithm has tuned settings for")

    p = command("lab", _lab, "Study estimators and bounds against exact MDPs: table, figure, JSON.")
    p.add_argument("study", nargs="?", metavar="NAME", help="without it: lists the studies")
    p.add_argument("--out", type=Path, help="folder of the files (default: lab/NAME)")
    p.add_argument("--seed", type=int, default=0)

    p = commands.add_parser("train-folder", parents=[common])  # the worker of a many-seed run; not for users
    p.set_defaults(run=_train_folder)
    p.add_argument("path", type=Path)
    p.add_argument("--quiet", action="store_true")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--follow", action="store_true", help="stop when standard input is closed")
    _checkpoint_option(p)
    return parser


def _checkpoint_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="time between checkpoints (default: 60)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return value


_PARTS = {
    "double": "the online network picks the next action",
    "dueling": "Q = V + A − mean A",
    "per": "prioritised replay",
    "noisy": "noisy layers explore",
}


def _q_parts(args: argparse.Namespace) -> dict[str, Any]:
    """The settings behind --double, --dueling, --per, --noisy, --n-step and --distributional."""
    given = {part: getattr(args, part) for part in _PARTS} | {"n_step": args.n_step}
    settings = {name: value for name, value in given.items() if value is not None}
    if args.distributional is not None:
        settings["distributional"] = None if args.distributional == "none" else args.distributional
    return settings


def _count(text: str) -> int:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = 0.5
    if not value.is_integer() or value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(value)


def _pairs(words: Sequence[str], option: str) -> dict[str, Any]:
    from actrix.algorithms.settings import SettingError
    from actrix.core.words import read_value

    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise SettingError(f"{option} {word!r}: write KEY=VALUE.")
        out[key] = read_value(value)
    return out


def _train(args: argparse.Namespace) -> int:
    from actrix import experiment
    from actrix.algorithms.settings import SettingError

    composing = bool(args.critic or args.actor or args.data)
    if args.dataset and not composing and len(args.names) in (1, 2):
        args.names = [*args.names, None][:2]
    elif len(args.names) != (1 if composing else 2):
        form = (
            "actrix train --critic C --actor A ENV"
            if composing
            else "actrix train ALGORITHM ENV, e.g. actrix train ppo CartPole-v1"
        )
        raise SettingError(f"got {' '.join(args.names)!r}; the form is: {form}.")
    if args.seeds is not None and args.seeds < 1:
        raise SettingError(f"--seeds {args.seeds} must be at least 1.")
    seeds = None if args.seed is None else [args.seed]
    if args.seeds is not None:
        seeds = [(args.seed or 0) + i for i in range(args.seeds)]
    config = experiment.resolve(
        None if composing else args.names[0], args.names[-1], critic=args.critic, actor=args.actor, data=args.data,
        steps=args.steps, n_envs=args.envs, seeds=seeds, backend=args.backend,
        settings=_q_parts(args) | _pairs(args.set, "--set"),
        env_kwargs=_pairs(args.env_kwargs, "--env-kwargs"), recurrent=args.recurrent, dataset=args.dataset,
        workers=args.workers, step_timeout=args.step_timeout, max_restarts=args.max_restarts,
    )  # fmt: skip
    folder = args.out or experiment.default_folder(config)
    if not args.quiet:
        tuned = "tuned settings" if config.tuned else "default settings"
        few = f"seed {config.seeds[0]}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds"
        amount = f"{config.n_timesteps:,} steps, {config.n_envs} environments ({config.backend})"
        if config.dataset:
            where = f"evaluated in {config.env_id}" if config.env_id else "no environment to evaluate in"
            amount = f"{config.n_timesteps:,} updates, {where}"
        print(f"{config.title}: {amount}, {few}, {tuned} → {folder}", flush=True)
    results = experiment.start(
        config,
        folder,
        quiet=args.quiet,
        verbose=int(args.verbose),
        checkpoint_seconds=args.checkpoint_seconds,
    )
    code = _report(results)
    if code == 0 and args.video:
        _record(experiment.seed_folders(folder, config)[0][0], None, 1, 0, config.env_id)
    if code == 0 and args.require is not None:
        mean = results.summary.mean if results.summary.iqm is None else results.summary.iqm
        if mean < args.require:
            print(
                f"the final evaluation's {mean:.1f} is below the required {args.require:g}", file=sys.stderr
            )
            return EXIT_FAILED
    return code


def _report(results: Any) -> int:
    if not results.finished:
        print(f"stopped early; go on with: actrix resume {results.folder}", file=sys.stderr)
        return EXIT_INTERRUPTED
    import numpy as np

    config = results.config
    if not results.returns:
        print(f"{config.title}: finished without an environment to evaluate in; {results.seconds:.0f} s")
        return 0
    if len(results.returns) == 1:
        (returns,) = results.returns.values()
        figure = f"{np.mean(returns):.1f} ± {np.std(returns):.1f} over {len(returns)} episodes"
    else:
        figure = str(results.summary)
    print(
        f"{config.title}: final evaluation {figure}; {results.seconds:.0f} s; curve {results.folder / 'curve.png'}"
    )
    return 0


def _eval(args: argparse.Namespace) -> None:
    import numpy as np

    from actrix import experiment
    from actrix.model import Model
    from actrix.run.stats import summarize

    folders = _model_paths(args.path)
    means = {}
    for seed, path in folders.items():
        model = Model.load(path)
        returns, lengths = experiment.evaluate_model(
            model, args.episodes, args.seed, not args.stochastic, args.env
        )
        name = f"{path}: " if len(folders) > 1 else ""
        print(
            f"{name}{np.mean(returns):.2f} ± {np.std(returns):.2f} over {len(returns)} episodes "
            f"(mean length {np.mean(lengths):.1f}, {'sampled' if args.stochastic else 'deterministic'} actions)"
        )
        means[seed] = returns
    if len(folders) > 1:
        print(f"all seeds: {summarize(means)}")


def _model_paths(path: Path) -> dict[int, Path]:
    from actrix import experiment

    if (path / "config.json").is_file():
        config = experiment.load_config(path)
        return {seed: folder for folder, seed in experiment.seed_folders(path, config)}
    return {0: path}


def _record(path: Path, out: Path | None, episodes: int, seed: int, env_id: str | None) -> None:
    from actrix.model import Model
    from actrix.run.record import headless, record_video

    model = Model.load(path)
    if out is None:
        base = path if path.is_dir() else path.parent
        out = base / "videos" / f"{str(model.env_id).replace('/', '-')}-{model.run.steps}.mp4"
    out.parent.mkdir(parents=True, exist_ok=True)
    with headless():
        env = _render_env(model, env_id, "rgb_array")
        try:
            recording = record_video(_predictor(model, env), env, out, episodes=episodes, seed=seed)
        finally:
            env.close()
    returns = ", ".join(f"{r:.1f}" for r in recording.returns)
    print(f"wrote {recording.path} (return {returns})")


def _render_env(model: Any, env_id: str | None, mode: str | None) -> Any:
    from actrix.algorithms.settings import SettingError
    from actrix.envs.atari import PLAY, atari_single_env, is_atari
    from actrix.envs.gymnasium import MaskKeeper
    from actrix.envs.jax_envs import JAX_TWINS, has_jax_env
    from actrix.envs.make import single_env
    from actrix.experiment import model_env_id

    env_id = model_env_id(model, env_id)
    if is_atari(env_id):
        return atari_single_env(env_id, render_mode=mode, **PLAY)
    if has_jax_env(env_id) and env_id not in JAX_TWINS:
        raise SettingError(f"{env_id} exists in JAX only: it can be neither drawn nor recorded.")
    env = single_env(env_id, model.env_kwargs, render_mode=mode)
    return env if model._known_spec().mask_size is None else MaskKeeper(env)


def _predictor(model: Any, env: Any, deterministic: bool = True) -> Any:
    def predict(obs: Any, state: Any, episode_start: Any) -> Any:
        return model.predict(obs, state, episode_start, deterministic, getattr(env, "mask", None))

    return predict


def _video(args: argparse.Namespace) -> None:
    path = next(iter(_model_paths(args.path).values()))
    _record(path, args.out, args.episodes, args.seed, args.env)


def _record_data(args: argparse.Namespace) -> None:
    from actrix.algorithms.settings import SettingError
    from actrix.data.offline import record_episodes, write_dataset
    from actrix.model import Model

    if args.steps and args.episodes:
        raise SettingError("give either --steps or --episodes, not both.")
    episodes = args.episodes or (None if args.steps else 100)
    model = Model.load(next(iter(_model_paths(args.path).values())))
    env = _render_env(model, args.env, None)

    def random(obs: Any, state: Any, episode_start: Any) -> Any:
        return getattr(env, "sample_legal", env.action_space.sample)(), None

    predict = random if args.random else _predictor(model, env, not args.stochastic)
    env.action_space.seed(args.seed)
    returns = []

    def noted(played: Any) -> Any:
        for episode in played:
            returns.append(float(episode.reward.sum()))
            yield episode

    try:
        played = noted(record_episodes(predict, env, steps=args.steps, episodes=episodes, seed=args.seed))
        who = "random" if args.random else model.preset.name
        spec = model._known_spec()
        path = write_dataset(args.to, played, spec, env_id=args.env or model.env_id, env_kwargs=model.env_kwargs,
                             algorithm_name=who)  # fmt: skip
    finally:
        env.close()
    print(f"wrote {path}: {len(returns)} episodes of {who}, mean return {sum(returns) / len(returns):.1f}")


def _watch(args: argparse.Namespace) -> None:
    from actrix.model import Model
    from actrix.run.record import watch

    model = Model.load(next(iter(_model_paths(args.path).values())))
    env = _render_env(model, args.env, "human")
    try:
        returns, _ = watch(_predictor(model, env), env, args.episodes, seed=args.seed)
    finally:
        env.close()
    print("returns", ", ".join(f"{r:.1f}" for r in returns))


def _plot(args: argparse.Namespace) -> None:
    from actrix import experiment
    from actrix.run.plot import plot_compare, plot_run

    def folders(path: Path) -> Any:
        seeds = list(_model_paths(path).values())
        return seeds if len(seeds) > 1 else path

    if len(args.paths) == 1:
        out = plot_run(folders(args.paths[0]), args.out or args.paths[0] / "curve.png")
    else:
        labels: dict[str, Any] = {}
        for path in args.paths:
            title = experiment.load_config(path).title
            labels[title if title not in labels else f"{title} ({path.name})"] = folders(path)
        out = plot_compare(labels, args.out or Path("compare.png"))
    print(f"wrote {out}")


def _inspect(args: argparse.Namespace) -> None:
    from actrix.run.describe import describe_file

    print("\n\n".join(describe_file(path) for path in _model_paths(args.path).values()))


def _export(args: argparse.Namespace) -> None:
    from actrix.model import Model
    from actrix.run import modelfile
    from actrix.run.export import FORMATS

    path = next(iter(_model_paths(args.path).values()))
    model = Model.load(path)
    print(model.export(args.out or modelfile.find(path).with_suffix(FORMATS[args.to]), args.to))


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from actrix.algorithms.settings import SettingError
    from actrix.envs import doctor
    from actrix.run.modelfile import printable

    kwargs = _pairs(args.env_kwargs, "--env-kwargs")
    if args.seed < 0:
        raise SettingError(f"--seed {args.seed} must be at least 0.")
    build = _builder(args.env, kwargs)
    findings = doctor.examine(build, args.seed)
    stopped = ("construction", "data", "examination", "hanging")
    if not any(f.level == "fix" and f.check in stopped for f in findings):
        findings += doctor.uses(build, lambda spec: _uses(args.env, kwargs, spec))
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
    from actrix.envs.jax_envs import JAX_TWINS, has_jax_env
    from actrix.envs.make import named, single_env

    if has_jax_env(name) and name not in JAX_TWINS:
        raise SettingError(f"{name} is a JAX environment: the doctor examines Gymnasium's.")
    if made := named(name):
        return functools.partial(made, **kwargs)
    single_env(name, kwargs).close()  # an unknown id is a mistake in what was typed
    return lambda: single_env(name, kwargs)


def _uses(name: str, kwargs: dict[str, Any], spec: Any) -> list[Any]:
    """Which backend would train, and which algorithms fit the spaces."""
    from actrix.algorithms.presets import PRESETS
    from actrix.envs.doctor import Finding
    from actrix.envs.make import choose_backend

    backend = "gymnasium" if ":" in name else choose_backend("auto", name, kwargs, 8)
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


def _resume(args: argparse.Namespace) -> int:
    from actrix import experiment

    results = experiment.resume(
        args.path, steps=args.steps, env_id=args.env, quiet=args.quiet, verbose=int(args.verbose),
        checkpoint_seconds=args.checkpoint_seconds,
    )  # fmt: skip
    return _report(results)


def _train_folder(args: argparse.Namespace) -> int:
    import signal
    import threading

    from actrix import experiment

    def follow() -> None:  # who started this process holds the other end, and closes it by dying
        while os.read(0, 1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if args.follow:
        threading.Thread(target=follow, daemon=True).start()
    session = experiment.Session(args.resume, args.quiet, checkpoint_seconds=args.checkpoint_seconds)
    return _report(experiment.train_folder(args.path, session))


def _list(args: argparse.Namespace) -> None:
    from rich.console import Console

    from actrix import zoo
    from actrix.algorithms.presets import PRESETS, find_preset

    if args.compositions:
        _list_compositions(Console(highlight=False))
    elif args.envs:
        print("\n".join(n for n in zoo.load(find_preset(args.envs).name) if n != "default"))
    elif args.names:
        _list_one(*args.names)
    else:
        for preset in PRESETS.values():
            print(f"{preset.name}: {preset.class_name} ({preset.paper})")
            print(f"    {_in_words(preset.algorithm, preset.n_envs)}")
        print("compose your own: actrix train --critic td-lambda:0.9 --actor ppo-clip:0.2 ENV")


def _list_one(name: str, env_id: str | None = None, *more: str) -> None:
    """An algorithm's words, with the zoo's values for an environment."""
    from actrix.algorithms.presets import find_preset
    from actrix.algorithms.settings import SettingError, configure
    from actrix.experiment import resolve

    if more:
        raise SettingError(f"list takes an algorithm and an environment; {more[0]!r} is one too many.")
    preset = find_preset(name)
    if env_id is None:
        print(_in_words(preset.algorithm, preset.n_envs))
        return
    config = resolve(name, env_id, seeds=[0])
    algorithm = configure(preset.algorithm, config.settings)
    print(f"{_in_words(algorithm, config.n_envs)} --steps {config.n_timesteps} {env_id}")
    print(
        "tuned for this environment" if config.tuned else "the defaults: there are no tuned settings for it"
    )


def _in_words(algorithm: Any, n_envs: int) -> str:
    """The command line that names an algorithm by its answers alone."""
    import shlex

    from actrix.algorithms.presets import words_of
    from actrix.core.words import write_value

    said = words_of(algorithm)
    if said is None:
        return f"critic {', actor '.join(algorithm.answers[:2])}, data {algorithm.answers[2]}"
    settings = [f"{name}={write_value(value)}" for name, value in said.pop("settings").items()]
    line = [f"--{name} {shlex.quote(word)}" for name, word in said.items()]
    return " ".join(
        [*line, f"--envs {n_envs}", *(["--set", *map(shlex.quote, settings)] if settings else [])]
    )


def _lab(args: argparse.Namespace) -> None:
    from actrix.lab import command

    command.run(args.study, args.out, args.seed)


def _list_compositions(console: Any) -> None:
    from rich.table import Table

    from actrix.algorithms.sound import table as cells

    found = cells()
    for data in dict.fromkeys(cell.data for cell in found):
        mine = [cell for cell in found if cell.data == data]
        table = Table(title=f"sound on data {data}", title_justify="left")
        for column in ("critic", "actor", "ψ"):
            table.add_column(column, overflow="fold")
        sound = [cell for cell in mine if cell.reason is None]
        for critic, actor in dict.fromkeys((cell.critic, cell.actor) for cell in sound):
            psi = [cell.psi for cell in sound if (cell.critic, cell.actor) == (critic, actor)]
            table.add_row(critic, actor, ", ".join(filter(None, psi)))
        console.print(table)
        print(f"{len(sound)} of {len(mine)} compositions are sound. The others, by reason:")
        reasons: dict[str, int] = {}
        for cell in mine:
            if cell.reason is not None:
                reasons[cell.reason] = reasons.get(cell.reason, 0) + 1
        for reason, number in sorted(reasons.items(), key=lambda pair: -pair[1]):
            print(f"{number:5d}  {reason}")
        print()
    print("why a particular one is refused: actrix train --critic C --actor A --data D ENV says it")
