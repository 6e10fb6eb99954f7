"""C51's projection and the quantile loss against double loops, rlax, and what the papers promise of them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import jaxtyped

from actrix.critics import distributional as dist

with warnings.catch_warnings():  # what rlax imports uses deprecated names of JAX
    warnings.simplefilter("ignore", DeprecationWarning)
    import rlax

BATCHES = [(), (5,), (2, 3)]
M = 11
SUPPORT = np.linspace(-2.0, 3.0, M)
SPACING = 0.5
categorical_projection, categorical_loss = (
    jax.jit(dist.categorical_projection),
    jax.jit(dist.categorical_loss),
)
quantile_huber_loss = jax.jit(dist.quantile_huber_loss, static_argnames="kappa")
rlax_projection = jax.jit(jax.vmap(rlax.categorical_l2_project, (0, 0, None)))
rlax_quantile_loss = jax.jit(jax.vmap(rlax.quantile_regression_loss, (0, 0, 0, None)), static_argnums=3)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def slow_projection(support, probs, reward, discount):
    """p′_i = Σ_j p_j max(0, 1 − |T z_j − z_i|/Δz), by loops over rows, atoms and atoms."""
    out, spacing = np.zeros(probs.shape), (support[-1] - support[0]) / (len(support) - 1)
    for row in np.ndindex(probs.shape[:-1]):
        for i in range(len(support)):
            for j in range(len(support)):
                moved = min(max(reward[row] + discount[row] * support[j], support[0]), support[-1])
                out[row][i] += probs[row][j] * max(0.0, 1 - abs(moved - support[i]) / spacing)
    return out


def projection_case(batch, seed=0, scale=1.0, m=M):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(m), size=batch)
    return probs, scale * rng.normal(size=batch), rng.random(batch)


# C51


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("scale", [0.3, 3.0, 100.0])
def test_projection_against_a_loop_and_rlax(batch, scale):
    probs, reward, discount = projection_case(batch, scale=scale)
    out = categorical_projection(SUPPORT, probs, reward, discount)
    assert out.shape == probs.shape
    np.testing.assert_allclose(out, slow_projection(SUPPORT, probs, reward, discount), atol=1e-12)
    np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-12)
    moved = reward[..., None] + discount[..., None] * SUPPORT
    with jax.numpy_rank_promotion("allow"):
        peer = rlax_projection(moved.reshape(-1, M), probs.reshape(-1, M), SUPPORT)
    np.testing.assert_allclose(out, peer.reshape(out.shape), atol=1e-12)


@pytest.mark.parametrize(("low", "high", "m"), [(-100.0, 100.0, 51), (-10.0, 10.0, 51), (0.0, 1.0, 2)])
def test_projection_in_float32(low, high, m):
    support = np.linspace(low, high, m)
    probs, reward, discount = projection_case((40,), seed=1, scale=high / 2, m=m)
    arguments = [np.asarray(x, np.float32) for x in (support, probs, reward, discount)]
    out = categorical_projection(*arguments)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, slow_projection(support, probs, reward, discount), atol=1e-5)
    np.testing.assert_allclose(out.sum(-1), 1, atol=1e-6)
    assert (np.asarray(out) >= 0).all()


def test_projection_keeps_the_mean_inside_the_support():
    probs, reward, discount = projection_case((50,), seed=2, scale=0.1)
    reward, discount = np.clip(reward, -0.4, 0.4), 0.8 * discount
    mean = categorical_projection(SUPPORT, probs, reward, discount) @ SUPPORT
    np.testing.assert_allclose(mean, reward + discount * (probs @ SUPPORT), atol=1e-12)


def test_projection_of_atoms_on_the_support_and_beyond_its_ends():
    probs = projection_case((), seed=3)[0]
    project = lambda reward, discount: np.asarray(
        categorical_projection(SUPPORT, probs, np.float64(reward), np.float64(discount))
    )
    np.testing.assert_allclose(project(0, 1), probs, atol=1e-15)
    shifted = np.concatenate([[0, 0], probs[:-2]])
    shifted[-1] += probs[-2:].sum()
    np.testing.assert_allclose(project(2 * SPACING, 1), shifted, atol=1e-14)
    shifted = np.concatenate([probs[3:], [0, 0, 0]])
    shifted[0] += probs[:3].sum()
    np.testing.assert_allclose(project(-3 * SPACING, 1), shifted, atol=1e-14)
    first, last = np.eye(M)[0], np.eye(M)[-1]
    for far in (1e3, 1e30, np.inf):
        np.testing.assert_allclose(project(far, 0.9), last, atol=1e-14)
        np.testing.assert_allclose(project(-far, 0.9), first, atol=1e-14)


def test_projection_with_discount_zero_is_the_reward():
    probs = projection_case((), seed=4)[0]
    for i, z in enumerate(SUPPORT):
        out = categorical_projection(SUPPORT, probs, np.float64(z), np.float64(0))
        np.testing.assert_allclose(out, np.eye(M)[i], atol=1e-14)
    between = categorical_projection(SUPPORT, probs, np.float64(SUPPORT[4] + 0.3 * SPACING), np.float64(0))
    np.testing.assert_allclose(between, 0.7 * np.eye(M)[4] + 0.3 * np.eye(M)[5], atol=1e-14)
    beyond = categorical_projection(SUPPORT, probs, np.float64(-7), np.float64(0))
    np.testing.assert_allclose(beyond, np.eye(M)[0], atol=1e-14)


def test_projection_does_not_hide_nan_nor_spread_it():
    probs, reward, discount = projection_case((4,), seed=5)
    reward[1], discount[2], probs[3, 0] = np.nan, np.nan, np.nan
    bad = np.isnan(categorical_projection(SUPPORT, probs, reward, discount)).any(-1)
    np.testing.assert_array_equal(bad, [False, True, True, True])


def test_projection_is_linear_in_the_probabilities():
    probs, reward, discount = projection_case((3,), seed=6)
    project = lambda probs: categorical_projection(SUPPORT, probs, reward, discount)
    value, tangent = jax.jvp(project, (jnp.asarray(probs),), (jnp.asarray(probs),))
    np.testing.assert_allclose(tangent, value, atol=1e-14)


def test_projection_refuses_misfits():
    probs, reward, discount = projection_case((4,))
    with pytest.raises(ValueError, match="same axes"):
        categorical_projection(SUPPORT, probs, reward[:, None], discount)
    with pytest.raises(ValueError, match="same axes"):
        categorical_projection(SUPPORT, probs, reward, np.float64(0.9))
    with pytest.raises(ValueError, match="atoms"):
        categorical_projection(SUPPORT[1:], probs, reward, discount)
    with pytest.raises(ValueError, match="atoms"):
        categorical_projection(SUPPORT[:1], probs[:, :1], reward, discount)


@pytest.mark.parametrize("batch", BATCHES)
def test_categorical_loss_against_a_loop(batch):
    rng = np.random.default_rng(7)
    logits, target = 3 * rng.normal(size=(*batch, M)), rng.dirichlet(np.ones(M), size=batch)
    loss = categorical_loss(logits, target)
    for row in np.ndindex(batch):
        total = sum(np.exp(x) for x in logits[row])
        expected = -sum(p * (x - np.log(total)) for p, x in zip(target[row], logits[row], strict=True))
        np.testing.assert_allclose(loss[row], expected, rtol=1e-12)
    gradient = jax.grad(lambda x: categorical_loss(x, target).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - target, atol=1e-12)
    at_minimum = categorical_loss(np.log(target), target)
    np.testing.assert_allclose(at_minimum, -(target * np.log(target)).sum(-1), rtol=1e-12)
    with pytest.raises(ValueError, match="same axes"):
        categorical_loss(logits[None], target)


# Quantiles


def slow_quantile_loss(quantiles, taus, target, kappa):
    """Σ_i mean_j |τ_i − 1{u<0}| L_κ(u)/κ, by loops."""
    out = np.zeros(quantiles.shape[:-1])
    for row in np.ndindex(out.shape):
        for theta, tau in zip(quantiles[row], taus[row], strict=True):
            for sample in target[row]:
                u = sample - theta
                huber = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                size = huber / kappa if kappa else abs(u)
                out[row] += abs(tau - (u < 0)) * size / target.shape[-1]
    return out


def quantile_case(batch, n=4, m=6, seed=8):
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(*batch, n)), rng.random((*batch, n)), 2 * rng.normal(size=(*batch, m))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 2.5])
def test_quantile_loss_against_a_loop_and_rlax(batch, kappa):
    quantiles, taus, target = quantile_case(batch)
    target[..., 0] = quantiles[..., 0]  # u = 0
    loss = quantile_huber_loss(quantiles, taus, target, kappa)
    np.testing.assert_allclose(loss, slow_quantile_loss(quantiles, taus, target, kappa), rtol=1e-12)
    with jax.numpy_rank_promotion("allow"):
        peer = rlax_quantile_loss(*(x.reshape(-1, x.shape[-1]) for x in (quantiles, taus, target)), kappa)
    np.testing.assert_allclose(
        loss * (kappa or 1), peer.reshape(batch), rtol=1e-6
    )  # rlax does not divide by κ


def test_quantile_loss_defaults_to_kappa_one():
    case = quantile_case((3,))
    np.testing.assert_array_equal(quantile_huber_loss(*case), quantile_huber_loss(*case, kappa=1.0))


def test_quantile_loss_small_kappa_is_the_limit():
    case = quantile_case((3,))
    np.testing.assert_allclose(
        quantile_huber_loss(*case, kappa=1e-9), quantile_huber_loss(*case, kappa=0.0), rtol=1e-8
    )


def test_quantile_loss_gradient():
    """−mean_j |τ − 1{u<0}| clip(u, −κ, κ)/κ for each quantile."""
    quantiles, taus, target = quantile_case((3,))
    u = target[:, None, :] - quantiles[:, :, None]
    weight = np.abs(taus[:, :, None] - (u < 0))
    for kappa in (0.0, 0.5, 1.0):
        gradient = jax.jit(jax.grad(lambda x, k=kappa: quantile_huber_loss(x, taus, target, k).sum()))(
            quantiles
        )
        slope = np.clip(u, -kappa, kappa) / kappa if kappa else np.sign(u)
        np.testing.assert_allclose(gradient, -(weight * slope).mean(-1), atol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 1e-3])
def test_the_minimiser_is_the_quantile(kappa):
    """By gradient: it changes its sign at the sample's τ-quantile; and by search over the sample's points."""
    samples = np.sort(np.random.default_rng(9).lognormal(size=1001))
    taus = np.array([0.05, 0.25, 0.5, 0.9, 0.99])
    quantile = np.quantile(samples, taus, method="inverted_cdf")
    step = 5 * kappa + 1e-6

    def loss(theta):
        rows = (jnp.asarray(x)[:, None] for x in (theta, taus))
        return quantile_huber_loss(*rows, jnp.broadcast_to(samples, (5, 1001)), kappa)

    gradient = jax.jit(jax.grad(lambda theta: loss(theta).sum()))
    assert (np.asarray(gradient(quantile - step)) < 0).all()
    assert (np.asarray(gradient(quantile + step)) > 0).all()
    table = np.stack([jax.jit(loss)(np.full(5, x)) for x in samples[::20]])
    nearest = samples[::20][table.argmin(0)]
    assert (np.abs(np.searchsorted(samples, nearest) - np.searchsorted(samples, quantile)) <= 20).all()


def test_descent_on_the_loss_finds_all_quantiles_of_a_normal():
    n = 5
    taus, samples = dist.midpoints(n), jax.random.normal(jax.random.key(10), (400, 64))
    gradient = jax.grad(lambda theta, x: quantile_huber_loss(theta, taus, x, 0.0))

    def step(theta, row):
        rate, x = row
        return theta - rate * gradient(theta, x), theta

    rates = 1.0 / (1 + 0.1 * jnp.arange(400))
    history = jax.lax.scan(step, jnp.zeros(n), (rates, samples))[1]
    exact = [-1.28155, -0.52440, 0.0, 0.52440, 1.28155]
    np.testing.assert_allclose(history[200:].mean(0), exact, atol=0.06)


def test_midpoints():
    np.testing.assert_allclose(dist.midpoints(4), [1 / 8, 3 / 8, 5 / 8, 7 / 8], rtol=1e-15)
    for n in (1, 7, 200):
        np.testing.assert_allclose(dist.midpoints(n), [(2 * i + 1) / (2 * n) for i in range(n)], rtol=1e-15)
    with pytest.raises(ValueError, match="at least 1"):
        dist.midpoints(0)


def test_quantile_loss_refuses_misfits():
    quantiles, taus, target = quantile_case((3,))
    with pytest.raises(ValueError, match="kappa=-1"):
        quantile_huber_loss(quantiles, taus, target, -1)
    with pytest.raises(ValueError, match="same axes"):
        quantile_huber_loss(quantiles, taus[0], target)
    with pytest.raises(ValueError, match="same axes"):
        quantile_huber_loss(quantiles, taus, target[:1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_shapes_and_jit(dtype):
    names = ("categorical_projection", "categorical_loss", "quantile_huber_loss", "midpoints")
    checked = {name: jaxtyped(typechecker=beartype)(getattr(dist, name)) for name in names}
    probs, reward, discount, support = (jnp.asarray(x, dtype) for x in (*projection_case((2, 3)), SUPPORT))
    quantiles, _, target = (jnp.asarray(x, dtype) for x in quantile_case((2, 3)))

    @jax.jit
    def run():
        taus = jnp.broadcast_to(checked["midpoints"](4), quantiles.shape)
        projected = checked["categorical_projection"](support, probs, reward, discount)
        return (
            projected.sum(-1),
            checked["categorical_loss"](probs, projected),
            checked["quantile_huber_loss"](quantiles, taus, target),
        )

    assert {x.dtype for x in run()} == {jnp.dtype(dtype)}
    assert {x.shape for x in run()} == {(2, 3)}


@pytest.mark.parametrize("kept", [1, 3, 46, 49, 50])
def test_smallest_are_those_of_a_sort_in_their_own_order(kept):
    x = np.random.default_rng(0).integers(-20, 20, size=(7, 2, 50)).astype(np.float32)  # many are equal
    found = np.asarray(dist.smallest(jnp.asarray(x), kept))
    np.testing.assert_array_equal(np.sort(found), np.sort(x)[..., :kept])
    y = np.random.default_rng(1).normal(size=(9, 50)).astype(np.float32)
    found = np.asarray(jax.vmap(lambda row: dist.smallest(row, kept))(jnp.asarray(y)))
    for row, kept_row in zip(y, found, strict=True):
        np.testing.assert_array_equal(kept_row, row[np.isin(row, np.sort(row)[:kept])])
