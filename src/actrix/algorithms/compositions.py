"""Which critic × actor × data compositions are sound, and why the others are not."""

from __future__ import annotations

import dataclasses

from actrix.actors.answers import CENTRED_PSI, EPISODE_PSI, PSI, Actor, ScoreFunction, parse_actor
from actrix.critics.answers import CRITICS, Critic, parse_critic


def unsound(critic: Critic, actor: Actor, n_epochs: int | None = None) -> str | None:
    """The reason why this composition is refused, or None where it is sound."""
    psi = actor.psi
    if psi not in PSI:
        return f"ψ={psi!r} is unknown; choose one of {', '.join(PSI)}"
    if critic.function == "none" and psi not in EPISODE_PSI:
        return f"ψ={psi} is a critic's estimate, and there is no critic"
    if critic.function != "none" and psi in EPISODE_PSI:
        return f"ψ={psi} is the return alone, so the critic would be fitted and never used; take critic none"
    if critic.function == "v" and psi == "q":
        return "ψ=q needs Q(s,a), and the critic is a V(s)"
    if actor.ratio and psi not in CENTRED_PSI:
        return (
            f"ratio surrogates read the sign of ψ as better or worse than average, and {psi} is not centred"
        )
    if isinstance(actor, ScoreFunction):
        if actor.gamma_weight and psi in ("return", "optimal"):
            return "γ^t never multiplies R(τ), which already counts from the start of the episode"
        if n_epochs is not None and n_epochs > 1:
            return "the score function is the gradient only at the policy that acted: n_epochs must be 1"
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
    """Every critic × actor × ψ on on-policy data."""
    cells = []
    for critic_name in CRITICS:
        critic = parse_critic(critic_name)
        for actor_name in ("score", "ppo-clip", "ppo-kl"):
            for psi in PSI:
                actor = dataclasses.replace(parse_actor(actor_name), psi=psi)
                cells.append(Cell(critic_name, actor_name, psi, "on-policy", unsound(critic, actor)))
    return cells
