"""Kronecker-factored curvature (K-FAC) of a policy of dense layers, for ACKTR.

Layer l maps ā = (a, 1) to s = āW̄ with W̄ = (W; b) `[i + 1, o]`. Its block of the Fisher matrix is approximated by
Ā ⊗ G with Ā = E[ā āᵀ] and G = E[∇_s log π (∇_s log π)ᵀ]; blocks of different layers are taken for independent.
Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature" (2015); Wu et al.,
"Scalable Trust-Region Method for Deep Reinforcement Learning Using Kronecker-Factored Approximation" (2017).
Own code, as the `kfac_jax` library's optimiser is a host-side object whose step may not be compiled into a loop.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from actrix.actors.natural import NaturalActor, step_length
from actrix.core.fields import positive, rate
from actrix.core.host import zeros
from actrix.core.optim import flatten
from actrix.core.schedules import Schedule, evaluate
from actrix.core.spaces import is_image, space_leaves
from actrix.core.types import PyTree, record


@record
class Factors:
    """Decayed sums of Ā and G of every layer, first to last, and the decayed number of batches in them."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    weight: Array


def dense_layers(net: Any) -> list[Any]:
    """The policy's linear layers, hidden ones first, then the head."""
    return [*net.pi.layers, net.pi_head]


def no_factors(net: Any) -> Factors:
    """Nothing seen yet."""
    shapes = [layer.weight.shape for layer in dense_layers(net)]
    inputs = tuple(zeros((i + 1, i + 1)) for i, _ in shapes)
    return Factors(inputs, tuple(zeros((o, o)) for _, o in shapes), zeros(()))


def batch_factors(
    net: Any, obs: PyTree, action: Array, mask: Array | None = None, valid: Array | None = None
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """(Ā, G) of every layer, means over the valid rows; the actions must have been drawn from the policy itself.

    ∇_s is taken through a zero that is added to s.
    """

    def one_row(obs: PyTree, action: Array, mask: Array | None) -> tuple[list[Array], list[Array]]:
        def log_prob(taps: list[Array]) -> tuple[Array, list[Array]]:
            x, inputs = net.encoder(obs), []
            for layer, tap in zip(dense_layers(net), taps, strict=True):
                inputs.append(jnp.append(x, 1.0))
                out = layer(x) + tap
                x = net.pi.activation(out)
            return net.head(out, net.log_std, mask).log_prob(action), inputs

        taps = [jnp.zeros(layer.weight.shape[1]) for layer in dense_layers(net)]
        return jax.grad(log_prob, has_aux=True)(taps)

    outputs, inputs = jax.vmap(one_row)(obs, action, mask)
    weight = jnp.ones(action.shape[0]) if valid is None else valid.astype(jnp.float32)
    weight = weight / jnp.maximum(jnp.sum(weight), 1)
    moment = lambda x: (x * weight[:, None]).T @ x
    return tuple(map(moment, inputs)), tuple(map(moment, outputs))


def average(factors: Factors, inputs: tuple[Array, ...], outputs: tuple[Array, ...], decay: float) -> Factors:
    """The factors with one more batch: sums decay by `decay`, so that sum/weight is an average by age."""
    move = lambda old, new: decay * old + new
    return Factors(
        tuple(map(move, factors.inputs, inputs)),
        tuple(map(move, factors.outputs, outputs)),
        move(factors.weight, 1.0),
    )


def precondition(gradient: Any, factors: Factors, damping: float) -> Any:
    """The network-shaped natural gradient: Δ_l = (Ā + π√λ I)⁻¹ ∇W̄_l (G + √λ/π I)⁻¹ for every layer.

    λ = `damping` and π² = (tr Ā/dim Ā)/(tr G/dim G) (factored Tikhonov damping, Martens & Grosse §6.3). The Fisher
    matrix of a state-independent log std is 2I exactly. `gradient` has the network's structure.
    """
    new = []
    for layer, a, g in zip(dense_layers(gradient), factors.inputs, factors.outputs, strict=True):
        a, g = a / factors.weight, g / factors.weight
        new += list(_precondition_layer(layer.weight, layer.bias, a, g, damping))
    leaves = lambda net: [x for layer in dense_layers(net) for x in (layer.weight, layer.bias)]
    gradient = eqx.tree_at(leaves, gradient, new)
    if gradient.log_std is None:
        return gradient
    return eqx.tree_at(lambda net: net.log_std, gradient, gradient.log_std / (2 + damping))


def _precondition_layer(
    weight: Array, bias: Array, a: Float[Array, "j j"], g: Float[Array, "o o"], damping: float
) -> tuple[Array, Array]:
    tiny = jnp.finfo(a.dtype).tiny
    size_a, size_g = (jnp.maximum(jnp.trace(x) / len(x), tiny) for x in (a, g))
    balance = jnp.sqrt(size_a / size_g)
    # Where the policy has become deterministic G vanishes, and with it 1/balance: bounded, so that both stay finite.
    balance = jnp.clip(balance, 1e-3, 1e3)
    root = jnp.sqrt(jnp.asarray(damping, a.dtype))
    left = jnp.linalg.cholesky(a + balance * root * jnp.eye(len(a)))
    right = jnp.linalg.cholesky(g + root / balance * jnp.eye(len(g)))
    full = jnp.concatenate([weight, bias[None]])
    full = jax.scipy.linalg.cho_solve((left, True), full)
    full = jax.scipy.linalg.cho_solve((right, True), full.T).T
    return full[:-1], full[-1]


@dataclasses.dataclass(frozen=True)
class KroneckerFactored(NaturalActor):
    """θ ← θ + η F̂⁻¹∇L, η = min(`max_step`, √(2δ/xᵀF̂x)), F̂ Kronecker-factored layer by layer (Wu et al. 2017)."""

    target_kl: float = 0.001
    """δ of the quadratic model."""
    max_step: Schedule = 0.25
    damping: float = 0.01
    """λ, shared between the two factors of a layer."""
    stats_decay: float = 0.99
    """Decay of the factors' running averages, per chunk."""

    name: ClassVar[str] = "acktr"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "target_kl", "damping")
        rate(self, "max_step")
        if not 0 <= self.stats_decay < 1:
            raise ValueError(f"stats_decay={self.stats_decay} must lie in [0, 1).")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, fisher=True)

    def check(self, spec, config):
        images = any(is_image(leaf) for leaf in space_leaves(spec.observation_space))
        if config.layer_norm:
            raise ValueError("acktr factors dense layers only: layer_norm needs trpo or npg.")
        if config.use_sde:
            raise ValueError("acktr factors dense layers only: use_sde needs trpo or npg.")
        if config.cell is not None or config.cnn or config.features_extractor_class is not None or images:
            raise ValueError(
                "acktr factors dense layers only: images, a recurrent cell or an extractor of your own need trpo or "
                "npg."
            )

    def step_init(self, net):
        return no_factors(net)

    def step(self, theta, state, at, objective, rows, progress):
        net_of = lambda theta: at(theta).net.policy_part()
        gradient = jax.grad(objective)(theta)
        factors = batch_factors(net_of(theta), rows.obs, at(theta).action, rows.mask, rows.valid)
        state = average(state, *factors, self.stats_decay)
        x = flatten(precondition(net_of(gradient), state, self.damping))[0]
        length = step_length(jnp.vdot(x, gradient), self.target_kl)  # xᵀF̂x = xᵀ∇L
        length = jnp.minimum(length, evaluate(self.max_step, progress))
        return theta + length * x, state, {"train/step_size": length}
