"""The live table of a study: what runs, what was best, how far it has come."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actrix.files.container import printable
from actrix.show.stats import amount
from actrix.show.terminal import redraws
from actrix.tune.plan import Plan
from actrix.tune.study import REFUSED, best, counted

SHOWN = 8
"""Rows of the best trials."""


class Board:
    """`with Board(...) as board: board.seen()`: a table on a terminal, elsewhere a line for each trial that ends.

    Args:
        plan, study, trials: what runs, and how many trials it shall have.
        enabled: None decides as above; False prints nothing.
    """

    def __init__(self, plan: Plan, study: Any, trials: int, enabled: bool | None = None):
        self.plan, self.study, self.trials = plan, study, trials
        self.console = Console(highlight=False)
        self._mode = "off" if enabled is False else "live" if redraws() else "plain"
        self._begun = time.monotonic()
        self._known = self._ended()
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self._mode == "live":
            self._live = Live(self.table(), console=self.console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.update(self.table(), refresh=True)
            live.stop()

    def seen(self) -> None:
        """Show what has changed."""
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        elif self._mode == "plain":
            for number in sorted(self._ended() - self._known):
                self._known.add(number)
                print(self.line(self.study.get_trials(deepcopy=False)[number]), flush=True)

    def _ended(self) -> set[int]:
        return {t.number for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()}

    def line(self, trial: Any) -> str:
        """A finished trial in one line."""
        leaders = best(self.study, 1)
        top = f"; best {leaders[0].value:.4g} (trial {leaders[0].number})" if leaders else ""
        done = len(counted(self.study.get_trials(deepcopy=False)))
        return f"trial {trial.number}: {told(trial)}{top}; {done} of {self.trials}"

    def table(self) -> Group:
        """How far the study is, and a table of the running and the best trials."""
        every = self.study.get_trials(deepcopy=False)
        running = [t for t in every if t.state.name == "RUNNING"]
        done, refused = counted(every), sum(REFUSED in t.user_attrs for t in every)
        pruned = sum(t.state.name == "PRUNED" for t in done)
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        pieces = [
            f"{len(done)} of {self.trials} trials",
            f"{pruned} pruned",
            f"{minutes}:{seconds:02} elapsed",
        ]
        pieces += [f"{refused} refused"] if refused else []
        table = Table(box=None, pad_edge=False, show_edge=False, expand=True)
        for name in ("trial", "", "IQM", "at"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        table.add_column("settings", no_wrap=True, ratio=1)  # takes what is left, and is cut
        leaders = best(self.study, SHOWN)
        for trial in [*running, *leaders]:
            style = "yellow" if trial in running else "bold" if trial is leaders[0] else ""
            table.add_row(*(Text(cell) for cell in self._cells(trial)), style=style)
        title = Text(
            printable(f"tuning {self.plan.title}, {amount(len(self.plan.base.seeds), 'seed')} a trial"),
            style="bold",
        )
        return Group(title, Text("  ".join(pieces)), table)

    def _cells(self, trial: Any) -> list[str]:
        last = trial.last_step
        at = 0 if last is None else 100 * last // self.plan.base.n_timesteps
        value = trial.value if trial.value is not None else trial.intermediate_values.get(last, math.nan)
        shown = "-" if math.isnan(value) else f"{value:.4g}"
        share = "100%" if trial.state.is_finished() else f"{at}%"
        settings = self.plan.settings(trial.params) if len(trial.params) == len(self.plan.space) else {}
        words = "  ".join(f"{name} {printable(str(value))}" for name, value in settings.items())
        return [str(trial.number), trial.state.name.lower(), shown, share, words]


def told(trial: Any) -> str:
    """What became of a finished trial."""
    if REFUSED in trial.user_attrs:
        return f"refused, {printable(trial.user_attrs[REFUSED])}"
    if "diverged" in trial.user_attrs:
        return "diverged"
    if trial.state.name == "PRUNED":
        step = trial.last_step
        return f"pruned at step {step:,} with {trial.intermediate_values[step]:.4g}"
    return f"IQM {trial.value:.4g}" if trial.value is not None else "broken off"
