"""What a critic of actions puts out per action: a number, the atoms of a categorical distribution, or quantiles.

`Representation` serves Q(s, ·) of one network (`critics.q`), `Joined` an ensemble of Q(s, a) (`critics.ensemble`). The
formulas are those of `critics.distributional`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from actrix.core.fields import finite, whole
from actrix.core.rows import Rows
from actrix.core.types import Key
from actrix.critics import distributional as dist

Read = Callable[[jax.Array | None], jax.Array]
"""taus `[*B, M]` or None → the network's output at some observations."""


def huber(error: jax.Array, delta: float = 1.0) -> jax.Array:
    """½e² within ±δ, δ(|e| − ½δ) outside."""
    size = jnp.abs(error)
    return jnp.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


class Representation(abc.ABC):
    """Of Q(s, ·) by one network."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()
    distributional: ClassVar[bool] = True

    atoms: ClassVar[int] = 1
    """Outputs per action."""
    embedding: ClassVar[int] = 0
    """Width of the embedding of τ of an implicit quantile network."""

    @abc.abstractmethod
    def q(self, read: Read, batch: tuple[int, ...]) -> jax.Array:
        """Q(s, ·) `[*B, A]` of a network's output for a batch of such axes *B."""

    def taus(self, key: Key, batch: tuple[int, ...]) -> jax.Array | None:
        """Levels τ that the network is asked for; None where they are fixed."""
        return None

    @abc.abstractmethod
    def target(self, chosen: jax.Array, rows: Rows) -> jax.Array:
        """The distribution of r + γ_t Z from the output `[*B, K]` at the action taken in s′."""

    @abc.abstractmethod
    def loss(self, out: jax.Array, taus: jax.Array | None, target: jax.Array) -> tuple[jax.Array, ...]:
        """(loss `[*B]`, priority `[*B]`, values) of the output `[*B, K]` at the rows' own actions."""


@dataclasses.dataclass(frozen=True)
class Number(Representation):
    """Q itself."""

    name: ClassVar[str] = "number"
    distributional: ClassVar[bool] = False

    def q(self, read, batch):
        return read(None)

    def target(self, chosen, rows):
        raise NotImplementedError

    def loss(self, out, taus, target):
        return huber(out - target), jnp.abs(out - target), out


@dataclasses.dataclass(frozen=True)
class Support:
    """`n_atoms` returns, evenly spaced between v_min and v_max."""

    n_atoms: int = 51
    v_min: float = -100.0
    v_max: float = 100.0
    """The support must hold every return that the discount allows."""

    name: ClassVar[str] = "c51"
    structural: ClassVar[tuple[str, ...]] = ("v_min", "v_max")
    positional: ClassVar[tuple[str, ...]] = ("n_atoms", "v_min", "v_max")

    def __post_init__(self) -> None:
        whole(self, "n_atoms", least=2)
        finite(self, "v_min", "v_max")
        if not self.v_min < self.v_max:
            raise ValueError(f"v_min={self.v_min} must be below v_max={self.v_max}.")


@dataclasses.dataclass(frozen=True)
class Categorical(Support, Representation):
    """Probabilities of the support's returns; the priority is the KL (Bellemare et al. 2017)."""

    @property
    def atoms(self) -> int:  # type: ignore[override]
        return self.n_atoms

    @property
    def support(self) -> jax.Array:
        """z_0 … z_{M−1}."""
        return jnp.linspace(self.v_min, self.v_max, self.n_atoms)

    def q(self, read, batch):
        return jax.nn.softmax(read(None), axis=-1) @ self.support

    def target(self, chosen, rows):
        return dist.categorical_projection(
            self.support, jax.nn.softmax(chosen, axis=-1), rows.reward, rows.discount
        )

    def loss(self, out, taus, target):
        losses = dist.categorical_loss(out, target)
        entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
        return losses, losses - entropy, jax.nn.softmax(out) @ self.support


@dataclasses.dataclass(frozen=True)
class Quantiles(Representation):
    """`n_quantiles` quantiles at the midpoints of equal levels; the priority is the loss (Dabney et al. 2018a)."""

    n_quantiles: int = 50

    name: ClassVar[str] = "qr"
    positional: ClassVar[tuple[str, ...]] = ("n_quantiles",)

    def __post_init__(self) -> None:
        whole(self, "n_quantiles", least=2)

    @property
    def atoms(self) -> int:  # type: ignore[override]
        return self.n_quantiles

    def q(self, read, batch):
        return jnp.mean(read(None), axis=-1)

    def target(self, chosen, rows):
        return rows.reward[..., None] + rows.discount[..., None] * chosen

    def loss(self, out, taus, target):
        taus = jnp.broadcast_to(dist.midpoints(self.n_quantiles), (*target.shape[:-1], self.n_quantiles))
        losses = dist.quantile_huber_loss(out, taus, target)
        return losses, losses, out


@dataclasses.dataclass(frozen=True)
class ImplicitQuantiles(Representation):
    """Quantiles at levels that are drawn and embedded (Dabney et al. 2018b)."""

    n_quantiles: int = 50
    """Samples of τ and of τ′ in the loss."""
    n_policy_quantiles: int = 32
    """Midpoints that acting averages over (sampled in the paper)."""
    quantile_dim: int = 64

    name: ClassVar[str] = "iqn"
    positional: ClassVar[tuple[str, ...]] = ("n_quantiles", "n_policy_quantiles", "quantile_dim")

    def __post_init__(self) -> None:
        whole(self, "n_quantiles", least=2)
        whole(self, "n_policy_quantiles", "quantile_dim")

    @property
    def embedding(self) -> int:  # type: ignore[override]
        return self.quantile_dim

    def q(self, read, batch):
        levels = dist.midpoints(self.n_policy_quantiles)
        return jnp.mean(read(jnp.broadcast_to(levels, (*batch, self.n_policy_quantiles))), axis=-1)

    def taus(self, key, batch):
        return jax.random.uniform(key, (*batch, self.n_quantiles))

    def target(self, chosen, rows):
        return rows.reward[..., None] + rows.discount[..., None] * chosen

    def loss(self, out, taus, target):
        losses = dist.quantile_huber_loss(out, taus, target)
        return losses, losses, out


REPRESENTATIONS = (Number, Categorical, Quantiles, ImplicitQuantiles)


# ---------------------------------------------------------------------------- ensembles


class Joined(abc.ABC):
    """Of Q(s, a) by E critics with K outputs each, arrays `[B, E, K]`."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()
    distributional: ClassVar[bool] = True
    atoms: ClassVar[int] = 1

    def mean(self, q: jax.Array) -> jax.Array:
        """Q of each critic, `[B, E]`."""
        return jnp.mean(q, axis=-1)

    @abc.abstractmethod
    def target(self, q: jax.Array, penalty: jax.Array, rows: Rows) -> jax.Array:
        """Of r + γ_t(Z(s′, a′) − penalty), Z joined over the critics."""

    @abc.abstractmethod
    def loss(self, q: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(loss summed over the critics, priority), `[B]`."""


def _column(x: jax.Array) -> jax.Array:
    return x[:, None, None]


@dataclasses.dataclass(frozen=True)
class Numbers(Joined):
    """Numbers, joined by their minimum (clipped double Q, Fujimoto et al. 2018)."""

    name: ClassVar[str] = "numbers"
    distributional: ClassVar[bool] = False

    def target(self, q, penalty, rows):
        least = jnp.min(q, axis=1)[:, None]
        return _column(rows.reward) + _column(rows.discount) * (least - _column(penalty))

    def loss(self, q, target):
        return 0.5 * jnp.sum((q - target) ** 2, axis=(1, 2)), jnp.mean(jnp.abs(q - target), axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class TruncatedQuantiles(Joined):
    """Quantiles, pooled over the critics, of which the largest are dropped (Kuznetsov et al. 2020)."""

    n_quantiles: int = 25
    top_quantiles_to_drop_per_net: int = 2

    name: ClassVar[str] = "quantiles"
    positional: ClassVar[tuple[str, ...]] = ("n_quantiles", "top_quantiles_to_drop_per_net")

    def __post_init__(self) -> None:
        whole(self, "n_quantiles")
        whole(self, "top_quantiles_to_drop_per_net", least=0)
        if self.top_quantiles_to_drop_per_net >= self.n_quantiles:
            raise ValueError(
                f"top_quantiles_to_drop_per_net={self.top_quantiles_to_drop_per_net} leaves none of "
                f"n_quantiles={self.n_quantiles}."
            )

    @property
    def atoms(self) -> int:  # type: ignore[override]
        return self.n_quantiles

    def target(self, q, penalty, rows):
        kept = q.shape[1] * (self.n_quantiles - self.top_quantiles_to_drop_per_net)
        pooled = dist.smallest(q.reshape(q.shape[0], -1), kept)[:, None]
        return _column(rows.reward) + _column(rows.discount) * (pooled - _column(penalty))

    def loss(self, q, target):
        taus = jnp.broadcast_to(dist.midpoints(self.n_quantiles), q.shape)
        samples = jnp.broadcast_to(target, (*q.shape[:2], target.shape[-1]))
        # Mean over predicted quantiles as in the paper's code, not their sum.
        losses = jnp.mean(dist.quantile_huber_loss(q, taus, samples), axis=1) / self.n_quantiles
        return losses, losses


@dataclasses.dataclass(frozen=True)
class CategoricalJoined(Support, Joined):
    """Probabilities of the support's returns; the target is the critic's with the least mean (one in D4PG,
    Barth-Maron et al. 2018)."""

    @property
    def atoms(self) -> int:  # type: ignore[override]
        return self.n_atoms

    @property
    def _one(self) -> Categorical:
        return Categorical(self.n_atoms, self.v_min, self.v_max)

    def mean(self, q):
        return jax.nn.softmax(q, axis=-1) @ self._one.support

    def target(self, q, penalty, rows):
        least = jnp.argmin(self.mean(q), axis=1)
        chosen = jnp.take_along_axis(q, least[:, None, None], axis=1)[:, 0]
        paid = dataclasses.replace(rows, reward=rows.reward - rows.discount * penalty)
        return self._one.target(chosen, paid)[:, None]

    def loss(self, q, target):
        losses, priority, _ = self._one.loss(q, None, jnp.broadcast_to(target, q.shape))
        return jnp.sum(losses, axis=1), jnp.mean(priority, axis=1)


JOINED = (Numbers, TruncatedQuantiles, CategoricalJoined)
