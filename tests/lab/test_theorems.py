"""The theorems of the theory guide, with the library's own estimators against the exact oracle, to 1e-8.

Every expectation is exact: all trajectories of a short horizon, weighed by their probabilities. `layered` MDPs end
by themselves within it, so the oracle's V^π is the truth; in `endless` ones the horizon is a hard stop, and the
truth is V_t.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab_mdps import EXACT, endless, from_everywhere, layered, logits, mixed, random_policy

from actrix.actors import psi as psi_
from actrix.actors.ppo_kl import ppo_kl
from actrix.actors.reference_kl import kl_penalty, kl_reward
from actrix.actors.score import score_function
from actrix.critics import corrections, q_targets, returns
from actrix.envs import tables
from actrix.lab import exact as oracle

SEEDS = range(4)
LAMBDAS = (0.0, 0.3, 0.7, 0.95, 1.0)
HORIZON = 3

# Compiled once for all MDPs of a kind: called eagerly, every scan would be compiled anew.
monte_carlo, trajectory_return, td_error, lambda_return, gae = map(
    jax.jit,
    (
        returns.monte_carlo,
        returns.trajectory_return,
        returns.td_error,
        returns.lambda_return,
        returns.gae,
    ),
)
n_step = jax.jit(returns.n_step, static_argnames="n")
discount_weights = jax.jit(psi_.discount_weights)
vtrace = jax.jit(corrections.vtrace, static_argnames=("rho_max", "c_max", "bootstrap"))
ordinary_is, per_decision_is = jax.jit(corrections.ordinary_is), jax.jit(corrections.per_decision_is)
trajectory_psi = jax.jit(corrections.trajectory_psi, static_argnames="kind")
off_policy_q = jax.jit(corrections.off_policy_q)


@pytest.fixture(autouse=True)
def exact():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


class Study:
    """One MDP and softmax policy: its trajectories, the right V_t, Q_t, A_t, and what estimators take."""

    def __init__(self, mdp, seed=0, behaviour=None, horizon=HORIZON):
        self.mdp, self.theta = mdp, logits(mdp, seed + 100)
        self.policy = oracle.softmax_policy(self.theta)
        played = self.policy if behaviour is None else behaviour
        self.paths = oracle.trajectories(mdp, played, horizon)
        self.p = self.paths.probability
        self.v = oracle.finite_horizon_value(mdp, self.policy, horizon)
        self.q = oracle.finite_horizon_q(mdp, self.policy, horizon)
        self.a = self.q - self.v[:-1, :, None]
        self.values = self.paths.values(self.v)
        self.rows = {**self.paths.rows(), "gamma": mdp.gamma}
        self.gradient = oracle.finite_horizon_gradient(mdp, self.policy, horizon)
        flags = {k: v for k, v in self.rows.items() if k != "reward"}
        self.weight = np.asarray(discount_weights(**flags))
        if behaviour is not None:
            ratio = np.divide(self.policy, played, out=np.zeros_like(played), where=played > 0)
            self.rho = np.where(self.paths.valid, self.paths.taken(ratio), 1)

    def psi(self):
        """Every exact ψ form, in units of the gradient (γ^t in it, except for R(τ))."""
        values, rows = self.values, self.rows
        g = monte_carlo(next_value=values["next_value"], **rows)
        b = np.random.default_rng(9).normal(size=self.mdp.n_states) * 5
        forms = {
            "G": g,
            "G - b(s)": g - b[self.paths.state],
            "G - V": g - values["value"],
            "Q": self.paths.taken(self.q),
            "A": self.paths.taken(self.a),
            "delta": td_error(**values, **rows),
            "2-step - V": n_step(n=2, next_value=values["next_value"], **rows) - values["value"],
            "lambda-return": lambda_return(lam=0.6, next_value=values["next_value"], **rows),
            **{f"gae {lam}": gae(lam=lam, **values, **rows) for lam in LAMBDAS},
        }
        forms = {name: self.weight * np.where(self.paths.valid, x, 0) for name, x in forms.items()}
        return {"R": trajectory_return(**rows), **forms}

    def score_gradient(self, psi):
        """E[∇ Σ_t log π(a_t|s_t) ψ_t] through the library's objective and autodiff."""
        return _score_gradient(self.theta, self.paths, jnp.asarray(psi))

    def samples(self, t, psi):
        """∇log π(a_t|s_t) ψ_t of each trajectory at time t alone."""
        only_t = np.zeros_like(psi)
        only_t[t] = psi[t]
        return oracle.gradient_samples(self.paths, self.policy, only_t)


@jax.jit
def _score_gradient(theta, paths, psi):
    def objective(theta):
        log_prob = jax.nn.log_softmax(theta, axis=1)[paths.state, paths.action]
        rows = score_function(log_prob=log_prob, psi=psi)
        return jnp.sum(paths.probability * jnp.sum(jnp.where(paths.valid, rows, 0), axis=0))

    return jax.grad(objective)(theta)


@functools.cache
def study(kind, seed):
    with jax.enable_x64(True):
        return Study({"layered": layered, "endless": endless}[kind](seed), seed)


BOTH = [(kind, seed) for kind in ("layered", "endless") for seed in SEEDS]


def test_layered_episodes_end_so_that_time_indexed_values_are_the_values():
    s = study("layered", 0)
    assert not s.paths.truncated.any()
    np.testing.assert_allclose(s.v[0, 0], oracle.value(s.mdp, s.policy)[0], **EXACT)
    np.testing.assert_allclose(s.gradient, oracle.policy_gradient(s.mdp, s.theta), **EXACT)


# ψ forms


@pytest.mark.parametrize(("kind", "seed"), BOTH)
def test_every_exact_psi_form_is_unbiased(kind, seed):
    """Sutton et al. (1999); Schulman et al. (2016), eq. 1: R(τ), and γ^t times G, G − b, Q, A, δ, n-step, GAE."""
    s = study(kind, seed)
    for name, psi in s.psi().items():
        np.testing.assert_allclose(s.score_gradient(psi), s.gradient, **EXACT, err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_without_gamma_t_is_the_oracles(seed):
    s = study("layered", seed)
    advantage = np.where(s.paths.valid, s.paths.taken(s.a), 0)
    expected = oracle.policy_gradient(s.mdp, s.theta, discounted=False)
    np.testing.assert_allclose(s.score_gradient(advantage), expected, **EXACT)
    assert np.abs(expected - s.gradient).max() > 1e-3


@pytest.mark.parametrize(("kind", "seed"), BOTH)
def test_variance_per_time_step_is_ordered(kind, seed):
    """Deterministic r(s,a,s'), right V: Var(∇log π A) ≤ … δ ≤ … (G−V), and Var(∇log π Q) ≤ … G."""
    s = study(kind, seed)
    psi = s.psi()
    for t in range(HORIZON):
        variance = {name: oracle.moments(s.samples(t, x), s.p)[1] for name, x in psi.items()}
        for less, more in (("A", "delta"), ("delta", "G - V"), ("Q", "G")):
            assert (variance[less] <= variance[more] + 1e-8).all(), (less, more, t)
    first = [oracle.moments(s.samples(0, psi[name]), s.p)[1].sum() for name in ("A", "delta", "G - V")]
    assert first[0] < first[1] < first[2]  # strictly: nothing is trivially equal


@pytest.mark.parametrize("seed", SEEDS)
def test_the_optimal_baseline_has_the_least_variance(seed):
    """b* = E[g²R]/E[g²] per parameter, E[‖g‖²R]/E[‖g‖²] as one scalar; the mean over trajectories is weighed."""
    s = study("endless", seed)
    total = np.asarray(s.psi()["R"])[0]
    g = oracle.gradient_samples(s.paths, s.policy, np.ones_like(s.rows["reward"])).reshape(len(s.p), -1)
    root = np.sqrt(s.p)[:, None]
    for per_parameter in (True, False):
        b = np.asarray(
            psi_.optimal_baseline(root * g, root * g * total[:, None], per_parameter=per_parameter)
        )
        variance = lambda b: oracle.moments(g * (total[:, None] - b), s.p)[1]
        size = (lambda x: x) if per_parameter else np.sum
        for other in (0.0, b + 0.1, b - 0.1, s.p @ total):
            assert (size(variance(b)) <= size(variance(other)) + 1e-8).all()
        mean, _ = oracle.moments(g * (total[:, None] - b), s.p)
        np.testing.assert_allclose(mean.reshape(s.policy.shape), s.gradient, **EXACT)


# GAE and λ-returns


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_gae_with_the_right_value_is_unbiased_and_its_variance_grows_with_lambda(bootstrap, seed):
    """E[Â_t|s,a] = A for every λ. Hard stop with V_t, or bootstrapped from V^π at the chunk's last row."""
    s = study("endless", seed)
    v = np.tile(oracle.value(s.mdp, s.policy), (HORIZON + 1, 1)) if bootstrap else s.v
    a = np.tile(oracle.advantage(s.mdp, s.policy), (HORIZON, 1, 1)) if bootstrap else s.a
    values = s.paths.values(v)
    for t in range(HORIZON):
        found = [
            oracle.conditional_moments(s.mdp, s.paths, gae(lam=lam, **values, **s.rows), t) for lam in LAMBDAS
        ]
        for mean, _ in found:
            np.testing.assert_allclose(mean, a[t], **EXACT)
        growth = np.diff([variance for _, variance in found], axis=0)
        assert (growth >= -1e-8).all()
        assert t == HORIZON - 1 or growth.max() > 1e-3


@pytest.mark.parametrize(
    "mdp", [endless(0), endless(1, 0.99), mixed(2), mixed(3), tables.cliff(3, 4, slip=0.2)]
)
def test_with_a_wrong_value_the_error_of_the_lambda_return_falls_to_zero(mdp):
    policy = random_policy(mdp, 3)
    v, wrong = oracle.value(mdp, policy), np.random.default_rng(4).normal(size=mdp.n_states) * 5
    error = [
        np.abs(oracle.lambda_operator(mdp, policy, wrong, lam) - v).max() for lam in np.linspace(0, 1, 41)
    ]
    assert (np.diff(error) <= 1e-8).all()
    assert error[0] > 0.1
    assert error[-1] < 1e-8


@pytest.mark.parametrize("seed", SEEDS)
def test_the_librarys_lambda_return_has_the_oracles_mean(seed):
    mdp = layered(seed)
    policy, wrong = random_policy(mdp, seed), np.random.default_rng(seed).normal(size=6)
    paths = oracle.trajectories(from_everywhere(mdp), policy, HORIZON)
    for lam in LAMBDAS:
        next_value = paths.values(wrong)["next_value"]
        target = lambda_return(next_value=next_value, lam=lam, gamma=mdp.gamma, **paths.rows())
        mean, _ = oracle.conditional_moments(mdp, paths, target, 0, by_action=False)
        np.testing.assert_allclose(mean[:5], oracle.lambda_operator(mdp, policy, wrong, lam)[:5], **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_gae_with_a_wrong_value_at_lambda_one_is_off_by_the_baseline_only(seed):
    """E[Â|s,a] at λ = 1 is A + V^π − V, which a policy gradient does not see; below 1 it is biased."""
    s = study("layered", seed)
    v, wrong = oracle.value(s.mdp, s.policy), np.random.default_rng(seed).normal(size=6) * 3
    values = s.paths.values(wrong)
    for t in range(HORIZON):
        mean, _ = oracle.conditional_moments(s.mdp, s.paths, gae(lam=1.0, **values, **s.rows), t)
        expected = oracle.advantage(s.mdp, s.policy) + (v - wrong)[:, None]
        met = np.isfinite(mean)
        assert met.any()
        np.testing.assert_allclose(mean[met], expected[met], **EXACT)
    bias = {}
    for lam in (0.5, 1.0):
        psi = s.weight * np.asarray(gae(lam=lam, **values, **s.rows))
        bias[lam] = np.abs(s.score_gradient(psi) - s.gradient).max()
    assert bias[1.0] < 1e-8
    assert bias[0.5] > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_monte_carlo_error_is_a_sum_of_td_errors(seed):
    s = study("endless", seed)
    values = s.paths.values(np.random.default_rng(seed).normal(size=(HORIZON + 1, 3)))
    delta = np.asarray(td_error(**values, **s.rows))
    g = monte_carlo(next_value=values["next_value"], **s.rows)
    for t in range(HORIZON):
        weights = s.mdp.gamma ** np.arange(HORIZON - t)
        np.testing.assert_allclose(g[t] - values["value"][t], weights @ delta[t:], **EXACT)


# Improvement


PAIRS = [
    (make(seed), seed)
    for make in (mixed, endless, layered, functools.partial(endless, gamma=0.5))
    for seed in range(5)
]


@pytest.mark.parametrize(("mdp", "seed"), PAIRS)
def test_performance_difference(mdp, seed):
    old, new = random_policy(mdp, seed), random_policy(mdp, seed + 50, 2)
    gain = oracle.performance(mdp, new) - oracle.performance(mdp, old)
    assert oracle.performance_difference(mdp, old, new) == pytest.approx(gain, abs=1e-8)
    assert oracle.performance_difference(mdp, old, old) == pytest.approx(0, abs=1e-8)


def test_performance_difference_undiscounted():
    mdp = tables.chain(4, gamma=1.0)
    old, new = random_policy(mdp, 0), random_policy(mdp, 1)
    gain = oracle.performance(mdp, new) - oracle.performance(mdp, old)
    assert oracle.performance_difference(mdp, old, new) == pytest.approx(gain, abs=1e-8)


@pytest.mark.parametrize(("mdp", "seed"), PAIRS)
def test_the_surrogate_matches_to_first_order(mdp, seed):
    """L = η and ∇L = ∇η at π; PPO's unclipped objective, weighed by ρ_π, is L − η(π)."""
    theta = logits(mdp, seed)
    old = oracle.softmax_policy(theta)
    assert oracle.surrogate(mdp, old, old) == pytest.approx(oracle.performance(mdp, old), abs=1e-8)
    state, action = (x.ravel() for x in np.indices(old.shape))
    weight = (oracle.visitation(mdp, old)[:, None] * old).ravel()
    advantage = oracle.advantage(mdp, old).ravel()

    def unclipped(theta):
        rows = ppo_kl(
            log_prob=jax.nn.log_softmax(theta, axis=1)[state, action],
            old_log_prob=jnp.log(old)[state, action],
            advantage=advantage,
            kl=jnp.zeros(len(state)),
            beta=0.0,
        )
        return jnp.sum(weight * rows)

    np.testing.assert_allclose(jax.grad(unclipped)(theta), oracle.policy_gradient(mdp, theta), **EXACT)
    new = logits(mdp, seed + 50)
    expected = oracle.surrogate(mdp, old, oracle.softmax_policy(new)) - oracle.performance(mdp, old)
    assert float(unclipped(new)) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("mdp", "seed"), PAIRS)
def test_conservative_policy_iteration_bound_and_step(mdp, seed):
    old = random_policy(mdp, seed)
    for towards in (random_policy(mdp, seed + 50, 3), oracle.greedy(mdp, oracle.q_value(mdp, old))):
        for alpha in (1e-3, 0.01, 0.1, 0.3, 0.6, 1.0):
            new = oracle.performance(mdp, oracle.mixture(old, towards, alpha))
            assert new >= oracle.cpi_bound(mdp, old, towards, alpha) - 1e-8
        alpha = oracle.cpi_step(mdp, old, towards)
        bound = oracle.cpi_bound(mdp, old, towards, alpha)
        assert bound >= oracle.performance(mdp, old) - 1e-8
        for other in (0.5 * alpha, min(1.0, 1.5 * alpha)):  # the step maximises its bound
            assert bound >= oracle.cpi_bound(mdp, old, towards, other) - 1e-8
    assert alpha > 0  # towards the greedy policy
    assert bound > oracle.performance(mdp, old)


@pytest.mark.parametrize(("mdp", "seed"), PAIRS)
def test_max_kl_bound_and_pinsker(mdp, seed):
    old = random_policy(mdp, seed)
    for scale in (1e-3, 0.01, 0.1, 1.0):
        new = oracle.softmax_policy(np.log(old) + scale * logits(mdp, seed + 50))
        true = oracle.performance(mdp, new)
        tight, plain = oracle.kl_bound(mdp, old, new, pinsker=True), oracle.kl_bound(mdp, old, new)
        assert true >= tight - 1e-8
        assert tight >= plain
        assert (oracle.total_variation(old, new) ** 2 <= oracle.kl(old, new) / 2 + 1e-15).all()
    assert oracle.kl_bound(mdp, old, oracle.greedy(mdp, old)) == -np.inf


# Importance sampling


@functools.cache
def off_policy(seed):
    with jax.enable_x64(True):
        mdp = endless(seed)
        return Study(mdp, seed, behaviour=random_policy(mdp, seed + 7))


@pytest.mark.parametrize("seed", SEEDS)
def test_ordinary_and_per_decision_importance_sampling_are_unbiased(seed):
    s = off_policy(seed)
    next_value, mu = s.values["next_value"], s.paths
    for estimator in (ordinary_is, per_decision_is):
        target = estimator(rho=s.rho, next_value=next_value, **s.rows)
        for t in range(HORIZON):
            mean, _ = oracle.conditional_moments(s.mdp, mu, target, t, by_action=False)
            np.testing.assert_allclose(mean, s.v[t], **EXACT)
    plain = monte_carlo(next_value=next_value, **s.rows)
    mean, _ = oracle.conditional_moments(s.mdp, mu, plain, 0, by_action=False)
    assert np.abs(mean - s.v[0]).max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_importance_sampling_is_biased(seed):
    """Exactly, for batches of one and of two episodes: all of them, weighed by their probability."""
    mdp = endless(seed)
    target, behaviour = random_policy(mdp, seed), random_policy(mdp, seed + 7)
    paths = oracle.trajectories(mdp, behaviour, 2, start=0)
    rho = paths.taken(target / behaviour)
    zero = np.zeros_like(rho)

    def estimate(batch):  # the mean target of a batch of episodes, given by their numbers
        rows = {name: jnp.asarray(x)[:, batch] for name, x in paths.rows().items()}
        at = {"rho": jnp.asarray(rho)[:, batch], "next_value": jnp.asarray(zero)[:, batch]}
        return jnp.mean(corrections.weighted_is(gamma=mdp.gamma, **at, **rows)[0])

    truth, bias = oracle.finite_horizon_value(mdp, target, 2)[0, 0], {}
    for size in (1, 2):
        batches = np.array(list(itertools.product(range(len(paths.probability)), repeat=size)))
        weight = paths.probability[batches].prod(axis=1)
        bias[size] = abs(weight @ np.asarray(jax.jit(jax.vmap(estimate))(batches)) - truth)
    assert min(bias[1], bias[2]) > 1e-4
    uncorrected = oracle.finite_horizon_value(mdp, behaviour, 2)[0, 0] - truth
    assert bias[1] == pytest.approx(abs(uncorrected), abs=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_off_policy_gradients_by_importance_sampling_are_unbiased(seed):
    s = off_policy(seed)
    for kind in ("ordinary", "per-decision"):
        psi = trajectory_psi(kind=kind, rho=s.rho, **s.rows)
        np.testing.assert_allclose(s.score_gradient(psi), s.gradient, **EXACT, err_msg=kind)
    # ρ_{0:t} alone suffices with γ^t Q, A or δ, whose mean over the future is already under π.
    past = np.cumprod(s.rho, axis=0)
    for table in (s.q, s.a):
        np.testing.assert_allclose(
            s.score_gradient(past * s.weight * s.paths.taken(table)), s.gradient, **EXACT
        )


# Fixed points


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rho_max", "c_max", "lam"), [(1, 1, 1), (1, 0.5, 0.8), (2, 1, 0.5), (1e9, 1, 1)])
def test_the_fixed_point_of_vtrace(seed, rho_max, c_max, lam):
    """V of the policy ∝ min(ρ_max μ, π), and for every V the mean target is the operator's."""
    options = {"lam": lam, "rho_max": rho_max, "c_max": c_max}
    for mdp, check_any in ((endless(seed), False), (layered(seed), True)):
        target, behaviour = random_policy(mdp, seed), random_policy(mdp, seed + 7, 2)
        fixed = oracle.vtrace_fixed_point(mdp, target, behaviour, rho_max)
        np.testing.assert_allclose(
            oracle.vtrace_operator(mdp, fixed, target, behaviour, **options), fixed, **EXACT
        )
        critics = [fixed, np.random.default_rng(seed).normal(size=mdp.n_states)][: 1 + check_any]
        paths = oracle.trajectories(from_everywhere(mdp), behaviour, HORIZON)
        rho, live = paths.taken(target / behaviour), ~mdp.terminal
        for v in critics:
            rows = {**paths.rows(), **paths.values(v), "gamma": mdp.gamma}
            found = vtrace(rho=rho, **options, **rows)[0]
            mean, _ = oracle.conditional_moments(mdp, paths, found, 0, by_action=False)
            expected = oracle.vtrace_operator(mdp, v, target, behaviour, **options)
            np.testing.assert_allclose(mean[live], expected[live], **EXACT)
        v = np.zeros(mdp.n_states)
        for _ in range(600):
            v = oracle.vtrace_operator(mdp, v, target, behaviour, **options)
        np.testing.assert_allclose(v, fixed, **EXACT)
        if rho_max == 1e9:
            np.testing.assert_allclose(fixed, oracle.value(mdp, target), **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(oracle.TRACES))
def test_the_fixed_point_of_off_policy_q(seed, kind):
    """Q^π for Retrace, Tree-Backup, Q(λ) and importance sampling; for every Q the mean target is the operator's."""
    for mdp, lam in ((endless(seed), 0.9), (layered(seed), 1.0)):
        target, behaviour = random_policy(mdp, seed), random_policy(mdp, seed + 7)
        q_pi = oracle.q_value(mdp, target)
        apply = functools.partial(
            oracle.off_policy_q_operator, mdp, target=target, behaviour=behaviour, kind=kind, lam=lam
        )
        np.testing.assert_allclose(apply(q_pi), q_pi, **EXACT)
        critics = [q_pi]
        if mdp.terminal.any():
            critics.append(np.random.default_rng(seed).normal(size=q_pi.shape) * ~mdp.terminal[:, None])
        paths = oracle.trajectories(from_everywhere(mdp), behaviour, HORIZON)
        log_prob, live = np.log(paths.taken(target)), ~mdp.terminal
        c = corrections.trace(kind, rho=paths.taken(target / behaviour), log_prob=log_prob, lam=lam)
        for q in critics:
            next_value = q_targets.expected_value(q, target)[paths.next_state]
            found = off_policy_q(
                q=paths.taken(q), trace=c, next_value=next_value, gamma=mdp.gamma, **paths.rows()
            )
            mean, _ = oracle.conditional_moments(mdp, paths, found, 0)
            np.testing.assert_allclose(mean[live], apply(q)[live], **EXACT)


@pytest.mark.parametrize("kind", ["retrace", "tree-backup"])
@pytest.mark.parametrize("seed", SEEDS)
def test_retrace_and_tree_backup_contract_whatever_the_behaviour(kind, seed):
    """‖RQ − Q^π‖ ≤ γ ‖Q − Q^π‖. Munos et al. (2016), Theorem 1."""
    mdp = endless(seed, n_actions=3)
    target, behaviour = random_policy(mdp, seed, 5), random_policy(mdp, seed + 7, 5)
    q, q_pi = np.random.default_rng(seed).normal(size=target.shape) * 9, oracle.q_value(mdp, target)
    for _ in range(5):
        after = oracle.off_policy_q_operator(mdp, q, target, behaviour, kind=kind)
        assert np.abs(after - q_pi).max() <= mdp.gamma * np.abs(q - q_pi).max() + 1e-8
        q = after


# Soft values


def soft_case(seed, make=mixed):
    mdp = make(seed)
    return mdp, random_policy(mdp, seed + 30), 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_soft_q_policy_is_optimal(seed):
    mdp, reference, tau = soft_case(seed)
    best = oracle.soft_optimal(mdp, reference, tau)
    live = ~mdp.terminal
    np.testing.assert_allclose(oracle.soft_value(best.q, reference, tau)[live], best.value[live], **EXACT)
    np.testing.assert_allclose(oracle.backup(mdp, best.value), best.q, **EXACT)
    np.testing.assert_allclose(oracle.soft_policy(best.q, reference, tau)[live], best.policy[live], **EXACT)
    library = q_targets.soft_value(best.q, tau, log_prior=np.log(reference))
    np.testing.assert_allclose(np.asarray(library)[live], best.value[live], **EXACT)
    for k in range(30):
        for policy in (random_policy(mdp, k, 3), oracle.mixture(best.policy, random_policy(mdp, k, 3), 0.01)):
            assert (oracle.regularised_value(mdp, policy, reference, tau) <= best.value + 1e-8).all()
    gradient = oracle.regularised_gradient(mdp, np.log(best.policy), reference, tau)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_temperatures_limits(seed):
    """τ → 0: V* and Q*, with an error of at most τ log(1/min π̄)/(1−γ); τ → ∞: the reference's, by Hoeffding's lemma."""
    mdp, reference, _ = soft_case(seed)
    for tau in (1.0, 0.1, 0.01):
        gap = np.abs(
            oracle.soft_optimal(mdp, reference, tau).value - oracle.policy_iteration(mdp).value
        ).max()
        assert gap <= tau * -np.log(reference.min()) / (1 - mdp.gamma) + 1e-8
    for tau in (10.0, 1e3, 1e6):
        hot = oracle.soft_optimal(mdp, reference, tau)
        gap = hot.value - oracle.value(mdp, reference)
        spread = np.ptp(hot.q, axis=1).max()
        assert gap.min() >= -1e-8
        assert gap.max() <= spread**2 / (8 * tau * (1 - mdp.gamma)) + 1e-8


@pytest.mark.parametrize("seed", SEEDS)
def test_regularised_gradients_are_right_in_both_forms_and_in_no_other(seed):
    mdp, reference, tau = soft_case(seed)
    theta = logits(mdp, seed)
    policy = oracle.softmax_policy(theta)

    @jax.jit
    @jax.grad
    def true(theta):
        log_prob = jax.nn.log_softmax(theta, axis=1)
        pi = jnp.exp(log_prob)
        kl = jnp.sum(pi * (log_prob - jnp.log(reference)), axis=1)
        reward = jnp.sum(pi * mdp.reward, axis=1) - tau * jnp.where(mdp.terminal, 0, kl)
        matrix = jnp.eye(mdp.n_states) - jnp.einsum("sa,sap->sp", pi, jnp.asarray(mdp.discount))
        return jnp.asarray(mdp.rho0) @ jnp.linalg.solve(matrix, reward)

    truth = np.asarray(true(theta))
    score = oracle.regularised_gradient(mdp, theta, reference, tau)
    kl = oracle.regularised_gradient(mdp, theta, reference, tau, form="kl")
    np.testing.assert_allclose(score, truth, **EXACT)
    np.testing.assert_allclose(kl, truth, **EXACT)
    weight = oracle.visitation(mdp, policy)[:, None] * policy
    alone = oracle.score_gradient(policy, weight * oracle.regularised_q(mdp, policy, reference, tau))
    both = score + (kl - alone)
    assert np.abs(alone - truth).max() > 1e-3
    assert np.abs(both - truth).max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_librarys_two_forms_of_kl_in_the_reward_have_that_gradient(seed):
    """E over all trajectories of `kl_reward` (sampled log-ratio) alone, or of the exact KL with `kl_penalty`."""
    s = study("layered", seed)
    reference, tau = random_policy(s.mdp, seed + 30), 0.3
    state, action, valid = s.paths.state, s.paths.action, s.paths.valid
    weight = s.weight

    def objective(theta, form):
        log_prob = jax.nn.log_softmax(theta, axis=1)
        log_ratio = log_prob - jnp.log(reference)
        kl = jnp.sum(jnp.exp(log_prob) * log_ratio, axis=1)[state]
        paid = log_ratio[state, action] if form == "score" else kl
        rows = {**s.rows, "reward": kl_reward(reward=s.rows["reward"], kl=paid, tau=tau)}
        psi = weight * monte_carlo(next_value=jnp.zeros_like(weight), **rows)
        row = score_function(log_prob=log_prob[state, action], psi=psi)
        row = row + (weight * kl_penalty(kl=kl, tau=tau) if form == "kl" else 0)
        return jnp.sum(s.p * jnp.sum(jnp.where(valid, row, 0), axis=0))

    truth = oracle.regularised_gradient(s.mdp, s.theta, reference, tau)
    for form in ("score", "kl"):
        found = jax.jit(jax.grad(functools.partial(objective, form=form)))(s.theta)
        np.testing.assert_allclose(found, truth, **EXACT, err_msg=form)


@pytest.mark.parametrize("seed", SEEDS)
def test_soft_q_learning_is_the_regularised_policy_gradient_plus_a_value_fit(seed):
    """∇ E½(Q_θ − Q^π)² = −τ ∇(regularised return) + ∇ E½(V_θ − V^π)², π = π̄ exp((Q_θ − V_θ)/τ), law fixed.

    Schulman, Chen & Abbeel (2017), §3.
    """
    mdp, reference, tau = soft_case(seed)
    live = ~mdp.terminal
    q = np.random.default_rng(seed).normal(size=(mdp.n_states, mdp.n_actions))
    policy = oracle.soft_policy(q, reference, tau)
    visits = oracle.visitation(mdp, policy)
    target_q = oracle.regularised_q(mdp, policy, reference, tau)
    target_v = oracle.regularised_value(mdp, policy, reference, tau)
    soft = lambda q: q_targets.soft_value(q, tau, log_prior=np.log(reference))

    fit_q = jax.grad(lambda q: 0.5 * jnp.sum(visits[:, None] * policy * jnp.square(q - target_q)))(q)
    fit_v = jax.grad(lambda q: 0.5 * jnp.sum(visits * jnp.square(soft(q) - target_v)))(q)
    # The parameter is the table Q, and the logits of π are log π̄ + Q/τ: −τ ∇_Q is minus the gradient by logits.
    ascent = oracle.regularised_gradient(mdp, np.log(reference) + q / tau, reference, tau)
    np.testing.assert_allclose((fit_q - fit_v)[live], -ascent[live], **EXACT)
