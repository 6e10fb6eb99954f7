"""What a memory must do, and the two that are a cell: LSTM and GRU."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.types import Key, PyTree
from actrix.nets.torso import Linear


class Forgets(abc.ABC):
    """Part of a carry that need not be zeroed to be empty."""

    @abc.abstractmethod
    def forget(self, first: Bool[Array, "*batch"]) -> Self:
        """Empty where an episode starts."""


def zero_where(first: Array, carry: PyTree) -> PyTree:
    """Zero the memory `[N, ...]` of the environments that start an episode, or what says how much of it is there."""

    def zero(c: Any) -> Any:
        if isinstance(c, Forgets):
            return c.forget(first)
        return jnp.where(first.reshape(first.shape + (1,) * (c.ndim - first.ndim)), jnp.zeros((), c.dtype), c)

    return jax.tree.map(zero, carry, is_leaf=lambda c: isinstance(c, Forgets))


class Memory(abc.ABC):
    """A module between the encoder and the branches whose output depends on the episode so far; of ONE environment.

    What it keeps from step to step, the carry, is a pytree of arrays that are all zero where an episode starts, or of
    parts that say themselves what is empty (`Forgets`).
    A trail is what `along` leaves for `after` and `starts`: arrays with the time first.
    """

    outputs: Any
    """Numbers of what it says."""

    @abc.abstractmethod
    def initial(self, batch: tuple[int, ...]) -> PyTree:
        """The carry `[*batch, ...]` of new episodes: zero."""

    @abc.abstractmethod
    def __call__(self, features: Array, carry: PyTree) -> tuple[Float[Array, " o"], PyTree]:
        """One step: (what it says, the carry after it)."""

    @abc.abstractmethod
    def along(self, features: Array, first: Bool[Array, " T"], carry0: PyTree) -> tuple[Array, PyTree]:
        """(what it says `[T, o]`, trail) along T steps, as T calls would, the carry zeroed where `first`."""

    @property
    def drops(self) -> bool:
        """Whether parts of it are dropped while it is learned."""
        return False

    def dropping(
        self, features: Array, first: Bool[Array, " T"], carry0: PyTree, key: Key
    ) -> tuple[Array, PyTree]:
        """`along` with what is dropped drawn from the key."""
        return self.along(features, first, carry0)

    @abc.abstractmethod
    def after(self, trail: PyTree, features: Array) -> Float[Array, "T o"]:
        """What it says at other observations, each in the place of what followed that row in the same episode."""

    @abc.abstractmethod
    def starts(self, trail: PyTree, length: int) -> PyTree:
        """The carries `[T/length, ...]` before rows 0, length, 2·length, …"""

    def branches(self, said: Array) -> tuple[Array, Array]:
        """What the policy and what the critic hear of what is said `[..., o]`: all, both."""
        return said, said

    @property
    def critic_part(self) -> tuple:
        """The layers that only the critic uses."""
        return ()


class Cell(Memory):
    """A recurrent cell: its steps follow each other. The trail: the carries before and after each row."""

    hidden_size: int

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers of what it says."""
        return self.hidden_size

    def along(self, features, first, carry0):
        def step(carry: PyTree, row: tuple) -> tuple[PyTree, tuple]:
            x, start = row
            before = zero_where(start, carry)
            out, carry = self(x, before)
            return carry, (out, (before, carry))

        return jax.lax.scan(step, carry0, (features, first))[1]

    def after(self, trail, features):
        return jax.vmap(self)(features, trail[1])[0]

    def starts(self, trail, length):
        return jax.tree.map(lambda c: c[::length], trail[0])


class LSTM(Cell, eqx.nn.LSTMCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); the carry is (h, c), of which h is said."""

    def __init__(self, inputs: int, hidden_size: int, key: Key):
        eqx.nn.LSTMCell.__init__(self, inputs, hidden_size, key=key)

    def initial(self, batch):
        zeros = jnp.zeros((*batch, self.hidden_size))
        return zeros, zeros

    def __call__(self, features, carry):  # type: ignore[override]
        carry = eqx.nn.LSTMCell.__call__(self, features, carry)
        return carry[0], carry


class GRU(Cell, eqx.nn.GRUCell):
    """Gated recurrent unit (Cho et al. 2014); the carry is what is said."""

    def __init__(self, inputs: int, hidden_size: int, key: Key):
        eqx.nn.GRUCell.__init__(self, inputs, hidden_size, key=key)

    def initial(self, batch):
        return jnp.zeros((*batch, self.hidden_size))

    def __call__(self, features, carry):  # type: ignore[override]
        carry = eqx.nn.GRUCell.__call__(self, features, carry)
        return carry, carry


class Stack(Memory, eqx.Module):
    """Cells one on the other, each of which hears what the one below says; the carry is of all.

    While they are learned each number that one says to the next is dropped with probability `dropout`, and the others
    are divided by 1 − dropout, as PyTorch's LSTM of several layers does.
    """

    layers: tuple[Cell, ...]
    dropout: float = eqx.field(static=True, default=0.0)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers of what the last one says."""
        return self.layers[-1].outputs

    @property
    def drops(self) -> bool:
        return self.dropout > 0

    def initial(self, batch):
        return tuple(layer.initial(batch) for layer in self.layers)

    def __call__(self, features, carry):
        said, carries = features, []
        for layer, c in zip(self.layers, carry, strict=True):
            said, c = layer(said, c)
            carries.append(c)
        return said, tuple(carries)

    def along(self, features, first, carry0):
        return self._along(features, first, carry0, lambda said, i: said)

    def dropping(self, features, first, carry0, key):
        def drop(said: Array, i: int) -> Array:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - self.dropout, said.shape)
            return jnp.where(kept, said / (1 - self.dropout), 0.0)

        return self._along(features, first, carry0, drop if self.drops else lambda said, i: said)

    def _along(self, features: Array, first: Array, carry0: PyTree, between: Any) -> tuple[Array, PyTree]:
        said, trails = features, []
        for i, (layer, c) in enumerate(zip(self.layers, carry0, strict=True)):
            said, trail = layer.along(between(said, i) if i else said, first, c)
            trails.append(trail)
        return said, tuple(trails)

    def after(self, trail, features):
        for layer, t in zip(self.layers, trail, strict=True):
            features = layer.after(t, features)
        return features

    def starts(self, trail, length):
        return tuple(layer.starts(t, length) for layer, t in zip(self.layers, trail, strict=True))


class Here(Memory, eqx.Module):
    """None: a layer of the features at hand, in the place of a memory."""

    layer: Linear

    def __init__(self, inputs: int, outputs: int, key: Key):
        self.layer = Linear(inputs, outputs, None, key)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers of the layer."""
        return self.layer.weight.shape[1]

    def initial(self, batch):
        return ()

    def __call__(self, features, carry):
        return self.layer(features), carry

    def along(self, features, first, carry0):
        return self.layer(features), ()

    def after(self, trail, features):
        return self.layer(features)

    def starts(self, trail, length):
        return ()


class Apart(Memory, eqx.Module):
    """Two cells, one for the policy and one for the critic; the carry is of both.

    RecurrentPPO of sb3-contrib with `enable_critic_lstm`. They see the same features, or (`seen`) the policy's so many
    first ones and the critic's others. They say the policy's numbers, then the critic's.
    """

    policy: Memory
    critic: Memory
    seen: int | None = eqx.field(static=True, default=None)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers that each branch hears."""
        return self.policy.outputs

    @property
    def cells(self) -> tuple[Memory, Memory]:
        """Both."""
        return self.policy, self.critic

    @property
    def drops(self) -> bool:
        return any(cell.drops for cell in self.cells)

    def _each(self, features: Array, rest: PyTree) -> Iterator[tuple[Memory, Array, PyTree]]:
        parts = (features, features) if self.seen is None else jnp.split(features, [self.seen], -1)
        return zip(self.cells, parts, rest, strict=True)

    def initial(self, batch):
        return tuple(cell.initial(batch) for cell in self.cells)

    def __call__(self, features, carry):
        said, carries = zip(*(cell(x, c) for cell, x, c in self._each(features, carry)), strict=True)
        return jnp.concatenate(said, -1), carries

    def along(self, features, first, carry0):
        both = (cell.along(x, first, c) for cell, x, c in self._each(features, carry0))
        said, trails = zip(*both, strict=True)
        return jnp.concatenate(said, -1), trails

    def dropping(self, features, first, carry0, key):
        each = zip(jax.random.split(key), self._each(features, carry0), strict=True)
        said, trails = zip(*(cell.dropping(x, first, c, k) for k, (cell, x, c) in each), strict=True)
        return jnp.concatenate(said, -1), trails

    def after(self, trail, features):
        return jnp.concatenate([cell.after(t, x) for cell, x, t in self._each(features, trail)], -1)

    def starts(self, trail, length):
        return tuple(cell.starts(t, length) for cell, t in zip(self.cells, trail, strict=True))

    def branches(self, said):
        return tuple(jnp.split(said, 2, -1))

    @property
    def critic_part(self):
        return (self.critic,)
