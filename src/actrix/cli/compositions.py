"""`actrix list --compositions`: which critic × actor × ψ × data are sound, and why the others are not."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from actrix.algorithms.policy_kwargs import SettingError
from actrix.algorithms.sound import NO_PARTNERS, Cell, in_general, table
from actrix.core.words import nearest

QUESTIONS = ("critic", "actor", "psi", "data")
HEADS = {"psi": "ψ"}
PARTNERS = "the actor does not take what the critic gives"
Row = tuple[tuple[str, ...], ...]
"""Names of critics, actors, ψ and data: every combination of them."""


def show(console: Any, words: Sequence[str], everything: bool) -> None:
    """Print a summary of the table, or all of its cells that have these words (`everything`: all there are)."""
    cells = in_general(table())
    if words or everything:
        _show_cells(console, _with_words(cells, words))
    else:
        _show_summary(console, cells)


def _show_summary(console: Any, cells: list[Cell]) -> None:
    """How many actor × ψ go with each critic on each data, and how many are refused for which reason."""
    data = _names(cells, "data")
    grid = _grid("critic", *data, numbers=range(1, len(data) + 1))
    for critic in _names(cells, "critic"):
        mine = [(c.reason, c.data) for c in cells if c.critic == critic]
        grid.add_row(critic, *(str(mine.count((None, d)) or "") for d in data))
    sound = sum(c.reason is None for c in cells)
    console.print(
        f"{sound} of {len(cells)} compositions are sound: so many actor × ψ of each critic and data\n"
    )
    console.print(grid)
    console.print("\nThe others are refused because")
    reasons = [c.reason for c in _merged(cells) if c.reason is not None]
    grid = _grid("", "", numbers=(0,))
    for reason in _commonest(reasons):
        grid.add_row(str(reasons.count(reason)), reason)
    console.print(grid)
    console.print("\nall of some words: actrix list --compositions gae ppo-clip (or --all of them)")


def _show_cells(console: Any, cells: list[Cell]) -> None:
    """The sound cells, then the others by their reasons; what combines freely shares a row."""
    all_of = {question: _names(cells, question) for question in QUESTIONS}
    kept = [question for question in QUESTIONS if len(all_of[question]) > 1]
    reasons = [c.reason for c in cells if c.reason is not None]
    if len({reason for reason in reasons if NO_PARTNERS.search(reason)}) > 1:
        cells = _merged(cells)
        reasons = [c.reason for c in cells if c.reason is not None]
    sound = [c for c in cells if c.reason is None]
    console.print(f"{len(sound)} of {len(cells)} compositions are sound{':' if sound and kept else ''}")
    for reason in (None, *_commonest(reasons)):
        mine = [c for c in cells if c.reason == reason]
        if reason is not None:
            console.print(f"\nrefused: {reason}", style="bold")
        if mine and kept:
            grid = _grid(*(HEADS.get(question, question) for question in kept))
            for row in _rows(mine):
                parts = dict(zip(QUESTIONS, row, strict=True))
                grid.add_row(*(_listed(parts[question], all_of[question]) for question in kept))
            console.print(grid)


def _merged(cells: list[Cell]) -> list[Cell]:
    """The cells, one reason for all whose actor does not take what the critic gives."""
    partners = lambda c: c.reason is not None and NO_PARTNERS.search(c.reason)
    return [dataclasses.replace(c, reason=PARTNERS) if partners(c) else c for c in cells]


def _commonest(reasons: Sequence[str]) -> list[str]:
    """The different ones, those of most cells first."""
    return [reason for reason, _ in collections.Counter(reasons).most_common()]


def _with_words(cells: list[Cell], words: Sequence[str]) -> list[Cell]:
    """The cells that have all of these names; SettingError for a name of no answer, or where no cell has them all."""
    known = [name for question in QUESTIONS for name in _names(cells, question) if name]
    for word in words:
        if word not in known:
            raise SettingError(f"{word!r} is no critic, actor, ψ or data: {nearest(word, known)}")
    found = [c for c in cells if set(words) <= {c.critic, c.actor, c.psi, c.data}]
    if not found:
        raise SettingError(f"{' '.join(words)}: no composition has them all; give one word of each question.")
    return found


def _rows(cells: Iterable[Cell]) -> list[Row]:
    """As few rows as have these cells and no others, made by joining those that differ in one question."""
    rows: list[Row] = [tuple((getattr(c, question),) for question in QUESTIONS) for c in cells]
    for i in (3, 2, 0, 1):
        joined: dict[Row, list[str]] = {}
        for row in rows:
            joined.setdefault((*row[:i], *row[i + 1 :]), []).extend(row[i])
        rows = [(*rest[:i], tuple(names), *rest[i:]) for rest, names in joined.items()]
    return rows


def _names(cells: Iterable[Cell], question: str) -> list[str]:
    return list(dict.fromkeys(getattr(c, question) for c in cells))


def _listed(names: Sequence[str], all_of: Sequence[str]) -> str:
    """The names, in short where they are many of them all."""
    left = [name for name in all_of if name not in names and name]
    if not left:
        return "any"
    return f"all but {', '.join(left)}" if 2 * len(left) < len(names) else ", ".join(filter(None, names))


def _grid(*heads: str, numbers: Sequence[int] = ()) -> Any:
    from rich.table import Table

    grid = Table(box=None, padding=(0, 2, 0, 0), show_header=any(heads), header_style="bold")
    for i, head in enumerate(heads):
        grid.add_column(head, justify="right" if i in numbers else "left", overflow="fold")
    return grid
