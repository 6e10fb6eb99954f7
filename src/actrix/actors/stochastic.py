"""A policy with a density that acts itself: what policy gradients and regression have in common."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from actrix.core.answers import Actor, ActorFacts
from actrix.nets.obeyed import joint_settings
from actrix.nets.q_networks import bounded


@dataclasses.dataclass(frozen=True)
class StochasticActor(Actor):
    """A policy with a density, whose behaviour is the policy itself."""

    @property
    def facts(self) -> ActorFacts:
        return ActorFacts()

    def build(self, config, spec, key):
        return config.build(spec, key)

    def network_settings(self, config, spec):
        return joint_settings(config, spec)

    def carry(self, net, num_envs):
        return net.initial_carry((num_envs,))

    memory = carry

    def noise(self, net, key, shape):
        return net.draw(key, shape)

    def check(self, spec, config):
        if config.squash_output and not bounded(spec.action_space):
            raise ValueError(
                f"squash_output=True needs finite bounds of the actions, which {spec.action_space} lacks."
            )

    def act(self, critic, net, numbers, carry, obs, mask, noise):
        dist, noise, carry = net.explore(obs, carry, mask, noise)
        action = dist.sample(noise)
        return action, dist.log_prob(action), dist, carry

    def policy(self, critic, net, numbers, carry, obs, mask, noise):
        if noise is not None:
            action, _, _, carry = self.act(critic, net, numbers, carry, obs, mask, noise)
            return action, carry
        dist, carry = net.policy(obs, carry, mask)
        return dist.mode(), carry

    def backup(self, view, kept, rows, q, key):
        if not view.net.head.continuous:
            value = jnp.sum(jnp.exp(view.policy("next_obs").logits) * q(None), axis=-1)
            return value[:, None, None], jnp.zeros(rows.reward.shape)
        action = view.policy("next_obs").sample(view.net.head.draw(key, rows.reward.shape))
        return q(action), jnp.zeros(rows.reward.shape)
