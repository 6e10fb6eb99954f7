"""Natural-gradient pieces against the explicit Fisher matrix, the exact oracle and numpy, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.actors import kronecker, natural
from actrix.core.distributions import action_head
from actrix.core.optim import flatten
from actrix.core.types import Spec
from actrix.envs.tables import random_mdp
from actrix.lab import exact as oracle
from actrix.nets.networks import NetworkConfig

ROWS, INPUTS, HIDDEN = 7, 3, 4
SPACES = {
    "categorical": spaces.Discrete(3),
    "masked": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 3]),
    "gaussian": spaces.Box(-1.0, 1.0, (2,), np.float32),
}
VALID = np.array([True, True, False, True, True, False, True])


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def normals(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def small_policy(kind):
    """(θ, dist_of, one row's dist): a tanh network of one hidden layer, its log std a parameter too."""
    head, obs = action_head(SPACES[kind]), normals(1, ROWS, INPUTS)
    sizes = [INPUTS * HIDDEN, HIDDEN, HIDDEN * head.size, head.size, head.size * head.continuous]
    stops = np.cumsum(sizes)
    mask = None
    if kind == "masked":
        mask = jnp.asarray(np.random.default_rng(2).random((ROWS, 4)) < 0.5).at[:, 1].set(True)

    def one(theta, t):
        w, b, w2, b2, log_std = jnp.split(theta, stops[:-1])
        x = jnp.tanh(obs[t] @ w.reshape(INPUTS, HIDDEN) + b)
        out = x @ w2.reshape(HIDDEN, head.size) + b2
        return head(out, log_std if head.continuous else None, None if mask is None else mask[t])

    return 0.7 * normals(3, stops[-1]), jax.vmap(one, (None, 0)), one


def enumerated_fisher(theta, one, kind):
    """Mean over the valid rows of Σ_a π(a|s) ∇log π ∇log πᵀ, action by action."""
    sizes = [SPACES[kind].n] if kind != "multi" else SPACES[kind].nvec
    total = np.zeros((theta.size, theta.size))
    scores = jax.jit(jax.value_and_grad(lambda theta, t, a: one(theta, t).log_prob(a)))
    for t in np.flatnonzero(VALID):
        for action in itertools.product(*map(range, sizes)):
            log_prob, score = map(
                np.asarray, scores(theta, t, np.array(action if kind == "multi" else action[0]))
            )
            total += np.exp(log_prob) * np.outer(score, score)
    return total / VALID.sum()


@pytest.mark.parametrize("kind", SPACES)
def test_fisher_vector_products_are_the_fisher_matrix_and_the_hessian_of_the_kl(kind):
    theta, dist_of, one = small_policy(kind)
    dist_of = lambda theta, of=dist_of: of(theta, jnp.arange(ROWS))
    valid = jnp.asarray(VALID)

    @jax.jit
    def compute(theta):
        columns = jax.vmap(natural.fisher_vector_product(dist_of, theta, valid))(jnp.eye(theta.size))
        old = jax.lax.stop_gradient(dist_of(theta))
        hessian = jax.hessian(lambda theta: natural.mean_kl(old, dist_of(theta), valid))(theta)
        every = natural.fisher_vector_product(dist_of, theta)(theta)
        matrix = natural.fisher_matrix(dist_of, theta)
        return columns, hessian, natural.fisher_matrix(dist_of, theta, valid), every, matrix

    columns, hessian, of_valid, every, matrix = compute(theta)
    np.testing.assert_allclose(columns, hessian, atol=1e-12)
    np.testing.assert_allclose(of_valid, columns, atol=1e-12)
    if kind != "gaussian":
        np.testing.assert_allclose(columns, enumerated_fisher(theta, one, kind), atol=1e-12)
    np.testing.assert_allclose(every, np.asarray(matrix) @ np.asarray(theta), atol=1e-12)


def test_of_a_tabular_softmax_they_are_the_oracles():
    """F = Σ_s d(s) F_s, and (F + λI)⁻¹∇η by conjugate gradients is the exact natural gradient."""
    mdp = random_mdp(5, 3, gamma=0.9, seed=3)
    theta = normals(5, mdp.n_states, mdp.n_actions)
    visits = oracle.visitation(mdp, oracle.softmax_policy(np.asarray(theta)))
    head = action_head(spaces.Discrete(mdp.n_actions))

    @jax.jit
    def product(v):
        state = lambda s: natural.fisher_vector_product(
            lambda flat: head(flat.reshape(theta.shape)[s][None]), theta.ravel()
        )
        return sum(d * state(s)(v) for s, d in enumerate(visits / visits.sum()))

    v = normals(6, theta.size)
    np.testing.assert_allclose(product(v), oracle.fisher(mdp, np.asarray(theta)) @ v, atol=1e-12)
    gradient = oracle.policy_gradient(mdp, np.asarray(theta))
    x, curvature = natural.natural_direction(
        product, jnp.asarray(gradient).ravel(), cg_max_steps=40, cg_damping=0.01
    )
    exact = oracle.natural_gradient(mdp, np.asarray(theta), damping=0.01)
    np.testing.assert_allclose(x, exact.ravel(), atol=1e-3)  # CG stops at a residual of 1e-5
    np.testing.assert_allclose(curvature, exact.ravel() @ gradient.ravel(), rtol=1e-4)


# Conjugate gradients, step, line search


def positive(seed, n):
    a = normals(seed, n, n)
    return a @ a.T / n + 0.1 * jnp.eye(n)


def test_conjugate_gradient_solves_and_stops():
    a, b = positive(0, 12), normals(1, 12)
    solve = lambda steps, tol=1e-10: natural.conjugate_gradient(lambda v: a @ v, b, steps, tol)
    np.testing.assert_allclose(solve(40, 1e-24), np.linalg.solve(a, b), rtol=1e-8)
    rest = lambda x: float(jnp.sum(jnp.square(b - a @ x)) / jnp.sum(jnp.square(b)))
    assert rest(solve(40)) <= 1e-10 < rest(solve(3))
    assert rest(solve(40, 1e-2)) <= 1e-2
    np.testing.assert_array_equal(solve(1000, 1e-2), solve(40, 1e-2))
    one = natural.conjugate_gradient(lambda v: 4 * v, b, 1)
    np.testing.assert_allclose(one, b / 4)


def test_conjugate_gradient_of_nothing_and_without_curvature():
    zero = natural.conjugate_gradient(lambda v: v, jnp.zeros(3))
    np.testing.assert_array_equal(zero, 0)
    flat = natural.conjugate_gradient(lambda v: 0 * v, jnp.ones(3))
    np.testing.assert_array_equal(flat, 0)
    part = natural.conjugate_gradient(lambda v: v * jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(part, [0.5, 0])


def test_step_length_reaches_the_kl_of_the_quadratic_model():
    a, x = positive(2, 5), normals(3, 5)
    step = natural.step_length(x @ a @ x, 0.02) * x
    np.testing.assert_allclose(0.5 * step @ a @ step, 0.02)
    assert natural.step_length(jnp.zeros(()), 0.02) == 0


def test_line_search_takes_the_first_step_that_gains_inside_the_region():
    theta, step = jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])
    evaluate = lambda theta: (-jnp.square(theta[0] - 1.5), 0.05 * jnp.square(theta[0] - 1))
    found = natural.line_search(evaluate, theta, step, 0.1, shrinking_factor=0.5)
    assert found.success  # 3 loses, 2 gains nothing, 1.5 gains
    np.testing.assert_allclose(found.theta, [1.5, 0])
    np.testing.assert_allclose([found.objective, found.kl], [0, 0.0125])
    tight = natural.line_search(evaluate, theta, step, 0.01, shrinking_factor=0.5)
    np.testing.assert_allclose(tight.theta, [1.25, 0])  # 1.5 leaves the region


@pytest.mark.parametrize("step", [[2.0, 1.0], [np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0]])
def test_a_failed_line_search_restores_bit_for_bit(step):
    theta = jnp.array([1 / 3, -1e-12])
    evaluate = lambda theta: (-jnp.sum(jnp.square(theta)), jnp.sum(jnp.square(theta)))
    found = jax.jit(lambda s: natural.line_search(evaluate, theta, s, 1.0, max_iter=3))(jnp.array(step))
    assert not found.success
    assert np.asarray(found.theta).tobytes() == np.asarray(theta).tobytes()
    assert found.kl == 0
    assert found.objective == evaluate(theta)[0]


# Conservative policy iteration


def test_conservative_step_and_mixture_are_the_oracles():
    mdp = random_mdp(6, 3, gamma=0.8, seed=1)
    old = oracle.softmax_policy(np.asarray(normals(2, 6, 3)))
    new = oracle.greedy(mdp, oracle.q_value(mdp, old))
    with np.errstate(divide="ignore"):
        logs = jnp.asarray(np.log(old)), jnp.asarray(np.log(new))
    gain = np.sum(new * oracle.advantage(mdp, old), axis=1)
    mean = oracle.visitation(mdp, old) @ gain
    alpha = natural.conservative_step(mean, np.abs(gain).max(), mdp.gamma)
    np.testing.assert_allclose(alpha, oracle.cpi_step(mdp, old, new), rtol=1e-12)
    mixed = np.exp(natural.conservative_mixture(*logs, alpha))
    np.testing.assert_allclose(mixed, oracle.mixture(old, new, float(alpha)), atol=1e-15)
    assert oracle.performance(mdp, mixed) >= oracle.performance(mdp, old)
    assert natural.conservative_step(-0.1, 1.0, 0.9) == 0
    assert natural.conservative_step(10.0, 1e-6, 0.5) == 1
    for share in (0, 1):
        np.testing.assert_allclose(
            np.exp(natural.conservative_mixture(*logs, share)), (old, new)[share], atol=1e-15
        )


# Kronecker factors


def network(space, hidden=(4, 5)):
    spec = Spec(spaces.Box(-1.0, 1.0, (INPUTS,), np.float32), space)
    net = NetworkConfig(pi=hidden, vf=(2,), log_std_init=-0.5).build(spec, jax.random.key(0))
    theta, unflatten = flatten(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), net))
    return unflatten(theta + 0.3 * normals(7, theta.size))


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_factors_are_the_means_of_explicit_products(kind):
    """Row by row: ā from a forward pass by hand, ∇_s log π from the score of the bias."""
    net, obs = network(SPACES[kind]), jnp.float64(jnp.float32(normals(8, ROWS, INPUTS)))
    noise = net.head.draw(jax.random.key(1), (ROWS,))
    action = jax.jit(lambda noise: jax.vmap(lambda o: net(o, None, None)[0].dist)(obs).sample(noise))(noise)
    inputs, outputs = jax.jit(lambda a: kronecker.batch_factors(net, obs, a, None, jnp.asarray(VALID)))(
        action
    )
    theta, unflatten = flatten(net)
    a = [np.zeros((n + 1, n + 1)) for n in (INPUTS, 4, 5)]
    g = [np.zeros((n, n)) for n in (4, 5, net.head.size)]
    log_prob = lambda theta, t: unflatten(theta)(obs[t], None, None)[0].dist.log_prob(action[t])
    gradient = jax.jit(jax.grad(log_prob))
    unflatten_once = jax.jit(unflatten)
    for t in np.flatnonzero(VALID):
        score = unflatten_once(gradient(theta, t))
        x = np.asarray(obs[t])
        for i, layer in enumerate(kronecker.dense_layers(net)):
            a[i] += np.outer(np.append(x, 1), np.append(x, 1))
            bias = np.asarray(kronecker.dense_layers(score)[i].bias)
            g[i] += np.outer(bias, bias)
            np.testing.assert_allclose(kronecker.dense_layers(score)[i].weight, np.outer(x, bias), atol=1e-12)
            x = np.tanh(x @ np.asarray(layer.weight) + np.asarray(layer.bias))
    for found, right in zip((*inputs, *outputs), (*a, *g), strict=True):
        atol = 1e-12 if found.dtype == jnp.float64 else 1e-6  # encoders give float32
        np.testing.assert_allclose(found, right / VALID.sum(), atol=atol)


def test_preconditioning_inverts_the_kronecker_product():
    """For each layer vec Δ = [(Ā + π√λ I) ⊗ (G + √λ/π I)]⁻¹ vec ∇, and log std is divided by 2 + λ."""
    net, gradient = network(SPACES["gaussian"]), network(SPACES["gaussian"], (4, 5))
    shapes = [layer.weight.shape for layer in kronecker.dense_layers(net)]
    inputs = tuple(positive(i, n + 1) for i, (n, _) in enumerate(shapes))
    outputs = tuple(positive(9 + i, n) for i, (_, n) in enumerate(shapes))
    state = kronecker.average(kronecker.no_factors(net), inputs, outputs, 0.9)
    damping = 0.3
    after = jax.jit(kronecker.precondition)(gradient, state, damping)
    for layer, new, a, g in zip(
        *map(kronecker.dense_layers, (gradient, after)), inputs, outputs, strict=True
    ):
        pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        left, right = a + pi * damping**0.5 * np.eye(len(a)), g + damping**0.5 / pi * np.eye(len(g))
        full = np.concatenate([layer.weight, layer.bias[None]])
        expected = np.linalg.solve(np.kron(left, right), full.ravel()).reshape(full.shape)
        np.testing.assert_allclose(np.concatenate([new.weight, new.bias[None]]), expected, rtol=1e-6)
    np.testing.assert_allclose(after.log_std, gradient.log_std / (2 + damping))


def test_of_one_state_and_one_layer_the_factors_are_the_fisher_matrix():
    """Ā ⊗ G is exact there; every action is taken as often as the policy would."""
    net = network(SPACES["categorical"], ())
    theta, unflatten = flatten(net)
    net = unflatten(0 * theta)
    obs, action = jnp.tile(normals(8, 1, INPUTS), (3, 1)), jnp.arange(3)
    (a,), (g,) = jax.jit(kronecker.batch_factors)(net, obs, action)
    parts = flatten(net.pi_head)
    dist_of = lambda flat: jax.vmap(lambda o: net.head(parts[1](flat)(o)))(obs)
    exact = natural.fisher_matrix(dist_of, parts[0])  # its parameters are W row by row, then b
    np.testing.assert_allclose(np.kron(a, g), exact, atol=1e-12)


def test_averages_forget_by_their_decay():
    net = network(SPACES["categorical"])
    ones = lambda k: (
        tuple(jnp.full_like(x, k) for x in kronecker.no_factors(net).inputs),
        tuple(jnp.full_like(x, k) for x in kronecker.no_factors(net).outputs),
    )
    state = kronecker.no_factors(net)
    for k in (1.0, 2.0, 3.0):
        state = kronecker.average(state, *ones(k), 0.5)
    np.testing.assert_allclose(state.inputs[0] / state.weight, (3 + 1 + 0.25) / 1.75)
