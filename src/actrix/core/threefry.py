"""JAX's own random numbers, Threefry-2x32, with the rounds written out.

On a CPU JAX runs the rounds as a loop: some thirty operations for each key or draw, which in a program of small
networks is as much as all else, and a tenth of its compiling. Written out they are one operation, and the same bits.
XLA makes a fused draw again for each of its readers, so that where many keys are made the loop is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry2x32_p

from actrix.core.types import Key

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
MASK = 0xFFFFFFFF
MANY = 128
"""Keys made at once from which on the loop is kept."""


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"), of numbers below
    2³² or of arrays of uint32."""
    mask = MASK if isinstance(key[0], int) else np.uint32(MASK)  # arrays wrap by themselves
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = (counter[0] + key[0]) & mask, (counter[1] + key[1]) & mask
    for i in range(5):
        for turn in ROTATIONS[i % 2]:
            a = (a + b) & mask
            b = ((b << turn | b >> 32 - turn) & mask) ^ a
        a, b = (a + schedule[(i + 1) % 3]) & mask, (b + schedule[(i + 2) % 3] + i + 1) & mask
    return a, b


def written_out(key: Key, numbers: int = 0) -> Key:
    """The same key, which JAX's functions (but `poisson`, which knows its own keys only) draw the same numbers with; as
    it is where it is to make many keys, or where JAX is set to split keys otherwise."""
    if numbers > MANY or not jax.config.values["jax_threefry_partitionable"]:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_WRITTEN_OUT)


def plain(keys: Key) -> Key:
    """The same keys as JAX's own, for what is not of this library: environments keep them and ask what they are."""
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl="threefry2x32")


def _at(key: jax.Array, shape: tuple[int, ...], rounds: Callable = threefry) -> tuple[jax.Array, jax.Array]:
    if math.prod(shape) > MASK:
        raise NotImplementedError(f"{shape}: a draw of more than 2³² numbers")
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return rounds((key[0], key[1]), (jnp.zeros_like(counter), counter))


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    many = math.prod(shape) > MANY
    return jnp.stack(_at(key, shape, _looped if many else threefry), axis=-1)


def _looped(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    return threefry2x32_p.bind(*key, *counter)


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    data = jnp.asarray(data, jnp.uint32)
    return jnp.stack(threefry((key[0], key[1]), (jnp.zeros_like(data), data)))


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    high, low = _at(key, shape)
    if width == 64:
        return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _seed(seed: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


_WRITTEN_OUT: Any = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="threefry2x32, written out",
    tag="fryw",
)  # fmt: skip
