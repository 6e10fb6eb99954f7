"""Run configurations: what the user, the zoo and the preset each decide, and files that are refused."""

import dataclasses
import json

import pytest

from actrix.actors.ppo_kl import PPOKL
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import SettingError, configure, settings_of
from actrix.critics.nothing import NoCritic
from actrix.critics.value import GAE, NStep
from actrix.nets.networks import NetworkConfig
from actrix.runs import folder
from actrix.runs.config import RunError, check_offline, resolve

OFFLINE = [name for name, preset in PRESETS.items() if preset.offline]


def network(env_id="CartPole-v1", **given):
    return resolve("ppo", env_id, seeds=[0], backend="jax", **given).build().network


def test_the_users_answers_replace_the_zoos():
    """The zoo's gae_lambda and clip_range for CartPole go with the critic and the actor that had them."""
    n_step = resolve("ppo", "CartPole-v1", settings={"critic": "n-step:10"}).build()
    assert n_step.critic == NStep(10)
    assert (n_step.gamma, n_step.data.n_steps) == (0.98, 32)  # the zoo's
    assert n_step.actor == resolve("ppo", "CartPole-v1").build().actor
    kl = resolve("ppo", "CartPole-v1", settings={"actor": "ppo-kl"}).build()
    assert isinstance(kl.actor, PPOKL)
    assert kl.critic == GAE(0.8)


def test_none_names_a_critic():
    """`--set critic=none` arrives as None."""
    settings = {"critic": None, "actor": "score", "n_epochs": 1, "batch_size": None}
    assert resolve("ppo", "CartPole-v1", settings=settings).build().critic == NoCritic()


def test_what_the_user_typed_beats_the_policy_name():
    assert network(recurrent=True).cell == "lstm"
    assert network(recurrent=True, settings={"policy_kwargs": {"cell": "gru"}}).cell == "gru"
    assert network(policy="MlpLstmPolicy", settings={"policy_kwargs": {"cell": "gru"}}).cell == "gru"
    assert network(policy="CnnPolicy", settings={"policy_kwargs": {"cnn": False}}).cnn is False
    both = network(recurrent=True, settings={"policy": "CnnPolicy"})
    assert (both.cell, both.cnn) == ("lstm", True)


def test_policy_kwargs_may_be_none():
    assert network(settings={"policy_kwargs": None}) == network()


@pytest.mark.parametrize(
    "settings", [{"policy_kwargs": 5}, {"policy": 5}, {"actor": 5}, {"n_timesteps": 2.5}, {"n_envs": True}]
)
def test_settings_of_the_wrong_kind(settings):
    with pytest.raises(SettingError, match=next(iter(settings)).replace("n_timesteps", "steps")):
        resolve("ppo", "CartPole-v1", settings=settings)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"critic": "gae", "policy_kwargs": {}}},
        {"settings": 5},
        {"n_timesteps": "many"},
        {"seeds": []},
        {"env_kwargs": None},
    ],
)
def test_a_config_file_that_is_incomplete(change, tmp_path):
    config = resolve("ppo", "CartPole-v1", seeds=[0])
    data = json.loads(json.dumps({**vars(config), **change}))
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match=next(iter(change))):
        folder.load_config(tmp_path).build()


@pytest.mark.parametrize("name", PRESETS)
def test_every_algorithm_comes_back_from_its_config(name, tmp_path):
    """The preset's own settings, the zoo's, and a memory smaller than the default batch."""
    algorithm = PRESETS[name].algorithm
    assert configure(algorithm, json.loads(json.dumps(settings_of(algorithm)))) == algorithm
    offline = name in OFFLINE
    small = {"buffer_size": 40, "batch_size": 20} if algorithm.replays_transitions else {}
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        if offline:
            built = configure(algorithm, small)
            assert configure(algorithm, json.loads(json.dumps(settings_of(built)))) == built
            continue
        config = resolve(name, env_id, seeds=[0], settings=small)
        (tmp_path / "config.json").write_text(json.dumps(vars(config)))
        assert folder.load_config(tmp_path) == config
        assert folder.load_config(tmp_path).build() == config.build()


VARIANTS = [
    ("reinforce", {"actor": "score:return"}),
    ("reinforce", {"actor": "score:gamma", "gamma": 0.9}),
    ("a2c", {"critic": "mc", "actor": "score:gamma,normalize_advantage", "n_steps": None}),
    ("ppo", {"clip_range": "lin_0.2", "clip_range_vf": 0.1, "target_kl": 0.01, "learning_rate": "lin_3e-4"}),
    ("ppo", {"critic": "v-trace:0.9", "data": "lag:2", "critic_learning_rate": 1e-4}),
    ("ppo", {"actor": "ppo-kl:0.02", "ref_kl_coef": 0.1, "ref_kl_in": "loss"}),
    ("ppo", {"policy_kwargs": {"cnn": True, "features_extractor_kwargs": {"features_dim": 32}}}),
    ("ppo", {"policy_kwargs": {"net_arch": []}}),
    ("ppo", {"policy_kwargs": {"cell": "gru", "net_arch": {"pi": [8], "vf": [16, 16]}}}),
    ("trpo", {"critic": "td-lambda:0.7", "sub_sampling_factor": 2}),
    ("dqn", {"prioritized": True, "priority_beta": "lin_0.4_1.0", "n_step": 3}),
    ("dqn", {"critic": "q:double,dueling,iqn=8,huber=true"}),
    ("dqn", {"noisy": True, "distributional": "c51", "v_min": -1.5, "v_max": 1e6}),
    ("dqn", {"target": "munchausen", "entropy_tau": 0.1}),
    ("dqn", {"target": "expected-sarsa", "exploration": "boltzmann", "temperature": "lin_1.0"}),
    ("soft-q", {"critic": "q:soft=lin_0.5_0.1"}),
    ("td3", {"action_noise": None, "train_freq": (4, "step"), "gradient_steps": -1}),
    ("sac", {"critic": "ensemble:5,quantiles=25", "ent_coef": 0.2}),
    ("sac", {"target_entropy": -3.5, "buffer_size": 1000}),
    ("cql", {"cql_alpha": 1.0}),
    ("acer", {"data": "trajectories:2:500:100"}),
    ("q-lambda", {"exploration": "none"}),
    ("dqn", {"exploration": None}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_every_variant_comes_back_from_its_settings(name, settings):
    preset = PRESETS[name].algorithm
    algorithm = configure(preset, settings)
    assert algorithm != preset
    assert configure(preset, json.loads(json.dumps(settings_of(algorithm)))) == algorithm


NETWORKS = [{f.name: getattr(NetworkConfig(), f.name)} for f in dataclasses.fields(NetworkConfig)]
NETWORKS = [given | {"features_extractor_kwargs": {}} for given in NETWORKS]


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_comes_back_though_it_is_another_than_the_presets(name):
    """Also where a value is the one that most networks have."""
    preset = PRESETS[name].algorithm
    for given in NETWORKS:
        algorithm = configure(preset, {"policy_kwargs": given})
        assert configure(preset, json.loads(json.dumps(settings_of(algorithm)))) == algorithm, given


def test_a_composed_run_has_the_network_it_was_given():
    given = {"policy_kwargs": {"activation_fn": "tanh", "ortho_init": True}}
    config = resolve(
        None, "CartPole-v1", critic="q", actor="greedy", data="replay", seeds=[0], settings=given
    )
    assert (config.build().network.activation_fn, config.build().network.ortho_init) == ("tanh", True)


def test_algorithms_that_need_a_data_set_or_an_environment_say_so():
    assert sorted(OFFLINE) == ["bc", "cql", "iql", "td3-bc"]
    for name in OFFLINE:
        with pytest.raises(SettingError, match=f"{name} learns from a data set: give --dataset PATH"):
            resolve(name, "CartPole-v1")
    for name in ("ppo", "a2c", "pqn", "v-trace", "acer", "q-learning", "cpi", "stream-ac"):
        with pytest.raises(SettingError, match=f"{name} needs an environment: bc, cql, iql, td3-bc and"):
            check_offline(PRESETS[name])
    for name in (*OFFLINE, "dqn", "rainbow", "sac", "td3"):
        check_offline(PRESETS[name])
