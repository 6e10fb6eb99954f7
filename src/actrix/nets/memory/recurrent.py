"""What builds the cells of a recurrent policy, and what its critic hears."""

from __future__ import annotations

from collections.abc import Callable

from actrix.core.host import split
from actrix.core.types import Key
from actrix.nets.memory.cells import GRU, LSTM, Apart, Here, Memory, Stack

KINDS: dict[str | None, type] = {"lstm": LSTM, "gru": GRU}


def recurrent(
    kind: type, size: int, layers: int, dropout: float, critic: str, features: str
) -> Callable[[int, Key], Memory]:
    """`layers` cells of `size` units by (features that they see, key).

    The `critic` has a cell of its "own", hears the "policy"'s, or sees what is at hand alone ("none"); its `features`
    are the "same" or "apart", behind the policy's.
    """

    def one(inputs: int, key: Key) -> Memory:
        if layers == 1:
            return kind(inputs, size, key)
        return Stack(
            tuple(kind(size if i else inputs, size, k) for i, k in enumerate(split(key, layers))), dropout
        )

    def apart(inputs: int, key: Key) -> Memory:
        ours, other = split(key)
        beside = one(inputs, other) if critic == "own" else Here(inputs, size, other)
        return Apart(one(inputs, ours), beside, inputs if features == "apart" else None)

    return one if critic == "policy" else apart
