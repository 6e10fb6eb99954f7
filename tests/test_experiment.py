"""Run configurations: what the user, the zoo and the preset each decide, and files that are refused."""

import json

import pytest

from actrix.actors.answers import PPOKL
from actrix.algorithms.presets import PRESETS, SettingError, configure, settings_of
from actrix.critics.answers import GAE, NStep
from actrix.runs import folder
from actrix.runs.config import OFFLINE_ONLY, RunError, check_offline, resolve


def network(env_id="CartPole-v1", **given):
    return resolve("ppo", env_id, seeds=[0], backend="jax", **given).build().network


def test_the_users_answers_replace_the_zoos():
    """The zoo's gae_lambda and clip_range for CartPole go with the critic and the actor that had them."""
    n_step = resolve("ppo", "CartPole-v1", settings={"critic": "n-step:10"}).build()
    assert n_step.critic.estimator == NStep(10)
    assert (n_step.gamma, n_step.n_steps) == (0.98, 32)  # the zoo's
    assert n_step.actor == resolve("ppo", "CartPole-v1").build().actor
    kl = resolve("ppo", "CartPole-v1", settings={"actor": "ppo-kl"}).build()
    assert isinstance(kl.actor, PPOKL)
    assert kl.critic.estimator == GAE(0.8)


def test_none_names_a_critic():
    """`--set critic=none` arrives as None."""
    settings = {"critic": None, "actor": "score", "n_epochs": 1, "batch_size": None}
    assert resolve("ppo", "CartPole-v1", settings=settings).build().critic.function == "none"


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
    [{"settings": {}}, {"settings": 5}, {"n_timesteps": "many"}, {"seeds": []}, {"env_kwargs": None}],
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
    offline = name in OFFLINE_ONLY
    small = {} if not hasattr(algorithm.data, "batch_size") else {"buffer_size": 40, "batch_size": 20}
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        if offline:
            built = configure(algorithm, small)
            assert configure(algorithm, json.loads(json.dumps(settings_of(built)))) == built
            continue
        config = resolve(name, env_id, seeds=[0], settings=small)
        (tmp_path / "config.json").write_text(json.dumps(vars(config)))
        assert folder.load_config(tmp_path) == config
        assert folder.load_config(tmp_path).build() == config.build()


def test_algorithms_that_need_a_data_set_or_an_environment_say_so():
    for name in OFFLINE_ONLY:
        with pytest.raises(SettingError, match=f"{name} learns from a data set: give --dataset PATH"):
            resolve(name, "CartPole-v1")
    for name in ("ppo", "a2c", "pqn", "v-trace", "acer", "q-learning", "cpi", "stream-ac"):
        with pytest.raises(SettingError, match=f"{name} needs an environment: bc, cql, iql, td3-bc and"):
            check_offline(PRESETS[name])
    for name in (*OFFLINE_ONLY, "dqn", "rainbow", "sac", "td3"):
        check_offline(PRESETS[name])
