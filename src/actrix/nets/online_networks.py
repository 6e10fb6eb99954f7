"""The two networks of an online actor-critic, apart, with the initialisation that streams of single steps need.

Written for ONE observation; `nets.view.apply` maps them over a batch.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from actrix.core.distributions import ActionHead, Distribution, action_head
from actrix.core.host import split
from actrix.core.types import Key, PyTree, Spec
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import build_encoder, hidden_widths
from actrix.nets.torso import MLP, SQRT2, Linear, host_draw, resolve_activation


class PolicyNet(eqx.Module):
    """π(·|s): encoder, hidden layers, the distribution's parameters."""

    encoder: Any
    body: MLP
    out: Linear
    log_std: Array | None
    head: ActionHead = eqx.field(static=True)

    def __call__(self, obs: PyTree, mask: Array | None = None) -> Distribution:
        return self.head(self.out(self.body(self.encoder(obs))), self.log_std, mask)


class ValueNet(eqx.Module):
    """V(s)."""

    encoder: Any
    body: MLP
    out: Linear

    def __call__(self, obs: PyTree) -> Array:
        return self.out(self.body(self.encoder(obs)))[0]


class ActorAndCritic(eqx.Module):
    """Two networks without a layer in common: their traces and step sizes are their own."""

    actor: PolicyNet
    critic: ValueNet

    @property
    def head(self) -> ActionHead:
        """How actions of the space are encoded."""
        return self.actor.head


def build_actor_and_critic(config: NetworkConfig, spec: Spec, key: Key, sparsity: float) -> ActorAndCritic:
    """The two networks for one environment's spaces.

    `sparsity` > 0 sets that share of every unit's incoming weights to 0, the others from U(±1/√inputs), biases to 0
    (Elsayed et al. 2024); 0 keeps the orthogonal initialisation, gains √2, 0.01 (policy) and 1 (value). Layer norm has
    no parameters of its own.
    """
    space, head = spec.observation_space, action_head(spec.action_space)
    k1, k2, k3, k4 = split(key, 4)
    actor = PolicyNet(
        *_body(config, space, config.pi, k1, head.size, 0.01),
        jnp.zeros(head.size) + (config.log_std_init or 0.0) if head.continuous else None,
        head,
    )
    critic = ValueNet(*_body(config, space, config.vf, k2, 1, 1.0))
    if sparsity:
        actor, critic = sparsify(actor, k3, sparsity), sparsify(critic, k4, sparsity)
    return ActorAndCritic(actor, critic)


def _body(
    config: NetworkConfig,
    space: gym.Space,
    widths: tuple[int, ...] | None,
    key: Key,
    outputs: int,
    gain: float,
) -> tuple[Any, MLP, Linear]:
    keys = split(key, 3)
    encoder = build_encoder(config, space, keys[0])
    widths = hidden_widths(widths, encoder, (64, 64))
    body = MLP(
        encoder.size, widths, resolve_activation(config.activation_fn), SQRT2 if config.ortho_init else None,
        keys[1], layer_norm=config.layer_norm,
    )  # fmt: skip
    plain = lambda n: eqx.nn.LayerNorm(n.shape, use_weight=False, use_bias=False)
    body = eqx.tree_at(lambda b: b.norms, body, tuple(plain(n) for n in body.norms))
    out = Linear([encoder.size, *widths][-1], outputs, gain if config.ortho_init else None, keys[2])
    return encoder, body, out


def sparsify(net: Any, key: Key, sparsity: float) -> Any:
    """Every dense layer drawn anew: ⌈sparsity · inputs⌉ incoming weights of each unit 0, but never all; biases 0."""
    dense = lambda x: isinstance(x, Linear)
    shapes = [x.weight.shape for x in jax.tree.leaves(net, is_leaf=dense) if dense(x)]

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        weights = []
        for inputs, outputs in shapes:
            weight = rng.uniform(-1, 1, (inputs, outputs)) / np.sqrt(inputs)
            zeros = min(int(np.ceil(sparsity * inputs)), inputs - 1)
            for j in range(outputs):
                weight[rng.permutation(inputs)[:zeros], j] = 0
            weights.append(weight)
        return weights

    drawn = iter(host_draw(draw, key, shapes))

    def redraw(x: Any) -> Any:
        if not dense(x):
            return x
        return eqx.tree_at(lambda l: (l.weight, l.bias), x, (next(drawn), jnp.zeros_like(x.bias)))

    return jax.tree.map(redraw, net, is_leaf=dense)
