"""What scripts read, set and save of a model, under Stable-Baselines3's names."""

import enum
import importlib.metadata
import io
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from worlds import MEMORY, SMALL, Counting, Frame

import actrix
from actrix import (
    DQN,
    PPO,
    SAC,
    TQC,
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    CrossQ,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ModelFileError,
    ProgressBarCallback,
    SettingError,
    StopTrainingOnRewardThreshold,
    VecNormalize,
    evaluate_policy,
    make_vec_env,
)
from actrix.cli import parser
from actrix.files.manifest import package_versions
from actrix.files.modelfile import versions


@pytest.fixture(scope="module")
def ppo():
    return PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL).learn(32)


@pytest.fixture(scope="module")
def dqn():
    return DQN("MlpPolicy", make_vec_env(Counting, 1), **MEMORY).learn(20)


# ------------------------------------------------------------------ callbacks


class Look(BaseCallback):
    """Keeps what a step says."""

    def __init__(self):
        super().__init__()
        self.order, self.seen = [], []

    def _on_rollout_start(self):
        self.order.append("start")

    def _on_step(self):
        self.order.append("step")
        told = self.locals
        self.seen.append({name: told[name] for name in ("infos", "actions", "rewards", "dones", "new_obs")})
        assert told["values"].shape == (2, 1)
        assert (told["log_probs"] < 0).all()
        assert "infos" in told
        assert told.get("nothing", 3) == 3
        return True

    def _on_rollout_end(self):
        self.order.append(("end", self.model.get_parameters()[".net.vf_head.bias"][0]))


def test_locals_are_those_of_a_step_and_a_chunk_ends_before_it_is_learned_from():
    look = Look()
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL | {"learning_rate": 0.1})
    model.learn(32, callback=[look])
    (first, a), (second, b) = [x for x in look.order if isinstance(x, tuple)]
    assert look.order == ["start", *["step"] * 8, (first, a), "start", *["step"] * 8, (second, b)]
    assert a == 0  # the first update had not been made
    assert b != 0
    third = look.seen[2]
    assert third["dones"].all()
    assert third["rewards"].tolist() == [3, 3]
    info = third["infos"][0]
    assert (info["step"], info["TimeLimit.truncated"]) == (3, False)
    assert 0 < info["episode"].pop("t") < 600
    assert info["episode"] == {"r": 6.0, "l": 3}
    assert info["terminal_observation"][0] == 3
    assert set(third["actions"].tolist()) <= {0, 1, 2}


def test_the_compiled_loop_says_what_it_has_not():
    def ask(locals_, _):
        with pytest.raises(KeyError, match='backend="gymnasium"'):
            locals_["infos"]

    PPO("MlpPolicy", "CartPole-v1", **SMALL).learn(16, callback=ask)


def test_parents_reach_all_the_way_down():
    stop = StopTrainingOnRewardThreshold(1.0)
    env = make_vec_env(Counting, 1)
    evaluation = EvalCallback(
        env, eval_freq=8, verbose=0, callback_on_new_best=CallbackList([CallbackList([stop])])
    )
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL)
    model.learn(160, callback=CallbackList([evaluation]))
    assert stop.parent is evaluation
    late = StopTrainingOnRewardThreshold(1.0)
    often = EveryNTimesteps(
        8, CallbackList([EvalCallback(env, callback_on_new_best=CallbackList([late]), verbose=0)])
    )
    model.learn(16, callback=often)
    assert late.parent is often.callback.callbacks[0]
    assert often.callback.callbacks[0].parent is often
    assert model.num_timesteps < 160


def test_evaluation_tells_its_callback_what_it_does(ppo):
    told = []
    mean, _ = evaluate_policy(
        ppo.policy, make_vec_env(Counting, 2), 2, callback=lambda locals_, _: told.append(locals_)
    )
    assert mean == 6.0
    assert len(told) == 6  # three steps of two environments
    assert [t["i"] for t in told] == [0, 1] * 3
    assert [t["reward"] for t in told[::2]] == [1, 2, 3]
    assert told[-1]["done"]
    assert told[-1]["info"]["step"] == 3


def test_the_log_is_written_every_n_steps(tmp_path):
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), tensorboard_log=tmp_path, **SMALL)
    model.learn(64, callback=LogEveryNTimesteps(4), log_interval=1000)
    assert next(tmp_path.rglob("events.*")).stat().st_size > 0
    with pytest.raises(ValueError, match="progress_bar=True"):
        ProgressBarCallback()


# ------------------------------------------------------------------ the policy


def test_distribution_and_values(ppo, dqn):
    obs = np.array([[0.0, 0], [1, 0], [2, 0]])
    dist = ppo.policy.get_distribution(obs)
    np.testing.assert_allclose(dist.probs.sum(1), 1, 1e-6)
    np.testing.assert_allclose(dist.entropy(), -(dist.probs * np.log(dist.probs)).sum(1), 1e-5)
    values, log_prob, entropy = ppo.policy.evaluate_actions(obs, [0, 1, 2])
    np.testing.assert_allclose(log_prob, np.log(dist.probs[range(3), range(3)]), 1e-5)
    assert values.shape == (3, 1)
    np.testing.assert_array_equal(entropy, dist.entropy())
    masked = ppo.policy.get_distribution(obs[:1], action_masks=[[True, False, True]])
    assert masked.probs[0, 1] == 0
    assert (ppo.policy.predict(obs, deterministic=True)[0] == dist.probs.argmax(1)).all()
    q = dqn.policy.q_values(obs)
    assert (dqn.predict(obs, deterministic=True)[0] == q.argmax(1)).all()
    with pytest.raises(AttributeError, match="see q_values"):
        dqn.policy.predict_values(obs)
    with pytest.raises(AttributeError, match="see q_values"):
        dqn.policy.get_distribution(obs)
    with pytest.raises(AttributeError, match=r"no Q\(s, ·\)"):
        ppo.policy.q_values(obs)


def test_a_squashed_density_sums_to_one():
    model = SAC("MlpPolicy", "Pendulum-v1", **MEMORY)
    grid = np.linspace(-2, 2, 4001)[1:-1, None]
    dist = model.policy.get_distribution(np.repeat([[1.0, 0, 0]], len(grid), 0))
    mass = np.exp(dist.log_prob(grid)).sum() * (1 / 2000)  # in policy coordinates, half of Pendulum's
    assert abs(mass - 1) < 0.01
    with pytest.raises(AttributeError, match="no Q"):
        model.policy.q_values([1.0, 0, 0])


class Wide(Counting):
    """Two numbers, of bounds that the policy's scale is not."""

    action_space = gym.spaces.Box(np.array([-4, 0], np.float32), np.array([4, 2], np.float32))


class Several(Counting):
    action_space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])


KINDS = {
    "discrete": lambda: PPO("MlpPolicy", make_vec_env(Counting, 1), **SMALL),
    "several": lambda: PPO("MlpPolicy", make_vec_env(Several, 1), **SMALL),
    "box": lambda: PPO("MlpPolicy", make_vec_env(Wide, 1), **SMALL),
    "squashed": lambda: SAC("MlpPolicy", make_vec_env(Wide, 1), **MEMORY),
    "of the state": lambda: PPO("MlpPolicy", make_vec_env(Wide, 1), use_sde=True, **SMALL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_has_actions(kind):
    model = KINDS[kind]()
    obs = np.tile([[1.0, 0]], (400, 1))
    policy = model.policy
    dist, space = policy.get_distribution(obs), policy.action_space
    np.testing.assert_allclose(dist.mode(), model.predict(obs, deterministic=True)[0], rtol=1e-5)
    np.testing.assert_array_equal(dist.get_actions(deterministic=True), dist.mode())
    sample, again = dist.sample(), dist.get_actions()
    assert sample.shape == again.shape == (400, *space.shape)
    assert sample.dtype == space.dtype
    assert (sample != again).any()
    log_prob = dist.log_prob(sample)
    if kind in ("box", "of the state"):  # not clipped: the density is that of what was drawn
        std = dist.distribution.stddev * (space.high - space.low) / 2
        np.testing.assert_allclose(sample.std(0), std[0], rtol=0.15)
        assert abs(-log_prob.mean() - dist.entropy()[0]) < 0.2
    elif kind == "squashed":
        assert space.contains(sample.min(0))
        with pytest.raises(AttributeError, match="no closed form"):
            dist.entropy()
    else:
        assert space.contains(sample.min(0))
        assert space.contains(sample.max(0))
        assert abs(-log_prob.mean() - dist.entropy()[0]) < 0.1


def test_parameters_of_distributions_by_pytorchs_names(ppo):
    obs = np.zeros((3, 2))
    dist = ppo.policy.get_distribution(obs)
    np.testing.assert_array_equal(dist.distribution.probs, dist.probs)
    np.testing.assert_allclose(np.exp(dist.distribution.logits), dist.probs, rtol=1e-6)
    with pytest.raises(AttributeError, match="of a Categorical are probs, logits, not 'mean'"):
        dist.distribution.mean  # noqa: B018
    with pytest.raises(AttributeError, match="with log_prob, entropy, mode"):
        dist.actions_from_params()
    with pytest.raises(AttributeError, match="takes masks"):
        dist.apply_masking(None)
    several = KINDS["several"]().policy.get_distribution(obs)
    assert [one.probs.shape for one in several.distribution] == [(3, 2), (3, 3)]
    with pytest.raises(AttributeError, match="several components"):
        several.probs  # noqa: B018
    box = KINDS["box"]().policy.get_distribution(obs)
    np.testing.assert_allclose(box.distribution.scale**2, box.distribution.variance)
    with pytest.raises(AttributeError, match="of a DiagGaussian are mean, loc"):
        box.probs  # noqa: B018


def test_a_policy_is_called(ppo, dqn):
    obs = np.array([[0.0, 0], [1, 0]])
    actions, values, log_prob = ppo.policy(obs, deterministic=True)
    np.testing.assert_array_equal(actions, ppo.predict(obs, deterministic=True)[0])
    again = ppo.policy.evaluate_actions(obs, actions)
    np.testing.assert_array_equal(values, again[0])
    np.testing.assert_array_equal(log_prob, again[1])
    assert ppo.policy.forward(obs[0])[0].shape == (1,)
    np.testing.assert_array_equal(dqn.policy(obs, True), dqn.predict(obs, deterministic=True)[0])
    assert ppo.policy.observation_space is ppo.observation_space
    for name, says in {
        "obs_to_tensor": "leave it out",
        "_predict": "write predict",
        "log_std": "get_distribution",
    }.items():
        with pytest.raises(AttributeError, match=says):
            getattr(ppo.policy, name)


def test_predict_says_what_reset_returns(ppo):
    with pytest.raises(ValueError, match=r"obs, info = env\.reset\(\)"):
        ppo.predict(Counting().reset())
    action, _ = ppo.predict(np.zeros(2))
    assert isinstance(action, np.ndarray)
    assert action.shape == ()


# ------------------------------------------------------------------ attributes and constructors


def test_what_is_read(ppo, dqn):
    rows = list(ppo.ep_info_buffer)
    assert [(row["r"], row["l"]) for row in rows] == [(6.0, 3)] * len(rows)
    times = [row["t"] for row in rows]
    assert 0 < times[0] < times[-1] < 600  # counted after the first and the second update
    assert times == sorted(times)
    assert ppo.lr_schedule(1.0) == pytest.approx(3e-4)
    assert ppo.replay_buffer is None
    assert (dqn.replay_buffer.buffer_size, dqn.replay_buffer.n_envs) == (50, 1)
    assert 0 < dqn.replay_buffer.size() <= 50
    assert ppo.env is ppo.get_env()


class Remaining(BaseCallback):
    """Keeps what a model says of its training at each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        model = self.model
        self.seen.append((model._current_progress_remaining, model._n_updates, model._episode_num))
        return True


def test_how_far_training_is(ppo):
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL | {"n_epochs": 3})
    assert (model._current_progress_remaining, model._n_updates, model.start_time) == (1.0, 0, 0)
    look, before = Remaining(), time.time_ns()
    model.learn(32, callback=look)
    assert before < model.start_time < time.time_ns()
    assert [left for left, *_ in look.seen] == [1 - 2 * n / 32 for n in range(1, 17)]
    assert [n for _, n, _ in look.seen] == [0] * 8 + [3] * 8
    assert look.seen[-1][2] == model._episode_num == 10
    assert model._n_updates == model.run.metrics["train/n_updates"] == 6
    model.learn(16, reset_num_timesteps=False)
    assert (model._num_timesteps_at_start, model._n_updates) == (32, 9)
    assert model.policy_kwargs == {"net_arch": [4]}
    assert PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL).policy_kwargs == ppo.policy_kwargs


def test_the_rate_of_exploration(ppo):
    model = DQN("MlpPolicy", make_vec_env(Counting, 1), **MEMORY, exploration_fraction=0.5)
    assert model.exploration_rate == 1.0
    seen = []
    model.learn(16, callback=lambda locals_, _: seen.append(model.exploration_rate) or True)
    left = np.arange(16 - len(seen) + 1, 17) / 16
    np.testing.assert_allclose(seen, np.maximum(0.05, 1 - 0.95 * left / 0.5), rtol=1e-5)
    model.exploration_final_eps = 0.5
    assert model.exploration_rate == 0.5
    assert model._n_updates == model.run.metrics["train/n_updates"] > 0
    with pytest.raises(AttributeError, match="no ε-greedy actor"):
        ppo.exploration_rate  # noqa: B018
    with pytest.raises(AttributeError, match="no ε-greedy actor"):
        ppo.exploration_rate = 0.5


def test_the_rate_of_exploration_that_is_set_is_that_of_predict_until_training_goes_on():
    model = DQN("MlpPolicy", make_vec_env(Counting, 1), **MEMORY).learn(16)
    obs = np.zeros((300, 2), np.float32)
    best = model.predict(obs[0], deterministic=True)[0]
    for rate, low, high in ((0.0, 0.0, 0.0), (1.0, 0.55, 0.78)):  # of three actions two are another
        model.exploration_rate = rate
        assert model.exploration_rate == rate
        assert low <= (model.predict(obs)[0] != best).mean() <= high
        assert (model.predict(obs, deterministic=True)[0] == best).all()
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="must lie in"):
            model.exploration_rate = wrong
    model.learn(8, reset_num_timesteps=False)
    assert model.exploration_rate == pytest.approx(0.05)
    assert (model.predict(obs)[0] != model.predict(obs, deterministic=True)[0]).mean() < 0.15


def test_what_cannot_be_set_says_so(dqn):
    for name, says in {
        "policy_kwargs": "give it to the constructor",
        "policy": "set_parameters",
        "_last_obs": "begins anew",
        "num_episodes": "num_episodes of a DQN can be read only",
    }.items():
        with pytest.raises(AttributeError, match=says):
            setattr(dqn, name, None)
    for name in ("_last_obs", "_setup_model", "_vec_normalize_env", "ent_coef_optimizer", "dump_logs"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .{{15}}"):
            getattr(dqn, name)


class Needs:
    def __init__(self, observation_space, action_space, lr_schedule):
        raise AssertionError("it is not made")


@pytest.mark.parametrize("policy", [object, Needs, lambda: None], ids=["object", "of PyTorch", "a function"])
def test_what_makes_no_network_is_named(policy):
    with pytest.raises(SettingError, match=r"cannot be called with \(spec, key\)"):
        PPO(policy, None)


def test_arguments_of_the_past_say_what_there_is(ppo):
    for name in ("eval_env", "eval_freq", "n_eval_episodes", "eval_log_path"):
        with pytest.raises(
            TypeError, match=rf"learn has no argument '{name}': write .*EvalCallback\(eval_env"
        ):
            ppo.learn(8, **{name: None})
    with pytest.raises(TypeError, match=r"'calback': did you mean callback"):
        ppo.learn(8, calback=None)
    with pytest.raises(SettingError, match=r"create_eval_env: write .*EvalCallback\(eval_env"):
        PPO("MlpPolicy", None, create_eval_env=True)
    assert PPO("MlpPolicy", None, create_eval_env=False, _init_setup_model=True).runner is None
    with pytest.raises(SettingError, match=r"_init_setup_model=False: .* set_env"):
        PPO("MlpPolicy", None, _init_setup_model=False)


def test_an_environment_is_set():
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL).learn(16)
    env = make_vec_env(Counting, 2, env_kwargs={"truncate": True})
    model.env = env
    assert model.get_env() is env
    model.learn(16)
    with pytest.raises(ValueError, match="observation_space"):
        model.env = "CartPole-v1"


def test_another_seed_gives_another_training():
    def trained(*seeds):
        model = PPO("MlpPolicy", make_vec_env(Counting, 2), **SMALL)
        for seed in seeds:
            model.set_random_seed(seed)
        return model.learn(16).get_parameters()[".net.pi_head.weight"]

    np.testing.assert_array_equal(trained(5), trained(4, 5))
    assert (trained(5) != trained()).any()


def test_defaults_are_never_what_is_refused():
    env = make_vec_env(Counting, 1)
    kw = {"policy_kwargs": {"net_arch": [4]}}
    assert PPO("MlpPolicy", env, n_steps=32, **kw).batch_size == 32
    assert PPO("MlpPolicy", env, n_steps=50, **kw).batch_size == 50
    assert PPO("MlpPolicy", env, n_steps=100, **kw).batch_size == 50
    with pytest.raises(ValueError, match="batch_size=64 does not fit into"):
        PPO("MlpPolicy", env, n_steps=32, batch_size=64, **kw)
    with pytest.warns(
        UserWarning, match="learning_starts=100 is not smaller than the budget of 10 .*played whole"
    ):
        assert DQN("MlpPolicy", env, **kw).learn(10).num_timesteps == 100
    three = DQN("MlpPolicy", make_vec_env(Counting, 3), **MEMORY)
    with pytest.warns(
        UserWarning, match=r"learning_starts=4 \(6 in whole steps of 3 environments\) is not smaller"
    ):
        three.learn(5)
    assert DQN("MlpPolicy", env, **MEMORY | {"buffer_size": 20, "batch_size": 64}).learn(8).num_timesteps == 8


def test_policy_kwargs_of_critics_and_optimisers():
    kwargs = {"net_arch": None, "n_critics": 1, "optimizer_kwargs": {"eps": 1e-5}, "optimizer_class": "Adam"}
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)
    assert (model.n_critics, model.optimizer_eps, model.optimizer) == (1, 1e-5, "adam")
    assert TQC("MlpPolicy", "Pendulum-v1", policy_kwargs={"n_quantiles": 12}).n_quantiles == 12
    assert PPO("MlpPolicy", "CartPole-v1", 0.01, n_steps=8).learning_rate == 0.01
    with pytest.raises(SettingError, match=r"weight_decay=0\.1 is not offered"):
        SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"optimizer_kwargs": {"weight_decay": 0.1}})
    crossq = CrossQ("MlpPolicy", None, policy_kwargs={"renorm_warmup_steps": 5, "batch_norm_momentum": 0.9})
    assert (crossq.renorm_warmup_steps, crossq.batch_norm_momentum) == (5, 0.9)
    lstm = {"lstm_hidden_size": 8, "enable_critic_lstm": False, "n_lstm_layers": 1}
    assert (
        PPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, policy_kwargs=lstm).algorithm.network.hidden_size == 8
    )
    network = lambda **kwargs: PPO("MlpLstmPolicy", None, policy_kwargs=kwargs).algorithm.network
    assert (network().shared_lstm, network(shared_lstm=False).shared_lstm) == (None, False)
    deep = network(n_lstm_layers=2, lstm_kwargs={"dropout": 0.5, "bias": True})
    assert (deep.n_lstm_layers, deep.dropout) == (2, 0.5)
    apart = [network(share_features_extractor=False, **kwargs)
             for kwargs in ({}, {"enable_critic_lstm": False}, {"shared_lstm": False})]  # fmt: skip
    assert [(n.enable_critic_lstm, n.shared_lstm) for n in apart] == [
        (True, None),
        (False, False),
        (False, False),
    ]
    for wrong in ({"shared_lstm": True, "enable_critic_lstm": True},
                  {"shared_lstm": True, "share_features_extractor": False}):  # fmt: skip
        with pytest.raises(SettingError, match="hears the policy's cell"):
            network(**wrong)
    with pytest.raises(SettingError, match="bidirectional=True is not offered: only dropout"):
        network(lstm_kwargs={"bidirectional": True})


# ------------------------------------------------------------------ files


def test_one_rule_for_suffixes(ppo, tmp_path):
    names = {"model": "model.safetensors", "lr0.001": "lr0.001.safetensors", "m.zip": "m.zip"}
    for given, written in names.items():
        assert ppo.save(tmp_path / given) == tmp_path / written
        assert (tmp_path / written).is_file()
        bare = written.removesuffix(".safetensors").removesuffix(".zip")
        for name in (given, written, bare, f"{bare}.zip", f"{bare}.safetensors"):
            assert PPO.load(tmp_path / name).source == tmp_path / written


def test_a_source_tree_that_is_not_installed_saves(ppo, monkeypatch):
    def version(name, known=importlib.metadata.version):
        if name == "actrix":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    ppo.save(file := io.BytesIO())
    file.seek(0)
    PPO.load(file)
    assert versions()["actrix"] == package_versions()["actrix"] == actrix.__version__
    assert parser().parse_args(["list"])  # nor does the command line ask what is installed


def test_open_files_settings_and_names(ppo, capsys):
    file = io.BytesIO()
    assert ppo.save(file, exclude=["logger", "replay_buffer"]) is None
    assert PPO.load(file).seed == 0  # as it stands after writing
    file.seek(0)
    loaded = PPO.load(
        file, custom_objects={"learning_rate": 0.5, "lr_schedule": None}, print_system_info=True
    )
    assert loaded.learning_rate == 0.5
    assert "jax" in capsys.readouterr().out
    with pytest.raises(ValueError, match="always holds them"):
        ppo.save(io.BytesIO(), exclude=["gamma"])
    with pytest.raises(ValueError, match="parameters and settings only"):
        ppo.save(io.BytesIO(), include=["env"])
    with pytest.raises(ValueError, match="resume_from"):
        PPO.load(file, force_reset=False)


def test_a_zip_of_stable_baselines_is_named(tmp_path):
    (tmp_path / "sb3.zip").write_bytes(b"PK\x03\x04 and so on, and so on")
    with pytest.raises(ModelFileError, match="as Stable-Baselines3 writes"):
        PPO.load(tmp_path / "sb3.zip")


def test_the_replay_memory_is_a_file(dqn, tmp_path):
    path = dqn.save_replay_buffer(tmp_path / "memory")
    assert path.name == "memory.safetensors"
    other = DQN("MlpPolicy", make_vec_env(Counting, 1), **MEMORY)
    other.load_replay_buffer(path)
    assert other.replay_buffer.size() == dqn.replay_buffer.size()
    other.learn(8)
    file = io.BytesIO()
    assert dqn.save_replay_buffer(file) is None
    other.load_replay_buffer(file)
    assert other.replay_buffer.size() == dqn.replay_buffer.size()
    larger = DQN("MlpPolicy", make_vec_env(Counting, 1), **MEMORY | {"buffer_size": 60})
    with pytest.raises(ModelFileError, match=r"flags is uint8"):
        larger.load_replay_buffer(path)
    with pytest.raises(FileNotFoundError, match="no replay buffer at nope"):
        other.load_replay_buffer("nope")
    for call in (DQN("MlpPolicy", None).load_replay_buffer, DQN("MlpPolicy", None).save_replay_buffer):
        with pytest.raises(ValueError, match="no environment, so no replay memory"):
            call(path)
    with pytest.raises(ModelFileError, match="not a replay memory"):
        other.load_replay_buffer(dqn.save(tmp_path / "model"))
    with pytest.raises(ValueError, match="has no replay memory"):
        PPO("MlpPolicy", make_vec_env(Counting, 1), **SMALL).save_replay_buffer(tmp_path / "x")


def test_checkpoints_hold_what_is_asked_for(tmp_path):
    env = VecNormalize(make_vec_env(Counting, 1), norm_reward=False)
    callback = CheckpointCallback(10, tmp_path, "lr0.1", save_replay_buffer=True, save_vecnormalize=True)
    DQN("MlpPolicy", env, **MEMORY).learn(12, callback=callback)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "lr0.1_10_steps.safetensors", "lr0.1_replay_buffer_10_steps.safetensors", "lr0.1_vecnormalize_10_steps.npz",
    ]  # fmt: skip


def test_tensorboard_folders(tmp_path):
    model = PPO("MlpPolicy", make_vec_env(Counting, 2), tensorboard_log=tmp_path, **SMALL)
    for _ in range(2):
        model.learn(16, tb_log_name="lr[0.1]")
    model.learn(16, tb_log_name="lr[0.1]", reset_num_timesteps=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr[0.1]_1", "lr[0.1]_2"]
    path = model.save(tmp_path / "model")
    loaded = PPO.load(path, make_vec_env(Counting, 2), tensorboard_log=tmp_path)
    loaded.learn(16, tb_log_name="lr[0.1]", reset_num_timesteps=False)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["lr[0.1]_1", "lr[0.1]_2"]
    assert len(list((tmp_path / "lr[0.1]_2").iterdir())) == 1


class Colour(enum.Enum):
    RED = 1


UNWRITABLE = [
    np.ones(3), lambda: 1, Counting, {1, 2}, b"x", float("nan"), np.random.default_rng(0), {1: 2}, Colour.RED, Frame(),
]  # fmt: skip
WRITABLE = [np.int64(3), np.float32(0.5), (1, 2), [1, "a", None], {"a": (1.5, np.int32(2))}]


class Taking(Counting):
    def __init__(self, m=None, n=0):
        super().__init__()


@pytest.fixture
def taking():
    gym.register("Taking-v0", entry_point=Taking)
    yield "Taking-v0"
    gym.registry.pop("Taking-v0")


def test_whatever_trains_is_saved(taking, tmp_path):
    model = PPO("MlpPolicy", taking, **SMALL)
    for value in WRITABLE:
        model.env_kwargs = {"m": value, "n": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert set(PPO.load(model.save(tmp_path / "m")).env_kwargs) == {"m", "n"}
    for value in [*UNWRITABLE, Path("x"), Path]:
        model.env_kwargs = {"m": value, "n": 1}
        with pytest.warns(UserWarning, match="env_kwargs m cannot be written"):
            assert PPO.load(model.save(tmp_path / "m")).env_kwargs == {"n": 1}


def test_training_with_such_arguments_goes_to_its_end(taking, tmp_path):
    model = PPO("MlpPolicy", taking, env_kwargs={"m": np.ones(3)}, **SMALL)
    with pytest.warns(UserWarning, match="cannot be written"):
        model.learn(16, callback=CheckpointCallback(8, tmp_path), checkpoint_dir=tmp_path / "c")
    again = PPO("MlpPolicy", taking, env_kwargs={"m": np.ones(3)}, **SMALL)
    again.learn(24, resume_from=tmp_path / "c", reset_num_timesteps=False)


def test_the_device_is_the_platform_of_jax():
    model = actrix.PPO("MlpPolicy", "CartPole-v1", device="cpu", n_steps=8)
    assert actrix.get_device() == actrix.get_device("cpu").type == model.policy.device.type == model.device
    with pytest.raises(ValueError, match="JAX runs on 'cpu' here"):
        actrix.get_device("tpu")


def test_policy_kwargs_as_stable_baselines_writes_them():
    assert actrix.DQN("MlpPolicy", policy_kwargs={"net_arch": {"qf": [8]}}).algorithm.network.vf == (8,)
    with pytest.raises(ValueError, match="pi=\\(4,\\) would have no effect"):
        actrix.DQN("MlpPolicy", Counting(), policy_kwargs={"net_arch": {"qf": [8], "pi": [4]}})
    assert actrix.PPO("MlpPolicy", policy_kwargs={"net_arch": {"pi": [8]}}).algorithm.network.pi == (8,)
    with pytest.warns(UserWarning, match="leave the list around the dict out"):
        model = actrix.PPO("MlpPolicy", policy_kwargs={"net_arch": [{"pi": [8], "vf": [4]}]})
    assert (model.algorithm.network.pi, model.algorithm.network.vf) == ((8,), (4,))
    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 16}}
    given = actrix.PPO(
        "MultiInputPolicy", policy_kwargs=extractor
    ).algorithm.network.features_extractor_kwargs
    assert dict(given) == {"cnn_features": 16}


def test_noise_for_a_soft_actor():
    none = actrix.NormalActionNoise([0.0], [0.0])
    assert actrix.SAC("MlpPolicy", action_noise=none).algorithm == actrix.SAC("MlpPolicy").algorithm
    model = actrix.TQC("MlpPolicy", "Pendulum-v1", action_noise=actrix.NormalActionNoise([0.0], [0.2]))
    assert (model.noise_type, model.noise_std) == ("normal", 0.2)
    assert (type(model.action_noise), model.action_noise.sigma) == (actrix.NormalActionNoise, [0.2])
    assert (
        actrix.SAC("MlpPolicy", "Pendulum-v1").action_noise
        is actrix.PPO("MlpPolicy", "CartPole-v1").action_noise
        is None
    )
    with pytest.raises(AttributeError, match="give it to the constructor"):
        model.action_noise = None
    with pytest.raises(ValueError, match="added to continuous actions"):
        actrix.DiscreteSAC("MlpPolicy", "CartPole-v1", action_noise=0.2)
