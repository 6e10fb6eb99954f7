"""Search spaces: derived from an algorithm's settings, changed by a file, and what Optuna's parameters stand for."""

import math

import optuna
import pytest
import yaml

from actrix.algorithms.presets import PRESETS, compose
from actrix.algorithms.settings import SettingError, configure, value_of
from actrix.runs.config import resolve
from actrix.tune import derive as derive_module
from actrix.tune.derive import ALWAYS, derive, read_space, write_space
from actrix.tune.plan import make_plan
from actrix.tune.space import Choice, Range, number

PPO = PRESETS["ppo"].algorithm


def by_name(space):
    return {one.name: one for one in space}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_space_whose_ends_it_takes(name):
    algorithm = PRESETS[name].algorithm
    space = derive(algorithm, algorithm)
    assert space or name in ("mc", "td"), name
    for one in space:
        for end in one.ends():
            configure(algorithm, {one.name: end})  # raises SettingError
        if one.name not in ALWAYS:
            assert one.low <= number(value_of(algorithm, one.name)) <= one.high


IDLE = {
    "noise_std": ("sac", "discrete-sac", "tqc", "redq", "crossq", "droq", "cql", "td3-bc"), "gamma": ("bc", "sft"),
    "vf_coef": ("reinforce", "sft", "grpo", "dr-grpo", "rloo", "gpg", "gspo", "dapo"),
    "target_update_interval": ("pqn",),
}  # fmt: skip
"""Setting → presets in which it has no effect, of which the library warns (`Algorithm.idle`)."""


@pytest.mark.parametrize("name", PRESETS)
def test_what_has_no_effect_and_nothing_else_is_not_searched(name, monkeypatch):
    algorithm = PRESETS[name].algorithm
    searched = by_name(derive(algorithm, algorithm))
    monkeypatch.setattr(derive_module, "lacking", lambda *_: "")
    assert {*by_name(derive(algorithm, algorithm))} - {*searched} == {
        x for x, names in IDLE.items() if name in names
    }


def test_a_memory_that_is_given_collects_nothing():
    algorithm = PRESETS["dqn"].algorithm
    assert "train_freq" in by_name(derive(algorithm, algorithm))
    assert not {"train_freq", "exploration_fraction"} & {*by_name(derive(algorithm, algorithm, offline=True))}


def test_scales_follow_from_types_and_bounds():
    space = by_name(derive(PPO, PPO))
    assert space["learning_rate"] == Range("learning_rate", 3e-5, 3e-3, "log")
    assert space["gamma"] == Range("gamma", 0.9, 0.999, "complement")
    assert space["n_steps"] == Range("n_steps", 256, 16384, "power", whole=True)
    assert space["n_epochs"].ends() == [4, 16]
    assert space["ent_coef"].ends() == [1e-5, 0.1]
    assert not {"normalize_obs", "optimizer", "clip_range_vf", "max_grad_norm_"} & set(space)
    # Several passes over a chunk need a ratio: A2C keeps its one, and its score knows no clip range.
    assert not {"n_epochs", "clip_range"} & set(
        by_name(derive(PRESETS["a2c"].algorithm, PRESETS["a2c"].algorithm))
    )


def test_a_refused_end_moves_inwards():
    """γ of conservative iteration and a table's learning rate are shares: no end lies beyond 1."""
    table = PRESETS["q-learning"].algorithm
    assert by_name(derive(table, table))["learning_rate"].ends() == [0.01, 1.0]


def test_what_is_fixed_under_another_name_is_not_searched():
    fixed = {"n_step": 3}
    base, default = (
        resolve("dqn", "CartPole-v1", seeds=[0], settings=fixed, tuned=tuned) for tuned in (True, False)
    )
    assert "n_steps" in by_name(derive(default.build(), base.build()))
    assert "n_steps" not in by_name(make_plan(base, default, fixed, None, 5, 5).space)


def test_the_space_holds_the_zoo_and_keeps_its_schedule():
    base = resolve("ppo", "CartPole-v1", seeds=[0]).build()
    default = resolve("ppo", "CartPole-v1", seeds=[0], tuned=False).build()
    space = by_name(derive(default, base))
    assert space["n_steps"].ends() == [32, 2048]  # the zoo's 32, and around the default's 256
    assert space["learning_rate"].ends() == ["lin_3e-05", "lin_0.003"]
    assert space["learning_rate"].nearest("lin_0.001") == 0.001
    assert "gamma" not in by_name(derive(default, base, fixed={"gamma": 0.9}))


def test_composed_words_have_a_space():
    algorithm = compose("v-trace", "ppo-clip:0.3", "trajectories:4")
    space = by_name(derive(algorithm, algorithm))
    assert {"learning_rate", "gamma", "clip_range", "replay_ratio", "batch_size"} <= set(space)
    assert space["clip_range"].ends() == [0.075, 1.2]


DIMENSIONS = [
    Range("gamma", 0.9, 0.999, "complement"),
    Range("learning_rate", 3e-5, 3e-3, "log", schedule="linear"),
    Range("n_steps", 32, 2048, "power", whole=True),
    Range("n_epochs", 1, 20, whole=True),
    Choice("policy_kwargs.net_arch", ([64, 64], [256], {"pi": [8], "vf": [16]})),
    Choice("optimizer", ("adam", "rmsprop")),
]


@pytest.mark.parametrize("one", DIMENSIONS, ids=lambda one: one.name)
def test_a_parameter_stands_for_a_value_in_its_range_and_back(one):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        x = study.ask({one.param: one.distribution()}).params[one.param]
        value = one.read(x)
        if isinstance(one, Choice):
            assert one.nearest(value) == x
            continue
        assert one.low <= number(value) <= one.high
        back = one.nearest(value)
        assert back == x if isinstance(x, int) else math.isclose(back, x, rel_tol=2e-3)
        assert one.read(back) == value


def test_gamma_is_even_in_the_logarithm_of_what_is_left_of_it():
    one = DIMENSIONS[0]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [one.read(study.ask({one.param: one.distribution()}).params["1-gamma"]) for _ in range(400)]
    middle = sum(value > 0.99 for value in values) / len(values)  # √(0.1 · 0.001) = 0.01 halves the range
    assert 0.42 < middle < 0.58


def test_a_file_changes_the_space_and_the_printed_space_is_a_file(tmp_path):
    space = derive(PPO, PPO)
    path = tmp_path / "space.yaml"
    path.write_text(
        "gamma: {high: 0.9999}\nclip_range: null\nn_envs: {low: 4, high: 16, scale: power}\n"
        "learning_rate: {low: 1e-5}\nnormalize: [true, false]\nvf_coef: {low: 0, high: 1, scale: linear}\n"
        "policy_kwargs.net_arch: [[64, 64], [256, 256]]\ngae_lambda: [9e-1, 0.95]\n"
    )
    changed = by_name(read_space(path, space, PPO, {}))
    assert changed["gamma"] == Range("gamma", 0.9, 0.9999, "complement")
    assert changed["learning_rate"].ends() == [1e-5, 3e-3]
    assert changed["n_envs"].ends() == [4, 16]
    assert changed["vf_coef"] == Range("vf_coef", 0, 1, "linear")  # of a number that need not be whole
    assert changed["normalize"].choices == (True, False)
    assert changed["gae_lambda"].choices == (0.9, 0.95)  # YAML takes 9e-1 for a word
    assert "clip_range" not in changed
    (tmp_path / "again.yaml").write_text(write_space(tuple(changed.values())))
    empty = dict.fromkeys(by_name(space))
    assert read_space(tmp_path / "again.yaml", (), PPO, {}) == tuple(changed.values())
    path.write_text(yaml.safe_dump(empty))
    with pytest.raises(SettingError, match="nothing to search"):
        read_space(path, space, PPO, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gama: [0.9, 0.99]", r"gama: unknown setting; did you mean gamma\?$"),
        ("activation_fn: [relu, tanh]", "it is the network's: write policy_kwargs.activation_fn"),
        ("gamma: {low: 0.99, high: 0.9}", "gamma: low=0.99 is not below high=0.9"),
        ("gamma: {low: 0.9, high: 1.0}", r"gamma: a complement scale lies in \[0, 1\)"),
        ("gamma: {low: 0.5, high: 3, scale: log}", r"gamma: gamma=3.* must lie in \[0, 1\]"),
        ("gamma: {low: 0.9, hihg: 0.99}", "gamma: unknown 'hihg'"),
        ("gamma: {low: a, high: 0.99}", "gamma: 'a' is not a number"),
        ("gamma: [0.9]", "gamma: choices .* must be at least two"),
        ("gamma: 0.9", "gamma: 0.9 is neither a range"),
        ("learning_rate: {scale: cubic}", "learning_rate: scale='cubic': choose one of linear"),
        ("n_steps: {low: 100}", "n_steps: a power scale goes from one power"),
        ("optimizer: {low: 1, scale: log}", "optimizer: high must be given"),
        ("optimizer: [adam, madam]", "optimizer: optimizer='madam': choose one of"),
        ("policy_kwargs.net_arc: [[64], [32]]", "policy_kwargs.net_arc: "),
        ("n_envs: [0, 4]", "n_envs: 0 must be a whole number of at least 1"),
        ("n_timesteps: [1000, 4000]", "n_timesteps: the budget is every trial's alike"),
        ("ent_coef: [0, 0.1]", "ent_coef: it is fixed by --set"),
        (
            "clip_reward: [5.0, 10.0]",
            r"clip_reward: it has no effect without normalize_reward=True: leave it out\.$",
        ),
        ("policy_kwargs.foo: null", "policy_kwargs.foo: policy_kwargs has no 'foo'; choose one of net_arch"),
        ("policy_kwargs.gamma: [0.9, 0.99]", r"policy_kwargs has no 'gamma'; it is a setting: write gamma\."),
        ("gamma: null\ngamma: [0.9, 0.99]", "space.yaml: gamma is given twice"),
        ("gamma: {low: 0.9, low: 0.8}", "space.yaml: low is given twice"),
        (
            "policy_kwargs: [{net_arch: [8]}, {net_arch: [9]}]\npolicy_kwargs.net_arch: [[8], [16]]",
            r"policy_kwargs: policy_kwargs.net_arch sets it, too: leave one of them out\.$",
        ),
        ("normalize: [true, false]\nnormalize_obs: [true, false]", "normalize: normalize_obs sets it, too"),
        ("critic: [gae, v-trace]", "critic: it is what the study is of, every trial's alike; give --critic"),
        ("data: [on-policy, lag]", "data: it is what the study is of, every trial's alike; give --data"),
        (
            "policy: [MlpPolicy, MlpLstmPolicy]",
            "policy: it is what the study is of, .*; give --policy",
        ),
        ("rato: [1, 2]", "rato: unknown setting; (?!.*(right|moving-average|group-std))"),
        ("ent_coef: {low: 0.1, high: 0.2}", "ent_coef: it is fixed by --set"),
        ("policy_kwargs.net_arch: [[8], [16]]", "policy_kwargs.net_arch: it is fixed by --set"),
        ("- gamma", "must map settings to ranges"),
        ("gamma: {low: [", "is no YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_setting(tmp_path, text, said):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=said) as error:
        read_space(path, derive(PPO, PPO), PPO, {"ent_coef", "policy_kwargs.net_arch"})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_has_an_effect_beside_another_that_is_searched_may_be(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("clip_reward: [5.0, 10.0]\nnormalize: [true, false]\n")
    assert {"clip_reward", "normalize"} <= {*by_name(read_space(path, (), PPO, ()))}


def test_another_name_of_a_setting_goes_over_the_derived_one(tmp_path):
    """Both at once would contradict each other in every trial."""
    rainbow, path = PRESETS["rainbow"].algorithm, tmp_path / "space.yaml"
    path.write_text("n: [1, 3]\n")
    assert "n_steps" in by_name(derive(rainbow, rainbow))
    space = by_name(read_space(path, derive(rainbow, rainbow), rainbow, ()))
    assert "n" in space
    assert "n_steps" not in space
    with pytest.raises(SettingError, match="n: it is fixed by --set"):
        read_space(path, derive(rainbow, rainbow), rainbow, {"n_steps"})


def test_a_setting_may_be_searched_by_the_name_that_train_takes(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("distributional: [null, c51]\n")
    base = resolve("dqn", "CartPole-v1", seeds=[0])
    plan = make_plan(base, base, {}, path, 2, 4)
    start = plan.nearest(plan.base)
    assert plan.settings(start)["distributional"] is None
    drawn = plan.settings(start | {"distributional": "c51"})
    assert configure(base.build(), drawn).critic.representation.name == "c51"
    path.write_text("distributional: [c52, c51]\n")
    with pytest.raises(SettingError, match=r"distributional: distributional='c52': choose one of None, c51"):
        make_plan(base, base, {}, path, 2, 4)
    path.write_text("distributional: [c51, qr]\nrepresentation: [c51, number]\n")
    with pytest.raises(SettingError, match="distributional: representation sets it, too"):
        make_plan(base, base, {}, path, 2, 4)


def test_the_discount_is_another_than_an_actors_flag(tmp_path):
    reinforce, path = PRESETS["reinforce"].algorithm, tmp_path / "space.yaml"
    path.write_text("gamma_weight: [true, false]\n")
    assert {"gamma", "gamma_weight"} <= {
        *by_name(read_space(path, derive(reinforce, reinforce), reinforce, ()))
    }


def test_a_network_that_is_fixed_is_not_searched(tmp_path):
    fixed = {"policy_kwargs": {"net_arch": [8]}}
    base, default = (resolve("ppo", "CartPole-v1", seeds=[0], settings=fixed, tuned=x) for x in (True, False))
    path = tmp_path / "space.yaml"
    path.write_text("policy_kwargs.net_arch: [[8], [16]]\n")
    with pytest.raises(SettingError, match="net_arch: it is fixed by --set"):
        make_plan(base, default, fixed, path, 5, 5)
    path.write_text("policy_kwargs.activation_fn: [relu, tanh]\n")
    assert "policy_kwargs.activation_fn" in by_name(make_plan(base, default, fixed, path, 5, 5).space)


def test_the_first_trials_have_choices_however_these_are_spelled(tmp_path):
    """A switch, a schedule and a network were drawn in the trials that are to be the zoo's and the default's."""
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rate: [lin_1e-3, 3e-4]\nnormalize: [true, false]\n"
        "policy_kwargs.activation_fn: [relu, tanh]\nclip_range: [0.1, 0.3]\n"
    )
    base = resolve("ppo", "CartPole-v1", seeds=[0])
    plan = make_plan(base, base, {}, path, 2, 4)
    found = plan.settings(plan.nearest(plan.base) | {"clip_range": 0.1})
    assert found["learning_rate"] == "lin_1e-3"
    assert found["normalize"] is False
    assert found["policy_kwargs"] == {"activation_fn": "tanh"}
    assert "clip_range" not in plan.nearest(plan.base)  # the zoo's is neither
