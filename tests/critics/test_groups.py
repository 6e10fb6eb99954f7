"""Advantages within groups against double loops, their expected scale by enumeration, and the KL estimators."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.critics import groups, kl_estimators

REWARDS = np.array(
    [[0.0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1, 0.1], [0.3, -2, 5, 0.25, 0], [0, 0, 0, 0, 0]]
)
FORMS = {
    "mean": groups.group_mean,
    "sample": groups.group_standardised,
    "population": lambda r: groups.group_standardised(r, ddof=0, eps=1e-4),
    "leave one out": groups.leave_one_out,
    "gpg": groups.gpg,
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def reference(form, rewards):
    """The same by a loop over groups and answers, each written from its paper's equation."""
    P, G = rewards.shape
    out = np.zeros((P, G))
    flat = [len({float(r) for r in row}) == 1 for row in rewards]
    for p, i in itertools.product(range(P), range(G)):
        row = [float(r) for r in rewards[p]]
        mean = sum(row) / G
        others = [r for j, r in enumerate(row) if j != i]
        squares = sum((r - mean) ** 2 for r in row)
        if form == "mean":
            out[p, i] = row[i] - mean
        elif form == "leave one out":
            out[p, i] = row[i] - sum(others) / len(others)
        elif form == "gpg":
            out[p, i] = (row[i] - mean) * P / (P - sum(flat))
        elif not flat[p]:
            deviation = math.sqrt(squares / (G - 1)) if form == "sample" else math.sqrt(squares / G) + 1e-4
            out[p, i] = (row[i] - mean) / deviation
    return out


@pytest.mark.parametrize("form", FORMS)
def test_groups_equal_a_loop_over_their_answers(form):
    rewards = jnp.asarray(REWARDS)
    found = jax.jit(FORMS[form])(rewards)
    np.testing.assert_allclose(found, reference(form, REWARDS), rtol=0, atol=1e-12)
    batched = FORMS[form](jnp.stack([rewards, rewards[::-1]]))
    np.testing.assert_allclose(batched[1], reference(form, REWARDS[::-1]), rtol=0, atol=1e-12)
    assert FORMS[form](rewards.astype(jnp.float32)).dtype == jnp.float32
    assert np.isfinite(jax.grad(lambda r: jnp.sum(jnp.sin(FORMS[form](r))))(rewards)).all()


def test_batches_of_groups_without_variance_have_no_advantage():
    flat = jnp.asarray(REWARDS[[1, 2, 4]])
    for form in ("sample", "population", "gpg"):
        np.testing.assert_allclose(FORMS[form](flat), 0, atol=1e-15)
    np.testing.assert_array_equal(groups.varies(jnp.asarray(REWARDS)), [True, False, False, True, False])


@pytest.mark.parametrize("form", FORMS)
def test_a_group_of_one_is_refused(form):
    with pytest.raises(ValueError, match=r"at least 2 answers of each prompt, not \(3, 1\)\.$"):
        FORMS[form](jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"ddof must be 0 .* or 1 .*, not 2\."):
        groups.group_standardised(jnp.zeros((3, 4)), ddof=2)


def scale(form, n, p):
    """c of E[(1/G) Σ Â_i ∇log π(y_i)] = c·∇p, over all 2^G groups of rewards of one prompt.

    The policy is Bernoulli(p) with the score d log π/dp = (r − p)/(p(1 − p)), and ∇p = 1.
    """
    rewards = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
    probability = np.prod(np.where(rewards == 1, p, 1 - p), axis=1)
    advantage = np.asarray(FORMS[form](jnp.asarray(rewards)[:, None, :]))[:, 0]
    return float(np.sum(probability[:, None] * advantage * (rewards - p)) / (n * p * (1 - p)))


@pytest.mark.parametrize("p", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_leave_one_out_is_unbiased_and_the_mean_is_short_by_one_part_in_g(n, p):
    assert scale("leave one out", n, p) == pytest.approx(1, abs=1e-12)
    assert scale("mean", n, p) == pytest.approx(1 - 1 / n, abs=1e-12)


def test_expected_scale_of_the_standardised_group_is_the_binomial_sum():
    for n, p in ((8, 0.05), (8, 0.9), (4, 0.5)):
        total = 0.0
        for k in range(1, n):
            share = k / n
            deviation = math.sqrt(share * (1 - share) * n / (n - 1))
            total += math.comb(n, k) * p**k * (1 - p) ** (n - k) * share * (1 - share) / deviation
        assert scale("sample", n, p) == pytest.approx(total / (p * (1 - p)), abs=1e-12)


def test_kl_estimators_have_the_means_and_gradients_their_table_says():
    rng = np.random.default_rng(0)
    theta, other = jnp.asarray(rng.normal(size=6)), jax.nn.log_softmax(jnp.asarray(rng.normal(size=6)))
    probability = jax.nn.softmax(theta)
    kl = lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - other))
    reverse = lambda x: jnp.sum(jnp.exp(other) * (other - jax.nn.log_softmax(x)))
    value = lambda f: jnp.sum(probability * f(jax.nn.log_softmax(theta), other))
    slope = lambda f: jax.grad(lambda x: jnp.sum(probability * f(jax.nn.log_softmax(x), other)))(theta)
    for f in (kl_estimators.k1, kl_estimators.k3):
        np.testing.assert_allclose(value(f), kl(theta), atol=1e-12)
    assert abs(value(kl_estimators.k2) - kl(theta)) > 1e-2
    found = kl_estimators.exact(jax.nn.log_softmax(theta)[None], other[None])
    np.testing.assert_allclose(found, kl(theta)[None], atol=1e-12)
    np.testing.assert_allclose(slope(kl_estimators.k1), 0, atol=1e-12)
    np.testing.assert_allclose(slope(kl_estimators.k2), jax.grad(kl)(theta), atol=1e-12)
    np.testing.assert_allclose(slope(kl_estimators.k3), jax.grad(reverse)(theta), atol=1e-12)
    draw = jnp.linspace(-8, 0, 50)
    assert (kl_estimators.k2(draw, draw[::-1]) >= 0).all()
    assert (kl_estimators.k3(draw, draw[::-1]) >= 0).all()
