"""A script moves by its imports: success rates, statistics of some keys, what files leave out, names of internals."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from worlds import LENGTH, MEMORY, SMALL, Choosy, Counting

import actrix
from actrix import (
    DQN,
    PPO,
    SAC,
    ActionMasker,
    DictReplayBuffer,
    DummyVecEnv,
    EvalCallback,
    GoalSelectionStrategy,
    HerReplayBuffer,
    LinearSchedule,
    NStepReplayBuffer,
    ReplayBuffer,
    RMSpropTFLike,
    RolloutBuffer,
    SettingError,
    VecNormalize,
    VecTransposeImage,
    configure,
    make_vec_env,
)
from actrix.cli import main
from actrix.envs.vec.vecenv import VecEnv
from actrix.show.metrics import read_metrics

# ------------------------------------------------------------------ success


class Lucky(Counting):
    """Every third episode succeeds, and says so in its last step; the first says nothing."""

    def __init__(self, word="is_success"):
        super().__init__()
        self.word, self.played = word, 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        info["is_success"] = True  # no episode ends here
        if terminated:
            self.played += 1
            info = {} if self.played == 1 else {self.word: np.bool_(self.played % 3 == 0)}
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("cls", "settings"), [(PPO, SMALL), (DQN, MEMORY)], ids=["by chunks", "step by step"]
)
def test_success_rate_is_that_of_the_last_episodes_that_told(cls, settings, tmp_path):
    env = DummyVecEnv([Lucky])
    model = cls("MlpPolicy", env, stats_window_size=4, **settings).learn(32, checkpoint_dir=tmp_path)
    played = env.get_attr("played")[0]
    assert played == 32 // LENGTH == 10
    told = [n % 3 == 0 for n in range(2, played + 1)]
    assert model.run.metrics["rollout/success_rate"] == np.mean(told[-4:])
    assert list(model.ep_success_buffer) == told[-4:]
    again = cls("MlpPolicy", DummyVecEnv([Lucky]), stats_window_size=4, **settings)
    again.learn(32, resume_from=tmp_path)
    assert list(again.ep_success_buffer) == told[-4:]
    assert [row["t"] for row in again.ep_info_buffer] == [0.0] * 4  # none was played since


def test_success_rate_of_other_makes():
    # 16 rows are 5 episodes; 32 rows with those of resets, of which 24 are steps, are 8.
    for env, told in (
        (SyncVectorEnv([Lucky] * 2, autoreset_mode=AutoresetMode.SAME_STEP), 4),
        (SyncVectorEnv([Lucky] * 2, autoreset_mode=AutoresetMode.NEXT_STEP), 7),
        (make_vec_env(Lucky, 2, workers=2), 4),
    ):
        model = PPO("MlpPolicy", env, **SMALL | {"n_steps": 16}).learn(32)
        model.env.close()
        assert len(model.ep_success_buffer) == 2 * told
        assert sum(model.ep_success_buffer) == 2 * (told // 3)


def test_no_success_rate_where_nobody_tells():
    model = PPO("MlpPolicy", DummyVecEnv([Counting]), **SMALL).learn(8)
    assert "rollout/success_rate" not in model.run.metrics
    assert not model.ep_success_buffer


def test_a_success_that_is_no_number_is_named():
    class Wordy(Counting):
        def step(self, action):
            return *super().step(action)[:4], {"is_success": "yes"}

    with pytest.raises(
        ValueError, match=r"info\['is_success'\] is 'yes'; it must be True, False or a number"
    ):
        PPO("MlpPolicy", DummyVecEnv([Wordy]), **SMALL).learn(8)


def test_evaluations_log_their_success_rate(tmp_path):
    model = PPO("MlpPolicy", DummyVecEnv([Counting]), **SMALL)
    look = EvalCallback(
        DummyVecEnv([Lucky] * 2), n_eval_episodes=6, eval_freq=8, log_path=tmp_path, verbose=0
    )
    model.set_logger(configure(tmp_path, ["csv"]))
    model.learn(16, callback=look)
    model.logger.close()
    with np.load(tmp_path / "evaluations.npz") as file:
        saved = dict(file)
    # Two environments, three episodes each: of the first evaluation's the first is silent, the third succeeds.
    np.testing.assert_array_equal(saved["successes"][0], [0, 0, 1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(saved["successes"][1], [0, 0, 0, 0, 1, 1])
    rates = read_metrics(tmp_path)["eval/success_rate"]
    np.testing.assert_allclose(rates[~np.isnan(rates)], [1 / 2, 1 / 3])
    assert [len(x) for x in look.evaluations_results] == [6, 6]


def test_the_command_line_says_how_often_an_evaluation_succeeds(tmp_path, capsys):
    gym.register("Lucky-v0", entry_point=Lucky)
    try:
        path = PPO("MlpPolicy", "Lucky-v0", **SMALL).save(tmp_path / "m")
        assert main(["eval", str(path), "--episodes", "30"]) == 0
    finally:
        gym.registry.pop("Lucky-v0")
    # Ten environments: in each the first episode is silent, the third succeeds.
    assert "6.00 ± 0.00 over 30 episodes" in (said := capsys.readouterr().out)
    assert "success 50 % of the 20 that say" in said


# ------------------------------------------------------------------ statistics of some keys


class Moved(Counting):
    """Continuous actions, without effect."""

    action_space = spaces.Box(-1, 1, (1,))


class Two(gym.Env):
    """`a` counts, `b` is always 5."""

    observation_space = spaces.Dict(
        {"a": spaces.Box(0, 9, (1,)), "b": spaces.Box(0, 9, (2,)), "c": spaces.Discrete(2)}
    )
    action_space = spaces.Discrete(2)

    def _obs(self):
        return {"a": np.array([self.t], np.float32), "b": np.full(2, 5, np.float32), "c": 0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == LENGTH, False, {}


def test_some_keys_are_normalised_and_the_others_left(tmp_path):
    env = VecNormalize(DummyVecEnv([Two]), norm_reward=False, norm_obs_keys=["b"])
    assert (env.obs_rms["b"].count, env.obs_rms["b"].var.tolist()) == (
        np.float32(1e-4),
        [1, 1],
    )  # no model yet
    model = PPO("MultiInputPolicy", env, **SMALL).learn(1040)
    assert env.obs_rms["a"] is None
    np.testing.assert_allclose(env.obs_rms["b"].mean, [5, 5], rtol=1e-4)
    obs = {"a": np.array([[7.0]]), "b": np.array([[5.0, 5.0]]), "c": np.array([1])}
    seen = env.normalize_obs(obs)
    assert seen["a"] == 7
    np.testing.assert_allclose(seen["b"], 0, atol=0.1)
    np.testing.assert_allclose(env.unnormalize_obs(seen)["b"], 5, rtol=1e-5)
    loaded = PPO.load(model.save(tmp_path / "m"))
    assert loaded.norm_obs_keys == ("b",)
    np.testing.assert_array_equal(loaded.acting.obs_moments[1].mean, model.acting.obs_moments[1].mean)
    assert loaded.acting.obs_moments[0] is None
    env.save(tmp_path / "statistics.npz")
    read = VecNormalize.load(tmp_path / "statistics.npz", DummyVecEnv([Two]))
    assert (read.norm_obs_keys, read.obs_rms["a"]) == (("b",), None)
    PPO.load(tmp_path / "m", read)
    with pytest.raises(ValueError, match=r"norm_obs_keys=None\): this model has norm_obs_keys=\('b',\)"):
        PPO.load(tmp_path / "m", VecNormalize(DummyVecEnv([Two]), norm_reward=False))


def test_keys_that_cannot_be_normalised_are_refused():
    fits = r"must name keys of a Dict observation with numbers to normalise; here these are 'a', 'b'"
    for keys in (["d"], ["c"], [], ["a", "c"]):
        with pytest.raises(ValueError, match=fits):
            VecNormalize(DummyVecEnv([Two]), norm_obs_keys=keys)
        with pytest.raises(ValueError, match=fits):
            PPO("MultiInputPolicy", DummyVecEnv([Two]), normalize_obs=True, norm_obs_keys=keys, **SMALL)
    with pytest.raises(ValueError, match="here these are none"):
        VecNormalize(DummyVecEnv([Counting]), norm_obs_keys=["a"])
    with pytest.raises(SettingError, match="no effect with normalize_obs=False"):
        PPO("MultiInputPolicy", None, norm_obs_keys=["a"], **SMALL)
    with pytest.raises(SettingError, match="must be a list of names"):
        PPO("MultiInputPolicy", None, normalize_obs=True, norm_obs_keys="a", **SMALL)


# ------------------------------------------------------------------ files


def test_a_file_holds_how_training_is_told_of_unless_it_is_left_out(tmp_path):
    model = PPO("MlpPolicy", DummyVecEnv([Counting]), verbose=2, stats_window_size=7, **SMALL)
    told = lambda *names, **kwargs: (lambda m: (m.verbose, m.stats_window_size))(
        PPO.load(model.save(tmp_path / "m", *names), **kwargs)
    )
    assert told() == (2, 7)
    assert told(["verbose"]) == (0, 7)
    assert told(["verbose"], ["verbose"]) == (2, 7)
    assert told(["verbose", "stats_window_size", "replay_buffer"]) == (0, 100)
    assert told(None, None, verbose=1) == (1, 7)
    with pytest.raises(ValueError, match=r"exclude=\['gamma'\]: a model file always holds them"):
        model.save(tmp_path / "m", ["gamma", "seed"], ["seed"])
    with pytest.raises(ValueError, match="see save_replay_buffer"):
        model.save(tmp_path / "m", include=["replay_buffer"])


def test_the_policys_state_by_pytorchs_names():
    one, two = (PPO("MlpPolicy", DummyVecEnv([Counting]), **SMALL | {"seed": s}) for s in (0, 1))
    state = one.policy.state_dict()
    assert sum(x.size for x in one.policy.parameters()) == sum(x.size for x in state.values())
    two.policy.load_state_dict(state)
    for name, value in two.get_parameters().items():
        np.testing.assert_array_equal(value, state[name])
    obs = np.array([[1, 0]], np.float32)
    np.testing.assert_array_equal(one.policy.predict_values(obs), two.policy.predict_values(obs))
    with pytest.raises(ValueError, match="parameters do not match"):
        two.policy.load_state_dict({"x": 1})
    two.policy.load_state_dict({name: 0 * state[name] for name in list(state)[:1]}, strict=False)
    assert not two.get_parameters()[next(iter(state))].any()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rollout_buffer", "a callback's locals"), ("collect_rollouts", "reset_num_timesteps=False"),
        ("critic_target", "behind model.policy"), ("policy_class", "policy_kwargs"),
    ],
)  # fmt: skip
def test_internals_are_named_by_what_there_is_instead(name, says):
    with pytest.raises(AttributeError, match=says):
        getattr(PPO("MlpPolicy", None, **SMALL), name)


def test_modules_and_rows_are_named_by_what_there_is_instead():
    model = DQN("MlpPolicy", DummyVecEnv([Counting]), **MEMORY)
    with pytest.raises(AttributeError, match="JAX network, frozen as it was, with predict"):
        model.policy.features_extractor  # noqa: B018
    with pytest.raises(AttributeError, match=r"checkpoints .* hold the optimiser"):
        model.policy.optimizer  # noqa: B018
    with pytest.raises(AttributeError, match="no 'observations': its rows are the learner's"):
        model.replay_buffer.observations  # noqa: B018


class AdamW: ...


class Adam: ...


def test_adamw_decays_the_network_and_nothing_else():
    def parameters(**policy_kwargs):
        settings = MEMORY | {"policy_kwargs": {"net_arch": [4], **policy_kwargs}, "learning_rate": 0.01}
        model = SAC("MlpPolicy", DummyVecEnv([Moved]), **settings)
        before = model.get_parameters()
        model.learn(5)  # four are the random phase: one update
        return before, model.get_parameters(), model.runner.learners[0].training.own

    start, plain, own = parameters()
    _, decayed, its = parameters(optimizer_class=AdamW)
    off = parameters(optimizer_class=AdamW, optimizer_kwargs={"weight_decay": 0.0, "eps": 1e-8})[1]
    for name, value in plain.items():
        np.testing.assert_array_equal(off[name], value)
        if "target" not in name:
            expected = value - 0.01 * 0.01 * start[name]
            np.testing.assert_allclose(decayed[name], expected, rtol=0, atol=1e-6, err_msg=name)
    assert (
        sum("target" not in name and np.abs(decayed[name] - plain[name]).max() > 1e-5 for name in plain) > 4
    )
    assert own
    for name, value in own.items():
        np.testing.assert_array_equal(its[name], value)


def test_what_is_not_offered_of_optimisers_is_named():
    build = lambda **kwargs: PPO("MlpPolicy", None, policy_kwargs=kwargs)
    assert build(optimizer_class=AdamW).weight_decay == 0.01
    with pytest.raises(SettingError, match=r"weight_decay=0\.1 is not offered: only eps"):
        build(optimizer_class=Adam, optimizer_kwargs={"weight_decay": 0.1})
    assert build(normalize_images=True).algorithm == build().algorithm


# ------------------------------------------------------------------ memories


class PrioritizedReplayBuffer: ...


def test_buffers_that_are_the_algorithms_own_may_stay():
    plain, named = (
        DQN(
            "MultiInputPolicy",
            DummyVecEnv([Two]),
            replay_buffer_class=kind,
            replay_buffer_kwargs=kwargs,
            **MEMORY,
        )
        for kind, kwargs in ((None, None), (DictReplayBuffer, {"handle_timeout_termination": True}))
    )
    assert plain.algorithm == named.algorithm
    steps = DQN("MlpPolicy", None, replay_buffer_class=NStepReplayBuffer,
                replay_buffer_kwargs={"n_steps": 3, "gamma": 0.5}, **MEMORY)  # fmt: skip
    assert (steps.n_steps, steps.gamma) == (3, 0.5)
    assert PPO("MlpPolicy", None, rollout_buffer_class=RolloutBuffer, **SMALL).n_steps == 8
    with pytest.raises(SettingError, match=r"gamma is 0\.9, and 0.5 in replay_buffer_kwargs: give it once"):
        SAC("MlpPolicy", None, gamma=0.9, replay_buffer_class=NStepReplayBuffer,
            replay_buffer_kwargs={"gamma": 0.5})  # fmt: skip
    with pytest.raises(SettingError, match="prioritized=True or n_steps="):
        DQN("MlpPolicy", None, replay_buffer_class=PrioritizedReplayBuffer)
    with pytest.raises(SettingError, match="chunks replace rollout buffers"):
        PPO("MlpPolicy", None, rollout_buffer_class=PrioritizedReplayBuffer)
    with pytest.raises(SettingError, match="they go with replay_buffer_class"):
        DQN("MlpPolicy", None, replay_buffer_kwargs={"n_steps": 3})
    with pytest.raises(SettingError, match="handle_timeout_termination"):
        DQN("MlpPolicy", None, replay_buffer_class=DictReplayBuffer,
            replay_buffer_kwargs={"handle_timeout_termination": False})  # fmt: skip
    with pytest.warns(
        UserWarning, match="optimize_memory_usage=True has no effect: observations are stored once"
    ):
        half = DQN("MlpPolicy", None, optimize_memory_usage=True,
                   replay_buffer_kwargs={"handle_timeout_termination": False}, **MEMORY)  # fmt: skip
    assert half.algorithm == DQN("MlpPolicy", None, **MEMORY).algorithm


def test_names_that_are_words_here():
    her = DQN("MultiInputPolicy", None, replay_buffer_class=HerReplayBuffer,
              replay_buffer_kwargs={"goal_selection_strategy": GoalSelectionStrategy.FINAL}, **MEMORY)  # fmt: skip
    assert her.algorithm == DQN("MultiInputPolicy", None, data="hindsight", goal_selection_strategy="final",
                                **MEMORY).algorithm  # fmt: skip
    rms = PPO("MlpPolicy", None, policy_kwargs={"optimizer_class": RMSpropTFLike})
    assert rms.optimizer == "rmsprop"
    for word, says in (
        (ReplayBuffer, "data='replay'"),
        (RolloutBuffer, "Concepts"),
        (HerReplayBuffer, "hindsight"),
    ):
        with pytest.raises(TypeError, match=f"{word.__name__} is only a name here: .*{says}"):
            word(10, None, None)


def test_linear_schedules_stop_where_they_say():
    schedule = LinearSchedule(1.0, 0.2, 0.5)
    assert [schedule(x) for x in (1.0, 0.75, 0.5, 0.25, 0.0)] == pytest.approx([1, 0.6, 0.2, 0.2, 0.2])
    model = PPO("MlpPolicy", None, learning_rate=schedule, **SMALL)
    assert [model.lr_schedule(x) for x in (1.0, 0.75, 0.5, 0.0)] == pytest.approx(
        [1, 0.6, 0.2, 0.2], rel=1e-6
    )
    assert actrix.get_linear_fn(1.0, 0.2, 0.5) == schedule
    assert actrix.ConstantSchedule(0.3)(0.1) == 0.3


# ------------------------------------------------------------------ environments


@pytest.mark.parametrize("how", ["legal", lambda env: env.legal()])
def test_action_masker(how):
    env = DummyVecEnv([lambda: ActionMasker(Choosy(), how)] * 2)
    assert actrix.is_masking_supported(env)
    assert not actrix.is_masking_supported(Choosy())
    assert actrix.get_action_masks(env).tolist() == [[True, False, True]] * 2
    assert actrix.get_action_masks(ActionMasker(Choosy(), how)).tolist() == [True, False, True]
    model = PPO("MlpPolicy", env, **SMALL).learn(64)
    assert model.spec.mask_size == 3
    with pytest.raises(ValueError, match="no method of that name"):
        ActionMasker(Counting(), "legal")


def test_the_models_environments_are_those_of_scripts():
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL)
    assert model.env is model.get_env()
    assert isinstance(model.env, VecEnv)
    assert model.env.num_envs == 2
    assert model.env.reset().shape == (2, 2)
    compiled = PPO("MlpPolicy", "CartPole-v1", n_envs=2, **SMALL)
    assert compiled.env.reset().shape == (2, 4)
    assert compiled.learn(16).num_timesteps == 16
    assert PPO("MlpPolicy", None, **SMALL).env is None
    assert not isinstance(model.env, VecTransposeImage)


def test_the_reset_row_of_next_step_is_marked():
    model = PPO("MlpPolicy", SyncVectorEnv([Counting] * 2), **SMALL)
    env = model.env
    env.reset()
    rows = [env.step([0, 0]) for _ in range(LENGTH)]
    assert not any("reset_row" in info for row in rows for info in row[3])
    assert rows[-1][2].all()
    with pytest.warns(UserWarning, match=r"environments \[0, 1\] reset themselves .*AutoresetMode.SAME"):
        obs, reward, done, infos = env.step([0, 0])
    np.testing.assert_array_equal(obs[:, 0], 0)
    assert not reward.any()
    assert not done.any()
    assert [info["reset_row"] for info in infos] == [True, True]
    assert [env.step([0, 0])[1].tolist() for _ in range(2)] == [[1, 1], [2, 2]]
    env.step([0, 0])
    env.step([0, 0])  # said once


def test_names_of_wrappers_are_classes():
    env = DummyVecEnv([Counting])
    assert actrix.VecCheckNan(env) is env
    for name in ("VecTransposeImage", "VecCheckNan"):
        assert not isinstance(env, getattr(actrix, name))
        assert not actrix.is_vecenv_wrapped(env, getattr(actrix, name))


class Own(VecEnv):
    """Two environments that count, stepped by the methods that SB3's `VecEnv` leaves to its subclasses."""

    def __init__(self, by_call):
        one = Counting()
        if by_call:
            super().__init__(2, one.observation_space, one.action_space)
        else:
            self.num_envs, self.observation_space, self.action_space = (
                2,
                one.observation_space,
                one.action_space,
            )
        self.render_mode, self.closed = None, False

    def _obs(self):
        return np.stack([self.t, np.zeros(2)], 1).astype(np.float32)

    def reset(self):
        self.t = np.zeros(2)
        return self._obs()

    def step_async(self, actions):
        assert self.action_space.contains(actions[0])

    def step_wait(self):
        self.t += 1
        reward, done, obs = self.t.astype(np.float32), self.t == LENGTH, self._obs()
        infos = [{"terminal_observation": x} if end else {} for x, end in zip(obs, done, strict=True)]
        self.t = np.where(done, 0, self.t)
        return self._obs(), reward, done, infos

    def close(self):
        self.closed = True

    def env_method(self):
        raise NotImplementedError  # one that is never called is often left so


class OwnMasked(Own):
    def action_masks(self):
        return np.tile([True, False, True], (2, 1))

    def step_async(self, actions):
        assert (np.asarray(actions) != 1).all(), "an illegal action"


def test_masks_of_a_vec_env_of_ones_own():
    assert PPO("MlpPolicy", OwnMasked(True), **SMALL).learn(32).spec.mask_size == 3


@pytest.mark.parametrize("by_call", [True, False])
def test_a_vec_env_of_ones_own(by_call):
    env = Own(by_call)
    model = PPO("MlpPolicy", VecNormalize(env) if by_call else env, **SMALL).learn(1040 if by_call else 32)
    assert list(model.run.returns)[:2] == [6, 6]
    assert list(model.run.lengths)[:2] == [3, 3]
    assert len(actrix.evaluate_policy(model, Own(by_call), 4, return_episode_rewards=True)[0]) == 4
    env.reset()
    assert [env.step(np.zeros(2, int))[1].tolist() for _ in range(2)] == [[1, 1], [2, 2]]
    assert (env.render_mode, len(env.seed(3))) == (None, 2)
    model.env.close()
    assert env.closed
