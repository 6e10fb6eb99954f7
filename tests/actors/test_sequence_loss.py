"""Objectives of answers against double loops over answers and tokens, and their gradients at the old policy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.actors import sequence_loss as loss

T, N = 5, 4
RNG = np.random.default_rng(0)
NEW, OLD = np.log(RNG.uniform(0.1, 0.9, size=(2, T, N)))
VALID = np.arange(T)[:, None] < np.array([5, 1, 3, 0])
ADVANTAGE = np.broadcast_to(np.array([1.5, -0.5, -2.0, 1.0]), (T, N))


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def spoilt(x):
    """The same with NaN in the rows that are not valid."""
    return jnp.where(VALID, x, jnp.nan)


def reference(average, ratio, low, high):
    total, tokens = 0.0, 0
    for i in range(N):
        length = int(VALID[:, i].sum())
        whole = sum(NEW[t, i] - OLD[t, i] for t in range(length)) / max(length, 1)
        for t in range(length):
            rho = math.exp(whole if ratio == "answer" else NEW[t, i] - OLD[t, i])
            a = ADVANTAGE[t, i]
            x = min(rho * a, min(max(rho, 1 - low), 1 + high) * a)
            total += x / {"token": 1, "answer": length * N, "constant": 7 * N}[average]
            tokens += 1
    return total / tokens if average == "token" else total


AVERAGES = {
    "token": loss.per_token,
    "answer": loss.per_sequence,
    "constant": lambda x, valid: loss.constant(x, valid, 7),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("ratio", ["token", "answer"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.5), (1.0, math.inf)])
def test_objectives_equal_a_loop_over_answers_and_tokens(average, ratio, low, high):
    @jax.jit
    def objective(new, old, advantage):
        if ratio == "answer":
            log_ratio = loss.sequence_log_ratio(log_prob=new, old_log_prob=old, valid=VALID)
        else:
            log_ratio = new - old
        x = loss.clipped(log_ratio=log_ratio, advantage=advantage, valid=VALID, low=low, high=high)
        return AVERAGES[average](x, VALID)

    found = objective(*map(spoilt, (NEW, OLD, ADVANTAGE)))
    np.testing.assert_allclose(found, reference(average, ratio, low, high), rtol=1e-12)


def test_gradients_stop_where_the_gain_is_taken_and_never_at_rows_without_a_token():
    def objective(new):
        x = loss.clipped(log_ratio=new - spoilt(OLD), advantage=ADVANTAGE, valid=VALID, low=0.2, high=0.3)
        return loss.per_token(x, VALID)

    slope = jax.grad(objective)(jnp.asarray(NEW)) * VALID.sum()
    rho = np.exp(NEW - OLD)
    taken = np.where(ADVANTAGE > 0, rho > 1.3, rho < 0.8)
    np.testing.assert_allclose(slope, np.where(VALID & ~taken, rho * ADVANTAGE, 0), atol=1e-12)
    assert taken[VALID].any()
    assert not taken[VALID].all()


def test_the_answers_ratio_has_the_mean_score_as_its_gradient():
    ratio = lambda new: jnp.exp(loss.sequence_log_ratio(log_prob=new, old_log_prob=OLD, valid=VALID))
    slope = jax.grad(lambda new: jnp.sum(ratio(new)[0]))(jnp.asarray(NEW))
    lengths = np.maximum(VALID.sum(axis=0), 1)
    np.testing.assert_allclose(slope, np.where(VALID, ratio(NEW)[0] / lengths, 0), atol=1e-12)


def test_a_batch_without_tokens_gives_zero():
    nothing = np.zeros_like(VALID)
    for average in AVERAGES.values():
        assert average(jnp.full((T, N), jnp.nan), nothing) == 0
