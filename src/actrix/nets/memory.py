"""Memory: mapping a network over a batch, and a recurrent one along time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from actrix.core.types import PyTree


def apply(net: Any, obs: PyTree, carry: PyTree = None, mask: Array | None = None, axes: int = 1):
    """Map a network over `axes` leading axes of `obs`, `carry` and `mask`."""
    call = net
    for _ in range(axes):
        call = jax.vmap(call)
    return call(obs, carry, mask)


def zero_where(first: Array, carry: PyTree) -> PyTree:
    """Zero the memory `[N, hidden]` of the environments that start an episode."""
    return jax.tree.map(lambda c: jnp.where(first[:, None], 0.0, c), carry)


def unroll(
    net: Any, obs: PyTree, first: Array | None, carry0: PyTree, mask: Array | None, before: bool = False
) -> tuple[Any, PyTree]:
    """Outputs `[T, B]` along a sequence, and the memory after (or, `before=True`, before) each row.

    A feed-forward network is mapped over both axes at once; a recurrent one is scanned over time with the
    memory zeroed where `first` says that an episode starts.
    """
    if not net.recurrent:
        # One mapped axis: XLA:CPU multiplies [T·B, i] by [i, o] faster than [T, B, i].
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (obs, mask))
        out, _ = apply(net, flat[0], None, flat[1])
        lead = jax.tree.leaves(obs)[0].shape[:2]
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out), None

    def step(carry: PyTree, row: tuple) -> tuple[PyTree, tuple]:
        x, start, legal = row
        carry = zero_where(start, carry)
        out, after = apply(net, x, carry, legal)
        return after, (out, carry if before else after)

    _, (out, carries) = jax.lax.scan(step, carry0, (obs, first, mask))
    return out, carries
