"""The values of Q-learning's relatives against loops from the equations, limits, rlax, and bad values."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import jaxtyped

from actrix.core.distributions import ILLEGAL
from actrix.critics import q_targets
from actrix.critics.ensemble import least

with warnings.catch_warnings():  # what rlax imports uses deprecated names of JAX
    warnings.simplefilter("ignore", DeprecationWarning)
    import rlax

BATCHES = [(), (6,), (2, 3)]
A = 4
greedy_value, double_value = jax.jit(q_targets.greedy_value), jax.jit(q_targets.double_value)
expected_value, sarsa_value = jax.jit(q_targets.expected_value), jax.jit(q_targets.sarsa_value)
soft_value, q_target = jax.jit(q_targets.soft_value), jax.jit(q_targets.q_target)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def case(batch, masked=True, seed=0, dtype=float):
    """Q, another Q, probabilities, actions and a mask (None if not masked) with a legal action per row."""
    rng = np.random.default_rng(seed)
    q, other = rng.normal(size=(2, *batch, A)).astype(dtype)
    mask = rng.random(q.shape) < 0.5
    mask[..., 1] |= ~mask.any(-1)
    probs = rng.dirichlet(np.ones(A), size=batch).astype(dtype)
    return q, other, probs, rng.integers(A, size=batch), mask if masked else None


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("masked", [False, True])
def test_values_are_the_formulas(batch, masked):
    q, other, probs, action, mask = case(batch, masked)
    tau, prior = 0.6, np.random.default_rng(1).normal(size=q.shape)
    out = {
        "q-learning": greedy_value(q, mask),
        "double": double_value(q, other, mask),
        "expected-sarsa": expected_value(q, probs),
        "sarsa": sarsa_value(q, action),
        "soft": soft_value(q, tau, mask),
        "prior": soft_value(q, tau, mask, prior),
    }
    assert all(x.shape == batch for x in out.values())
    for row in np.ndindex(batch):
        legal = [a for a in range(A) if mask is None or mask[row][a]]
        values = q[row]
        best = max(legal, key=lambda a, values=values: values[a])
        weights = {a: np.exp(prior[row][a]) for a in legal}
        expected = {
            "q-learning": values[best],
            "double": other[row][best],
            "expected-sarsa": sum(probs[row][a] * values[a] for a in range(A)),
            "sarsa": values[action[row]],
            "soft": tau * np.log(sum(np.exp(values[a] / tau) for a in legal) / len(legal)),
            "prior": tau
            * np.log(sum(weights[a] * np.exp(values[a] / tau) for a in legal) / sum(weights.values())),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(out[name][row], value, rtol=1e-12, err_msg=name)


def test_names_and_order():
    assert list(q_targets.Q_TARGETS) == ["q-learning", "double", "expected-sarsa", "sarsa", "soft"]
    assert q_targets.Q_TARGETS["double"] is q_targets.double_value


@pytest.mark.parametrize("batch", BATCHES)
def test_q_target(batch):
    rng = np.random.default_rng(2)
    reward, value = rng.normal(size=(2, *batch))
    terminated = rng.random(batch) < 0.5
    for gamma in (0.9, rng.random(batch)):
        target = q_target(reward=reward, next_value=value, terminated=terminated, gamma=gamma)
        np.testing.assert_allclose(target, reward + gamma * (1 - terminated) * value, rtol=1e-12)
    ends = np.ones(batch, bool)
    bad = np.full(batch, np.nan)
    unread = q_target(reward=reward, next_value=bad, terminated=ends, gamma=0.9)
    np.testing.assert_array_equal(unread, reward)
    with pytest.raises(ValueError, match="one shape"):
        q_target(reward=reward, next_value=value[None], terminated=terminated, gamma=0.9)


def test_td_errors_against_rlax():
    q, other, probs, action, _ = case((50,))
    rng = np.random.default_rng(3)
    q_tm1, a_tm1, reward = rng.normal(size=(50, A)), rng.integers(A, size=50), rng.normal(size=50)
    terminated = rng.random(50) < 0.3
    discount = 0.9 * (1 - terminated)
    taken = q_tm1[np.arange(50), a_tm1]
    expected = {
        "q-learning": jax.jit(jax.vmap(rlax.q_learning))(q_tm1, a_tm1, reward, discount, q),
        "double": jax.jit(jax.vmap(rlax.double_q_learning))(q_tm1, a_tm1, reward, discount, other, q),
        "expected-sarsa": jax.jit(jax.vmap(rlax.expected_sarsa))(q_tm1, a_tm1, reward, discount, q, probs),
        "sarsa": jax.jit(jax.vmap(rlax.sarsa))(q_tm1, a_tm1, reward, discount, q, action),
    }
    arguments = {"q-learning": (q,), "double": (q, other), "expected-sarsa": (q, probs), "sarsa": (q, action)}
    for name, values in arguments.items():
        value = q_targets.Q_TARGETS[name](*values)
        target = q_target(reward=reward, next_value=value, terminated=terminated, gamma=0.9)
        np.testing.assert_allclose(target - taken, expected[name], rtol=1e-10, err_msg=name)


def test_double_q_of_two_tables_removes_the_bias():
    """Ten actions worth 0 seen through noise: max is biased upwards, the other table's value is not."""
    first, second = np.random.default_rng(4).normal(size=(2, 20_000, 10))
    assert greedy_value(first).mean() > 1.5
    error = double_value(first, second)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_illegal_and_impossible_actions_influence_nothing(bad):
    q, other, probs, _, mask = case((20,))
    probs = np.where(mask, probs, 0)
    prior = np.random.default_rng(5).normal(size=q.shape)

    def all_of(q, other, prior, mask=mask):
        return (
            greedy_value(q, mask),
            double_value(q, other, mask),
            expected_value(q, probs),
            soft_value(q, 0.3, mask),
            soft_value(q, 0.3, mask, prior),
        )

    all_of = jax.jit(all_of)
    clean = all_of(q, other, prior)
    spoilt = all_of(np.where(mask, q, bad), np.where(mask, other, bad), np.where(mask, prior, bad))
    for a, b in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(a, b)
    for zero in (-np.inf, ILLEGAL):  # a prior without mass is a mask
        masked_by_prior = soft_value(np.where(mask, q, bad), 0.3, None, np.where(mask, prior, zero))
        np.testing.assert_allclose(masked_by_prior, clean[-1], rtol=1e-12)

    gradient = jax.jit(jax.grad(lambda q: sum(x.sum() for x in all_of(q, other, prior))))
    of_clean, of_spoilt = gradient(q), gradient(np.where(mask, q, bad))
    np.testing.assert_array_equal(of_clean, of_spoilt)
    np.testing.assert_array_equal(np.asarray(of_clean)[~mask], 0)


def test_a_mask_that_allows_nothing_counts_as_none():
    q, other, _, _, _ = case((3,))
    nothing = np.zeros(q.shape, bool)
    np.testing.assert_array_equal(greedy_value(q, nothing), greedy_value(q))
    np.testing.assert_array_equal(double_value(q, other, nothing), double_value(q, other))
    np.testing.assert_array_equal(soft_value(q, 0.1, nothing), soft_value(q, 0.1))


def test_expected_value_of_a_greedy_policy_is_the_maximum():
    q, _, _, _, mask = case((20,))
    probs = np.eye(A)[np.where(mask, q, -np.inf).argmax(-1)]
    np.testing.assert_array_equal(expected_value(q, probs), greedy_value(q, mask))


@pytest.mark.parametrize("with_prior", [False, True])
def test_soft_value_limits_in_float32(with_prior):
    q, _, probs, _, mask = case((50,), dtype=np.float32)
    log_prior = np.log(probs) if with_prior else None
    weights = np.where(mask, probs if with_prior else 1.0, 0).astype(float)
    mean = (weights * q).sum(-1) / weights.sum(-1)
    for tau in (0.0, 1e-30, 1e-6):
        value = soft_value(q, tau, mask, log_prior)
        np.testing.assert_allclose(value, greedy_value(q, mask), atol=1e-4)
    for tau in (1e6, 1e20):
        np.testing.assert_allclose(soft_value(q, tau, mask, log_prior), mean, atol=1e-5)
    equal = np.full((1, A), 3.0, np.float32)
    for tau in (1e-6, 1.0, 1e6):  # π̄ averages: equal values are not raised by log |A|
        np.testing.assert_allclose(soft_value(equal, tau), 3.0, rtol=1e-6)


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.1, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_soft_value_keeps_its_digits_in_float32(tau, offset):
    q, _, _, _, mask = case((50,), dtype=np.float32)
    q = np.float32(offset) + (min(tau, 1.0) * q).astype(np.float32)
    value = soft_value(q, tau, mask)
    assert value.dtype == jnp.float32
    with np.errstate(under="ignore"):
        wide = np.where(mask, q.astype(np.longdouble), -np.inf)
        best = wide.max(-1, keepdims=True)
        exact = best[:, 0] + tau * np.log(np.exp((wide - best) / tau).sum(-1) / mask.sum(-1))
    np.testing.assert_allclose(value, exact.astype(float), atol=1e-6 + 1e-7 * offset)


def test_soft_value_with_an_improbable_best_action():
    """V = Q + τ log π̄ of the best action where it outweighs all others, however small π̄ is."""
    q, log_prior = np.array([0.0, 1.0], np.float32), np.array([0.0, -200.0], np.float32)
    value = soft_value(q, 1e-3, None, log_prior)
    np.testing.assert_allclose(value, 1.0 - 0.2, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda q: soft_value(q, 1e-3, None, log_prior)))(q)
    np.testing.assert_allclose(gradient, [0, 1], atol=1e-6)
    value = soft_value(q, 1.0, None, log_prior)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)


@pytest.mark.parametrize("tau", [0.05, 1.0, 20.0])
def test_soft_value_gradients_and_optimality(tau):
    """∂V/∂Q is the policy π ∝ π̄ exp(Q/τ), and V = E_π[Q] − τ KL(π ‖ π̄) = Q − τ log(π/π̄) everywhere."""
    q, _, probs, _, mask = case((20,))
    log_prior = np.log(probs)
    value, back = jax.vjp(lambda q: soft_value(q, tau, mask, log_prior), jnp.asarray(q))
    policy = np.asarray(back(jnp.ones(20))[0])
    prior = np.where(mask, probs, 0) / np.where(mask, probs, 0).sum(-1, keepdims=True)
    weight = prior * np.exp((q - q.max(-1, keepdims=True)) / tau)
    np.testing.assert_allclose(policy, weight / weight.sum(-1, keepdims=True), atol=1e-12)
    ratio = np.log(np.where(mask, policy, 1) / np.where(mask, prior, 1))
    np.testing.assert_allclose((policy * (q - tau * ratio)).sum(-1), value, rtol=1e-9)
    worse = np.where(mask, 0.9 * policy + 0.1 * prior, 1)
    ratio = np.log(worse / np.where(mask, prior, 1))
    assert (np.sum(np.where(mask, worse * (q - tau * ratio), 0), -1) <= np.asarray(value) + 1e-12).all()
    of_tau = jax.jit(jax.grad(lambda tau: soft_value(q, tau, mask, log_prior).sum()))(tau)
    step = 1e-6 * tau
    both = [soft_value(q, tau + s, mask, log_prior).sum() for s in (step, -step)]
    np.testing.assert_allclose(of_tau, (both[0] - both[1]) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_shapes_and_jit(dtype):
    """With jaxtyping's checks on, and numbers of another dtype than Q's."""
    names = ("greedy_value", "double_value", "expected_value", "sarsa_value", "soft_value", "q_target")
    checked = {name: jaxtyped(typechecker=beartype)(getattr(q_targets, name)) for name in names}
    q, other, probs, action, mask = (jnp.asarray(x) for x in case((2, 3)))
    q, other, probs = (x.astype(dtype) for x in (q, other, probs))

    @jax.jit
    def run(number):
        value = checked["soft_value"](q, number, mask, probs)
        return (
            value,
            checked["greedy_value"](q, mask),
            checked["double_value"](q, other, mask),
            checked["expected_value"](q, probs),
            checked["sarsa_value"](q, action),
            checked["q_target"](reward=value, next_value=value, terminated=mask[..., 0], gamma=number),
        )

    for number in (jnp.float32(0.6), jnp.float64(0.6)):
        assert {x.dtype for x in run(number)} == {jnp.dtype(dtype)}
        assert {x.shape for x in run(number)} == {(2, 3)}


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 4)])
def test_the_least_critic_alone_gets_the_gradient(shape):
    """As of `min`, but for equals, whose first takes it whole."""
    q, weight = (
        np.random.default_rng(0).normal(size=shape),
        np.random.default_rng(1).normal(size=(5, *shape[2:])),
    )
    gradient = jax.grad(lambda q: jnp.sum(weight * least(q)))(q)
    np.testing.assert_array_equal(least(q), np.min(q, axis=1))
    np.testing.assert_array_equal(
        gradient, np.where(q == np.min(q, axis=1, keepdims=True), weight[:, None], 0)
    )
    np.testing.assert_array_equal(jax.grad(lambda q: least(q)[0])(jnp.ones((1, 3))), [[1, 0, 0]])
