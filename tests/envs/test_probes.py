import gymnasium as gym
import jax
import numpy as np
import pytest

from actrix.envs import probes
from actrix.envs.base import JaxEnv
from actrix.envs.classic import ClassicEnv
from actrix.envs.jax_envs import HostJax

N = 64


def returns(env, policy, gamma=1.0, steps=12):
    """(first observations, returns) of the first episodes; the policy sees obs, first obs and mask."""
    envs = HostJax(env, N, 3)
    obs, mask = envs.reset()
    first, total, alive, memory = obs, np.zeros(N), np.ones(N, bool), obs.copy()
    for t in range(steps):
        step = envs.step(policy(obs, memory, mask))
        total += gamma**t * alive * step.reward
        alive &= ~(step.terminated | step.truncated)
        obs, mask = step.obs, step.mask
        memory = np.where(alive[:, None], memory, obs)
    return first, total


def always(action):
    return lambda obs, memory, mask: np.full(N, action, np.int32)


def by_sign(obs, memory, mask):
    return (obs[:, 0] > 0).astype(np.int32)


def by_memory(obs, memory, mask):
    return (memory[:, 0] > 0).astype(np.int32)


ALL = [
    probes.ConstantReward(),
    probes.ObsDependent(),
    probes.Discount(),
    probes.ActionReward(),
    probes.ActionObs(),
    probes.InfiniteTimeLimit(),
    probes.TMaze(),
    probes.ContinuousTarget(),
    probes.Masked(),
    probes.ConstantReward(continuous=True),
    probes.InfiniteTimeLimit(continuous=True),
]


@pytest.mark.parametrize("env", ALL, ids=repr)
def test_one_shape_family(env):
    assert isinstance(env, JaxEnv)
    assert env == type(env)(**vars_of(env))
    hash(env)
    assert env.spec.observation_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    assert env.spec.action_space.shape in ((), (1,))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        envs = HostJax(env, 2)
        obs, mask = envs.reset()
        step = envs.step(np.zeros((2, *env.spec.action_space.shape), env.spec.action_space.dtype))
    assert obs.dtype == step.obs.dtype == np.float32
    assert (mask is None) == (env.spec.mask_size is None)


def vars_of(env):
    return {name: getattr(env, name) for name in env.__dataclass_fields__}


def test_constant_reward():
    assert (returns(probes.ConstantReward(), always(0))[1][:, None] == 1).all()


def test_obs_dependent():
    first, total = returns(probes.ObsDependent(), always(0), steps=1)
    np.testing.assert_array_equal(first[:, 0], total)
    assert set(total) == {-1, 1}


def test_discount():
    assert (returns(probes.Discount(), always(1), gamma=0.5, steps=2)[1] == 0.5).all()


def test_action_reward():
    assert (returns(probes.ActionReward(), always(1), steps=1)[1] == 1).all()
    assert (returns(probes.ActionReward(), always(0), steps=1)[1] == 0).all()


def test_action_obs():
    assert (returns(probes.ActionObs(), by_sign, steps=1)[1] == 1).all()
    assert 0.2 < returns(probes.ActionObs(), always(1), steps=1)[1].mean() < 0.8


def test_infinite_time_limit():
    envs = HostJax(probes.InfiniteTimeLimit(steps=4), 2)
    envs.reset()
    steps = [envs.step(np.zeros(2, np.int32)) for _ in range(8)]
    assert [bool(s.truncated.all()) for s in steps] == [False, False, False, True] * 2
    assert not any(s.terminated.any() for s in steps)
    assert all((s.reward == 1).all() for s in steps)


@pytest.mark.parametrize("length", [1, 5])
def test_t_maze_needs_memory(length):
    env = probes.TMaze(length=length)
    assert (returns(env, by_memory)[1] == 1).all()
    for policy in (by_sign, always(0), always(1)):
        assert 0.2 < returns(env, policy)[1].mean() < 0.8
    envs = HostJax(env, N)
    seen = [envs.reset()[0], *(envs.step(np.zeros(N, np.int32)).next_obs for _ in range(length))]
    assert set(seen[0][:, 0]) == {-1, 1}
    assert all((obs[:, 0] == 0).all() for obs in seen[1:])
    assert (seen[length][:, 1] == 1).all()


def test_continuous_target():
    best = returns(probes.ContinuousTarget(), lambda obs, *_: obs[:, :1] / 2, steps=1)[1]
    np.testing.assert_allclose(best, 0)
    zero = returns(probes.ContinuousTarget(), lambda obs, *_: 0 * obs[:, :1], steps=1)[1]
    np.testing.assert_allclose(zero, -0.25)


def test_masked():
    last_legal = returns(probes.Masked(), lambda obs, memory, mask: mask[:, 1].astype(np.int32), steps=1)[1]
    assert (last_legal == 1).all()
    illegal = returns(probes.Masked(), lambda obs, memory, mask: (~mask[:, 1]).astype(np.int32), steps=1)[1]
    assert set(illegal) == {-10, 0}


def test_velocities_are_hidden_alike():
    hidden = probes.MaskVelocity(ClassicEnv("CartPole-v1"))
    wrapped = probes.PositionOnly(gym.make("CartPole-v1", disable_env_checker=True))
    assert hidden.spec.observation_space == wrapped.observation_space
    assert hidden.spec.max_episode_steps == 500
    assert wrapped.reset(seed=0)[0].shape == (2,)
    a, b = HostJax(hidden, 2), HostJax(ClassicEnv("CartPole-v1"), 2)
    np.testing.assert_array_equal(a.reset()[0], b.reset()[0][:, [0, 2]])
    step = np.ones(2, np.int32)
    np.testing.assert_array_equal(a.step(step).next_obs, b.step(step).next_obs[:, [0, 2]])
