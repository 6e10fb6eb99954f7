"""Which critic × actor × data compositions are sound, and why the others are not."""

from __future__ import annotations

import dataclasses
from typing import Any

from actrix.actors.answers import (
    ACER,
    ACTORS,
    CENTRED_PSI,
    EPISODE_PSI,
    PGQL,
    PSI,
    Actor,
    ImportanceScore,
    NaturalActor,
    OffPAC,
    ScoreFunction,
    TrustRegion,
    parse_actor,
)
from actrix.critics.answers import CRITICS, TD, Critic, ImportanceMC, ImportanceTD, VTrace, parse_critic
from actrix.data.answers import ON_POLICY_LIKE, Lagged, OnPolicy, Trajectories


def unsound(
    critic: Critic,
    actor: Actor,
    n_epochs: int | None = None,
    data: OnPolicy | Lagged | Trajectories = OnPolicy(),
) -> str | None:
    """The reason why this composition is refused, or None where it is sound."""
    psi = actor.psi
    if psi not in PSI:
        return f"ψ={psi!r} is unknown; choose one of {', '.join(PSI)}"
    reason = _unsound_on_policy(critic, actor, n_epochs) if isinstance(data, OnPolicy) else None
    return reason or _unsound_anywhere(critic, actor) or _unsound_off_policy(critic, actor, data, n_epochs)


def _unsound_anywhere(critic: Critic, actor: Actor) -> str | None:
    psi = actor.psi
    if critic.function == "none" and psi not in EPISODE_PSI:
        return f"ψ={psi} is a critic's estimate, and there is no critic"
    if critic.function != "none" and psi in EPISODE_PSI:
        return f"ψ={psi} is the return alone, so the critic would be fitted and never used; take critic none"
    if critic.function == "v" and psi == "q":
        return "ψ=q needs Q(s,a), and the critic is a V(s)"
    if isinstance(actor, TrustRegion) and psi not in CENTRED_PSI:
        return "a line search on the sampled surrogate takes ψ's mean for a gain of any action, so ψ must be centred"
    if actor.ratio and psi not in CENTRED_PSI:
        return (
            f"ratio surrogates read the sign of ψ as better or worse than average, and {psi} is not centred"
        )
    if isinstance(actor, ScoreFunction) and actor.gamma_weight and psi in ("return", "optimal"):
        return "γ^t never multiplies R(τ), which already counts from the start of the episode"
    return None


def _unsound_on_policy(critic: Critic, actor: Actor, n_epochs: int | None) -> str | None:
    if critic.corrected:
        return "on on-policy data every ratio is 1, so the correction is empty: take its uncorrected twin"
    if actor.off_policy:
        return f"{actor.name} corrects for another behaviour policy: take data lag or replay, or actor score"
    if isinstance(actor, ScoreFunction) and n_epochs is not None and n_epochs > 1:
        return "the score function is the gradient only at the policy that acted: n_epochs must be 1"
    return None


def _unsound_off_policy(
    critic: Critic, actor: Actor, data: OnPolicy | Lagged | Trajectories, n_epochs: int | None
) -> str | None:
    """What another behaviour policy asks for: a critic of π, and its ratio before the score exactly once."""
    if isinstance(data, OnPolicy):
        return None
    if isinstance(actor, NaturalActor):
        return "the Fisher matrix and the surrogate are those of the policy that acted: take data on-policy"
    if isinstance(data, Trajectories) and (critic.whole_episodes or actor.psi in EPISODE_PSI):
        return "whole episodes are not kept in the memory, which holds trajectories of n_steps rows: take data lag"
    if isinstance(actor, ScoreFunction | ImportanceScore | PGQL) and n_epochs is not None and n_epochs > 1:
        return "the ratios are those of the first pass over a chunk: n_epochs must be 1"
    if isinstance(actor, PGQL):
        if not isinstance(data, Trajectories):
            return "pgql learns Q from replayed data: take data replay"
        if critic.corrected or critic.function != "v":
            return "pgql's critic is a V of the policy that acts, fitted to fresh data only"
        return None
    if isinstance(actor, ImportanceScore):
        if critic.function == "none" and actor.psi == "return":
            return None
        return "score-is weighs the rewards themselves: take critic none and ψ=return"
    one_step_q = critic.function == "q" and isinstance(critic.estimator, TD)
    if critic.function == "none" or not (critic.corrected or one_step_q):
        return "without correction the critic estimates the behaviour policy's values, not the target's"
    if actor.ratio:
        return "the surrogate's ratio is meant for advantages of the policy that acted: take score, off-pac or acer"
    weighted = isinstance(critic.estimator, VTrace | ImportanceMC)
    if actor.psi == "td-error" and not isinstance(critic.estimator, ImportanceTD | VTrace):
        return "ψ=td-error is a V critic's one-step error: take td-is or v-trace, or ψ=advantage"
    if isinstance(actor, ACER) and not (critic.function == "q" and actor.psi == "advantage"):
        return "acer corrects its truncation with Q(s, ·): take a q- critic and ψ=advantage"
    if isinstance(actor, OffPAC) and weighted and actor.psi == "advantage":
        return "this critic's advantage holds the ratio already, and off-pac would multiply by it again: take score"
    if isinstance(actor, ScoreFunction) and not (weighted and actor.psi == "advantage"):
        return "the score must be weighted by the ratio: take off-pac or acer, or v-trace's advantage, which holds it"
    return None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    critic: str
    actor: str
    psi: str
    data: str
    reason: str | None
    """None = sound."""


def table() -> list[Cell]:
    """Every critic × actor × ψ × data that has a row of its own."""
    cells = []
    for data_name, cls in ON_POLICY_LIKE.items():
        data = cls()
        for critic_name in CRITICS:
            critic = parse_critic(critic_name)
            if data_name == "on-policy" and critic.corrected:
                continue  # refused for one reason: nothing to correct
            actor_class: Any
            for actor_name, actor_class in ACTORS.items():
                on_policy = data_name == "on-policy"
                if actor_class.off_policy == on_policy and (on_policy or actor_class is not ScoreFunction):
                    continue
                for psi in PSI:
                    actor = dataclasses.replace(parse_actor(actor_name), psi=psi)
                    cells.append(
                        Cell(critic_name, actor_name, psi, data_name, unsound(critic, actor, data=data))
                    )
    return cells
