"""Episodes of a finite MDP, sampled: the same arrays as the oracle's enumeration, for longer horizons."""

from __future__ import annotations

import numpy as np

from actrix.envs.finite import FiniteMDP
from actrix.lab.exact import Policy, Trajectories, check_policy


def play(
    mdp: FiniteMDP,
    policy: Policy,
    n: int,
    horizon: int,
    rng: np.random.Generator,
    *,
    start: int | None = None,
    action: int | None = None,
) -> Trajectories:
    """n episodes of at most `horizon` steps, from ρ0 or `start`, with `action` first if given; each of probability 1/n.

    An episode that has not ended by then is truncated in its last row.
    """
    policy, table = check_policy(mdp, policy), mdp.outcomes
    s = rng.choice(mdp.n_states, n, p=mdp.rho0) if start is None else np.full(n, start)
    valid, rows = np.ones(n, bool), []
    for t in range(horizon):
        a = _draw(rng, np.cumsum(policy, axis=1)[s])
        if t == 0 and action is not None:
            a = np.full(n, action)
        k = _draw(rng, table.cumulative[s, a])
        after, reward = table.next_state[s, a, k], np.where(valid, table.reward[s, a, k], 0)
        ends = valid & mdp.terminal[after]
        cut = valid & ~ends & (t == horizon - 1)
        rows.append((s, a, after, reward, ends, cut, valid))
        s, valid = after, valid & ~ends
    columns = (np.stack(x) for x in zip(*rows, strict=True))
    return Trajectories._make([*columns, np.full(n, 1 / n)])


def _draw(rng: np.random.Generator, cumulative: np.ndarray) -> np.ndarray:
    """An index for each row of cumulative probabilities [n, K]."""
    u = rng.random(len(cumulative))[:, None]
    return np.minimum(np.sum(u >= cumulative, axis=1), cumulative.shape[1] - 1)
