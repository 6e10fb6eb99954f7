"""Arrays and random keys made on the host: outside of a trace JAX compiles a program for each shape and number of them.

What a run begins with is made here, so that it begins a second earlier.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.threefry import MASK, threefry
from actrix.core.types import Key, PyTree


def own(tree: PyTree) -> PyTree:
    """A copy of the arrays on the device, one after the other, so that a memory is there once more and not thrice.

    NumPy's are lent rather than copied where XLA can read them; donated, they are copied then.
    """
    return jax.tree.map(lambda x: jax.block_until_ready(jax.device_put(x, may_alias=False)), tree)


def full(shape: int | tuple[int, ...], value: float, dtype: Any = float) -> jax.Array:
    """`jnp.full(shape, value, dtype)`."""
    return jax.device_put(np.full(shape, value, jnp.result_type(dtype)))


def zeros(shape: int | tuple[int, ...], dtype: Any = float) -> jax.Array:
    """`jnp.zeros(shape, dtype)`."""
    return jax.device_put(np.zeros(shape, jnp.result_type(dtype)))


def split(key: Key, number: int = 2) -> list[Key]:
    """The keys of `jax.random.split(key, number)`, one by one."""
    if not _known(key):
        return list(jax.random.split(key, number))
    data = _numbers(key)
    return [_key(threefry(data, (i >> 32, i & MASK))) for i in range(number)]


def fold_in(key: Key, data: int | np.integer | np.ndarray | jax.Array) -> Key:
    """`jax.random.fold_in(key, data)`."""
    if not _known(key) or isinstance(data, jax.core.Tracer):
        return jax.random.fold_in(key, data)
    return _key(threefry(_numbers(key), (0, operator.index(data) & MASK)))


def _known(key: Key) -> bool:
    """Whether it is no tracer, one key, and JAX's own kind of them (which has a setting that says how they split)."""
    own = (
        not isinstance(key, jax.core.Tracer)
        and key.shape == ()
        and jax.config.values["jax_threefry_partitionable"]
    )
    return own and str(jax.random.key_impl(key)) == "threefry2x32"


def _numbers(key: Key) -> tuple[int, int]:
    first, second = np.asarray(jax.random.key_data(key)).tolist()
    return first, second


def _key(numbers: tuple[int, int]) -> Key:
    return jax.random.wrap_key_data(jax.device_put(np.array(numbers, np.uint32)), impl="threefry2x32")
