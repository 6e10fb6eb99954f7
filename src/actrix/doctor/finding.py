"""One line of the report, and how what an environment raises becomes one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

from actrix.envs.guard import EnvError, words


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """'fine', 'note' (may be meant so) or 'fix' (training would learn something wrong, or fail)."""
    check: str
    result: str
    remedy: str = ""


fine, note, fix = (functools.partial(Finding, level) for level in ("fine", "note", "fix"))


def said(error: Any) -> str:
    """An exception or a warning in one line."""
    text = re.sub(
        r"\x1b\[[0-9;]*m", "", words(error) if isinstance(error, BaseException) else str(error)
    ).strip()
    return f"{type(error).__name__}: {' '.join(text.split())[:400]}"


@contextlib.contextmanager
def blame(
    findings: list[Finding], check: str, remedy: str = "mend what the sentence names"
) -> Iterator[None]:
    """What an environment raises becomes a finding."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a step that calls sys.exit() would end the training
        text = str(error) if isinstance(error, EnvError) else said(error)
        findings.append(fix(check, text, remedy))
