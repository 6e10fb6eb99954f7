"""What a memory must do, and the two that are a cell: LSTM and GRU."""

from __future__ import annotations

import abc
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.types import Key, PyTree


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

    What it keeps from step to step, the carry, is a pytree of arrays that are all zero where an episode starts, or `Forgets`.
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


class Apart(Memory, eqx.Module):
    """Two cells that see the same features, one for the policy and one for the critic; the carry is of both.

    RecurrentPPO of sb3-contrib with `enable_critic_lstm`. They say the policy's numbers, then the critic's.
    """

    policy: Memory
    critic: Memory

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers that each branch hears."""
        return self.policy.outputs

    @property
    def cells(self) -> tuple[Memory, Memory]:
        """Both."""
        return self.policy, self.critic

    def initial(self, batch):
        return tuple(cell.initial(batch) for cell in self.cells)

    def __call__(self, features, carry):
        said, carries = zip(
            *(cell(features, c) for cell, c in zip(self.cells, carry, strict=True)), strict=True
        )
        return jnp.concatenate(said, -1), carries

    def along(self, features, first, carry0):
        pairs = zip(self.cells, carry0, strict=True)
        said, trails = zip(*(cell.along(features, first, c) for cell, c in pairs), strict=True)
        return jnp.concatenate(said, -1), trails

    def after(self, trail, features):
        pairs = zip(self.cells, trail, strict=True)
        return jnp.concatenate([cell.after(t, features) for cell, t in pairs], -1)

    def starts(self, trail, length):
        return tuple(cell.starts(t, length) for cell, t in zip(self.cells, trail, strict=True))

    def branches(self, said):
        return tuple(jnp.split(said, 2, -1))

    @property
    def critic_part(self):
        return (self.critic,)
