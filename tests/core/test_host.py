"""What is made on the host is what JAX makes, and nothing is compiled for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.core import host
from actrix.core.optim import OPTIMIZERS, at_rest, flatten, make_optimizer
from actrix.loops.runner import as_key


def numbers(keys):
    return np.array([jax.random.key_data(key) for key in keys])


@pytest.mark.parametrize("seed", [0, 1, 123456789, 2**32 - 1])
def test_keys_are_jaxs(seed):
    key = jax.random.key(seed)
    for count in (1, 2, 3, 8):
        np.testing.assert_array_equal(
            numbers(host.split(key, count)), jax.random.key_data(jax.random.split(key, count))
        )
    for data in (0, 1, 2**32 - 1, np.int32(-5), np.asarray(7), jnp.uint32(9)):
        np.testing.assert_array_equal(
            numbers([host.fold_in(key, data)]), numbers([jax.random.fold_in(key, data)])
        )


def test_keys_are_jaxs_under_a_trace():
    key = jax.random.key(3)
    both = lambda f, g: jax.tree.map(jax.random.key_data, (f, g))
    traced = jax.jit(lambda key, n: both(host.split(key, 3)[2], host.fold_in(key, n)))(key, 4)
    np.testing.assert_array_equal(traced, both(host.split(key, 3)[2], host.fold_in(key, 4)))


@pytest.mark.parametrize("option", ["jax_threefry_partitionable", "jax_default_prng_impl"])
def test_another_kind_of_keys_is_left_to_jax(option):
    before = jax.config.values[option]
    jax.config.update(option, {"jax_threefry_partitionable": False}.get(option, "rbg"))
    try:
        key = jax.random.key(3)
        np.testing.assert_array_equal(
            numbers(host.split(key, 3)), jax.random.key_data(jax.random.split(key, 3))
        )
    finally:
        jax.config.update(option, before)


def test_arrays_are_jaxs():
    for dtype in (float, int, bool, jnp.float32, jnp.uint8):
        for made, jaxs in (
            (host.zeros((2, 3), dtype), jnp.zeros((2, 3), dtype)),
            (host.full(4, 1.5, dtype), jnp.full(4, 1.5, dtype)),
        ):
            assert (made.dtype, made.weak_type) == (jaxs.dtype, jaxs.weak_type)
            np.testing.assert_array_equal(made, jaxs)


def test_an_own_copy_outlives_what_it_was_made_of():
    first = jnp.arange(5.0)
    copy, key = host.own((first, jax.random.key(1)))
    jax.jit(lambda x: x + 1, donate_argnums=0)(first)
    assert first.is_deleted()
    np.testing.assert_array_equal(copy, np.arange(5.0))
    np.testing.assert_array_equal(numbers([key]), numbers([jax.random.key(1)]))


def test_parameters_are_one_vector_and_come_back_alike_known_and_traced():
    net = {"w": jnp.arange(6.0).reshape(2, 3), "n": 3, "b": jnp.ones(2), "s": jnp.float32(7)}
    vector = lambda net: flatten(net)[0]
    theta, back = flatten(net)
    np.testing.assert_array_equal(theta, jax.jit(vector)(net))
    jax.tree.map(np.testing.assert_array_equal, back(theta * 1), net)
    half = flatten({"a": jnp.ones(2, jnp.float16), "b": jnp.ones(1)})
    assert half[0].dtype == jnp.float32
    assert half[1](half[0])["a"].dtype == jnp.float16


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_at_rest_is_one_that_begins(name):
    optimizer, theta = make_optimizer(name, 0.5, 1e-8), jnp.arange(3.0)
    begun, made = optimizer.init(theta), at_rest(optimizer, theta)
    assert jax.tree.structure(begun) == jax.tree.structure(made)
    jax.tree.map(np.testing.assert_array_equal, made, begun)


def test_nothing_is_compiled_for_them():
    from jax._src import test_util

    key, shape = as_key(np.array([1, 2], np.uint32)), (3, 17, 29)  # which no other test has
    with test_util.count_jit_and_pmap_lowerings() as count:
        host.split(key, 13), host.fold_in(key, 3), host.zeros(shape), host.full(shape, 2.0)
        flatten([host.own(np.ones(shape))])
    assert count() == 0
