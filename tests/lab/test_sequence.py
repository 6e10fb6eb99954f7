"""The decoder's answers and the moments of groups, against finite differences and the enumeration of all groups."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.critics import groups, kl_estimators
from actrix.lab import sequence
from actrix.lab import sequence_objectives as objectives
from actrix.lab.exact.answers import Answers, Sizes, initial
from actrix.lab.exact.groups import Classes, group_moments, varied

SMALL = Sizes(vocabulary=3, prompts=2, horizon=3, width=4)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def answers():
    with jax.enable_x64(True):
        return Answers(SMALL, sequence.balanced)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leave-one-out (RLOO)", (1, 1, 1, 1)),
        ("group mean (Dr.GRPO)", (0.875, 0.875, 0.875, 0.875)),
        ("std of the sample", (2.31, 1.90, 1.74, 2.18)),
    ],
)
def test_expected_over_true_gradient_of_one_group_of_eight(name, expected):
    found = [sequence.scale(name, 8, p) for p in (0.05, 0.25, 0.5, 0.9)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.005)
    assert sequence.scale("std of the population", 8, 0.5) == pytest.approx(1.86, abs=0.005)


def test_answers_are_all_of_them_and_the_future_does_not_reach_back(answers):
    theta = initial(SMALL, 0)
    assert answers.token.shape == (3, 1 + 2 + 4 * 3)
    np.testing.assert_allclose(answers.probability(theta).sum(axis=1), 1, atol=1e-12)
    found = np.asarray(answers.vocabulary(theta))
    same = (answers.token[:1] == answers.token[:1, -1:]).all(axis=0)  # answers with one first token
    np.testing.assert_allclose(found[:, 1, same], found[:, 1, -1:] + np.zeros((2, same.sum(), 3)), atol=1e-12)
    assert np.ptp(found[0, 1, :, 0]) > 1e-3
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_gradient_is_that_of_finite_differences_and_of_the_score(answers):
    theta, h = initial(SMALL, 1), 1e-6
    steps = np.eye(len(theta))[:: len(theta) // 12] * h
    change = [
        (answers.success(theta + d).mean() - answers.success(theta - d).mean()) / (2 * h) for d in steps
    ]
    exact = answers.gradient(theta)
    np.testing.assert_allclose(exact[:: len(theta) // 12], change, atol=1e-8)
    scores = answers.scores(theta).sum(axis=1)
    weight = answers.probability(theta) * answers.reward / SMALL.prompts
    np.testing.assert_allclose(np.einsum("xn,xnp->p", weight, scores), exact, atol=1e-12)
    assert np.linalg.norm(exact) > 1e-3


def test_the_kl_of_answers_is_the_sum_along_them(answers):
    theta, other = initial(SMALL, 2), initial(SMALL, 3)
    steps = kl_estimators.exact(answers.vocabulary(theta), answers.vocabulary(other))
    along = np.sum(np.where(answers.valid, steps, 0), axis=1)
    chain = np.sum(answers.probability(theta) * along, axis=1)
    np.testing.assert_allclose(answers.kl(theta, other), chain, atol=1e-12)
    assert chain.min() > 1e-3


def test_prefix_values_are_conditional_expectations(answers):
    theta = initial(SMALL, 4)
    found, p = answers.prefix_values(theta), answers.probability(theta)
    for x, t, n in itertools.product(range(2), range(4), range(len(answers.length))):
        t_seen = min(t, answers.length[n])
        same = [m for m in range(len(answers.length))
                if answers.length[m] >= t_seen and (answers.token[:t_seen, m] == answers.token[:t_seen, n]).all()
                and (t_seen == t or answers.length[m] == t_seen)]  # fmt: skip
        expected = sum(p[x, m] * answers.reward[x, m] for m in same) / sum(p[x, m] for m in same)
        assert found[x, t, n] == pytest.approx(expected, abs=1e-12)


def by_enumeration(p, right, length, vectors, n, coefficient):
    """E ĝ and E‖ĝ‖² over all ordered groups of n answers, as loops."""
    mean, square = np.zeros(vectors.shape[1]), 0.0
    for group in itertools.product(range(len(p)), repeat=n):
        chance = math.prod(p[i] for i in group)
        k, total = sum(right[i] for i in group), sum(length[i] for i in group)
        g = sum(coefficient(right[i], length[i], k, total) * vectors[i] for i in group) / n
        mean, square = mean + chance * g, square + chance * (g @ g)
    return mean, square


@pytest.mark.parametrize(
    "name", ["GRPO: std, per sequence", "DAPO: std, per token, dynamic", "leave-one-out (RLOO)"]
)
def test_moments_of_a_group_equal_the_sum_over_all_groups(name):
    rng = np.random.default_rng(0)
    p, vectors = rng.dirichlet(np.ones(5)), rng.normal(size=(5, 3))
    right, length = np.array([0, 1, 0, 1, 1]), np.array([1, 3, 2, 2, 3])
    s = objectives.Setting(4, 2, float(p @ right), 0.4, float(p @ length))
    objective = objectives.OBJECTIVES[name]
    table = objective.advantage(s)
    one = lambda r, size, k, total: float(table[k, r] * objective.weight(np.array(size), np.array(total), s))
    mean, square = by_enumeration(p, right, length, vectors, 4, one)
    found = objective.moments(Classes.of(p, right, length, vectors), s)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    assert found.square == pytest.approx(square, abs=1e-12)
    assert found.variance > 0.01


def test_the_best_of_a_group_is_one_answer():
    p, right, vectors = np.array([0.7, 0.3]), np.array([0, 1]), np.array([[1.0, 0], [0, 2.0]])
    classes = Classes.of(p, right, np.ones(2, int), vectors)
    s = objectives.Setting(3, 1, 0.3, 0.3, 1.0)
    found = objectives.OBJECTIVES["best of G"].moments(classes, s)
    some = 1 - 0.7**3
    np.testing.assert_allclose(found.mean, [1 - some, 2 * some], atol=1e-12)
    assert found.square == pytest.approx((1 - some) + 4 * some, abs=1e-12)


def test_rescaled_and_redrawn_batches_equal_the_sum_over_all_batches():
    n, batch, p = 3, 3, 0.3
    vectors = np.array([-1 / (1 - p), 1 / p])
    mean = square = 0.0
    kept = {"weight": 0.0, "mean": 0.0, "square": 0.0}  # of one group that varies
    for bits in itertools.product((0, 1), repeat=n * batch):
        rewards = np.array(bits, float).reshape(batch, n)
        chance = np.prod(np.where(rewards == 1, p, 1 - p))
        g = np.mean(np.asarray(groups.gpg(jnp.asarray(rewards))) * vectors[rewards.astype(int)])
        mean, square = mean + chance * g, square + chance * g * g
    for bits in itertools.product((0, 1), repeat=n):
        rewards = np.array(bits, float)
        if 0 < rewards.sum() < n:
            chance = np.prod(np.where(rewards == 1, p, 1 - p))
            g = np.mean((rewards - rewards.mean()) * vectors[list(bits)])
            for key, x in (("weight", 1.0), ("mean", g), ("square", g * g)):
                kept[key] += chance * x
    classes = Classes.of(np.array([1 - p, p]), np.array([0, 1]), np.ones(2, int), vectors[:, None])
    s = objectives.Setting(n, batch, p, p, 1.0)
    found = objectives.batch_moments(objectives.OBJECTIVES["GPG"], [classes], [s])
    np.testing.assert_allclose([found.mean[0], found.square], [mean, square], atol=1e-12)
    again = objectives.batch_moments(objectives.OBJECTIVES["mean, dynamic sampling"], [classes], [s])
    one = kept["mean"] / kept["weight"]
    variance = kept["square"] / kept["weight"] - one**2
    assert kept["weight"] == pytest.approx(varied(p, n), abs=1e-12)
    np.testing.assert_allclose([again.mean[0], again.variance], [one, variance / batch], atol=1e-12)


def test_a_group_of_two_reads_no_other_answers():
    classes = Classes.of(np.array([0.6, 0.4]), np.array([0, 1]), np.ones(2, int), np.array([[1.0], [-2.0]]))
    found = group_moments(classes, 2, lambda right, length, k, total: (k == 2) * 1.0 + 0 * right)
    np.testing.assert_allclose([found.mean[0], found.square], [0.16 * -2, 0.16 * 4], atol=1e-12)


def test_a_path_that_ends_too_early_is_named():
    with pytest.raises(ValueError, match=r"the path ends before 0\.9\."):
        sequence.first_above([np.zeros(2)], lambda theta: 0.1, 0.9)
