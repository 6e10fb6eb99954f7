"""What make_vec_env, get_env and training_env give has Stable-Baselines3's surface; VecNormalize, Monitor."""

import csv
import random

import gymnasium as gym
import numpy as np
import pytest
from worlds import LENGTH, Counting, Masked

import actrix
from actrix import (
    PPO,
    SAC,
    BaseCallback,
    DummyVecEnv,
    Monitor,
    SettingError,
    SubprocVecEnv,
    VecNormalize,
    check_env,
    evaluate_policy,
    load_results,
    make_vec_env,
    set_random_seed,
)
from actrix.core.spaces import UnsupportedSpaceError
from actrix.envs import build
from actrix.envs.guard import EnvError

SMALL = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs={"net_arch": [4]})


def test_the_loop_of_stable_baselines():
    env = make_vec_env(Counting, 2)
    obs = env.reset()
    assert obs.shape == (2, 2)
    for t in range(1, LENGTH + 1):
        obs, rewards, dones, infos = env.step([0, 1])
        assert rewards.tolist() == [t, t]
        assert dones.all() == (t == LENGTH)
        assert infos[1]["step"] == t
    assert obs[:, 0].tolist() == [0, 0]  # of the new episodes
    assert infos[0]["terminal_observation"][0] == LENGTH
    assert infos[0]["TimeLimit.truncated"] is False
    env.step_async([0, 0])
    assert env.step_wait()[1].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"actions have shape \(3,\); expected \(2,\)"):
        env.step([0, 0, 0])


def test_a_time_limit_is_told_apart():
    env = make_vec_env(Counting, 1, env_kwargs={"truncate": True})
    env.reset()
    infos = [env.step([0])[3][0] for _ in range(LENGTH)]
    assert infos[-1]["TimeLimit.truncated"] is True


def test_environments_are_reached():
    env = make_vec_env(Counting, 3, wrapper_class=gym.wrappers.OrderEnforcing)
    env.set_attr("level", 5, indices=[0, 2])
    assert env.get_attr("level") == [5, 0, 5]
    assert env.env_method("hello", 1) == [6, 1, 6]
    assert env.env_method("hello", x=1, indices=1) == [1]
    assert env.env_is_wrapped(gym.wrappers.OrderEnforcing) == [True] * 3
    assert env.env_is_wrapped(Monitor, 0) == [False]
    assert env.has_attr("level")
    assert not env.has_attr("depth")
    assert (env.num_envs, env.render_mode, env.action_space.n) == (3, "rgb_array", 3)
    assert env.reset()[:, 1].tolist() == [5, 0, 5]
    assert env.render().shape == (8, 8, 3)  # two by two
    with pytest.warns(UserWarning, match="render_mode is 'rgb_array'"):
        assert env.render("human") is None
    assert env.seed(3) == env.seed(3)
    assert env.unwrapped is env
    env.close()


class Optional(Counting):
    """Its first observation is an option of reset."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = (options or {}).get("start", 0)
        return self._obs(), {}


def options_reach(env):
    env.set_options({"start": 2})
    VecNormalize(env).seed(0)  # wrappers and what they wrap ask for one reset
    assert env.reset()[:, 0].tolist() == [2] * env.num_envs
    env.set_options([{"start": 1}] + [{}] * (env.num_envs - 1))
    assert env.reset()[:, 0].tolist() == [1] + [0] * (env.num_envs - 1)
    assert env.reset()[:, 0].tolist() == [0] * env.num_envs


def test_options_of_the_next_reset():
    options_reach(make_vec_env(Optional, 2))


def test_environments_in_processes_are_asked_one_by_one():
    env = make_vec_env(Optional, 2, vec_env_cls=SubprocVecEnv, monitor_kwargs={"allow_early_resets": True})
    try:
        assert isinstance(env, SubprocVecEnv)
        assert env.env_method("hello", 1) == [1, 1]
        env.set_attr("level", 2)
        env.set_attr("level", 5, indices=[-1])
        assert env.get_attr("level") == [2, 5]
        assert env.get_attr("level", 0) == [2]
        assert env.has_attr("level")
        assert not env.has_attr("depth")
        assert env.env_is_wrapped(Monitor, [1]) == [True]
        assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 2
        options_reach(env)
    finally:
        env.close()


class Curriculum(BaseCallback):
    """Raises the level of the environments after the first chunk."""

    def _on_rollout_end(self):
        self.training_env.set_attr("level", 1)
        assert self.training_env.env_method("hello", 0) == [1, 1]


def test_a_curriculum_reaches_training():
    env = make_vec_env(Counting, 2)
    model = PPO("MlpPolicy", env, **SMALL)
    assert model.get_env() is env
    model.learn(32, callback=Curriculum())
    assert model.runner._obs[:, 1].tolist() == [1, 1]


def test_compiled_environments_say_why_not():
    model = PPO("MlpPolicy", "CartPole-v1", **SMALL)
    env = model.get_env()
    obs = env.reset()
    action, _ = model.predict(obs)
    assert env.step(action)[1].tolist() == [1.0]
    assert env.render_mode is None
    for use in (lambda: env.get_attr("x"), lambda: env.set_attr("x", 1), lambda: env.env_method("x")):
        with pytest.raises(AttributeError, match='backend="gymnasium"'):
            use()
    assert PPO("MlpPolicy", env, **SMALL).runner.backend == "jax"  # it trains compiled, all the same


def test_dummy_and_subproc():
    env = DummyVecEnv([Counting, lambda: Counting(truncate=True)])
    env.reset()
    infos = [env.step([0, 0])[3] for _ in range(LENGTH)][-1]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    with pytest.raises(TypeError, match="functions that make an environment each"):
        DummyVecEnv([Counting()])
    processes = SubprocVecEnv([Counting, Counting])
    try:
        assert processes.reset().shape == (2, 2)
    finally:
        processes.close()
    with pytest.raises(
        ValueError, match=r"cannot find context for 'no_method' \(start_method\): .*forkserver"
    ):
        SubprocVecEnv([Counting], start_method="no_method")
    assert make_vec_env(Counting, 2, vec_env_cls=DummyVecEnv).num_envs == 2


# ------------------------------------------------------------------ VecNormalize


def test_vec_normalize_is_the_models_own_normalisation(tmp_path):
    env = VecNormalize(make_vec_env(Counting, 2), clip_obs=5.0)
    model = PPO("MlpPolicy", env, **SMALL).learn(32)
    plain = PPO("MlpPolicy", make_vec_env(Counting, 2), normalize=True, clip_obs=5.0, **SMALL).learn(32)
    for name, value in plain.get_parameters().items():
        np.testing.assert_array_equal(model.get_parameters()[name], value)
    assert model.get_vec_normalize_env() is env
    assert env.obs_rms.count > 32
    seen = env.normalize_obs(np.array([[3.0, 0.0]]))
    np.testing.assert_allclose(
        seen, (np.array([[3.0, 0]]) - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + 1e-8), 1e-5
    )
    np.testing.assert_allclose(env.unnormalize_obs(seen), [[3.0, 0.0]], atol=1e-4)
    rewards = np.array([0.01, -0.02])
    np.testing.assert_allclose(env.unnormalize_reward(env.normalize_reward(rewards)), rewards, rtol=1e-5)
    env.save(tmp_path / "vec_normalize.pkl")
    model.save(tmp_path / "model")

    loaded = VecNormalize.load(tmp_path / "vec_normalize.pkl", make_vec_env(Counting, 2))
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)  # before a model has it
    loaded.training = loaded.norm_reward = False
    again = PPO.load(tmp_path / "model", env=loaded)
    before = again.get_parameters()
    assert evaluate_policy(again, loaded, 2)[0] == 6.0  # rewards as the environment gives them
    for name, value in before.items():
        np.testing.assert_array_equal(again.get_parameters()[name], value)
    np.testing.assert_array_equal(loaded.ret_rms.var, env.ret_rms.var)


def test_vec_normalize_refuses_what_it_is_not(tmp_path):
    venv = make_vec_env(Counting, 1)
    for wrong in ({"epsilon": 1e-3}, {"norm_obs_keys": ["x"]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VecNormalize(venv, **wrong)
    with pytest.raises(ValueError, match="gamma"):
        PPO("MlpPolicy", VecNormalize(venv, gamma=0.5), **SMALL)
    with pytest.raises(ValueError, match="does not normalise observations"):
        PPO("MlpPolicy", venv, **SMALL).set_env(VecNormalize(venv))
    (tmp_path / "other.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(
        ValueError, match=r"no statistics that VecNormalize\.save wrote: it is a pickle, which is not read\.$"
    ):
        VecNormalize.load(tmp_path / "other.pkl", venv)


# ------------------------------------------------------------------ Monitor


def test_monitor_writes_every_episode(tmp_path):
    env = make_vec_env(
        Counting, 2, monitor_dir=tmp_path, monitor_kwargs={"info_keywords": ("step",)}, start_index=3
    )
    PPO("MlpPolicy", env, **SMALL).learn(48)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3.monitor.csv", "4.monitor.csv"]
    with open(tmp_path / "3.monitor.csv") as file:
        assert file.readline().startswith('#{"t_start"')
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {(r["r"], r["l"], r["step"]) for r in rows} == {("6.0", "3", "3")}
    pytest.importorskip("pandas")
    table = load_results(tmp_path)
    assert len(table) == 16
    assert (table["r"] == 6).all()
    with pytest.raises(FileNotFoundError, match="no file that ends in"):
        load_results(tmp_path / "none")


def test_monitor_counts_and_refuses():
    env = Monitor(Counting(), allow_early_resets=False)
    env.reset()
    infos = [env.step(0)[4] for _ in range(LENGTH)]
    assert (infos[-1]["episode"]["r"], infos[-1]["episode"]["l"]) == (6.0, 3)
    assert "episode" not in infos[0]
    assert (env.get_episode_rewards(), env.get_episode_lengths(), env.get_total_steps()) == ([6.0], [3], 3)
    with pytest.raises(RuntimeError, match="needs reset: its episode has ended"):
        env.step(0)
    env.reset()
    with pytest.raises(RuntimeError, match="Tried to reset an environment before done"):
        env.reset()
    state = env.get_state()
    other = Monitor(Counting())
    other.set_state(state)
    assert other.get_state() == state


# ------------------------------------------------------------------ other names


def test_check_env():
    check_env(Counting())

    class Limited(Counting):
        def __init__(self):
            super().__init__()
            self.max_steps = LENGTH

    with pytest.warns(UserWarning, match="episodes ended after exactly 3 steps"):
        check_env(Limited())

    class Wrong(Counting):
        def step(self, action):
            return super().step(action)[:4]

    with pytest.raises(AssertionError, match="4 values"):
        check_env(Wrong(), warn=False)
    with pytest.raises(TypeError, match=r"inherit from gymnasium\.Env"):
        check_env("CartPole-v1")


def test_check_env_is_about_the_interface():
    class Graph(Counting):
        observation_space = gym.spaces.Graph(gym.spaces.Box(0, 1, (2,)), None)

        def _obs(self):
            return self.observation_space.sample()

    with pytest.warns(UserWarning, match=r"Graph.*not supported"):
        check_env(Graph())

    class Random(Counting):
        def _obs(self):
            return np.random.rand(2).astype(np.float32)  # noqa: NPY002 - not seeded

    check_env(Random())


def test_set_random_seed():
    set_random_seed(3)
    first = np.random.random()  # noqa: NPY002
    set_random_seed(3)
    assert np.random.random() == first  # noqa: NPY002


def test_models_seed_the_global_streams_too():
    PPO("MlpPolicy", "CartPole-v1", **SMALL)
    first = np.random.random()  # noqa: NPY002
    PPO("MlpPolicy", "CartPole-v1", **SMALL)
    assert np.random.random() == first  # noqa: NPY002


def test_environments_that_draw_from_the_global_streams_are_repeated():
    class Drawn(Counting):
        def _obs(self):
            return np.array([9 * np.random.random(), 9 * random.random()], np.float32)  # noqa: NPY002

    def trained(seed):
        model = PPO("MlpPolicy", make_vec_env(Drawn, 2), **SMALL | {"seed": seed}).learn(16)
        return model.runner._obs, model.get_parameters()[".net.pi_head.weight"]

    for one, two, other in zip(trained(0), trained(0), trained(1), strict=True):
        np.testing.assert_array_equal(one, two)
        assert (one != other).any()


def test_environments_that_draw_from_their_own_spaces_are_repeated():
    class Drawn(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 9, (2,), np.float32)

        def _obs(self):
            return self.observation_space.sample()

    def seen(seed):
        env = make_vec_env(Drawn, 2, seed=seed)
        return np.stack([env.reset(), env.step([0, 0])[0]])

    np.testing.assert_array_equal(seen(4), seen(4))
    assert (seen(4) != seen(5)).all()
    assert (seen(4)[:, 0] != seen(4)[:, 1]).all()


def test_a_wrapper_that_is_not_needed_leaves_the_environments_as_they_are():
    env = make_vec_env(Counting, 1)
    assert actrix.VecCheckNan(env) is env


@pytest.mark.parametrize(("given", "taken"), [("spawn", "spawn"), (None, "forkserver")])
def test_processes_are_started_as_asked(monkeypatch, given, taken):
    asked = []

    def started(cls, makers, options):
        asked.append(options["context"])
        return gym.vector.SyncVectorEnv(makers)

    monkeypatch.setattr(build, "started", started)
    SubprocVecEnv([Counting], start_method=given)
    make_vec_env(Counting, 1, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": given})
    assert asked == [taken] * 2


class Parts(Counting):
    action_space = gym.spaces.Dict(turn=gym.spaces.Discrete(3), push=gym.spaces.Box(-1, 1, (2,)))

    def step(self, action):
        assert action in self.action_space
        return super().step(action["turn"])


@pytest.mark.parametrize("kind", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.slow)])
def test_any_action_space_is_stepped_and_refused_by_a_model(kind):
    env = kind([Parts] * 2)
    try:
        env.reset()
        assert env.step([env.action_space.sample() for _ in range(2)])[1].tolist() == [1, 1]
        with pytest.raises(
            UnsupportedSpaceError, match=r"action space is Dict; supported are .*ActionWrapper"
        ):
            PPO("MlpPolicy", env, **SMALL)
    finally:
        env.close()


def test_only_numbers_are_normalised():
    counts = lambda: gym.wrappers.TransformObservation(
        Counting(), lambda x: int(x[0]), gym.spaces.Discrete(9)
    )
    with pytest.raises(ValueError, match=r"only supports observations with numbers .*norm_obs=False"):
        VecNormalize(make_vec_env(counts, 1))
    assert VecNormalize(make_vec_env(counts, 1), norm_obs=False).settings()["normalize_reward"]


def test_evaluation_with_and_without_masks():
    """An illegal action raises."""
    model = PPO("MlpPolicy", make_vec_env(Masked, 1), **SMALL)
    evaluate_policy(model, make_vec_env(Masked, 1), 9, deterministic=False, seed=0)
    with pytest.raises(EnvError, match="an illegal action"):
        evaluate_policy(model, make_vec_env(Masked, 1), 9, deterministic=False, seed=0, use_masking=False)


class Named(VecNormalize):
    def __init__(self, venv, name):
        super().__init__(venv)
        setattr(self, name, name)


def test_attributes_of_an_inner_vector_environment_are_had_by_the_outer_one():
    inner = Named(Named(make_vec_env(Counting, 1), "a"), "b")
    outer = actrix.VecFrameStack(make_vec_env(Counting, 1), 2)
    assert (inner.a, Named(inner, "c").b) == ("a", "b")
    with pytest.raises(AttributeError, match="Named and Named inside have one each"):
        _ = Named(Named(Named(outer, "a"), "a"), "c").a
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = inner.nothing


class Pictures(gym.Env):
    """Channels last; the first pixel row tells the step."""

    observation_space = gym.spaces.Box(0, 255, (12, 10, 2), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        return self._see(), 1.0, self.t == LENGTH, False, {}

    def _see(self):
        return np.arange(240, dtype=np.uint8).reshape(12, 10, 2) // (self.t + 1)


def test_images_are_shown_with_the_channels_first_and_trained_on_as_they_are():
    plain = make_vec_env(Pictures, 2)
    env = actrix.VecTransposeImage(plain)
    np.testing.assert_array_equal(env.reset(), np.moveaxis(plain.reset(), -1, 1))
    assert env.observation_space.shape == env.step([0, 0])[0].shape[1:] == (2, 12, 10)
    model = PPO("CnnPolicy", plain, **SMALL)
    shown = model.get_env()
    assert actrix.is_vecenv_wrapped(shown, actrix.VecTransposeImage)
    assert model.observation_space.shape == (12, 10, 2)
    obs = shown.reset()
    np.testing.assert_array_equal(
        model.policy.predict_values(obs), model.policy.predict_values(plain.reset())
    )
    assert PPO("CnnPolicy", env, **SMALL).get_env() is env
    for played in (shown, VecNormalize(env, norm_obs=False)):
        assert evaluate_policy(model, played, 2, return_episode_rewards=True)[1] == [LENGTH, LENGTH]
    assert actrix.VecTransposeImage(plain, skip=True).reset().shape == (2, 12, 10, 2)
    with pytest.raises(ValueError, match="without an image"):
        actrix.VecTransposeImage(make_vec_env(Counting, 1))


def test_images_are_standardised_instead_of_divided_by_255():
    env = VecNormalize(make_vec_env(Pictures, 2))
    build = lambda env, **kwargs: PPO(
        "CnnPolicy", env, **SMALL | {"policy_kwargs": {"net_arch": [4], **kwargs}}
    )
    with pytest.raises(SettingError, match="divides images by 255, VecNormalize standardises"):
        build(env, normalize_images=True)
    build(VecNormalize(env.venv, norm_obs=False), normalize_images=True)
    assert build(env).acting.obs_moments == (None,)  # divided, unless it is said otherwise
    plain = build(make_vec_env(Pictures, 2), normalize_images=False)
    obs = env.venv.reset()
    scaled = (obs / 255).astype(np.float32)
    assert plain.acting.net.encoder.cnns[0].scale == 1
    np.testing.assert_allclose(
        plain.acting.net.encoder(obs[0]), 255 * plain.acting.net.encoder(scaled[0]), rtol=1e-4
    )
    model = build(env, normalize_images=False).learn(16)
    assert env.obs_rms.mean.shape == (12, 10, 2)
    assert env.obs_rms.count > 16
    np.testing.assert_allclose(env.normalize_obs(obs).mean(), 0, atol=3)
    assert (
        SAC("CnnPolicy", None, policy_kwargs={"normalize_images": False}).algorithm.network.normalize_images
        is False
    )
    assert model.predict(obs)[0].shape == (2,)


def test_normalisation_inside_of_transposed_images_is_the_models():
    both = gym.spaces.Dict(picture=Pictures.observation_space, speed=gym.spaces.Box(-1, 1, (3,)))
    env = make_vec_env(lambda: gym.wrappers.TransformObservation(
        Pictures(), lambda x: {"picture": x, "speed": np.ones(3, np.float32)}, both), 1)  # fmt: skip
    inner = VecNormalize(env)
    model = PPO("MultiInputPolicy", actrix.VecTransposeImage(inner), **SMALL)
    assert model.get_vec_normalize_env() is inner
    assert model.algorithm.normalize_obs
    with pytest.raises(ValueError, match=r"write VecNormalize\(VecExtractDictObs"):
        actrix.VecExtractDictObs(inner, "speed")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"vec_env_kwargs": {"start_method": "no"}, "vec_env_cls": SubprocVecEnv}, "take one of"),
        ({"monitor_dir": __file__}, "is a file; name a folder"),
        ({"start_index": 2}, "give that too"),
    ],
)
def test_arguments_without_effect_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_vec_env(Counting, 1, **wrong)


def test_processes_alone_have_a_start_method():
    with pytest.raises(TypeError, match="DummyVecEnv takes none"):
        make_vec_env(Counting, 1, vec_env_kwargs={"start_method": None})


def test_a_monitor_without_files():
    env = make_vec_env(Counting, 1, monitor_kwargs={"allow_early_resets": False})
    assert env.get_attr("allow_early_resets") == [False]
    env.reset()  # the first, though masks were looked for by one
    env.step([0])
    with pytest.raises(EnvError, match="Tried to reset an environment before done"):
        env.reset()
