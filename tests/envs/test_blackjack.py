"""Blackjack-v1's exact MDP against Gymnasium's simulation and its twin against both."""

import gymnasium as gym
import jax
import numpy as np
import pytest

from actrix.envs.blackjack import SHAPE, Blackjack, blackjack_mdp, dealer
from actrix.envs.jax_envs import jax_env, vector_reset, vector_step


def test_the_dealers_law_is_a_law_and_known_where_it_is_easy():
    for card in range(2, 11):
        assert sum(dealer(card, False).values()) == pytest.approx(1)
    assert dealer(16, False)[0] == pytest.approx(1 - 5 / 13)
    assert dealer(17, False) == {17: 1.0}


def test_the_optimal_value_is_the_known_one():
    from actrix.lab import exact as oracle

    mdp = blackjack_mdp()
    best = oracle.value_iteration(mdp)
    assert oracle.performance(mdp, best.policy) == pytest.approx(-0.04656, abs=1e-4)


@pytest.mark.parametrize("below", [12, 17, 20])
def test_laws_of_the_first_step_and_of_the_return_equal_gymnasiums(below):
    """Hitting below a sum, 8000 hands each: returns and lengths within four standard errors, same observations."""
    rng_env, returns, lengths, seen = gym.make("Blackjack-v1"), [], [], set()
    for i in range(8000):
        obs, _ = rng_env.reset(seed=below if i == 0 else None)
        seen.add(obs)
        done, steps = False, 0
        while not done:
            obs, reward, done, _, _ = rng_env.step(int(obs[0] < below))
            steps += 1
            seen.add(tuple(map(int, obs)))
        returns.append(reward)
        lengths.append(steps)
    ours, our_lengths, ours_seen = play(below, 8000)
    for a, b in ((returns, ours), (lengths, our_lengths)):
        spread = np.sqrt((np.var(a) + np.var(b)) / 8000)
        assert abs(np.mean(a) - np.mean(b)) < 4 * spread
    assert len(ours_seen ^ seen) < 0.2 * len(seen)
    assert all(all(0 <= x < n for x, n in zip(obs, SHAPE, strict=True)) for obs in ours_seen)


def play(below, hands):
    env, n = jax_env("Blackjack-v1"), 500
    assert env == Blackjack()
    step = jax.jit(lambda state, action, keys: vector_step(env, state, action, keys))
    state, obs, _ = vector_reset(env, jax.random.split(jax.random.key(0), (n, 2)))
    returns, lengths, seen, length = [], [], set(), np.zeros(n, int)
    for t in range(200):
        seen |= set(zip(*(np.asarray(x).tolist() for x in obs), strict=True))
        state, out = step(
            state, (obs[0] < below).astype(np.int32), jax.random.split(jax.random.key(t + 1), (n, 2))
        )
        length += 1
        done = np.asarray(out.terminated)
        seen |= set(zip(*(np.asarray(x).tolist() for x in out.next_obs), strict=True))
        returns += np.asarray(out.reward)[done].tolist()
        lengths += length[done].tolist()
        length = np.where(done, 0, length)
        obs = out.obs
        if len(returns) >= hands:
            break
    return returns, lengths, seen
