"""The networks of weighted regression: a policy with a density everywhere and, for implicit Q-learning, Q and V."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import gymnasium as gym
import jax.numpy as jnp
from jaxtyping import Array

from actrix.core.distributions import ActionHead, BoundedGaussian, Distribution, action_head
from actrix.core.host import split
from actrix.core.types import Key, PyTree, Spec
from actrix.nets.exploration import Explores
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import Actor, Critics, build_encoder, hidden_widths
from actrix.nets.torso import MLP, SQRT2, Linear, resolve_activation
from actrix.nets.view import RegressionView, apply

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""Bounds of the policy's log standard deviation, as in the authors' code of IQL."""


class StateValue(eqx.Module):
    """V(s), a number."""

    encoder: Any
    body: MLP
    out: Linear

    def __init__(self, space: gym.Space, config: NetworkConfig, key: Key):
        keys = split(key, 3)
        self.encoder = build_encoder(config, space, keys[0])
        widths = hidden_widths(config.vf, self.encoder)
        gain = SQRT2 if config.ortho_init else None
        activation = resolve_activation(config.activation_fn)
        self.body = MLP(self.encoder.size, widths, activation, gain, keys[1], layer_norm=config.layer_norm)
        self.out = Linear([self.encoder.size, *widths][-1], 1, None, keys[2])

    def __call__(self, obs: PyTree) -> Array:
        return self.out(self.body(self.encoder(obs)))[0]


class Regressor(Explores, eqx.Module):
    """The networks: a policy and, for IQL, critics Q(s, a) and V(s).

    Continuous actions have the density N(tanh(f(s)), diag σ²) with a learned σ that does not depend on the state, as
    in the authors' code of IQL. A squashed Gaussian would give actions at the bounds, which clipped policies leave
    in a data set in great number, the infinite pre-image atanh(±1).
    """

    actor: Actor
    log_std: Array | None
    critics: Critics | None
    value: StateValue | None

    view: ClassVar[type] = RegressionView

    @property
    def head(self) -> ActionHead:
        """How actions of the space are encoded."""
        return self.actor.head

    def policy(self, obs: PyTree, carry: None, mask: Array | None) -> tuple[Distribution, None]:
        """(π(·|s), no memory) for a batch."""
        return self.dist(obs, mask), carry

    def initial_carry(self, batch: tuple[int, ...]) -> None:
        """It remembers nothing."""

    def parts(self) -> dict[str, Any]:
        """What descends apart, by name."""
        parts = {"actor": (self.actor, self.log_std), "critic": self.critics, "value": self.value}
        return {name: part for name, part in parts.items() if part is not None}

    def joined(self, parts: dict[str, Any]) -> Regressor:
        """The network of these parts."""
        actor, log_std = parts["actor"]
        return Regressor(actor, log_std, parts.get("critic"), parts.get("value"))

    def dist(self, obs: PyTree, mask: Array | None) -> Distribution:
        """π(·|s) for a batch."""
        out = apply(self.actor, obs, mask)
        if self.log_std is None:
            return out
        log_std = jnp.clip(self.log_std, LOG_STD_MIN, LOG_STD_MAX)
        return BoundedGaussian(out, jnp.broadcast_to(log_std, out.shape))


def build_regressor(config: NetworkConfig, spec: Spec, key: Key, n_critics: int) -> Regressor:
    """The networks for one environment's spaces; without critics there is no V either."""
    head, space = action_head(spec.action_space), spec.observation_space
    keys = split(key, 3)
    return Regressor(
        Actor(space, head, config, False, keys[0]),
        jnp.zeros(head.size) + (config.log_std_init or 0.0) if head.continuous else None,
        Critics(space, head, config, n_critics, 1, keys[1]) if n_critics else None,
        StateValue(space, config, keys[2]) if n_critics else None,
    )
