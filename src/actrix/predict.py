"""One call of a policy on what a user has at hand: one observation or a batch, of any numbers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import jax
import numpy as np

from actrix.core import spaces
from actrix.core.types import Spec
from actrix.loops.evaluate import Policy


def predict(
    policy: Policy,
    spec: Spec,
    observation: Any,
    state: Any = None,
    episode_start: np.ndarray | None = None,
    deterministic: bool = False,
    action_masks: np.ndarray | None = None,
) -> tuple[np.ndarray, Any]:
    """(action, state) as `Model.predict` returns them, whose arguments these are."""
    obs, batched = batch_of(spec.observation_space, observation)
    n = len(jax.tree.leaves(obs)[0])
    first = np.zeros(n, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
    if first.shape != (n,):
        raise ValueError(f"episode_start has shape {first.shape}; expected ({n},).")
    memory = policy.initial_memory(n)
    if state is not None:
        memory = _check_memory(memory, state)
    mask = checked_mask(action_masks, spec, n)
    action, memory = policy(obs, memory, first, mask, deterministic)
    action = np.asarray(spaces.to_env_action(spec.action_space, action), spec.action_space.dtype)
    return (action if batched else np.asarray(action[0])), memory


def batch_of(space: Any, observation: Any) -> tuple[Any, bool]:
    """(observation with a leading batch axis, whether it had one); ValueError names shape and value problems."""
    pair = isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict)
    if pair and not isinstance(space, gym.spaces.Tuple):
        raise ValueError(
            "the observation is a pair with a dict, as env.reset() returns (mixing Gym API and VecEnv API): write "
            "obs, info = env.reset()."
        )
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            got = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"the observation must be a dict with keys {sorted(space.spaces)}, got {got}.")
        parts = {k: batch_of(s, observation[k]) for k, s in space.spaces.items()}
        return {k: p[0] for k, p in parts.items()}, _one_batch([*parts.values()])
    if isinstance(space, gym.spaces.Tuple):
        n = len(space.spaces)
        if not isinstance(observation, tuple | list) or len(observation) != n:
            raise ValueError(f"the observation must be a tuple of {n}, got {type(observation).__name__}.")
        pairs = [batch_of(s, o) for s, o in zip(space.spaces, observation, strict=True)]
        return tuple(p[0] for p in pairs), _one_batch(pairs)
    x = _as_seen(space, _numbers(observation))
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        low = np.asarray(space.start)
        high = low + (space.n if isinstance(space, gym.spaces.Discrete) else space.nvec) - 1
        if x.shape[x.ndim - low.ndim :] == low.shape and ((x < low) | (x > high)).any():
            raise ValueError(
                f"the observation is {x.tolist()}; it must lie in {low.tolist()} to {high.tolist()}."
            )
    if x.shape == space.shape:
        return x[None], False
    if x.shape[1:] == space.shape and x.ndim == len(space.shape) + 1:
        return x, True
    raise ValueError(
        f"the observation has shape {x.shape}; expected {space.shape}, or a batch (n, *{space.shape})."
    )


def _as_seen(space: Any, x: np.ndarray) -> np.ndarray:
    """An image, or a batch of them, with its axes in the space's order where its channels are at the other end."""
    lead = x.ndim - 3
    if lead not in (0, 1) or not spaces.is_image(space) or x.shape[lead:] == space.shape:
        return x
    for here, there in ((lead, -1), (-1, lead)):
        if (moved := np.moveaxis(x, here, there)).shape[lead:] == space.shape:
            return moved
    return x


def _numbers(observation: Any) -> np.ndarray:
    """An array of finite numbers, float32 where they are floats."""
    x = np.asarray(observation)
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is refused
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError(
                f"the observation holds a non-finite number at index {np.argwhere(~np.isfinite(x))[0].tolist()}."
            )
    elif not np.issubdtype(x.dtype, np.integer) and x.dtype != bool:
        raise ValueError(f"the observation has dtype {x.dtype}; expected numbers.")
    return x


def _check_memory(zero: Any, state: Any) -> Any:
    """`state`, if it is a memory like `zero`; ValueError says what it should be."""
    if zero is None:
        raise ValueError(f"state is {str(state)[:60]}; this policy remembers nothing: it must be None.")
    shapes = lambda tree: [np.shape(x) for x in jax.tree.leaves(tree)]
    if jax.tree.structure(zero) != jax.tree.structure(state) or shapes(zero) != shapes(state):  # type: ignore[operator]
        raise ValueError(
            f"state has parts of shapes {shapes(state)}; expected {shapes(zero)}, as predict returned it "
            "for so many observations."
        )
    return state


def _one_batch(parts: list[tuple[Any, bool]]) -> bool:
    """Whether the parts of an observation are batches; ValueError where their lengths differ."""
    lengths = {(len(jax.tree.leaves(x)[0]), batched) for x, batched in parts}
    if len(lengths) > 1:
        found = ", ".join(f"{n}" if batched else "none" for n, batched in sorted(lengths))
        raise ValueError(f"the parts of the observation have different batch lengths: {found}.")
    return parts[0][1]


def checked_mask(action_masks: Any, spec: Spec, n: int) -> np.ndarray | None:
    """Masks `[n, mask_length]` as bool, None without; ValueError where they do not fit or allow nothing."""
    if action_masks is None:
        return None
    mask = np.atleast_2d(np.asarray(action_masks, bool))
    length = spaces.mask_length(spec.action_space)
    if mask.shape != (n, length):
        raise ValueError(f"action_masks has shape {mask.shape}; expected ({n}, {length}).")
    if not mask.any(axis=1).all():
        raise ValueError(f"action_masks forbids every action in row {int(np.argmin(mask.any(axis=1)))}.")
    return mask
