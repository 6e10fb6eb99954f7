"""Policy-gradient pieces against numpy, exact enumeration and what the papers promise of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrix.actors import policy_gradient as pg
from actrix.actors import psi as psi_
from actrix.actors.ppo_kl import adapt_beta, ppo_kl
from actrix.actors.reference_kl import kl_penalty, kl_reward
from actrix.actors.score import score_function
from actrix.critics import value as value_
from actrix.critics.kl_estimators import approx_kl

settings.register_profile("here", max_examples=50, deadline=None, derandomize=True)
here = settings.get_profile("here")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def normals(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# Objectives


def test_score_function_gradient_is_score_times_psi():
    logits, actions, psi = normals(0, 5, 3), jnp.array([0, 2, 1, 1, 0]), normals(1, 5)

    def objective(logits, psi):
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)[:, 0]
        return score_function(log_prob=log_prob, psi=psi).sum()

    gradient, through_psi = jax.grad(objective, (0, 1))(logits, psi)
    expected = (np.eye(3)[actions] - np.asarray(jax.nn.softmax(logits))) * np.asarray(psi)[:, None]
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    np.testing.assert_array_equal(through_psi, 0)


def test_ppo_clip_is_the_formula_and_a_pointwise_lower_bound():
    log_prob, old, advantage = normals(2, 100, 4), normals(3, 100, 4), normals(4, 100, 4)
    objective = pg.ppo_clip(log_prob=log_prob, old_log_prob=old, advantage=advantage, clip_range=0.2)
    rho, a = np.exp(np.asarray(log_prob - old)), np.asarray(advantage)
    expected = [
        min(ratio * a_i, min(max(ratio, 0.8), 1.2) * a_i) for ratio, a_i in zip(rho.flat, a.flat, strict=True)
    ]
    np.testing.assert_allclose(objective.ravel(), expected, rtol=1e-12)
    assert (np.asarray(objective) <= rho * a + 1e-12).all()


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("rho", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0])
def test_ppo_clip_gradient_dies_only_where_the_gain_is_taken(rho, advantage):
    def objective(log_prob):
        zero = jnp.zeros(1)
        return pg.ppo_clip(
            log_prob=log_prob, old_log_prob=zero, advantage=zero + advantage, clip_range=0.2
        ).sum()

    taken = (advantage > 0 and rho > 1.2) or (advantage < 0 and rho < 0.8)
    gradient = jax.grad(objective)(jnp.log(jnp.array([rho])))
    np.testing.assert_allclose(gradient, 0 if taken else rho * advantage, rtol=1e-12)


def test_first_minibatch_has_ratio_one():
    """At the behaviour policy every surrogate is Â and has the score function's gradient."""
    log_prob, advantage = normals(5, 20), normals(6, 20)
    same = {"old_log_prob": log_prob, "advantage": advantage}
    surrogates = {
        "clip": lambda x: pg.ppo_clip(log_prob=x, clip_range=0.2, **same),
        "kl": lambda x: ppo_kl(log_prob=x, kl=jnp.zeros(20), beta=3.0, **same),
    }
    for name, surrogate in surrogates.items():
        np.testing.assert_array_equal(surrogate(log_prob), advantage, err_msg=name)
        gradient = jax.grad(lambda x, surrogate=surrogate: surrogate(x).sum())(log_prob)
        np.testing.assert_allclose(gradient, advantage, err_msg=name)
    assert approx_kl(log_prob, log_prob) == 0


def test_objectives_treat_the_behaviour_as_data():
    x = {"log_prob": normals(7, 9), "old_log_prob": normals(8, 9), "advantage": normals(9, 9)}
    kl = normals(10, 9) ** 2
    for surrogate in (
        lambda x: pg.ppo_clip(**x, clip_range=0.2).sum(),
        lambda x: ppo_kl(**x, kl=kl, beta=0.5).sum(),
    ):
        gradient = jax.grad(surrogate)(x)
        assert (gradient["log_prob"] != 0).any()
        np.testing.assert_array_equal(gradient["old_log_prob"], 0)
        np.testing.assert_array_equal(gradient["advantage"], 0)


def test_ppo_kl_is_the_formula():
    log_prob, old, advantage, kl = (normals(seed, 6, 2) for seed in range(4))
    objective = ppo_kl(log_prob=log_prob, old_log_prob=old, advantage=advantage, kl=kl, beta=0.7)
    np.testing.assert_allclose(objective, np.exp(log_prob - old) * advantage - 0.7 * kl, rtol=1e-12)
    by_kl = jax.grad(
        lambda kl: ppo_kl(log_prob=log_prob, old_log_prob=old, advantage=advantage, kl=kl, beta=0.7).sum()
    )(kl)
    np.testing.assert_allclose(by_kl, -0.7)


@pytest.mark.parametrize(("kl", "factor"), [(0.006, 0.5), (0.007, 1), (0.01, 1), (0.0149, 1), (0.0151, 2)])
def test_adapt_beta(kl, factor):
    assert adapt_beta(0.4, kl, 0.01) == 0.4 * factor
    beta = jax.jit(adapt_beta)(jnp.float32(0.4), jnp.float32(kl), 0.01)
    assert beta == jnp.float32(0.4) * factor
    assert beta.dtype == jnp.float32


def test_clipped_value_loss_stops_at_the_range():
    value, old, target = jnp.array([1.1, 1.5, 0.2, 1.5]), jnp.ones(4), jnp.array([2.0, 2.0, 2.0, -1.0])

    def loss(value, old=old, target=target):
        return value_.clipped_value_loss(value=value, old_value=old, target=target, clip_range=0.2)

    np.testing.assert_allclose(loss(value), [0.81, 0.64, 1.44, 4.84])
    # within the range the squared error's gradient; outside none, whichever way the target lies
    np.testing.assert_allclose(jax.grad(lambda v: loss(v).sum())(value), [-1.8, 0, 0, 0], atol=1e-12)
    data = jax.grad(lambda old, target: loss(value, old, target).sum(), (0, 1))(old, target)
    np.testing.assert_array_equal(data, 0)
    np.testing.assert_allclose(
        value_.clipped_value_loss(value=value, old_value=old, target=target, clip_range=jnp.inf),
        np.square(value - target),
    )


# KL to a reference: every trajectory of a small MDP, so that gradients are exact

STATES, ACTIONS, HORIZON, GAMMA, TAU = 2, 2, 3, 0.8, 0.7


def every_trajectory():
    """States `[3, n]`, actions `[3, n]`, rewards and environment probabilities of all paths from state 0."""
    rng = np.random.default_rng(11)
    model = rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
    reward = rng.normal(size=(STATES, ACTIONS))
    actions = np.array(list(itertools.product(range(ACTIONS), repeat=HORIZON)))
    later = np.array(list(itertools.product(range(STATES), repeat=HORIZON - 1)))
    paths = [((0, *s), a) for s in later for a in actions]
    states, actions = (np.array(x).T for x in zip(*paths, strict=True))
    weight = model[states[:-1], actions[:-1], states[1:]].prod(0)
    return (
        jnp.asarray(states),
        jnp.asarray(actions),
        jnp.asarray(reward[states, actions]),
        jnp.asarray(weight),
    )


def soft_setting():
    states, actions, reward, weight = every_trajectory()
    reference = jax.nn.log_softmax(normals(12, STATES, ACTIONS))

    def policy(theta):
        """log π(a_t|s_t), log π/π̄ of the action, KL_t and the paths' probabilities."""
        log_pi = jax.nn.log_softmax(theta)
        log_prob = log_pi[states, actions]
        kl = (jnp.exp(log_pi) * (log_pi - reference)).sum(1)[states]
        return log_prob, log_prob - reference[states, actions], kl, weight * jnp.exp(log_prob.sum(0))

    discounts = GAMMA ** jnp.arange(HORIZON)[:, None]
    return policy, reward, discounts


def estimated_gradient(theta, in_reward, in_loss):
    """E[Σ_t γ^t(∇log π_t · G_t) + in_loss], with G_t from `kl_reward`."""
    policy, reward, discounts = soft_setting()
    probability = policy(theta)[3]

    def objective(theta):
        log_prob, log_ratio, kl, _ = policy(theta)
        r = reward if in_reward is None else kl_reward(reward=reward, kl=[log_ratio, kl][in_reward], tau=TAU)
        return_to_go = jnp.cumsum((discounts * r)[::-1], 0)[::-1] / discounts
        rows = score_function(log_prob=log_prob, psi=return_to_go)
        if in_loss is not None:
            rows = rows + kl_penalty(kl=[log_ratio, kl][in_loss], tau=TAU)
        return ((discounts * rows).sum(0) * probability).sum()

    return jax.grad(objective)(theta)


SAMPLED, EXACT = 0, 1


def test_kl_in_the_reward_is_exact_in_two_forms_and_no_mixture():
    policy, reward, discounts = soft_setting()
    theta = normals(13, STATES, ACTIONS)

    def soft_return(theta):
        _, _, kl, probability = policy(theta)
        return ((discounts * (reward - TAU * kl)).sum(0) * probability).sum()

    exact = jax.grad(soft_return)(theta)
    for right in ((SAMPLED, None), (EXACT, EXACT)):
        np.testing.assert_allclose(estimated_gradient(theta, *right), exact, atol=1e-12)
    for wrong in ((None, None), (EXACT, None), (SAMPLED, EXACT), (None, EXACT), (None, SAMPLED)):
        assert jnp.abs(estimated_gradient(theta, *wrong) - exact).max() > 1e-3


def test_kl_only_in_the_loss_is_the_objective_of_fixed_states():
    """Its gradient is that of return − τ Σ KL at the OLD policy's states; the sampled ratio adds nothing."""
    policy, reward, discounts = soft_setting()
    theta = normals(14, STATES, ACTIONS)
    old_probability = policy(theta)[3]

    def objective(theta):
        _, _, kl, probability = policy(theta)
        plain = ((discounts * reward).sum(0) * probability).sum()
        return plain - TAU * ((discounts * kl).sum(0) * old_probability).sum()

    np.testing.assert_allclose(estimated_gradient(theta, None, EXACT), jax.grad(objective)(theta), atol=1e-12)
    without = estimated_gradient(theta, None, None)
    np.testing.assert_allclose(estimated_gradient(theta, None, SAMPLED), without, atol=1e-12)


# Means and diagnostics


@settings(here)
@given(st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=12))
def test_masked_statistics_are_those_of_the_valid_rows(rows):
    x, valid = (np.array(column) for column in zip(*rows, strict=True))
    kept, dirty = x[valid], jnp.where(jnp.asarray(valid), jnp.asarray(x), jnp.nan)
    mean = pg.masked_mean(dirty, jnp.asarray(valid))
    np.testing.assert_allclose(mean, kept.mean() if valid.any() else 0, atol=1e-9)
    scaled = np.asarray(pg.normalize(dirty, jnp.asarray(valid)))
    np.testing.assert_array_equal(scaled[~valid], 0)
    if valid.any() and kept.std() > 1e-3:
        np.testing.assert_allclose(scaled[valid], (kept - kept.mean()) / kept.std(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            value_.explained_variance(dirty**2 / 50, dirty, jnp.asarray(valid)),
            1 - (kept - kept**2 / 50).var() / kept.var(),
            rtol=1e-6,
        )


def test_masked_mean_keeps_gradients_clean():
    x, valid = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    np.testing.assert_array_equal(jax.grad(pg.masked_mean)(x, valid), [0.5, 0, 0.5])
    np.testing.assert_array_equal(jax.grad(pg.masked_mean)(x, jnp.zeros(3, bool)), 0)


def test_normalize():
    x = 3 + 5 * normals(15, 8, 4)
    scaled = pg.normalize(x)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-8)
    np.testing.assert_array_equal(pg.normalize(jnp.full((3, 2), 7.0)), 0)
    np.testing.assert_array_equal(pg.normalize(x[:1, :1]), 0)


def test_explained_variance():
    target = normals(16, 50)
    np.testing.assert_allclose(value_.explained_variance(target, target), 1)
    np.testing.assert_allclose(value_.explained_variance(target + 3, target), 1)
    np.testing.assert_allclose(value_.explained_variance(jnp.zeros(50), target), 0, atol=1e-12)
    np.testing.assert_allclose(value_.explained_variance(-target, target), -3)
    assert jnp.isnan(value_.explained_variance(target, jnp.ones(50)))


def test_approx_kl_is_unbiased_and_never_negative():
    old, new = jax.nn.log_softmax(normals(17, 5)), jax.nn.log_softmax(normals(18, 5))
    per_action = jnp.stack([approx_kl(new[a : a + 1], old[a : a + 1]) for a in range(5)])
    assert (per_action >= 0).all()
    exact = (jnp.exp(old) * (old - new)).sum()
    np.testing.assert_allclose((jnp.exp(old) * per_action).sum(), exact, rtol=1e-12)
    np.testing.assert_allclose(approx_kl(new, old), per_action.mean(), rtol=1e-12)
    # tiny ratios in float32 do not cancel to noise
    tiny = approx_kl(jnp.full(4, 1e-4, jnp.float32), jnp.zeros(4, jnp.float32))
    np.testing.assert_allclose(tiny, 0.5e-8, rtol=0.02)


discount_weights = jax.jit(psi_.discount_weights)


@settings(here)
@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=6, max_size=6), st.floats(0, 1))
def test_discount_weights_count_from_each_start(flags, gamma):
    terminated, truncated, first, valid = np.array(flags).T
    expected, t = np.zeros(6), 0
    for row in range(6):
        if first[row] or (row and (terminated[row - 1] or truncated[row - 1] or not valid[row - 1])):
            t = 0
        expected[row] = gamma**t if valid[row] else 0.0
        t += 1
    columns = {"terminated": terminated, "truncated": truncated, "first": first, "valid": valid}
    columns = {name: jnp.asarray(x)[:, None] for name, x in columns.items()}
    np.testing.assert_allclose(discount_weights(**columns, gamma=gamma)[:, 0], expected, atol=1e-12)


def test_discount_weights_with_defaults():
    cut = jnp.array([False, False, True, False])
    weights = psi_.discount_weights(terminated=cut, truncated=jnp.zeros(4, bool), gamma=0.5)
    np.testing.assert_array_equal(weights, [1, 0.5, 0.25, 1])


# Baselines


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_moving_average_excludes_the_batch_in_hand(decay):
    batches = [np.asarray(normals(seed, 3 + seed)) for seed in range(4)]
    state = psi_.MovingAverage.zero(jnp.float64)
    for i, batch in enumerate(batches):
        padded, valid = np.append(batch, np.nan), np.append(np.ones(len(batch), bool), False)
        baseline, state = psi_.moving_average_baseline(
            state, jnp.asarray(padded), decay=decay, valid=jnp.asarray(valid)
        )
        weights = np.concatenate(
            [np.full(len(x), decay ** (i - 1 - j)) for j, x in enumerate(batches[:i])] or [[]]
        )
        expected = np.average(np.concatenate(batches[:i]), weights=weights) if i else 0.0
        np.testing.assert_allclose(baseline, expected, atol=1e-12)
    carried = jax.lax.scan(
        lambda state, x: psi_.moving_average_baseline(state, x)[::-1],
        psi_.MovingAverage.zero(),
        jnp.ones((3, 5), "f4"),
    )
    np.testing.assert_allclose(carried[1], [0, 1, 1])


def samples(n=6, p=3):
    g, ret = normals(20, n, p), normals(21, n)
    return g, g * ret[:, None]


def test_optimal_baseline_minimises_the_variance():
    g, s = samples(200)
    # A score has mean 0; only then is the formula the minimiser of the variance over this sample too.
    g = g - g.mean(0, keepdims=True)
    best = psi_.optimal_baseline(g, s)
    assert best.shape == (1, 3)
    slope = jax.grad(lambda b: jnp.square(s - b * g).mean(0).sum())(best)
    np.testing.assert_allclose(slope, 0, atol=1e-10)
    one = psi_.optimal_baseline(g, s, per_parameter=False)
    assert one.shape == (1, 1)
    np.testing.assert_allclose(one, (g * s).sum() / jnp.square(g).sum())
    slope = jax.grad(lambda b: jnp.square(s - b * g).sum())(one)
    np.testing.assert_allclose(slope, 0, atol=1e-9)


@pytest.mark.parametrize("per_parameter", [True, False])
def test_leave_one_out_by_enumeration(per_parameter):
    g, s = samples()
    g = (
        g.at[:, 2].set(0).at[4, 2].set(1.0)
    )  # only episode 4 moves parameter 2: the others know nothing for it
    left_out = psi_.optimal_baseline(g, s, per_parameter=per_parameter, leave_one_out=True)
    for i in range(len(g)):
        others = np.arange(len(g)) != i
        expected = psi_.optimal_baseline(g[others], s[others], per_parameter=per_parameter)
        np.testing.assert_allclose(left_out[i : i + 1], expected, rtol=1e-12)
    if per_parameter:
        assert left_out[4, 2] == 0


def test_leave_one_out_does_not_depend_on_the_episode():
    """Not even by rounding: episode 0 is 1e12 times the others."""
    g, s = samples()
    huge = psi_.optimal_baseline(g.at[0].mul(1e12), s.at[0].mul(1e12), leave_one_out=True)
    np.testing.assert_array_equal(huge[0], psi_.optimal_baseline(g, s, leave_one_out=True)[0])


def test_leave_one_out_keeps_the_gradient_unbiased():
    """A two-armed bandit, two episodes, every outcome: the batch's own b* is biased, leave-one-out is not."""
    theta, reward = jnp.array([0.3, -0.4]), jnp.array([2.0, 5.0])
    pi = jax.nn.softmax(theta)
    true = jax.grad(lambda theta: jax.nn.softmax(theta) @ reward)(theta)
    score = jnp.eye(2) - pi[None]

    def expected_gradient(leave_one_out):
        total = jnp.zeros(2)
        for pair in itertools.product(range(2), repeat=2):
            arms = jnp.array(pair)
            g = score[arms]
            s = g * reward[arms][:, None]
            b = psi_.optimal_baseline(g, s, leave_one_out=leave_one_out)
            total += pi[arms].prod() * (s - b * g).mean(0)
        return total

    np.testing.assert_allclose(expected_gradient(True), true, atol=1e-12)
    assert jnp.abs(expected_gradient(False) - true).max() > 1e-2


def test_float32_stays_float32():
    with jax.enable_x64(True):
        x, flags = jnp.ones(4, jnp.float32), jnp.ones(4, bool)
        outputs = [
            score_function(log_prob=x, psi=x),
            pg.ppo_clip(log_prob=x, old_log_prob=x, advantage=x, clip_range=0.2),
            ppo_kl(log_prob=x, old_log_prob=x, advantage=x, kl=x, beta=1.0),
            value_.clipped_value_loss(value=x, old_value=x, target=x, clip_range=0.2),
            kl_reward(reward=x, kl=x, tau=0.1),
            kl_penalty(kl=x, tau=0.1),
            pg.masked_mean(x, flags),
            pg.normalize(x, flags),
            value_.explained_variance(x, x),
            approx_kl(x, x, flags),
            *psi_.moving_average_baseline(psi_.MovingAverage.zero(), x, valid=flags),
            psi_.optimal_baseline(x[:, None], x[:, None]),
        ]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(outputs)} == {"float32"}
