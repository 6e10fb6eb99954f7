"""The records that pass between environments, loops and algorithms: `Transition`, `Chunk`, `Spec`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import gymnasium as gym
import jax

T = TypeVar("T")
PyTree = Any
Key = jax.Array


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass that is also a JAX pytree: fields but `static` ones are data (arrays, trees of them, None)."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(cls)


@record
class Transition:
    """What happened between acting and the next observation; leaves `[T, N, ...]`, time first.

    Row t: the policy saw `obs` (s_t), did `action` (a_t), got `reward` (r_t), reached `next_obs` (s_{t+1}).
    """

    obs: PyTree
    """s_t, as the environment gave it (a pytree for Dict and Tuple spaces)."""
    action: jax.Array
    """a_t in policy coordinates: 0-based for discrete kinds, [-1, 1] spans the bounds for Box."""
    reward: jax.Array
    """r_t, float32."""
    next_obs: PyTree
    """s_{t+1}, the true successor, before any reset."""
    terminated: jax.Array
    """The MDP ended: no value after this row."""
    truncated: jax.Array
    """Cut from outside (a time limit): bootstrap from V(next_obs), then cut every trace and sum."""
    valid: jax.Array | None = None
    """False where the row is not a sample (padding, a reset row); None = all true."""
    log_prob: jax.Array | None = None
    """log μ(a_t|s_t) of the behaviour policy; None where unknown (offline data)."""
    dist: PyTree = None
    """The behaviour policy's distribution at s_t (a `Distribution`), or None."""
    mask: jax.Array | None = None
    """Legal actions at obs, bool `[T, N, n]`, or None = all legal."""
    next_mask: jax.Array | None = None
    """Legal actions at next_obs."""


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What an environment says whose episodes are a prompt and an answer to it.

    Where one action is legal, the prompt goes on: such a row is seen, and no choice of the policy's.
    """

    group: int
    """Environments i with the same i // group get the same prompt at the same time."""
    room: int
    """Actions of the longest answer."""
    verified: bool = True
    """An episode's return is the verifier's: more than 1/2 where the answer is right."""
    answered: bool = True
    """The environment has a right answer to each, to be shown."""


@record
class Chunk(Transition):
    """A time-major block of transitions, what `learn` consumes."""

    carry0: PyTree = None
    """Recurrent memory `[N, ...]` before row 0; None for feed-forward policies."""
    first: jax.Array | None = None
    """`[T, N]`: an episode starts at this row, so the carry is zeroed before it."""
    prompts: Prompts | None = dataclasses.field(default=None, metadata=dict(static=True))
    """What the environments say of prompts; None where there are none."""


GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
"""What a goal environment observes, by Gymnasium-Robotics's names: `achieved_goal` is the goal that a state reaches."""


class NoInfo(dict):
    """What `compute_reward` gets where it was promised infos: none is remembered, and reading it says so."""

    def _refuse(self, *args: Any) -> Any:
        raise ValueError(
            "copy_info_dict=True, and compute_reward reads the info: no info is remembered, so give all that a reward "
            "depends on in the goals."
        )

    __getitem__ = __contains__ = __iter__ = __len__ = __bool__ = get = keys = values = items = _refuse  # type: ignore


@dataclasses.dataclass(frozen=True)
class Goals:
    """What a goal environment says of any goal: JAX functions of `(achieved_goal, desired_goal, info)` `[B, ...]`."""

    compute_reward: Callable[..., jax.Array]
    """The reward `[B]` of reaching states with these achieved goals while these were desired; nothing is in `info`."""
    compute_terminated: Callable[..., jax.Array] | None = None
    """Whether the MDP ends there; None = an end does not depend on the goal."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an algorithm must know of an environment to build its networks; describes ONE environment."""

    observation_space: gym.Space
    action_space: gym.Space
    max_episode_steps: int | None = None
    mask_size: int | None = None
    """Length of the action mask, or None where the environment offers none."""
    frame_stack: int | None = None
    """Observations are that many frames along axis 0, oldest first, an episode's first one repeated; None = no."""
    goals: Goals | None = dataclasses.field(default=None, compare=False)
    """What it says of goals that were not pursued; None where it has no such functions."""
    prompts: Prompts | None = None
    """What it says of prompts and answers; None where there are none."""
