"""Greedy, ε-greedy and Boltzmann against loops from the equations, counting, the limits, and bad values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from beartype import beartype
from jaxtyping import jaxtyped

from actrix.actors import greedy
from actrix.core.distributions import ILLEGAL

BATCHES = [(), (6,), (2, 3)]
A = 4
greedy_action, explore, ou_step = (
    jax.jit(greedy.greedy_action),
    jax.jit(greedy.explore),
    jax.jit(greedy.ou_step),
)
epsilon_greedy_probs, sample_boltzmann = (
    jax.jit(greedy.epsilon_greedy_probs),
    jax.jit(greedy.sample_boltzmann),
)
boltzmann_log_probs = jax.jit(greedy.boltzmann_log_probs)
DRAWS = 20_000


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def case(batch, masked, seed=0, dtype=float):
    """Q and a mask (None if not masked) with at least one legal action per row."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(*batch, A)).astype(dtype)
    mask = rng.random(q.shape) < 0.4
    mask[..., 1] |= ~mask.any(-1)
    return q, mask if masked else None


def rows(q, mask):
    """(index, Q, legal actions) of each row."""
    for row in np.ndindex(q.shape[:-1]):
        yield row, q[row], [a for a in range(A) if mask is None or mask[row][a]]


def chi_square(counts, probs):
    """p-value of the counts; actions of probability 0 must not occur."""
    possible = probs > 0
    assert counts[~possible].sum() == 0
    return scipy.stats.chisquare(counts[possible], probs[possible] * counts.sum()).pvalue


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("masked", [False, True])
def test_probabilities_are_the_formulas(batch, masked):
    q, mask = case(batch, masked)
    epsilon, tau = 0.3, 0.7
    action = greedy_action(q, mask)
    eps_probs = epsilon_greedy_probs(q, epsilon, mask)
    log_probs = boltzmann_log_probs(q, tau, mask)
    assert action.dtype == jnp.int32
    for row, values, legal in rows(q, mask):
        best = max(legal, key=lambda a, values=values: values[a])
        assert action[row] == best
        total = sum(np.exp(values[a] / tau) for a in legal)
        for a in range(A):
            expected = (1 - epsilon) * (a == best) + epsilon / len(legal) if a in legal else 0.0
            np.testing.assert_allclose(eps_probs[row][a], expected, rtol=1e-12)
            if a in legal:
                np.testing.assert_allclose(log_probs[row][a], values[a] / tau - np.log(total), atol=1e-12)
            else:
                assert log_probs[row][a] == ILLEGAL
    np.testing.assert_allclose(eps_probs.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_numbers_may_differ_by_row(masked):
    q, mask = case((2, 3), masked)
    numbers = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    for function in (epsilon_greedy_probs, boltzmann_log_probs):
        together = function(q, numbers, mask)
        for row in np.ndindex(2, 3):
            alone = function(q[row], float(numbers[row]), None if mask is None else mask[row])
            np.testing.assert_allclose(together[row], alone, rtol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_epsilon_and_temperature_limits(masked):
    q, mask = case((50,), masked, dtype=np.float32)
    legal = np.ones_like(q) if mask is None else mask
    uniform = legal / legal.sum(-1, keepdims=True)
    one_hot = np.eye(A)[np.asarray(greedy_action(q, mask))]
    np.testing.assert_array_equal(epsilon_greedy_probs(q, 0.0, mask), one_hot)
    np.testing.assert_allclose(epsilon_greedy_probs(q, 1.0, mask), uniform, rtol=1e-6)
    for tau in (0.0, 1e-30, 1e-6):
        np.testing.assert_array_equal(jnp.exp(boltzmann_log_probs(q, tau, mask)), one_hot)
    np.testing.assert_allclose(jnp.exp(boltzmann_log_probs(q, 1e6, mask)), uniform, rtol=1e-5)
    ties = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    np.testing.assert_allclose(jnp.exp(boltzmann_log_probs(ties, 0.0)), [0, 0.5, 0.5, 0], rtol=1e-6)
    assert greedy_action(ties) == 1


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_boltzmann_keeps_its_digits_in_float32(tau, offset):
    """Differences of a few τ around a large mean, against float64."""
    q, mask = case((30,), True, dtype=np.float32)
    q = np.float32(offset) + (min(tau, 1.0) * q).astype(np.float32)
    log_probs = boltzmann_log_probs(q, tau, mask)
    assert log_probs.dtype == jnp.float32
    exact = scipy.special.log_softmax(np.where(mask, q.astype(float) / tau, -np.inf), axis=-1)
    np.testing.assert_allclose(log_probs[mask], exact[mask], rtol=1e-5, atol=1e-5)


def test_gradient_of_boltzmann():
    """∂ log π(a)/∂Q(b) = (1{a=b} − π(b))/τ, 0 at illegal actions; the entropy's gradient is finite."""
    q, mask = case((5,), True)
    tau, action = 0.5, np.asarray(greedy_action(q, mask))

    def taken(q):
        log_probs = boltzmann_log_probs(q, tau, mask)
        return jnp.take_along_axis(log_probs, action[:, None], axis=-1).sum()

    probs = np.exp(np.asarray(boltzmann_log_probs(q, tau, mask)))
    expected = np.where(mask, np.eye(A)[action] - probs, 0) / tau
    np.testing.assert_allclose(jax.grad(taken)(jnp.asarray(q)), expected, atol=1e-12)

    def entropy(q, tau):
        log_probs = boltzmann_log_probs(q, tau, mask)
        return -(jnp.exp(log_probs) * log_probs).sum()

    q[~mask] = np.nan
    assert np.isfinite(boltzmann_log_probs(jnp.asarray(1e3 * q, jnp.float32), 0.0, mask)).all()
    for tau in (1e-6, 1.0, 1e6):
        gradients = jax.jit(jax.grad(entropy, (0, 1)))(jnp.asarray(q, jnp.float32), jnp.float32(tau))
        assert all(np.isfinite(g).all() for g in gradients)
        np.testing.assert_array_equal(np.asarray(gradients[0])[~mask], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_illegal_actions_influence_nothing(bad):
    q, mask = case((20,), True)
    rng = np.random.default_rng(1)
    gumbel, uniform = rng.gumbel(size=q.shape), rng.random(20)
    chosen = greedy_action(q, mask)

    def all_of(q, gumbel):
        return (
            greedy_action(q, mask),
            epsilon_greedy_probs(q, 0.2, mask),
            boltzmann_log_probs(q, 0.2, mask),
            sample_boltzmann(q, 0.2, gumbel, mask),
            explore(chosen, 0.5, uniform, gumbel, mask),
        )

    spoilt = all_of(np.where(mask, q, bad), np.where(mask, gumbel, 1e6))
    for clean, other in zip(all_of(q, gumbel), spoilt, strict=True):
        np.testing.assert_array_equal(clean, other)
    for action in (spoilt[0], spoilt[3], spoilt[4]):
        assert mask[np.arange(20), action].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_illegal_action_even_where_legal_values_diverged(bad):
    q, mask = case((20,), True)
    mask[:, 0], mask[:, -1] = False, True
    everywhere, somewhere = np.where(mask, bad, q), q.copy()
    somewhere[:, -1] = bad
    gumbel = np.random.default_rng(2).gumbel(size=q.shape)
    for values in (everywhere, somewhere):
        for action in (
            greedy_action(values, mask),
            sample_boltzmann(values, 1.0, gumbel, mask),
        ):
            assert mask[np.arange(20), action].all()


def test_a_mask_that_allows_nothing_counts_as_none():
    q, none = case((3,), False)
    nothing, gumbel = np.zeros(q.shape, bool), np.random.default_rng(3).gumbel(size=q.shape)
    for function in (
        greedy_action,
        lambda q, mask: epsilon_greedy_probs(q, 0.1, mask),
        lambda q, mask: boltzmann_log_probs(q, 0.1, mask),
        lambda q, mask: sample_boltzmann(q, 0.1, gumbel, mask),
    ):
        np.testing.assert_array_equal(function(q, nothing), function(q, none))


@pytest.mark.parametrize("mask", [None, np.array([True, False, True, True])])
@pytest.mark.parametrize("actor", ["epsilon-greedy", "boltzmann"])
def test_actions_have_the_probabilities_they_claim(actor, mask):
    row = np.array([0.3, 2.0, -0.5, 0.8], np.float32)
    keys = jax.random.split(jax.random.key(5))
    q, full = np.tile(row, (DRAWS, 1)), None if mask is None else np.tile(mask, (DRAWS, 1))
    gumbel = jax.random.gumbel(keys[0], (DRAWS, A), jnp.float32)
    if actor == "boltzmann":
        action = sample_boltzmann(q, 0.8, gumbel, full)
        scores = np.where(True if mask is None else mask, np.exp(row.astype(float) / 0.8), 0)
        probs = scores / scores.sum()
    else:
        uniform = jax.random.uniform(keys[1], (DRAWS,), jnp.float32)
        action = explore(greedy_action(q, full), 0.3, uniform, gumbel, full)
        probs = np.asarray(epsilon_greedy_probs(row, 0.3, mask), float)
    assert action.dtype == jnp.int32
    assert chi_square(np.bincount(action, minlength=A), probs / probs.sum()) > 1e-3


def test_explore_around_a_boltzmann_draw_from_the_same_noise():
    """(1−ε)π + ε/|legal|, as if the two draws had noise of their own."""
    row, mask, epsilon = np.array([0.3, 2.0, -0.5, 0.8]), np.array([True, True, False, True]), 0.4
    q, full = np.tile(row, (DRAWS, 1)), np.tile(mask, (DRAWS, 1))
    keys = jax.random.split(jax.random.key(6))
    gumbel, uniform = jax.random.gumbel(keys[0], (DRAWS, A)), jax.random.uniform(keys[1], (DRAWS,))
    action = explore(sample_boltzmann(q, 1.0, gumbel, full), epsilon, uniform, gumbel, full)
    pi = np.exp(np.asarray(boltzmann_log_probs(row, 1.0, mask)))
    assert chi_square(np.bincount(action, minlength=A), (1 - epsilon) * pi + epsilon * mask / 3) > 1e-3


@pytest.mark.parametrize("batch", BATCHES)
def test_explore_is_the_formula(batch):
    q, mask = case(batch, True)
    rng = np.random.default_rng(4)
    gumbel, uniform, chosen = rng.gumbel(size=q.shape), rng.random(batch), np.full(batch, 1)
    epsilon = rng.random(batch)
    out = explore(chosen, epsilon, uniform, gumbel, mask)
    assert out.dtype == jnp.int32
    for row, noise, legal in rows(gumbel, mask):
        random = max(legal, key=lambda a, noise=noise: noise[a])
        assert out[row] == (random if uniform[row] < epsilon[row] else 1)
    np.testing.assert_array_equal(explore(chosen, 0.0, np.zeros(batch), gumbel, mask), chosen)
    always = explore(chosen, 1.0, np.full(batch, 1 - 2.0**-24), gumbel, mask)
    np.testing.assert_array_equal(always, greedy_action(gumbel, mask))


def test_ou_step_against_a_loop():
    theta, sigma, dt = 0.15, 0.2, 1e-2
    noise = np.random.default_rng(5).normal(size=(40, 2, 3))
    state, expected = jnp.zeros((2, 3)), np.zeros((2, 3))
    for xi in noise:
        state = ou_step(state, xi, theta=theta, sigma=sigma, dt=dt)
        expected = expected - theta * expected * dt + sigma * np.sqrt(dt) * xi
        np.testing.assert_allclose(state, expected, rtol=1e-12)
    small = ou_step(jnp.ones(2, jnp.float32), jnp.ones(2, jnp.float32), theta=theta, sigma=sigma, dt=dt)
    assert small.dtype == jnp.float32


def test_ou_stationary_deviation():
    theta, sigma, dt = 0.5, 0.3, 0.1
    noise = jax.random.normal(jax.random.key(7), (300, 5000))

    def step(state, xi):
        return ou_step(state, xi, theta=theta, sigma=sigma, dt=dt), None

    state = jax.lax.scan(step, jnp.zeros(5000), noise)[0]
    np.testing.assert_allclose(state.std(), sigma / np.sqrt(2 * theta - theta**2 * dt), rtol=0.03)
    np.testing.assert_allclose(state.std(), sigma / np.sqrt(2 * theta), rtol=0.05)
    np.testing.assert_allclose(state.mean(), 0, atol=0.02)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_dtype_shapes_and_jit(dtype):
    """With jaxtyping's checks on, and numbers of another dtype than Q's."""
    names = (
        "greedy_action",
        "epsilon_greedy_probs",
        "boltzmann_log_probs",
        "sample_boltzmann",
        "explore",
        "ou_step",
    )
    checked = {name: jaxtyped(typechecker=beartype)(getattr(greedy, name)) for name in names}
    q, mask = (jnp.asarray(x) for x in case((2, 3), True))
    q, uniform = q.astype(dtype), jnp.full((2, 3), 0.5, dtype)

    @jax.jit
    def run(q, uniform, mask, number):
        chosen = checked["greedy_action"](q, mask)
        return (
            checked["epsilon_greedy_probs"](q, number, mask),
            checked["boltzmann_log_probs"](q, number, mask),
            checked["ou_step"](q, q, theta=0.1, sigma=0.2, dt=0.01),
            checked["sample_boltzmann"](q, number, q, mask),
            checked["explore"](chosen, number, uniform, q, mask),
        )

    for number in (jnp.float32(0.6), jnp.float64(0.6), jnp.full((2, 3), 0.6)):
        out = run(q, uniform, mask, number)
        assert [x.dtype for x in out] == [dtype] * 3 + [jnp.int32] * 2
