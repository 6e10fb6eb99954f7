"""An algorithm is three answers and a fit of its parameters to their losses: all of learning is here."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from actrix.algorithms import reference as references
from actrix.algorithms.sound import fits, needs_newest, needs_order
from actrix.algorithms.usual import written
from actrix.core import normalize
from actrix.core.answers import Actor, Clock, Critic, Data, Item, Kept, Learning, Metrics, State
from actrix.core.contract import (
    Acting,
    Algorithm,
    Learner,
    count,
    counters,
    first_bad_row,
    progress,
    same_memory,
)
from actrix.core.fields import finite, names, share, switch
from actrix.core.fit import Fit
from actrix.core.numbers import numbers_of, packed, same_program, unpacked
from actrix.core.rows import Rows
from actrix.core.schedules import evaluate
from actrix.core.shards import spread
from actrix.core.spaces import normalized_shapes
from actrix.core.types import Chunk, Key, PyTree, Spec, record
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
class Composition(Algorithm):
    """critic × actor × data, how parameters follow the losses, and what all share (Stable-Baselines3's names)."""

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
        normalized_shapes(spec.observation_space, self.norm_obs_keys)
        fits(self.critic, self.actor, self.data, self.fit, self.network, spec, num_envs)

    def check_budget(self, total_steps, num_envs):
        self.data.check_budget(total_steps, num_envs)

    def check_run(self, spec, total_steps, num_envs):
        self.data.check_run(self.rows(spec), self.warm_up(self.rows(spec), num_envs), total_steps, num_envs)

    def initial_acting(self, key, spec):
        net = self.critic.build(self.network, spec, key, self.actor)
        shapes = normalized_shapes(spec.observation_space, self.norm_obs_keys)
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
        numbers = jnp.asarray(packed(self.numbers()))
        training = Training(own, opt, kept, numbers, scale, reference, none, **counters())
        memory = self.data.init(acting.net.head, spec, num_envs, lambda: self._record(acting, spec))
        return Learner(acting, training, memory)

    def _record(self, acting: Acting, spec: Spec) -> PyTree:
        """Shapes of (log_prob, dist) of one row."""
        example = jax.tree.map(lambda x: jnp.asarray(x)[None], spec.observation_space.sample())
        mask = None if spec.mask_size is None else jnp.ones((1, spec.mask_size), bool)

        def one() -> tuple:
            noise = jax.tree.map(lambda x: x[0], self.noise(acting, jax.random.key(0), 1, 1))
            return self.act(acting, self.initial_carry(acting, 1), example, mask, noise)[1:3]

        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(one))

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

    # ------------------------------------------------------------------ learning

    def learn(self, learner, chunk, key):
        self = unpacked(self, learner.training.numbers)
        bad_row = first_bad_row(chunk)
        counted = count(learner.training, chunk)
        update = Update(self, learner, counted)
        state = update.start(bad_row >= 0)
        state, memory, metrics, first = self.data.feed(update, state, learner.memory, chunk, key)
        if first is not None:
            rows, (item_rows, est, memo) = first
            view = update.look(state.params, rows)
            kept = state.keep(self.actor.after(state.kept.actor, view, rows, memo), state.kept.actor)
            state = dataclasses.replace(state, kept=dataclasses.replace(state.kept, actor=kept))
            metrics |= self.critic.report(est, item_rows) | view.report() | self.actor.told(view, rows)
        # The statistics move only now, after the losses that used them.
        before = learner.acting.obs_moments, learner.training.reward_scale
        moments, scale = state.keep(self._statistics(learner, chunk), before)
        learner = update.finish(state, memory, counted, moments, scale)
        rate = evaluate(self.fit.learning_rate, self.data.progress(update.clock))
        metrics |= {
            "bad_row": bad_row,
            "nonfinite": state.bad.astype(jnp.float32),
            "train/learning_rate": jnp.asarray(rate),
        }
        return learner, metrics | self.actor.report(state.kept.actor) | self._number_metrics(learner)

    def update_offline(self, learner, key):
        if not self.data.facts.transitions:
            return super().update_offline(learner, key)
        self = unpacked(self, learner.training.numbers)
        counted = count(learner.training, ONE_STEP)
        update = Update(self, learner, counted)
        state, memory, metrics = self.data.replay(
            update, update.start(jnp.asarray(False)), learner.memory, 1, key
        )
        learner = update.finish(
            state, memory, counted, learner.acting.obs_moments, learner.training.reward_scale
        )
        rate = evaluate(self.fit.learning_rate, update.clock.after)
        metrics |= {"nonfinite": state.bad.astype(jnp.float32), "train/learning_rate": jnp.asarray(rate)}
        return learner, metrics | self._number_metrics(learner)

    def _number_metrics(self, learner: Learner) -> Metrics:
        numbers = self.actor.numbers(progress(learner.training))
        return {} if numbers is None else self.actor.number_metrics(numbers)

    def observe(self, learner, chunk):
        self = unpacked(self, learner.training.numbers)
        training, memory = self.data.observe(learner.training, learner.memory, chunk)
        moments, scale = self._statistics(learner, chunk)
        training = dataclasses.replace(training, reward_scale=scale)
        return Learner(dataclasses.replace(learner.acting, obs_moments=moments), training, memory)

    def broken_off(self, learner, chunk):
        return self.observe(learner, chunk)

    def _statistics(self, learner: Learner, chunk: Chunk) -> tuple[PyTree, PyTree]:
        """(observation moments, reward scale) with a chunk in them."""
        before = learner.acting.obs_moments, learner.training.reward_scale
        return normalize.updated(*before, chunk, self.gamma)

    def with_acting(self, learner, acting):
        params, kept = self.fit.split(acting.net)[0], learner.training.kept
        kept = Kept(self.critic.restart(kept.critic, params), self.actor.restart(kept.actor, params))
        return Learner(acting, dataclasses.replace(learner.training, kept=kept), learner.memory)

    def adopt(self, learner, fresh):
        scale = learner.training.reward_scale
        if scale is not None:  # running returns are the environments' own
            scale = dataclasses.replace(scale, running=fresh.training.reward_scale.running)
        training = dataclasses.replace(learner.training, reward_scale=scale)
        return Learner(learner.acting, training, same_memory(learner.memory, fresh.memory))


class Update(Learning):
    """What the data answer may do with rows while it feeds a chunk, and the learner before and after."""

    def __init__(self, algorithm: Composition, learner: Learner, counted: Training):
        self.algorithm, self.learner, old = algorithm, learner, learner.training
        self.critic, self.actor, self.fit, self.gamma = (
            algorithm.critic, algorithm.actor, algorithm.fit, algorithm.gamma,
        )  # fmt: skip
        self.clock = Clock(progress(old), progress(counted), old.steps, counted.steps, counted.update)
        self.params, self.build = self.fit.split(learner.acting.net)

    def start(self, bad: jax.Array) -> State:
        """The state before the first update; `bad`: there shall be none."""
        training = self.learner.training
        kept = dataclasses.replace(
            training.kept, critic=self.critic.before(training.kept.critic, self.params, self.clock)
        )
        return State(self.params | training.own, training.opt, kept, training.gradient_steps, bad)

    def finish(
        self, state: State, memory: PyTree, counted: Training, moments: PyTree, scale: PyTree
    ) -> Learner:
        """The learner after the last update."""
        acting, algorithm = self.learner.acting, self.algorithm
        own = {name: state.params[name] for name in counted.own}
        held = algorithm.data.release(algorithm._behaviour(acting.explore).held, acting.net)
        explore = algorithm._explore(progress(counted), held)
        training = dataclasses.replace(
            counted, own=own, opt=state.opt, kept=state.kept, reward_scale=scale, gradient_steps=state.number
        )
        return Learner(Acting(self.build(state.params), moments, explore), training, memory)

    def look(self, params: PyTree, rows: Rows) -> Any:
        """The view of the rows by these parameters."""
        return self.learner.acting.net.view(self.build, params, rows)

    def see(self, rows):
        a, moments, scale = (
            self.algorithm,
            self.learner.acting.obs_moments,
            self.learner.training.reward_scale,
        )
        rows = references.beside(self.actor, self.learner.training.reference, rows, a.clip_obs)
        look = lambda obs: normalize.normalize_observation(moments, obs, a.clip_obs)
        reward = rows.reward if scale is None else normalize.scale_reward(scale, rows.reward, a.clip_reward)
        rows = dataclasses.replace(rows, obs=look(rows.obs), next_obs=look(rows.next_obs), reward=reward)
        # By time where each row stands alone: networks take `[T, N]` rows as T·N of them, T outermost.
        axis = 0 if rows.carry0 is None else rows.reward.ndim - 1
        return spread(rows, axis, rows.reward.shape[axis])

    def estimate(self, state, rows, progress, key):
        view = self.look(state.params, rows)
        rows = self.actor.charge(view, rows)
        est = self.critic.estimate(view, state.kept, rows, self.actor, progress, key)
        est = jax.lax.stop_gradient(est)
        memo = self.fit.remember(self.critic, self.actor, view, state.kept, (rows, est))
        return (rows, est, jax.lax.stop_gradient(memo)), view

    def update(self, state, item, progress, key):
        return self._counted(self.fit.update, state, item, progress, key)

    def update_critic(self, state, item, progress, key):
        return self._counted(self.fit.update_critic, state, item, progress, key)

    def _counted(self, step: Any, state: State, item: Item, progress: Any, key: Key) -> tuple:
        axis = item[0].reward.ndim - 1  # along which rows, or sequences of them, lie side by side
        item = spread(item, axis, item[0].reward.shape[axis])
        state, priority, metrics = step(self.critic, self.actor, self.look, state, item, progress, key)
        return dataclasses.replace(state, number=state.number + 1), priority, metrics


ONE_STEP = Chunk(*[None] * 6, valid=np.ones((1, 1), bool))  # type: ignore[arg-type, misc]
"""What one update of a fixed data set adds to the counters."""
