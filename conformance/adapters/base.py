"""What an adapter says and does; a library that has less offers less.

An agent (what `Adapter.agent` returns) has, of these, what its adapter offers:

    learn(steps)                                            trains, and goes on when called again
    values(obs) → [N]; q_values(obs) → [N, A]; action_values(obs, actions) → [N]
    probs(obs, masks) → [N, A]; log_prob(obs, actions, masks=None) → [N]; entropy(obs, masks=None) → [N]
    predict(obs, deterministic, state=None, start=None, mask=None) → (actions, state)
    evaluate(world, episodes, deterministic, seen=None)     plays episodes by the library's own means
    parameters(), actor() → flat; targets() → (online, target), flat
    statistics() → (mean, variance) of observations
    reward_returns() → Σγ^k r per environment, as the scaler of rewards has it now
    reloaded(path) → the agent after saving and loading
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class Adapter:
    """A library, asked through its public surface where it has one."""

    offers: ClassVar[frozenset[str]] = frozenset()
    """Algorithms by the names of `probes/common.py`, methods of agents, functions of arrays, kinds of spaces."""
    lacks: frozenset[str] = frozenset()
    """Of what is not in `offers`: what the library itself does not have (`LACKS`)."""
    absent: ClassVar[dict[str, str]] = {}
    """Probe → what the library does not have, beyond what `offers` says."""
    not_asked: ClassVar[dict[str, str]] = {}
    """Probe → why we do not ask it, whatever the library has."""
    refusals: ClassVar[dict[str, str]] = {}
    """Probe → words of the library's own error by which it says that it refuses just this; it is asked nevertheless."""
    by_design: ClassVar[dict[str, str]] = {}
    """Probe → why another answer is intended, with the source."""

    def agent(self, algorithm: str, world: Any, **settings: Any) -> Any:
        """An agent that has learned nothing; raises Absent for settings that the library does not have."""
        raise NotImplementedError

    def flat(self, tree: Any) -> np.ndarray:
        """All numbers of a nested tuple, list or dict of arrays as one vector."""
        if isinstance(tree, dict):
            tree = [tree[k] for k in sorted(tree)]
        if isinstance(tree, list | tuple):
            return np.concatenate([self.flat(x) for x in tree]) if tree else np.zeros(0)
        return np.ravel(np.asarray(tree, float))


def words(*names: str) -> frozenset[str]:
    """The words of some lines of text."""
    return frozenset(word for name in names for word in name.split())
