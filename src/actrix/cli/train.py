"""Commands that train: train, resume, and the worker of a many-seed run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from actrix.cli.options import EXIT_FAILED, EXIT_INTERRUPTED, AddCommand, count, from_file, pairs, seconds
from actrix.cli.play import record_to
from actrix.show.stats import amount

CHECKPOINT_SECONDS = 60.0
_PARTS = {
    "double": "the online network picks the next action",
    "dueling": "Q = V + A − mean A",
    "per": "prioritised replay",
    "noisy": "noisy layers explore",
}


def add_train(command: AddCommand) -> None:
    """`actrix train`."""
    p = command("train", _train, "Train an agent with tuned settings into a run folder.")
    p.add_argument("names", nargs="*", metavar="[ALGORITHM] ENV",
                   help="e.g. `ppo LunarLander-v3`; with --critic/--actor only ENV")  # fmt: skip
    what_is_learned(p)
    how_much_and_where(p)
    p.add_argument("--settings", type=Path, metavar="FILE",
                   help="YAML of settings, e.g. a study's best.yaml; --set goes over it")  # fmt: skip
    _who_collects(p)
    p.add_argument("--recurrent", action="store_true", help="an LSTM policy")
    p.add_argument("--roles", nargs="+", default=[], metavar="NAME[=AGENT,…]",
                   help="a policy for each role of a game of several agents, e.g. knight archer")  # fmt: skip
    p.add_argument("--turn", type=count, metavar="STEPS",
                   help="with --roles: steps of one of their turns (default: a twentieth of --steps)")  # fmt: skip
    p.add_argument("--out", type=Path, help="the run folder (default: runs/ALGO-ENV-DATE)")
    p.add_argument("--video", action="store_true", help="record a video of the trained agent")
    p.add_argument("--require", type=float, metavar="RETURN",
                   help="exit with 1 unless the final evaluation reaches this mean")  # fmt: skip
    _checkpoint_option(p)
    _track_option(p)
    p.add_argument("--quiet", action="store_true", help="no live display")
    p.add_argument("--verbose", action="store_true",
                   help="print every row of metrics instead of the live display")  # fmt: skip


def what_is_learned(p: argparse.ArgumentParser) -> None:
    """The options that name an algorithm's answers and parts."""
    p.add_argument("--critic", help="compose: e.g. gae:0.95, v-trace, q:double,dueling,c51, ensemble:2, none")
    p.add_argument("--actor", help="compose: e.g. ppo-clip:0.2, score:reward-to-go, boltzmann:0.1, soft")
    p.add_argument(
        "--data", help="compose: on-policy (default), lag:8, trajectories:4, replay:per,n=3, hindsight, fixed"
    )
    for part in ("double", "dueling", "per", "noisy"):
        p.add_argument(f"--{part}", action=argparse.BooleanOptionalAction,
                       help=f"dqn and its relatives: {_PARTS[part]}")  # fmt: skip
    p.add_argument("--n-step", type=count, metavar="N", help="dqn and its relatives: n-step targets")
    p.add_argument("--distributional", choices=["c51", "qr", "iqn", "none"],
                   help="dqn and its relatives: what Q represents")  # fmt: skip
    p.add_argument("--policy", metavar="NAME", help="e.g. MlpTransformerPolicy (default: the zoo's)")
    p.add_argument("--init", metavar="RUN",
                   help="begin with the policy of a run or model file, and stay near it (ref_kl_coef)")  # fmt: skip
    p.add_argument("--dataset", nargs="+", default=[], metavar="PATH",
                   help="learn from Minari data sets; ENV then only evaluates")  # fmt: skip


def how_much_and_where(p: argparse.ArgumentParser) -> None:
    """The options of budget, seeds, environments and settings."""
    p.add_argument("--steps", type=count,
                   help="environment steps, or updates from a data set (default: the zoo's)")  # fmt: skip
    p.add_argument("--seed", type=int, help="random seed (default: drawn, kept in config.json)")
    p.add_argument("--seeds", type=int, metavar="N", help="train N seeds together: seed, seed+1, …")
    p.add_argument("--envs", type=count, metavar="N", help="parallel environments")
    p.add_argument("--backend", default="auto", choices=["auto", "gymnasium", "envpool", "jax"])
    p.add_argument("--workers", type=count, nargs="?", const=True, default=False, metavar="N",
                   help="run Gymnasium's environments in processes: one each, or N in all")  # fmt: skip
    p.add_argument("--step-timeout", type=seconds, default=60.0, metavar="S",
                   help="with --workers or --actors (default: 60)")  # fmt: skip
    p.add_argument("--max-restarts", type=int, default=0, metavar="N",
                   help="with --workers: processes to replace (default: 0)")  # fmt: skip
    p.add_argument("--zoo", type=count, metavar="VERSION",
                   help="of the tuned settings, of which the first is the default (docs: Tuned settings)")  # fmt: skip
    p.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                   help="algorithm settings, e.g. n_steps=256 gamma=0.98")  # fmt: skip
    p.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                   help="arguments of the environment")  # fmt: skip


def _who_collects(p: argparse.ArgumentParser) -> None:
    p.add_argument("--actors", type=int, default=0, metavar="N",
                   help="processes on Ray that collect (docs: Actors)")  # fmt: skip
    p.add_argument("--envs-per-group", type=count, metavar="N",
                   help="environments that act together; the result depends on it, and not on --actors "
                        "(default: with --actors an equal share)")  # fmt: skip
    p.add_argument("--behind", type=_behind, metavar="{0,1,any}",
                   help="updates that the collecting policy is behind (default: 1 with --actors, else 0); any: the "
                        "learner waits for no actor (v-trace), and the result is not exact")  # fmt: skip
    p.add_argument("--address", metavar="HOST:PORT",
                   help="a Ray cluster for actors, learners, or seeds' processes (default: this machine)")  # fmt: skip
    _learners(p, "devices that each learn from a share of every batch (default: 1)", 1)


def _learners(p: argparse.ArgumentParser, text: str, default: int | None) -> None:
    p.add_argument("--learners", type=count, metavar="M", default=default, help=text)
    p.add_argument("--learner-processes", type=count, metavar="P", default=default,
                   help="processes on Ray that hold the learners' devices (default: 1, this one)")  # fmt: skip


def _behind(text: str) -> int | str:
    try:
        return text if text == "any" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be 0, 1 or any") from None


def add_resume(command: AddCommand) -> None:
    """`actrix resume`."""
    p = command("resume", _resume, "Go on with an interrupted run from its newest checkpoint.")
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--steps", type=count, help="a larger budget than the run's")
    p.add_argument("--quiet", action="store_true")
    p.add_argument("--verbose", action="store_true")
    _track_option(p)
    _checkpoint_option(p)
    p.add_argument(
        "--actors", type=int, metavar="N", help="another number of actors, 0 for none; same result"
    )
    p.add_argument("--address", metavar="HOST:PORT", help="another Ray cluster; local: this machine")
    _learners(p, "another number of learners; same result up to rounding", None)
    p.add_argument("--env", help="confirms an environment that imports a module (module:Class)")


def add_worker(command: AddCommand) -> None:
    """The worker of a many-seed run; not for users."""
    p = command("train-folder", _train_folder)
    p.add_argument("path", type=Path)
    p.add_argument("--quiet", action="store_true")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--follow", action="store_true", help="stop when standard input is closed")
    _checkpoint_option(p)


def _track_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--track", choices=["wandb", "mlflow", "trackio"], help="send the metrics to a tracker, too"
    )


def _checkpoint_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint-seconds", type=seconds, default=CHECKPOINT_SECONDS, metavar="S",
                        help="time between checkpoints (default: 60)")  # fmt: skip


def _q_parts(args: argparse.Namespace) -> dict[str, Any]:
    """The settings behind --double, --dueling, --per, --noisy, --n-step and --distributional."""
    given = {part: getattr(args, part) for part in _PARTS} | {"n_step": args.n_step}
    settings = {name: value for name, value in given.items() if value is not None}
    if args.distributional is not None:
        settings["distributional"] = None if args.distributional == "none" else args.distributional
    return settings


def _train(args: argparse.Namespace) -> int:
    from actrix.runs.folder import default_folder, seed_folders
    from actrix.runs.start import start

    config = config_of(args)
    folder, tell = args.out or default_folder(config), _teller(args)
    begins = lambda: tell(f"{config.title}: {_plan(config)} → {folder}")
    plan = _roles(config, args)
    if plan is not None:
        from actrix.runs import roles

        return _report_roles(roles.start(plan, folder, tell, begins), folder, args)
    results = start(
        config, folder, quiet=args.quiet, verbose=int(args.verbose), checkpoint_seconds=args.checkpoint_seconds,
        track=args.track, begins=begins,
    )  # fmt: skip
    code = _report(results)
    if code == 0 and args.video:
        record_to(seed_folders(folder, config)[0][0], None, 1, 0, config.env_id)
    if code == 0 and args.require is not None:
        mean = results.summary.mean if results.summary.iqm is None else results.summary.iqm
        if mean < args.require:
            print(
                f"the final evaluation's {mean:.1f} is below the required {args.require:g}", file=sys.stderr
            )
            return EXIT_FAILED
    return code


def _roles(config: Any, args: argparse.Namespace) -> Any:
    """What --roles asks for, checked; None without it."""
    from actrix.algorithms.settings import SettingError
    from actrix.runs.roles import plan_of

    if not args.roles:
        if args.turn:
            raise SettingError("--turn is of roles that train by turns: give --roles.")
        return None
    given = {"--track": args.track, "--require": args.require is not None, "--verbose": args.verbose,
             "--checkpoint-seconds": args.checkpoint_seconds != CHECKPOINT_SECONDS}  # fmt: skip
    _leave_out(given, "roles train by turns, of which each is a checkpoint")
    words = [word.partition("=") for word in args.roles]
    roles = {name: agents.split(",") if equals else [name] for name, equals, agents in words}
    if len(roles) < len(words) or "" in roles:
        raise SettingError(
            f"--roles {' '.join(args.roles)}: name each role once, as NAME or NAME=AGENT,AGENT."
        )
    return plan_of(config, roles, args.turn)


def _leave_out(given: dict[str, Any], why: str) -> None:
    """Raise SettingError for options that are given and are not of roles."""
    from actrix.algorithms.settings import SettingError

    if wrong := [name for name, value in given.items() if value]:
        raise SettingError(f"{why}: leave {' and '.join(wrong)} out.")


def _teller(args: argparse.Namespace) -> Any:
    """What prints a line for each turn."""
    return (lambda line: None) if args.quiet else lambda line: print(line, flush=True)


def _report_roles(results: dict[str, Any], folder: Path, args: argparse.Namespace) -> int:
    """What each role came to, and the video."""
    if not results:
        from actrix.runs.folder import resuming

        print(f"stopped early; go on with: {resuming(folder)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    for role, result in results.items():
        print(f"{role}: ", end="")
        _report(result)
    if getattr(args, "video", False):
        path = next(iter(results.values())).folder
        record_to(path, None, 1, 0, next(iter(results.values())).config.env_id)
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options give."""
    return _q_parts(args) | pairs(args.set, "--set")


def config_of(args: argparse.Namespace, tuned: bool = True) -> Any:
    """What the command asks for, resolved; `tuned` False leaves the zoo's entry for this environment out."""
    from actrix.algorithms.settings import SettingError
    from actrix.runs import warm
    from actrix.runs.config import resolve

    composing = bool(args.critic or args.actor or args.data)
    if args.dataset and not composing and len(args.names) in (1, 2):
        args.names = [*args.names, None][:2]
    elif len(args.names) != (1 if composing else 2):
        form = (
            f"actrix {args.command} --critic C --actor A ENV"
            if composing
            else f"actrix {args.command} ALGORITHM ENV, e.g. actrix {args.command} ppo CartPole-v1"
        )
        swallowed = [word for word in args.set or () if "=" not in word]
        hint = (
            f" {swallowed[0]!r} stands behind --set, which takes NAME=VALUE: write it before."
            if swallowed
            else ""
        )
        raise SettingError(f"got {' '.join(args.names)!r}; the form is: {form}.{hint}")
    if args.seeds is not None and args.seeds < 1:
        raise SettingError(f"--seeds {args.seeds} must be at least 1.")
    seeds = None if args.seed is None else [args.seed]
    if args.seeds is not None:
        seeds = [(args.seed or 0) + i for i in range(args.seeds)]
    return resolve(
        None if composing else args.names[0], args.names[-1], critic=args.critic, actor=args.actor, data=args.data,
        steps=args.steps, n_envs=args.envs, seeds=seeds, backend=args.backend,
        settings=settings_of(args), file=from_file(getattr(args, "settings", None)), tuned=tuned and (args.zoo or True),
        env_kwargs=pairs(args.env_kwargs, "--env-kwargs"), policy=args.policy, recurrent=args.recurrent,
        dataset=args.dataset, workers=args.workers, step_timeout=args.step_timeout, max_restarts=args.max_restarts,
        init=warm.resolved(args.init), network=warm.network_of(args.init) if args.init else None, actors=args.actors,
        envs_per_group=args.envs_per_group, behind=args.behind, address=args.address, learners=args.learners,
        learner_processes=args.learner_processes,
    )  # fmt: skip


def _plan(config: Any) -> str:
    """How much is trained, of what, with which settings."""
    tuned = "tuned settings" if config.tuned else "default settings"
    tuned += f" (version {config.tuned})" if config.tuned > 1 else ""
    few = f"seed {config.seeds[0]}" if len(config.seeds) == 1 else amount(len(config.seeds), "seed")
    who = f", {amount(config.actors, 'actor')}" if config.actors else ""
    who += f", groups of {config.envs_per_group}" if config.envs_per_group else ""
    who += f", {config.learners} learners" if config.learners > 1 else ""
    envs = amount(config.n_envs, "environment")
    much = f"{config.n_timesteps:,} steps, {envs} ({config.backend}{who})"
    if config.dataset:
        where = f"evaluated in {config.env_id}" if config.env_id else "no environment to evaluate in"
        much = f"{config.n_timesteps:,} updates, {where}"
    return f"{much}, {few}, {tuned}"


def _report(results: Any) -> int:
    if not results.finished:
        from actrix.runs.folder import resuming

        print(f"stopped early; go on with: {resuming(results.folder)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    import numpy as np

    config = results.config
    if not results.returns:
        print(f"{config.title}: finished without an environment to evaluate in; {results.seconds:.0f} s")
        return 0
    if len(results.returns) == 1:
        (returns,) = results.returns.values()
        figure = f"{np.mean(returns):.1f} ± {np.std(returns):.1f} over {amount(len(returns), 'episode')}"
    else:
        figure = str(results.summary)
    print(
        f"{config.title}: final evaluation {figure}; {results.seconds:.0f} s; curve {results.folder / 'curve.png'}"
    )
    return 0


def _resume(args: argparse.Namespace) -> int:
    from actrix.runs import roles
    from actrix.runs.start import resume

    if roles.has_roles(args.path):
        others = ("track", "verbose", "actors", "address", "learners", "learner_processes")
        given = {f"--{name.replace('_', '-')}": getattr(args, name) not in (None, False) for name in others}
        given["--checkpoint-seconds"] = args.checkpoint_seconds != CHECKPOINT_SECONDS
        _leave_out(given, "roles go on by turns, as they began")
        found = roles.resume(args.path, steps=args.steps, env_id=args.env, tell=_teller(args))
        return _report_roles(found, args.path, args)
    results = resume(
        args.path, steps=args.steps, env_id=args.env, quiet=args.quiet, verbose=int(args.verbose),
        checkpoint_seconds=args.checkpoint_seconds, track=args.track, actors=args.actors, address=args.address,
        learners=args.learners, learner_processes=args.learner_processes,
    )  # fmt: skip
    return _report(results)


def _train_folder(args: argparse.Namespace) -> int:
    from actrix.runs.session import Session
    from actrix.runs.start import train_folder

    if args.follow:
        end_with_parent()
    session = Session(args.resume, args.quiet, checkpoint_seconds=args.checkpoint_seconds)
    return _report(train_folder(args.path, session))


def end_with_parent() -> None:
    """Be asked to stop when who started this process dies: it holds the other end of standard input."""
    import signal
    import threading

    def follow() -> None:
        while os.read(0, 1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
