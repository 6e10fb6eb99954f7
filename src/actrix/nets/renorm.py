"""Batch renormalisation (Ioffe 2017) as CrossQ has it: networks that learn by the statistics of the batch in hand.

A layer acts by running statistics, row by row like every other. Where it learns it sees the whole batch `[B, n]`, uses
the batch's own statistics and returns itself with the running ones moved.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from actrix.core.optim import RUNNING, Running, apart
from actrix.core.rows import Rows
from actrix.nets.q_networks import ActorCritics
from actrix.nets.torso import MLP
from actrix.nets.view import ApartView, apply

EPSILON, LARGEST_RATIO, LARGEST_SHIFT = 1e-3, 3.0, 5.0
"""As in the authors' code."""


class Moments(Running):
    """What has been seen of each feature."""

    mean: Array
    var: Array
    count: Array
    """Batches, as a float."""


class Renorm(eqx.Module):
    """x ↦ scale · [(x − μ_B)/σ_B · r + d] + shift; acting: scale · (x − μ)/σ + shift with the running μ, σ.

    r = clip(σ_B/σ, ⅓, 3) and d = clip((μ_B − μ)/σ, ±5), no gradient, make of the first the second but for their bounds;
    for the first `warm_up` batches r = 1 and d = 0, which is batch normalisation.
    """

    scale: Array
    shift: Array
    seen: Moments
    momentum: float = eqx.field(static=True)
    warm_up: int = eqx.field(static=True)

    def __init__(self, size: int, momentum: float, warm_up: int):
        self.scale, self.shift = jnp.ones(size), jnp.zeros(size)
        self.seen = Moments(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))
        self.momentum, self.warm_up = momentum, warm_up

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        return (x - self.seen.mean) / jnp.sqrt(self.seen.var + EPSILON) * self.scale + self.shift

    def learn(self, x: Float[Array, "b n"], share: Float[Array, "b 1"]) -> tuple[Array, Renorm]:
        """(the batch normalised, the layer that has seen it); `share` of each row in the statistics, in all 1."""
        mean = jnp.sum(share * x, axis=0)
        var = jnp.sum(share * jnp.square(x - mean), axis=0)
        std, old = jnp.sqrt(var + EPSILON), self.seen
        warm, deviation = old.count >= self.warm_up, jnp.sqrt(old.var + EPSILON)
        r = jnp.clip(stop_gradient(std) / deviation, 1 / LARGEST_RATIO, LARGEST_RATIO)
        d = jnp.clip((stop_gradient(mean) - old.mean) / deviation, -LARGEST_SHIFT, LARGEST_SHIFT)
        out = (x - mean) / std * jnp.where(warm, r, 1) + jnp.where(warm, d, 0)
        move = lambda old, new: old + (1 - self.momentum) * (stop_gradient(new) - old)
        seen = Moments(move(old.mean, mean), move(old.var, var), old.count + 1)
        return out * self.scale + self.shift, eqx.tree_at(lambda layer: layer.seen, self, seen)


class RenormMLP(eqx.Module):
    """An MLP with a `Renorm` of its input and after every activation."""

    mlp: MLP
    norms: tuple[Renorm, ...]

    dropout: ClassVar[float] = 0.0

    def __init__(self, mlp: MLP, inputs: int, momentum: float, warm_up: int):
        sizes = [inputs, *(layer.bias.shape[0] for layer in mlp.layers)]
        self.mlp, self.norms = mlp, tuple(Renorm(n, momentum, warm_up) for n in sizes)

    def __call__(self, x: Float[Array, " i"], key: Any = None) -> Float[Array, " o"]:
        x = self.norms[0](x)
        for layer, norm in zip(self.mlp.layers, self.norms[1:], strict=True):
            x = norm(self.mlp.activation(layer(x)))
        return x

    def learn(self, x: Float[Array, "b i"], share: Float[Array, "b 1"]) -> tuple[Array, RenormMLP]:
        """(its output for the batch, the MLP that has seen it)."""
        x, norm = self.norms[0].learn(x, share)
        norms = [norm]
        for layer, old in zip(self.mlp.layers, self.norms[1:], strict=True):
            x, norm = old.learn(self.mlp.activation(layer(x)), share)
            norms.append(norm)
        return x, eqx.tree_at(lambda body: body.norms, self, tuple(norms))


class RenormView(ApartView):
    """The policy at `obs` and the critics of `pair` by the batch's own statistics, all else by the running ones."""

    def policy(self, which: str = "obs") -> Any:
        """What the actor says: at `obs`, where its loss is, by the batch's statistics, else by the running ones."""
        if which != "obs":
            return super().policy(which)
        actor = self.net.actor
        features, body = actor.body.learn(apply(actor.encoder, self.rows.obs), shares(self.rows))
        self._see(lambda net: net.actor.body, body)
        return apply(actor.decide, features, self.rows.mask)

    def pair(self, next_action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The critics `[B, E, K]` at (s, a) and at (s′, `next_action`) by one pass over both, one batch of 2B rows."""
        critics, rows = self.net.critics, self.rows
        here = apply(critics.inputs, rows.obs, self.action)
        both = jnp.concatenate([here, apply(critics.inputs, rows.next_obs, next_action)])
        share = 0.5 * jnp.tile(shares(rows), (2, 1))
        seen = [(*body.learn(both, share), out) for body, out in critics.members]
        self._see(lambda net: net.critics.members, tuple((body, out) for _, body, out in seen))
        q = jnp.stack([out(features) for features, _, out in seen], axis=1)
        return q[: len(here)], q[len(here) :]

    def _see(self, where: Any, new: Any) -> None:
        self.moved = self.moved | {RUNNING: apart(eqx.tree_at(where, self.net, new))[0]}


def shares(rows: Rows) -> Float[Array, "b 1"]:
    """1/number for every sample, 0 for what is none."""
    sample = jnp.ones_like(rows.reward) if rows.valid is None else rows.valid.astype(rows.reward.dtype)
    return (sample / jnp.maximum(jnp.sum(sample), 1))[:, None]


class RenormActorCritics(ActorCritics):
    """An actor and critics whose MLPs are renormalised."""

    view: ClassVar[type] = RenormView

    def joined(self, parts: dict[str, Any]) -> RenormActorCritics:
        """The network of these parts."""
        return RenormActorCritics(parts["actor"], parts["critic"])


def renormalized(net: ActorCritics, momentum: float, warm_up: int) -> RenormActorCritics:
    """The network with `Renorm` in every MLP."""
    wrap = lambda mlp, inputs: RenormMLP(mlp, inputs, momentum, warm_up)
    actor, critics = net.actor, net.critics
    inputs = critics.encoder.size + net.head.size
    members = tuple((wrap(body, inputs), out) for body, out in critics.members)
    return RenormActorCritics(
        eqx.tree_at(lambda a: a.body, actor, wrap(actor.body, actor.encoder.size)),
        eqx.tree_at(lambda c: c.members, critics, members),
    )
