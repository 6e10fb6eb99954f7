"""Action distributions against scipy, numpy and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from gymnasium import spaces

from actrix.core.distributions import (
    ActionHead,
    TanhGaussian,
    action_head,
    greedy_action,
    importance_ratio,
    legal_actions,
)
from actrix.core.spaces import UnsupportedSpaceError, mask_length

rng = np.random.default_rng(0)
DISCRETE = {
    "categorical": spaces.Discrete(4, start=3),
    "multi": spaces.MultiDiscrete([3, 1, 4]),
    "binary": spaces.MultiBinary(3),
}
SIZES = {"categorical": [4], "multi": [3, 1, 4], "binary": [2, 2, 2]}
BATCH = 5


def logits(kind, seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, sum(SIZES[kind]))).astype(np.float32)


def some_mask(kind):
    """Every component keeps at least one legal choice; the last row forbids nothing."""
    mask = np.random.default_rng(7).random((BATCH, sum(SIZES[kind]))) < 0.5
    start = 0
    for n in SIZES[kind]:
        mask[np.arange(BATCH), start + np.arange(BATCH) % n] = True
        start += n
    mask[-1] = True
    return mask


def tables(kind, out, mask=None):
    """Probabilities of each component, by numpy in float64."""
    out = np.where(True if mask is None else mask, out.astype(np.float64), -np.inf)
    parts = np.split(out, np.cumsum(SIZES[kind])[:-1], axis=-1)
    return [
        np.exp(p - p.max(-1, keepdims=True)) / np.exp(p - p.max(-1, keepdims=True)).sum(-1, keepdims=True)
        for p in parts
    ]


def dist_of(kind, out, mask=None):
    return action_head(DISCRETE[kind])(jnp.asarray(out), None, None if mask is None else jnp.asarray(mask))


def columns(kind, action):
    return [action] if kind == "categorical" else list(np.moveaxis(action, -1, 0))


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("masked", [False, True])
def test_discrete_formulas(kind, masked):
    mask = some_mask(kind) if masked else None
    p, q = tables(kind, logits(kind), mask), tables(kind, logits(kind, 1), mask)
    dist, other = dist_of(kind, logits(kind), mask), dist_of(kind, logits(kind, 1), mask)
    np.testing.assert_allclose(
        dist.entropy(), sum(scipy.stats.entropy(x, axis=-1) for x in p), rtol=1e-5, atol=1e-6
    )
    kl = sum(scipy.stats.entropy(x, y, axis=-1) for x, y in zip(p, q, strict=True))
    np.testing.assert_allclose(dist.kl(other), kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(dist.kl(dist), 0, atol=1e-6)
    mode = np.asarray(dist.mode())
    for column, x in zip(columns(kind, mode), p, strict=True):
        np.testing.assert_array_equal(column, x.argmax(-1))
    want = sum(np.log(x.max(-1)) for x in p)
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(mode)), want, rtol=1e-5, atol=1e-6)
    uniform = dist.uniform()
    legal = np.ones_like(logits(kind), bool) if mask is None else mask
    counts = [m.sum(-1) for m in np.split(legal, np.cumsum(SIZES[kind])[:-1], axis=-1)]
    np.testing.assert_allclose(uniform.entropy(), sum(np.log(n) for n in counts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", DISCRETE)
def test_a_million_draws(kind):
    """Frequencies are the probabilities (5 standard errors); not one illegal action."""
    mask, n = some_mask(kind), 1_000_000 // BATCH
    head, dist = action_head(DISCRETE[kind]), dist_of(kind, logits(kind), mask)
    draw = jax.jit(jax.vmap(dist.sample))
    actions = np.asarray(draw(head.draw(jax.random.key(0), (n, BATCH))))
    for column, p, legal in zip(
        columns(kind, actions), tables(kind, logits(kind), mask),
        np.split(mask, np.cumsum(SIZES[kind])[:-1], axis=-1), strict=True,
    ):  # fmt: skip
        frequency = (column[..., None] == np.arange(p.shape[-1])).mean(0)
        assert (frequency[~legal] == 0).all()
        assert (p[~legal] == 0).all()
        assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()


@pytest.mark.parametrize("kind", DISCRETE)
def test_masked_actions_have_no_probability_and_finite_gradients(kind):
    mask, action = some_mask(kind), dist_of(kind, logits(kind), some_mask(kind)).mode()

    def everything(out):
        dist = action_head(DISCRETE[kind])(out, None, jnp.asarray(mask))
        other = action_head(DISCRETE[kind])(2 * out, None, jnp.asarray(mask))
        return jnp.sum(dist.entropy() + dist.log_prob(action) + dist.kl(other) + dist.kl(dist.uniform()))

    for out in (logits(kind), 1e4 * logits(kind)):
        gradient = np.asarray(jax.grad(everything)(jnp.asarray(out)))
        assert np.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all()
        dist = dist_of(kind, out, mask)
        parts = dist.parts if hasattr(dist, "parts") else (dist,)
        probabilities = np.concatenate([np.exp(p.logits) for p in parts], axis=-1)
        assert (probabilities[~mask] == 0).all()
        assert np.isfinite(everything(jnp.asarray(out)))


def gaussian(seed, scale=1.0):
    g = np.random.default_rng(seed)
    return g.normal(size=(BATCH, 3)) * scale, g.normal(size=3) * 0.5


def test_gaussian_formulas():
    head = action_head(spaces.Box(-1, 1, (3,), np.float32))
    (mean, log_std), (mean2, log_std2) = gaussian(0), gaussian(1)
    dist = head(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))
    other = head(jnp.asarray(mean2, jnp.float32), jnp.asarray(log_std2, jnp.float32))
    normal, normal2 = scipy.stats.norm(mean, np.exp(log_std)), scipy.stats.norm(mean2, np.exp(log_std2))
    action = rng.normal(size=(BATCH, 3)) * 3
    got = dist.log_prob(jnp.asarray(action, jnp.float32))
    np.testing.assert_allclose(got, normal.logpdf(action).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(dist.entropy(), normal.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(dist.mode(), dist.mean)
    x = np.linspace(-15, 15, 6001)[:, None, None]
    integrand = normal.pdf(x) * (normal.logpdf(x) - normal2.logpdf(x))
    numerical = scipy.integrate.simpson(integrand, x=x[:, 0, 0], axis=0).sum(-1)
    np.testing.assert_allclose(dist.kl(other), numerical, rtol=1e-4)
    np.testing.assert_allclose(dist.kl(dist), 0, atol=1e-6)


def test_gaussian_draws():
    head = action_head(spaces.Box(-1, 1, (3,), np.float32))
    mean, log_std = gaussian(2)
    dist = head(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))
    x = np.asarray(jax.vmap(dist.sample)(head.draw(jax.random.key(1), (20_000, BATCH))))
    z = (x - mean) / np.exp(log_std)
    assert scipy.stats.kstest(z[:, 0, 0], "norm").pvalue > 1e-3
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(20_000)
    assert np.abs(z.std(0) - 1).max() < 0.03


def tanh_gaussian(seed, scale=1.0):
    mean, log_std = gaussian(seed, scale)
    log_std = np.broadcast_to(log_std, mean.shape)
    return mean, log_std, TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))


def test_squashed_density_is_the_change_of_variables():
    """log p(a) = Σ log N(atanh a) − log(1 − a²), by scipy in float64."""
    mean, log_std, dist = tanh_gaussian(0)
    u = np.random.default_rng(1).normal(size=(BATCH, 3))
    want = (scipy.stats.norm.logpdf(u, mean, np.exp(log_std)) - np.log1p(-(np.tanh(u) ** 2))).sum(-1)
    np.testing.assert_allclose(
        dist.log_prob(jnp.asarray(np.tanh(u), jnp.float32)), want, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(dist.mode(), np.tanh(mean), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (2.0, -2.0)])
def test_squashed_density_integrates_to_one(mean, log_std):
    dist = TanhGaussian(jnp.full(1, mean), jnp.full(1, log_std))
    u = np.linspace(-9, 9, 20_001)  # even in u: the density in a may be infinite at ±1
    density = np.exp(
        np.asarray(jax.vmap(dist._log_prob)(jnp.asarray(u)[:, None], (u[:, None] - mean) * np.exp(-log_std)))
    )
    assert scipy.integrate.simpson(density, x=np.tanh(u)) == pytest.approx(1.0, abs=1e-3)
    inside = np.abs(u) < 4
    a = jnp.asarray(np.tanh(u[inside]), jnp.float32)[:, None]
    np.testing.assert_allclose(np.exp(dist.log_prob(a)), density[inside], rtol=0.02)


def test_squashed_samples_and_their_density_belong_together():
    mean, log_std, dist = tanh_gaussian(2)
    noise = jnp.asarray(np.random.default_rng(3).normal(size=(BATCH, 3)), jnp.float32)
    action, log_prob = dist.sample_with_log_prob(noise)
    np.testing.assert_array_equal(action, dist.sample(noise))
    np.testing.assert_allclose(action, np.tanh(mean + np.exp(log_std) * noise), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_prob, dist.log_prob(action), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("u", [-50.0, -15.0, 15.0, 50.0])
def test_squashed_density_is_finite_far_out(u):
    """Where tanh is ±1 in float32: finite, with finite gradients, and close to float64's log(1 − tanh²u)."""
    loss = lambda mean: TanhGaussian(mean, jnp.zeros(1)).sample_with_log_prob(jnp.zeros(1))[1]
    value, slope = jax.value_and_grad(loss)(jnp.full(1, u))
    want = -0.5 * np.log(2 * np.pi) - 2 * (np.log(2) - abs(u) - np.log1p(np.exp(-2 * abs(u))))
    assert value == pytest.approx(want, rel=1e-5)
    assert slope == pytest.approx(2 * np.sign(u), rel=1e-5)
    bound = TanhGaussian(jnp.zeros(1), jnp.zeros(1))
    for action in (-1.0, 1.0):
        assert np.isfinite(bound.log_prob(jnp.full(1, action)))
        assert np.isfinite(jax.grad(lambda a: bound.log_prob(a))(jnp.full(1, 0.999 * action))).all()


def test_importance_ratios_and_greedy_actions():
    log_prob, old = jnp.log(jnp.asarray([0.2, 0.9, 0.0])), jnp.log(jnp.asarray([0.4, 0.3, 0.5]))
    np.testing.assert_allclose(importance_ratio(log_prob, old), [0.5, 3.0, np.exp(-20.0)], rtol=1e-5)
    q = jnp.asarray([[1.0, 5.0, jnp.nan], [-jnp.inf, -jnp.inf, 2.0], [1.0, 1.0, 0.0]])
    mask = jnp.asarray([[True, True, False], [True, False, False], [True, True, True]])
    np.testing.assert_array_equal(greedy_action(q, mask), [1, 0, 0])
    np.testing.assert_array_equal(legal_actions(q, None), np.ones((3, 3), bool))
    nothing = jnp.zeros((3, 3), bool)
    np.testing.assert_array_equal(legal_actions(q, nothing), np.ones((3, 3), bool))


def test_heads():
    matrix = action_head(spaces.Box(-1, 1, (2, 3), np.float32))
    action = jnp.arange(24.0).reshape(4, 2, 3)
    assert matrix == ActionHead("gaussian", (6,), (2, 3))
    assert matrix.flatten_action(action).shape == (4, 6)
    np.testing.assert_array_equal(matrix.unflatten_action(matrix.flatten_action(action)), action)
    for kind, space in DISCRETE.items():
        assert action_head(space).size == sum(SIZES[kind]) == mask_length(space)
    with pytest.raises(UnsupportedSpaceError, match="no action distribution for Text"):
        action_head(spaces.Text(3))
