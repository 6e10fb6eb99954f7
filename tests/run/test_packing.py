"""`actrix.loops.packing`: many arrays as few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.loops.packing import LARGE, Packing

RNG = np.random.default_rng(0)
TREE = {
    "weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "bias": (RNG.normal(size=4).astype(np.float32), None),
    "scalar": np.float32(0.1) * np.ones((), np.float32),
    "count": [np.array(7, np.int32), np.array([True, False]), np.zeros((2, 0), np.int32)],
    "large": RNG.normal(size=LARGE).astype(np.float32),
    "bytes": RNG.integers(0, 255, (2, 3), np.uint8),
}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize("on_device", [True, False])
def test_there_and_back(matrices, on_device):
    tree = jax.tree.map(jnp.asarray, TREE) if on_device else TREE
    packing = Packing.of(tree, matrices=matrices)
    packed = packing.pack_host(tree)
    same(packing.unpack(jax.tree.map(jnp.asarray, packed)), TREE)
    for x, y in zip(jax.jit(packing.pack)(tree), packed, strict=True):
        np.testing.assert_array_equal(x, y)
    # float32, int32, bool and uint8 as a vector each, the large one, and what has two axes unless it is joined
    assert len(packed) == (5 if matrices else 4 + 3)
    same(jax.jit(lambda x: packing.unpack(packing.pack(x)))(tree), TREE)


def test_a_key_stays_alone():
    tree = {"key": jax.random.key(3), "x": jnp.ones(2)}
    packing = Packing.of(tree)
    back = jax.jit(lambda x: packing.unpack(packing.pack(x)))(tree)
    assert jax.random.key_data(back["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
    assert packing.alone == [0]


def test_none_are_joined_that_are_not_small():
    packing = Packing.of(TREE, below=0)
    assert packing.together == {}
    same(packing.unpack(packing.pack_host(TREE)), TREE)


def test_nothing():
    assert Packing.of(None).unpack(Packing.of(None).pack_host(None)) is None


def test_another_structure_is_refused():
    with pytest.raises(ValueError, match="to be packed as"):
        Packing.of(TREE).pack_host(TREE | {"bias": (TREE["bias"][0], np.zeros(2))})


def test_equal_where_structure_shapes_and_dtypes_are():
    zeros = jax.tree.map(np.zeros_like, TREE)
    assert Packing.of(TREE) == Packing.of(zeros)
    assert hash(Packing.of(TREE)) == hash(Packing.of(zeros))
    others = [
        Packing.of(TREE, matrices=False),
        Packing.of(TREE | {"weight": np.zeros((4, 3), np.float32)}),
        Packing.of(TREE | {"weight": np.zeros((3, 4), np.float16)}),
        Packing.of(list(TREE.values())),
    ]
    assert all(Packing.of(TREE) != other for other in others)
