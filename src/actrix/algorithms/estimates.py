"""What an actor-critic with a stochastic policy estimates from a chunk before it learns: values, targets, ψ.

Functions of the algorithm `a` (its configuration), a network and the chunk.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from actrix.actors import policy_gradient as pg
from actrix.actors.answers import PGQL, ImportanceScore
from actrix.algorithms.learner import Acting, Batch, Learner, Training
from actrix.core import normalize
from actrix.core.distributions import importance_ratio
from actrix.core.optim import flatten
from actrix.core.types import Chunk, PyTree
from actrix.critics import corrections, returns
from actrix.data.answers import OnPolicy
from actrix.data.rollout import sequences
from actrix.nets.networks import Output, apply, unroll


def prepare(a: Any, learner: Learner, chunk: Chunk) -> tuple[Chunk, PyTree]:
    """Normalise observations and rewards by the statistics the policy acted with; charge the KL of on-policy data.

    Also returns the reference policy's distribution where there is a KL to it.
    """
    moments, training = learner.acting.obs_moments, learner.training
    obs = normalize.normalize_observation(moments, chunk.obs, a.clip_obs)
    next_obs = normalize.normalize_observation(moments, chunk.next_obs, a.clip_obs)
    reward = chunk.reward
    if training.reward_scale is not None:
        reward = normalize.scale_reward(training.reward_scale, reward, a.clip_reward)
    reference = reference_dist(a, training.reference, chunk) if a.ref_kl_coef else None
    if reference is not None and a.ref_kl_in == "reward" and isinstance(a.data, OnPolicy):
        action = learner.acting.net.head.flatten_action(chunk.action)
        reward = _charged(a, reward, chunk.log_prob, reference, action)
    return dataclasses.replace(chunk, obs=obs, next_obs=next_obs, reward=reward), reference


def _charged(
    a: Any, reward: jax.Array, log_prob: jax.Array | None, reference: PyTree, action: jax.Array
) -> jax.Array:
    """r − τ log π(a|s)/π̄(a|s)."""
    assert log_prob is not None
    return pg.kl_reward(reward=reward, kl=log_prob - reference.log_prob(action), tau=a.ref_kl_coef)


def estimate(
    a: Any, net: Any, training: Training, chunk: Chunk, reference: PyTree, replayed: bool = False
) -> Batch:
    """Values, targets and ψ of every row, cut into training sequences."""
    out, after = unroll(net, chunk.obs, chunk.first, chunk.carry0, chunk.mask)
    if net.recurrent:  # one more cell step from the memory after each row
        next_out, _ = apply(net, chunk.next_obs, after, chunk.next_mask, axes=2)
    else:
        next_out, _ = unroll(net, chunk.next_obs, None, None, chunk.next_mask)
    action = net.head.flatten_action(chunk.action)
    if reference is not None and a.ref_kl_in == "reward" and not isinstance(a.data, OnPolicy):
        # What was recorded is the behaviour's probability; it is the policy learned that pays.
        log_prob = jax.lax.stop_gradient(out.dist.log_prob(action))
        chunk = dataclasses.replace(chunk, reward=_charged(a, chunk.reward, log_prob, reference, action))
    value, next_value = state_value(a, out), state_value(a, next_out)
    rows: dict[str, Any] = dict(
        reward=chunk.reward, next_value=next_value, terminated=chunk.terminated, truncated=chunk.truncated,
        valid=chunk.valid,
    )  # fmt: skip
    taken, estimator = fitted(a, out, action), a.critic.estimator
    if estimator.corrected:
        log_prob = out.dist.log_prob(action)
        rho = importance_ratio(log_prob, chunk.log_prob)  # type: ignore[arg-type]
        more: dict[str, Any] = dict(rho=rho, log_prob=log_prob, fitted=taken)
    else:
        more = {}
    if replayed and isinstance(a.actor, PGQL):
        best = jnp.max(a.actor.q_values(next_out.dist, next_value, a.ent_coef), axis=-1)
        target = returns.td_target(gamma=a.gamma, **{**rows, "next_value": best})
    else:
        target = estimator.target(value=value, gamma=a.gamma, **rows, **more)
    if estimator.corrected and a.actor.psi == "advantage":
        weight = estimator.advantage(value=value, gamma=a.gamma, **rows, **more)
    else:
        weight = psi(
            a, net, training, chunk, rows, value=value, taken=taken, target=target,
            log_prob=out.dist.log_prob(action),
        )  # fmt: skip
    batch = Batch(
        chunk.obs, action, chunk.log_prob, chunk.dist if a.actor.needs_dist else None, chunk.mask, chunk.valid,
        chunk.first if net.recurrent else None, weight, target, taken,
        reference_dist=reference if a.ref_kl_in == "loss" else None,
        average_dist=_average_dist(training, net, chunk), q_advantage=_q_advantage(a, out, value),
    )  # fmt: skip
    batch = jax.lax.stop_gradient(batch)
    if not net.recurrent:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    length = a.training_length(chunk.reward.shape[0])
    _, before = unroll(net, chunk.obs, chunk.first, chunk.carry0, chunk.mask, before=True)
    starts = jax.tree.map(lambda c: c[::length].reshape(1, -1, c.shape[-1]), before)
    return dataclasses.replace(sequences(batch, length), carry=jax.lax.stop_gradient(starts))


def _average_dist(training: Training, net: Any, chunk: Chunk) -> PyTree:
    """The running average policy's distribution, where the actor keeps near it."""
    if training.average is None:
        return None
    average = flatten(net)[1](training.average)
    return unroll(average, chunk.obs, None, None, chunk.mask)[0].dist


def _q_advantage(a: Any, out: Output, value: jax.Array) -> jax.Array | None:
    """Q(s, ·) − V(s) of every action, where the actor corrects the bias of truncated ratios with it."""
    return out.value - value[..., None] if a.actor.needs_dist and a.critic.function == "q" else None


def psi(a: Any, net, training, chunk, rows, *, value, taken, target, log_prob) -> jax.Array:
    """The weight of the score, `[T, N]`; the forms are listed in `actors.answers.PSI`."""
    actor, gamma = a.actor, a.gamma
    if actor.psi == "advantage":
        weight = taken - value if a.critic.function == "q" else target - value
    elif actor.psi == "q":
        weight = taken
    elif actor.psi == "td-error":
        weight = returns.td_error(value=value, gamma=gamma, **rows)
    elif isinstance(actor, ImportanceScore):
        rho = importance_ratio(log_prob, chunk.log_prob)
        weight = corrections.trajectory_psi(
            actor.kind, rho=rho, gamma=gamma, **{k: v for k, v in rows.items() if k != "next_value"}
        )
    elif actor.psi in ("return", "optimal"):
        weight = returns.trajectory_return(
            gamma=gamma, **{k: v for k, v in rows.items() if k != "next_value"}
        )
        if actor.psi == "optimal":
            weight = weight - optimal_baseline(a, net, chunk, weight)
    else:
        weight = returns.monte_carlo(gamma=gamma, **rows)
        if actor.psi == "moving-average":
            weight = weight - pg.moving_average_baseline(training.baseline, weight, valid=chunk.valid)[0]
    if getattr(actor, "gamma_weight", False):
        ends = {k: rows[k] for k in ("terminated", "truncated", "valid")}
        weight = weight * pg.discount_weights(gamma=gamma, **ends)
    return weight


def optimal_baseline(a: Any, net: Any, chunk: Chunk, returns_: jax.Array) -> jax.Array:
    """b* of least variance for ψ = R(τ), one number per episode, from the other episodes' scores."""
    theta, unflatten = flatten(net)

    def episode_score(obs, action, valid, mask):
        def log_likelihood(theta):
            out, _ = apply(unflatten(theta), obs, None, mask)
            return jnp.sum(jnp.where(valid, out.dist.log_prob(action), 0.0))

        return jax.grad(log_likelihood)(theta)

    columns = (chunk.obs, net.head.flatten_action(chunk.action), chunk.valid, chunk.mask)
    axes = jax.tree.map(lambda _: 1, columns)
    score = jax.vmap(episode_score, in_axes=axes)(*columns)
    episode_return = returns_[0]
    weighted = score * episode_return[:, None]
    return pg.optimal_baseline(score, weighted, per_parameter=False, leave_one_out=True)[:, 0]


def next_baseline(a: Any, baseline: pg.MovingAverage, chunk: Chunk) -> pg.MovingAverage:
    """The moving average of the returns with this chunk's in it, where ψ needs one."""
    if a.actor.psi != "moving-average":
        return baseline
    zero = jnp.zeros_like(chunk.reward)
    rows: Any = dict(terminated=chunk.terminated, truncated=chunk.truncated, valid=chunk.valid)
    to_go = returns.monte_carlo(reward=chunk.reward, next_value=zero, gamma=a.gamma, **rows)
    return pg.moving_average_baseline(baseline, to_go, valid=chunk.valid)[1]


def outputs(a: Any, net: Any, batch: Batch) -> Output:
    """What the network says of a batch of rows, or of sequences of rows from their memories."""
    if not net.recurrent:
        return apply(net, batch.obs, None, batch.mask)[0]
    carry = jax.tree.map(lambda c: c[0], batch.carry)
    return unroll(net, batch.obs, batch.first, carry, batch.mask)[0]


def state_value(a: Any, out: Output) -> jax.Array:
    """V(s): the critic's output, Σ_a π(a|s) Q(s, a) of a Q critic, 0 without a critic."""
    if a.critic.function == "none":
        return jnp.zeros(out.value.shape)
    return out.value if a.critic.function == "v" else jnp.sum(jnp.exp(out.dist.logits) * out.value, -1)  # type: ignore[union-attr]


def fitted(a: Any, out: Output, action: jax.Array) -> jax.Array:
    """What is fitted to the target: V(s_t), or Q(s_t, a_t)."""
    if a.critic.function == "q":
        return jnp.take_along_axis(out.value, action[..., None], axis=-1)[..., 0]
    return state_value(a, out)


def reference_dist(a: Any, reference: Acting | None, chunk: Chunk) -> Any:
    """The reference policy's distribution at raw observations, normalised by its own statistics."""
    if reference is None:
        return chunk.dist.uniform()
    obs = normalize.normalize_observation(reference.obs_moments, chunk.obs, a.clip_obs)
    return jax.lax.stop_gradient(unroll(reference.net, obs, None, None, chunk.mask)[0].dist)
