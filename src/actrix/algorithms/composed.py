"""What three answers make: the configuration, what the loops ask of it, and how it acts."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from actrix.algorithms import reference as references
from actrix.algorithms.idle import idle
from actrix.algorithms.sound import fits, needs_newest, needs_order
from actrix.algorithms.usual import written
from actrix.core import normalize
from actrix.core.answers import Actor, Critic, Data, Kept
from actrix.core.contract import (
    Acting,
    Algorithm,
    Learner,
    counters,
)
from actrix.core.fields import finite, names, share, switch
from actrix.core.fit import Fit
from actrix.core.numbers import numbers_of, packed, same_program
from actrix.core.types import PyTree, Spec, record
from actrix.nets.networks import NetworkConfig


@record
class Training:
    """All that learning needs besides the acting network."""

    own: PyTree
    """Parameters of the actor that are no network, e.g. log α."""
    opt: dict[str, PyTree]
    """The optimisers' states."""
    kept: Kept
    """What the answers keep: β, targets, a running average, …"""
    numbers: jax.Array
    """The numbers of the configuration, packed (`actrix.core.numbers`): learning reads them here."""
    reward_scale: normalize.RewardScale | None
    reference: Acting | None
    """The policy to stay near, with its own frozen statistics; None = the uniform one."""
    gradient_steps: jax.Array
    update: jax.Array
    steps: jax.Array
    """Environment steps learned from, float32; `steps_rest` is what rounding left out of it (Kahan)."""
    steps_rest: jax.Array
    total_steps: jax.Array


@record
class Behaviour:
    """What only the behaviour policy needs where both answers say something of it."""

    numbers: PyTree
    """The actor's numbers at this time of training."""
    held: PyTree
    """The data's older policies."""


@dataclasses.dataclass(frozen=True)
class Composed(Algorithm):
    """critic × actor × data, how parameters follow the losses, and what all share (Stable-Baselines3's names).

    `Composition` adds how it learns.
    """

    critic: Critic
    actor: Actor
    data: Data
    fit: Fit
    gamma: float = 0.99
    normalize_obs: bool = False
    """Standardise observations by running statistics, frozen from acting to the end of the update."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    norm_obs_keys: tuple[str, ...] | None = None
    """Of a Dict observation the keys that `normalize_obs` is of; None = all."""
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    network: NetworkConfig = NetworkConfig()

    structural: ClassVar[tuple[str, ...]] = ("network", "clip_obs", "norm_obs_keys")

    def __post_init__(self) -> None:
        share(self, "gamma")
        switch(self, "normalize_obs", "normalize_reward")
        names(self, "norm_obs_keys", only_with="normalize_obs")
        finite(self, "clip_obs", "clip_reward", least=0)
        object.__setattr__(self, "actor", self.actor.settle(self.critic))
        own, kind = self.actor.fit or self.critic.fit, type(self.fit)
        if not issubclass(kind, own):
            raise ValueError(
                f"{self.actor.name} takes no step of {kind.__name__.lower()} descent: "
                f"beside critic {self.critic.name} it takes {own.__name__.lower()} ones."
            )

    def numbers(self):
        return numbers_of(self)

    def idle(self, offline=None):
        scaled = self.normalize_obs, self.normalize_reward
        offline = self.data.facts.fixed if offline is None else offline
        return idle(self.critic, self.actor, self.data, self.fit, self.network, scaled, offline)

    def same_program(self, other):
        return same_program(self, other)

    # ------------------------------------------------------------------ what the loops ask

    @property
    def answers(self):
        return written(self.critic, self.actor, self.data)

    @property
    def whole_episodes(self):
        data = self.data.facts
        return data.whole_episodes or (self.critic.facts.whole_episodes and not data.transitions)

    @property
    def shown(self):
        return self.data.facts.shown

    @property
    def steps_singly(self):
        return self.data.facts.transitions and not self.whole_episodes

    @property
    def remembers(self):
        return self.data.facts.transitions or self.data.facts.windows

    @property
    def stays_near(self):
        return self.actor.facts.stays_near

    @property
    def replays_transitions(self):
        return self.data.facts.transitions

    @property
    def learns_in_shares(self):
        return True

    def refuses_behind(self):
        return needs_newest(self.critic, self.actor, self.data)

    def refuses_any_order(self):
        reason = needs_order(self.data)
        if reason is None and self.normalize_reward:
            reason = (
                "normalize_reward follows each environment's rows in their order: take normalize_reward=False"
            )
        return reason

    def rows(self, spec):
        return self.data.rows(spec)

    def warm_up(self, rows, num_envs):
        statistics = self.normalize_obs or self.normalize_reward
        return self.data.warm_up(statistics, self.whole_episodes, rows, num_envs)

    def fitted(self, spec, num_envs):
        return dataclasses.replace(self, data=self.data.fitted(spec, num_envs, self.network))

    def check(self, spec, num_envs):
        self.normalized(spec)
        fits(self.critic, self.actor, self.data, self.fit, self.network, spec, num_envs)

    def check_budget(self, total_steps, num_envs):
        self.data.check_budget(total_steps, num_envs)

    def check_run(self, spec, total_steps, num_envs):
        self.data.check_run(self.rows(spec), self.warm_up(self.rows(spec), num_envs), total_steps, num_envs)

    def initial_acting(self, key, spec):
        net = self.critic.build(self.network, spec, key, self.actor)
        shapes = self.normalized(spec)
        moments = normalize.init_observation_moments(shapes) if self.normalize_obs else None
        return Acting(net, moments, self._explore(jnp.zeros(()), self.data.hold(net)))

    def init(self, key, spec, num_envs, reference=None):
        references.check(self.actor, reference, spec, self.whole_episodes)
        acting = self.initial_acting(key, spec)
        params = self.fit.split(acting.net)[0]
        own = self.actor.own()
        opt = self.fit.init(self.actor, acting.net, params | own, self.data.critic_passes)
        kept = Kept(self.critic.init(acting.net, params), self.actor.init(acting.net, params))
        scale = normalize.init_reward_scale(num_envs) if self.normalize_reward else None
        none = jnp.zeros((), jnp.int32)
        numbers = jax.device_put(packed(self.numbers()))
        training = Training(own, opt, kept, numbers, scale, reference, none, **counters())
        memory = self.data.init(acting.net.head, spec, num_envs, lambda: self._record(acting, spec))
        return Learner(acting, training, memory)

    def _record(self, acting: Acting, spec: Spec) -> PyTree:
        """Shapes of (log_prob, dist) of one row."""
        example = jax.tree.map(lambda x: np.asarray(x)[None], spec.observation_space.sample())
        mask = None if spec.mask_size is None else np.ones((1, spec.mask_size), bool)

        def one(example: PyTree, mask: Any) -> tuple:
            noise = jax.tree.map(lambda x: x[0], self.noise(acting, jax.random.key(0), 1, 1))
            return self.act(acting, self.initial_carry(acting, 1), example, mask, noise)[1:3]

        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(one, example, mask)
        )

    # ------------------------------------------------------------------ acting

    def _explore(self, share_spent: jax.Array, held: PyTree) -> PyTree:
        """What only the behaviour policy needs: the actor's numbers, or the data's older policies, or both."""
        numbers = self.actor.numbers(share_spent)
        if numbers is None or held is None:
            return held if numbers is None else numbers
        return Behaviour(numbers, held)

    def _behaviour(self, explore: PyTree) -> Behaviour:
        """The same, apart; None = nothing."""
        if isinstance(explore, Behaviour):
            return explore
        return (
            Behaviour(None, explore)
            if self.actor.numbers(jnp.zeros(())) is None
            else Behaviour(explore, None)
        )

    def warm_acting(self, acting):
        return dataclasses.replace(acting, explore=self.data.warm_numbers(self.actor, acting.explore))

    def initial_carry(self, acting, num_envs):
        return self.actor.carry(acting.net, num_envs)

    def initial_memory(self, acting, num_envs):
        return self.actor.memory(acting.net, num_envs)

    def noise(self, acting, key, rows, num_envs):
        return self.actor.noise(acting.net, key, (rows, num_envs))

    def act(self, acting, carry, obs, mask, noise):
        obs = normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        now = self._behaviour(acting.explore)
        net = self.data.acting(acting.net, now.held)
        action, *more = self.actor.act(self.critic, net, now.numbers, carry, obs, mask, noise)
        return acting.net.head.unflatten_action(action), *more

    def policy(self, acting, carry, obs, mask, noise):
        obs = normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        numbers = self._behaviour(acting.explore).numbers
        action, carry = self.actor.policy(self.critic, acting.net, numbers, carry, obs, mask, noise)
        return acting.net.head.unflatten_action(action), carry
