"""Optimisers against optax.adam, torch's RMSprop formula and the global norm."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from actrix.core.optim import OPTIMIZERS, descend, flatten, make_optimizer, polyak

rng = np.random.default_rng(0)
THETA = jnp.asarray(rng.normal(size=7), jnp.float32)
GRADIENTS = [jnp.asarray(rng.normal(size=7) * s, jnp.float32) for s in (1, 10, 0.01, 1)]


def run(name, max_grad_norm=None, rate=0.1, eps=1e-5):
    optimizer, theta = make_optimizer(name, max_grad_norm, eps), THETA
    state = optimizer.init(theta)
    for g in GRADIENTS:
        theta, state = descend(optimizer, g, state, theta, rate)
    return theta


def clip(g, limit):
    norm = np.sqrt(np.sum(np.square(g)))
    return g if limit is None or norm < limit else g * limit / norm


@pytest.mark.parametrize("limit", [None, 0.5])
def test_adam(limit):
    optimizer, theta = optax.adam(0.1, eps=1e-5), THETA
    state = optimizer.init(theta)
    for g in GRADIENTS:
        step, state = optimizer.update(jnp.asarray(clip(g, limit)), state)
        theta = theta + step
    np.testing.assert_allclose(run("adam", limit), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_rmsprop_is_torchs(limit):
    """v ← 0.99 v + 0.01 g², θ ← θ − α g/(√v + ε), v_0 = 0."""
    theta, v = np.asarray(THETA, np.float64), np.zeros(7)
    for g in GRADIENTS:
        g = clip(np.asarray(g, np.float64), limit)
        v = 0.99 * v + 0.01 * g**2
        theta = theta - 0.1 * g / (np.sqrt(v) + 1e-5)
    np.testing.assert_allclose(run("rmsprop", limit), theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_sgd_and_the_global_norm(limit):
    theta = np.asarray(THETA, np.float64) - 0.1 * sum(
        clip(np.asarray(g, np.float64), limit) for g in GRADIENTS
    )
    np.testing.assert_allclose(run("sgd", limit), theta, rtol=1e-5, atol=1e-6)
    one = make_optimizer("sgd", 0.5, 0.0)
    big = jnp.asarray([3.0, 4.0, 0.0])
    got, _ = descend(one, big, one.init(big), jnp.zeros(3), 1.0)
    np.testing.assert_allclose(got, [-0.3, -0.4, 0.0], rtol=1e-6)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_radam(limit):
    optimizer, theta = optax.radam(0.1, eps=1e-5), THETA
    state = optimizer.init(theta)
    for g in GRADIENTS:
        step, state = optimizer.update(jnp.asarray(clip(g, limit)), state)
        theta = theta + step
    np.testing.assert_allclose(run("radam", limit), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.005, 1.0])
def test_polyak(tau):
    np.testing.assert_allclose(
        polyak(THETA, GRADIENTS[0], tau), (1 - tau) * THETA + tau * GRADIENTS[0], rtol=1e-5, atol=1e-6
    )


def test_flatten_takes_only_floats():
    tree = {"w": jnp.ones((2, 3)), "n": jnp.asarray(3), "none": None, "b": jnp.zeros(2)}
    theta, unflatten = flatten(tree)
    assert theta.shape == (8,)
    again = unflatten(2 * theta)
    assert again["n"] == 3
    assert again["none"] is None
    np.testing.assert_array_equal(again["w"], 2)
    assert OPTIMIZERS == ("adam", "rmsprop", "sgd", "radam")
