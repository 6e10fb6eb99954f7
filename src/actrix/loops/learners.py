"""Learners: the devices of this machine that compute a share of each batch, in one program over all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from actrix.core.contract import Algorithm
from actrix.core.shards import LEARNERS
from actrix.core.types import Chunk, PyTree
from actrix.loops.runner import as_key, iteration_keys, shared


@functools.cache
def mesh_of(learners: int) -> Mesh:
    """So many of the devices, of all processes that learn together, as a mesh."""
    return Mesh(np.array(jax.devices()[:learners]), (LEARNERS,), axis_types=(AxisType.Auto,))


def placed(tree: PyTree, learners: int, axis: int = 0, size: int = 0) -> PyTree:
    """The arrays on all learners: those with this axis, of that size, in shares where they can be equal, the others
    whole on each."""
    return jax.tree.map(_put, tree, shares(tree, learners, axis, size))


def _put(x: Any, where: NamedSharding) -> jax.Array:
    if where.is_fully_addressable:
        return jax.device_put(x, where)
    if isinstance(x, jax.Array) and x.sharding == where:
        return x
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return as_key(_put(jax.random.key_data(x), where))
    # Several processes: each has the whole array and puts its own share of it on its devices.
    array = np.asarray(x)
    return jax.make_array_from_callback(array.shape, where, lambda share: array[share])


def shares(tree: PyTree, learners: int, axis: int = 0, size: int = 0) -> PyTree:
    """Where `placed` puts the arrays."""
    mesh = mesh_of(learners)

    def lies(x: Any) -> NamedSharding:
        cut = size and size % learners == 0 and np.ndim(x) > axis and np.shape(x)[axis] == size
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, LEARNERS) if cut else PartitionSpec())

    return jax.tree.map(lies, tree)


def _over(learners: int, function: Callable) -> Callable:
    """`function(learner, chunk, …)` → (learner, …) compiled; over several devices with the learner whole on each of
    them and the chunk's environments shared among them, to the same result up to rounding."""
    if learners == 1:
        return jax.jit(function, donate_argnums=0)
    everywhere = NamedSharding(mesh_of(learners), PartitionSpec())
    whole = jax.jit(function, donate_argnums=0, out_shardings=everywhere)

    def call(learner: PyTree, chunk: Any, *more: Any) -> Any:
        chunk = placed(chunk, learners, 1, chunk.reward.shape[1])
        with jax.set_mesh(mesh_of(learners)):
            return whole(placed(learner, learners), chunk, *placed(more, learners))

    return call


@shared
def _programs(algorithm: Algorithm, shapes: tuple, learners: int) -> tuple[Callable, Callable]:
    """(learn, observe) for observations and actions of these shapes."""

    def learn(learner: PyTree, chunk: Chunk, key: jax.Array, iteration: jax.Array) -> tuple:
        return algorithm.learn(learner, chunk, iteration_keys(key, iteration)[1])

    return _over(learners, learn), _over(learners, algorithm.observe)


class Learners:
    """Who learns from chunks: so many devices of this process."""

    def __init__(self, count: int = 1):
        self.count = count

    def programs(self, algorithm: Algorithm, shapes: tuple) -> tuple[Callable, Callable]:
        """`learn(learner, chunk, key, iteration)` → (learner, metrics) and `observe(learner, chunk)` → learner, which
        take the learner's arrays; for observations and actions of these shapes."""
        return _programs(algorithm, shapes, self.count)

    def close(self) -> None:
        """Nothing to release."""


def here(tree: PyTree) -> PyTree:
    """The first device's copy of arrays that are whole on each, without copying: what acts does so on one device."""
    return jax.tree.map(lambda x: x.addressable_data(0) if len(x.devices()) > 1 else x, tree)


def check_learners(algorithm: Algorithm, devices: int, processes: int, backend: str, grouped: bool) -> None:
    """Raise ValueError where so many devices of each of so many processes cannot learn together, before anything is
    started."""
    if devices == processes == 1:
        return
    if not algorithm.learns_in_shares or (algorithm.steps_singly and not algorithm.replays_transitions):
        raise ValueError(
            "learners share batches, and this algorithm learns from each step as it comes: take one."
        )
    if algorithm.steps_singly and backend != "jax" and not grouped:
        raise ValueError(
            "learners of a replay memory need environments in groups (envs_per_group, actors), or compiled ones: the "
            "ordinary loop learns and acts in one program on one device."
        )
    if processes > 1 and backend == "jax":
        raise ValueError(
            "learner_processes learn from chunks sent to them, and backend='jax' collects in the learner's own "
            "program: take learners on this machine's devices, or backend='gymnasium'."
        )
    if processes == 1 and devices > (there := jax.local_device_count()):
        raise ValueError(
            f"learners={devices} are more than the {there} devices of this process ({jax.default_backend()}): take "
            f"fewer, start with XLA_FLAGS=--xla_force_host_platform_device_count={devices} for devices on the CPU, or "
            "let learner_processes hold them."
        )
