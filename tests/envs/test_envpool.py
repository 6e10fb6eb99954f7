import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("envpool")

from actrix.envs.base import HostEnv
from actrix.envs.envpool import EnvPoolEnvs, has_envpool


def test_which_ids_it_has():
    assert has_envpool("CartPole-v1")
    assert has_envpool("Pendulum-v1")
    assert not has_envpool("Blackjack-v1")  # a tuple in Gymnasium
    assert not has_envpool("NoSuchEnv-v0")
    with pytest.raises(ValueError, match="no environment that matches"):
        EnvPoolEnvs("NoSuchEnv-v0", 1)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_every_row_is_a_transition(env_id):
    envs = EnvPoolEnvs(env_id, 3, seed=1)
    assert isinstance(envs, HostEnv)
    space, limit = envs.spec.action_space, envs.spec.max_episode_steps
    assert limit == gym.spec(env_id).max_episode_steps
    obs, mask = envs.reset()
    assert mask is None
    assert obs.dtype == np.float32
    rng, length, ends = np.random.default_rng(0), np.zeros(3, int), 0
    for _ in range(limit + 5):
        if isinstance(space, gym.spaces.Discrete):
            action = rng.integers(0, space.n, 3).astype(np.int32)
        else:
            action = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        step = envs.step(action)
        ended = step.terminated | step.truncated
        length += 1
        np.testing.assert_array_equal(step.truncated, (length >= limit) & ~step.terminated)
        np.testing.assert_array_equal((step.obs != step.next_obs).any(axis=1), ended)
        if env_id == "CartPole-v1":
            # The successor of the true state: x' = x + 0.02 ẋ holds at every row, the last of an episode too.
            np.testing.assert_allclose(step.next_obs[:, 0], obs[:, 0] + 0.02 * obs[:, 1], atol=1e-6)
            np.testing.assert_array_equal(step.reward, 1)
            assert (np.abs(step.obs[ended]) <= 0.05).all()
        obs, ends = step.obs, ends + ended.sum()
        length[ended] = 0
    assert ends >= 3
    envs.close()


def test_seeds_rebuild_the_pool():
    envs = EnvPoolEnvs("CartPole-v1", 2, seed=1)
    a, _ = envs.reset([5, 6])
    b, _ = envs.reset([5, 6])
    c, _ = envs.reset()
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()
