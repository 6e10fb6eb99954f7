"""`VecFrameStack`: the last observations of each environment as one, as Stable-Baselines3 stacks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array

from actrix.core.spaces import is_image
from actrix.envs.base import HostEnv, Step
from actrix.envs.make import as_host_env
from actrix.envs.vec.around import Around, refuse_around_normalize
from actrix.envs.vec.vecenv import VecEnv


@dataclasses.dataclass(frozen=True)
class Frames:
    """How observations `[N, …]` of one Box are put one behind the other along `axis`; zeros before an episode."""

    space: spaces.Box
    """Of the stacked observation."""
    axis: int
    size: int
    """Of one frame along that axis."""

    @staticmethod
    def of(space: Any, n: int, order: str | None, where: str) -> Frames:
        """`order`: "first" or "last" axis; None = the channels of an image, else the last."""
        if not isinstance(space, spaces.Box) or not space.shape:
            raise ValueError(f"VecFrameStack stacks a Box with axes, or a Dict of them; {where} is {space}.")
        if order not in (None, "first", "last"):
            raise AssertionError(f"channels_order={order!r}: choose 'first', 'last' or None.")
        first = order == "first" or (order is None and is_image(space) and int(np.argmin(space.shape)) == 0)
        axis = 0 if first else len(space.shape) - 1
        low, high = (np.concatenate([bound] * n, axis) for bound in (space.low, space.high))
        return Frames(spaces.Box(low, high, dtype=space.dtype.type), axis + 1, space.shape[axis])

    def start(self, obs: np.ndarray) -> np.ndarray:
        """An episode's first observation, behind zeros."""
        stacked = np.zeros((len(obs), *self.space.shape), obs.dtype)
        stacked[self._last(stacked)] = obs
        return stacked

    def pushed(self, stacked: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """The same with the oldest frame gone and a new one behind."""
        stacked = np.roll(stacked, -self.size, self.axis)
        stacked[self._last(stacked)] = obs
        return stacked

    def _last(self, stacked: np.ndarray) -> tuple[slice, ...]:
        part = slice(stacked.shape[self.axis] - self.size, None)
        return (slice(None),) * self.axis + (part,)


class StackedEnvs(Around):
    """A `HostEnv` around another, whose observations are the last `n` of an episode."""

    env_id = None  # an id alone makes them without the stack
    unsupported = "the frames of VecFrameStack are not saved"

    def __init__(self, host: HostEnv, n: int, channels_order: Any = None):
        super().__init__(host)
        space: Any = host.spec.observation_space
        if isinstance(space, spaces.Dict):
            orders = (
                channels_order
                if isinstance(channels_order, Mapping)
                else dict.fromkeys(space, channels_order)
            )
            parts = {k: Frames.of(part, n, orders.get(k), f"observation[{k!r}]") for k, part in space.items()}
            self._frames: Any = parts
            space = spaces.Dict({k: frames.space for k, frames in parts.items()})
        else:
            self._frames = Frames.of(space, n, channels_order, "the observation")
            space = self._frames.space
        self.spec = dataclasses.replace(host.spec, observation_space=space, frame_stack=None, goals=None)
        # Zeros: also for a step before the first reset.
        self._stacked: Any = create_empty_array(space, host.num_envs)

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """As the environments'."""
        obs, mask = self.inner.reset(seeds)
        self._stacked = self._each(Frames.start, obs)
        return self._stacked, mask

    def step(self, action: np.ndarray) -> Step:
        """As the environments'."""
        step = self.inner.step(action)
        after = self._each(Frames.pushed, self._stacked, step.next_obs)
        ended = step.terminated | step.truncated
        # Where the environments reset themselves a step later, an end is not yet a beginning.
        began = np.zeros_like(ended) if step.obs is step.next_obs else ended
        began = began if step.valid is None else began | ~step.valid
        self._stacked = (
            self._each(_chosen(began), self._each(Frames.start, step.obs), after) if began.any() else after
        )
        return step._replace(obs=self._stacked, next_obs=after)

    def _each(self, call: Any, *trees: Any) -> Any:
        """`call(frames, …)` of each part of an observation."""
        if isinstance(self._frames, dict):
            return {k: call(frames, *(tree[k] for tree in trees)) for k, frames in self._frames.items()}
        return call(self._frames, *trees)


def _chosen(rows: np.ndarray) -> Any:
    """The first where `rows`, else the second."""
    return lambda frames, a, b: np.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)


class VecFrameStack(VecEnv):
    """Environments whose observations are the last `n_stack` of the episode, one behind the other, zeros before it.

    Along the axis of an image's channels, else along the last one; `channels_order`, "first" or "last" (of a Dict: a
    dict of these), says another. What has stacked its frames itself (`spec.frame_stack`) stays as it is. ValueError
    for observations without axes and around `VecNormalize`, which belongs outside.
    """

    def __init__(self, venv: Any, n_stack: int, channels_order: Any = None):
        host = as_host_env(venv)
        refuse_around_normalize(venv, "VecFrameStack", f"(env, {n_stack})")
        if host.spec.frame_stack not in (None, n_stack):
            raise ValueError(
                f"n_stack={n_stack}: these environments have stacked {host.spec.frame_stack} frames already."
            )
        super().__init__(host if host.spec.frame_stack else StackedEnvs(host, n_stack, channels_order))
        self.venv, self.n_stack = venv, n_stack
