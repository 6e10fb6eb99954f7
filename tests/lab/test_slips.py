"""Common mistakes, each refuted on a named MDP by the exact oracle."""

import jax
import numpy as np
import pytest
from lab_mdps import endless, layered, logits, random_policy

from actrix.actors import psi as psi_
from actrix.critics import corrections, returns
from actrix.envs import finite, tables
from actrix.lab import exact as oracle

VISIBLE = 1e-3


@pytest.fixture(autouse=True)
def exact():
    with jax.enable_x64(True):
        yield


def setting(mdp, seed=0, horizon=3, behaviour=None):
    """(policy, trajectories, rows with gamma, γ^t, exact gradient)."""
    policy = oracle.softmax_policy(logits(mdp, seed))
    paths = oracle.trajectories(mdp, policy if behaviour is None else behaviour, horizon)
    rows = {**paths.rows(), "gamma": mdp.gamma}
    weight = np.asarray(psi_.discount_weights(**{k: x for k, x in rows.items() if k != "reward"}))
    return policy, paths, rows, weight, oracle.finite_horizon_gradient(mdp, policy, horizon)


def bias(policy, paths, psi, exact):
    mean, _ = oracle.moments(oracle.gradient_samples(paths, policy, psi), paths.probability)
    return np.abs(mean - exact).max()


def test_gamma_t_never_multiplies_the_whole_return_and_is_needed_by_the_rest():
    policy, paths, rows, weight, exact = setting(layered(0, gamma=0.7))
    whole = np.asarray(returns.trajectory_return(**rows))
    to_go = np.asarray(returns.monte_carlo(next_value=np.zeros_like(weight), **rows))
    assert bias(policy, paths, whole, exact) < 1e-8
    assert bias(policy, paths, weight * to_go, exact) < 1e-8
    assert bias(policy, paths, weight * whole, exact) > VISIBLE
    assert bias(policy, paths, to_go, exact) > VISIBLE


def test_a_baseline_may_depend_on_the_state_but_not_on_the_action():
    policy, paths, rows, weight, exact = setting(layered(1))
    to_go = np.asarray(returns.monte_carlo(next_value=np.zeros_like(weight), **rows))
    table = np.random.default_rng(0).normal(size=policy.shape)
    assert bias(policy, paths, weight * (to_go - table[paths.state, 0]), exact) < 1e-8
    assert bias(policy, paths, weight * (to_go - paths.taken(table)), exact) > VISIBLE


def test_a_batchs_own_mean_as_baseline_shrinks_the_gradient_by_one_over_n():
    """N = 2 independent trajectories: every pair, weighed by its probability."""
    policy, paths, rows, _, exact = setting(endless(2), horizon=2)
    total = np.asarray(returns.trajectory_return(**rows))[0]
    score = oracle.gradient_samples(paths, policy, np.ones_like(rows["reward"]))
    p = paths.probability
    centred = 0.5 * (total[:, None] - total[None, :])  # R_i minus the mean of the pair
    mean = np.einsum("i,j,ij,isa->sa", p, p, centred, score)
    np.testing.assert_allclose(mean, 0.5 * exact, rtol=0, atol=1e-8)


def test_a_hard_stop_needs_the_value_of_each_time():
    """V^π of the endless problem is not the truth of a stopped one: δ with it is biased; with V_t it is not."""
    mdp = endless(1)
    policy, paths, rows, weight, exact = setting(mdp)
    timed = paths.values(oracle.finite_horizon_value(mdp, policy, 3))
    untimed = paths.values(oracle.value(mdp, policy))
    assert bias(policy, paths, weight * np.asarray(returns.td_error(**timed, **rows)), exact) < 1e-8
    assert bias(policy, paths, weight * np.asarray(returns.td_error(**untimed, **rows)), exact) > VISIBLE


def test_a_learned_critic_is_exact_only_as_a_baseline_or_if_compatible():
    mdp = layered(2)
    policy, paths, rows, weight, exact = setting(mdp)
    wrong = np.random.default_rng(1).normal(size=policy.shape)
    assert bias(policy, paths, weight * paths.taken(wrong), exact) > VISIBLE
    values = paths.values(wrong[:, 0])
    assert bias(policy, paths, weight * np.asarray(returns.td_error(**values, **rows)), exact) > VISIBLE
    assert bias(policy, paths, weight * np.asarray(returns.gae(lam=1.0, **values, **rows)), exact) < 1e-8


def test_the_mean_advantage_is_no_objective():
    """E_π[A^π] = 0 whatever π; with the old advantage the unnormalised mean is η(π) − η(old)."""
    mdp = endless(0)
    old, new = random_policy(mdp, 0), random_policy(mdp, 1)
    mean = lambda p, a: oracle.visitation(mdp, p) @ (p * oracle.advantage(mdp, a)).sum(axis=1)
    assert abs(mean(new, new)) < 1e-8
    gain = oracle.performance(mdp, new) - oracle.performance(mdp, old)
    assert mean(new, old) == pytest.approx(gain, abs=1e-8)
    assert abs(oracle.surrogate(mdp, old, new) - oracle.performance(mdp, new)) > VISIBLE  # visits of old


def test_ratios_of_the_future_alone_leave_the_states_to_the_behaviour():
    """E_μ[∇log π ρ_{t:T−1} R(τ)], without ρ_{0:t−1}, is not ∇J; nor is Off-PAC's E_μ[ρ_t ∇log π Q]."""
    mdp = endless(3)
    behaviour = random_policy(mdp, 8)
    policy, paths, rows, weight, exact = setting(mdp, behaviour=behaviour)
    rho = paths.taken(policy / behaviour)
    right = np.asarray(corrections.trajectory_psi("ordinary", rho=rho, **rows))
    future = np.cumprod(rho[::-1], axis=0)[::-1]
    off_pac = rho * weight * paths.taken(oracle.finite_horizon_q(mdp, policy, 3))
    assert bias(policy, paths, right, exact) < 1e-8
    assert bias(policy, paths, future * np.asarray(returns.trajectory_return(**rows)), exact) > VISIBLE
    assert bias(policy, paths, off_pac, exact) > VISIBLE


def test_conservative_policy_iterations_epsilon_does_not_serve_the_kl_bound():
    """The 3×4 cliff walk, γ = 0.9: from the uniform policy one hundredth of the way to 'always up'.

    L − 4εγ/(1−γ)² max KL with ε = max_s |E_{a∼π̃} A_π| claims more than the new policy earns; with
    ε = max_{s,a} |A_π| it does not.
    """
    mdp = tables.cliff(3, 4, gamma=0.9)
    old = oracle.uniform_policy(mdp)
    new = oracle.mixture(old, np.eye(4)[[0] * mdp.n_states], 0.01)
    epsilon = np.abs((new * oracle.advantage(mdp, old)).sum(axis=1)).max()
    distance = oracle.kl(old, new)[~mdp.terminal].max()
    claimed = oracle.surrogate(mdp, old, new) - 4 * epsilon * 0.9 / 0.1**2 * distance
    true = oracle.performance(mdp, new)
    assert claimed > true + 0.01
    assert oracle.kl_bound(mdp, old, new) <= true
    assert oracle.kl_bound(mdp, old, new, pinsker=True) <= true


def test_the_surrogate_and_a_small_mean_kl_promise_nothing():
    """A step of small mean KL under ρ_π and of positive surrogate gain after which the policy earns less.

    Two rooms: in room 0 action 1 pays 1 and leads to room 1, whose action 1 costs 100. The old policy hardly goes
    there, so what the new one does in room 1 weighs nothing in L and in the mean KL; in the max KL it does.
    """
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[0, 1, 1] = P[1, :, 0] = 1
    mdp = finite.FiniteMDP(P, np.array([[0.0, 1.0], [0.0, -100.0]]), 0.9, 0)
    old, new = np.array([[0.9999, 0.0001], [0.999, 0.001]]), np.array([[0.95, 0.05], [0.5, 0.5]])
    visits = oracle.visitation(mdp, old)
    before, after = oracle.performance(mdp, old), oracle.performance(mdp, new)
    assert visits @ oracle.kl(old, new) / visits.sum() < 0.06
    assert oracle.surrogate(mdp, old, new) > before + 0.1
    assert after < before - 1
    assert oracle.kl_bound(mdp, old, new) <= after


def test_q_lambda_diverges_off_policy():
    """Two states; action 0 changes the state, action 1 stays. The target always changes, the behaviour hardly.

    ‖π−μ‖₁ is far above (1−γ)/(λγ): the operator's error grows, Retrace's and Tree-Backup's shrinks.
    """
    P = np.array([[[0.0, 1], [1, 0]], [[1, 0], [0, 1]]])
    mdp = finite.FiniteMDP(P, np.zeros((2, 2)), 0.95, 0)
    target, behaviour = np.array([[1.0, 0]] * 2), np.array([[0.01, 0.99]] * 2)
    error = {}
    for kind in ("q-lambda", "retrace", "tree-backup"):
        q = np.array([[1.0, 0.0], [0.0, 1.0]])
        for _ in range(5):
            q = oracle.off_policy_q_operator(mdp, q, target, behaviour, kind=kind)
        error[kind] = np.abs(q).max()
    assert error["q-lambda"] > 1e4
    assert error["retrace"] < 1
    assert error["tree-backup"] < 1


def test_uncorrected_n_step_targets_are_biased_off_policy():
    """Two steps of μ and then V^π: not V^π; one step of Q* needs no ratio."""
    mdp = layered(3)
    target, behaviour = random_policy(mdp, 0), random_policy(mdp, 1)
    v = oracle.value(mdp, target)
    paths = oracle.trajectories(mdp, behaviour, 3)
    rows = {**paths.rows(), "gamma": mdp.gamma}
    found = returns.n_step(n=2, next_value=paths.values(v)["next_value"], **rows)
    mean, _ = oracle.conditional_moments(mdp, paths, found, 0, by_action=False)
    assert abs(mean[0] - v[0]) > VISIBLE
    best = oracle.policy_iteration(mdp)
    found = returns.td_target(
        reward=rows["reward"],
        next_value=paths.values(best.value)["next_value"],
        terminated=rows["terminated"],
        gamma=mdp.gamma,
    )
    mean, _ = oracle.conditional_moments(mdp, paths, found, 0)
    np.testing.assert_allclose(mean[0], best.q[0], rtol=0, atol=1e-8)


def test_vtrace_clipping_moves_the_fixed_point():
    mdp = endless(1)
    target, behaviour = random_policy(mdp, 0, 2), random_policy(mdp, 1, 2)
    v = oracle.value(mdp, target)
    assert np.abs(oracle.vtrace_fixed_point(mdp, target, behaviour) - v).max() > VISIBLE


def test_the_kl_in_the_loss_alone_is_another_objective():
    """Σ_s ρ(s) Σ_a ∇π Q − τ ∇KL with the unregularised Q does not pay for the KL met later."""
    mdp = endless(0)
    theta, reference, tau = logits(mdp, 0), random_policy(mdp, 9), 0.5
    policy = oracle.softmax_policy(theta)
    visits = oracle.visitation(mdp, policy)[:, None]
    log_ratio = np.log(policy / reference)
    in_loss = oracle.policy_gradient(mdp, theta) + oracle.score_gradient(
        policy, -tau * visits * policy * log_ratio
    )
    assert np.abs(in_loss - oracle.regularised_gradient(mdp, theta, reference, tau)).max() > VISIBLE


def test_the_fisher_matrix_of_a_tabular_softmax_is_singular():
    mdp = endless(0)
    size = np.linalg.eigvalsh(oracle.fisher(mdp, logits(mdp, 0)))
    assert (np.abs(size[: mdp.n_states]) < 1e-12).all()  # one direction per state
    assert (size[mdp.n_states :] > 1e-4).all()
