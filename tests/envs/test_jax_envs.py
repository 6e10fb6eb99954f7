import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.core.spaces import from_env_action
from actrix.envs.base import HostEnv, JaxEnv, step_keys
from actrix.envs.classic import CLASSIC, ClassicEnv, TimedState
from actrix.envs.jax_envs import GymnaxEnv, HostJax, gymnax_ids, jax_env, vector_reset, vector_step
from actrix.envs.make import make_vec_env

GYMNAX = pytest.mark.skipif(not gymnax_ids(), reason="needs gymnax")
# Where states are drawn from (Acrobot at speeds a policy reaches: at 28 rad/s float32 itself is off by 6e-4).
BOUNDS = {
    "CartPole-v1": ([-2.45, -3, -0.22, -3], [2.45, 3, 0.22, 3]),
    "Pendulum-v1": ([-np.pi, -8], [np.pi, 8]),
    "Acrobot-v1": ([-np.pi, -np.pi, -2, -4], [np.pi, np.pi, 2, 4]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
}


def states_and_actions(env_id, n=1500):
    """Random states, a tenth of the entries exactly on a bound, and random actions."""
    rng = np.random.default_rng(0)
    low, high = (np.array(b, np.float32) for b in BOUNDS[env_id])
    states = rng.uniform(low, high, (n, len(low))).astype(np.float32)
    edge = np.where(rng.random(states.shape) < 0.5, low, high)
    states = np.where(rng.random(states.shape) < 0.1, edge, states)
    space = ClassicEnv(env_id).spec.action_space
    space.seed(0)
    return states, np.stack([space.sample() for _ in range(n)])


def gymnasium_steps(env_id, states, actions):
    env, rows = gym.make(env_id, disable_env_checker=True).unwrapped, []
    env.reset(seed=0)
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = np.array(state, np.float64), None
        rows.append(env.step(action)[:3])
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("env_id", sorted(CLASSIC))
def test_a_step_equals_gymnasiums(env_id):
    states, actions = states_and_actions(env_id)
    obs, reward, terminated = gymnasium_steps(env_id, states, actions)
    t = jnp.zeros(len(states), jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(states))
    step = jax.jit(jax.vmap(ClassicEnv(env_id).step))
    _, jobs, jreward, jterminated, jtruncated = step(keys, TimedState(states, t), actions)
    np.testing.assert_allclose(jobs, obs, atol=1e-5)
    np.testing.assert_allclose(jreward, reward, atol=1e-5)
    np.testing.assert_array_equal(jterminated, terminated)
    assert not jtruncated.any()
    if env_id != "Pendulum-v1":
        assert 0 < terminated.mean() < 0.9


@pytest.mark.parametrize("env_id", sorted(CLASSIC))
def test_starts_limit_and_spaces_are_gymnasiums(env_id):
    env, twin = ClassicEnv(env_id), gym.make(env_id, disable_env_checker=True)
    assert env.spec.max_episode_steps == twin.spec.max_episode_steps
    assert env.spec.observation_space == twin.observation_space
    assert env.spec.action_space == twin.action_space
    _, obs, _ = vector_reset(env, step_keys(jax.random.key(0), 0, 4000))
    ours, theirs = np.asarray(obs), np.stack([twin.reset(seed=i)[0] for i in range(1000)])
    spread = theirs.std(axis=0)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.15 * spread.max())
    np.testing.assert_allclose(ours.std(axis=0), spread, atol=0.06 * spread.max())
    np.testing.assert_allclose(ours.min(axis=0), theirs.min(axis=0), atol=0.05 * spread.max())
    np.testing.assert_allclose(ours.max(axis=0), theirs.max(axis=0), atol=0.05 * spread.max())


@pytest.mark.parametrize("env_id", ["MountainCar-v0", pytest.param("DiscountingChain-bsuite", marks=GYMNAX)])
def test_the_time_limit_truncates_exactly(env_id):
    envs = HostJax(jax_env(env_id, 7), 2)
    envs.reset()
    flags = [envs.step(np.zeros(2, np.int32)) for _ in range(15)]
    assert [bool(s.truncated.all()) for s in flags] == [t % 7 == 6 for t in range(15)]
    assert not any(s.terminated.any() for s in flags)


def test_termination_wins_over_truncation():
    envs = HostJax(ClassicEnv("CartPole-v1", 10), 8)
    envs.reset()
    steps = [envs.step(np.zeros(8, np.int32)) for _ in range(60)]
    terminated, truncated = (np.stack([getattr(s, f) for s in steps]) for f in ("terminated", "truncated"))
    assert terminated.any()
    assert truncated.any()
    assert not (terminated & truncated).any()
    for s in steps:
        ended = s.terminated | s.truncated
        np.testing.assert_array_equal((s.obs != s.next_obs).any(axis=1), ended)
        assert (np.abs(s.obs[ended]) <= 0.05).all()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_host_and_compiled_see_the_same(env_id):
    env, n, key = ClassicEnv(env_id, 13), 3, jax.random.key(4)
    shape = (40, n, *env.spec.action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    if isinstance(env.spec.action_space, gym.spaces.Discrete):
        actions = (actions > 0).astype(np.int32)

    def scan(key):
        state, obs, _ = vector_reset(env, step_keys(key, 0, n))

        def one(state, row):
            return vector_step(env, state, row[1], step_keys(key, row[0], n))

        return obs, jax.lax.scan(one, state, (jnp.arange(1, 41), actions))[1]

    obs, steps = jax.jit(scan)(key)
    host = HostJax(env, n, key)
    assert isinstance(host, HostEnv)
    np.testing.assert_array_equal(host.reset()[0], obs)
    for t in range(40):
        step = host.step(actions[t])
        for ours, theirs in zip(step[:5], steps[:5], strict=True):
            np.testing.assert_allclose(ours, theirs[t], rtol=1e-5, atol=1e-6)


def test_seeds_repeat_a_run():
    host = HostJax(ClassicEnv("CartPole-v1"), 3)
    a, b, c = host.reset([1, 2, 3])[0], host.reset([1, 2, 3])[0], host.reset()[0]
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()
    with pytest.raises(RuntimeError, match="before reset"):
        HostJax(ClassicEnv("CartPole-v1"), 3).step(np.zeros(3, np.int32))


def test_actions_are_scaled_as_on_the_host():
    torque = np.array([[0.3], [-1.7]], np.float32)
    host = make_vec_env("Pendulum-v1", 2, backend="gymnasium")
    obs, _ = host.reset([1, 2])
    angle = np.arctan2(obs[:, 1], obs[:, 0])
    state = TimedState(jnp.stack([angle, obs[:, 2]], axis=1), jnp.zeros(2, jnp.int32))
    action = from_env_action(host.spec.action_space, torque)
    _, step = vector_step(ClassicEnv("Pendulum-v1"), state, action, step_keys(jax.random.key(0), 1, 2))
    np.testing.assert_allclose(step.next_obs, host.step(action).next_obs, atol=1e-5)


@GYMNAX
@pytest.mark.parametrize("env_id", ["Breakout-MinAtar", "MemoryChain-bsuite", "Reacher-misc"])
def test_gymnax_environments_run_under_strict_types(env_id):
    env = jax_env(env_id)
    assert isinstance(env, JaxEnv)
    assert hash(env) == hash(GymnaxEnv(env_id))
    space = env.spec.action_space
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        envs = HostJax(env, 2)
        obs, _ = envs.reset()
        for _ in range(3):
            step = envs.step(np.stack([space.sample()] * 2))
    assert obs.dtype == step.next_obs.dtype == np.float32
    assert obs.shape == step.obs.shape == (2, *env.spec.observation_space.shape)


@GYMNAX
def test_parameters_and_unknown_names():
    env = jax_env("Reacher-misc", 5, dt=0.1)
    assert env.params == (("dt", 0.1),)
    assert env.spec.max_episode_steps == 5
    with pytest.raises(ValueError, match="no usable environment 'Nope'"):
        jax_env("Nope")
    with pytest.raises(ValueError, match="takes no parameters"):
        jax_env("CartPole-v1", gravity=1.0)
    with pytest.raises(ValueError, match="is not one of"):
        ClassicEnv("Nope")


@pytest.mark.parametrize("env_id", sorted(CLASSIC))
def test_strict_types(env_id):
    env = ClassicEnv(env_id)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state, _, _ = vector_reset(env, step_keys(jax.random.key(0), 0, 2))
        space = env.spec.action_space
        action = jnp.zeros((2, *space.shape), jnp.float32 if space.shape else jnp.int32)
        _, step = vector_step(env, state, action, step_keys(jax.random.key(0), 1, 2))
    assert step.reward.dtype == jnp.float32
