"""Running statistics against numpy over all the data, and against a step-by-step VecNormalize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.core import normalize

update = jax.jit(normalize.update_moments)
rng = np.random.default_rng(0)


def moments(chunks, valid=None, shape=(3,)):
    m = normalize.init_moments(shape)
    for i, x in enumerate(chunks):
        m = update(m, jnp.asarray(x, jnp.float32), None if valid is None else valid[i])
    return m


def test_merging_equals_the_whole():
    chunks = [rng.normal(3 * i, 1 + i, size=(n, 2, 3)) for i, n in enumerate((7, 1, 50))]
    m = moments(chunks)
    rows = np.concatenate([c.reshape(-1, 3) for c in chunks])
    np.testing.assert_allclose(m.mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(m.var, rows.var(0), rtol=1e-4)
    assert m.count == pytest.approx(len(rows), abs=1e-2)


def test_invalid_rows_do_not_count():
    chunks = [rng.normal(size=(20, 2, 3)) for _ in range(3)]
    valid = [rng.random((20, 2)) < 0.5 for _ in chunks]
    valid[1][:] = False
    dirty = [np.where(v[..., None], c, np.nan) for c, v in zip(chunks, valid, strict=True)]
    m = moments(dirty, valid)
    rows = np.concatenate([c[v] for c, v in zip(chunks, valid, strict=True)])
    np.testing.assert_allclose(m.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(m.var, rows.var(0), rtol=1e-4)
    assert m.count == pytest.approx(len(rows), abs=1e-2)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e6, 1e30, -3e38])
def test_constants_and_huge_numbers_stay_finite(value):
    x = np.full((64, 2, 3), value, np.float32)
    m = moments([x, x, -x])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(m))
    assert (np.asarray(m.var) >= 0).all()
    out = normalize.standardize(m, jnp.asarray(x), 10.0)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 10


def test_nan_leaves_them_as_they_are():
    m = moments([rng.normal(size=(5, 2, 3))])
    x = rng.normal(size=(5, 2, 3))
    x[2, 1, 0] = np.nan
    jax.tree.map(np.testing.assert_array_equal, update(m, jnp.asarray(x, jnp.float32)), m)
    scale = normalize.init_reward_scale(2)
    after = normalize.update_reward_scale(scale, jnp.asarray(x[..., 0]), jnp.zeros((5, 2), bool), None, 0.9)
    jax.tree.map(np.testing.assert_array_equal, after, scale)


@pytest.mark.parametrize("count", [1e7, 2.0**31, 1e12])
def test_huge_counts_keep_their_precision(count):
    m = normalize.Moments(jnp.full(3, 5.0), jnp.full(3, 4.0), jnp.float32(count))
    for _ in range(50):
        m = update(m, jnp.asarray(rng.normal(5, 2, size=(100, 3)), jnp.float32))
    np.testing.assert_allclose(m.mean, 5, rtol=1e-4)
    np.testing.assert_allclose(m.var, 4, rtol=1e-3)


def test_standardize_is_the_formula():
    m = normalize.Moments(jnp.asarray([1.0, -2.0]), jnp.asarray([4.0, 0.0]), jnp.ones(()))
    got = normalize.standardize(m, jnp.asarray([[2.0, -2.0], [-50.0, 3.0]]), 5.0)
    np.testing.assert_allclose(got, [[0.5, 0.0], [-5.0, 5.0]], rtol=1e-6)


def test_trees_normalise_only_what_has_statistics():
    shapes = ((2,), None)
    obs = {
        "a": jnp.asarray(rng.normal(7, 3, size=(40, 2, 2)), jnp.float32),
        "b": jnp.ones((40, 2), jnp.int32),
    }
    m = normalize.update_observation_moments(normalize.init_observation_moments(shapes), obs, None)
    out = normalize.normalize_observation(m, obs, 10.0)
    np.testing.assert_allclose(np.asarray(out["a"]).reshape(-1, 2).std(0), 1, rtol=1e-3)
    assert out["b"] is obs["b"]
    assert normalize.normalize_observation(None, obs, 10.0) is obs


def test_reward_scale_is_vecnormalize():
    """The loop of Stable-Baselines3's VecNormalize: R ← γR + r, statistics of R, R ← 0 where done."""
    gamma, returns, seen = 0.9, np.zeros(2), []
    scale = normalize.init_reward_scale(2)
    step = jax.jit(normalize.update_reward_scale, static_argnums=4)
    for _ in range(4):
        reward, done = rng.normal(1, 2, size=(25, 2)), rng.random((25, 2)) < 0.1
        scale = step(scale, jnp.asarray(reward, jnp.float32), done, None, gamma)
        for r, d in zip(reward, done, strict=True):
            returns = gamma * returns + r
            seen.append(returns.copy())
            returns[d] = 0
    np.testing.assert_allclose(scale.running, returns, rtol=1e-4)
    np.testing.assert_allclose(scale.moments.var, np.var(seen), rtol=1e-4)
    raw = rng.normal(size=(5, 2)) * 100
    got = normalize.scale_reward(scale, jnp.asarray(raw, jnp.float32), 10.0)
    np.testing.assert_allclose(got, np.clip(raw / np.sqrt(np.var(seen) + 1e-8), -10, 10), rtol=1e-4)


def test_reward_scale_skips_padding():
    reward, done = rng.normal(size=(6, 2)).astype(np.float32), np.zeros((6, 2), bool)
    done[2, 0] = done[5, 1] = True
    valid = np.ones((6, 2), bool)
    valid[3:, 0] = False
    start = normalize.init_reward_scale(2)
    one = normalize.update_reward_scale(start, jnp.asarray(reward), done, valid, 0.9)
    dirty = jnp.asarray(np.where(valid, reward, np.nan))
    jax.tree.map(
        np.testing.assert_array_equal, one, normalize.update_reward_scale(start, dirty, done, valid, 0.9)
    )
    assert one.moments.count == pytest.approx(9, abs=1e-3)
    np.testing.assert_array_equal(one.running, 0)
