"""Actor-critics with a stochastic policy: REINFORCE, A2C, PPO, V-trace, ACER and every sound mixture of answers.

One frozen dataclass is the configuration; its methods are pure functions of the learner and a chunk.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from actrix.actors import policy_gradient as pg
from actrix.actors.answers import ACER, PGQL, PPOKL, Actor, PPOClip
from actrix.algorithms import checks, estimates, off_policy
from actrix.algorithms.learner import Acting, Batch, Learner, Training, count, first_bad_row
from actrix.algorithms.stochastic import StochasticPolicy
from actrix.core.optim import descend, flatten, polyak
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics.answers import Critic
from actrix.data.answers import Lagged, OnPolicy, Trajectories
from actrix.nets.networks import NetworkConfig, Output


@dataclasses.dataclass(frozen=True)
class ActorCritic(StochasticPolicy):
    """A critic, an actor and their data, with the settings all mixtures share (Stable-Baselines3's names)."""

    critic: Critic = Critic()
    actor: Actor = PPOClip()
    data: OnPolicy | Lagged | Trajectories = OnPolicy()
    n_steps: int | None = 2048
    """Rows per environment in a chunk; None = the environment's time limit (whole episodes)."""
    batch_size: int | None = 64
    """Rows of a minibatch; None = the whole chunk at once."""
    n_epochs: int = 10
    gamma: float = 0.99
    learning_rate: Schedule = 3e-4
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float | None = 0.5
    normalize_advantage: bool = True
    clip_range_vf: float | None = None
    target_kl: float | None = None
    recompute_advantages: bool = False
    """Compute values, targets and ψ anew before every epoch instead of once."""
    n_critic_updates: int = 0
    """Extra passes that fit only the critic, after the actor's (Spinning Up's VPG makes 80)."""
    critic_learning_rate: Schedule | None = None
    """Step size of those extra passes; None = learning_rate."""
    optimizer: str = "adam"
    optimizer_eps: float = 1e-5
    normalize_obs: bool = False
    normalize_reward: bool = False
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    ref_kl_coef: float = 0.0
    """τ of the KL to a reference policy; 0 = off."""
    ref_kl_in: str = "reward"
    """'reward': the soft return Σγ^t(r_t − τ log π/π̄), which pays for future KL. 'loss': a penalty τ KL(π‖π̄)
    on the visited states only, another objective."""
    sequence_length: int | None = None
    """Rows of a training sequence of a recurrent policy; None = the largest divisor of n_steps up to 64."""
    network: NetworkConfig = NetworkConfig()

    def __post_init__(self) -> None:
        checks.settle(self)

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Acting | None = None) -> Learner:
        """A fresh learner; `reference` is a policy to stay near (None = the uniform one)."""
        acting = self.initial_acting(key, spec)
        theta, _ = flatten(acting.net)
        beta = self.actor.initial_beta if isinstance(self.actor, PPOKL) else 0.0
        training = self.fresh_training(
            num_envs,
            reference,
            spec,
            self._optimizer.init(theta),
            critic_opt_state=self._optimizer.init(theta) if self.n_critic_updates else None,
            beta=jnp.full((), beta, jnp.float32),
            average=jnp.array(theta) if isinstance(self.actor, ACER) else None,
        )
        return Learner(acting, training, self._empty_memory(acting, spec, num_envs))

    def _empty_memory(self, acting: Acting, spec: Spec, num_envs: int) -> Any:
        if not isinstance(self.data, Trajectories):
            return None
        example = jax.tree.map(lambda x: jnp.asarray(x)[None], spec.observation_space.sample())
        mask = None if spec.mask_size is None else jnp.ones((1, spec.mask_size), bool)
        noise = self.noise(acting, jax.random.key(0), 1, 1)[0]
        one = lambda: self.act(acting, None, example, mask, noise)
        _, log_prob, dist, _ = jax.eval_shape(one)
        keep = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (log_prob, dist))
        return off_policy.empty_memory(
            acting.net.head,
            spec,
            num_envs,
            transitions=self.data.buffer_size,
            window=self.rows(spec),
            keep=keep,
        )

    # ------------------------------------------------------------------ learning

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """Fit critic and actor to one chunk, then move the statistics; returns the new learner and metrics.

        A non-finite result keeps the old parameters and sets the metric 'nonfinite' to 1.
        """
        acting, training = learner.acting, learner.training
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        theta, unflatten = flatten(acting.net)
        rate = evaluate(self.learning_rate, progress)
        raw, (chunk, reference) = chunk, estimates.prepare(self, learner, chunk)

        def estimate(theta: jax.Array) -> Batch:
            return estimates.estimate(self, unflatten(theta), training, chunk, reference)

        def loss(theta: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self._loss(unflatten(theta), training, progress, batch)

        def critic_loss(theta: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self._critic_loss(unflatten(theta), batch), {}

        batch = estimate(theta)
        again = estimate if self.recompute_advantages else lambda theta: batch
        new, opt_state, metrics = self._fit(
            loss, again, theta, training.opt_state, rate, self.n_epochs, key, self.target_kl
        )
        critic_opt_state = training.critic_opt_state
        if self.n_critic_updates:
            own = self.critic_learning_rate
            rate_v = rate if own is None else evaluate(own, progress)
            passes, key = self.n_critic_updates, jax.random.fold_in(key, 1)
            new, critic_opt_state, _ = self._fit(
                critic_loss, again, new, critic_opt_state, rate_v, passes, key
            )
        memory = learner.memory
        if memory is not None:
            memory = off_policy.append(memory, raw)
            key = jax.random.fold_in(key, 2)
            new, opt_state, more = self._replay(
                learner, memory, new, opt_state, progress, raw.reward.shape[0], key
            )
            metrics |= more

        bad_row = first_bad_row(raw)
        finite = jnp.isfinite(jnp.sum(new)) & jnp.isfinite(metrics["train/loss"]) & (bad_row < 0)
        net = unflatten(jnp.where(finite, new, theta))
        seen = self.observe(learner, raw)  # the statistics move only now, after the losses that used them
        moments, new_moments = acting.obs_moments, seen.acting.obs_moments
        fresh = dict(
            reward_scale=seen.training.reward_scale,
            opt_state=opt_state,
            critic_opt_state=critic_opt_state,
            beta=self._next_beta(net, training.beta, batch),
            baseline=estimates.next_baseline(self, training.baseline, chunk),
            average=self._next_average(training.average, new),
        )

        def keep(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        kept = {name: keep(value, getattr(training, name)) for name, value in fresh.items()}
        training = dataclasses.replace(count(training, raw), **kept)
        metrics |= {
            "nonfinite": 1.0 - finite,
            "bad_row": bad_row,
            "train/learning_rate": jnp.asarray(rate),
            "train/explained_variance": pg.explained_variance(batch.value, batch.target, batch.valid),
            "train/n_updates": training.update * self.n_epochs,
        }
        if net.log_std is not None:
            metrics["train/std"] = jnp.mean(jnp.exp(net.log_std))
        if isinstance(self.actor, PPOKL):
            metrics["train/beta"] = training.beta
        # Of a lagged behaviour policy the oldest parameters go, and those that were just replaced come.
        older = (
            acting.explore if acting.explore is None else jnp.concatenate([acting.explore[1:], theta[None]])
        )
        return Learner(Acting(net, keep(new_moments, moments), older), training, memory), metrics

    def _replay(self, learner: Learner, memory: Any, theta, opt_state, progress, rows: int, key: Key):
        """`replay_ratio` steps of descent, each on as many remembered trajectories as there are environments."""
        _, unflatten = flatten(learner.acting.net)
        optimizer, training = self._optimizer, learner.training
        rate = evaluate(self.learning_rate, progress)
        enough = training.steps >= self.data.learning_starts  # type: ignore[union-attr]
        trajectories = memory.rows.head.shape[0]

        def step(state: tuple, key: Key) -> tuple[tuple, dict[str, jax.Array]]:
            theta, opt_state = state
            draw = memory.ring.draw(memory.rows, key, trajectories)
            window = memory.ring.windows(memory.rows, draw, rows)
            chunk, reference = estimates.prepare(self, learner, window)
            batch = estimates.estimate(self, unflatten(theta), training, chunk, reference, replayed=True)

            def loss(theta: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
                return self._loss(unflatten(theta), training, progress, batch, replayed=True)

            (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
            new = descend(optimizer, gradient, opt_state, theta, rate)
            state = jax.tree.map(lambda n, o: jnp.where(enough, n, o), new, (theta, opt_state))
            return state, {"train/replay_loss": jnp.where(enough, metrics["train/loss"], jnp.nan)}

        keys = jax.random.split(key, self.data.replay_ratio)  # type: ignore[union-attr]
        (theta, opt_state), metrics = jax.lax.scan(step, (theta, opt_state), keys)
        return theta, opt_state, jax.tree.map(jnp.mean, metrics)

    def _loss(
        self, net: Any, training: Training, progress: jax.Array, batch: Batch, replayed: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """−objective + vf_coef · value loss − ent_coef · entropy (+ the KL to the reference)."""
        out = estimates.outputs(self, net, batch)
        if replayed and isinstance(self.actor, PGQL):
            loss = self.actor.q_loss(out.dist, out.value, batch.action, batch.target, self.ent_coef)
            loss = self.actor.eta * pg.masked_mean(loss, batch.valid)
            return loss, {"train/loss": loss}
        psi = pg.normalize(batch.psi, batch.valid) if self.normalize_advantage else batch.psi
        log_prob = out.dist.log_prob(batch.action)
        actor: Any = self.actor
        objective, metrics = actor.objective(
            psi=psi, valid=batch.valid, log_prob=log_prob, old_log_prob=batch.log_prob, dist=out.dist,
            old_dist=batch.dist, beta=training.beta, progress=progress, action=batch.action,
            average_dist=batch.average_dist, q_advantage=batch.q_advantage,
        )  # fmt: skip
        policy_loss = -pg.masked_mean(objective, batch.valid)
        value_loss = self._value_loss(out, batch)
        entropy = pg.masked_mean(out.dist.entropy(), batch.valid)
        # PGQL's whole regularised gradient has the share 1 − η: else the α that π settles at is not the α of its Q.
        share = 1 - self.actor.eta if isinstance(self.actor, PGQL) else 1.0
        loss = policy_loss + self.vf_coef * value_loss - share * self.ent_coef * entropy
        if self.ref_kl_coef and self.ref_kl_in == "loss":
            kl = out.dist.kl(batch.reference_dist)
            loss -= pg.masked_mean(pg.kl_penalty(kl=kl, tau=self.ref_kl_coef), batch.valid)
            metrics["train/reference_kl"] = pg.masked_mean(kl, batch.valid)
        metrics |= {
            "train/loss": loss,
            "train/policy_gradient_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy_loss": -entropy,
            "train/approx_kl": pg.approx_kl(log_prob, batch.log_prob, batch.valid),
        }
        return loss, metrics

    def _critic_loss(self, net: Any, batch: Batch) -> jax.Array:
        """The value loss with a gradient for the critic's own layers only."""
        branch = lambda n: (n.vf, n.vf_head, n.vf_encoder)
        frozen = eqx.tree_at(branch, jax.lax.stop_gradient(net), branch(net), is_leaf=lambda x: x is None)
        return self._value_loss(estimates.outputs(self, frozen, batch), batch)

    def _value_loss(self, out: Output, batch: Batch) -> jax.Array:
        if self.critic.function == "none":
            return jnp.zeros(())
        value = estimates.fitted(self, out, batch.action)
        if self.clip_range_vf is None:
            rows = (value - batch.target) ** 2
        else:
            rows = pg.clipped_value_loss(
                value=value, old_value=batch.value, target=batch.target, clip_range=self.clip_range_vf
            )
        return pg.masked_mean(rows, batch.valid)

    # ------------------------------------------------------------------ small pieces

    def _next_average(self, average: jax.Array | None, theta: jax.Array) -> jax.Array | None:
        if average is None or not isinstance(self.actor, ACER):
            return None
        return polyak(average, theta, 1 - self.actor.average_decay)

    def _next_beta(self, net: Any, beta: jax.Array, batch: Batch) -> jax.Array:
        if not isinstance(self.actor, PPOKL):
            return beta
        kl = pg.masked_mean(batch.dist.kl(estimates.outputs(self, net, batch).dist), batch.valid)
        return jnp.clip(pg.adapt_beta(beta, kl, self.actor.kl_target), 1e-6, 1e6)  # never stuck at 0 or ∞
