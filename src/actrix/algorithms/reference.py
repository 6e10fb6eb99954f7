"""The reference policy that an actor may stay near (`ref_kl_coef`)."""

from __future__ import annotations

import dataclasses

import jax
from gymnasium import spaces

from actrix.core import normalize
from actrix.core.answers import Actor
from actrix.core.contract import Acting
from actrix.core.rows import Rows
from actrix.core.types import Spec
from actrix.nets.memory import unroll


def check(actor: Actor, policy: Acting | None, spec: Spec, whole: bool) -> None:
    """Raise ValueError for a reference that the actor has no use for, or an improper one."""
    if not actor.facts.may_stay_near:
        refuse(policy)
    if policy is not None and policy.net.recurrent and not whole:
        raise ValueError(
            "reference: a recurrent policy cannot be the reference of chunks that begin anywhere in an episode: take "
            "data on-policy:whole or a critic of whole episodes (mc, none), or give a feed-forward one."
        )
    if actor.facts.stays_near and policy is None and isinstance(spec.action_space, spaces.Box):
        raise ValueError(
            "ref_kl_coef: the uniform reference is improper on a Box; give a policy as reference."
        )


def refuse(policy: Acting | None) -> None:
    """Raise ValueError: this algorithm has no use for a reference."""
    if policy is not None:
        raise ValueError("reference: only the on-policy algorithms can stay near a reference policy.")


def beside(actor: Actor, policy: Acting | None, rows: Rows, clip_obs: float) -> Rows:
    """The rows, not yet normalised, with the reference policy's distribution by its own statistics."""
    if not actor.facts.stays_near:
        return rows
    if policy is None:
        return dataclasses.replace(rows, reference=rows.dist.uniform())
    obs = normalize.normalize_observation(policy.obs_moments, rows.obs, clip_obs)
    carry = policy.net.initial_carry(rows.reward.shape[1:]) if policy.net.recurrent else None
    dist = unroll(policy.net, obs, rows.first, carry, rows.mask)[0].dist
    return dataclasses.replace(rows, reference=jax.lax.stop_gradient(dist))
