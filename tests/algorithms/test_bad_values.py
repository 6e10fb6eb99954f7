"""Whatever a setting is given, it is taken or refused in a sentence."""

import warnings

import pytest

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import SettingError, configure, setting_names

VALUES = (None, 5, -1.5, True, "", "no such word", [], {}, (1,), {1: 2}, object)
ANSWERS = ("critic", "actor", "data")


@pytest.mark.parametrize(
    "name", ["ppo", "grpo", "trpo", "dqn", "rainbow", "td3", "sac", "iql", "mc", "sarsa-lambda"]
)
def test_no_value_ends_in_a_raw_error(name):
    algorithm, refused = PRESETS[name].algorithm, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for setting in {*setting_names(algorithm), *ANSWERS, "policy_kwargs", "exploration", "action_noise"}:
            for value in VALUES:
                try:
                    configure(algorithm, {setting: value})
                except SettingError:
                    refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "kwargs",
    [{1: 2}, [], "relu", {"activation_fn": 5}, {"net_arch": {1: 2}}, {"features_extractor_kwargs": {1: 2}}],
)
def test_nor_does_one_of_policy_kwargs(kwargs):
    with pytest.raises(SettingError, match=r"policy_kwargs|activation_fn|net_arch"):
        configure(PRESETS["ppo"].algorithm, {"policy_kwargs": kwargs})


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("word", ["", "no-such", None, 5])
def test_an_answer_is_named_by_words(answer, word):
    with pytest.raises(SettingError, match=f"{answer} ?=?.*(choose one of|name one)"):
        configure(PRESETS["ppo"].algorithm, {answer: word})


@pytest.mark.parametrize(
    "setting", ["ent_coef", "target_entropy", "tau", "learning_rate", "batch_size", "gamma"]
)
def test_true_is_no_number(setting):
    with pytest.raises(SettingError, match=f"{setting}=True"):
        configure(PRESETS["sac"].algorithm, {setting: True})
