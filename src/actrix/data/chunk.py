"""Fresh chunks: each is learned from for a few epochs of minibatches and dropped."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from actrix.core.answers import Data, DataFacts, Item, Learning, Metrics, State
from actrix.core.fields import positive_or_none, switch, whole
from actrix.core.rows import Rows, flat, rows_of
from actrix.core.shards import gather
from actrix.core.types import Key
from actrix.data.rollout import batch_fits, divisors, minibatch_indices, samples_first, sequences


@dataclasses.dataclass(frozen=True)
class OnPolicy(Data):
    """The policy that is learned acts; each chunk is used for one round of updates and dropped."""

    n_steps: int | None = 2048
    """Rows per environment in a chunk; None = the environment's time limit (whole episodes)."""
    batch_size: int | None = 64
    """Rows of a minibatch; None = the whole chunk at once."""
    n_epochs: int = 10
    target_kl: float | None = None
    """No further step once a minibatch's approximate KL exceeds 1.5 of it."""
    recompute_advantages: bool = False
    """Compute values, targets and ψ anew before every epoch instead of once."""
    n_critic_updates: int = 0
    """Extra passes that fit only the critic, after the actor's (Spinning Up's VPG makes 80)."""
    sequence_length: int | None = None
    """Rows of a recurrent policy's training sequence; None = all if n_steps=None, else its largest divisor up to 64."""
    whole_episodes: bool = dataclasses.field(default=False, metadata={"flag": "whole"})
    """A chunk holds one whole episode of every environment, and what is left of its n_steps rows is empty (so it is
    beside critics mc and none in any case)."""

    name: ClassVar[str] = "on-policy"
    positional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in ("n_steps", "batch_size", "sequence_length"):
            if getattr(self, field) is not None:
                whole(self, field)
        whole(self, "n_epochs")
        whole(self, "n_critic_updates", least=0)
        positive_or_none(self, "target_kl")
        switch(self, "recompute_advantages", "whole_episodes")

    @property
    def facts(self):
        return DataFacts(whole_episodes=self.whole_episodes)

    @property
    def critic_passes(self) -> int:  # type: ignore[override]
        return self.n_critic_updates

    def rows(self, spec):
        rows = self.n_steps or spec.max_episode_steps
        if rows is None:
            raise ValueError(
                "this environment has no time limit: give n_steps, the longest episode to wait for."
            )
        return rows

    def warm_up(self, statistics, whole, rows, num_envs):
        if not statistics:
            return 0, 0
        return 1, rows if whole else min(rows, max(32, 1024 // num_envs))

    def training_length(self, rows: int) -> int:
        """Rows of a recurrent policy's training sequences in chunks of `rows`."""
        batch = self.batch_size or 0  # a default is never what is refused: it divides what was given, too
        if self.sequence_length or (self.n_steps is None and batch % rows == 0):
            return self.sequence_length or rows
        return max(d for d in range(1, 65) if rows % d == 0 == batch % d)

    def fitted(self, spec, num_envs, config):
        total = self.rows(spec) * num_envs
        free = dataclasses.replace(self, batch_size=None)
        length = 1 if config.cell is None else free.training_length(self.rows(spec))
        if (
            self.batch_size is None
            or total % self.batch_size == 0 == self.batch_size % length
            or total % length
        ):
            return self
        sizes = [d for d in divisors(total, length) if d <= max(self.batch_size, length)]
        return dataclasses.replace(self, batch_size=sizes[-1])

    def check(self, spec, num_envs, config):
        rows = self.rows(spec)
        length = None if config.cell is None else self.training_length(rows)
        batch_fits(self.batch_size, rows, num_envs, length, self.sequence_length)

    # ------------------------------------------------------------------ feeding

    def feed(self, learning, state, memory, chunk, key):
        rows = learning.see(rows_of(chunk, learning.gamma, self.facts.on_policy))
        first = self.items(learning, state, rows, key)
        again = lambda state: self.items(learning, state, rows, key) if self.recompute_advantages else first
        index = learning.fit.whole(_count(first))
        if index is None:
            state, metrics = self._passes(learning, learning.update, again, state, self.n_epochs, key)
        else:
            state, _, metrics = learning.update(state, _take(first, index), learning.clock.before, key)
        if self.n_critic_updates:
            passes = self.n_critic_updates
            key = jax.random.fold_in(key, 1) if index is None else key  # one whole step has drawn nothing
            state, more = self._passes(learning, learning.update_critic, again, state, passes, key)
            metrics = more | metrics
        metrics |= {"train/n_updates": learning.clock.update * self.n_epochs}
        return state, memory, metrics, (rows, first)

    def items(self, learning: Learning, state: State, rows: Rows, key: Key) -> Item:
        """Rows ready for minibatches: alone, or in sequences from their memories; with what was estimated of them."""
        item, view = learning.estimate(state, rows, learning.clock.before, key)
        if rows.carry0 is None:
            return gather(flat((dataclasses.replace(item[0], first=None), *item[1:])))
        length = self.training_length(rows.reward.shape[0])
        cut = sequences((dataclasses.replace(item[0], carry0=None), *item[1:]), length)
        starts = jax.lax.stop_gradient(view.starts(length))
        return gather((dataclasses.replace(cut[0], carry0=starts), *cut[1:]))

    def _passes(
        self, learning: Learning, step: Callable, items: Callable, state: State, epochs: int, key: Key
    ) -> tuple[State, Metrics]:
        """(state, means of the metrics) after so many epochs of minibatches."""

        def minibatch(carry: tuple, index: jax.Array, item: Item) -> tuple[tuple, Metrics]:
            state, go = carry
            batch = _take(item, index, short=bool(_count(item) % len(index)))
            new, _, metrics = step(state, batch, learning.clock.before, key)
            if batch[0].weight is not None:  # what holds no sample is no minibatch
                some = jnp.any(batch[0].weight > 0)
                new = jax.tree.map(lambda n, o: jnp.where(some, n, o), new, state)
                metrics = jax.tree.map(lambda x: jnp.where(some, x, jnp.nan), metrics)
            if self.target_kl is not None and "train/approx_kl" in metrics:
                go = go & ~(metrics["train/approx_kl"] > 1.5 * self.target_kl)
                new = jax.tree.map(lambda n, o: jnp.where(go, n, o), new, state)
            return (new, go), metrics

        def epoch(carry: tuple, key: Key) -> tuple[tuple, Metrics]:
            item = items(carry[0])
            count, length = _count(item), item[0].reward.size // _count(item)
            size = count if self.batch_size is None else self.batch_size // length
            if rest := count % size:
                warnings.warn(
                    f"batch_size={self.batch_size} does not divide the {count * length} rows of a chunk: the last "
                    f"minibatch of each epoch has {rest * length}.",
                    stacklevel=1,
                )
            index = samples_first(minibatch_indices(key, count, size), item[0])
            return jax.lax.scan(lambda c, i: minibatch(c, i, item), carry, index)

        start = (state, jnp.asarray(True))
        (state, _), metrics = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
        return state, jax.tree.map(jnp.nanmean, metrics)


def _count(item: Item) -> int:
    """Rows, or sequences `[L, items]` of rows."""
    return item[0].reward.shape[-1]


def _take(item: Item, index: jax.Array, *, short: bool = False) -> Item:
    """These rows, or sequences from their memories; in a `short` minibatch some places hold nothing, and weigh 0."""
    axis, count = item[0].reward.ndim - 1, _count(item)
    rows, *others = jax.tree.map(lambda x: jnp.take(x, index, axis, mode="clip"), item)
    weight = rows.weight
    if short:
        weight = jnp.where(index < count, jnp.ones_like(rows.reward) if weight is None else weight, 0)
    carry0 = jax.tree.map(lambda c: c[0], rows.carry0)
    return dataclasses.replace(rows, carry0=carry0, weight=weight), *others
