"""Rows over several devices: who learns computes the share of a batch that its device holds, XLA adds up.

A program is compiled for a mesh of devices and means what it means on one: its means are those of the whole batch, its
random numbers those of one device. So that no update has to know of it, only batches are told where they lie.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from actrix.core.types import PyTree

LEARNERS = "learners"
"""The axis of a mesh of devices that learn."""


def spread(tree: PyTree, axis: int, size: int) -> PyTree:
    """The arrays with this axis, of that size, over the learners; as they are where one device learns alone."""
    lies = lambda x: x.ndim > axis and x.shape[axis] == size
    return _put(tree, PartitionSpec(*[None] * axis, LEARNERS), lies)


def gather(tree: PyTree) -> PyTree:
    """The arrays whole on each learner, once, from which minibatches are then drawn without a word to the others."""
    return _put(tree, PartitionSpec(), lambda x: True)


def _put(tree: PyTree, where: PartitionSpec, lies: Callable[[jax.Array], bool]) -> PyTree:
    if LEARNERS not in jax.sharding.get_abstract_mesh().axis_names:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where) if lies(x) else x, tree)
