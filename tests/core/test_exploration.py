"""State-dependent exploration against double loops, sampling, and scipy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from gymnasium import spaces

from actrix.actors.pathwise import Soft
from actrix.core.distributions import DiagGaussian, SquashedGaussian
from actrix.core.types import Spec
from actrix.nets.exploration import EPSILON, StateNoise
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import build_actor_critics

N, L, D = 3, 4, 2
SPEC = Spec(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (D,), np.float32))


def numbers(full=True):
    rng = np.random.default_rng(3)
    return rng.normal(size=(N, L)), rng.normal(size=(L, D if full else 1)) * 0.7, rng.normal(size=(N, D))


def deviation(x, expln):
    return 1 + math.log1p(x) if expln and x > 0 else math.exp(x)


def variance(features, log_std, expln=False):
    """v_nj = Σ_i φ_ni² σ_ij² + ε, one term at a time."""
    out = np.zeros((N, D))
    for n in range(N):
        for j in range(D):
            for i in range(L):
                sigma = deviation(log_std[i, j if log_std.shape[1] > 1 else 0], expln)
                out[n, j] += features[n, i] ** 2 * sigma**2
    return out + EPSILON


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("expln", [True, False])
def test_the_density_is_that_of_a_double_loop(full, expln):
    features, log_std, mean = numbers(full)
    action = mean + np.random.default_rng(4).normal(size=mean.shape)
    v = variance(features, log_std, expln)
    want = scipy.stats.norm(mean, np.sqrt(v)).logpdf(action).sum(-1)
    with jax.enable_x64(True):
        noise = StateNoise(full_std=full, use_expln=expln)
        marginal = jax.vmap(lambda f: noise.log_std(f, jnp.asarray(log_std), D))(jnp.asarray(features))
        got = DiagGaussian(jnp.asarray(mean), marginal).log_prob(jnp.asarray(action))
        np.testing.assert_allclose(got, want, rtol=1e-12)
        assert got.dtype == jnp.float64


def test_draws_have_that_variance_and_depend_on_each_other_through_the_matrix():
    """Cov of the actions in two states is Σ_i φ_i φ'_i σ_ij² where they share the matrix, and 0 where they do not."""
    features, log_std, mean = numbers()
    noise, count = StateNoise(), 40_000
    f, s = jnp.asarray(features, jnp.float32), jnp.asarray(log_std, jnp.float32)
    marginal = jax.vmap(lambda x: noise.log_std(x, s, D))(f)
    seeds = noise.draw(jax.random.key(1), (count * 1, 1)[::-1])[0]  # of count environments

    def tried(n, seeds):
        xi = noise.normal(
            seeds, jnp.broadcast_to(f[n], (count, L)), s, jnp.broadcast_to(marginal[n], (count, D))
        )
        return np.asarray(mean[n] + np.exp(marginal[n]) * xi, np.float64)

    one, two, other = tried(0, seeds), tried(1, seeds), tried(1, jnp.roll(seeds, 1, axis=0))
    sigma2 = np.exp(2 * log_std)
    for x, n in ((one, 0), (two, 1)):
        cov = np.cov(x.T)
        want = np.diag(variance(features, log_std)[n])
        assert np.abs(cov - want).max() < 6 * want.max() * np.sqrt(2 / count)
        np.testing.assert_allclose(x.mean(0), mean[n], atol=6 * np.sqrt(want.max() / count))
    scale = np.sqrt(variance(features, log_std)[0] * variance(features, log_std)[1])
    shared = (features[0] * features[1]) @ sigma2
    together = ((one - mean[0]) * (two - mean[1])).mean(0)
    apart = ((one - mean[0]) * (other - mean[1])).mean(0)
    assert np.all(np.abs(together - shared) < 8 * scale / np.sqrt(count))
    assert np.all(np.abs(apart) < 8 * scale / np.sqrt(count))
    assert np.all(np.abs(shared) > 20 * scale / np.sqrt(count))  # so that either failure would show


@pytest.mark.parametrize(("freq", "starts"), [(-1, [0]), (1, range(7)), (3, [0, 3, 6]), (50, [0])])
def test_the_matrix_stays_for_sample_freq_steps(freq, starts):
    seeds = np.asarray(StateNoise(freq).draw(jax.random.key(0), (7, N)))
    assert seeds.shape == (7, N, 2)
    changed = [t for t in range(7) if t == 0 or (seeds[t] != seeds[t - 1]).any()]
    assert changed == list(starts)
    assert len({tuple(x) for x in seeds[0]}) == N  # every environment has its own


@pytest.mark.parametrize("learn", [True, False])
def test_gradients_reach_the_features_only_where_they_shall(learn):
    features, log_std, _ = numbers()
    noise = StateNoise(learn_features=learn)
    of = lambda f, s: jnp.sum(noise.log_std(f, s, D))
    by_features, by_std = jax.grad(of, (0, 1))(jnp.asarray(features[0]), jnp.asarray(log_std))
    assert (np.abs(by_features).max() > 0.01) == learn
    assert np.abs(by_std).max() > 0.01


def test_a_state_without_features_has_a_density():
    log_std = StateNoise(learn_features=True).log_std(jnp.zeros(L), jnp.zeros((L, D)), D)
    np.testing.assert_allclose(np.exp(2 * np.asarray(log_std)), EPSILON, rtol=1e-5)


def test_squashed_formulas():
    mean, log_std = np.array([[0.3, -1.2]]), np.array([[-0.5, 0.2]])
    dist = SquashedGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))

    def entropy(m, s):
        density = scipy.stats.norm(m, s).pdf
        slope = lambda u: 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
        more = scipy.integrate.quad(lambda u: density(u) * slope(u), m - 12 * s, m + 12 * s)[0]
        return scipy.stats.norm(m, s).entropy() + more

    want = sum(entropy(m, math.exp(s)) for m, s in zip(mean[0], log_std[0], strict=True))
    np.testing.assert_allclose(dist.entropy(), [want], rtol=1e-4)
    other = dataclasses.replace(dist, mean=dist.mean + 0.4)
    plain = lambda d: DiagGaussian(d.mean, d.log_std)
    np.testing.assert_allclose(dist.kl(other), plain(dist).kl(plain(other)), rtol=1e-6)
    np.testing.assert_allclose(dist.kl(dist), 0, atol=1e-6)
    hessian = jax.hessian(lambda m: jnp.sum(dist.kl(dataclasses.replace(dist, mean=m))))(dist.mean)
    tangent = SquashedGaussian(jnp.ones((1, 2)), jnp.zeros((1, 2)))
    np.testing.assert_allclose(dist.fisher(tangent).mean, hessian.sum((2, 3)), rtol=1e-4)


def build(**kwargs):
    return NetworkConfig(pi=(5,), vf=(5,), use_sde=True, **kwargs).build(SPEC, jax.random.key(0))


@pytest.mark.parametrize("squash", [False, True])
def test_what_acts_is_what_learning_sees(squash):
    """The joint network: its distribution has φ of the policy's branch, and a step of the noise gives μ + φᵀE."""
    net = build(squash_output=squash, log_std_init=-1.0)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(N, 3)), jnp.float32)
    seeds = net.draw(jax.random.key(2), (2, N))[0]
    dist, xi, _ = net.explore(obs, None, None, seeds)
    phi = np.asarray(jax.vmap(lambda o: net.pi(net.encoder(o)))(obs), np.float64)
    v = (phi**2) @ np.full((5, D), math.exp(-2.0)) + EPSILON
    np.testing.assert_allclose(np.exp(2 * np.asarray(dist.log_std)), v, rtol=1e-5)
    unit = [jax.random.normal(jax.random.wrap_key_data(s, impl="threefry2x32"), (5, D)) for s in seeds]
    want = np.asarray(dist.mean) + np.einsum("nl,nld->nd", phi, math.exp(-1.0) * np.asarray(unit))
    np.testing.assert_allclose(dist.sample(xi), np.tanh(want) if squash else want, rtol=1e-4, atol=1e-6)
    assert isinstance(dist, SquashedGaussian) == squash
    np.testing.assert_array_equal(net.policy(obs, None, None)[0].log_std, dist.log_std)


def test_a_soft_actors_mean_is_bounded_and_starts_narrow():
    config = NetworkConfig(
        pi=(6,), vf=(6,), activation_fn="relu", ortho_init=False, use_sde=True, clip_mean=0.05
    )
    net = build_actor_critics(config, SPEC, jax.random.key(0), actor=Soft().build, n_critics=2)
    obs = 9 * jnp.asarray(np.random.default_rng(0).normal(size=(N, 3)), jnp.float32)
    dist, xi, _ = net.explore(obs, None, None, net.draw(jax.random.key(2), (1, N))[0])
    assert np.abs(dist.mean).max() <= np.float32(0.05)
    np.testing.assert_array_equal(net.actor.log_std, -3.0)
    assert net.actor.log_std.shape == (6, D)
    phi = np.asarray(jax.vmap(net.actor.features)(obs))
    np.testing.assert_allclose(
        np.exp(2 * dist.log_std),
        (phi**2).sum(-1, keepdims=True) * np.exp(-6.0) + EPSILON * np.ones((1, D)),
        rtol=1e-5,
    )
    assert np.abs(dist.sample(xi)).max() < 1
