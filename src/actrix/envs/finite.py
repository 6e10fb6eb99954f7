"""Finite MDPs whose dynamics are known: exact tables, a JAX environment and a Gymnasium environment in one.

`FiniteMDP` holds P, r, γ and ρ0 in float64 and is the ground of the exact oracle (`actrix.lab.exact`); the same
object is a `JaxEnv`, and `as_gymnasium` gives the `gymnasium.Env`. Episodes end on entering a terminal state:
no value follows it, γ_t = γ·(1 − terminal(s_{t+1})).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float

from actrix.core.types import Spec

SUM_TOLERANCE = 1e-8
"""How far a row of probabilities may be from 1; rows within it are divided by their sum."""


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
