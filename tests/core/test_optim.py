"""Optimisers against optax.adam, torch's RMSprop formula and the global norm."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from actrix.core.answers import State
from actrix.core.fit import Joint
from actrix.core.optim import OPTIMIZERS, at_rest, descend, flatten, make_optimizer, polyak

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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_in_a_loop_copies_neither_parameters_nor_moments(name):
    """Moments written before the parameters that are computed from the old ones were copied at each step: on two cores
    PPO's compiled loop took 1.16 times as long."""
    fit, size = Joint(optimizer=name), 1000

    def step(state, x):
        state, value, _ = fit.step(state, "net", lambda t: (jnp.sum(jnp.tanh(t * x) ** 2), ({}, ())), 0.0)
        return state, value

    theta = jnp.ones(size)
    state = State({"net": theta}, {"net": at_rest(fit.descent, theta)}, None, jnp.int32(0), jnp.array(False))
    run = jax.jit(lambda state, xs: jax.lax.scan(step, state, xs))
    text = run.lower(state, jnp.ones((32, size))).compile().as_text()
    loop = re.search(r"body=%?([\w.\-]+)", text).group(1)
    body = text[text.index(f"%{loop} (") :].partition("\n}")[0]
    assert f"f32[{size}]" in body
    assert not re.findall(rf"f32\[{size}\]\S* copy\(", body)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_or_gradient_that_is_not_finite_changes_nothing(name):
    fit, theta = Joint(optimizer=name), jnp.ones(5)
    start = State({"net": theta}, {"net": at_rest(fit.descent, theta)}, None, jnp.int32(0), jnp.array(False))
    loss = lambda scale: lambda t: (jnp.sum(t * scale), ({}, ()))
    before = fit.step(start, "net", loss(1.0), 0.0)[0]
    overflow = lambda t: (jnp.sum(t) + jnp.float32(3e38) * 2, ({}, ()))  # its gradient is 1
    for wrong in (loss(jnp.nan), loss(jnp.inf), overflow):
        after = fit.step(before, "net", wrong, 0.0)[0]
        assert after.bad
        again = fit.step(after, "net", loss(1.0), 0.0)[0]
        assert again.bad
        for state in (after, again):
            jax.tree.map(
                np.testing.assert_array_equal, (state.params, state.opt), (before.params, before.opt)
            )
