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
    "a known divisor": lambda x, y, i, j: (jax.jit(lambda x: x / 40)(x), jax.jit(lambda x: x / 4)(y)),
    "a bool as a factor": lambda x, y, i, j: jnp.asarray(np.arange(40) % 2 == 0) * x,
    "comparisons": lambda x, y, i, j: (x == y, x != y, x < y, x <= y, x > y, x >= y, i < j, jnp.isnan(x)),
    "choices": lambda x, y, i, j: (jnp.where(x > 0, x, y), jnp.where(x > y, 0, i), jax.lax.select_n(i % 2, x, y)),
    "logic": lambda x, y, i, j: (~(x > 0), (x > 0) & (y > 0), (x > 0) | (y > 0), i ^ j, (x > y).any(), (i < 9).all()),
    "types": lambda x, y, i, j: (i.astype(float), (x > 0).astype(int), x.astype(int), i.astype(jnp.uint8)),
    "moves": lambda x, y, i, j: (x.reshape(8, 5).T, x[3:30:2], x[::-1], x[None], jnp.stack([x, y]), jnp.roll(i, 3),
                                 jax.lax.dynamic_slice(x, (35,), (9,)), jnp.concatenate([i, j]), jnp.tile(x, 2)),
    "extremes": lambda x, y, i, j: (jnp.maximum(x, 0.5), jnp.minimum(x, y), x.max(), x.min(), jnp.clip(i, 0, 3),
                                    i.max(), x.argmax(), i.argmin(), x.reshape(8, 5).max(1), x.reshape(8, 5).argmin(0)),
    "equals": lambda x, y, i, j: (jnp.maximum(x, jnp.where(x == 0, -x, x)), jnp.stack([x, -x]).min(0)),
    "sums": lambda x, y, i, j: (i.sum(), (x > 0).sum(), i.astype(float).reshape(8, 5).sum(1), (-0.0 * abs(i)).sum(),
                                (x > y).mean(), x.sum(), y.reshape(8, 5).mean(0), (2**23 + i.astype(float)).sum(),
                                i.astype(jnp.bfloat16).sum(), i.astype(jnp.float16).max(), jax.jit(jnp.vdot)(x, y),
                                jnp.outer(x[8:], x[8:]).sum(1)),
    "powers": lambda x, y, i, j: (x**2, jnp.square(y), i**2, jnp.sqrt(abs(x)), jnp.sqrt(x),
                                  jnp.outer(x[8:], x[8:]) ** 3),
    "parts": lambda x, y, i, j: (jnp.split(x, 4), jnp.split(i, [3, 9]), list(x[:3]), jax.lax.pad(x, 0.0, [(1, 2, 3)]),
                                 jnp.pad(i, 2), jax.lax.pad(y, 1.0, [(-1, 2, 0)])),
    "picked": lambda x, y, i, j: (x[i], x[jnp.abs(i)], x.reshape(4, 2, 5)[:, i % 2, j % 5], x.reshape(8, 5)[i % 8],
                                  jnp.take_along_axis(x.reshape(8, 5), (i % 5).reshape(8, 5), 1), jnp.tile(y, (2, 3)),
                                  jnp.take(x.reshape(4, 10), i % 10, 1), x.reshape(4, 2, 5)[1, 0, 3], x.take(8 * i)),
    "weak": lambda x, y, i, j: (x[0] * 0 + jnp.asarray(2.0), jnp.asarray(2) * 3, jnp.where(x > 0, 1.0, 0.0)),
    "made": lambda x, y, i, j: (jnp.arange(7.0), jnp.zeros((3, 2)), jnp.eye(3), jax.nn.one_hot(i % 4, 4)),
    "integers that wrap": lambda x, y, i, j: i.astype(jnp.uint8) + jnp.uint8(250),
}  # fmt: skip
ALONE = {"two that round", "a known divisor", "a bool as a factor"}
"""Programs that XLA may write otherwise."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_it_is_what_xla_gives(name, monkeypatch):
    """What was compiled once is XLA's from then on, so all of NumPy's comes first."""
    by_numpy, done = quick.by_numpy, []
    given = [operands(special) for special in ([], SPECIAL, SUBNORMAL)]
    monkeypatch.setattr(quick, "by_numpy", lambda *a: done.append(by_numpy(*a)) or done[-1])
    quick.calls.clear()
    ours = [OPERATIONS[name](*operands_) for operands_ in given]
    assert done or name in ALONE
    monkeypatch.setattr(quick, "CALLS", 0)
    theirs = [OPERATIONS[name](*operands_) for operands_ in given]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype, a.weak_type, a.committed) == (b.shape, b.dtype, b.weak_type, b.committed)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
