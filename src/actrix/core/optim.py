"""Optimisers on one flat parameter vector (a few large kernels instead of one per layer; ~5% on CPU)."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from actrix.core.host import own, zeros
from actrix.core.types import PyTree

OPTIMIZERS = ("adam", "rmsprop", "sgd", "radam")
_BETA1 = {"optimizer_beta1": "optimizer=adam or radam"}
UNREAD = {"rmsprop": _BETA1, "sgd": _BETA1 | {"optimizer_eps": "optimizer=adam, radam or rmsprop"}}
"""Optimiser → the settings that it has no use for → what has one."""


class Running(eqx.Module):
    """Arrays of a network that no gradient moves, and that seeing rows changes: running statistics.

    A subclass has them as fields, all floating-point. `Fit` carries them among the parameters as `RUNNING`, apart from
    what descends; a loss gives new ones as its view's `moved`.
    """


RUNNING = "running"


def apart(net: PyTree) -> tuple[PyTree, PyTree]:
    """(the `Running` arrays of a network, the rest), each with None where the other has something."""
    is_running = lambda x: isinstance(x, Running)
    return eqx.partition(net, is_running, is_leaf=is_running)


def together(running: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `apart`."""
    return eqx.combine(running, rest, is_leaf=lambda x: isinstance(x, Running))


def flatten(net: PyTree) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """(θ, unflatten): the floating-point leaves of `net` as one vector, and the way back."""
    params, static = eqx.partition(net, eqx.is_inexact_array)
    theta, unravel = _raveled(params)
    return theta, lambda t: eqx.combine(unravel(t), static)


def _raveled(params: PyTree) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """`ravel_pytree`, on the host where the arrays are known and of one dtype."""
    leaves, tree = jax.tree.flatten(params)
    if any(isinstance(x, jax.core.Tracer) for x in leaves) or len({x.dtype for x in leaves}) != 1:
        return ravel_pytree(params)
    sizes, shapes = [x.size for x in leaves], [x.shape for x in leaves]
    parts = lambda t: [
        part.reshape(shape) for part, shape in zip(jax.lax.split(t, sizes), shapes, strict=True)
    ]
    return jax.device_put(np.concatenate([np.ravel(x) for x in leaves])), lambda t: jax.tree.unflatten(
        tree, parts(t)
    )


def make_optimizer(
    name: str, max_grad_norm: float | None, eps: float, beta1: float = 0.9
) -> optax.GradientTransformation:
    """Clip by the global norm, then precondition; the step size is applied by `descend`.

    `max_grad_norm` bounds the norm of the whole gradient (not its elements). RMSprop decays by 0.99 as in A2C; `beta1`
    is the decay of (R)Adam's mean gradient.
    """
    scale = {
        "adam": lambda: optax.scale_by_adam(b1=beta1, eps=eps),
        "rmsprop": lambda: optax.scale_by_rms(decay=0.99, eps=eps, eps_in_sqrt=False, bias_correction=False),
        "sgd": optax.identity,
        "radam": lambda: optax.scale_by_radam(b1=beta1, eps=eps),
    }[name]()
    return optax.chain(*([] if max_grad_norm is None else [optax.clip_by_global_norm(max_grad_norm)]), scale)


def at_rest(optimizer: optax.GradientTransformation, theta: PyTree) -> optax.OptState:
    """`optimizer.init(theta)`: with each of `OPTIMIZERS`, zeros."""
    return jax.tree.map(lambda x: zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, theta))


def descend(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    state: optax.OptState,
    theta: PyTree,
    learning_rate: jax.Array | float,
) -> tuple[PyTree, optax.OptState]:
    """θ ← θ − learning_rate · preconditioned gradient."""
    update, state = optimizer.update(gradient, state, theta)
    return jax.tree.map(lambda t, u: t - jnp.asarray(learning_rate, t.dtype) * u, theta, update), state


def polyak(target: PyTree, theta: PyTree, tau: float | jax.Array) -> PyTree:
    """(1 − τ)·target + τ·θ; τ = 1 copies."""
    return jax.tree.map(lambda old, new: old + tau * (new - old), target, theta)


def copied(theta: PyTree) -> PyTree:
    """Arrays of their own: what is donated together must not share a buffer."""
    return own(theta)
