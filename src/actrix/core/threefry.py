"""JAX's random bits, as XLA:CPU compiles and computes them fastest; the bits are the same.

JAX writes Threefry-2x32 (Salmon et al. 2011) for a CPU as a loop of five steps, so that it is neither computed nor
compiled anew in each operation that reads it: XLA fuses cheap elementwise operations into all of their readers. The
loop costs some sixty small kernels a call. Here the twenty rounds are written out, and a division by one that XLA does
not see through ends them: a division counts as expensive, so it is computed once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

WORD = 32
PARITY = np.uint32(0x1BD11BDA)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
GROUPS = 5


def threefry(key1: jax.Array, key2: jax.Array, x1: jax.Array, x2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both words of each block: 20 rounds, with a word of the key added after every fourth; shapes broadcast."""
    keys = (key1, key2, key1 ^ key2 ^ PARITY)
    a, b = x1 + key1, x2 + key2
    for group in range(GROUPS):
        for bits in ROTATIONS[group % 2]:
            a = a + b
            b = (b << np.uint32(bits) | b >> np.uint32(WORD - bits)) ^ a
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    with jax.enable_x64(True):
        one = jnp.clip(key1, np.uint32(1), np.uint32(1)).astype(np.float64)
        one = jnp.broadcast_to(one, a.shape)
        hold = lambda word: lax.div(word.astype(np.float64), one).astype(np.uint32)
        return hold(a), hold(b)


def set_up() -> None:
    """Let programs for the CPU compute JAX's random bits so, those of others in this process too."""
    mlir.register_lowering(threefry2x32_p, mlir.lower_fun(threefry, multiple_results=True), platform="cpu")
