"""The oracle against autodiff, known values and itself; and the sentences it refuses bad input with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab_mdps import EXACT, endless, layered, logits, mixed, random_policy

from actrix.envs import tables
from actrix.envs.jax_envs import HostJax
from actrix.lab import exact as oracle
from actrix.lab.exact import OracleError

CASES = [mixed(0), mixed(1), endless(2), layered(3), tables.chain(4), tables.cliff(3, 4, slip=0.2, gamma=1)]


@pytest.fixture(autouse=True)
def exact():
    with jax.enable_x64(True):
        yield


def eta(mdp, policy, bonus=0.0):
    """η(π) by JAX, from the equation: ρ0ᵀ (I − γP_π)⁻¹ (r_π + bonus)."""
    matrix = jnp.eye(mdp.n_states) - jnp.einsum("sa,sap->sp", policy, jnp.asarray(mdp.discount))
    return jnp.asarray(mdp.rho0) @ jnp.linalg.solve(matrix, jnp.sum(policy * mdp.reward, axis=1) + bonus)


def bellman_residual(mdp, policy, v):
    expected = np.zeros(mdp.n_states)
    for s in range(mdp.n_states):
        for a in range(mdp.n_actions):
            for n in range(mdp.n_states):
                reward = mdp.rewards[s, a, n]
                after = 0.0 if mdp.terminal[n] else mdp.gamma * v[n]
                expected[s] += policy[s, a] * mdp.P[s, a, n] * (reward + after)
    return expected - v


# Values


@pytest.mark.parametrize("mdp", CASES)
def test_values_solve_bellmans_equations(mdp):
    policy = random_policy(mdp, 1)
    v, q, a = (f(mdp, policy) for f in (oracle.value, oracle.q_value, oracle.advantage))
    np.testing.assert_allclose(bellman_residual(mdp, policy, v), 0, atol=1e-8)
    np.testing.assert_allclose((policy * q).sum(1), v, **EXACT)
    np.testing.assert_allclose(q - v[:, None], a, **EXACT)
    assert (v[mdp.terminal] == 0).all()
    assert (q[mdp.terminal] == 0).all()


@pytest.mark.parametrize("mdp", CASES)
def test_visits_and_performance(mdp):
    policy = random_policy(mdp, 2)
    visits, at = np.zeros(mdp.n_states), mdp.rho0.copy()
    for _ in range(3000):
        visits += at
        at = at @ oracle.transition(mdp, policy)
    np.testing.assert_allclose(oracle.visitation(mdp, policy), visits, **EXACT)
    by_reward = visits @ (policy * mdp.reward).sum(1)
    assert oracle.performance(mdp, policy) == pytest.approx(by_reward, abs=1e-8)
    if not mdp.terminal.any():
        assert visits.sum() == pytest.approx(1 / (1 - mdp.gamma))


def test_the_random_walk_has_its_textbook_values():
    mdp = tables.chain(5)
    np.testing.assert_allclose(
        oracle.value(mdp, oracle.uniform_policy(mdp))[1:-1], np.arange(1, 6) / 6, **EXACT
    )


def test_the_cliff_has_its_textbook_optimum():
    mdp = tables.cliff(gamma=1.0)
    solution = oracle.policy_iteration(mdp)
    assert solution.value @ mdp.rho0 == pytest.approx(-13, abs=1e-8)
    assert oracle.performance(mdp, solution.policy) == pytest.approx(-13, abs=1e-8)


@pytest.mark.parametrize(
    "mdp",
    [
        mixed(0),
        endless(1),
        tables.cliff(slip=0.1),
        tables.from_gymnasium("FrozenLake-v1"),
        tables.from_gymnasium("Taxi-v4"),
    ],
)
def test_policy_iteration_modified_policy_iteration_and_value_iteration_agree(mdp):
    exact = oracle.policy_iteration(mdp)
    for other in (
        oracle.value_iteration(mdp),
        oracle.policy_iteration(mdp, 1),
        oracle.policy_iteration(mdp, 7),
    ):
        np.testing.assert_allclose(other.value, exact.value, **EXACT)
        np.testing.assert_allclose(other.q, exact.q, **EXACT)
    assert exact.iterations < oracle.policy_iteration(mdp, 7).iterations
    assert oracle.policy_iteration(mdp, 7).iterations <= oracle.value_iteration(mdp).iterations
    best = np.where(mdp.legal, exact.q, -np.inf) if mdp.legal is not None else exact.q
    np.testing.assert_allclose(best.max(axis=1), exact.value, **EXACT)
    np.testing.assert_allclose(oracle.value(mdp, exact.policy), exact.value, **EXACT)
    for seed in range(10):
        policy = oracle.softmax_policy(logits(mdp, seed, 3), legal=mdp.legal)
        assert (oracle.value(mdp, policy) <= exact.value + 1e-8).all()


@pytest.mark.parametrize(
    ("env_id", "best"), [("FrozenLake-v1", 14 / 17), ("CliffWalking-v1", -13), ("Taxi-v4", 7.93)]
)
def test_toy_text_has_its_known_undiscounted_optima(env_id, best):
    mdp = tables.from_gymnasium(env_id, gamma=1.0)
    assert oracle.policy_iteration(mdp).value @ mdp.rho0 == pytest.approx(best, abs=1e-8)


def test_deterministic_frozen_lake_undiscounted():
    mdp = tables.from_gymnasium("FrozenLake-v1", gamma=1.0, is_slippery=False)
    assert oracle.policy_iteration(mdp).value @ mdp.rho0 == pytest.approx(1, abs=1e-8)
    assert oracle.value_iteration(mdp).value @ mdp.rho0 == pytest.approx(1, abs=1e-8)


def test_the_jax_environment_earns_what_the_oracle_says():
    """Mean discounted return of 20,000 sampled episodes, within 5 standard errors (p < 1e-6), fixed seed."""
    mdp, n = layered(5), 20_000
    policy = random_policy(mdp, 6)
    envs, rng = HostJax(mdp, n, 7), np.random.default_rng(8)
    obs, _ = envs.reset()
    total, alive = np.zeros(n), np.ones(n, bool)
    for t in range(3):
        step = envs.step((rng.random(n) > policy[obs, 0]).astype(np.int32))
        total += alive * mdp.gamma**t * step.reward
        alive &= ~step.terminated
        obs = step.obs
    assert not alive.any()
    error = total.std() / np.sqrt(n)
    assert abs(total.mean() - oracle.performance(mdp, policy)) < 5 * error


# Gradients and the Fisher matrix


def features_of(mdp, seed=3, size=3):
    return np.random.default_rng(seed).normal(size=(mdp.n_states, mdp.n_actions, size))


@pytest.mark.parametrize("mdp", CASES)
def test_the_policy_gradient_is_the_derivative_of_performance(mdp):
    theta = logits(mdp, 4)
    found = jax.jit(jax.grad(lambda x: eta(mdp, jax.nn.softmax(x, axis=1))))(theta)
    np.testing.assert_allclose(oracle.policy_gradient(mdp, theta), found, **EXACT)
    phi, weights = features_of(mdp), np.array([0.3, -0.5, 0.2])
    found = jax.jit(jax.grad(lambda w: eta(mdp, jax.nn.softmax(phi @ w, axis=1))))(weights)
    np.testing.assert_allclose(oracle.policy_gradient(mdp, weights, phi), found, **EXACT)


def test_a_masked_softmax_puts_nothing_on_illegal_actions():
    mdp = tables.from_gymnasium("Taxi-v4")
    policy = oracle.softmax_policy(logits(mdp, 0), legal=mdp.legal)
    assert (policy[~mdp.legal] == 0).all()
    gradient = oracle.policy_gradient(mdp, logits(mdp, 0))
    assert (gradient[~mdp.legal] == 0).all()


@pytest.mark.parametrize("mdp", [mixed(0), endless(1)])
def test_the_fisher_matrix_is_the_hessian_of_the_mean_kl(mdp):
    for theta, phi in ((logits(mdp, 5), None), (np.array([0.3, -0.5, 0.2]), features_of(mdp))):
        policy = oracle.softmax_policy(theta, phi)
        weight = oracle.visitation(mdp, policy)
        weight = weight / weight.sum()

        def mean_kl(x, phi=phi, policy=policy, weight=weight):
            log_new = jax.nn.log_softmax(x if phi is None else phi @ x, axis=1)
            return jnp.sum(weight[:, None] * policy * (jnp.log(policy) - log_new))

        hessian = jax.jit(jax.hessian(mean_kl))(theta).reshape(theta.size, theta.size)
        np.testing.assert_allclose(oracle.fisher(mdp, theta, phi), hessian, **EXACT)


def test_the_natural_gradient_is_the_advantage_up_to_a_constant_per_state():
    mdp, theta = endless(1), logits(endless(1), 5)
    policy = oracle.softmax_policy(theta)
    a = oracle.advantage(mdp, policy)
    expected = oracle.visitation(mdp, policy).sum() * (a - a.mean(axis=1, keepdims=True))
    found = oracle.natural_gradient(mdp, theta, pseudo_inverse=True)
    np.testing.assert_allclose(found, expected, **EXACT)
    damped = oracle.natural_gradient(mdp, theta, damping=1e-3)
    residual = (oracle.fisher(mdp, theta) + 1e-3 * np.eye(6)) @ damped.ravel()
    np.testing.assert_allclose(residual.reshape(3, 2), oracle.policy_gradient(mdp, theta), **EXACT)


def test_a_compatible_critic_gives_the_natural_gradient():
    """The w that fits w·∇log π to A under d·π is F⁻¹ ∇η / Σρ. Kakade (2001), Theorem 1."""
    mdp, phi, theta = mixed(2), features_of(mixed(2)), np.array([0.1, 0.4, -0.3])
    policy = oracle.softmax_policy(theta, phi)
    visits = oracle.visitation(mdp, policy)
    score = (phi - np.einsum("sa,sad->sd", policy, phi)[:, None]).reshape(-1, 3)
    root = np.sqrt(visits[:, None] * policy).ravel()
    w = np.linalg.lstsq(root[:, None] * score, root * oracle.advantage(mdp, policy).ravel(), rcond=None)[0]
    np.testing.assert_allclose(oracle.natural_gradient(mdp, theta, phi), visits.sum() * w, **EXACT)


# Enumeration


def test_trajectories_carry_all_probability_and_the_chunks_flags():
    mdp = mixed(0)
    policy = random_policy(mdp, 0)
    found = oracle.trajectories(mdp, policy, 3)
    assert found.probability.sum() == pytest.approx(1, abs=1e-12)
    assert found.valid[0].all()
    ends = (found.terminated | found.truncated).sum(axis=0)
    assert (ends == 1).all()
    assert (found.next_state[:-1] == found.state[1:])[found.valid[1:]].all()
    seen = set(zip(*found.state, *found.action, *found.next_state, strict=True))
    assert len(seen) == len(found.probability)
    total = (mdp.gamma ** np.arange(3)[:, None] * found.reward).sum(axis=0)
    mean, variance = oracle.moments(total, found.probability)
    assert mean == pytest.approx(oracle.finite_horizon_value(mdp, policy, 3)[0] @ mdp.rho0, abs=1e-10)
    assert variance > 0
    given = oracle.trajectories(mdp, policy, 1, start=2, action=1)
    np.testing.assert_allclose(given.probability.sum(), 1)
    assert (given.state == 2).all()
    assert (given.action == 1).all()
    # A start in the terminal state is an episode without rows.
    assert not oracle.trajectories(mdp, policy, 2, start=4).valid.any()


def test_finite_horizon_values_and_their_limit():
    mdp = endless(0, gamma=0.5)
    policy = random_policy(mdp, 0)
    v = oracle.value(mdp, policy)
    stopped = oracle.finite_horizon_value(mdp, policy, 40)
    np.testing.assert_allclose(stopped[0], v, **EXACT)
    assert np.abs(stopped[38] - v).max() > 1e-2
    np.testing.assert_allclose(oracle.finite_horizon_value(mdp, policy, 5, v), np.tile(v, (6, 1)), **EXACT)
    np.testing.assert_allclose(
        oracle.finite_horizon_gradient(mdp, policy, 60),
        oracle.policy_gradient(mdp, np.log(policy)),
        **EXACT,
    )


def test_estimator_moments_are_those_of_the_samples():
    """ψ = γ^t A is unbiased; 20,000 sampled trajectories have the exact variance, within 5% (fixed seed)."""
    mdp = endless(0)
    policy = random_policy(mdp, 0)
    a = oracle.finite_horizon_q(mdp, policy, 3) - oracle.finite_horizon_value(mdp, policy, 3)[:-1, :, None]
    psi = lambda paths: mdp.gamma ** np.arange(3)[:, None] * paths.taken(a)
    found = oracle.estimator_moments(mdp, policy, 3, psi)
    np.testing.assert_allclose(found.bias, 0, atol=1e-8)
    np.testing.assert_allclose(found.mean, oracle.finite_horizon_gradient(mdp, policy, 3), **EXACT)
    paths = oracle.trajectories(mdp, policy, 3)
    drawn = np.random.default_rng(1).choice(len(paths.probability), 20_000, p=paths.probability)
    sampled = oracle.gradient_samples(paths, policy, psi(paths))[drawn].var(axis=0)
    np.testing.assert_allclose(found.variance, sampled, rtol=0.05)
    biased = oracle.estimator_moments(mdp, policy, 3, lambda paths: paths.taken(a))
    assert np.abs(biased.bias).max() > 1e-3
    dropped = oracle.estimator_moments(mdp, policy, 3, lambda paths: paths.taken(a), discounted=False)
    np.testing.assert_allclose(dropped.bias, 0, atol=1e-8)
    phi = features_of(mdp)
    linear = oracle.estimator_moments(mdp, policy, 3, psi, features=phi)
    np.testing.assert_allclose(linear.mean, np.einsum("sad,sa->d", phi, found.mean), **EXACT)


def test_the_soft_optimum_leaves_out_what_its_reference_does_not_do():
    mdp = tables.random_mdp(4, 3, seed=1)
    mdp = mdp.replace(r=np.where(np.arange(3)[:, None] == 0, 50.0, mdp.r))
    reference = np.tile([0, 0.5, 0.5], (4, 1))
    found = oracle.soft_optimal(mdp, reference, 0.01)
    assert (found.policy[:, 0] == 0).all()
    np.testing.assert_allclose(found.policy.sum(1), 1)


# Bad input


def uniform(mdp):
    return oracle.uniform_policy(mdp)


def changed(policy, s, row):
    policy = policy.copy()
    policy[s] = row
    return policy


CLIFF = tables.cliff(3, 4, gamma=1.0)
TAXI = tables.from_gymnasium("Taxi-v4")
M = endless(0)
U = uniform(M)
BAD = [
    (
        lambda: oracle.soft_value(U, np.zeros_like(U), 1.0),
        "reference policy of state 0 is 0 for every action",
    ),
    (
        lambda: oracle.vtrace_operator(M, np.zeros(len(U)), 3 * U, U),
        "of state 0 sum to 3",
    ),
    (
        lambda: oracle.off_policy_q_operator(
            M, np.zeros_like(U), changed(U, 1, [0.5, 0.6]), U, kind="retrace"
        ),
        "of state 1 sum to 1.1",
    ),
    (
        lambda: oracle.off_policy_q_operator(
            M, np.zeros_like(U), U, changed(U, 0, [1, 0]), kind="importance-sampling"
        ),
        "never takes state 0, action 1, the target does",
    ),
    (
        lambda: oracle.lambda_operator(CLIFF, np.eye(4)[[0] * 12], np.zeros(12), 1.0),
        "gamma is 1 and from state 0, action 0 .* never ends",
    ),
    (lambda: oracle.value(M, np.ones((2, 2))), "the policy has shape"),
    (lambda: oracle.value(M, changed(U, 1, [0.5, 0.4])), "of state 1 sum to 0.9"),
    (lambda: oracle.value(M, changed(U, 1, [1.5, -0.5])), "state 1, action 1 is -0.5"),
    (lambda: oracle.value(M, changed(U, 1, [np.nan, 1])), "state 1, action 0 is nan"),
    (lambda: oracle.value(TAXI, np.full((500, 6), 1 / 6)), "an illegal action: state 1, action 1"),
    (lambda: oracle.value(CLIFF, np.eye(4)[[0] * 12]), "gamma is 1 and from state 0, action 0 .* never ends"),
    (lambda: oracle.visitation(CLIFF, np.eye(4)[[3] * 12]), "gamma is 1 and from state 0"),
    (lambda: oracle.policy_gradient(M, logits(M, 0), discounted=False), "without γ\\^t .* gamma is 1, but"),
    (lambda: oracle.natural_gradient(M, logits(M, 0)), "Fisher matrix is singular: .* of state ., action ."),
    (lambda: oracle.regularised_value(M, U, changed(U, 2, [1, 0]), 0.1), "never does state 2, action 1"),
    (lambda: oracle.regularised_gradient(M, logits(M, 0), changed(U, 2, [1, 0]), 0.1), "state 2, action 1"),
    (lambda: oracle.regularised_value(M, U, changed(U, 2, [1, 1]), 0.1), "state 2 sum to 2"),
    (lambda: oracle.soft_optimal(M, U, 0.0), "tau is 0"),
    (lambda: oracle.regularised_gradient(M, logits(M, 0), U, 0.1, form="both"), "form='both'"),
    (lambda: oracle.cpi_bound(CLIFF, uniform(CLIFF), uniform(CLIFF), 0.5), "needs gamma < 1"),
    (lambda: oracle.clipped_policy(np.eye(2)[[0, 0, 0]], np.eye(2)[[0, 1, 0]]), "in state 1 .* such as 0"),
    (lambda: oracle.off_policy_q_operator(M, U, U, U, kind="x"), "trace 'x'"),
    (lambda: oracle.trajectories(M, U, 0), "horizon is 0"),
    (lambda: oracle.trajectories(M, U, 12, limit=1000), "more than 1000"),
    (lambda: oracle.policy_iteration(M, 0), "sweeps is 0"),
]


@pytest.mark.parametrize(("ask", "message"), BAD)
def test_bad_questions_name_the_state_and_the_action(ask, message):
    with pytest.raises(OracleError, match=message):
        ask()
