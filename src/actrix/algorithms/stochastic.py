"""What all actor-critics with a stochastic policy share: acting, running statistics, minibatch descent."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.actors import policy_gradient as pg
from actrix.actors.answers import EPISODE_PSI
from actrix.algorithms import checks, off_policy
from actrix.algorithms.learner import Acting, Learner, Training
from actrix.core import normalize
from actrix.core.optim import descend, flatten, make_optimizer
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics.answers import Critic
from actrix.data.answers import Lagged, format_data
from actrix.data.rollout import minibatch_indices
from actrix.nets.networks import NetworkConfig, apply, normalized_shapes


class StochasticPolicy:
    """The methods; the frozen dataclasses that inherit them declare the fields and say how to learn."""

    critic: Critic
    actor: Any
    data: Any
    n_steps: int | None
    batch_size: int | None
    gamma: float
    max_grad_norm: float | None
    optimizer: str
    optimizer_eps: float
    normalize_obs: bool
    normalize_reward: bool
    clip_obs: float
    ref_kl_coef: float
    sequence_length: int | None
    network: NetworkConfig

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        checks.fits(self, spec, num_envs)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        return str(self.critic), f"{self.actor.name} × {self.actor.psi}", format_data(self.data)

    @property
    def whole_episodes(self) -> bool:
        """Chunks hold one whole episode per environment instead of n_steps rows."""
        return self.critic.whole_episodes or self.actor.psi in EPISODE_PSI

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        rows = self.n_steps or spec.max_episode_steps
        if rows is None:
            raise ValueError(
                "this environment has no time limit: give n_steps, the longest episode to wait for."
            )
        return rows

    def fresh_training(
        self, num_envs: int, reference: Acting | None, spec: Spec, opt_state: PyTree, **more: Any
    ) -> Training:
        """The training state before the first update; ValueError for an improper reference policy."""
        if reference is not None and reference.net.recurrent:
            raise ValueError(
                "reference: a recurrent policy cannot be the reference; give a feed-forward one."
            )
        if self.ref_kl_coef and reference is None and isinstance(spec.action_space, spaces.Box):
            raise ValueError(
                "ref_kl_coef: the uniform reference is improper on a Box; give a policy as reference."
            )
        zero = jnp.zeros(())
        parts: dict[str, Any] = dict(critic_opt_state=None, beta=jnp.zeros(()), average=None) | more
        return Training(
            opt_state=opt_state,
            baseline=pg.MovingAverage(zero, zero),
            reward_scale=normalize.init_reward_scale(num_envs) if self.normalize_reward else None,
            reference=reference,
            update=jnp.zeros((), jnp.int32),
            steps=jnp.zeros(()),
            steps_rest=jnp.zeros(()),
            total_steps=jnp.ones(()),
            **parts,
        )

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """A fresh network and its observation statistics: what a model file holds."""
        net = self.network.build(spec, key, q_values=self.critic.function == "q")
        shapes = normalized_shapes(spec.observation_space)
        moments = normalize.init_observation_moments(shapes) if self.normalize_obs else None
        older = None
        if isinstance(self.data, Lagged) and self.data.lag:
            older = jnp.tile(flatten(net)[0], (self.data.lag, 1))
        return Acting(net, moments, older)

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) that only fill the running statistics."""
        if not (self.normalize_obs or self.normalize_reward):
            return 0, 0
        return 1, rows if self.whole_episodes else min(rows, max(32, 1024 // num_envs))

    def warm_acting(self, acting: Acting) -> Acting:
        """The policy acts as ever while the statistics warm up."""
        return acting

    def initial_carry(self, acting: Acting, num_envs: int) -> PyTree:
        """Zero memory of a recurrent policy; None without a cell."""
        return acting.net.initial_carry((num_envs,))

    initial_memory = initial_carry

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with another policy (a warm start)."""
        training = learner.training
        if training.average is not None:
            training = dataclasses.replace(training, average=flatten(acting.net)[0])
        return dataclasses.replace(learner, acting=acting, training=training)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments, for which `fresh` was made: running returns start anew."""
        learner = off_policy.adopt(learner, fresh)
        scale = learner.training.reward_scale
        if scale is not None:
            scale = dataclasses.replace(scale, running=fresh.training.reward_scale.running)
        return dataclasses.replace(
            learner, training=dataclasses.replace(learner.training, reward_scale=scale)
        )

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> jax.Array:
        """All the randomness of a chunk's actions, `[T, N, ...]`, drawn at once."""
        return acting.net.head.draw(key, (rows, num_envs))

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array):
        """The behaviour policy for N observations: (action, log_prob, dist, carry)."""
        obs = normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        net = acting.net if acting.explore is None else flatten(acting.net)[1](acting.explore[0])
        out, carry = apply(net, obs, carry, mask)
        action = out.dist.sample(noise)
        return acting.net.head.unflatten_action(action), out.dist.log_prob(action), out.dist, carry

    def policy(
        self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array | None
    ):
        """The target policy (action, carry); noise None = its mode, for evaluation and export."""
        obs = normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        out, carry = apply(acting.net, obs, carry, mask)
        action = out.dist.mode() if noise is None else out.dist.sample(noise)
        return acting.net.head.unflatten_action(action), carry

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """Move the running statistics by a chunk without learning from it (their warm-up)."""
        acting, training = learner.acting, learner.training
        moments, scale = acting.obs_moments, training.reward_scale
        if moments is not None:
            moments = normalize.update_observation_moments(moments, chunk.obs, chunk.valid)
        if scale is not None:
            done = chunk.terminated | chunk.truncated
            scale = normalize.update_reward_scale(scale, chunk.reward, done, chunk.valid, self.gamma)
        return Learner(
            dataclasses.replace(acting, obs_moments=moments),
            dataclasses.replace(training, reward_scale=scale),
            learner.memory,
        )

    # ------------------------------------------------------------------ learning

    def _fit(self, loss, estimate, theta, opt_state, rate, epochs, key, target_kl=None):
        """`epochs` passes of minibatch descent on loss(θ, batch); metrics are means over the minibatches.

        No further step is taken once a minibatch's train/approx_kl exceeds 1.5 · target_kl.
        """
        optimizer = self._optimizer
        axis = 0 if self.network.cell is None else 1  # of the items: rows, or sequences of rows

        def minibatch(state, index_and_batch):
            index, batch = index_and_batch
            batch = jax.tree.map(lambda x: jnp.take(x, index, axis), batch)
            theta, opt_state, go = state
            (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(theta, batch)
            new_theta, new_opt_state = descend(optimizer, gradient, opt_state, theta, rate)
            if target_kl is not None:
                go = go & (metrics["train/approx_kl"] <= 1.5 * target_kl)
                new_theta, new_opt_state = jax.tree.map(
                    lambda new, old: jnp.where(go, new, old), (new_theta, new_opt_state), (theta, opt_state)
                )
            return (new_theta, new_opt_state, go), metrics

        def epoch(state, key):
            batch = estimate(state[0])
            items, length = batch.psi.shape[axis], batch.psi.size // batch.psi.shape[axis]
            size = items if self.batch_size is None else self.batch_size // length
            index = minibatch_indices(key, items, items // size)
            return jax.lax.scan(lambda s, i: minibatch(s, (i, batch)), state, index)

        state = (theta, opt_state, jnp.asarray(True))
        (theta, opt_state, _), metrics = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
        return theta, opt_state, jax.tree.map(jnp.mean, metrics)

    def training_length(self, rows: int) -> int:
        """Rows of a recurrent policy's training sequences in chunks of `rows`."""
        return self.sequence_length or max(d for d in range(1, 65) if rows % d == 0)

    @property
    def _optimizer(self):
        return make_optimizer(self.optimizer, self.max_grad_norm, self.optimizer_eps)
