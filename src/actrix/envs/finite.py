"""Finite MDPs whose dynamics are known: exact tables, a JAX environment and a Gymnasium environment in one.

`FiniteMDP` holds P, r, γ and ρ0 in float64 and is the ground of the exact oracle (`actrix.lab.exact`); the same
object is a `JaxEnv`, and `as_gymnasium` gives the `gymnasium.Env`. Episodes end on entering a terminal state:
no value follows it, γ_t = γ·(1 − terminal(s_{t+1})).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float

from actrix.core.types import Spec
from actrix.envs.gymnasium import find_masks_of, quiet_make

SUM_TOLERANCE = 1e-8
"""How far a row of probabilities may be from 1; rows within it are divided by their sum."""

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
MOVE_NAMES = ("up", "right", "down", "left")


class MDPError(ValueError):
    """The tables are no MDP; the message names the state and the action."""


class FiniteState(NamedTuple):
    """The state's number and the steps taken in this episode."""

    s: jax.Array
    t: jax.Array


class Outcomes(NamedTuple):
    """What may follow each (s, a), without the zeros of P: arrays [S, A, K], padded with probability 0."""

    next_state: np.ndarray
    cumulative: np.ndarray
    """Sums of the probabilities up to each outcome; exactly 1 from the last possible one on."""
    reward: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FiniteMDP:
    """P(s'|s,a), r(s,a) or r(s,a,s'), γ and ρ0 of S states and A actions, checked and read-only.

    Equal and hashed by content. `terminal`, `legal` and `rho0` may also be given as state numbers (`rho0` as
    one, `terminal` as several). The row of a terminal state must be a loop without reward.

    Raises `MDPError`, naming the state and the action, for: shapes that do not fit, a probability that is
    negative or NaN, a row that does not sum to 1, a reward that is not finite, γ outside [0, 1], a state number
    that does not exist, an episode that starts in a terminal state, a terminal state that is left or pays, a
    state without legal action; and with γ = 1 for a state from which no terminal state can be reached. (Whether a
    given policy gets there with γ = 1 is for the oracle to check: it needs the policy.)
    """

    P: Float[np.ndarray, "S A S"]
    r: Float[np.ndarray, "S A"] | Float[np.ndarray, "S A S"]
    gamma: float
    rho0: Any
    """The law of s_0, float [S]."""
    terminal: Any = None
    """Absorbing states, bool [S]; None = none."""
    legal: Bool[np.ndarray, "S A"] | None = None
    """The action mask; None = every action is legal everywhere."""
    shows: Any = None
    """The observation of each state, int [S]; None = its own number. Several states may look alike."""
    names: tuple[str, ...] | None = None
    cells: tuple[tuple[int, int], ...] | None = None
    """(row, column) of each state of a grid."""
    max_episode_steps: int | None = None
    env_id: str | None = None
    """The Gymnasium id whose environment this is, or None."""

    def __post_init__(self):
        P = np.array(self.P, np.float64)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or 0 in P.shape:
            raise MDPError(f"P has shape {P.shape}; it must be [S, A, S].")
        S, A, _ = P.shape
        r = np.array(self.r, np.float64)
        if r.shape not in ((S, A), (S, A, S)):
            raise MDPError(f"r has shape {r.shape}; it must be {(S, A)} or {(S, A, S)}.")
        set_ = functools.partial(object.__setattr__, self)
        set_("names", None if self.names is None else tuple(self.names))
        set_("gamma", float(self.gamma))
        set_("P", P)
        set_("r", r)
        set_("terminal", self._flags(self.terminal))
        set_("rho0", self._start(self.rho0))
        set_("shows", np.arange(S) if self.shows is None else np.array(self.shows, int))
        set_("legal", None if self.legal is None else np.array(self.legal, bool))
        self._check()
        set_("P", P / P.sum(axis=-1, keepdims=True))
        set_("rho0", self.rho0 / self.rho0.sum())
        for x in (self.P, self.r, self.rho0, self.terminal, self.shows, self.legal):
            if x is not None:
                x.setflags(write=False)

    # Tables

    @property
    def n_states(self) -> int:
        """S."""
        return self.P.shape[0]

    @property
    def n_actions(self) -> int:
        """A."""
        return self.P.shape[1]

    @functools.cached_property
    def reward(self) -> Float[np.ndarray, "S A"]:
        """Expected reward r(s,a) = Σ_{s'} P(s'|s,a) r(s,a,s')."""
        return self.r if self.r.ndim == 2 else np.einsum("sap,sap->sa", self.P, self.r)

    @functools.cached_property
    def rewards(self) -> Float[np.ndarray, "S A S"]:
        """r(s,a,s')."""
        return np.broadcast_to(self.r if self.r.ndim == 3 else self.r[..., None], self.P.shape)

    @functools.cached_property
    def discount(self) -> Float[np.ndarray, "S A S"]:
        """γ P(s'|s,a) (1 − terminal(s')): what weighs V(s') in Q(s,a)."""
        return self.gamma * self.P * ~self.terminal

    @functools.cached_property
    def outcomes(self) -> Outcomes:
        """The possible successors of each (s, a), for sampling."""
        number = np.count_nonzero(self.P, axis=-1)
        order = np.argsort(self.P == 0, axis=-1, kind="stable")[..., : number.max()]
        cumulative = np.cumsum(np.take_along_axis(self.P, order, axis=-1), axis=-1)
        # Rounding must not leave a gap below 1 through which a uniform number falls onto the padding.
        cumulative = np.where(np.arange(number.max()) >= number[..., None] - 1, 1.0, cumulative)
        return Outcomes(order, cumulative, np.take_along_axis(self.rewards, order, axis=-1))

    def replace(self, **changes: Any) -> FiniteMDP:
        """The MDP with other fields, for instance another γ; it no longer has a Gymnasium id."""
        return dataclasses.replace(self, **{"env_id": None, **changes})

    def state(self, name: str | tuple[int, int] | int) -> int:
        """The number of a state given by number, name or cell; raises MDPError for an unknown one."""
        if isinstance(name, int | np.integer):
            return self._known(int(name))
        known: Sequence[Any] = (self.names if isinstance(name, str) else self.cells) or ()
        if name not in known:
            raise MDPError(f"no state is named {name!r}.")
        return known.index(name)

    def grid(self, x: np.ndarray) -> np.ndarray:
        """x[S, ...] laid out as [rows, columns, ...], NaN where there is no state. Raises MDPError without cells."""
        if self.cells is None:
            raise MDPError("this MDP is no grid: it has no cells.")
        rows, columns = np.array(self.cells).T
        out = np.full((rows.max() + 1, columns.max() + 1, *x.shape[1:]), np.nan)
        out[rows, columns] = x[: len(rows)]
        return out

    # As a JAX environment

    @functools.cached_property
    def spec(self) -> Spec:
        """Discrete observations and actions; a mask where `legal` is given."""
        return Spec(
            spaces.Discrete(int(self.shows.max()) + 1),
            spaces.Discrete(self.n_actions),
            self.max_episode_steps,
            None if self.legal is None else self.n_actions,
        )

    def reset(self, key: jax.Array) -> tuple[FiniteState, jax.Array]:
        """Return (state, obs) of a new episode, s_0 ~ ρ0."""
        starts = np.flatnonzero(self.rho0)
        s = jnp.asarray(starts, jnp.int32)[_draw(key, _cumulative(self.rho0[starts]))]
        return FiniteState(s, jnp.zeros((), jnp.int32)), jnp.asarray(self.shows, jnp.int32)[s]

    def step(self, key: jax.Array, state: FiniteState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated), s' ~ P(·|s,a); float32 rewards."""
        table = self.outcomes
        k = _draw(key, jnp.asarray(table.cumulative, jnp.float32)[state.s, action])
        s = jnp.asarray(table.next_state, jnp.int32)[state.s, action, k]
        reward = jnp.asarray(table.reward, jnp.float32)[state.s, action, k]
        terminated, t = jnp.asarray(self.terminal)[s], state.t + 1
        truncated = (t >= (self.max_episode_steps or 2**30)) & ~terminated
        return FiniteState(s, t), jnp.asarray(self.shows, jnp.int32)[s], reward, terminated, truncated

    def mask(self, state: FiniteState) -> jax.Array | None:
        """Legal actions, or None."""
        return None if self.legal is None else jnp.asarray(self.legal)[state.s]

    def as_gymnasium(self, render_mode: str | None = None) -> FiniteEnv:
        """The same MDP as a `gymnasium.Env`."""
        return FiniteEnv(self, render_mode)

    # Identity and checks

    @functools.cached_property
    def _digest(self) -> bytes:
        sha = hashlib.sha256()
        for x in (self.P, self.r, self.rho0, self.terminal, self.shows, self.legal):
            sha.update(repr(None if x is None else x.shape).encode() + (b"" if x is None else x.tobytes()))
        rest = (self.gamma, self.names, self.cells, self.max_episode_steps, self.env_id)
        sha.update(repr(rest).encode())
        return sha.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FiniteMDP) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        what = f"{self.env_id}: " if self.env_id else ""
        return f"FiniteMDP({what}{self.n_states} states, {self.n_actions} actions, γ={self.gamma:g})"

    def _known(self, s: Any, what: str = "state") -> int:
        if not (0 <= s < len(self.P) and float(s).is_integer()):
            raise MDPError(f"{what} {s} is unknown: states are 0 to {len(self.P) - 1}.")
        return int(s)

    def _flags(self, given: Any) -> np.ndarray:
        flags = np.zeros(len(self.P), bool)
        if given is None:
            return flags
        given = np.asarray(given)
        if given.dtype == bool:
            if given.shape != flags.shape:
                raise MDPError(f"terminal has shape {given.shape}; it must be {flags.shape}.")
            return given.copy()
        for s in given.ravel():
            flags[self._known(s, "terminal state")] = True
        return flags

    def _start(self, given: Any) -> np.ndarray:
        if np.ndim(given) == 0:
            return np.eye(len(self.P))[self._known(given, "start state")]
        rho0 = np.array(given, np.float64)
        if rho0.shape != (len(self.P),):
            raise MDPError(f"rho0 has shape {rho0.shape}; it must be {(len(self.P),)}.")
        return rho0

    def _label(self, s: int) -> str:
        return f"state {s}" + (f" ({self.names[s]})" if self.names and s < len(self.names) else "")

    def _check(self) -> None:
        S, A, _ = self.P.shape
        _check_lengths(self, S, A)
        _check_distribution(self.rho0, lambda s: f"rho0 of {self._label(s)}", "rho0")
        for s, a in np.ndindex(S, A):
            row, where = self.P[s, a], f"{self._label(s)}, action {a}"
            if not (row >= 0).all() or abs(row.sum() - 1) > SUM_TOLERANCE:
                _check_distribution(row, lambda n, w=where: f"P of {w}, next state {n}", f"P of {where}")
        if not np.isfinite(self.r).all():
            s, a, *rest = np.argwhere(~np.isfinite(self.r))[0]
            to = f", next state {rest[0]}" if rest else ""
            raise MDPError(
                f"the reward of {self._label(s)}, action {a}{to} is {self.r[(s, a, *rest)]}, not finite."
            )
        for s in map(int, np.flatnonzero(self.terminal)):
            if self.rho0[s] > 0:
                raise MDPError(f"{self._label(s)} is terminal, but episodes start there.")
            for a in range(A):
                if self.P[s, a, s] < 1 - SUM_TOLERANCE:
                    raise MDPError(f"{self._label(s)} is terminal, but action {a} leaves it.")
                if (self.r[s, a] if self.r.ndim == 2 else self.r[s, a, s]) != 0:
                    raise MDPError(
                        f"{self._label(s)} is terminal, but action {a} has a reward there: "
                        "put it on the step that enters the state."
                    )
        if self.gamma == 1:
            self._check_undiscounted()

    def _check_undiscounted(self) -> None:
        possible = self.P > 0 if self.legal is None else (self.P > 0) & self.legal[..., None]
        edge, ends = possible.any(axis=1), self.terminal.copy()
        while (more := (edge & ends).any(axis=1) & ~ends).any():
            ends |= more
        if not ends.all():
            s = int(np.flatnonzero(~ends)[0])
            raise MDPError(
                f"gamma is 1, but from {self._label(s)} no action leads towards a terminal state: returns need "
                "not be finite. Mark where episodes end in `terminal`, or take gamma < 1."
            )


def _check_lengths(mdp: FiniteMDP, S: int, A: int) -> None:
    if not 0 <= mdp.gamma <= 1:
        raise MDPError(f"gamma is {mdp.gamma}; it must lie in [0, 1].")
    if mdp.legal is not None:
        if mdp.legal.shape != (S, A):
            raise MDPError(f"legal has shape {mdp.legal.shape}; it must be {(S, A)}.")
        if not (none := mdp.legal.any(axis=1) | mdp.terminal).all():
            raise MDPError(f"{mdp._label(int(np.flatnonzero(~none)[0]))} has no legal action.")
    if mdp.shows.shape != (S,) or mdp.shows.min() < 0:
        raise MDPError(f"shows must hold {S} observations of at least 0.")
    if mdp.names is not None and len(mdp.names) != S:
        raise MDPError(f"there are {len(mdp.names)} names for {S} states.")
    if mdp.max_episode_steps is not None and mdp.max_episode_steps < 1:
        raise MDPError(f"max_episode_steps is {mdp.max_episode_steps}; it must be at least 1.")


def _check_distribution(row: np.ndarray, entry: Any, whole: str) -> None:
    if not (row >= 0).all():  # false for NaN too
        k = int(np.flatnonzero(~(row >= 0))[0])
        raise MDPError(f"{entry(k)} is {row[k]}; it must be a probability.")
    if abs(row.sum() - 1) > SUM_TOLERANCE:
        raise MDPError(f"{whole} sums to {row.sum():.9g}; it must sum to 1.")


def _cumulative(p: np.ndarray) -> jax.Array:
    return jnp.asarray([*np.cumsum(p)[:-1], 1.0], jnp.float32)


def _draw(key: jax.Array, cumulative: jax.Array) -> jax.Array:
    """An index with these cumulative probabilities [K]; K = 1 draws nothing."""
    if len(cumulative) == 1:
        return jnp.zeros((), jnp.int32)
    u = jax.random.uniform(key, (), jnp.float32)
    if len(cumulative) > 16:  # a binary search: Taxi starts in 300 states, and a start is drawn at every step
        return jnp.searchsorted(cumulative, u, side="right").astype(jnp.int32)
    return jnp.sum(u >= cumulative, dtype=jnp.int32)


class FiniteEnv(gym.Env):
    """A `FiniteMDP` as a Gymnasium environment, with its own time limit; renders a grid as text ('ansi')."""

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, mdp: FiniteMDP, render_mode: str | None = None):
        self.mdp, self.render_mode = mdp, render_mode
        self.observation_space, self.action_space = mdp.spec.observation_space, mdp.spec.action_space
        self.s, self.t = -1, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Start an episode, s_0 ~ ρ0, or in `options["state"]`."""
        super().reset(seed=seed)
        start = (options or {}).get("state")
        drawn = self.np_random.choice(self.mdp.n_states, p=self.mdp.rho0)
        self.s, self.t = int(drawn) if start is None else self.mdp.state(start), 0
        return self._show()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict]:
        """One transition, s' ~ P(·|s,a)."""
        if not self.action_space.contains(action):
            raise MDPError(f"action {action} is unknown: actions are 0 to {self.mdp.n_actions - 1}.")
        following = int(self.np_random.choice(self.mdp.n_states, p=self.mdp.P[self.s, action]))
        reward = float(self.mdp.rewards[self.s, action, following])
        self.s, self.t = following, self.t + 1
        terminated = bool(self.mdp.terminal[self.s])
        truncated = not terminated and self.t >= (self.mdp.max_episode_steps or np.inf)
        obs, info = self._show()
        return obs, reward, terminated, truncated, info

    def render(self) -> str | None:  # type: ignore[override]
        """The grid with the agent as @, terminal cells as X and walls as #; without cells the state's name."""
        if self.render_mode is None:
            return None
        if self.mdp.cells is None:
            return self.mdp._label(self.s)
        letter = np.where(self.mdp.terminal, 1.0, 0.0)
        letter[self.s] = 2
        sign = {0: ".", 1: "X", 2: "@"}
        return "\n".join("".join(sign.get(x, "#") for x in row) for row in self.mdp.grid(letter))

    def _show(self) -> tuple[int, dict]:
        legal = self.mdp.legal
        return int(self.mdp.shows[self.s]), {} if legal is None else {"action_mask": legal[self.s].copy()}


# Constructors


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
    rows: dict[tuple[int, int], dict[tuple[int, bool, float], float]] = {}
    for s, a in np.ndindex(S, A):
        row = rows[s, a] = {}
        for p, s2, reward, terminated in outcomes[s][a]:
            if not 0 <= s2 < S:
                raise MDPError(f"state {s}, action {a} leads to state {s2}: states are 0 to {S - 1}.")
            key = (int(s2), bool(terminated), float(reward))
            row[key] = row.get(key, 0.0) + p
    start = np.eye(S)[rho0] if np.ndim(rho0) == 0 else np.asarray(rho0, np.float64)
    alive = _reachable(rows, np.flatnonzero(start), A)
    ends = {s2 for row in rows.values() for (s2, end, _), p in row.items() if end and p > 0}
    terminal = np.isin(np.arange(S), [s for s in ends if s not in alive])
    copies: dict[tuple[int, bool, int], int] = {}

    def number(s2: int, terminated: bool, k: int) -> int:
        key = (s2, terminated and not terminal[s2], k)
        return s2 if key == (s2, False, 0) else copies.setdefault(key, S + len(copies))

    entries: list[tuple[int, int, int, float, float]] = []
    for (s, a), row in rows.items():
        seen: dict[tuple[int, bool], int] = {}
        for (s2, end, reward), p in sorted(row.items(), key=lambda item: -item[0][2]):
            # A negative probability stays, so that the check of the tables names it.
            if p != 0 and not terminal[s]:
                k = seen[s2, end] = seen.get((s2, end), -1) + 1
                entries.append((s, a, number(s2, end, k), p, reward))
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
