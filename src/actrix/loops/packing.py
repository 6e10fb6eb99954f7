"""Many small arrays as few: each that a compiled function takes or gives costs one to three microseconds.

That is more than what a small network computes, so that acting and learning at every step hand over one vector of each
dtype, and large arrays as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.types import PyTree

LARGE = 1 << 13
"""Numbers of an array from which on copying it costs more than handing it over."""


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """How the arrays of a pytree are packed, by their structure, shapes and dtypes. Two of the same are equal."""

    tree: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]
    together: dict[str, list[int]]
    """Which leaves are joined to one vector, of each dtype."""
    alone: list[int]
    """Which are not."""

    @classmethod
    def of(cls, tree: PyTree, *, below: int = LARGE, matrices: bool = True) -> Self:
        """That of these arrays, or of their shapes; those of fewer numbers than `below` are joined. Without `matrices`
        those with more than one axis stay alone, as products read them where they lie."""
        arrays, structure = jax.tree.flatten(tree)
        together: dict[str, list[int]] = {}
        for i, x in enumerate(arrays):
            if isinstance(x.dtype, np.dtype) and x.size < below and (matrices or np.ndim(x) < 2):
                together.setdefault(x.dtype.name, []).append(i)
        joined = set(itertools.chain(*together.values()))
        alone = [i for i in range(len(arrays)) if i not in joined]
        return cls(structure, tuple((np.shape(x), x.dtype) for x in arrays), together, alone)

    @functools.cached_property
    def _value(self) -> tuple:
        return self.tree, self.leaves, tuple(self.alone)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Packing) and self._value == other._value)

    def pack(self, tree: PyTree) -> tuple[jax.Array, ...]:
        """The arrays that are alone, and a vector of each dtype of the others; in a compiled function."""
        return self._pack(tree, jnp.concatenate)

    def pack_host(self, tree: PyTree) -> tuple[np.ndarray, ...]:
        """The same outside of one, of NumPy's arrays or JAX's; the vectors are NumPy's."""
        return self._pack(tree, np.concatenate)

    def _pack(self, tree: PyTree, concatenate: Callable) -> tuple:
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.tree:
            raise ValueError(f"{structure} was to be packed as {self.tree}")
        vectors = [concatenate([leaves[i] for i in group], axis=None) for group in self.together.values()]
        return (*[leaves[i] for i in self.alone], *vectors)

    def shapes(self) -> PyTree:
        """The pytree with shapes in place of arrays."""
        return jax.tree.unflatten(self.tree, [jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves])

    def unpack(self, arrays: Sequence[jax.Array]) -> PyTree:
        """The pytree of what was packed."""
        leaves: list[Any] = [None] * len(self.leaves)
        count = len(self.alone)
        for i, x in zip(self.alone, arrays[:count], strict=True):
            leaves[i] = x
        for group, x in zip(self.together.values(), arrays[count:], strict=True):
            parts = _cut(x, tuple(self.leaves[i][0] for i in group))
            for i, part in zip(group, parts, strict=True):
                leaves[i] = part
        return jax.tree.unflatten(self.tree, leaves)


@functools.partial(jax.jit, inline=True, static_argnums=1)
def _cut(vector: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    sizes = [np.prod(shape, dtype=int) for shape in shapes]
    return [
        jax.lax.slice(vector, (end - size,), (end,)).reshape(shape)
        for end, size, shape in zip(np.cumsum(sizes).tolist(), sizes, shapes, strict=True)
    ]
