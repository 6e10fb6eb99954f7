"""An algorithm is three answers and a fit of its parameters to their losses: all of learning is here."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.algorithms import reference as references
from actrix.algorithms.composed import Composed, Training
from actrix.core import normalize
from actrix.core.answers import Clock, Item, Kept, Learning, Metrics, State
from actrix.core.contract import (
    Acting,
    Learner,
    count,
    first_bad_row,
    progress,
    same_memory,
)
from actrix.core.numbers import unpacked
from actrix.core.rows import Rows
from actrix.core.schedules import evaluate
from actrix.core.shards import spread
from actrix.core.types import Chunk, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Composition(Composed):
    """An algorithm that is three answers."""

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
