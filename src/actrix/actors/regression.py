"""Actors fitted to actions that were taken, all alike (cloning) or by their advantage (weighted regression)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.actors.pathwise import RandomPhase
from actrix.actors.stochastic import StochasticActor
from actrix.core.answers import ActorFacts
from actrix.core.fields import finite, positive, switch
from actrix.core.fit import Apart
from actrix.nets.obeyed import ENCODING, HIDDEN, one_body
from actrix.nets.q_networks import bounded, build_actor
from actrix.nets.regression import build_regressor


@dataclasses.dataclass(frozen=True)
class Cloning(RandomPhase, StochasticActor):
    """Maximise E[log π(a|s)] over the rows' actions (Pomerleau 1991); uniformly random in the random phase."""

    name: ClassVar[str] = "cloning"
    positional: ClassVar[tuple[str, ...]] = ()
    fit: ClassVar[Any] = Apart

    @property
    def facts(self):
        return ActorFacts(takes=("none",), singly=True, clones=True)

    def check(self, spec, config):
        space = spec.action_space
        if isinstance(space, spaces.Box) and not bounded(space):
            raise ValueError(f"the action space {space} has infinite bounds: a tanh actor needs finite ones.")

    def build(self, config, spec, key):
        return build_regressor(config, spec, key, 0)

    def network_settings(self, config, spec):
        gaussian = ("log_std_init",) if isinstance(spec.action_space, spaces.Box) else ()
        widths = one_body(config) if config.vf is not None else HIDDEN
        return (*ENCODING, *widths, *gaussian)

    # ------------------------------------------------------------------ acting

    def act(self, critic, net, numbers, carry, obs, mask, noise):
        dist, xi, carry = net.explore(obs, carry, mask, noise.action)
        action = dist.sample(xi)
        random = noise.uniform if net.head.continuous else dist.uniform().sample(noise.uniform)
        at_random = (noise.switch < numbers.random).reshape(-1, *(1,) * (action.ndim - 1))
        action = jnp.where(at_random, random, action)
        return action, dist.log_prob(action), dist, carry

    # ------------------------------------------------------------------ learning

    def loss(self, critic, view, kept, rows, memo, progress, key):
        return -view.log_prob, {}


@dataclasses.dataclass(frozen=True)
class Weighted(Cloning):
    """Maximise E[w log π(a|s)], w = min(exp(β A(s, a)), `max_weight`) (Peng et al. 2019; Nair et al. 2020).

    The same weight serves the data's own policy (IQL), a replay memory (AWAC) and trajectories (AWR).
    """

    beta: float = 3.0
    """Inverse temperature, in units of 1/return: 0 clones the behaviour, ∞ clones its best actions only."""
    max_weight: float = 100.0
    normalize_advantage: bool = False
    """Divide A by its deviation over the batch, so that `beta` has no unit."""

    name: ClassVar[str] = "weighted"
    positional: ClassVar[tuple[str, ...]] = ("beta", "max_weight")
    fit: ClassVar[Any] = None

    def __post_init__(self) -> None:
        finite(self, "beta", least=0)
        positive(self, "max_weight")
        switch(self, "normalize_advantage")

    @property
    def facts(self):
        takes = ("V", "Q(s, a)", "Q(s, a) of the data")
        return ActorFacts(takes=takes, any_behaviour=True, centres=self.normalize_advantage)

    def build(self, config, spec, key):
        return build_actor(config, spec, key, stochastic=True)

    def weight(self, advantage: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """min(exp(β A), max_weight), no gradient."""
        return jax.lax.stop_gradient(jnp.minimum(jnp.exp(self.beta * advantage), self.max_weight))

    def remember(self, critic, view, kept, rows, est):
        return critic.advantage(view, rows, est)

    def loss(self, critic, view, kept, rows, memo, progress, key):
        advantage = memo
        if self.normalize_advantage:
            centred = advantage - rows.mean(advantage)
            advantage = centred / (jnp.sqrt(rows.mean(jnp.square(centred))) + 1e-8)
        return -self.weight(advantage) * view.log_prob, {}
