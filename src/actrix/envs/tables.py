"""Finite MDPs from outcomes, from Gymnasium's tables, from a drawing, and at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.envs.finite import FiniteMDP, MDPError
from actrix.envs.gymnasium import quiet_make
from actrix.envs.masks import find_masks_of

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left: the four actions of a grid."""


def from_outcomes(
    outcomes: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]],
    gamma: float,
    rho0: Any,
    **fields: Any,
) -> FiniteMDP:
    """The MDP of Gymnasium's toy_text tables, outcomes[s][a] = [(probability, s', reward, terminated), …].

    There `terminated` and the reward belong to the outcome, in a `FiniteMDP` to (s, a, s'). A state that episodes
    enter both with and without an end gets an absorbing copy, and one that (s, a) reaches with several rewards a
    copy for each below the best: copies look like the original (`shows`), so laws of observations, rewards and ends
    stay exact. Only states that an episode can be in count for this: a state which reachable states enter
    with `terminated` only becomes terminal. Raises MDPError as `FiniteMDP` does, and for unknown next states.
    """
    S, A = len(outcomes), len(outcomes[0])
    rows = _laws(outcomes, S, A)
    start = np.eye(S)[rho0] if np.ndim(rho0) == 0 else np.asarray(rho0, np.float64)
    alive = _reachable(rows, np.flatnonzero(start), A)
    ends = {s2 for row in rows.values() for (s2, end, _), p in row.items() if end and p > 0}
    terminal = np.isin(np.arange(S), [s for s in ends if s not in alive])
    copies: dict[tuple[int, bool, int], int] = {}

    def number(s2: int, terminated: bool, k: int) -> int:
        key = (s2, terminated and not terminal[s2], k)
        return s2 if key == (s2, False, 0) else copies.setdefault(key, S + len(copies))

    entries = list(_entries(rows, terminal, number))
    N = S + len(copies)
    P, r = np.zeros((N, A, N)), np.zeros((N, A, N))
    for s, a, n, p, reward in entries:
        P[s, a, n], r[s, a, n] = P[s, a, n] + p, reward
    shows, absorbing = np.arange(N), np.zeros(N, bool)
    absorbing[:S] = terminal
    for (s, end, _), n in copies.items():
        shows[n], absorbing[n] = s, end or terminal[s]
        P[n], r[n] = P[s], r[s]
    P[absorbing], r[absorbing] = np.eye(N)[absorbing][:, None], 0
    rho0 = np.concatenate([start, np.zeros(N - S)])
    if (legal := fields.pop("legal", None)) is not None:
        fields["legal"] = np.asarray(legal)[shows]
    return FiniteMDP(P, r, gamma, rho0, absorbing, shows=shows, **fields)


Laws = dict[tuple[int, int], dict[tuple[int, bool, float], float]]
"""(s, a) → {(s', terminated, reward): probability}."""


def _laws(outcomes: Mapping, n_states: int, n_actions: int) -> Laws:
    rows: Laws = {}
    for s, a in np.ndindex(n_states, n_actions):
        row = rows[s, a] = {}
        for p, s2, reward, terminated in outcomes[s][a]:
            if not 0 <= s2 < n_states:
                raise MDPError(f"state {s}, action {a} leads to state {s2}: states are 0 to {n_states - 1}.")
            key = (int(s2), bool(terminated), float(reward))
            row[key] = row.get(key, 0.0) + p
    return rows


def _entries(
    rows: Laws, terminal: np.ndarray, number: Callable[[int, bool, int], int]
) -> Iterator[tuple[int, int, int, float, float]]:
    """(s, a, s', probability, reward); `number` says which copy of s' the k-th best reward leads to."""
    for (s, a), row in rows.items():
        seen: dict[tuple[int, bool], int] = {}
        for (s2, end, reward), p in sorted(row.items(), key=lambda item: -item[0][2]):
            # A negative probability stays, so that the check of the tables names it.
            if p != 0 and not terminal[s]:
                k = seen[s2, end] = seen.get((s2, end), -1) + 1
                yield s, a, number(s2, end, k), p, reward


def _reachable(rows: Mapping, starts: np.ndarray, n_actions: int) -> set[int]:
    """States in which an episode can go on."""
    alive, todo = set(), [int(s) for s in starts]
    while todo:
        s = todo.pop()
        if s not in alive:
            alive.add(s)
            todo += [
                n for a in range(n_actions) for (n, end, _), p in rows[s, a].items() if p > 0 and not end
            ]
    return alive


def from_gymnasium(
    env: gym.Env | str, gamma: float = 0.99, max_episode_steps: int | None = None, **kwargs: Any
) -> FiniteMDP:
    """The exact MDP of a toy_text environment (`FrozenLake-v1`, `CliffWalking-v1`, `Taxi-v4`), from its table P.

    `env` is an id (with `kwargs` for its constructor) or an environment with `unwrapped.P` and
    `unwrapped.initial_state_distrib`, which is reset. Spaces, time limit (None = Gymnasium's) and action masks
    (where `info` has them, as Taxi's) are Gymnasium's. See `from_outcomes`. Raises MDPError where there is no
    table, or where it is not the whole truth (Taxi with a fickle passenger).
    """
    made = quiet_make(env, **kwargs) if isinstance(env, str) else env
    inner: Any = made.unwrapped
    try:
        if not hasattr(inner, "P") or not hasattr(inner, "initial_state_distrib"):
            raise MDPError(f"{env} has no table of transitions (unwrapped.P and initial_state_distrib).")
        if getattr(inner, "fickle_passenger", False):
            raise MDPError(f"{env}: with a fickle passenger the table P is not what the environment does.")
        masked = find_masks_of(made) == "info" and hasattr(inner, "action_mask")
        legal = np.array([inner.action_mask(s) for s in range(len(inner.P))], bool) if masked else None
        limit = made.spec.max_episode_steps if made.spec else None
        grid: Any = getattr(inner, "shape", None) or getattr(getattr(inner, "desc", None), "shape", None)
        fits = grid is not None and np.prod(grid) == len(inner.P)
        return from_outcomes(
            inner.P,
            gamma,
            inner.initial_state_distrib,
            legal=legal,
            cells=tuple(np.ndindex(*grid)) if fits else None,
            max_episode_steps=max_episode_steps or limit,
            env_id=env
            if isinstance(env, str) and not kwargs and max_episode_steps in (None, limit)
            else None,
        )
    finally:
        if isinstance(env, str):
            made.close()


def grid_world(
    rows: Sequence[str],
    *,
    gamma: float = 0.99,
    slip: float = 0.0,
    rewards: Mapping[str, float] | None = None,
    step_reward: float = 0.0,
    max_episode_steps: int | None = None,
) -> FiniteMDP:
    """A grid from a drawing: S start (several: uniform), # wall, G goal, H hole, any other letter free.

    Actions 0 to 3 are up, right, down, left; a move into a wall or out of the grid stays. With probability `slip`
    the move goes to one of its two sides instead, half each. Entering a cell pays `step_reward` plus its
    letter's entry in `rewards` (default G: 1); G and H are terminal. Walls are no states. Raises MDPError for
    a ragged drawing, no S, or a slip outside [0, 1].
    """
    rewards = {"G": 1.0} if rewards is None else rewards
    if len({len(row) for row in rows}) != 1:
        raise MDPError("the rows of the drawing have different lengths.")
    letters = {(i, j): x for i, row in enumerate(rows) for j, x in enumerate(row) if x != "#"}
    cells = tuple(letters)
    starts = [n for n, cell in enumerate(cells) if letters[cell] == "S"]
    if not starts:
        raise MDPError("the drawing has no start S.")

    def outcome(cell, move):
        after = (cell[0] + move[0], cell[1] + move[1])
        after = after if after in letters else cell
        letter = letters[after]
        return cells.index(after), step_reward + rewards.get(letter, 0.0), letter in "GH"

    return _grid_mdp(
        cells,
        outcome,
        slip,
        gamma,
        np.isin(np.arange(len(cells)), starts) / len(starts),
        max_episode_steps=max_episode_steps,
    )


def cliff(
    n_rows: int = 4,
    n_columns: int = 12,
    *,
    gamma: float = 0.99,
    slip: float = 0.0,
    max_episode_steps: int | None = None,
) -> FiniteMDP:
    """The cliff walk: from the lower left to the lower right corner, −1 a step; the cliff between pays −100.

    A step off the cliff puts one back to the start. Actions 0 to 3 are up, right, down, left, `slip` as in
    `grid_world`. Sutton & Barto, Reinforcement Learning (2018), Example 6.6.
    """
    cells = tuple(np.ndindex(n_rows, n_columns))
    start, goal = (n_rows - 1) * n_columns, n_rows * n_columns - 1

    def outcome(cell, move):
        i = min(max(cell[0] + move[0], 0), n_rows - 1)
        j = min(max(cell[1] + move[1], 0), n_columns - 1)
        after = i * n_columns + j
        return (start, -100.0, False) if start < after < goal else (after, -1.0, after == goal)

    return _grid_mdp(cells, outcome, slip, gamma, start, max_episode_steps=max_episode_steps)


def _grid_mdp(cells: tuple, outcome: Any, slip: float, gamma: float, rho0: Any, **fields: Any) -> FiniteMDP:
    if not 0 <= slip <= 1:
        raise MDPError(f"slip is {slip}; it must lie in [0, 1].")
    chances = {0: 1 - slip, 1: slip / 2, 3: slip / 2}
    table = {
        s: {
            a: [(p, *outcome(cell, MOVES[(a + turn) % 4])) for turn, p in chances.items() if p]
            for a in range(4)
        }
        for s, cell in enumerate(cells)
    }
    return from_outcomes(table, gamma, rho0, cells=cells, **fields)


def chain(n: int = 5, *, gamma: float = 1.0, max_episode_steps: int | None = None) -> FiniteMDP:
    """n states in a row between two terminal ones, start in the middle; action 0 goes left, 1 right.

    Entering the right end pays 1, everything else 0: the uniform policy's value of the i-th state is i/(n+1) with
    γ = 1. Sutton & Barto, Reinforcement Learning (2018), Example 6.2. States: 0 is the left end, n+1 the right.
    """
    P, r = np.zeros((n + 2, 2, n + 2)), np.zeros((n + 2, 2, n + 2))
    for s in range(1, n + 1):
        P[s, 0, s - 1] = P[s, 1, s + 1] = 1
    r[n, 1, n + 1] = 1
    P[0, :, 0] = P[n + 1, :, n + 1] = 1
    return FiniteMDP(P, r, gamma, (n + 1) // 2, [0, n + 1], max_episode_steps=max_episode_steps)


def random_mdp(
    n_states: int,
    n_actions: int,
    branching: int | None = None,
    *,
    seed: int = 0,
    gamma: float = 0.9,
    n_terminal: int = 0,
    max_episode_steps: int | None = None,
) -> FiniteMDP:
    """A Garnet MDP: each (s,a) leads to `branching` random states (None = all), r(s,a,s') ~ N(0, 1).

    The last `n_terminal` states are terminal, the start is uniform over the others; probabilities are uniform on
    the simplex. The same seed gives the same MDP. Archibald, McKinnon & Thomas, "On the Generation of Markov
    Decision Processes" (1995).
    """
    branching = n_states if branching is None else branching
    if not (1 <= branching <= n_states and 0 <= n_terminal < n_states):
        raise MDPError(f"branching={branching}, n_terminal={n_terminal} do not fit {n_states} states.")
    rng = np.random.default_rng(seed)
    P = np.zeros((n_states, n_actions, n_states))
    for s, a in np.ndindex(n_states, n_actions):
        P[s, a, rng.choice(n_states, branching, replace=False)] = rng.dirichlet(np.ones(branching))
    r = rng.standard_normal(P.shape)
    terminal = np.arange(n_states) >= n_states - n_terminal
    P[terminal], r[terminal] = np.eye(n_states)[terminal][:, None], 0
    return FiniteMDP(
        P, r, gamma, ~terminal / (~terminal).sum(), terminal, max_episode_steps=max_episode_steps
    )
