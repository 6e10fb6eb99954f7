"""Eligibility traces: pure functions against each other, and the theorems of TD(λ) in float64 and linear features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.critics import returns, traces

T, K, GAMMA, ALPHA = 14, 4, 0.9, 0.1


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def episode(seed=0, binary=False):
    """Features of s_0 … s_T (the last one terminal: V = 0) and rewards."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (T + 1, K)).astype(float) if binary else rng.normal(size=(T + 1, K))
    x[-1] = 0
    return x, rng.normal(size=T), rng.normal(size=K)


def one_hot_episode(seed=0, states=3):
    rng = np.random.default_rng(seed)
    x = np.eye(states)[rng.integers(states, size=T + 1)]
    x[-1] = 0
    return x, rng.normal(size=T), rng.normal(size=states)


def backward(kind, lam, x, reward, w, *, online):
    """The weights after every step of the backward view; offline: w moves only at the end."""
    z, old, change, history = np.zeros(len(w)), 0.0, np.zeros(len(w)), []
    for t in range(len(reward)):
        decay = jnp.asarray(GAMMA * lam if t else 0.0)
        value, following = w @ x[t], w @ x[t + 1]
        delta = jnp.asarray(reward[t] + GAMMA * following - value)
        if kind == "dutch":
            z = traces.dutch(z, x[t], decay, ALPHA)
            step = traces.true_online_td(
                z=z, delta=delta, value=jnp.asarray(value), old_value=jnp.asarray(old if t else value), x=x[t],
                step_size=ALPHA,
            )  # fmt: skip
            old = following
        else:
            z = getattr(traces, kind)(jnp.asarray(z), jnp.asarray(x[t]), decay)
            step = traces.td_lambda(jnp.zeros(len(w)), z, delta, ALPHA)
        change = change + step
        if online:
            w = w + np.asarray(step)
        history.append(np.asarray(w))
    return np.asarray(change), history


def lambda_returns(lam, x, reward, w):
    """G^λ_t of a whole episode for fixed weights."""
    values = x @ w
    rows = lambda a: jnp.asarray(a)[:, None]
    ends = np.arange(len(reward)) == len(reward) - 1
    return np.asarray(
        returns.lambda_return(
            reward=rows(reward), next_value=rows(values[1:]), terminated=rows(ends),
            truncated=rows(np.zeros(len(reward), bool)), gamma=GAMMA, lam=lam,
        )
    )[:, 0]  # fmt: skip


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_offline_accumulating_traces_are_the_forward_view(lam):
    x, reward, w = episode()
    change, _ = backward("accumulating", lam, x, reward, w, online=False)
    forward = sum(ALPHA * (g - w @ f) * f for g, f in zip(lambda_returns(lam, x, reward, w), x, strict=False))
    np.testing.assert_allclose(change, forward, atol=1e-10)


def test_offline_replacing_traces_are_not():
    x, reward, w = one_hot_episode()
    change, _ = backward("replacing", 0.9, x, reward, w, online=False)
    forward = sum(ALPHA * (g - w @ f) * f for g, f in zip(lambda_returns(0.9, x, reward, w), x, strict=False))
    assert np.abs(change - forward).max() > 1e-3


def online_lambda_return(lam, x, reward, start):
    """The weights after each step of the online λ-return algorithm: at every horizon h all steps are made anew.

    Its targets are λ-returns cut at h, whose values V(s_k) are those of the weights w^{k−1}_{k−1} of before.
    """
    weights = [start]  # weights[t]: after t steps at horizon t
    for h in range(1, len(reward) + 1):
        w = start.copy()
        for t in range(h):
            values = {k: weights[k - 1] @ x[k] for k in range(t + 1, h + 1)}
            g = {
                n: sum(GAMMA**k * reward[t + k] for k in range(n)) + GAMMA**n * values[t + n]
                for n in range(1, h - t + 1)
            }
            target = (1 - lam) * sum(lam ** (n - 1) * g[n] for n in range(1, h - t)) + lam ** (h - t - 1) * g[
                h - t
            ]
            w = w + ALPHA * (target - w @ x[t]) * x[t]
        weights.append(w)
    return weights[1:]


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_true_online_td_is_the_online_lambda_return_after_every_step(lam):
    x, reward, w = episode(3)
    _, history = backward("dutch", lam, x, reward, w, online=True)
    np.testing.assert_allclose(history, online_lambda_return(lam, x, reward, w), atol=1e-10)
    if lam:
        _, accumulating = backward("accumulating", lam, x, reward, w, online=True)
        assert np.abs(np.asarray(history) - np.asarray(accumulating)).max() > 1e-4


@pytest.mark.parametrize("kind", ["accumulating", "replacing", "dutch"])
def test_lambda_0_is_td_0(kind):
    x, reward, w = one_hot_episode(1)
    _, history = backward(kind, 0.0, x, reward, w, online=True)
    for t in range(T):
        w = w + ALPHA * (reward[t] + GAMMA * w @ x[t + 1] - w @ x[t]) * x[t]
        np.testing.assert_allclose(history[t], w, atol=1e-12)


def test_lambda_1_is_monte_carlo():
    """Offline accumulating traces move the weights by Σ_t α(G_t − V(s_t))x_t, with the return to the end."""
    x, reward, w = episode(2)
    change, _ = backward("accumulating", 1.0, x, reward, w, online=False)
    g, right = 0.0, np.zeros(K)
    for t in range(T - 1, -1, -1):
        g = reward[t] + GAMMA * g
        right += ALPHA * (g - w @ x[t]) * x[t]
    np.testing.assert_allclose(change, right, atol=1e-10)


@pytest.mark.parametrize("kind", traces.KINDS)
def test_the_trace_of_a_visit_is_that_of_a_one_hot_vector(kind):
    rng = np.random.default_rng(0)
    z, index, decay = rng.random((6, K)), rng.integers(K, size=6), rng.random(6)
    x = np.eye(K)[index]
    more = (0.3,) if kind == "dutch" else ()
    right = getattr(traces, kind)(jnp.asarray(z), jnp.asarray(x), jnp.asarray(decay), *more)
    found = traces.visit(kind, jnp.asarray(z), jnp.asarray(index), jnp.asarray(decay), 0.3)
    np.testing.assert_allclose(found, right, atol=1e-14)
    with pytest.raises(ValueError, match="choose one of accumulating, replacing, dutch"):
        traces.visit("red", jnp.asarray(z), jnp.asarray(index), jnp.asarray(decay))


def test_watkins_cuts_after_an_exploratory_action():
    q = jnp.asarray([[1.0, 2.0, 2.0], [1.0, 2.0, 5.0], [0.0, 1.0, 0.0]])
    legal = jnp.asarray([[True, True, True], [True, True, False], [True, True, True]])
    decay = traces.watkins_decay(jnp.full(3, 0.5), q, jnp.asarray([2, 1, 0]), legal)
    np.testing.assert_allclose(decay, [0.5, 0.5, 0.0])


def test_changes_of_several_environments():
    """Two equal traces: the mean. One that has faded: the sum. One environment: its own change, whatever its trace."""
    z = jnp.asarray([[1.0, 1.0, 3.0], [1.0, 1e-12, 0.0]])
    change = jnp.asarray([[2.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    np.testing.assert_allclose(traces.mean_over_environments(change, z), [3.0, 2.0, 3.0])
    np.testing.assert_allclose(traces.mean_over_environments(change[:1], z[:1]), change[0])
    table = traces.add_mean(
        jnp.zeros(3), jnp.asarray([0, 0, 2, 0]), jnp.asarray([1.0, 3.0, 5.0, 100.0]),
        jnp.asarray([True, True, True, False]),
    )  # fmt: skip
    np.testing.assert_allclose(table, [2.0, 0.0, 5.0])


def test_the_bounded_step_never_overshoots():
    """ObGD: after the step the error of a linear value has not changed its sign, for any trace with |z| ≥ |x|."""
    rng = np.random.default_rng(4)
    x, error = jnp.asarray(rng.uniform(-1, 1, (500, K))), jnp.asarray(rng.normal(size=500) * 10)
    step = traces.bounded_step(x, error, 1.0, 2.0)
    left = error - step * error * jnp.sum(x * x, axis=-1)
    assert (jnp.sign(left) == jnp.sign(error)).all()
    assert traces.bounded_step(jnp.asarray([0.1]), jnp.asarray(0.5), 1.0, 2.0) == 1.0
