"""What compositions take where nothing is said, and the words they are written in: what is taken anyhow is left out."""

from __future__ import annotations

from typing import Any

from actrix.core import words
from actrix.core.answers import Actor, Critic, Data

_SCORE: dict[str, Any] = dict(n_epochs=1, batch_size=None, normalize_advantage=False)


def usual(critic: Critic, actor: Actor, data: Data) -> dict[str, Any]:
    """Settings that such compositions start from, by what the answers are like."""
    c, a, d = critic.facts, actor.facts, data.facts
    whole = c.whole_episodes or d.whole_episodes
    if d.transitions:
        return dict(batch_size=32, train_freq=1 if whole else 4) if c.gives == "Q(s, ·)" else {}
    if c.gives == "Q(s, ·)":  # PQN's
        learn = dict(n_epochs=4, learning_rate=2.5e-4, optimizer="radam", recompute_advantages=True)
        learn = learn if c.distributional else learn | dict(huber=False)
        return dict(n_steps=32, batch_size=128, target_network=False) | learn
    if a.fisher:
        passes = dict(n_epochs=1, n_critic_updates=10 if c.learns else 0)
        return dict(n_steps=None if whole else 256, batch_size=None if whole else 128) | passes
    if a.ratio:
        chunk = dict(n_steps=None if whole else 256, batch_size=None if whole else 64)
        # ψ holds ρ there: centred, rows that the policy would never give (ρ ≈ 0) would pull at it as hard as any.
        return chunk if d.on_policy else chunk | dict(normalize_advantage=False)
    more = dict(n_steps=None if whole else 16, learning_rate=1e-3) | _SCORE
    return more | ({"ent_coef": 0.01} if a.learns_q else {})


def bare(critic: Critic, actor: Actor, data: Data) -> tuple[Critic, Actor, Data]:
    """The answers of the same names with nothing said of them."""
    given = usual(critic, actor, data)
    c, a, d = (words.with_those_it_has(type(x)(), given) for x in (critic, actor, data))
    return c, a.settle(c), d


def written(critic: Critic, actor: Actor, data: Data) -> tuple[str, str, str]:
    """Their words in the canonical form."""
    c, a, d = bare(critic, actor, data)
    return words.write(critic, c), words.write(actor.settle(critic), a), words.write(data, d)


def describe(critic: Critic, actor: Actor, data: Data) -> str:
    """The three answers in words."""
    return "critic {} × actor {}, data {}".format(*written(critic, actor, data))
