"""Minibatches hold every item once, in an order that is as good as random; sequences keep their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from actrix.data.rollout import minibatch_indices, permutation, sequences


@pytest.mark.parametrize("n", [1, 2, 3, 4, 12, 16, 97, 101, 128, 360, 2 * 997, 2048, 2**12 + 4, 4096 * 3])
def test_permutation_is_a_bijection(n):
    orders = [np.asarray(permutation(jax.random.key(seed), n)) for seed in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n > 100:
        assert (orders[0] != orders[1]).mean() > 0.9
        assert (orders[0] != np.arange(n)).mean() > 0.9


@pytest.mark.parametrize("n", [16, 24, 36, 64])
def test_permutation_is_roughly_uniform(n):
    """Where each item lands, and which item follows which, by χ² over many keys."""
    keys = jax.random.split(jax.random.key(0), 200 * n)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, n)))(keys))
    position = np.zeros((n, n))
    np.add.at(position, (np.broadcast_to(np.arange(n), orders.shape), orders), 1)
    # Rows and columns of the table are fixed sums, hence (n − 1)² degrees of freedom.
    statistic = ((position - 200) ** 2 / 200).sum()
    assert scipy.stats.chi2.sf(statistic, (n - 1) ** 2) > 1e-6
    gap = (orders[:, 1] - orders[:, 0]) % n
    counts = np.bincount(gap, minlength=n)
    assert counts[0] == 0
    assert counts[1:].min() > 0.75 * len(orders) / (n - 1)
    assert counts[1:].max() < 1.25 * len(orders) / (n - 1)


@pytest.mark.parametrize(
    ("items", "size"), [(64, 16), (60, 12), (7, 7), (2048, 64), (97, 1), (10, 4), (97, 96)]
)
def test_minibatches_hold_every_item_once(items, size):
    index = np.asarray(minibatch_indices(jax.random.key(1), items, size))
    assert index.shape == (-(-items // size), size)
    np.testing.assert_array_equal(np.sort(index.ravel())[:items], np.arange(items))
    assert (index.ravel()[items:] == items).all()


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_sequences_are_consecutive_rows_of_one_environment(length):
    t, n = 6, 4
    rows = {"x": jnp.arange(t * n).reshape(t, n), "y": jnp.arange(t * n * 2).reshape(t, n, 2), "none": None}
    cut = sequences(rows, length)
    assert cut["x"].shape == (length, t * n // length)
    assert cut["none"] is None
    for item in range(t * n // length):
        block, env = divmod(item, n)
        expected = rows["x"][block * length : (block + 1) * length, env]
        np.testing.assert_array_equal(cut["x"][:, item], expected)
        np.testing.assert_array_equal(cut["y"][:, item, 1], 2 * expected + 1)
