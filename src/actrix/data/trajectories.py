"""Fresh chunks learned from once, then remembered windows of trajectories: ACER, PGQL, Off-PAC, AWR."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from actrix.core.answers import DataFacts
from actrix.core.fields import whole
from actrix.core.rows import rows_of
from actrix.data.chunk import OnPolicy
from actrix.data.ring import empty_memory


@dataclasses.dataclass(frozen=True)
class Trajectories(OnPolicy):
    """Each fresh chunk is learned from, then `replay_ratio` times as many windows as there are environments."""

    replay_ratio: int = 4
    """Updates from the memory per fresh chunk (ACER draws their number from a Poisson law of this mean)."""
    buffer_size: int = 50_000
    """Transitions kept, over all environments."""
    learning_starts: int = 1000
    """Transitions in the memory before the first update from it (or a full one)."""

    name: ClassVar[str] = "trajectories"
    positional: ClassVar[tuple[str, ...]] = ("replay_ratio", "buffer_size", "learning_starts")
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("buffer_size", "learning_starts"), "replay_ratio")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "buffer_size")
        whole(self, "replay_ratio", "learning_starts", least=0)
        if self.whole_episodes:
            raise ValueError(
                "whole: the memory holds trajectories of n_steps rows, no whole episodes; take data lag."
            )

    @property
    def facts(self):
        return DataFacts(on_policy=False, windows=True)

    def check_run(self, rows, warm_up, total_steps, num_envs):
        # It learns from its fresh chunks all the while, so this concerns whole runs and no call of `learn`.
        if not self.replay_ratio:
            return
        pieces, warm_rows = warm_up
        chunk = rows * num_envs
        left = (
            total_steps - pieces * warm_rows * num_envs
        )  # the warm-up counts in the budget, not in training
        before_last = max(0, math.ceil(left / chunk) - 1) * chunk
        if before_last < self.learning_starts:
            raise ValueError(
                f"learning_starts={self.learning_starts} is more than the {before_last} steps before the last of "
                f"{total_steps} steps' chunks: nothing would be learned from the memory. Lower it, or set "
                "replay_ratio=0."
            )

    def init(self, head, spec, num_envs, record):
        return empty_memory(
            head, spec, num_envs, transitions=self.buffer_size, window=self.rows(spec), keep=record()
        )

    def feed(self, learning, state, memory, chunk, key):
        enough = memory.holds(self.learning_starts)
        state, _, metrics, first = super().feed(learning, state, None, chunk, key)
        memory = memory.append(chunk)
        if not self.replay_ratio:
            return state, memory, metrics, first
        if self.n_critic_updates:
            key = jax.random.fold_in(key, 1)
        progress, rows, size = learning.clock.before, memory.rows, chunk.reward.shape[0]

        def step(state, key):
            draw = memory.ring.draw(rows, key, rows.head.shape[0])
            window = memory.ring.windows(rows, draw, size)
            seen = learning.see(rows_of(window, learning.gamma, on_policy=False, replayed=True))
            new, _, metrics = learning.update(state, self.items(learning, state, seen, key), progress, key)
            new = jax.tree.map(lambda n, o: jnp.where(enough, n, o), new, state)
            return new, {"train/replay_loss": jnp.where(enough, metrics["train/loss"], jnp.nan)}

        keys = jax.random.split(jax.random.fold_in(key, 2), self.replay_ratio)
        state, more = jax.lax.scan(step, state, keys)
        return state, memory, metrics | jax.tree.map(jnp.mean, more), first
