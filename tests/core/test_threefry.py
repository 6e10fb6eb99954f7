"""JAX's random bits, as actrix lets XLA:CPU compute them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry2x32_p

# Of the Random123 distribution (Salmon et al. 2011), threefry2x32 with 20 rounds: counter, key, words.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def numpy_threefry(key1, key2, x1, x2):
    """Round after round, from the paper."""
    with np.errstate(over="ignore"):
        keys = [key1, key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA)]
        a, b = x1 + key1, x2 + key2
        for number, bits in enumerate([13, 15, 26, 6, 17, 29, 16, 24] * 2 + [13, 15, 26, 6]):
            a = a + b
            b = (b << np.uint32(bits)) | (b >> np.uint32(32 - bits))
            b = b ^ a
            if number % 4 == 3:
                turn = number // 4 + 1
                a, b = a + keys[turn % 3], b + keys[(turn + 1) % 3] + np.uint32(turn)
    return a, b


def compiled(*x):
    return jax.jit(lambda *x: threefry2x32_p.bind(*x))(*map(jnp.asarray, x))


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    given = [np.uint32([x]) for x in (*key, *counter)]
    assert [int(x[0]) for x in compiled(*given)] == list(words)
    assert [int(x[0]) for x in numpy_threefry(*given)] == list(words)


@pytest.mark.parametrize("keys", [(1, 1), (5, 1), (5, 7)])
def test_keys_of_many_blocks_and_of_each(keys):
    bits = np.random.default_rng(0).integers(0, 2**32, size=(4, 5, 7), dtype=np.uint32)
    k1, k2, x1, x2 = bits[0, : keys[0], : keys[1]], bits[1, : keys[0], : keys[1]], bits[2], bits[3]
    for found, wanted in zip(compiled(k1, k2, x1, x2), numpy_threefry(k1, k2, x1, x2), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_no_blocks():
    assert jax.random.bits(jax.random.key(0), (0,)).shape == (0,)


def test_noise_that_many_read_is_computed_once():
    """Neither in a loop, nor in each of its readers."""

    def program(key):
        noise = jax.random.normal(key, (256, 6))
        return jnp.tanh(noise), jnp.sum(noise**2, axis=1), jnp.log1p(jnp.abs(noise)), noise @ noise.T

    text = jax.jit(program).lower(jax.random.key(0)).compile().as_text()
    assert "while(" not in text
    assert 20 <= text.count(" shift-left(") <= 2 * 20  # each word of a block by itself
