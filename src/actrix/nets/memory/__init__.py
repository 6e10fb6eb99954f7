"""Memory: mapping a network over a batch, and one that remembers along time."""

from __future__ import annotations

import math
from typing import Any

import jax
from jaxtyping import Array

from actrix.core.types import PyTree
from actrix.nets.memory.cells import zero_where

__all__ = ["apply", "follow", "starts", "unroll", "zero_where"]


def apply(net: Any, obs: PyTree, carry: PyTree = None, mask: Array | None = None, axes: int = 1):
    """Map a network over `axes` leading axes of `obs`, `carry` and `mask`."""
    call = net
    for _ in range(axes):
        call = jax.vmap(call)
    return call(obs, carry, mask)


def unroll(
    net: Any, obs: PyTree, first: Array | None, carry0: PyTree, mask: Array | None, key: Array | None = None
) -> tuple[Any, PyTree]:
    """Outputs `[T, B]` along a sequence, and the trail of what was remembered on the way (None without memory).

    A feed-forward network is mapped over both axes at once; a memory goes along time as its kind does
    (`Memory.along`), forgetting all where `first` says that an episode starts; with a key as it does while it is
    learned (`Memory.dropping`).
    """
    if not net.recurrent:
        return _rows(lambda x, legal: net(x, None, legal)[0], obs, mask), None
    features, cell = _rows(net.seen, obs), net.cell
    if key is None:
        said, trail = jax.vmap(cell.along, (1, 1, 0), 1)(features, first, carry0)
    else:
        keys = jax.random.split(key, features.shape[1])
        said, trail = jax.vmap(cell.dropping, (1, 1, 0, 0), 1)(features, first, carry0, keys)
    return _rows(net.say, *net.cell.branches(said), mask), trail


def follow(net: Any, trail: PyTree, obs: PyTree, mask: Array | None) -> Any:
    """Outputs `[T, B]` at other observations, one after each row of the sequence that left this trail."""
    said = jax.vmap(net.cell.after, 1, 1)(trail, _rows(net.seen, obs))
    return _rows(net.say, *net.cell.branches(said), mask)


def starts(net: Any, trail: PyTree, length: int) -> PyTree:
    """The memory `[1, (T/length)·B, ...]` before each part of `length` rows."""
    carries = jax.vmap(lambda x: net.cell.starts(x, length), 1, 1)(trail)
    return jax.tree.map(lambda c: c.reshape(1, math.prod(c.shape[:2]), *c.shape[2:]), carries)


def _rows(call: Any, *arguments: PyTree) -> Any:
    """Map over both axes `[T, B]` as one: XLA:CPU multiplies [T·B, i] by [i, o] faster than [T, B, i]."""
    lead = jax.tree.leaves(arguments)[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(math.prod(lead), *x.shape[2:]), arguments)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), jax.vmap(call)(*flat))
