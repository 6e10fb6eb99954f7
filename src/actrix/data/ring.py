"""A memory inside the learner: a ring per environment, drawn from uniformly or by priority.

Every observation is stored once. Row i holds s_i and what was done there; s_{i+1} is row i+1's observation. Where
row i+1 does not continue row i (an episode's end), one extra row keeps the true successor. Image stacks are stored as
single frames and put together again when they are drawn.

All functions are pure, with a cost that does not depend on the capacity (logarithmic where there are priorities), so
long as the caller's compiled function donates the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from actrix.core.contract import scrub
from actrix.core.host import zeros
from actrix.core.types import Chunk, Key, PyTree, Spec, Transition, record
from actrix.data.rollout import modulo

BRANCH = 64
"""Children per node of the tree of priorities: wide and shallow suits a CPU's vector units."""
TRIES = 4
"""Positions drawn for each uniform sample; the first that holds a transition is taken."""
SMALLEST_PRIORITY = 1e-6
TERMINATED, TRUNCATED, FIRST, VALID, READY = (1 << i for i in range(5))
"""Bits of `Rows.flags`: one array to write instead of five."""


@record
class Rows:
    """The ring's arrays; leaves `[C, N, ...]` for capacity C and N environments unless said otherwise."""

    obs: PyTree
    """s_i, or the newest frame of its stack."""
    action: Array
    reward: Array
    mask: Array | None
    log_prob: Array | None
    dist: PyTree
    flags: Array
    """uint8: the bits above."""
    head: Array
    """`[N]`: where the next row goes; until then it holds the newest transition's successor."""
    count: Array
    """`[N]`: rows written so far, at most C."""
    open: Array
    """`[N]`: the newest transition did not end its episode."""
    levels: tuple[Array, ...] | None
    """Priorities^α of all rows, flattened, then their sums by blocks of `BRANCH`, and so on; None = uniform."""
    largest: Array | None
    """The largest priority^α seen, which new rows get."""

    @property
    def terminated(self) -> Array:
        """`[C, N]`: the MDP ended after this row."""
        return _has(self.flags, TERMINATED)

    @property
    def truncated(self) -> Array:
        """`[C, N]`: cut after this row from outside."""
        return _has(self.flags, TRUNCATED)

    @property
    def first(self) -> Array:
        """`[C, N]`: an episode starts here; stacks reach no further back."""
        return _has(self.flags, FIRST)

    @property
    def valid(self) -> Array:
        """`[C, N]`: a transition, not the extra row of a cut and not empty."""
        return _has(self.flags, VALID)

    @property
    def ready(self) -> Array:
        """`[C, N]`: a valid row whose window of `window` rows is complete or cut: what may be drawn."""
        return _has(self.flags, READY)


def _has(flags: Array, bit: int) -> Array:
    return flags & bit != 0


@record
class Draw:
    """B drawn starting rows."""

    index: Int[Array, " B"]
    env: Int[Array, " B"]
    ok: Bool[Array, " B"]
    """False where nothing could be drawn."""
    mass: Float[Array, " B"] | None
    """priority^α of each; None = uniform."""


@record
class Ends:
    """What n-step targets need of B windows of n rows: both ends' observations, the rewards between."""

    obs: PyTree
    action: Array
    mask: Array | None
    reward: Float[Array, "n B"]
    terminated: Bool[Array, "n B"]
    truncated: Bool[Array, "n B"]
    valid: Bool[Array, "n B"]
    next_obs: PyTree
    """Successor of the last row used: the first cut one, else the n-th."""
    next_mask: Array | None
    next_action: Array
    next_action_known: Bool[Array, " B"]


@dataclasses.dataclass(frozen=True)
class Replay:
    """A ring of `capacity` rows per environment.

    `window` rows in a row must exist before the first of them may be drawn; `stack` frames make an image
    observation; `alpha` > 0 draws in proportion to priority^alpha (Schaul et al. 2016).
    """

    capacity: int
    window: int = 1
    stack: int = 1
    alpha: float = 0.0

    def init(self, row: Transition, num_envs: int) -> Rows:
        """Empty rows for transitions like `row` (shapes and dtypes of one environment's)."""
        if self.capacity < self.window + self.stack + 1:
            raise ValueError(
                f"a capacity of {self.capacity} rows cannot hold a window of {self.window} and {self.stack} frames."
            )

        def room(x: Any) -> Array:
            return zeros((self.capacity, num_envs, *x.shape), x.dtype)

        def frame(x: Any) -> Array:
            return room(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if self._stacked(x.shape) else x)

        parts = jax.tree.map(room, (row.action, row.reward, row.mask, row.log_prob, row.dist))
        action, reward, mask, log_prob, dist = parts
        flags = room(jax.ShapeDtypeStruct((), jnp.uint8))
        levels = _empty_levels(self.capacity * num_envs) if self.alpha else None
        none = zeros(num_envs, jnp.int32)
        return Rows(
            jax.tree.map(frame, row.obs), action, reward, mask, log_prob, dist, flags, none, none,
            zeros(num_envs, bool), levels, jnp.ones(()) if self.alpha else None,
        )  # fmt: skip

    # ------------------------------------------------------------------ writing

    def add(self, rows: Rows, chunk: Chunk) -> Rows:
        """Append the valid rows of a chunk `[T, N, ...]`, each environment's behind its own."""
        steps, num_envs = chunk.reward.shape
        valid = jnp.ones((steps, num_envs), bool) if chunk.valid is None else jnp.asarray(chunk.valid)
        first = jnp.zeros((steps, num_envs), bool) if chunk.first is None else jnp.asarray(chunk.first)
        first = first.at[0].set(first[0] | (rows.count == 0))
        # A chunk that does not continue the newest row cuts it there, as a truncation with a known successor.
        broken = rows.open & (first[0] | ~valid[0])
        terminated, truncated = jnp.asarray(chunk.terminated), jnp.asarray(chunk.truncated)
        goes_on = jnp.concatenate([valid[1:] & ~first[1:], jnp.ones((1, num_envs), bool)])
        hole = valid & ~(terminated | truncated) & ~goes_on
        extra = valid & (terminated | truncated | hole)
        used = valid.astype(jnp.int32) + extra
        before = jnp.cumsum(used, axis=0) - used + broken  # rows from the old head to each row
        total = broken + jnp.sum(used, axis=0)
        tail = jnp.zeros_like(valid).at[-1].set(valid[-1] & ~extra[-1])

        def place(offset: Array, which: Array) -> Array:
            # A chunk longer than the ring keeps its newest rows: no place may be written twice.
            kept = which & (offset > total - self.capacity)
            return jnp.where(kept, self.wrapped(rows.head + offset), self.capacity)

        env = jnp.arange(num_envs)
        both = jnp.concatenate([place(before, valid), place(before + 1, extra | tail)])

        def write_both(buffer: Array, x: Any, following: Any) -> Array:
            values = jnp.concatenate([jnp.asarray(x, buffer.dtype), jnp.asarray(following, buffer.dtype)])
            return buffer.at[both, env].set(values, mode="drop")

        # What successors do not have is written for them too: XLA would turn a scatter to one place (T = N = 1) into
        # an update that copies the whole buffer.
        write = lambda buffer, x: write_both(buffer, x, jnp.zeros_like(x))
        bits = VALID * valid + TERMINATED * terminated + TRUNCATED * (truncated | hole) + FIRST * first
        observe = lambda buffer, x, y: write_both(buffer, self._newest(x), self._newest(y))
        rows = dataclasses.replace(
            rows,
            obs=jax.tree.map(observe, rows.obs, chunk.obs, chunk.next_obs),
            action=write(rows.action, chunk.action),
            reward=write(rows.reward, chunk.reward),
            mask=None if rows.mask is None else write_both(rows.mask, chunk.mask, chunk.next_mask),
            log_prob=jax.tree.map(write, rows.log_prob, chunk.log_prob),
            dist=jax.tree.map(write, rows.dist, chunk.dist),
            flags=write_both(rows.flags, bits, jnp.zeros_like(bits)),
            head=self.wrapped(rows.head + total),
            count=jnp.minimum(rows.count + total, self.capacity),
            open=jnp.where(jnp.any(used > 0, axis=0), tail[-1], rows.open & ~broken),
        )
        return self._refresh(rows, steps, jnp.where(broken, total + 1, 0))

    def _refresh(self, rows: Rows, steps: int, cut_age: Array) -> Rows:
        """Say which rows may be drawn after `steps` were added: the newest become ready, the oldest are lost.

        `cut_age` `[N]`: age of the row that the new ones cut off, 0 = none.
        """
        num_envs = rows.head.shape[0]
        env = jnp.arange(num_envs)
        length = min(2 * steps + self.window + 1, self.capacity - self.stack)
        # Rows before the head, oldest first; then the row at the head, and those whose frames it may have taken.
        age = jnp.concatenate([jnp.arange(length, 0, -1), -jnp.arange(self.stack)])[:, None]
        place = self.wrapped(rows.head - age)
        flags = rows.flags[place, env] | jnp.where(age == cut_age, TRUNCATED, 0).astype(jnp.uint8)
        valid, was = _has(flags, VALID), _has(flags, READY)
        ends = valid & _has(flags, TERMINATED | TRUNCATED) & (age > 0)
        complete = age >= self.window
        for k in range(min(self.window, length)):
            complete = complete | jnp.concatenate([ends[k:], jnp.zeros((k, num_envs), bool)])
        ready = valid & complete & (age > 0)
        flags = jnp.where(ready, flags | READY, flags & (255 - READY)).astype(jnp.uint8)
        rows = dataclasses.replace(rows, flags=rows.flags.at[place, env].set(flags))
        if rows.levels is None:
            return rows
        leaf, largest = place * num_envs + env, jnp.asarray(rows.largest)
        mass = jnp.where(ready, jnp.where(was, rows.levels[0][leaf], largest), 0.0)
        return dataclasses.replace(rows, levels=_set_leaves(rows.levels, leaf.reshape(-1), mass.reshape(-1)))

    def priorities(self, rows: Rows, draw: Draw, priority: Float[Array, " B"]) -> Rows:
        """Give the drawn rows new priorities |δ|; those that are not finite keep their old one."""
        assert rows.levels is not None
        assert rows.largest is not None
        mass = (jnp.abs(priority) + SMALLEST_PRIORITY) ** self.alpha
        good = draw.ok & jnp.isfinite(mass)
        leaf = jnp.where(good, draw.index * rows.head.shape[0] + draw.env, rows.levels[0].shape[0])
        largest = jnp.maximum(rows.largest, jnp.max(jnp.where(good, mass, 0.0)))
        return dataclasses.replace(rows, levels=_set_leaves(rows.levels, leaf, mass), largest=largest)

    # ------------------------------------------------------------------ drawing

    def draw(
        self, rows: Rows, key: Key, batch_size: int, also: Callable[[Array, Array], Array] | None = None
    ) -> Draw:
        """`batch_size` ready rows with replacement: uniformly, or one from each of as many equal shares of the mass.

        `also(index, env)` says which of them may be drawn, where they are drawn uniformly; None = all.
        """
        num_envs = rows.head.shape[0]
        if rows.levels is not None:
            share = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size
            leaf = _find(rows.levels, share)
            mass = rows.levels[0][leaf]
            return Draw(leaf // num_envs, leaf % num_envs, mass > 0, mass)
        # The remainder of 32 random bits favours no position by more than 2^-32 · C · N.
        filled = (jnp.max(rows.count) * num_envs).astype(jnp.uint32)
        bits = jax.random.bits(key, (TRIES, batch_size), jnp.uint32)
        place = modulo(bits, jnp.maximum(filled, 1))
        index, env = (x.astype(jnp.int32) for x in jnp.divmod(place, jnp.uint32(num_envs)))
        ready = _has(rows.flags[index, env], READY)
        ready = ready if also is None else ready & also(index, env)
        chosen = jnp.argmax(ready, axis=0)
        pick = lambda x: jnp.take_along_axis(x, chosen[None], axis=0)[0]
        return Draw(pick(index), pick(env), pick(ready), None)

    def ends(self, rows: Rows, draw: Draw, n: int) -> Ends:
        """The ends of the n-row windows that start at the drawn rows."""
        place, stored = self._window(rows, draw, n)
        flags = rows.flags[place, draw.env]
        terminated, truncated = _has(flags, TERMINATED), _has(flags, TRUNCATED)
        valid = _has(flags, VALID) & stored
        ends = valid & (terminated | truncated)
        last = jnp.argmax(ends.at[-1].set(True), axis=0) if n > 1 else jnp.zeros_like(draw.index)
        ended = jnp.take_along_axis(ends, last[None], axis=0)[0] if n > 1 else ends[0]
        following = self.wrapped(draw.index + last + 1)
        there = _has(rows.flags[following, draw.env], VALID)
        known = ~ended & there & (last + 1 < self._ahead(rows, draw))
        mask = None if rows.mask is None else rows.mask[draw.index, draw.env]
        next_mask = None if rows.mask is None else rows.mask[following, draw.env]
        return Ends(
            self._observation(rows, draw.index, draw.env), rows.action[draw.index, draw.env], mask,
            rows.reward[place, draw.env],
            terminated, truncated, valid, self._observation(rows, following, draw.env), next_mask,
            rows.action[following, draw.env], known,
        )  # fmt: skip

    def windows(self, rows: Rows, draw: Draw, n: int) -> Chunk:
        """The n-row windows that start at the drawn rows, as a chunk `[n, B, ...]`.

        Rows behind a cut belong to the next episode, and rows beyond the newest one are not valid.
        """
        place, stored = self._window(rows, draw, n)
        env = jnp.broadcast_to(draw.env, place.shape)
        following = self.wrapped(place + 1)
        at = lambda x: x[place, env]
        flags = at(rows.flags)
        return Chunk(
            obs=self._observation(rows, place, env), action=at(rows.action), reward=at(rows.reward),
            next_obs=self._observation(rows, following, env), terminated=_has(flags, TERMINATED),
            truncated=_has(flags, TRUNCATED), valid=_has(flags, VALID) & stored & draw.ok,
            log_prob=jax.tree.map(at, rows.log_prob), dist=jax.tree.map(at, rows.dist),
            mask=None if rows.mask is None else at(rows.mask),
            next_mask=None if rows.mask is None else rows.mask[following, env], first=_has(flags, FIRST),
        )  # fmt: skip

    # ------------------------------------------------------------------ small pieces

    def wrapped(self, place: Array) -> Array:
        """`place`, at least −capacity, modulo the capacity."""
        return modulo(place + self.capacity, self.capacity)

    def age(self, rows: Rows, index: Array, env: Array) -> Array:
        """How many rows were written since each of these, itself included: 1 for the newest."""
        return self.wrapped(rows.head[env] - index - 1) + 1

    def _ahead(self, rows: Rows, draw: Draw) -> Array:
        """Rows from each drawn one (included) to the head."""
        return self.age(rows, draw.index, draw.env)

    def _window(self, rows: Rows, draw: Draw, n: int) -> tuple[Array, Array]:
        """(places of n rows each, whether they lie before the head), `[n, B]`."""
        step = jnp.arange(n)[:, None]
        return self.wrapped(draw.index + step), step < self._ahead(rows, draw)

    def _stacked(self, shape: tuple[int, ...]) -> bool:
        return self.stack > 1 and len(shape) >= 3 and shape[0] == self.stack

    def _newest(self, x: Array) -> Array:
        """The newest frame of observations `[T, N, ...]`, or all of them where they are no stack."""
        return x[:, :, -1] if self._stacked(x.shape[2:]) else x

    def _observation(self, rows: Rows, place: Array, env: Array) -> PyTree:
        """Observations at `place` of `env`, stacks put together from frames of the same episode."""
        if self.stack == 1:
            return jax.tree.map(lambda x: x[place, env], rows.obs)
        back = [jnp.zeros_like(place)]
        for _ in range(self.stack - 1):
            start = _has(rows.flags[self.wrapped(place - back[-1]), env], FIRST)
            back.append(back[-1] + ~start)
        frames = self.wrapped(place[..., None] - jnp.stack(back[::-1], axis=-1))
        # Frames are all that an image environment observes: a Dict of them is stacked leaf by leaf.
        return jax.tree.map(lambda x: x[frames, env[..., None]], rows.obs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """The ring and what it holds."""

    rows: PyTree
    ring: Replay = dataclasses.field(metadata=dict(static=True))

    def holds(self, transitions: int) -> Array:
        """Whether so many are in it, or as many as it has room for."""
        return (jnp.sum(self.rows.valid) >= transitions) | jnp.all(self.rows.count == self.ring.capacity)

    def append(self, chunk: Chunk) -> Memory:
        """The memory with a chunk added; what is not finite in it is zeroed (training stops then)."""
        return dataclasses.replace(self, rows=self.ring.add(self.rows, scrub(chunk)))


def empty_memory(
    head: Any,
    spec: Spec,
    num_envs: int,
    *,
    transitions: int,
    window: int,
    alpha: float = 0.0,
    keep: Any = (None, None),
) -> Memory:
    """Room for so many transitions of one environment's spaces; `keep` is an example (log_prob, dist) of one."""
    stack = spec.frame_stack or 1
    # The room of two windows more keeps tiny buffers sound: the newest rows have no complete window yet.
    ring = Replay(transitions // num_envs + 2 * (window + stack), window=window, stack=stack, alpha=alpha)
    sample = spec.observation_space.sample()
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), sample)
    flag: Any = jax.ShapeDtypeStruct((), jnp.bool_)
    action: Any = jax.ShapeDtypeStruct(head.shape, jnp.float32 if head.continuous else jnp.int32)
    mask: Any = None if spec.mask_size is None else jax.ShapeDtypeStruct((spec.mask_size,), jnp.bool_)
    number: Any = jax.ShapeDtypeStruct((), jnp.float32)
    log_prob, dist = keep
    row = Transition(
        obs=obs, action=action, reward=number, next_obs=obs, terminated=flag,
        truncated=flag, log_prob=log_prob, dist=dist, mask=mask, next_mask=mask,
    )  # fmt: skip
    return Memory(ring.init(row, num_envs), ring)


def weights(draw: Draw, rows: Rows, beta: Array | float) -> Float[Array, " B"]:
    """Importance weights (N·P(i))^−β over the batch's largest; 0 where nothing was drawn (Schaul et al. 2016)."""
    assert draw.mass is not None
    smallest = jnp.min(jnp.where(draw.ok, draw.mass, jnp.inf))
    return jnp.where(draw.ok, (jnp.where(draw.ok, draw.mass, 1.0) / smallest) ** -beta, 0.0)


# ---------------------------------------------------------------------------- the tree of sums


def _empty_levels(leaves: int) -> tuple[Array, ...]:
    levels, size = [], leaves
    while True:
        size = -(-size // BRANCH)
        levels.append(zeros(size * BRANCH))
        if size == 1:
            return tuple(levels)


def _set_leaves(levels: tuple[Array, ...], leaf: Array, mass: Array) -> tuple[Array, ...]:
    """Set leaves (beyond the last one: ignored) and add up their ancestors anew, so that no error accumulates."""
    inside = leaf < levels[0].shape[0]
    out = [levels[0].at[leaf].set(mass, mode="drop")]
    for level in levels[1:]:
        leaf = leaf // BRANCH
        sums = jnp.sum(out[-1].reshape(-1, BRANCH)[leaf], axis=-1)
        out.append(level.at[jnp.where(inside, leaf, level.shape[0])].set(sums, mode="drop"))
    return tuple(out)


def _find(levels: tuple[Array, ...], share: Array) -> Array:
    """The leaves at which the running sum passes `share` ∈ [0, 1) of the whole."""
    node = jnp.zeros(share.shape, jnp.int32)
    rest = share * jnp.sum(levels[-1])
    for level in reversed(levels):
        sums = jnp.cumsum(level.reshape(-1, BRANCH)[node], axis=-1)
        # Below the last sum, so that rounding never leads to a child without mass.
        rest = jnp.minimum(rest, sums[:, -1] * (1 - 2.0**-22))
        child = jnp.sum(sums <= rest[:, None], axis=-1).clip(0, BRANCH - 1)
        passed = jnp.take_along_axis(sums, jnp.maximum(child - 1, 0)[:, None], axis=1)[:, 0]
        rest = rest - jnp.where(child > 0, passed, 0.0)
        node = node * BRANCH + child
    return node
