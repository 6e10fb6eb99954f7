"""Which settings of a composition have no effect as the others stand: what its answers say, and what their facts do."""

from __future__ import annotations

import dataclasses

from actrix.core.answers import Actor, Critic, Data
from actrix.core.fit import Fit
from actrix.core.optim import UNREAD
from actrix.nets.networks import NetworkConfig

Idle = dict[str, dict[str, str]]
"""Part ('critic', 'actor', 'data', 'fit'; '' = of none) → field → what it would need."""


def idle(
    critic: Critic, actor: Actor, data: Data, fit: Fit, network: NetworkConfig, scaled: tuple[bool, bool],
    offline: bool,
) -> Idle:  # fmt: skip
    """`scaled`: whether observations and rewards are normalised; `offline`: nothing is collected."""
    beside = {
        "critic": _of_critic(actor),
        "actor": _of_actor(critic, actor, offline),
        "data": _of_data(critic, actor, data, network, offline),
        "fit": _of_fit(critic, actor, data, fit),
        "": _of_none(actor, scaled),
    }
    own = {"critic": critic.idle(), "actor": actor.idle(), "data": data.idle(), "fit": fit.idle(), "": {}}
    return {part: beside[part] | found for part, found in own.items()}


def _of_critic(actor: Actor) -> dict[str, str]:
    return {} if actor.facts.ascends else {"actor_q": "an actor that ascends Q (soft, deterministic)"}


def _of_actor(critic: Critic, actor: Actor, offline: bool) -> dict[str, str]:
    found = {} if _reads_rewards(actor) or not actor.facts.kl_in_reward else {"ref_kl_coef": "ref_kl_in=loss"}
    if offline and not critic.facts.asks_behaviour:
        found |= dict.fromkeys(actor.behaves_by, COLLECTS)
    return found


COLLECTS = "an environment to collect in"
REWARDS = "an actor that learns from rewards"


def _reads_rewards(actor: Actor) -> bool:
    return not (actor.facts.clones or (actor.psi is not None and actor.psi.shown))


def _of_data(
    critic: Critic, actor: Actor, data: Data, network: NetworkConfig, offline: bool
) -> dict[str, str]:
    c, a = critic.facts, actor.facts
    found = dict.fromkeys(data.collects_by, COLLECTS) if offline else {}
    if not c.learns:
        found["n_critic_updates"] = "a critic"
        if a.fisher:  # its step takes the whole chunk
            found["batch_size"] = "a critic"
    if network.cell is None:
        found["sequence_length"] = "a recurrent policy"
    if not a.reports_kl:
        found["target_kl"] = "an actor of several steps that reports its KL (ppo-clip, ppo-kl)"
    elif data.facts.on_policy and data.n_epochs == 1 and data.batch_size is None and not a.ratio:
        found["target_kl"] = "a second step on the chunk (batch_size)"
    if data.n_epochs + data.critic_passes == 1:
        found["recompute_advantages"] = "a second pass over the chunk (n_epochs)"
    if a.clones and data.facts.transitions:
        found["n_steps"] = REWARDS
    return found


def _of_fit(critic: Critic, actor: Actor, data: Data, fit: Fit) -> dict[str, str]:
    found = dict(UNREAD.get(fit.optimizer, {}))
    if not data.critic_passes:
        found["critic_learning_rate"] = "n_critic_updates"
    if not fit.delays and critic.turns[-1] == "actor":
        found["delay_targets"] = "policy_delay above 1"
    if not (critic.has_targets or actor.has_targets):
        found["delay_targets"] = "targets"
    if not critic.facts.learns:
        found |= dict.fromkeys(("vf_coef", "critic_learning_rate"), "a critic")
        if actor.facts.fisher:
            found |= {f.name: "a critic" for f in dataclasses.fields(Fit)}
    return found


def _of_none(actor: Actor, scaled: tuple[bool, bool]) -> dict[str, str]:
    # A discount is in the statistics of rewards, where these are kept.
    unread = ["normalize_reward", "clip_reward"] + ([] if scaled[1] else ["gamma"])
    found = {} if _reads_rewards(actor) else dict.fromkeys(unread, REWARDS)
    if not scaled[1]:
        found["clip_reward"] = "normalize_reward=True"
    if not (scaled[0] or actor.facts.stays_near):  # the reference's own statistics are bounded alike
        found["clip_obs"] = "normalize_obs=True"
    if actor.facts.may_stay_near and not actor.facts.stays_near:
        found["reference"] = "ref_kl_coef"
    return found
