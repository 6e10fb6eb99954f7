"""Bad settings, environments and numbers: one sentence that names what, where and what is right."""

import dataclasses
import functools

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix import (
    A2C,
    ACER,
    AWAC,
    C51,
    CQL,
    DQN,
    IQN,
    PPO,
    PQN,
    QAC,
    REINFORCE,
    SAC,
    TD3,
    TQC,
    VPG,
    DiscreteSAC,
    EnvError,
    EvalCallback,
    NormalActionNoise,
    SettingError,
    SoftQ,
    evaluate_policy,
    make_vec_env,
)
from actrix.core.spaces import UnsupportedSpaceError
from actrix.envs.build import UnknownEnvError
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs, ConstantReward, ContinuousTarget, Masked, Probe
from actrix.loops.train import NonFiniteError, SeedRun, train
from actrix.named import ActorCritic

TINY = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}, "seed": 0}
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Fake(gym.Env):
    """Five-step episodes; what it returns at global step `at` is replaced by `bad`."""

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space=BOX, at=0, obs=None, reward=None, mask=None):
        self.observation_space, self.at, self.mask, self.count = observation_space, at, mask, 0
        self.bad, self.bad_reward = obs, reward

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), self._info()

    def step(self, action):
        self.t, self.count = self.t + 1, self.count + 1
        hit = self.count == self.at
        reward = self.bad_reward if hit and self.bad_reward is not None else 1.0
        obs = self.bad if hit and self.bad is not None else self._obs()
        return obs, reward, False, self.t == 5, self._info()

    def _obs(self):
        return (
            np.full(2, 0.5, np.float32) if self.observation_space is BOX else self.observation_space.sample()
        )

    def _info(self):
        return {} if self.mask is None else {"action_mask": np.array(self.mask, np.int8)}


def vector(*envs):
    options = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return gym.vector.SyncVectorEnv([lambda env=env: env for env in envs], **options)


@functools.cache
def model():
    return PPO("MlpPolicy", ActionObs(), n_envs=4, **TINY)


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "no"}, "normalize='no' must be True or False"),
        ({"n_step": 3}, "n_step=3 is the target's n on replayed data; set n_steps"),
        ({"learning_rate": 0}, "learning_rate=0.0 must be positive"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001 must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be positive"),
        ({"learning_rate": "lin_inf"}, "learning_rate=lin_inf must be positive"),
        ({"learning_rate": lambda p: p - 0.5}, "learning_rate=.* must be positive"),
        ({"learning_rate": "fast"}, "learning_rate='fast': write a number or 'lin_<number>'"),
        ({"gamma": 1.5}, r"gamma=1.5 must lie in \[0, 1\]"),
        ({"gamma": -0.1}, r"gamma=-0.1 must lie in \[0, 1\]"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"n_steps": 0}, "n_steps=0 must be a whole number of at least 1"),
        ({"n_steps": 2.5}, "n_steps=2.5 must be a whole number"),
        ({"batch_size": -4}, "batch_size=-4"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"max_grad_norm": 0}, "max_grad_norm=0 must be positive, or None"),
        ({"target_kl": -1}, "target_kl=-1 must be positive"),
        ({"clip_range": 0}, "clip_range=0 must be positive"),
        ({"optimizer": "adamw"}, "optimizer='adamw': choose one of adam, rmsprop, sgd"),
        ({"vf_coef": float("inf")}, "vf_coef=inf"),
        (
            {"batch_size": 48},
            "batch_size=48 does not fit into n_steps × n_envs = 8 × 4 = 32; near it .*16.*32",
        ),
        ({"batch_size": 64}, r"batch_size=64 does not fit into .* 8 × 4 = 32"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PPO("MlpPolicy", ActionObs(), n_envs=4, **TINY | settings)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QAC("MlpPolicy", ContinuousTarget()), "needs a Discrete action space"),
        (lambda: REINFORCE("MlpPolicy", ActionObs(), n_steps=None), "no time limit: give n_steps"),
        (lambda: ActorCritic("MlpPolicy", ActionObs(), critic="td", actor="score:q"), "needs Q"),
        (lambda: ActorCritic("MlpPolicy", ActionObs(), critic="none", actor="ppo-clip:0.2"), "refused"),
        (
            lambda: ActorCritic("MlpPolicy", ActionObs(), critic="gea"),
            "critic 'gea': unknown; did you mean gae",
        ),
        (lambda: A2C("MlpPolicy", ActionObs(), n_epochs=4), "n_epochs must be 1"),
        (
            lambda: PPO("MlpLstmPolicy", ActionObs(), **TINY | {"sequence_length": 3}),
            "not a multiple of sequence_length=3",
        ),
        (
            lambda: PPO("MlpPolicy", ContinuousTarget(), **TINY | {"batch_size": 8, "ref_kl_coef": 0.1}),
            "improper on a Box",
        ),
        (lambda: PPO("MlpPolicy"), None),
    ],
)
def test_refused_compositions(build, message):
    if message is None:
        with pytest.raises(ValueError, match="pass env"):
            build().learn(10)
        return
    with pytest.raises(ValueError, match=message):
        build()


OFF = {
    "learning_starts": 4,
    "batch_size": 8,
    "buffer_size": 100,
    "seed": 0,
    "policy_kwargs": {"net_arch": [4]},
}
UNBOUNDED = spaces.Box(-np.inf, np.inf, (1,), np.float32)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (DQN, {"buffer_size": 0}, "buffer_size=0 must be a whole number of at least 1"),
        (DQN, {"gamma": 1.1}, r"gamma=1.1 must lie in \[0, 1\]"),
        (TD3, {"gamma": -0.1}, r"gamma=-0.1 must lie in \[0, 1\]"),
        (SAC, {"tau": 1.5}, r"tau=1.5 must lie in \[0, 1\]"),
        (DQN, {"tau": float("nan")}, r"tau=nan must lie in \[0, 1\]"),
        (
            DQN,
            {"train_freq": (4, "episode")},
            r"train_freq=\(4, 'episode'\): give steps, e.g. 4, or one whole episode",
        ),
        (SAC, {"train_freq": 0}, "train_freq=0 must be a whole number of at least 1"),
        (DQN, {"gradient_steps": 0}, "gradient_steps=0 would learn nothing; write −1 for one per step"),
        (DQN, {"gradient_steps": -2}, "gradient_steps=-2"),
        (SAC, {"learning_rate": -1.0}, "learning_rate=-1.0 must be positive"),
        (SAC, {"max_grad_norm": 0}, "max_grad_norm=0 must be positive, or None"),
        (DQN, {"target_update_interval": 0}, "target_update_interval=0"),
        (DQN, {"exploration_fraction": 2}, r"exploration_fraction=2 must lie in \[0, 1\]"),
        (
            DQN,
            {"exploration": "epsilon"},
            "exploration='epsilon': choose one of none, epsilon-greedy, boltzmann",
        ),
        (DQN, {"distributional": "c52"}, "distributional='c52': choose one of None, c51, qr, iqn"),
        (
            DQN,
            {"target": "sarsa", "distributional": "qr"},
            "qr backs up the whole distribution of one action: take the backup max or double",
        ),
        (C51, {"v_min": 5, "v_max": 5}, "v_min=5 must be below v_max=5"),
        (C51, {"n_atoms": 1}, "n_atoms=1 must be a whole number of at least 2"),
        (DQN, {"prioritized": True, "priority_beta": 1.5}, r"priority_beta=1.5 must lie in \[0, 1\]"),
        (SAC, {"ent_coef": "atuo"}, "ent_coef='atuo': write 'auto', 'auto_<number>' or a number"),
        (SAC, {"ent_coef": -0.1}, "ent_coef=-0.1"),
        (TD3, {"noise_type": "pink"}, "noise_type='pink': choose one of none, normal, ornstein-uhlenbeck"),
        (TD3, {"policy_delay": 0}, "policy_delay=0"),
        (
            TQC,
            {"top_quantiles_to_drop_per_net": 25},
            "top_quantiles_to_drop_per_net=25 leaves none of n_quantiles=25",
        ),
        (
            TD3,
            {"action_noise": "normal"},
            "action_noise='normal': give a standard deviation, NormalActionNoise or",
        ),
        (
            TD3,
            {"action_noise": NormalActionNoise(np.zeros(2), np.array([0.1, 0.2]))},
            "with mean 0 and one sigma for all dimensions",
        ),
        (
            DQN,
            {"replay_buffer_class": "PrioritizedReplayBuffer"},
            "replay_buffer_class: HerReplayBuffer and the plain ones are known",
        ),
        (DQN, {"use_sde_at_warmup": True}, "^use_sde_at_warmup: there is no random phase"),
        (SAC, {"use_sde": "yes"}, "use_sde='yes' must be True or False"),
        (
            SAC,
            {"sde_sample_freq": 4},
            "sde_sample_freq=4 is of state-dependent exploration: set use_sde=True",
        ),
        (
            SAC,
            {"use_sde": True, "sde_sample_freq": 0},
            "sde_sample_freq=0 must be a whole number of at least 1",
        ),
        (DQN, {"n_step": 0}, "n_steps=0 must be a whole number of at least 1"),
        (SAC, {"target_entropy": "low"}, "target_entropy='low'"),
        (SAC, {"ent_coef": None}, "ent_coef=None"),
        (SAC, {"ent_coef": float("inf")}, "ent_coef=inf"),
        (SAC, {"target_entropy": float("nan")}, "target_entropy=nan"),
        (DQN, {"prioritized": True, "priority_alpha": 0.0}, "priority_alpha=0 draws uniformly"),
        (TQC, {"cql_alpha": 1.0}, "unknown setting 'cql_alpha'"),
        (TD3, {"cql_alpha": 1.0}, "unknown setting 'cql_alpha'"),
        (DiscreteSAC, {"n_quantiles": 5}, "unknown setting 'n_quantiles'"),
        (TD3, {"noise_std": "wide"}, "noise_std='wide'"),
        (C51, {"v_min": "low"}, "v_min='low'"),
        (C51, {"v_min": float("-inf")}, "v_min=-inf"),
        (DQN, {"max_grad_norm": "big"}, "max_grad_norm='big'"),
        (DQN, {"optimizer_eps": float("nan")}, "optimizer_eps=nan"),
        (DQN, {"normalize_obs": True, "clip_obs": -1}, "clip_obs=-1"),
        (DQN, {"buffer_size": float("inf")}, "buffer_size=inf must be a whole number"),
        # A word is no switch: 'no' would count as yes.
        (DQN, {"prioritized": "no"}, "prioritized='no'"),
        (DQN, {"dueling": "off"}, "dueling='off'"),
        (DQN, {"noisy": "no"}, "noisy='no'"),
        (DQN, {"double": "no"}, "double='no'"),
        (DQN, {"exploration_rate": 0.1}, "unknown setting 'exploration_rate'.*did you mean exploration"),
    ],
)
def test_refused_settings_of_replayed_data(cls, settings, message):
    with pytest.raises(SettingError, match=message):
        cls("MlpPolicy", **OFF | settings)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (PQN, {"dueling": "no"}, "^dueling='no' must be True or False"),
        (ACER, {"normalize_advantage": "no"}, "^normalize_advantage='no' must be True or False"),
        (PQN, {"n_epochs": "four"}, "^n_epochs='four' must be a whole number"),
        # Where a comparison fails, the sentence still has the setting in it.
        (TD3, {"bc_alpha": "much"}, "bc_alpha='much' must be positive"),
        (ACER, {"trust_region": None}, "trust_region=None must be a finite number"),
    ],
)
def test_values_of_the_wrong_type_are_named(cls, settings, message):
    with pytest.raises(SettingError, match=message):
        cls("MlpPolicy", **settings)


@pytest.mark.parametrize(
    ("cls", "first", "second"),
    [
        (SAC, {"buffer_size": 100}, {"batch_size": 50}),
        (C51, {"v_min": 200}, {"v_max": 500}),
        (TQC, {"n_quantiles": 2}, {"top_quantiles_to_drop_per_net": 1}),
        (SoftQ, {"distributional": "c51"}, {"target": "double"}),
        (DQN, {"noisy": True}, {"exploration": "none"}),
        # SB3's defaults, which scripts may spell out
        (SAC, {"action_noise": None, "target_update_interval": 1}, {"use_sde": False, "sde_sample_freq": -1}),
        (TD3, {"train_freq": (1, "step")}, {"action_noise": 0.1}),
        (DQN, {"optimize_memory_usage": False}, {"replay_buffer_class": None}),
    ],
)
def test_settings_are_read_together_in_any_order(cls, first, second):
    """Each would be refused beside the other's default."""
    made = [cls("MlpPolicy", **order).algorithm for order in (first | second, second | first)]
    assert made[0] == made[1]


def off(cls, env, policy="MlpPolicy", **more):
    """A tiny learner of replayed data."""
    return cls(policy, env, **OFF | more)


def composed(critic, data):
    return ActorCritic("MlpPolicy", ActionObs(), critic=critic, actor="score", data=data)


def acting(space):
    """An environment with another action space."""
    env = Fake()
    env.action_space = space
    return env


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: off(DQN, ContinuousTarget()), r"needs a Discrete action space, not Box.*sac, td3 or ddpg"),
        (lambda: off(IQN, ContinuousTarget()), "needs a Discrete action space"),
        (
            lambda: off(SAC, ActionObs()),
            r"needs a Box action space, not Discrete\(2\): set discrete=True, or use discrete-sac",
        ),
        (
            lambda: off(CQL, ActionObs()),
            r"a soft actor needs a Box action space, not Discrete\(2\): set discrete=True",
        ),
        (lambda: off(TQC, ActionObs()), "needs a Box action space.*use discrete-sac"),
        (
            lambda: off(TD3, ActionObs()),
            r"needs a Box action space, not Discrete\(2\): use discrete-sac or dqn",
        ),
        (
            lambda: off(DiscreteSAC, ContinuousTarget()),
            "discrete SAC needs a Discrete action space.*: use sac",
        ),
        (lambda: off(SAC, acting(UNBOUNDED)), "infinite bounds: a tanh actor needs finite ones"),
        (lambda: off(TD3, acting(UNBOUNDED)), r"Box\(-inf, inf, \(1,\), float32\) has infinite bounds"),
        (lambda: off(SAC, acting(spaces.MultiBinary(2))), r"MultiBinary\(2\): use ppo"),
        (lambda: off(AWAC, acting(spaces.MultiBinary(2))), r"not MultiBinary\(2\): use ppo"),
        (lambda: off(DQN, ActionObs(), n_envs=101), "buffer_size=100 cannot hold one step of n_envs=101"),
        (
            lambda: off(DQN, ActionObs(), "MlpLstmPolicy"),
            r"recurrent cell \(lstm\) is offered by the policy-gradient",
        ),
        (lambda: off(SAC, ContinuousTarget(), "MlpLstmPolicy"), r"a recurrent cell \(lstm\) is offered by"),
        (
            lambda: off(DQN, ActionObs(), lambda spec, key: None),
            "a module of your own is offered by the policy-",
        ),
        (lambda: off(DQN, ActionObs(), reference=model()), "only the on-policy algorithms can stay near"),
        (
            lambda: composed("gae", "lag:4"),
            "critic gae × actor score, data lag:4 is refused: without correction",
        ),
        (
            lambda: composed("v-trace", "legs:4"),
            "data 'legs:4': unknown; did you mean lag",
        ),
        (lambda: composed("v-trace", "lag:many"), "data 'lag:many': lag='many'"),
        (lambda: composed("v-trace", "on-policy"), "is refused: on on-policy data every ratio is 1"),
        (lambda: composed("mc-is", "trajectories:2"), "whole episodes are not kept in the memory"),
    ],
)
def test_refused_off_policy_learners(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", float("nan"), float("inf"), True, [1, 2]])
def test_refused_seeds(seed):
    for make in (
        lambda: PPO("MlpPolicy", ActionObs(), n_envs=4, **TINY | {"seed": seed}),
        lambda: make_vec_env("CartPole-v1", 2, seed=seed),
    ):
        with pytest.raises(ValueError, match=r"^seed=.* must be a whole number of at least 0\.$"):
            make()


def test_seeds_of_any_size_are_distinct_streams():
    first = lambda seed: PPO("MlpPolicy", ActionObs(), n_envs=4, **TINY | {"seed": seed})
    seeds = [0, 1, 2**32, 2**64, np.int64(1), None]
    models = [first(seed) for seed in seeds]
    weights = [m.get_parameters()[".net.pi.layers[0].weight"].tobytes() for m in models]
    assert len(set(weights[:4])) == 4
    assert weights[4] == weights[1]
    again = first(models[5].seed)  # None draws one and keeps it
    assert again.get_parameters()[".net.pi.layers[0].weight"].tobytes() == weights[5]
    assert first(None).seed != models[5].seed
    assert models[3].learn(32).num_timesteps == 32


# --------------------------------------------------------------------------- environments


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["obs", "reward"])
def test_non_finite_environments_are_named(what, bad):
    value = np.array([0.0, bad], np.float32) if what == "obs" else bad
    model = PPO("MlpPolicy", vector(Fake(), Fake(at=11, **{what: value})), **TINY)
    before = model.get_parameters()
    name = "observation.* at index \\[1\\]" if what == "obs" else "reward"
    with pytest.raises(EnvError, match=rf"environment 1 at step 1[12]: .*{name} is .*; it must be finite"):
        model.learn(64)
    after = model.get_parameters()
    assert all(np.isfinite(after[key]).all() for key in after)
    assert any((before[key] != after[key]).any() for key in after)  # the first chunk, steps 1 to 8, was good
    if what == "reward":
        with pytest.raises(EnvError, match="environment 0 at step 3: reward"):
            PPO("MlpPolicy", vector(Fake(at=3, reward=bad)), **TINY | {"batch_size": 8}).learn(64)


def test_shapes_and_dtypes_are_not_broadcast():
    for obs in (np.zeros((1, 2), np.float32), np.zeros(3, np.float32), np.float32(0.0)):
        with pytest.raises(EnvError, match="step 2"):
            PPO("MlpPolicy", Fake(at=2, obs=obs), **TINY | {"batch_size": 8}).learn(8)


def test_all_actions_masked():
    with pytest.raises(EnvError, match="mask allows no action"):
        PPO("MlpPolicy", Fake(mask=[0, 0]), **TINY | {"batch_size": 8}).learn(8)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(BOX, None),
        spaces.OneOf([BOX, spaces.Discrete(2)]),
        spaces.Dict({"a": BOX, "b": spaces.Tuple((spaces.Text(3),))}),
    ],
)
def test_unsupported_spaces(space):
    name = "Text" if isinstance(space, spaces.Dict) else type(space).__name__
    where = r"\['b'\]\[0\] is " if isinstance(space, spaces.Dict) else "observation space is "
    with pytest.raises(UnsupportedSpaceError, match=f"{where}{name}; supported are Box, Discrete"):
        PPO("MlpPolicy", Fake(space), **TINY)


# --------------------------------------------------------------------------- numbers


@dataclasses.dataclass(frozen=True)
class Reward(Probe):
    """One step, constant observation and reward."""

    value: float = 1.0

    def _outcome(self, state, action):
        return jnp.float32(self.value), jnp.ones((), bool)


@pytest.mark.parametrize("value", [pytest.param(1.0, marks=pytest.mark.slow), -1e30])
def test_constant_and_huge_rewards_stay_finite(value):
    model = PPO("MlpPolicy", Reward(value=value), n_envs=4, **TINY, normalize=True).learn(96)
    assert all(np.isfinite(x).all() for x in model.get_parameters().values())
    assert np.isfinite(float(model.runner.learners[0].training.reward_scale.moments.var))
    assert np.isfinite(model.run.metrics["train/loss"])


@pytest.mark.parametrize("mode", ["compiled", "host"])
def test_a_non_finite_update_keeps_the_parameters_and_hands_out_its_batch(mode, tmp_path):
    """1e30 is a finite reward, but its squared error is not."""
    env = Reward(value=1e30)
    model = PPO(
        "MlpPolicy", env if mode == "compiled" else HostJax(env, 4), n_envs=4, **TINY, normalize_obs=True
    )
    before = model.get_parameters()
    with pytest.raises(
        NonFiniteError, match=r"non-finite .*seed 0, around environment step 64.*learning_rate"
    ):
        model.learn(256)
    after = model.get_parameters()
    for key in before:
        assert np.isfinite(after[key]).all(), key
        if ".net" in key:
            np.testing.assert_array_equal(before[key], after[key])
    run = SeedRun(0, folder=tmp_path)
    with pytest.raises(NonFiniteError, match=r"nonfinite_batch\.npz"):
        train(model.runner, [run], 64)
    batch = np.load(tmp_path / "nonfinite_batch.npz")
    assert (batch["reward"] == np.float32(1e30)).all()
    assert batch["obs"].shape == (8, 4, 2)


@pytest.mark.parametrize(
    ("gradient_steps", "prioritized", "mode"),
    [(3, True, "compiled"), (1, False, "host"),
     *(pytest.param(*x, marks=pytest.mark.slow) for x in
       ((1, False, "compiled"), (1, True, "host"), (3, False, "host"), (3, False, "compiled"), (1, True, "compiled"),
        (3, True, "host")))],
)  # fmt: skip
def test_so_does_a_non_finite_update_from_a_memory(mode, prioritized, gradient_steps, tmp_path):
    """What the first such update drew from the memory: the square of its rewards is more than float32 holds."""
    settings = {
        "learning_starts": 16,
        "train_freq": 4,
        "batch_size": 8,
        "buffer_size": 64,
        "seed": 0,
        "n_step": 3,
    }
    env = Reward(value=3e38)
    model = DQN(
        "MlpPolicy", env if mode == "compiled" else HostJax(env, 1), policy_kwargs={"net_arch": [4]},
        gradient_steps=gradient_steps, per=prioritized, **settings,
    )  # fmt: skip
    before = model.get_parameters()
    said = r"non-finite \(seed 0, around environment step \d+\).*learning_rate"
    with pytest.raises(NonFiniteError, match=said):
        model.learn(64, checkpoint_dir=tmp_path)
    for key, value in model.get_parameters().items():
        if ".net" in key:
            np.testing.assert_array_equal(before[key], value)
    batch = np.load(tmp_path / "nonfinite_batch.npz")
    assert batch["obs"].shape == (8, 2)
    assert (batch["reward"] == np.float32(3e38)).any()


def test_nan_in_a_jax_environment_is_an_error_and_spoils_no_statistics():
    settings = {"n_steps": 8, "n_critic_updates": 1, "seed": 0, "policy_kwargs": {"net_arch": [4]}}
    model = VPG("MlpPolicy", Reward(value=float("nan")), n_envs=4, normalize=True, **settings)
    with pytest.raises(NonFiniteError):
        model.learn(64)
    assert all(np.isfinite(x).all() for x in model.get_parameters().values())
    assert np.isfinite(model.runner.learners[0].training.reward_scale.running).all()


# --------------------------------------------------------------------------- predict, evaluate


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([np.nan, 0.0], r"non-finite number at index \[0\]"),
        ([[0.0, 0.0], [0.0, np.inf]], r"non-finite number at index \[1, 1\]"),
        ([1e39, 0.0], "non-finite"),
        (np.zeros(3), r"shape \(3,\); expected \(2,\), or a batch \(n, \*\(2,\)\)"),
        (np.zeros((2, 3)), "shape"),
        (np.zeros((4, 1, 2)), "shape"),
        (0.0, r"shape \(\)"),
        (["a", "b"], "dtype"),
    ],
)
def test_predict_refuses(observation, message):
    with pytest.raises(ValueError, match=message):
        model().predict(observation)


def test_predict_refuses_masks_and_parts_that_do_not_fit():
    two = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"shape \(1, 2\); expected \(2, 2\)"):
        model().predict(two, action_masks=np.ones(2))
    with pytest.raises(ValueError, match="forbids every action in row 1"):
        model().predict(two, action_masks=[[1, 0], [0, 0]])
    with pytest.raises(UnsupportedSpaceError, match="discrete action space, not Box"):
        PPO("MlpPolicy", ContinuousTarget(), **TINY | {"batch_size": 8}).predict(
            np.zeros(2), action_masks=[1, 0]
        )
    parts = spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})
    both = PPO("MultiInputPolicy", Fake(parts), **TINY | {"batch_size": 8})
    with pytest.raises(ValueError, match=r"dict with keys \['a', 'b'\], got \['a'\]"):
        both.predict({"a": np.zeros(2)})
    with pytest.raises(ValueError, match="different batch lengths: none, 3"):
        both.predict({"a": np.zeros((3, 2)), "b": 1})
    pair = PPO("MultiInputPolicy", Fake(spaces.Tuple((BOX, BOX))), **TINY | {"batch_size": 8})
    with pytest.raises(ValueError, match="must be a tuple of 2"):
        pair.predict(np.zeros(2))


def test_evaluation_refuses():
    with pytest.raises(ValueError, match=r"action_space is Box.*Discrete"):
        evaluate_policy(model(), ContinuousTarget())
    with pytest.raises(ValueError, match="n_eval_episodes=0"):
        evaluate_policy(model(), ActionObs(), n_eval_episodes=0)
    with pytest.raises(ValueError, match="no environment yet"):
        evaluate_policy(PPO("MlpPolicy"), ActionObs())
    with pytest.raises(AssertionError, match=r"mean reward 1\.00 < 2\.00"):
        evaluate_policy(model(), ConstantReward(), 2, reward_threshold=2.0)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="use device='auto'"):
        PPO("MlpPolicy", ActionObs(), device="tpu-of-dreams", **TINY)
    with pytest.raises(SettingError, match="equinox module"):
        PPO(3, ActionObs())
    with pytest.raises(TypeError, match="cannot use int"):
        PPO("MlpPolicy", 3, **TINY)
    later = PPO("MlpPolicy", None, **TINY | {"batch_size": 8})
    asked = (lambda: later.learn(8), lambda: later.predict(np.zeros(2)), lambda: later.save("later"))
    for ask in (*asked, lambda: later.policy):
        with pytest.raises(ValueError, match=r"no (environment|parameters).*: pass env=…"):
            ask()
    later.set_env(ActionObs())
    assert later.predict(np.zeros(2))[0].shape == ()
    assert EvalCallback(Masked()).eval_freq == 10000


@pytest.mark.parametrize(
    "given", [{"n_steps": 50, "batch_size": 64}, {"data": "on-policy:n_steps=50:batch_size=64"}]
)
def test_a_batch_size_that_is_said_is_refused_and_not_replaced(given):
    assert PPO("MlpPolicy", "CartPole-v1", n_steps=50).batch_size == 50, "a default is fitted"
    with pytest.raises(SettingError, match=r"batch_size=64 does not fit .* near it lie 10, 25, 50"):
        PPO("MlpPolicy", "CartPole-v1", **given)


def test_a_jax_environment_for_the_host_says_which_backend_makes_it():
    pytest.importorskip("gymnax")
    with pytest.raises(UnknownEnvError, match="it is a JAX environment, which backend='jax' makes"):
        make_vec_env("Asterix-MinAtar", 2)
    assert make_vec_env("Asterix-MinAtar", 2, backend="jax").reset().shape == (2, 10, 10, 4)
