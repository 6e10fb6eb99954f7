"""The user's object: every named class learns, predicts, saves and loads alike in both loops."""

import dataclasses
import functools

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import actrix
from actrix import A2C, PPO, ModelFileError, SettingError
from actrix.data.datasets.dataset import Episode, assemble
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs, ContinuousTarget, Masked, TMaze
from actrix.loops.evaluate import evaluate
from actrix.model import MODELS, Model
from actrix.nets.torso import Linear
from samples import Samples

SMALL = {"net_arch": [8]}
SETTINGS = {
    "reinforce": {"n_steps": 3},
    "vpg": {"n_steps": 8, "n_critic_updates": 3},
    "qac": {"n_steps": 4},
    "tdac": {"n_steps": 4},
    "a2c": {"n_steps": 4},
    "ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "normalize": True},
    "ppo-kl": {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    "trpo": {"n_steps": 8, "batch_size": 16, "n_critic_updates": 2, "normalize": True},
    "acktr": {"n_steps": 8, "n_critic_updates": 2},
    "actor-critic": {"critic": "td-lambda:0.9", "actor": "ppo-clip:0.3", "n_steps": 8, "batch_size": 16},
}
ON_POLICY = tuple(SETTINGS)
"""What is trained here in both loops; `test_modes.py` does it for every preset, with one shape for all."""
FEW = ("ppo", "actor-critic")
"""A preset with statistics and minibatches, and a composition: the others are `slow`."""
NAMES = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in ON_POLICY]
CELLS = [
    pytest.param(name, mode, marks=() if name in FEW else pytest.mark.slow)
    for name in ON_POLICY
    for mode in ("compiled", "host")
]
OBS = np.array([[0.5, -0.2], [-1.0, 0.0], [1.0, 0.3]], np.float32)


def probe(mode, env=ActionObs, n_envs=4):
    return env() if mode == "compiled" else HostJax(env(), n_envs)


def make(name="ppo", mode="compiled", env=ActionObs, seed=0, **settings):
    settings = {"policy_kwargs": SMALL} | SETTINGS[name] | settings
    return MODELS[name]("MlpPolicy", probe(mode, env), n_envs=4, seed=seed, **settings)


@functools.cache
def trained(name="ppo", mode="compiled"):
    """(model after one learn, its initial parameters, those then). Shared: do not train it further."""
    model = make(name, mode)
    before = model.get_parameters()
    model.learn(96)
    return model, before, model.get_parameters()


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def differ(a, b):
    return any((a[key] != b[key]).any() for key in a)


@pytest.mark.parametrize(("name", "mode"), CELLS)
def test_learns_in_both_modes(name, mode):
    model, before, after = trained(name, mode)
    assert 96 <= model.num_timesteps <= 96 + 32 + 32
    assert differ(before, after)
    assert all(np.isfinite(x).all() for x in after.values())
    assert model.num_episodes == model.num_timesteps  # the probe's episodes last one step


@pytest.mark.parametrize("name", NAMES)
def test_modes_agree(name):
    one, other = trained(name, "compiled")[2], trained(name, "host")[2]
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(("name", "mode"), CELLS)
def test_predict(name, mode):
    model = trained(name, mode)[0]
    batch, state = model.predict(OBS, deterministic=True)
    assert batch.shape == (3,)
    assert batch.dtype == model.action_space.dtype
    assert state is None
    singles = [model.predict(obs, deterministic=True)[0] for obs in OBS]
    assert all(model.action_space.contains(a) for a in singles)
    np.testing.assert_array_equal(batch, singles)
    sampled = np.concatenate([model.predict(np.repeat(OBS, 50, 0))[0] for _ in range(4)])
    assert set(sampled) == {0, 1}
    only = np.array([[True, False], [False, True], [True, False]])
    np.testing.assert_array_equal(model.predict(OBS, action_masks=only)[0], [0, 1, 0])


@pytest.mark.parametrize(("name", "mode"), CELLS)
def test_save_and_load(name, mode, tmp_path):
    model, _, parameters = trained(name, mode)
    path = model.save(tmp_path / "model")
    for loaded in (type(model).load(path), Model.load(tmp_path / "model")):
        assert type(loaded) is type(model)
        assert loaded.algorithm == model.algorithm
        assert hash(loaded.algorithm) == hash(model.algorithm)
        assert (loaded.num_timesteps, loaded.seed) == (model.num_timesteps, model.seed)
        assert_equal(loaded.get_parameters(), parameters)
        np.testing.assert_array_equal(
            loaded.predict(OBS, deterministic=True)[0], model.predict(OBS, deterministic=True)[0]
        )
    with pytest.raises(TypeError, match=rf"model = {type(model).__name__}\.load"):
        model.load(path)


@pytest.mark.parametrize(("name", "mode"), CELLS)
def test_same_seed_same_parameters_and_a_second_learn_compiles_nothing(name, mode):
    model = make(name, mode).learn(96)
    assert_equal(model.get_parameters(), trained(name, mode)[2])
    compiled = (
        (model.runner._segment,)
        if mode == "compiled"
        else (model.runner._learn, model.runner._act, model.runner._noise)
    )
    before, sizes = model.get_parameters(), [f._cache_size() for f in compiled]
    model.learn(96).learn(32, reset_num_timesteps=False)
    assert [f._cache_size() for f in compiled] == sizes
    assert sizes[0] == 1
    assert differ(before, model.get_parameters())


@pytest.mark.parametrize("mode", ["compiled", "host"])
def test_two_seeds_differ(mode):
    other = make("ppo", mode, seed=1)
    assert differ(other.get_parameters(), trained("ppo", mode)[1])
    assert differ(other.learn(96).get_parameters(), trained("ppo", mode)[2])


@pytest.mark.parametrize("mode", ["compiled", "host"])
def test_timesteps(mode):
    model = make("a2c", mode)
    assert model.learn(40).num_timesteps == 48  # whole chunks of 16
    assert model.learn(40).num_timesteps == 48
    assert model.learn(40, reset_num_timesteps=False).num_timesteps == 96
    for bad in (0, -5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="total_timesteps"):
            model.learn(bad)


def test_learning_in_two_goes_equals_one():
    """`learn` again goes on: same streams, optimiser and environments."""
    whole = make("a2c", "host", learning_rate=1e-3).learn(96)
    parts = make("a2c", "host", learning_rate=1e-3)
    parts.learn(48).learn(48, reset_num_timesteps=False)
    assert_equal(whole.get_parameters(), parts.get_parameters())


def test_unknown_settings_suggest():
    with pytest.raises(SettingError, match=r"n_stps'.*did you mean n_steps"):
        PPO("MlpPolicy", ActionObs(), n_stps=4)
    with pytest.raises(SettingError, match="net_arch"):
        PPO("MlpPolicy", ActionObs(), policy_kwargs={"netarch": [4]})
    with pytest.raises(SettingError, match="MlpLstmPolicy"):
        PPO("MLPPolicy", ActionObs())
    with pytest.raises(ValueError, match="use_sde=True: state-dependent exploration is of a Gaussian policy"):
        PPO("MlpPolicy", ActionObs(), use_sde=True)
    with pytest.raises(SettingError, match="tanh, relu"):
        PPO("MlpPolicy", ActionObs(), policy_kwargs={"activation_fn": "sigmoidal"})


def test_files_of_others_are_refused(tmp_path):
    path = trained()[0].save(tmp_path / "ppo")
    with pytest.raises(ModelFileError, match="holds 'ppo', not 'a2c'"):
        A2C.load(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        PPO.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"action_space is Box.*Discrete"):
        PPO.load(path, env=ContinuousTarget())
    with pytest.raises(ValueError, match="action_space"):
        trained()[0].set_env(ContinuousTarget())
    with pytest.raises(ValueError, match="set_env"):
        PPO.load(path).learn(10)


def test_a_loaded_model_trains_on_with_other_settings(tmp_path):
    path = trained()[0].save(tmp_path / "ppo.v1")
    model = PPO.load(path, env=ActionObs(), learning_rate=1e-5, n_envs=2, verbose=0, seed=7)
    assert (model.algorithm.fit.learning_rate, model.n_envs, model.seed) == (1e-5, 2, 7)
    before = model.get_parameters()
    assert differ(before, model.learn(32).get_parameters())


@pytest.mark.parametrize("n_envs", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_set_env_with_another_number_of_environments(n_envs):
    model = make("ppo", "host", n_steps=16)
    model.learn(64)
    before = model.get_parameters()
    model.set_env(HostJax(ActionObs(), n_envs))
    assert_equal(model.get_parameters(), before)
    model.learn(64, reset_num_timesteps=False)
    assert model.runner.learners[0].training.reward_scale.running.shape == (n_envs,)
    assert differ(before, model.get_parameters())


# --------------------------------------------------------------------------- statistics, memory, masks


class Far(gym.Env):
    """Observations near 1000 with spread 10; reward 100 for action 1. Ten steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 100.0 * int(action), False, self.t == 10, {}

    def _obs(self):
        return 1000 + 10 * self.np_random.normal(size=2)


def test_statistics_are_saved_frozen_and_used(tmp_path):
    model = PPO(
        "MlpPolicy", Far(), n_steps=32, batch_size=32, n_epochs=1, normalize=True, seed=0, policy_kwargs=SMALL
    )
    model.learn(64)
    assert model.run.metrics["rollout/ep_rew_mean"] > 0
    moments = model.acting.obs_moments[0]
    np.testing.assert_allclose(moments.mean, 1000, atol=5)
    np.testing.assert_allclose(np.sqrt(moments.var), 10, rtol=0.3)
    assert moments.count == pytest.approx(64, abs=0.1)  # the warm-up chunk, then one that was learned from
    actrix.evaluate_policy(model, Far(), 2, seed=0)
    obs = 1000 + 10 * np.random.default_rng(0).normal(size=(40, 2))
    loaded = PPO.load(model.save(tmp_path / "far"))
    assert_equal(loaded.get_parameters(), model.get_parameters())
    assert moments.count == loaded.acting.obs_moments[0].count
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    # Without them every observation is clipped to one point, and so is every action.
    head = loaded.acting.net.pi_head
    strong = eqx.tree_at(lambda n: n.pi_head.weight, loaded.acting.net, 100 * head.weight)
    strong = eqx.tree_at(lambda n: n.pi_head.bias, strong, 0 * head.bias)
    names = dict(
        zip(
            loaded.get_parameters(),
            jax.tree.leaves(dataclasses.replace(loaded.acting, net=strong)),
            strict=True,
        )
    )
    loaded.set_parameters(names)
    assert len(set(loaded.predict(obs, deterministic=True)[0])) == 2
    loaded.set_parameters(
        {k: v * 0 + (v.ndim < 1) for k, v in names.items() if "obs_moments" in k}, exact_match=False
    )
    assert len(set(loaded.predict(obs, deterministic=True)[0])) == 1


def test_recurrent_policies_predict_with_their_memory(tmp_path):
    model = PPO(
        "MlpLstmPolicy", TMaze(), n_envs=4, n_steps=8, batch_size=16, n_epochs=1, seed=0,
        policy_kwargs=SMALL | {"lstm_hidden_size": 8},
    )  # fmt: skip
    model.learn(32)
    net = eqx.tree_at(lambda n: n.pi_head.weight, model.acting.net, replace_fn=lambda w: 100 * w)
    acting = dataclasses.replace(model.acting, net=net)
    model.set_parameters(dict(zip(model.get_parameters(), jax.tree.leaves(acting), strict=True)))
    loaded = PPO.load(model.save(tmp_path / "lstm"))
    sequence = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float32)
    starts = np.random.default_rng(1).random((12, 3)) < 0.2
    memory, together = None, []
    for obs, start in zip(sequence, starts, strict=True):
        action, memory = loaded.predict(obs, memory, start, deterministic=True)
        together.append(action)
    for i in range(3):  # alone, step by step, forgetting by hand
        carry = net.initial_carry(())
        for t in range(12):
            carry = net.initial_carry(()) if starts[t, i] else carry
            out, carry = net(jnp.asarray(sequence[t, i]), carry, None)
            assert together[t][i] == np.argmax(out.dist.logits)
    first, state = loaded.predict(sequence[0, 0], deterministic=True)
    assert first.shape == ()
    assert jax.tree.leaves(state)[0].shape == (1, 8)
    assert len({tuple(a) for a in together}) > 1


def test_masks_reach_training_and_predict():
    model = make("ppo", "compiled", Masked, normalize=False).learn(96)
    assert min(model.run.returns) >= 0  # an illegal action costs 10
    host = HostJax(Masked(), 4)
    rewards, _ = actrix.evaluate_policy(
        model, host, 40, deterministic=False, return_episode_rewards=True, seed=0
    )
    assert min(rewards) >= 0


# --------------------------------------------------------------------------- spaces


BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
SPACES = {
    "dict": (
        spaces.Dict(
            {"z": BOX, "a": spaces.Discrete(3, start=-1), "i": spaces.Box(0, 255, (4, 8, 8), np.uint8),
             "d": spaces.Dict({"x": spaces.MultiBinary(2)})}
        ),
        spaces.Discrete(3, start=5),
    ),
    "tuple": (
        spaces.Tuple((BOX, spaces.MultiDiscrete([2, 3], start=[1, -1]))),
        spaces.MultiDiscrete([2, 3], start=[4, 1]),
    ),
    "multi-binary": (spaces.MultiBinary(3), spaces.MultiBinary(2)),
    "discrete": (spaces.Discrete(4, start=2), spaces.Discrete(1)),
    "matrix": (
        spaces.Box(-1, 1, (2, 3), np.float64),
        spaces.Box(np.array([[-3, 0], [1, -np.inf]]), np.array([[3.0, 2], [9, 5]]), dtype=np.float64),
    ),
    "integers": (spaces.Box(0, 9, (2,), np.int64), spaces.Box(-1e30, 1e30, (1,), np.float64)),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    # scripts/test_saving.py has as many kinds of spaces, the encoders core/test_networks.py.
    [pytest.param(x, marks=pytest.mark.slow) if x in ("tuple", "integers") else x for x in SPACES],
)
def test_every_space_trains_predicts_and_survives_a_file(kind, tmp_path):
    observation_space, action_space = SPACES[kind]
    envs = gym.vector.SyncVectorEnv([lambda: Samples(observation_space, action_space)] * 2)
    model = PPO("MultiInputPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, normalize=True, seed=0,
                policy_kwargs=SMALL)  # fmt: skip
    before = model.get_parameters()
    model.learn(16)
    assert differ(before, model.get_parameters())
    loaded = PPO.load(model.save(tmp_path / "model"))
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    obs = observation_space.sample()
    action, _ = loaded.predict(obs, deterministic=True)
    assert action_space.contains(action.item() if action.shape == () else action), action
    np.testing.assert_array_equal(action, model.predict(obs, deterministic=True)[0])
    batch = jax.tree.map(lambda x: np.stack([x] * 3), obs)
    np.testing.assert_allclose(
        loaded.predict(batch, deterministic=True)[0], np.stack([action] * 3), rtol=1e-5
    )


# --------------------------------------------------------------------------- scripts written for SB3


def test_a_script_written_for_sb3(tmp_path):
    def linear_schedule(initial_value):
        def func(progress_remaining):
            return progress_remaining * initial_value

        return func

    def build(**more):
        return PPO(
            "MlpPolicy", ActionObs(), n_envs=4, learning_rate=linear_schedule(0.001),
            clip_range=linear_schedule(0.2), n_steps=8, batch_size=16, n_epochs=1, gamma=0.999,
            gae_lambda=0.98, ent_coef=0.01, seed=np.int64(3),
            policy_kwargs={"net_arch": {"pi": [32, 32], "vf": [32]}, "activation_fn": "relu"}, **more,
        )  # fmt: skip

    model = build(tensorboard_log=tmp_path / "logs")
    rates = []
    model.learn(
        total_timesteps=96, callback=lambda *_: rates.append(model.run.metrics["train/learning_rate"])
    )
    np.testing.assert_allclose(rates, [0.001, 0.001 * 2 / 3, 0.001 / 3], rtol=1e-5)
    assert [layer.weight.shape for layer in model.acting.net.pi.layers] == [(2, 32), (32, 32)]
    assert [layer.weight.shape for layer in model.acting.net.vf.layers] == [(2, 32)]
    assert list((tmp_path / "logs" / "PPO_1").glob("events*"))
    model.save(tmp_path / "ppo")
    loaded = PPO.load(tmp_path / "ppo", env=model.get_env())
    assert loaded.algorithm == model.algorithm == build().algorithm
    mean, std = actrix.evaluate_policy(
        loaded, HostJax(ActionObs(), 2), n_eval_episodes=10, deterministic=True
    )
    assert 0 <= mean <= 1
    assert std >= 0


class Tiny(eqx.Module):
    layer: Linear

    def __init__(self, spec, key):
        self.layer = Linear(2, 3, 1.0, key)

    def __call__(self, obs):
        out = self.layer(obs)
        return out[:2], out[2]


def test_a_network_of_ones_own_needs_a_template(tmp_path):
    settings = {"n_envs": 4, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "seed": 0}
    model = PPO(Tiny, ActionObs(), **settings).learn(32)
    path = model.save(tmp_path / "custom")
    with pytest.raises(ModelFileError, match="template=model"):
        PPO.load(path)
    loaded = PPO.load(path, template=PPO(Tiny, ActionObs(), **settings))
    np.testing.assert_array_equal(
        loaded.predict(OBS, deterministic=True)[0], model.predict(OBS, deterministic=True)[0]
    )


@pytest.mark.parametrize("of_a_file", [False, True])
def test_a_warm_start_takes_parameters_by_name(of_a_file, tmp_path):
    model, _, parameters = trained()
    fresh = make()
    fresh.set_parameters(model.save(tmp_path / "model") if of_a_file else parameters)
    assert_equal(fresh.get_parameters(), parameters)
    np.testing.assert_array_equal(
        fresh.predict(OBS, deterministic=True)[0], model.predict(OBS, deterministic=True)[0]
    )
    assert differ(parameters, fresh.learn(32).get_parameters())
    with pytest.raises(ValueError, match=r"\.net\.pi\.nothing"):
        fresh.set_parameters({".net.pi.nothing": np.zeros(2)}, exact_match=False)
    with pytest.raises(ValueError, match="shape"):
        fresh.set_parameters({next(iter(parameters)): np.zeros(99)}, exact_match=False)


@pytest.mark.slow  # the reference below has its own statistics besides
def test_a_reference_model_is_stayed_near():
    reference = trained()[0]
    near = make(ref_kl_coef=10.0, ref_kl_in="loss", reference=reference, learning_rate=1e-2).learn(96)
    assert np.isfinite(near.run.metrics["train/reference_kl"])


def test_evaluation_draws_nothing_from_the_policy_of_training():
    model, _, parameters = trained("ppo", "host")
    one = evaluate(model.policy, HostJax(ActionObs(), 3), 9, deterministic=True, seed=4)
    two = evaluate(model.policy, HostJax(ActionObs(), 3), 9, deterministic=True, seed=4)
    np.testing.assert_array_equal(one, two)
    assert_equal(model.get_parameters(), parameters)


@pytest.mark.parametrize("where", ["reward", "loss"])
def test_the_reference_keeps_its_own_statistics(where):
    """The learner's statistics and parameters move, the reference's whole acting part stays."""
    reference = make(normalize=True).learn(64)
    near = make(ref_kl_coef=0.1, ref_kl_in=where, reference=reference, normalize=True).learn(32)
    kept = near.runner.learners[0].training.reference
    jax.tree.map(np.testing.assert_array_equal, kept, reference.acting)
    assert differ(near.get_parameters(), reference.get_parameters())


def test_a_recurrent_reference_is_refused():
    recurrent = PPO(
        "MlpLstmPolicy", ActionObs(), n_envs=4, n_steps=8, batch_size=16, seed=0, policy_kwargs=SMALL
    )
    with pytest.raises(ValueError, match="recurrent policy cannot be the reference"):
        make(ref_kl_coef=0.1, reference=recurrent)


# --------------------------------------------------------------------------- the environment of training


class Counter(gym.Env):
    """Observes the number of steps since the reset; ends only by its time limit, after 100."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, False, self.t == 100, {}


@pytest.mark.parametrize("kind", ["gym.Env", "vector", "make_vec_env"])
def test_evaluating_on_the_environment_of_training_starts_new_episodes(kind):
    env = {
        "gym.Env": Counter,
        "vector": lambda: gym.vector.SyncVectorEnv([Counter]),
        "make_vec_env": lambda: actrix.make_vec_env(Counter),
    }[kind]()
    model = A2C("MlpPolicy", env, n_steps=4, seed=0, policy_kwargs=SMALL).learn(8)
    assert model.trains_on(env)
    assert not model.trains_on(Counter())
    assert model.runner._obs[0, 0] == 8
    actrix.evaluate_policy(model, Counter(), 1)
    assert model.runner._obs[0, 0] == 8
    actrix.evaluate_policy(model, env, 1)
    assert model.runner._obs[0, 0] == 0
    seen = []
    model.learn(4, callback=lambda l, g: seen.append(int(l["new_obs"][0, 0])), reset_num_timesteps=False)
    assert seen == [1, 2, 3, 4]
    model.learn(4, callback=lambda l, g: seen.append(int(l["new_obs"][0, 0])), reset_num_timesteps=False)
    assert seen[4:] == [5, 6, 7, 8]
    model.learn(4, callback=lambda l, g: seen.append(int(l["new_obs"][0, 0])))
    assert seen[8:] == [1, 2, 3, 4]


def test_the_id_of_an_environment_is_kept_where_it_says_everything(tmp_path):
    make_id = lambda env: A2C("MlpPolicy", env, policy_kwargs=SMALL, seed=0).env_id
    assert make_id(actrix.make_vec_env("CartPole-v1", 2, backend="gymnasium")) == "CartPole-v1"
    assert make_id(actrix.make_vec_env("CartPole-v1", 2)) == "CartPole-v1"
    assert make_id(gym.make("CartPole-v1", render_mode="rgb_array")) == "CartPole-v1"
    assert make_id(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")) == "CartPole-v1"
    for partly in (
        gym.make("CartPole-v1", sutton_barto_reward=True),
        gym.make("CartPole-v1", max_episode_steps=9),
        gym.wrappers.RescaleObservation(gym.make("MountainCar-v0"), 0, 1),
        Counter(),
    ):
        assert make_id(partly) is None


@pytest.mark.parametrize("mode", ["compiled", "host"])
def test_schedules_of_a_loaded_model_go_on_where_they_were(mode, tmp_path):
    path = make("a2c", mode, learning_rate="lin_1.0").learn(48).save(tmp_path / "a2c")
    model = A2C.load(path, env=probe(mode))
    assert float(model.runner.learners[0].training.steps) == 48
    model.learn(16, reset_num_timesteps=False)
    assert model.run.metrics["train/learning_rate"] == pytest.approx(0.25)


# --------------------------------------------------------------------------- replayed and fixed data

TABLES = (
    "mc", "td", "td-lambda", "sarsa", "expected-sarsa", "sarsa-lambda", "q-learning", "double-q", "q-lambda",
    "tree-backup", "cpi",
)  # fmt: skip
"""Neither networks nor these observations: `test_tabular_models.py` does the same for them."""
ANSWERS = ("sft", "grpo", "dr-grpo", "rloo", "gpg", "gspo", "dapo", "rlhf-ppo")
"""Other settings of what is trained above: tests/actors/test_group.py and tests/run/test_init.py have them."""
OFF_POLICY = tuple(name for name in MODELS if name not in ON_POLICY + TABLES + ANSWERS)
CONTINUOUS = ("ddpg", "td3", "d4pg", "sac", "tqc", "droq", "redq", "crossq", "cql", "td3-bc")
OFFLINE = ("bc", "cql", "iql", "td3-bc")
REPLAY = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200, "train_freq": 1}


COLLECTS = {"buffer_size", "learning_starts", "train_freq", "gradient_steps"}
"""What a data set makes no use of."""


def off_policy(name, env=None, seed=0, **settings):
    """A tiny model; 4 environments of a probe unless told otherwise."""
    cls = MODELS[name]
    own = REPLAY if cls._find_preset({}).algorithm.replays_transitions else {}
    own = {key: x for key, x in own.items() if "dataset" not in settings or key not in COLLECTS}
    if name in ("off-pac", "v-trace", "acer", "pgql"):
        own = {"n_steps": 4}
    if name == "pqn":
        own = {"n_steps": 4, "batch_size": 16}
    own = own | {"dqn": {"exploration_fraction": 1.0}, "iql": {"learning_rate": 1e-2}}.get(name, {})
    if env is None and "dataset" not in settings:
        env = ContinuousTarget() if name in CONTINUOUS else ActionObs()
    settings = {"policy_kwargs": SMALL, "seed": seed} | own | settings
    return cls("MlpPolicy", env, n_envs=4, **settings)


def fixed_data(seed=0):
    """Sixty one-step episodes of the probe `ActionObs` with random actions."""
    rng = np.random.default_rng(seed)
    ends = np.ones(1, bool)
    episodes = []
    for x in rng.choice([-1.0, 1.0], 60):
        action = rng.integers(0, 2, 1)
        reward = np.array([float((action[0] == 1) == (x > 0))])
        episodes.append(Episode(np.float32([[x, 0]] * 2), action, reward, ends, ~ends))
    return assemble(episodes, ActionObs().spec, name="sixty")


def perturb(model):
    """Other parameters than the seed gives; statistics stay, whose counts are not negative."""
    rng, params = np.random.default_rng(5), model.get_parameters()
    new = {
        k: x + 0.1 * rng.normal(size=x.shape) for k, x in params.items() if ".net" in k and ".seen" not in k
    }
    model.set_parameters(new, exact_match=False)
    return model


AS_OTHERS = ("c51", "qr-dqn", "munchausen-dqn", "soft-q", "ddpg", "redq", "droq", "cql", "td3-bc", "awr", "awac",
             "off-pac", "v-trace", "pgql")  # fmt: skip
"""Networks of the same parts as others'; run/test_golden_models.py has a file of each kind."""


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x in AS_OTHERS else x for x in OFF_POLICY]
)
@pytest.mark.filterwarnings("ignore:buffer_size=.* has no effect")  # of what learns from a data set
def test_every_off_policy_class_predicts_saves_and_loads(name, tmp_path):
    """Loading allocates no memory of transitions: this one would not fit into any machine."""
    model = perturb(off_policy(name))
    model.run.steps = 77
    path = model.save(tmp_path / "model")
    replays = model.algorithm.data.buffer_size is not None
    huge = {"buffer_size": 10**15} if replays else {}
    loaded = type(model).load(path, **huge)
    assert loaded.runner is None
    for other in (Model.load(path), loaded):
        assert type(other) is type(model)
        assert (other.num_timesteps, other.seed) == (77, 0)
        assert_equal(other.get_parameters(), model.get_parameters())
    assert Model.load(path).algorithm == model.algorithm
    batch, state = loaded.predict(OBS, deterministic=True)
    assert state is None
    np.testing.assert_array_equal(batch, model.predict(OBS, deterministic=True)[0])
    singles = np.stack([loaded.predict(obs, deterministic=True)[0] for obs in OBS])
    np.testing.assert_allclose(batch, singles, rtol=1e-5)
    assert all(model.action_space.contains(a) for a in batch)
    if name not in CONTINUOUS:
        only = np.array([[True, False], [False, True], [True, False]])
        np.testing.assert_array_equal(loaded.predict(OBS, action_masks=only)[0], [0, 1, 0])
    with pytest.raises(ModelFileError, match=f"holds {name!r}, not 'ppo'"):
        PPO.load(path)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("dqn", "host"),
        pytest.param("sac", "compiled", marks=pytest.mark.slow),
        ("v-trace", "host"),
        ("pqn", "host"),
    ],
)
def test_learning_twice_goes_on_and_compiles_nothing(name, mode):
    env = ContinuousTarget() if name == "sac" else ActionObs()
    make = lambda seed=0: off_policy(name, env if mode == "compiled" else HostJax(env, 4), seed)
    model = make().learn(48)
    assert 48 <= model.num_timesteps <= 48 + 16
    runner = model.runner
    compiled = runner._segment if mode == "compiled" else getattr(runner, "_round", None) or runner._learn
    first = model.get_parameters()
    assert_equal(make().learn(48).get_parameters(), first)
    model.learn(32)
    assert 32 <= model.num_timesteps < 48, "the random phase is not played again"
    second = model.get_parameters()
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps >= 48
    assert compiled._cache_size() == 1
    for before, after in ((first, second), (second, model.get_parameters())):
        assert differ(before, after)
    assert all(np.isfinite(x).all() for x in model.get_parameters().values())
    other = make(seed=1)
    assert differ(other.get_parameters(), make().get_parameters())


def test_a_loaded_model_goes_on_with_an_empty_memory(tmp_path):
    """Warm start: targets are copies of the loaded network, ε goes on where it was, the memory fills anew."""
    env = lambda: HostJax(ActionObs(), 4)
    path = off_policy("dqn", env()).learn(80).save(tmp_path / "dqn")
    model = actrix.DQN.load(path, env=env())
    learner = model.runner.learner
    assert int(np.sum(learner.memory.rows.ready)) == 0
    assert float(learner.training.steps) == model.num_timesteps == 80
    params, _ = model.algorithm.fit.split(learner.acting.net)
    np.testing.assert_array_equal(learner.training.kept.critic, params["net"])
    before = model.get_parameters()
    model.learn(80, reset_num_timesteps=False)
    assert model.num_timesteps == 160
    assert differ(before, model.get_parameters())
    assert model.run.metrics["rollout/exploration_rate"] < 0.6
    fresh = off_policy("dqn", env())
    fresh.set_parameters(before)
    assert_equal(fresh.get_parameters(), before)
    assert differ(before, fresh.learn(40).get_parameters())


def test_the_memory_stays_with_as_many_environments():
    model = off_policy("dqn", HostJax(ActionObs(), 4)).learn(40)
    before = model.get_parameters()
    rows = lambda: int(np.sum(model.runner.learner.memory.rows.ready))
    model.set_env(HostJax(ActionObs(), 4))
    assert_equal(model.get_parameters(), before)
    assert rows() == 40
    assert model.learn(40, reset_num_timesteps=False).num_timesteps == 80
    before = model.get_parameters()
    model.set_env(HostJax(ActionObs(), 2))
    assert_equal(model.get_parameters(), before)
    assert (rows(), model.num_timesteps) == (0, 80)


# --------------------------------------------------------------------------- data sets


def test_a_model_learns_from_a_data_set_and_predicts(tmp_path):
    data = fixed_data()
    model = off_policy("iql", dataset=data)
    assert model.get_env() is None
    assert (model.observation_space, model.action_space) == (
        data.spec.observation_space,
        data.spec.action_space,
    )
    model.learn(300)
    assert (model.num_timesteps, model.num_episodes) == (300, 0), "updates are counted"
    assert model.predict(np.float32([[1, 0], [-1, 0]]), deterministic=True)[0].tolist() == [1, 0]
    mean, _ = actrix.evaluate_policy(model, HostJax(ActionObs(), 4), 20)
    assert mean == 1.0
    loaded = actrix.IQL.load(model.save(tmp_path / "iql"))
    assert_equal(loaded.get_parameters(), model.get_parameters())
    assert loaded.num_timesteps == 300
    same = off_policy("iql", dataset=data).learn(300)
    assert_equal(same.get_parameters(), model.get_parameters())
    seen = []
    model.learn(20, callback=lambda l, g: seen.append(model.num_timesteps), reset_num_timesteps=False)
    assert seen[-1] == model.num_timesteps == 320


def leaf(model):
    return np.asarray(jax.tree.leaves(model.runner.actings[0])[0])


def test_what_was_learned_is_kept_when_the_source_of_data_changes():
    """From a data set to another, to an environment (fine-tuning), and back; nobody reads the parameters meanwhile."""
    model = off_policy("iql", dataset=fixed_data()).learn(20)
    learned = leaf(model)
    model.set_dataset(fixed_data(1))
    np.testing.assert_array_equal(leaf(model), learned)
    assert int(model.runner.learners[0].training.gradient_steps) == 20, "and the optimiser's state"
    model.learn(10, reset_num_timesteps=False)
    learned = leaf(model)
    model.set_env(HostJax(ActionObs(), 4))
    np.testing.assert_array_equal(leaf(model), learned)
    learned = leaf(model.learn(24, reset_num_timesteps=False))
    assert (leaf(model) == learned).all()
    model.set_dataset(fixed_data())
    np.testing.assert_array_equal(leaf(model), learned)
    assert model.num_timesteps == 20 + 10 + 24


def test_data_sets_that_do_not_fit_a_model():
    data = fixed_data()
    with pytest.raises(ValueError, match="either an environment to learn in or a data set"):
        actrix.BC("MlpPolicy", ActionObs(), dataset=data)
    with pytest.raises(ValueError, match="only algorithms that replay transitions learn from a data set"):
        PPO(dataset=data)
    with pytest.raises(ValueError, match=r"infinite bounds|needs a Box action space, not Discrete\(2\)"):
        actrix.TD3BC(dataset=data)
    with pytest.raises(
        ValueError, match=r"does not fit the data set sixty: its action_space is Box.*the data's is Dis"
    ):
        off_policy("iql", ContinuousTarget()).set_dataset(data)
    with pytest.raises(actrix.DatasetError, match="is no Minari data set"):
        actrix.BC(dataset="no/such-v0")
