"""What `quick.py` lets NumPy do outside of programs has the bits of XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quick

SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 3e38, 1.0, -1.0]
SUBNORMAL = [1e-40, -1e-39]


def operands(special):
    """Two arrays of numbers with these among them, and two of integers."""
    rng = np.random.default_rng(0)
    x = np.concatenate([special, rng.normal(size=40 - len(special))]).astype(np.float32)
    i = rng.integers(-5, 6, 40)
    return [jnp.asarray(a) for a in (x, rng.permutation(x), i, rng.permutation(i))]


OPERATIONS = {
    "arithmetic": lambda x, y, i, j: (x + y, x - y, x * y, x / y, -x, x + 1, 2 * i, i - j, i * j, abs(i)),
    "two that round": lambda x, y, i, j: jax.jit(lambda x, y: x * y + x)(x, y),
    "a bool as a factor": lambda x, y, i, j: jnp.asarray(np.arange(40) % 2 == 0) * x,
    "comparisons": lambda x, y, i, j: (x == y, x != y, x < y, x <= y, x > y, x >= y, i < j, jnp.isnan(x)),
    "choices": lambda x, y, i, j: (jnp.where(x > 0, x, y), jnp.where(x > y, 0, i), jax.lax.select_n(i % 2, x, y)),
    "logic": lambda x, y, i, j: (~(x > 0), (x > 0) & (y > 0), (x > 0) | (y > 0), i ^ j, (x > y).any(), (i < 9).all()),
    "types": lambda x, y, i, j: (i.astype(float), (x > 0).astype(int), x.astype(int), i.astype(jnp.uint8)),
    "moves": lambda x, y, i, j: (x.reshape(8, 5).T, x[3:30:2], x[::-1], x[None], jnp.stack([x, y]), jnp.roll(i, 3),
                                 jax.lax.dynamic_slice(x, (35,), (9,)), jnp.concatenate([i, j]), jnp.tile(x, 2)),
    "made": lambda x, y, i, j: (jnp.arange(7.0), jnp.zeros((3, 2)), jnp.eye(3), jax.nn.one_hot(i % 4, 4)),
    "integers that wrap": lambda x, y, i, j: i.astype(jnp.uint8) + jnp.uint8(250),
}  # fmt: skip
ALONE = {"two that round", "a bool as a factor"}
"""Programs that XLA may write otherwise."""


@pytest.mark.parametrize("special", [SPECIAL, SUBNORMAL], ids=["special", "subnormal"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_is_what_xla_gives(name, special, monkeypatch):
    by_numpy, done = quick.by_numpy, []
    given = operands(special)
    monkeypatch.setattr(quick, "by_numpy", lambda *a: done.append(by_numpy(*a)) or done[-1])
    quick.calls.clear()
    ours = OPERATIONS[name](*given)
    assert done or name in ALONE
    monkeypatch.setattr(quick, "CALLS", 0)
    theirs = OPERATIONS[name](*given)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype, a.weak_type, a.committed) == (b.shape, b.dtype, b.weak_type, b.committed)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
