"""Gymnasium's Blackjack-v1 as an exact MDP, and as a JAX environment with Gymnasium's observations.

Cards come from an infinite deck, so (player's sum, dealer's card, usable ace) is a state, and the law of the dealer's
final hand given one card is a finite sum. Sutton & Barto, Reinforcement Learning (2018), example 5.1.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from actrix.core.types import Spec
from actrix.envs.finite import FiniteMDP, FiniteState
from actrix.envs.tables import from_outcomes

CARDS = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}
"""Ace to ten with their probabilities; jack, queen and king count ten."""
SHAPE = (32, 11, 2)
STICK, HIT = 0, 1


def _add(hand: tuple[int, bool], card: int) -> tuple[int, bool]:
    """(sum, usable ace) after another card: an ace counts 11 while the sum stays within 21."""
    total, ace = hand
    hard, any_ace = total - 10 * ace + card, ace or card == 1
    usable = any_ace and hard + 10 <= 21
    return hard + 10 * usable, usable


@functools.cache
def dealer(total: int, ace: bool) -> dict[int, float]:
    """The law of the dealer's final sum (0 = bust), who draws below 17."""
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    law: dict[int, float] = {}
    for card, p in CARDS.items():
        for final, q in dealer(*_add((total, ace), card)).items():
            law[final] = law.get(final, 0.0) + p * q
    return law


@functools.cache
def blackjack_mdp(gamma: float = 1.0) -> FiniteMDP:
    """The exact MDP of Blackjack-v1 with its default rules; state (sum·11 + dealer's card)·2 + usable ace.

    With `natural` or `sab` the state would have to know whether a 21 is of two cards: Gymnasium's own has those.
    """
    number = lambda total, card, ace: int(np.ravel_multi_index((total, card, int(ace)), SHAPE))
    size = int(np.prod(SHAPE))
    outcomes: dict[int, Any] = {s: {a: [(1.0, s, 0.0, True)] for a in (STICK, HIT)} for s in range(size)}
    for card in CARDS:
        for total in range(4, 22):
            for ace in (False, True):
                if ace and total < 12:
                    continue
                s = number(total, card, ace)
                outcomes[s] = {
                    STICK: _stick(total, card, s),
                    HIT: [
                        (p, number(after, card, usable), -1.0 if after > 21 else 0.0, after > 21)
                        for p, (after, usable) in ((p, _add((total, ace), c)) for c, p in CARDS.items())
                    ],
                }
    start = np.zeros(size)
    for a, p in CARDS.items():
        for b, q in CARDS.items():
            total, ace = _add(_add((0, False), a), b)
            for card, d in CARDS.items():
                start[number(total, card, ace)] += p * q * d
    return from_outcomes(outcomes, gamma, start, env_id="Blackjack-v1")


def _stick(total: int, card: int, s: int) -> list[tuple[float, int, float, bool]]:
    law: dict[float, float] = {}
    for hidden, p in CARDS.items():
        for final, q in dealer(*_add(_add((0, False), card), hidden)).items():
            reward = float(np.sign(total - final))
            law[reward] = law.get(reward, 0.0) + p * q
    return [(p, s, reward, True) for reward, p in law.items()]


@dataclasses.dataclass(frozen=True)
class Blackjack:
    """Blackjack-v1 as a `JaxEnv`: the law of `blackjack_mdp`, Gymnasium's Tuple observations, no time limit."""

    max_episode_steps: int | None = None

    @functools.cached_property
    def spec(self) -> Spec:
        """Gymnasium's spaces."""
        observation = spaces.Tuple([spaces.Discrete(n) for n in SHAPE])
        return Spec(observation, spaces.Discrete(2), self.max_episode_steps)

    @functools.cached_property
    def _mdp(self) -> FiniteMDP:
        return dataclasses.replace(blackjack_mdp(), max_episode_steps=self.max_episode_steps)

    def reset(self, key: jax.Array) -> tuple[FiniteState, tuple]:
        """Return (state, obs) of a new hand."""
        state, obs = self._mdp.reset(key)
        return state, _parts(obs)

    def step(self, key: jax.Array, state: FiniteState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        state, obs, *rest = self._mdp.step(key, state, action)
        return state, _parts(obs), *rest

    def mask(self, state: FiniteState) -> None:
        return None


def _parts(obs: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(x, jnp.int32) for x in jnp.unravel_index(obs, SHAPE))
