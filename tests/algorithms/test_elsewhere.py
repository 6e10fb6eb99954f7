"""Names that are no settings but belong elsewhere are answered by what to write there."""

import inspect

import gymnasium as gym
import pytest
from gymnasium.envs.registration import load_env_creator

from actrix import DQN, MC, PPO, SAC, SettingError, make_vec_env
from actrix.algorithms import elsewhere
from actrix.algorithms.policy_kwargs import POLICY_KEYS
from actrix.algorithms.settings import setting_names
from actrix.cli import main
from actrix.envs.make import make_vec_env as make_host_env


@pytest.mark.parametrize("name", POLICY_KEYS)
def test_policy_kwargs_take_each_key_that_is_said_to_be_theirs(name):
    with pytest.raises(SettingError, match=rf"unknown setting '{name}' .* write policy_kwargs=.*'{name}'"):
        PPO("MlpPolicy", **{name: 1})
    said = ""
    try:
        PPO("MlpPolicy", policy_kwargs={name: None})
    except (SettingError, TypeError) as error:  # None is no value of some
        said = str(error)
    assert "policy_kwargs has no" not in said


def take(*args, **kwargs):
    raise AssertionError("is only named")


@pytest.mark.parametrize(
    ("cls", "name", "value", "said"),
    [
        (PPO, "net_arch", 64, "policy_kwargs={'net_arch': [64]}"),
        (SAC, "net_arch", (32, 32), "policy_kwargs={'net_arch': [32, 32]}"),
        (MC, "net_arch", [64], "policy_kwargs={'net_arch': [64]}"),
        (DQN, "activation_fn", "relu", "policy_kwargs={'activation_fn': 'relu'}"),
        (PPO, "features_extractor_class", take, "policy_kwargs={'features_extractor_class': take}"),
        (PPO, "log_std_ini", -1, "policy_kwargs={'log_std_init': -1}"),
        (PPO, "total_timesteps", 1000, r"learn(total_timesteps=1000), or --steps of"),
        (SAC, "n_timesteps", 1000, r"learn(total_timesteps=1000)"),
        (DQN, "callback", None, "write learn(…, callback=…)"),
        (PPO, "workers", True, "make_vec_env(id, n_envs, workers=True)"),
        (PPO, "is_slippery", False, "env_kwargs={'is_slippery': False}, or --env-kwargs is_slippery=False"),
    ],
)
def test_a_name_that_belongs_elsewhere_says_where(cls, name, value, said):
    with pytest.raises(SettingError) as caught:
        cls("MlpPolicy", **{name: value})
    assert f"unknown setting {name!r}" in str(caught.value)
    assert said in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_every_name_is_taken_where_it_is_said_to_be():
    has = lambda f: set(inspect.signature(f).parameters)
    assert {"total_timesteps", *elsewhere.LEARN} == has(PPO.learn) - {"self", "unknown"}
    own = {"self", "policy", "policy_kwargs", "learning_rate", "settings"}
    assert set(elsewhere.MODEL) == has(PPO.__init__) - own
    assert set(elsewhere.VECTOR) <= has(make_vec_env) | has(make_host_env)
    assert not set(elsewhere.VECTOR) & set(elsewhere.MODEL)
    settings = setting_names(PPO("MlpPolicy").algorithm) + setting_names(SAC("MlpPolicy").algorithm)
    assert not (set(elsewhere.LEARN) | set(elsewhere.MODEL) | set(elsewhere.ENV)) & set(settings)
    makers = [
        load_env_creator(gym.spec(f"{name}-v1").entry_point)
        for name in ("FrozenLake", "Blackjack", "CartPole")
    ]
    known = {name for maker in [gym.make, *makers] for name in has(maker)}
    away = {
        "continuous",
        "gravity",
        "hardcore",
        "frameskip",
        "repeat_action_probability",
        "full_action_space",
    }
    assert set(elsewhere.ENV) - {"g"} - away <= known  # Box2D and Atari are no dependencies
    assert "g" in has(gym.envs.classic_control.PendulumEnv.__init__)


@pytest.mark.parametrize("of_file", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net_arch=64", "policy_kwargs={'net_arch': [64]}"),
        ("total_timesteps=100", "--steps of the command line"),
        ("seed=3", "or --seed of the command line"),
        ("is_slippery=False", "--env-kwargs is_slippery=False"),
    ],
)
def test_the_command_line_and_files_of_settings_say_the_same(of_file, text, said, tmp_path, capsys):
    given = ["--set", text]
    if of_file:
        (tmp_path / "a.yaml").write_text(text.replace("=", ": "))
        given = ["--settings", str(tmp_path / "a.yaml")]
    assert main(["train", "ppo", "CartPole-v1", "--out", str(tmp_path / "run"), *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
