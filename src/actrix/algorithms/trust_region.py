"""Natural-gradient actor-critics: TRPO, the natural policy gradient, ACKTR.

The policy takes one step by its Fisher matrix per chunk, then the critic is fitted by minibatch descent. The two share
no parameter that both move: a common encoder or recurrent cell belongs to the policy (as in sb3-contrib).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from actrix.actors import natural
from actrix.actors import policy_gradient as pg
from actrix.actors.answers import NaturalActor, TrustRegion
from actrix.algorithms import checks, estimates
from actrix.algorithms.learner import Acting, Batch, Learner, count, first_bad_row
from actrix.algorithms.stochastic import StochasticPolicy
from actrix.core.optim import flatten
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics.answers import Critic
from actrix.data.answers import OnPolicy
from actrix.nets.networks import NetworkConfig


@dataclasses.dataclass(frozen=True)
class NaturalActorCritic(StochasticPolicy):
    """A critic and an actor that steps by its Fisher matrix (names of sb3-contrib's TRPO)."""

    critic: Critic = Critic()
    actor: NaturalActor = TrustRegion()
    data: OnPolicy = OnPolicy()
    n_steps: int | None = 2048
    """Rows per environment in a chunk; None = the environment's time limit (whole episodes)."""
    batch_size: int | None = 128
    """Rows of a minibatch of the critic; None = the whole chunk, which the policy's step takes in any case."""
    n_critic_updates: int = 10
    """Passes over a chunk that fit the critic."""
    gamma: float = 0.99
    learning_rate: Schedule = 1e-3
    """Step size of the critic."""
    ent_coef: float = 0.0
    max_grad_norm: float | None = None
    """Bound of the critic's gradient; None = off."""
    normalize_advantage: bool = True
    sub_sampling_factor: int = 1
    """The policy's step takes every k-th row."""
    optimizer: str = "adam"
    optimizer_eps: float = 1e-5
    normalize_obs: bool = False
    normalize_reward: bool = False
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    ref_kl_coef: float = 0.0
    """τ of the KL to a reference policy; 0 = off."""
    ref_kl_in: str = "reward"
    """'reward' or 'loss', two objectives (`ActorCritic.ref_kl_in`)."""
    sequence_length: int | None = None
    """Rows of a training sequence of a recurrent policy; None = the largest divisor of n_steps up to 64."""
    network: NetworkConfig = NetworkConfig()

    def __post_init__(self) -> None:
        checks.settle_natural(self)

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        checks.fits(self, spec, num_envs)
        checks.fits_natural(self, spec, num_envs)

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Acting | None = None) -> Learner:
        """A fresh learner; `reference` is a policy to stay near (None = the uniform one)."""
        acting = self.initial_acting(key, spec)
        critic_state = self._optimizer.init(branches(acting.net)[1])
        state = self.actor.init(acting.net)
        training = self.fresh_training(num_envs, reference, spec, state, critic_opt_state=critic_state)
        return Learner(acting, training)

    # ------------------------------------------------------------------ learning

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """One step of the policy, then the critic's passes, then the statistics; the new learner and metrics.

        A non-finite result keeps the old parameters and sets the metric 'nonfinite' to 1.
        """
        acting, training = learner.acting, learner.training
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        raw, (chunk, reference) = chunk, estimates.prepare(self, learner, chunk)
        batch = estimates.estimate(self, acting.net, training, chunk, reference)
        theta, theta_v, join = branches(acting.net)
        new, state, metrics = self._step(
            theta, lambda theta: join(theta, theta_v), training.opt_state, self._thin(batch), progress
        )
        new_v, critic_state, fit_metrics = self._fit_critic(
            lambda theta_v: join(theta, theta_v), theta_v, training.critic_opt_state, batch, progress, key
        )
        metrics |= fit_metrics

        bad_row = first_bad_row(raw)
        finite = jnp.isfinite(jnp.sum(new) + jnp.sum(new_v) + metrics["train/policy_objective"]) & (
            bad_row < 0
        )
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        net = join(keep(new, theta), keep(new_v, theta_v))
        seen = self.observe(learner, raw)  # the statistics move only now, after what used them
        fresh = dict(
            opt_state=state,
            critic_opt_state=critic_state,
            reward_scale=seen.training.reward_scale,
            baseline=estimates.next_baseline(self, training.baseline, chunk),
        )
        kept = {name: keep(value, getattr(training, name)) for name, value in fresh.items()}
        training = dataclasses.replace(count(training, raw), **kept)
        metrics |= {
            "nonfinite": 1.0 - finite,
            "bad_row": bad_row,
            "train/learning_rate": jnp.asarray(evaluate(self.learning_rate, progress)),
            "train/explained_variance": pg.explained_variance(batch.value, batch.target, batch.valid),
            "train/n_updates": training.update,
        }
        if net.log_std is not None:
            metrics["train/std"] = jnp.mean(jnp.exp(net.log_std))
        moments = keep(seen.acting.obs_moments, acting.obs_moments)
        return Learner(Acting(net, moments), training), metrics

    def _step(
        self, theta: jax.Array, net_of: Callable, state: PyTree, batch: Batch, progress: jax.Array
    ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
        """The actor's step on L(θ) = mean ρ_t(θ)ψ_t + ent_coef · entropy (− the KL to the reference)."""
        psi = pg.normalize(batch.psi, batch.valid) if self.normalize_advantage else batch.psi
        dist_of = lambda theta: estimates.outputs(self, net_of(theta), batch).dist
        old = jax.lax.stop_gradient(dist_of(theta))
        old_log_prob = old.log_prob(batch.action)  # not the stored one, whose rounding is another program's

        def objective(theta: jax.Array) -> jax.Array:
            dist = dist_of(theta)
            rows = jnp.exp(dist.log_prob(batch.action) - old_log_prob) * psi
            if self.ent_coef:
                rows += self.ent_coef * dist.entropy()
            if self.ref_kl_coef and self.ref_kl_in == "loss":
                rows += pg.kl_penalty(kl=dist.kl(batch.reference_dist), tau=self.ref_kl_coef)
            return pg.masked_mean(rows, batch.valid)

        new, state, metrics = self.actor.step(
            theta, state, dist_of=dist_of, objective=objective, valid=batch.valid, progress=progress,
            net_of=lambda theta: without_critic(net_of(theta)), rows=(batch.obs, batch.action, batch.mask),
        )  # fmt: skip
        dist = dist_of(new)
        metrics |= {
            "train/policy_objective": objective(new),
            "train/kl_divergence_loss": natural.mean_kl(old, dist, batch.valid),
            "train/entropy_loss": -pg.masked_mean(dist.entropy(), batch.valid),
        }
        return new, state, metrics

    def _fit_critic(
        self, net_of: Callable, theta_v, state: PyTree, batch: Batch, progress, key: Key
    ) -> tuple:
        """(θ of the critic, its optimiser's state, metrics) after its passes over the chunk."""
        if self.critic.function == "none":
            return theta_v, state, {}
        loss = lambda theta_v, batch: self._value_loss(net_of(theta_v), batch)
        rate = evaluate(self.learning_rate, progress)
        return self._fit(loss, lambda theta_v: batch, theta_v, state, rate, self.n_critic_updates, key)

    def _thin(self, batch: Batch) -> Batch:
        """Every k-th row (or sequence); the phase moves on, else k = n_envs would take one environment only."""
        k = self.sub_sampling_factor
        if k == 1:
            return batch
        axis = 0 if self.network.cell is None else 1
        index = jnp.arange(batch.psi.shape[axis] // k)
        return jax.tree.map(lambda x: jnp.take(x, index * k + index % k, axis), batch)

    def _value_loss(self, net: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean of (target_t − V(s_t))², or of Q(s_t, a_t)."""
        value = estimates.fitted(self, estimates.outputs(self, net, batch), batch.action)
        loss = pg.masked_mean((value - batch.target) ** 2, batch.valid)
        return loss, {"train/value_loss": loss}


def _own_layers(net: Any) -> tuple:
    """What only the critic uses."""
    return net.vf, net.vf_head, net.vf_encoder


def without_critic(net: Any) -> Any:
    """The network without the critic's own layers: what the policy's step moves."""
    return eqx.tree_at(_own_layers, net, (None, None, None), is_leaf=lambda x: x is None)


def branches(net: Any) -> tuple[jax.Array, jax.Array, Callable[[jax.Array, jax.Array], Any]]:
    """(θ of the policy, θ of the critic's own layers, the network of the two)."""
    theta, policy = flatten(without_critic(net))
    theta_v, critic = flatten(_own_layers(net))

    def join(theta: jax.Array, theta_v: jax.Array) -> Any:
        return eqx.tree_at(_own_layers, policy(theta), critic(theta_v), is_leaf=lambda x: x is None)

    return theta, theta_v, join
