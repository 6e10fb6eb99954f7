"""`actrix tune`, and the worker of a study in several processes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from actrix.cli import train
from actrix.cli.options import EXIT_INTERRUPTED, AddCommand, count


def add_tune(command: AddCommand) -> None:
    """`actrix tune` and its worker."""
    p = command(
        "tune", _tune, "Search settings over several seeds with Optuna; judge the best on held-out seeds."
    )
    p.add_argument("names", nargs="*", metavar="[ALGORITHM] ENV",
                   help="e.g. `ppo LunarLander-v3`; with --critic/--actor only ENV")  # fmt: skip
    p.add_argument("--trials", type=int, default=100, metavar="N", help="of the whole study (default: 100)")
    p.add_argument("--space", type=Path, metavar="FILE", help="YAML that changes what is searched")
    p.add_argument("--show-space", action="store_true", help="print what would be searched, as such a file")
    p.add_argument("--held-out", type=int, default=10, metavar="N",
                   help="seeds on which the best are trained again (default: 10)")  # fmt: skip
    p.add_argument("--evaluations", type=int, default=5, metavar="N",
                   help="checkpoints at which a trial may be pruned (default: 5)")  # fmt: skip
    p.add_argument("--jobs", type=int, metavar="N", help="processes (default: 1; with --address its cores)")
    # Not the run's own address, which would be part of what the study is.
    p.add_argument("--address", dest="cluster", metavar="HOST:PORT",
                   help="a Ray cluster over which trials and seeds are spread (default: this machine)")  # fmt: skip
    p.add_argument("--storage", metavar="URL", help="Optuna's storage (default: journal.log in the folder)")
    p.add_argument(
        "--out", type=Path, help="the study's folder (default: studies/ALGO-ENV); goes on if it is there"
    )
    p.add_argument("--quiet", action="store_true", help="no live table")
    train.what_is_learned(p)
    train.how_much_and_where(p)
    p.set_defaults(seed=0, seeds=4, recurrent=False, actors=0, envs_per_group=None, behind=None, address=None,
                   learners=1, learner_processes=1)  # fmt: skip
    worker = command("tune-folder", _tune_folder)
    worker.add_argument("path", type=Path)
    worker.add_argument("--trials", type=count, required=True)
    worker.add_argument("--worker", type=int, required=True)


def _tune(args: argparse.Namespace) -> int:
    from rich.console import Console

    from actrix.tune.derive import write_space
    from actrix.tune.plan import make_plan
    from actrix.tune.start import run_study, show
    from actrix.tune.study import need_optuna

    need_optuna()
    base, default = (train.config_of(args, tuned=tuned) for tuned in (True, False))
    plan = make_plan(base, default, train.settings_of(args), args.space, args.held_out, args.evaluations)
    if args.show_space:
        print(write_space(plan.space), end="")
        return 0
    folder = args.out or Path("studies") / re.sub(r"[^\w.-]+", "-", f"{base.algorithm}-{base.env_id}")
    outcome = run_study(
        plan,
        folder,
        args.trials,
        jobs=args.jobs,
        storage=args.storage,
        quiet=args.quiet,
        address=args.cluster,
    )
    if outcome is None:
        return EXIT_INTERRUPTED
    show(plan, outcome, Console(highlight=False))
    return 0


def _tune_folder(args: argparse.Namespace) -> None:
    from actrix.tune.work import work_for

    train.end_with_parent()
    work_for(args.path, args.trials, args.worker)
