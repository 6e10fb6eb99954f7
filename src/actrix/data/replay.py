"""Replayed transitions: each chunk goes into a ring, batches come out of it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from actrix.core.answers import Data, DataFacts, Learning, Metrics, State
from actrix.core.contract import count
from actrix.core.fields import share, switch, whole
from actrix.core.rows import Rows, backward_sum
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.types import Key
from actrix.data.ring import Draw, Ends, Memory, empty_memory, weights

WARM_UP_ROWS = 1024
"""Longest chunk of the random phase: a hundred thousand images at once would not fit into memory."""


@dataclasses.dataclass(frozen=True)
class Replay(Data):
    """Transitions in a ring, drawn at random: off-policy data, by Stable-Baselines3's names."""

    buffer_size: int = 1_000_000
    """Transitions kept, over all environments."""
    learning_starts: int = 100
    """Environment steps with uniformly random actions before the first update."""
    batch_size: int = 256
    train_freq: int = 1
    """Steps of each environment between updates."""
    gradient_steps: int = 1
    """Updates after `train_freq` steps; −1 = as many as transitions were added."""
    n_steps: int = 1
    """n of the n-step target. Replayed n-step targets with n > 1 are not corrected for the older behaviour."""
    prioritized: bool = False
    """Draw in proportion to the last error^`priority_alpha` (Schaul et al. 2016)."""
    priority_alpha: float = 0.6
    priority_beta: Schedule = 0.4
    """Exponent of the importance weights (N·P)^−β; 'lin_0.4_1.0' lets it grow to 1."""
    whole_episodes: bool = dataclasses.field(default=False, metadata={"flag": "whole"})
    """Updates come after one whole episode of every environment: train_freq=(1, "episode")."""

    name: ClassVar[str] = "replay"
    positional: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {"per": "prioritized", "n": "n_steps"}
    structural: ClassVar[tuple[str, ...]] = ("priority_alpha",)
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("priority_alpha", "priority_beta"), "prioritized")
    collects_by: ClassVar[tuple[str, ...]] = (
        "buffer_size", "learning_starts", "train_freq", "gradient_steps", "whole_episodes",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.train_freq, tuple | list):  # Stable-Baselines3 has (4, "step") and (1, "episode")
            number, unit = self.train_freq if len(self.train_freq) == 2 else (None, None)
            if unit != "step" and (number, unit) != (1, "episode"):
                raise ValueError(
                    f"train_freq={self.train_freq}: give steps, e.g. 4, or one whole episode, (1, 'episode')."
                )
            object.__setattr__(self, "whole_episodes", unit == "episode")
            object.__setattr__(self, "train_freq", number)
        switch(self, "whole_episodes")
        if self.whole_episodes and self.train_freq != 1:
            raise ValueError(
                f"train_freq={self.train_freq} counts steps, and whole_episodes=True one episode: leave one out."
            )
        whole(self, "buffer_size", "batch_size", "train_freq", "n_steps")
        whole(self, "learning_starts", least=0)
        whole(self, "gradient_steps", least=-1)
        switch(self, "prioritized")
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps=0 would learn nothing; write −1 for one per step.")
        share(self, "priority_alpha")
        if self.prioritized and not self.priority_alpha > 0:
            raise ValueError("priority_alpha=0 draws uniformly: leave out prioritized=True, or give another.")
        object.__setattr__(self, "priority_beta", as_schedule(self.priority_beta, "priority_beta"))
        low, high = bounds(self.priority_beta)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"priority_beta={self.priority_beta} must lie in [0, 1].")

    @property
    def facts(self):
        return DataFacts(
            on_policy=False, transitions=True, by_error=self.prioritized, whole_episodes=self.whole_episodes
        )

    def progress(self, clock):
        return clock.after

    def rows(self, spec):
        if not self.whole_episodes:
            return self.train_freq
        if spec.max_episode_steps is None:
            raise ValueError(
                "train_freq=(1, 'episode') needs the longest episode to wait for, and this environment has no time "
                "limit: wrap it in gymnasium.wrappers.TimeLimit, or count steps."
            )
        return spec.max_episode_steps

    def check(self, spec, num_envs, config):
        if self.buffer_size < num_envs:
            raise ValueError(
                f"buffer_size={self.buffer_size} cannot hold one step of n_envs={num_envs} environments."
            )

    def check_budget(self, total_steps, num_envs):
        pieces, rows = self.warm_up(False, False, 1, num_envs)
        whole_steps = pieces * rows * num_envs
        if whole_steps < total_steps:
            return
        starts = self.learning_starts
        more = f" ({whole_steps} in whole steps of {num_envs} environments)" if whole_steps > starts else ""
        raise ValueError(
            f"learning_starts={starts}{more} is not smaller than the budget of {total_steps} steps: "
            "nothing would be learned."
        )

    def warm_up(self, statistics, whole, rows, num_envs):
        rows = -(-self.learning_starts // num_envs)
        pieces = -(-rows // WARM_UP_ROWS)
        return pieces, -(-rows // max(pieces, 1))

    def warm_numbers(self, actor, numbers):
        return actor.at_random(numbers)

    def updates(self, rows: int, num_envs: int) -> int:
        """Gradient steps after a chunk of `rows` steps of `num_envs` environments."""
        return rows * num_envs if self.gradient_steps < 0 else self.gradient_steps

    def init(self, head, spec, num_envs, record):
        return self.room(head, spec, num_envs, max(self.buffer_size, self.train_freq * num_envs))

    def room(self, head: Any, spec: Any, num_envs: int, transitions: int) -> Memory:
        """An empty memory for so many transitions."""
        alpha = self.priority_alpha if self.prioritized else 0.0
        return empty_memory(head, spec, num_envs, transitions=transitions, window=self.n_steps, alpha=alpha)

    def observe(self, training, memory, chunk):
        counted = dataclasses.replace(count(training, chunk), update=training.update)
        return counted, memory.append(_plain(chunk))

    # ------------------------------------------------------------------ feeding

    def feed(self, learning, state, memory, chunk, key):
        steps = self.updates(*chunk.reward.shape)
        due = jnp.sum(chunk.valid) if self.gradient_steps < 0 and chunk.valid is not None else None
        state, memory, metrics = self.replay(learning, state, memory.append(_plain(chunk)), steps, key, due)
        return state, memory, metrics, None

    def replay(
        self,
        learning: Learning,
        state: State,
        memory: Memory,
        steps: int,
        key: Key,
        due: jax.Array | None = None,
    ) -> tuple[State, Memory, Metrics]:
        """`steps` updates from the memory, or the first `due` of them.

        The metric 'batch' is what the first non-finite one learned from, if any.
        """
        if steps == 1 and due is None:
            state, rows, metrics, batch = self._update(learning, memory, state, memory.rows, key)
        else:
            state, rows, metrics, batch = self._updates(learning, memory, state, steps, key, due)
        metrics = {
            name: jnp.nanmean(x) for name, x in metrics.items()
        }  # a delayed actor has none in some updates
        metrics |= {"batch": batch, "train/n_updates": state.number}
        return state, dataclasses.replace(memory, rows=rows), metrics

    def _updates(
        self, learning: Learning, memory: Memory, state: State, steps: int, key: Key, due: jax.Array | None
    ) -> tuple:
        shapes = jax.eval_shape(lambda: self._update(learning, memory, state, memory.rows, key))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[3])

        def one(carry: tuple, key: Key) -> tuple[tuple, Metrics]:
            old, changed, kept = carry
            rows = memory.rows if changed is None else changed
            state, rows, metrics, batch = self._update(learning, memory, old, rows, key)
            kept = jax.lax.cond(state.bad & ~old.bad, lambda: batch, lambda: kept)
            return (state, None if changed is None else rows, kept), metrics

        # The memory stays outside the carry where nothing in it changes.
        start, keys = (state, memory.rows if self.prioritized else None, empty), jax.random.split(key, steps)
        if due is None:
            (state, changed, batch), metrics = jax.lax.scan(one, start, keys)
            return state, memory.rows if changed is None else changed, metrics, batch

        def again(number: jax.Array, both: tuple) -> tuple:
            carry, means = one(both[0], keys[number]), both[1]
            added = lambda old, x: old + jnp.where(jnp.isnan(x), 0.0, jnp.stack([x, jnp.ones_like(x)]))
            return carry[0], {name: added(means[name], x) for name, x in carry[1].items()}

        none = {name: jnp.zeros(2) for name in shapes[2]}
        (state, changed, batch), sums = jax.lax.fori_loop(0, due, again, (start, none))
        metrics = {name: x[0] / x[1] for name, x in sums.items()}
        return state, memory.rows if changed is None else changed, metrics, batch

    def _update(
        self,
        learning: Learning,
        memory: Memory,
        state: State,
        rows: Any,
        key: Key,
    ) -> tuple:
        """(state, the ring's rows, metrics, the batch) after one update."""
        ring, progress = memory.ring, self.progress(learning.clock)
        draw_key, key = jax.random.split(key)
        draw, batch = self.sample(memory, rows, draw_key, learning.gamma, progress)
        batch = learning.see(batch)
        item, _ = learning.estimate(state, batch, progress, key)
        state, priority, metrics = learning.update(state, item, progress, key)
        if self.prioritized:
            rows = ring.priorities(rows, draw, priority)
        return state, rows, metrics, batch

    def sample(
        self, memory: Memory, rows: Any, key: Key, gamma: float | jax.Array, progress: jax.Array
    ) -> tuple[Draw, Rows]:
        """(where in the ring, a batch of transitions) drawn from the ring's `rows`."""
        draw = memory.ring.draw(rows, key, self.batch_size)
        weight = draw.ok.astype(jnp.float32)
        if self.prioritized:
            weight = weights(draw, rows, evaluate(self.priority_beta, progress))
        return draw, jump(memory.ring.ends(rows, draw, self.n_steps), weight, gamma)


@dataclasses.dataclass(frozen=True)
class Fixed(Replay):
    """A fixed data set, drawn from at random; nothing is collected."""

    learning_starts: int = 0

    name: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whole_episodes:
            raise ValueError(
                "whole_episodes=True is of what is collected, and a data set is fixed: leave it out."
            )

    @property
    def facts(self):
        return dataclasses.replace(super().facts, fixed=True)


def jump(ends: Ends, weight: jax.Array, gamma: float | jax.Array) -> Rows:
    """n rows as one: Σ_{k≤m} γ^k r_{t+k}, m the last row used (n−1, or the first cut), and γ^{m+1}(1 − terminated_m).

    Both are the Monte Carlo return of the n rows: of the rewards with value 0 after them, and of no rewards with value
    1 after them.
    """
    valid = ends.valid
    cut = (ends.terminated | ends.truncated | ~valid | ~jnp.roll(valid, -1, axis=0)).at[-1].set(True)
    discount = jnp.where(ends.terminated | ~valid, 0, jnp.asarray(gamma, ends.reward.dtype))
    sums = lambda x: backward_sum(x, decay=discount, cut=cut)[0]
    bootstrap = jnp.where(cut & ~ends.terminated, 1, 0)
    return Rows(
        ends.obs, ends.action, sums(jnp.where(valid, ends.reward, 0)), ends.next_obs, sums(discount * bootstrap),
        jnp.ones_like(weight, bool), weight, mask=ends.mask, next_mask=ends.next_mask,
        next_action=ends.next_action, next_action_known=ends.next_action_known, on_policy=False, replayed=True,
    )  # fmt: skip


def _plain(chunk: Any) -> Any:
    """The chunk without what only corrections need of the behaviour policy: a transition is learned from as it is."""
    return dataclasses.replace(chunk, log_prob=None, dist=None)
