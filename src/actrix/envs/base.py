"""The two contracts an environment adapter fulfils: `HostEnv` (numpy, batched) and `JaxEnv` (pure, one copy).

Resets belong to the adapters: whatever the library underneath does, a reset row is never a sample and
`next_obs` is the true successor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from actrix.core.types import Spec


class Step(NamedTuple):
    """One step of N environments, numpy arrays with leading axis N.

    The arrays belong to the caller: an adapter never writes into one it has handed out.
    """

    obs: Any
    """What the policy sees next: the first observation of the new episode where one began, else `next_obs`."""
    next_obs: Any
    """The true successor s_{t+1}, before any reset."""
    reward: Any
    terminated: Any
    truncated: Any
    """terminated and truncated stay apart; a row with both flags counts as terminated only."""
    valid: Any = None
    """False where the row is no sample (a NEXT_STEP vector environment's reset row); None = all are."""
    mask: Any = None
    """Legal actions at `obs`, bool [N, n]."""
    next_mask: Any = None
    """Legal actions at `next_obs`."""


@runtime_checkable
class HostEnv(Protocol):
    """N environments stepped together on the host."""

    @property
    def spec(self) -> Spec:
        """What one environment looks like."""

    num_envs: int
    backend: str
    """Name shown to the user: 'gymnasium', 'envpool', 'jax'."""

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """Start a new episode in every environment; return (obs [N, ...], mask [N, n] or None).

        `seeds` holds one seed per environment; None continues the environments' own random streams.
        """

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] given in policy coordinates (the adapter scales, shifts and clips them)."""

    def close(self) -> None:
        """Release what the environments hold (processes, windows)."""


def infos_of(env: Any) -> list[dict[str, Any]]:
    """A dict for each environment of what its last step said in `info`; empty ones where the adapter keeps none.

    Environments in `workers=True`'s processes keep theirs but for "is_success", EnvPool's have none.
    """
    return _asked(env, "infos")


def reset_infos_of(env: Any) -> list[dict[str, Any]]:
    """The same of what its last reset said; empty ones in `workers=True`'s processes, games of agents and EnvPool."""
    return _asked(env, "reset_infos")


def _asked(env: Any, name: str) -> list[dict[str, Any]]:
    told = getattr(env, name, None)
    return [{} for _ in range(env.num_envs)] if told is None else told()


def success_of(info: dict[str, Any]) -> float:
    """`info["is_success"]` of an episode's last step, NaN where nothing is said of it; ValueError for no number."""
    told = info.get("is_success", (info.get("final_info") or {}).get("is_success"))
    try:
        return math.nan if told is None else float(np.asarray(told).item())
    except (TypeError, ValueError) as error:
        raise ValueError(f"info['is_success'] is {told!r}; it must be True, False or a number.") from error


def successes(env: Any, ended: np.ndarray) -> list[float]:
    """What the environments whose episodes `ended` `[N]` said of their success, if they did."""
    if not np.count_nonzero(ended):  # ten times cheaper than `any`
        return []
    infos = infos_of(env)
    found = [success_of(infos[i]) for i in np.flatnonzero(ended).tolist()]
    return [x for x in found if not math.isnan(x)]


def episode_info(total: Any, length: Any, began: float) -> dict[str, Any]:
    """`info["episode"]` of an episode that ends now: its return, its length, and the seconds since `began`."""
    return {"r": round(float(total), 6), "l": int(length), "t": round(time.time() - began, 6)}


def infos_with_ends(env: Any, step: Step, done: np.ndarray) -> list[dict[str, Any]]:
    """`infos_of`, and where an episode ended "terminal_observation" and "TimeLimit.truncated", as SB3 has them."""
    infos = infos_of(env)
    for i in np.flatnonzero(done).tolist():
        infos[i]["terminal_observation"] = row_of(step.next_obs, i)
        infos[i]["TimeLimit.truncated"] = bool(step.truncated[i] and not step.terminated[i])
    return infos


def row_of(tree: Any, i: int) -> Any:
    """Row i of an observation tree."""
    if isinstance(tree, dict):
        return {key: row_of(part, i) for key, part in tree.items()}
    return tuple(row_of(part, i) for part in tree) if isinstance(tree, tuple) else tree[i]


@runtime_checkable
class JaxEnv(Protocol):
    """One environment as pure functions, vmapped and scanned by the compiled loop. Hashable (a frozen dataclass).

    Unlike gymnax's `step` it does not reset by itself and keeps termination and truncation apart.
    """

    @property
    def spec(self) -> Spec:
        """Spaces, time limit and mask size."""

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Return (state, obs) of a new episode."""

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any, Any, Any, Any]:
        """Return (state, obs, reward, terminated, truncated); action is in environment coordinates."""

    def mask(self, state: Any) -> jax.Array | None:
        """Legal actions in `state`, or None."""


def step_keys(key: jax.Array, step: jax.Array | int, num_envs: int) -> jax.Array:
    """Random keys `[num_envs, 2]` (step, reset) of global step number `step`; alike in both modes.

    The initial reset uses number 0, the first step number 1; a reset of all environments takes a number too.
    """
    return jax.random.split(jax.random.fold_in(key, step), (num_envs, 2))
