"""Live progress of a training run on the terminal or in a notebook's cell; elsewhere plain, rare lines."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from actrix.show.log import format_value, human, printable
from actrix.show.stats import amount
from actrix.show.terminal import Cell, cell, redraws

RETURN = "rollout/ep_rew_mean"
LENGTH = "rollout/ep_len_mean"
LABELS = {
    LENGTH: "episode length",
    "rollout/success_rate": "success rate",
    "rollout/exploration_rate": "exploration",
    "eval/mean_reward": "evaluation",
    "train/value_loss": "value loss",
    "train/policy_gradient_loss": "policy loss",
    "train/critic_loss": "critic loss",
    "train/actor_loss": "actor loss",
    "train/loss": "loss",
    "train/entropy_loss": "entropy loss",
    "train/ent_coef": "entropy coefficient",
    "train/approx_kl": "approx. KL",
    "train/clip_fraction": "clip fraction",
    "train/explained_variance": "explained variance",
    "train/learning_rate": "learning rate",
}
HIDDEN = {RETURN, "train/n_updates"}
MAX_CELLS = 16
SPARKS = "▁▂▃▄▅▆▇█"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
WINDOW = 15.0  # seconds over which steps/s is measured
CELL_SECONDS, CELL_WIDTH = 0.5, 100
NO_EPISODE = "no episode finished yet"
PLAIN_SECONDS, PLAIN_FRACTION, PLAIN_AT_LEAST = 10.0, 0.1, 60.0


def answered(prompt: str, text: str, right: bool) -> Text:
    """What was answered to a prompt, right in green and wrong in red."""
    mark, colour = ("right", "green") if right else ("wrong", "red")
    return Text(prompt).append(text, style=colour).append(f"  {mark}", style="dim")


class Display:
    """Progress bar and current metrics, used as `with Display(...) as display: display.update(...)`.

    On a terminal the block redraws in place four times a second, in a notebook's cell at most twice. Elsewhere (a
    file, a pipe) plain lines are printed without control codes: at most one in 10 s, for every 10% done or every
    minute, and a last one. The terminal is restored however the block is left, Ctrl-C included.

    Args:
        total_steps: environment steps to reach, per seed.
        title: e.g. "PPO on LunarLander-v3".
        enabled: None decides as above; True forces the live block, False prints nothing at all.
        seeds: seeds trained together: a row for each, and a bar for all of them.
        start: environment step the run continues from, of all seeds or one for each.
        plays: whether episodes are to be expected.
    """

    def __init__(
        self,
        total_steps: int,
        title: str,
        enabled: bool | None = None,
        seeds: Sequence[int] | None = None,
        start: int | Sequence[int] = 0,
        plays: bool = True,
    ):
        self._cell: Cell | None = cell() if enabled is None else None
        if self._cell is not None:
            self._mode, out = "cell", io.StringIO()
            self._console = Console(file=out, width=CELL_WIDTH, force_jupyter=False, force_terminal=False)
        else:
            off = "plain" if enabled is None else "off"
            self._mode = "live" if enabled or (enabled is None and redraws()) else off
            self._console = Console(highlight=False, force_terminal=True if enabled else None)
        self._unicode = self._console.encoding.lower().startswith("utf")
        self._title = self._text(title)
        self._multi, self._plays = seeds is not None, plays
        keys: Sequence[Any] = seeds if seeds is not None else [None]
        starts = [start] * len(keys) if isinstance(start, int) else start
        self._rows: dict[Any, _Row] = {key: _Row(at) for key, at in zip(keys, starts, strict=True)}
        self._start, self._total = sum(starts), max(int(total_steps), 1)
        self._samples: deque[tuple[float, int]] = deque()
        self._status = ""
        self._answers: list[Text] = []
        self._begun = time.monotonic()
        self._ended: float | None = None
        self._printed = (-math.inf, self._steps())
        self._lock = threading.Lock()  # the redrawing thread reads what update() writes
        self._live: Live | None = None

    def __enter__(self) -> Display:
        self._begun = time.monotonic()
        if self._mode == "live":
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            try:
                self._live.start(refresh=True)
            except BaseException:  # Ctrl-C in here: __exit__ would not run
                self._stop()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = time.monotonic()
        self._status = ""
        if self._live is not None:
            self._stop()
        elif self._mode == "plain" and self._samples and self._printed[1] != self._steps():
            self._print(self._line())
        self._in_cell(at_once=True)

    def _in_cell(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._cell is not None and (at_once or now - self._printed[0] >= CELL_SECONDS):
            self._printed = (now, self._steps())
            with self._console.capture() as drawn:
                self._console.print(self._render())
            self._cell.show(drawn.get())

    def update(self, step: int, metrics: Mapping[str, Any] | None = None, seed: int | None = None) -> None:
        """Show that environment step `step` is reached, and the latest metrics.

        Args:
            step: environment steps so far (of this seed).
            metrics: numbers under SB3's tags (`rollout/ep_rew_mean`, `train/value_loss`, …); those not given
                stay. The return is remembered for the sparkline.
            seed: which row; None where there are no seeds, or for all of them.
        Raises: `KeyError` for a seed that was not announced.
        """
        if seed is not None and seed not in self._rows:
            raise KeyError(f"seed {seed} is not one of {[s for s in self._rows if s is not None]}")
        with self._lock:
            for row in self._rows.values() if seed is None else [self._rows[seed]]:
                row.update(int(step), metrics or {})
            now = time.monotonic()
            if self._samples and self._steps() < self._samples[-1][1]:  # a log was cut back to its checkpoint
                self._samples.clear()
                self._start, self._printed = self._steps(), (self._printed[0], self._steps())
            self._samples.append((now, self._steps()))
            while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW:
                self._samples.popleft()
            self._status = ""
        if self._mode == "plain":
            seconds = now - max(self._printed[0], self._begun)
            fraction = (self._steps() - self._printed[1]) / (self._total * len(self._rows))
            if seconds >= PLAIN_AT_LEAST or (seconds >= PLAIN_SECONDS and fraction >= PLAIN_FRACTION):
                self._print(self._line())
        self._in_cell()

    def status(self, text: str) -> None:
        """Show what is going on below the bar, e.g. "compiling ppo update …", until the next `update`."""
        self._status = self._text(text)
        if self._mode == "plain" and time.monotonic() - self._printed[0] >= PLAIN_SECONDS:
            self._print(f"{self._title}: {self._status}")
        self._in_cell(at_once=True)

    def answers(self, found: Sequence[Any]) -> None:
        """Show answers (`prompt`, `text`, `right`) below the numbers, right in green and wrong in red, until others."""
        lines = [answered(self._text(a.prompt), self._text(a.text), a.right) for a in found]
        with self._lock:
            self._answers = lines
        if self._mode == "plain":
            for line in lines:
                print(f"{self._title}: {line.plain}", flush=True)

    def message(self, text: str) -> None:
        """Print a line that stays, above the live block."""
        if self._mode == "live":
            self._console.print(Text(self._text(text)))
        elif self._mode in ("plain", "cell"):
            print(self._text(text), flush=True)

    def _stop(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:  # also when a second Ctrl-C interrupts the stopping
            self._console.show_cursor(True)

    def _steps(self) -> int:
        return sum(row.step for row in self._rows.values())

    def _rate(self) -> float:
        """Steps per second, without the compilation before the first update once there is enough after it."""
        if not self._samples:
            return 0.0
        (t0, n0), (t1, n1) = self._samples[0], self._samples[-1]
        if t1 - t0 < 0.5:
            t0, n0 = self._begun, self._start
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def _progress(self) -> tuple[float, list[str]]:
        steps, total = self._steps(), self._total * len(self._rows)
        fraction = min(steps / total, 1.0)
        elapsed = (self._ended or time.monotonic()) - self._begun
        rate = self._rate()
        pieces = [f"{human(steps)}/{human(total)} steps"]
        if rate > 0:
            pieces.append(f"{human(rate)} steps/s")
        pieces.append(f"{_clock(elapsed)} elapsed")
        if self._ended is None and rate > 0 and steps < total:
            # Counted down between updates, which may be far apart.
            left = (total - steps) / rate - (time.monotonic() - self._samples[-1][0])
            pieces.append(f"{_clock(max(left, 0))} left")
        return fraction, pieces

    def _line(self) -> str:
        fraction, pieces = self._progress()
        self._printed = (time.monotonic(), self._steps())
        values = [row.metrics[RETURN] for row in self._rows.values() if RETURN in row.metrics]
        values = [v for v in values if math.isfinite(v)]
        if values:
            note = f" (mean of {amount(len(values), 'seed')})" if self._multi else ""
            pieces.insert(1, f"return {_fixed(sum(values) / len(values))}{note}")
        elif self._plays:
            pieces.insert(1, NO_EPISODE)
        return f"{self._title}: {_percent(fraction)}, {', '.join(pieces)}"

    def _print(self, line: str) -> None:
        self._printed = (time.monotonic(), self._steps())
        print(line, flush=True)

    def _text(self, text: str) -> str:
        text = printable(text)
        if self._unicode:
            return text
        return text.encode(self._console.encoding, "replace").decode(self._console.encoding)

    def _render(self) -> Group:
        width = max(self._console.width - 1, 10)
        with self._lock:
            lines = [Text(self._title, style="bold"), *self._bar_lines(width)]
            lines += self._seed_lines(width) if self._multi else self._metric_lines(width)
            lines += self._answers
            if self._status:
                turn = SPINNER[int(time.monotonic() * 8) % len(SPINNER)] if self._unicode else "*"
                lines.append(Text(f"{turn} {self._status}", style="yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis" if self._unicode else "crop"
        return Group(*lines)

    def _bar_lines(self, width: int) -> list[Text]:
        fraction, pieces = self._progress()
        tail = "  ".join(pieces)
        percent = f" {_percent(fraction):>4}"
        room = width - len(percent) - len(tail) - 2
        if room >= 15:
            return [self._bar(fraction, min(room, 40)) + Text(f"{percent}  {tail}")]
        return [self._bar(fraction, min(width - len(percent), 40)) + Text(percent), *_flow(pieces, width)]

    def _bar(self, fraction: float, width: int) -> Text:
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        done = min(int(fraction * width), width)
        style = "green" if fraction >= 1 else "cyan"
        return Text(full * done, style=style) + Text(empty * (width - done), style="bright_black")

    def _metric_lines(self, width: int) -> list[Text]:
        row = self._rows[None]
        value = row.metrics.get(RETURN, math.nan)
        if math.isnan(value):
            lines = [Text(f"return  {NO_EPISODE}", style="dim")] if self._samples and self._plays else []
        else:
            line = Text("return ", style="dim") + Text(f"{_fixed(value):<8} ", style="bold")
            if width >= 60:
                line += Text("mean of the last 100 episodes  ", style="dim")
            lines = [line + self._spark(row, min(width - len(line), 40))]
            reach = f"  {_fixed(row.low)} to {_fixed(row.high)}"
            if len(row.history) >= 2 and len(lines[0]) + len(reach) <= width:
                lines[0] += Text(reach, style="dim")
        cells = [(self._text(_label(k)), format_value(v)) for k, v in row.shown()]
        return lines + _grid(cells, width)

    def _seed_lines(self, width: int) -> list[Text]:
        names = [f"seed {s}" for s in self._rows]
        returns = [_fixed(r.metrics.get(RETURN, math.nan)) for r in self._rows.values()]
        lengths = [_fixed(r.metrics.get(LENGTH, math.nan)) for r in self._rows.values()]
        wide = [max(map(len, column)) for column in (names, returns, lengths)]
        lines = []
        for name, value, length, row in zip(names, returns, lengths, self._rows.values(), strict=True):
            line = Text(f"{name:<{wide[0]}}  ", style="dim")
            fraction = min(row.step / self._total, 1.0)
            if width >= 60:
                line += self._bar(fraction, 12)
            line += Text(f" {_percent(fraction):>4}  ") + Text("return ", style="dim")
            line += Text(f"{value:>{wide[1]}}", style="bold")
            if width >= 70:
                line += Text("  length ", style="dim") + Text(f"{length:>{wide[2]}}")
            lines.append(line + Text("  ") + self._spark(row, min(width - len(line) - 2, 40)))
        return lines

    def _spark(self, row: _Row, width: int) -> Text:
        if not self._unicode or width < 4 or len(row.history) < 2:
            return Text()
        points = _resample(row.history, width)
        low, high = min(points), max(points)
        scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
        return Text("".join(SPARKS[round((p - low) * scale)] for p in points), style="cyan")


class _Row:
    """State of one seed."""

    def __init__(self, step: int):
        self.step = step
        self.metrics: dict[str, float] = {}
        self.history: list[float] = []
        self.low, self.high = math.inf, -math.inf
        self._every, self._skipped = 1, 0

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.step = step
        numbers = {k: v if isinstance(v, int) else float(v) for k, v in metrics.items()}
        self.metrics |= numbers
        value = numbers.get(RETURN, math.nan)
        if math.isfinite(value):
            self.low, self.high = min(self.low, value), max(self.high, value)
            self._skipped += 1
            if self._skipped >= self._every:
                self._skipped = 0
                self.history.append(value)
            if len(self.history) >= 512:
                self.history = self.history[1::2]
                self._every *= 2

    def shown(self) -> list[tuple[str, float]]:
        known = [k for k in LABELS if k in self.metrics]
        other = [k for k in self.metrics if k not in LABELS and k not in HIDDEN and not k.startswith("time/")]
        return [(k, self.metrics[k]) for k in (known + other)[:MAX_CELLS]]


def _label(key: str) -> str:
    return LABELS.get(key) or key.rpartition("/")[2].replace("_", " ")


def _fixed(value: float) -> str:
    """A return or length: one decimal, so that digits do not jump; none when they say nothing."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) < 10_000 else format_value(value)


def _percent(fraction: float) -> str:
    return f"{math.floor(100 * fraction)}%"  # rounded down: 100% only when it is done


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _flow(pieces: Sequence[str], width: int) -> list[Text]:
    """Pieces on as few lines as they fit, none broken."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += "  " + piece
        else:
            lines.append(piece)
    return [Text(line) for line in lines]


def _grid(cells: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Label and value pairs in aligned columns, read down each column."""
    if not cells:
        return []
    label, value = (max(len(c[i]) for c in cells) for i in (0, 1))
    value = max(value, 8)
    columns = max(1, min((width + 4) // (label + value + 5), 3))
    height = math.ceil(len(cells) / columns)
    lines = []
    for i in range(height):
        line = Text()
        for name, number in cells[i::height]:
            line += Text(f"{name:<{label}} ", style="dim") + Text(f"{number:<{value}}    ")
        line.rstrip()
        lines.append(line)
    return lines


def _resample(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means of neighbouring values."""
    n = min(len(values), width)
    edges = [i * len(values) // n for i in range(n + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
