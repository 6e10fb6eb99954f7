import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from toys import Counting, Line

from actrix import DQN
from actrix.cli.play import predictor
from actrix.data.datasets.play import record_episodes
from actrix.envs.base import HostEnv
from actrix.envs.guard import EnvError
from actrix.envs.gymnasium import GymnasiumEnvs
from actrix.envs.make import as_host_env, make_vec_env
from actrix.envs.masks import MaskKeeper

SEEDS = [3, 14, 15]


def leaves(obs):
    if isinstance(obs, dict):
        return [leaf for part in obs.values() for leaf in leaves(part)]
    return [leaf for part in obs for leaf in leaves(part)] if isinstance(obs, tuple) else [np.asarray(obs)]


def row(obs, i):
    return [leaf[i].tolist() for leaf in leaves(obs)]


def by_hand(kind, seed, steps):
    """Transitions of one environment, reset by hand."""
    env, rows = Counting(kind, copies=True), []
    obs, _ = env.reset(seed=seed)
    for t in range(steps):
        next_obs, reward, terminated, truncated, _ = env.step(5 + t % 3)
        rows.append((obs, reward, next_obs, terminated, truncated and not terminated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    return [
        ([x.tolist() for x in leaves(o)], r, [x.tolist() for x in leaves(n)], a, b) for o, r, n, a, b in rows
    ]


def by_adapter(envs, steps):
    """Valid transitions per environment; the action counts an environment's own valid rows."""
    obs, mask = envs.reset(SEEDS)
    assert mask is None
    rows, handed = [[] for _ in SEEDS], []
    resetting = np.zeros(len(SEEDS), bool)
    while min(map(len, rows)) < steps:
        step = envs.step(np.array([len(r) % 3 for r in rows], np.int32))
        valid = np.ones(len(SEEDS), bool) if step.valid is None else step.valid
        np.testing.assert_array_equal(valid, ~resetting)
        ended = step.terminated | step.truncated
        assert not (step.terminated & step.truncated).any()
        assert step.reward.dtype == np.float32
        for i in np.flatnonzero(~valid):
            assert step.reward[i] == 0
            assert not ended[i]
        for i in np.flatnonzero(valid):
            flags = bool(step.terminated[i]), bool(step.truncated[i])
            rows[i].append((row(obs, i), float(step.reward[i]), row(step.next_obs, i), *flags))
        resetting = ended if envs.mode is AutoresetMode.NEXT_STEP else resetting
        handed.append((step, [leaf.copy() for leaf in leaves((step.obs, step.next_obs))]))
        obs = step.obs
    for step, before in handed:
        for leaf, copy in zip(leaves((step.obs, step.next_obs)), before, strict=True):
            np.testing.assert_array_equal(leaf, copy)
    return [r[:steps] for r in rows]


@pytest.mark.parametrize("kind", ["box", "float64", "dict", "tuple", "discrete"])
@pytest.mark.parametrize("mode", [*AutoresetMode, "ours"])
def test_every_autoreset_mode_gives_the_transitions_of_a_hand_loop(mode, kind):
    if mode == "ours":
        envs = make_vec_env(Counting, len(SEEDS), env_kwargs={"kind": kind})
    else:
        # In SAME_STEP mode Gymnasium itself keeps a reference to the final observation.
        copies = mode is AutoresetMode.SAME_STEP
        makers = [lambda: Counting(kind, copies)] * len(SEEDS)
        envs = GymnasiumEnvs(SyncVectorEnv(makers, autoreset_mode=mode))
    assert isinstance(envs, HostEnv)
    expected = [by_hand(kind, seed, 40) for seed in SEEDS]
    got = by_adapter(envs, 40)
    for g, e in zip(got, expected, strict=True):
        for (go, gr, gn, *gf), (eo, er, en, *ef) in zip(g, e, strict=True):
            for a, b in zip(go + gn, eo + en, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-7)
            assert gr == er
            assert gf == ef
    assert {(a, b) for r in expected for *_, a, b in r} == {(False, False), (True, False), (False, True)}


def test_workers_give_the_same_transitions():
    envs = make_vec_env(Counting, len(SEEDS), vec_env_cls=AsyncVectorEnv)
    try:
        assert by_adapter(envs, 12) == by_adapter(make_vec_env(Counting, len(SEEDS)), 12)
    finally:
        envs.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_our_vector_steps_as_gymnasiums_does(env_id):
    ours, theirs = (
        make_vec_env(env_id, 3, 0, None, vec_env_cls=cls, backend="gymnasium")
        for cls in (None, SyncVectorEnv)
    )
    assert type(ours.envs) is not type(theirs.envs)
    rng, same = np.random.default_rng(0), lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(ours.reset(), theirs.reset())
    for _ in range(250):
        if isinstance(ours.spec.action_space, gym.spaces.Box):
            action = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        else:
            action = rng.integers(0, ours.spec.action_space.n, 3, np.int32)
        same(ours.step(action), theirs.step(action))


def test_a_mask_that_one_environment_forgets_is_named():
    class Forgets(Line):
        def step(self, action):
            *step, info = super().step(action)
            return *step, {} if self.np_random.bit_generator.seed_seq.entropy == 7 else info

    envs = make_vec_env(Forgets, 3, env_kwargs={"by": "info"})
    envs.reset([1, 2, 7])
    with pytest.raises(EnvError, match="environment 2 at step 1: info has no 'action_mask'"):
        envs.step(np.array([1, 1, 1], np.int32))


def test_masks_of_one_shared_array_are_kept_apart():
    shared = np.zeros(3, bool)

    class Shares(Line):
        def _note(self, info):
            shared[:] = info["action_mask"]
            return {"action_mask": shared}

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return obs, self._note(info)

        def step(self, action):
            *step, info = super().step(action)
            return *step, self._note(info)

    ours, apart = (make_vec_env(cls, 3, env_kwargs={"by": "info"}) for cls in (Shares, Line))
    for action in (None, [1, 2, 1], [1, 1, 2], [2, 1, 1]):
        mine, theirs = (
            (e.reset([0, 1, 2]) if action is None else e.step(np.array(action))) for e in (ours, apart)
        )
        jax.tree.map(np.testing.assert_array_equal, tuple(mine), tuple(theirs))


def test_dtypes_are_those_jax_holds():
    obs, _ = make_vec_env(Counting, 2, env_kwargs={"kind": "float64"}).reset()
    assert obs.dtype == np.float32
    obs, _ = make_vec_env(Counting, 2, env_kwargs={"kind": "dict"}).reset()
    assert (obs["a"].dtype, obs["b"].dtype) == (np.float32, np.int32)
    obs, _ = make_vec_env(Counting, 2, env_kwargs={"kind": "tuple"}).reset()
    assert isinstance(obs, tuple)
    assert obs[1].dtype == np.int8


def test_time_limit_truncates_with_the_exact_final_observation():
    envs = make_vec_env("Pendulum-v1", 2, backend="gymnasium")
    assert envs.spec.max_episode_steps == 200
    twin = gym.make("Pendulum-v1", disable_env_checker=True)
    envs.reset([1, 2])
    twin.reset(seed=2)
    for _ in range(200):
        step = envs.step(np.full((2, 1), 0.5, np.float32))
        final, *_, truncated, _ = twin.step(np.ones(1, np.float32))  # policy 0.5 is torque 1
    assert truncated
    assert step.truncated.all()
    assert not step.terminated.any()
    np.testing.assert_array_equal(step.next_obs[1], final)
    assert (step.obs != step.next_obs).any(axis=1).all()


def test_continuous_actions_are_scaled_and_clipped():
    seen = []

    class Listens(Counting):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)

        def step(self, action):
            seen.append(action)
            return self._obs(), 0.0, False, False, {}

    envs = make_vec_env(Listens)
    envs.reset()
    envs.step(np.array([[0.5, 0.0]], np.float32))
    envs.step(np.array([[-7.0, 9.0]], np.float32))
    np.testing.assert_allclose(seen, [[1.0, 5.0], [-2.0, 10.0]])
    assert seen[0].dtype == np.float64


@pytest.mark.parametrize("by", ["method", "info"])
@pytest.mark.parametrize("mode", [*AutoresetMode, "ours"])
def test_masks_follow_the_observations(mode, by):
    if mode == "ours":
        envs = make_vec_env(Line, 3, env_kwargs={"by": by})
    else:
        envs = as_host_env(SyncVectorEnv([lambda: Line(by)] * 3, autoreset_mode=mode))
    assert envs.spec.mask_size == 3
    obs, mask = envs.reset([0, 1, 2])
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        for x, m in zip(obs, mask, strict=True):
            assert m.tolist() == ([True] * 3 if x == 3 else [bool(x > 0), True, True])
        step = envs.step(np.array([rng.choice(np.flatnonzero(m)) for m in mask], np.int32))
        for x, m in zip(step.next_obs, step.next_mask, strict=True):
            assert m.tolist() == ([True] * 3 if x == 3 else [bool(x > 0), True, True])
        ends += step.terminated.sum()
        obs, mask = step.obs, step.mask
    assert ends > 5


def test_taxi_offers_masks():
    envs = make_vec_env("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3", 2, seed=0)
    _, mask = envs.reset()
    assert envs.spec.mask_size == 6
    assert mask.dtype == bool
    assert mask.shape == (2, 6)
    assert not mask.all()


@pytest.mark.parametrize("by", ["method", "info"])
def test_bad_masks_are_named(by):
    envs = make_vec_env(Line, 2, env_kwargs={"by": by, "broken": "empty"})
    envs.reset()
    envs.step(np.array([1, 2]))
    with pytest.raises(EnvError, match="environment 1 at step 2: the action mask allows no action"):
        envs.step(np.array([1, 2]))
    envs = make_vec_env(Line, 2, env_kwargs={"by": by, "broken": "length"})
    with pytest.raises(EnvError, match=r"environment 0 at step 0: .* shape \(4,\); .* needs \(3,\)"):
        envs.reset()


@pytest.mark.parametrize("by", ["method", "info"])
def test_a_kept_mask_is_the_current_states(by):
    """Line refuses illegal actions itself."""
    env = MaskKeeper(gym.wrappers.TimeLimit(Line(by), 20))
    seen = set()
    for episode in record_episodes(lambda *_: (env.sample_legal(), None), env, steps=200, seed=3):
        seen |= set(zip(episode.obs.tolist(), episode.action.tolist(), strict=False))
    legal = {(x, a) for x in range(3) for a in range(3) if (x, a) != (0, 0)}
    assert seen == legal, "every legal action is drawn, no other"


def test_the_command_line_plays_with_masks():
    env = MaskKeeper(gym.wrappers.TimeLimit(Line(), 20))
    model = DQN("MlpPolicy", make_vec_env(Line, 1, backend="gymnasium"), policy_kwargs={"net_arch": [4]})
    predict = predictor(model, env, deterministic=False)
    assert sum(len(e.action) for e in record_episodes(predict, env, steps=100)) == 100
