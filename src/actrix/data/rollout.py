"""On-policy chunks cut into sequences and shuffled into minibatches."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp

from actrix.core.rows import Rows
from actrix.core.types import Key, PyTree


def sequences(rows: PyTree, length: int) -> PyTree:
    """Leaves `[T, N, ...]` → `[length, (T/length)·N, ...]`: consecutive rows of one environment per column.

    With length 1 every transition is an item of its own.
    """

    def cut(x: jax.Array) -> jax.Array:
        t, n = x.shape[:2]
        x = x.reshape(t // length, length, n, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0).reshape(length, (t // length) * n, *x.shape[3:])

    return jax.tree.map(cut, rows)


def minibatch_indices(key: Key, items: int, size: int) -> jax.Array:
    """Disjoint random index sets `[⌈items/size⌉, size]` that together hold every item once.

    Where `size` does not divide, the last one is smaller: its places that hold nothing have the index `items`.
    """
    order = jnp.arange(items) if size == items else permutation(key, items)
    nothing = -items % size
    return jnp.pad(order, (0, nothing), constant_values=items).reshape(-1, size)


def modulo(x: jax.Array, n: int | jax.Array) -> jax.Array:
    """x modulo n of integers that are not negative; `%` would be ten operations more for their sign."""
    return jax.lax.rem(x, jnp.full_like(x, n))


def permutation(key: Key, n: int) -> jax.Array:
    """A random permutation of 0..n−1 without sorting (`jax.random.permutation` sorts: 4–10× the time on CPU).

    Where n = a·b, index (i, j) runs through eight Feistel rounds i ← i + F(j) mod a, j ← j + F(i) mod b with
    fresh random tables F: always a bijection, close to but not exactly uniform over all n! orders. If n has no
    factor near √n, it sorts.
    """
    b = _factor(n)
    a = n // b
    if b < 4:
        return jax.random.permutation(key, n)
    rounds = 4
    # Drawn as integers below a common multiple would bias nothing here: 2^32 mod a is negligible. With
    # their signs they would be a sixth of PPO's whole program.
    bits = jax.random.bits(key, (rounds, a + b))
    at = lambda table, place: table.at[place].get(mode="promise_in_bounds")
    number = jnp.arange(n, dtype=jnp.uint32)
    i, j = number // b, modulo(number, b)
    for r in range(rounds):
        i = modulo(i + at(modulo(bits[r, :b], a), j), a)
        j = modulo(j + at(modulo(bits[r, b:], b), i), b)
    return (i * b + j).astype(jnp.int32)


def _factor(n: int) -> int:
    """The largest factor of n that is at most √n."""
    for b in range(int(n**0.5), 0, -1):
        if n % b == 0:
            return b
    return 1


def samples_first(index: jax.Array, rows: Rows) -> jax.Array:
    """Minibatches `[M, size]` of the same items, those that hold a sample in the first of them.

    Padding of whole episodes is most of a chunk where they are short: spread over all minibatches it would leave each
    with a few samples, or with one, whose normalised ψ is 0.
    """
    if rows.weight is None or len(index) == 1:
        return index
    holds = jnp.any((rows.weight > 0).reshape(-1, rows.weight.shape[-1]), axis=0)
    holds = jnp.append(holds, False)  # a place that holds nothing
    order = index.reshape(-1)
    return order[jnp.argsort(~holds[order], stable=True)].reshape(index.shape)


def sequences_fit(rows: int, length: int, batch_size: int | None, given: int | None) -> None:
    """Raise ValueError where a chunk's rows are not whole training sequences of a memory; warn where nobody asked for
    sequences as short as these."""
    if rows % length:
        raise ValueError(f"n_steps={rows} is not a multiple of sequence_length={length}.")
    if length < 8 and rows >= 64 and given is None:
        warnings.warn(
            f"training sequences have {length} rows, the largest divisor up to 64 of n_steps={rows} and "
            f"batch_size={batch_size}, and a memory learns nothing across them: take others.",
            stacklevel=1,
        )


def batch_fits(
    batch_size: int | None, rows: int, num_envs: int, length: int | None = None, given: int | None = None
) -> None:
    """Raise ValueError, with fitting sizes, unless a chunk gives batches, of which the last may be smaller, of a
    memory's training sequences of `length` rows."""
    if length is not None:
        sequences_fit(rows, length, batch_size, given)
    total, length = rows * num_envs, length or 1
    if batch_size is None or (batch_size <= total and batch_size % length == 0):
        return
    fitting = divisors(total, length)
    nearest = sorted(sorted(fitting, key=lambda d: abs(d - batch_size))[:3])
    sequences = f" into sequences of {length} rows" if length > 1 else ""
    raise ValueError(
        f"batch_size={batch_size} does not fit into n_steps × n_envs = {rows} × {num_envs} = {total}{sequences}; "
        f"near it lie {', '.join(map(str, nearest))}."
    )


def divisors(total: int, length: int) -> list[int]:
    """Those that are multiples of `length`, ascending: the sizes of batches that divide a chunk."""
    return [d for d in range(length, total + 1, length) if total % d == 0]
