"""Deep reinforcement learning in JAX, from the command line.

Exit codes: 0 done, 1 a failed run, 2 a mistake in what was typed, 130 interrupted (a checkpoint was saved).
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from actrix.cli import play, show, train, tune
from actrix.cli.options import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from actrix.core.words import nearest
from actrix.files.manifest import own_version

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_USAGE", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A user's mistake prints one line on stderr."""
    whole = parser()
    if not (sys.argv[1:] if argv is None else argv):
        whole.print_help(sys.stderr)
        return EXIT_USAGE
    args, unknown = whole.parse_known_args(argv)
    if unknown:
        whole.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(args, unknown)}")
    usage, failed = _foreseen()
    foreseen: tuple[type[BaseException], ...] = (*usage, *failed, ValueError)
    try:
        with notices():
            return args.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `actrix inspect FILE | head`; nothing more can be written, at the exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except foreseen as error:
        if getattr(args, "debug", False):
            raise
        from rich.console import Console

        from actrix.files.container import printable

        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # without its number
            said = f"{error.filename}: {error.strerror}."
        text = "\n".join(map(printable, said.splitlines()))  # it may quote a stranger's file
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"actrix: {text}", markup=False)
        return EXIT_FAILED if isinstance(error, failed) and not isinstance(error, usage) else EXIT_USAGE


@contextlib.contextmanager
def notices() -> Iterator[None]:
    """What this package warns of is told in a line, as mistakes are."""
    from actrix.core.idle import NoEffectWarning

    usual, ours = warnings.formatwarning, str(Path(__file__).parents[1])

    def form(message: Any, category: type[Warning], filename: str, *where: Any, **line: Any) -> str:
        told = issubclass(category, NoEffectWarning) or filename.startswith(ours)
        return f"actrix: {message}\n" if told else usual(message, category, filename, *where, **line)

    warnings.formatwarning = form  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _meant(args: argparse.Namespace, unknown: Sequence[str]) -> str:
    """What an unknown option may have meant: one spelled like it, or a setting."""
    wrong = next((word[2:].partition("=")[0] for word in unknown if word.startswith("--")), None)
    if wrong is None:
        return ""
    there = re.findall(r"--([\w-]+)", args.usage())
    near = [name for name in there if wrong.endswith(name)]
    near = near or difflib.get_close_matches(wrong, there, n=1, cutoff=0.6)
    hint = f"; did you mean --{near[0]}?" if near else ""
    if "set" in there:
        hint += f" (a setting of the algorithm is given as --set {wrong.replace('-', '_')}=…)"
    return hint


def _foreseen() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Which exceptions are mistakes in what was typed, and which failed runs."""
    from actrix.algorithms.settings import SettingError
    from actrix.core.spaces import UnsupportedSpaceError
    from actrix.envs.build import UnknownEnvError
    from actrix.envs.guard import EnvError
    from actrix.files.container import ModelFileError
    from actrix.files.lock import RunLockedError
    from actrix.loops.train import NonFiniteError
    from actrix.runs.config import RunError
    from actrix.runs.seeds import SeedError

    usage = (
        SettingError, UnknownEnvError, UnsupportedSpaceError, ModelFileError, RunError, RunLockedError,
        FileNotFoundError, ImportError,
    )  # fmt: skip
    return usage, (EnvError, NonFiniteError, SeedError, OSError)


class _Parser(argparse.ArgumentParser):
    """Says of a command that there is not which it may have been."""

    commands: Any = None

    def error(self, message: str) -> NoReturn:
        wrong = re.match("argument COMMAND: invalid choice: '(.*?)'", message)
        if wrong:
            public = [name for name in self.commands.choices if not name.endswith("-folder")]
            message = f"there is no command {wrong[1]!r}: {nearest(wrong[1], public)}"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """What reads the command line."""
    common = _Parser(add_help=False)
    common.add_argument(  # no default: the subcommand's would replace what came before its name
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    whole = _Parser(
        prog="actrix", description=(__doc__ or "").split("\n")[0], parents=[common], allow_abbrev=False
    )
    whole.add_argument("--version", action="version", version=f"actrix {own_version()}")
    commands = whole.commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str | None = None) -> argparse.ArgumentParser:
        told = {} if summary is None else {"help": summary, "description": summary}
        sub = commands.add_parser(name, parents=[common], allow_abbrev=False, **told)  # type: ignore[arg-type]
        sub.set_defaults(run=run, command=name, usage=sub.format_usage)
        return sub

    train.add_train(command)
    play.add_commands(command)
    show.add_files(command)
    show.add_doctor(command)
    train.add_resume(command)
    tune.add_tune(command)
    show.add_lists(command)
    train.add_worker(command)
    return whole
