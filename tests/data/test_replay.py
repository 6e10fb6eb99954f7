"""The replay ring against a plain list: what may be drawn, what the windows hold, how often each row comes up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actrix.core.types import Chunk, Transition
from actrix.data.ring import BRANCH, Draw, Replay, _empty_levels, _find, _set_leaves, weights

N, C = 2, 16
SHAPES = [(1, 1, 0.0), (3, 1, 0.0), (1, 3, 0.0), (3, 3, 1.0), (2, 1, 0.6)]


class World:
    """Environments whose observation says which step of which episode of which environment it is."""

    def __init__(self, stack):
        self.stack, self.episode, self.t = stack, np.zeros(N, int), np.zeros(N, int)
        self.started = np.ones(N, bool)
        self.rows = [[] for _ in range(N)]
        """Per environment: ("row", dict) and ("extra",) in order, the layout that the ring must have."""

    def obs(self, n, t=None, episode=None):
        t = self.t[n] if t is None else t
        episode = self.episode[n] if episode is None else episode
        code = lambda k: float(n * 10_000 + episode * 100 + max(k, 0) + 1)
        if self.stack == 1:
            return np.array([code(t), -code(t)], np.float32)
        return np.array([[[code(t - k)]] for k in reversed(range(self.stack))], np.float32)

    def step(self, kinds, counter):
        """One row: kinds[n] in 'go', 'terminated', 'truncated', 'both', 'invalid', 'restart'."""
        out = []
        for n, kind in enumerate(kinds):
            if kind in ("invalid", "restart") and not self.started[n]:
                self._cut(n)
            valid = kind != "invalid"
            row = dict(
                obs=self.obs(n), action=np.int32(counter % 3), reward=np.float32(counter + 0.25 * n),
                first=self.started[n],
                terminated=kind in ("terminated", "both"), truncated=kind in ("truncated", "both"), valid=valid,
                next_obs=self.obs(n, self.t[n] + 1),
            )  # fmt: skip
            out.append(row)
            self.started[n] = False
            if valid:
                self.rows[n].append(row | {"hole": False})
                self.t[n] += 1
                if row["terminated"] or row["truncated"]:
                    self.rows[n].append(None)
                    self._next_episode(n)
            else:
                self.started[n] = True
        return out

    def _cut(self, n):
        """An episode that is dropped in the middle: its newest row counts as truncated."""
        if self.rows[n] and self.rows[n][-1] is not None:
            self.rows[n][-1]["hole"] = True
            self.rows[n].append(None)
        self._next_episode(n)

    def _next_episode(self, n):
        self.episode[n] += 1
        self.t[n], self.started[n] = 0, True

    def ready(self, n, ring):
        rows = self.rows[n]
        for i, row in enumerate(rows):
            age = len(rows) - i
            window = rows[i : i + ring.window]
            if row is None or age > ring.capacity - ring.stack:
                continue
            if age >= ring.window or any(r is None or cut(r) for r in window):
                yield i


def cut(row):
    return row["terminated"] or row["truncated"] or row["hole"]


@functools.cache
def compiled(ring):
    return (
        jax.jit(ring.add), jax.jit(ring.ends, static_argnums=2), jax.jit(ring.windows, static_argnums=2),
        jax.jit(ring.draw, static_argnums=2),
    )  # fmt: skip


def empty(ring, masked=False):
    shape = (2,) if ring.stack == 1 else (ring.stack, 1, 1)
    struct = jax.ShapeDtypeStruct
    obs, flag = struct(shape, jnp.float32), struct((), jnp.bool_)
    mask = struct((3,), jnp.bool_) if masked else None
    row = Transition(
        obs, struct((), jnp.int32), struct((), jnp.float32), obs, flag, flag, mask=mask, next_mask=mask
    )
    return ring.init(row, N)


def chunk_of(steps):
    column = lambda name: np.stack([np.stack([row[name] for row in step]) for step in steps])
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "valid", "first")
    return Chunk(**{name: column(name) for name in names})


KINDS = ["go", "terminated", "truncated", "both", "invalid", "restart"]
OFTEN = [
    [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
    [0.9, 0.05, 0.05, 0, 0, 0],
    [0, 0.5, 0.5, 0, 0, 0],
    [0.6, 0, 0, 0, 0.2, 0.2],
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_against_a_list(shape, data):
    """Every admissible start can be drawn and no other; each window holds what really followed."""
    window, stack, alpha = shape
    ring = Replay(C, window, stack, alpha)
    add, ends, windows, draw = compiled(ring)
    world, rows, counter = World(stack), empty(ring), 0
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for length in data.draw(st.lists(st.sampled_from([1, 1, 4, 20]), min_size=1, max_size=12)):
        steps = []
        for _ in range(length):
            steps.append(world.step(rng.choice(KINDS, N, p=rng.choice(OFTEN)), counter))
            counter += 1
        rows = add(rows, chunk_of(steps))
    expected = {(n, i) for n in range(N) for i in world.ready(n, ring)}
    place = lambda n, i: (int(rows.head[n]) - (len(world.rows[n]) - i)) % C
    found = {(int(n), int(p)) for p, n in np.argwhere(np.asarray(rows.ready))}
    assert found == {(n, place(n, i)) for n, i in expected}
    if not expected:
        assert not bool(draw(rows, jax.random.key(0), 8).ok.any())
        return
    picks = sorted(expected)
    padded = [picks[b % len(picks)] for b in range(N * C)]  # one shape, compiled once
    index = jnp.asarray([place(n, i) for n, i in padded], jnp.int32)
    picked = Draw(index, jnp.asarray([n for n, _ in padded], jnp.int32), jnp.ones(N * C, bool), None)
    _compare_ends(world, ring, picks, jax.device_get(ends(rows, picked, window)))
    _compare_windows(world, picks, jax.device_get(windows(rows, picked, window + 2)))
    drawn = draw(rows, jax.random.key(1), 400)
    reached = {(int(n), int(p)) for p, n, ok in zip(drawn.index, drawn.env, drawn.ok, strict=True) if ok}
    assert reached <= found
    assert reached == found, "an admissible start was not drawn in 400 tries"


def _compare_ends(world, ring, picks, ends):
    for b, (n, i) in enumerate(picks):
        layout = world.rows[n]
        window = []
        for row in layout[i : i + ring.window]:
            window.append(row)
            if cut(row):
                break
        last = window[-1]
        np.testing.assert_array_equal(ends.obs[b], window[0]["obs"])
        assert ends.action[b] == window[0]["action"]
        np.testing.assert_array_equal(ends.next_obs[b], last["next_obs"])
        for k, row in enumerate(window):
            assert ends.valid[k, b]
            assert ends.reward[k, b] == row["reward"]
            assert ends.terminated[k, b] == row["terminated"]
            assert (ends.truncated[k, b] or ends.terminated[k, b]) == cut(row)
        after = i + len(window)
        known = not cut(last) and after < len(layout)
        assert bool(ends.next_action_known[b]) == known
        if known:
            assert ends.next_action[b] == layout[after]["action"]


def _compare_windows(world, picks, chunk):
    for b, (n, i) in enumerate(picks):
        layout = world.rows[n][i : i + chunk.reward.shape[0]]
        for k in range(chunk.reward.shape[0]):
            row = layout[k] if k < len(layout) else None
            assert bool(chunk.valid[k, b]) == (row is not None)
            if row is not None:
                for name in ("obs", "next_obs", "action", "reward", "terminated"):
                    np.testing.assert_array_equal(getattr(chunk, name)[k, b], row[name])
                assert bool(chunk.truncated[k, b] or chunk.terminated[k, b]) == cut(row)


def filled(alpha=0.0, steps=10, window=1, capacity=64):
    ring, world = Replay(capacity, window, alpha=alpha), World(1)
    rows = empty(ring)
    for t in range(steps):
        rows = compiled(ring)[0](rows, chunk_of([world.step(["go", "terminated" if t == 3 else "go"], t)]))
    return ring, rows


def test_uniform_draws_are_uniform():
    ring, rows = filled()
    draw = compiled(ring)[3](rows, jax.random.key(0), 40_000)
    counts = np.zeros((64, N))
    ok = np.asarray(draw.ok)
    np.add.at(counts, (np.asarray(draw.index)[ok], np.asarray(draw.env)[ok]), 1)
    ready = np.asarray(rows.ready)
    assert ok.mean() > 0.999  # a tenth of the rows cannot be drawn, and all tries may meet such ones
    assert ready.sum() == 20
    assert counts[~ready].sum() == 0
    expected = ok.sum() / 20
    assert np.abs(counts[ready] - expected).max() < 5 * np.sqrt(expected)


def test_priorities_match_a_naive_reference():
    """Draw frequencies ∝ priority^α, new rows get the largest priority, weights are (N·P)^−β over their maximum."""
    alpha, beta = 0.7, 0.5
    ring, rows = filled(alpha)
    ready = np.argwhere(np.asarray(rows.ready))
    index, env = ready[:12].T
    given_ = np.linspace(0.1, 5.0, 12).astype(np.float32)
    some = Draw(jnp.asarray(index), jnp.asarray(env), jnp.ones(12, bool), None)
    rows = ring.priorities(rows, some, jnp.asarray(given_))
    reference = np.zeros((64, N))
    for p, n in ready:
        reference[p, n] = 1.0
    for p, n, x in zip(index, env, given_, strict=True):
        reference[p, n] = (x + 1e-6) ** alpha
    np.testing.assert_allclose(np.asarray(rows.levels[0])[: 64 * N].reshape(64, N), reference, rtol=1e-6)
    probability = reference / reference.sum()
    draw = compiled(ring)[3](rows, jax.random.key(3), 100_000)
    counts = np.zeros((64, N))
    np.add.at(counts, (draw.index, draw.env), 1)
    spread = np.sqrt(100_000 * probability) + 1
    assert np.abs(counts - 100_000 * probability).max() < 5 * spread.max()
    assert counts[reference == 0].sum() == 0
    w = np.asarray(weights(draw, rows, beta))
    naive = (len(ready) * probability[np.asarray(draw.index), np.asarray(draw.env)]) ** -beta
    np.testing.assert_allclose(w, naive / naive.max(), rtol=1e-4)
    world = World(1)
    rows = ring.add(rows, chunk_of([world.step(["go", "go"], 0)]))
    newest = (rows.head[0] - 1) % 64
    assert rows.levels[0][newest * N] == pytest.approx((5.0 + 1e-6) ** alpha, rel=1e-5)
    rows = ring.priorities(rows, some, jnp.full(12, jnp.nan))
    assert np.isfinite(np.asarray(rows.levels[0])).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([5, BRANCH, BRANCH + 1, 5000]))
def test_sums_are_those_of_the_leaves(seed, leaves):
    rng = np.random.default_rng(seed)
    levels, mass = _empty_levels(leaves), np.zeros(leaves)
    for _ in range(4):
        at = rng.choice(leaves, 3, replace=False)
        new = rng.choice([0.0, 1e-3, 1.0, 1e4], 3)
        mass[at] = new
        levels = _set_leaves(levels, jnp.asarray([*at, 10**8]), jnp.asarray([*new, 7.0], jnp.float32))
    np.testing.assert_allclose(np.asarray(levels[0])[:leaves], mass)
    assert float(jnp.sum(levels[-1])) == pytest.approx(mass.sum(), rel=1e-5)
    if mass.sum() > 0:
        found = np.asarray(_find(levels, jnp.linspace(0, 1 - 1e-7, 50)))
        assert (mass[found] > 0).all()
        assert (np.diff(found) >= 0).all()


def test_images_are_stored_once():
    """A hundred thousand transitions of 84×84×4 take one frame each."""
    ring = Replay(100_010, stack=4)
    struct = jax.ShapeDtypeStruct
    obs, flag = struct((4, 84, 84), jnp.uint8), struct((), jnp.bool_)
    row = Transition(obs, struct((), jnp.int32), struct((), jnp.float32), obs, flag, flag)
    rows = jax.eval_shape(lambda: ring.init(row, 1))
    size = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(rows))
    assert rows.obs.dtype == jnp.uint8
    assert size < 2**30


def test_masks_follow_their_observations():
    ring, world = Replay(C), World(1)
    rows = empty(ring, masked=True)
    for t in range(4):
        kinds = ["terminated" if t == 1 else "go", "go"]
        chunk = chunk_of([world.step(kinds, t)])
        mark = lambda k: np.arange(3)[None, None] == np.full((1, N, 1), k % 3)
        chunk = Chunk(**{**vars(chunk), "mask": mark(t), "next_mask": mark(t + 1)})
        rows = ring.add(rows, chunk)
    ready = np.argwhere(np.asarray(rows.ready))
    draw = Draw(jnp.asarray(ready[:, 0]), jnp.asarray(ready[:, 1]), jnp.ones(len(ready), bool), None)
    ends = ring.ends(rows, draw, 1)
    step = np.asarray(ends.reward[0]).astype(int)
    np.testing.assert_array_equal(np.argmax(ends.mask, -1), step % 3)
    np.testing.assert_array_equal(np.argmax(ends.next_mask, -1), (step + 1) % 3)


def test_a_ring_too_small_is_refused():
    with pytest.raises(ValueError, match="3 rows cannot hold a window of 4"):
        empty(Replay(3, window=4))
