"""Data of the methods whose update is a row, not a batch: tables and eligibility traces."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from actrix.core.fields import whole


class RowByRow:
    """What has neither batches nor a memory."""

    batch_size: ClassVar[int | None] = None
    buffer_size: ClassVar[int | None] = None


@dataclasses.dataclass(frozen=True)
class Online(RowByRow):
    """Every transition is learned from once, when it has come, in the order in which they came."""

    train_freq: int = 1
    """Steps of each environment that the acting policy stays fixed for: 1 is the textbook's loop, more is faster."""

    name: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        whole(self, "train_freq")


@dataclasses.dataclass(frozen=True)
class Episodes(RowByRow):
    """Whole episodes of the policy that is learned, each used once."""

    name: ClassVar[str] = "on-policy"
