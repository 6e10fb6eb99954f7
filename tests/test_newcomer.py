"""What made someone stop who used the library for the first time: each sentence says what to type instead."""

import os
import types
import warnings

import gymnasium as gym
import numpy as np
import pytest

import actrix
from actrix import PPO, BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes, make_vec_env
from actrix.cli import main, notices
from actrix.envs.build import full_id
from actrix.envs.guard import EnvError

MODULE = """
import gymnasium as gym
import numpy as np

class Walk(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        raise KeyError("level")

gym.register("WalkOfMine-v0", entry_point=Walk)
"""


@pytest.fixture
def walk(tmp_path, monkeypatch):
    (tmp_path / "walks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["--workers"], []])
def test_the_users_line_is_named(walk, words, capsys):
    run = ["train", "ppo", "walks:Walk", "--steps", "64", "--envs", "2", "--quiet", "--out", "run", *words]
    assert main(run) == 1
    assert "step raised KeyError: 'level' (walks.py, line 10)" in capsys.readouterr().err
    # Mended and tried again: the hint works as it is typed.
    assert main(run) == 2
    assert "go on with `actrix resume run --env walks:Walk`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ppo", "walks.py:Walk"], "names a file: write the module that it is, walks:Walk."),
        (["ppo", "walks:Wakl"], "registers no such id); did you mean walks:Walk?"),
        (["ppo", "walks"], "which is a file: name the class in it, walks:Class."),
        (["ppo", "walks.py"], "which is a file: name the class in it, walks:Class."),
        (["ppo", "NotOfMine-v0"], "(One that a module of yours registers is module:NotOfMine-v0.)"),
    ],
)
def test_names_of_environments(walk, words, sentence, capsys):
    assert main(["train", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--timesteps=100", "did you mean --steps?"),
        ("--total-timesteps=100", "did you mean --steps?"),
        ("--n-envs=2", "did you mean --envs?"),
        (
            "--learning-rate=1",
            "--learning-rate=1 (a setting of the algorithm is given as --set learning_rate=…)",
        ),
    ],
)
def test_options_of_others(option, meant, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "ppo", "CartPole-v1", option])
    assert meant in capsys.readouterr().err


class Endless(gym.Env):
    """Ends after three steps for the first two episodes, and then never."""

    observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes, self.t = self.episodes + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == 3 and self.episodes < 4, False, {}


@pytest.mark.filterwarnings("ignore:an episode of an environment without a time limit")
def test_evaluations_of_different_lengths_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("actrix.loops.evaluate.ENDLESS", 7)
    model = PPO("MlpPolicy", make_vec_env(Endless, 1), n_steps=8, batch_size=8, n_epochs=1, seed=0)
    model.learn(16, callback=EvalCallback(Endless(), eval_freq=8, n_eval_episodes=2, log_path=tmp_path))
    # The second evaluation: its first reset is the fourth episode, which does not end, so a second is not played.
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["results"], [[3, 3], [7, np.nan]])


def test_one_object_is_one_environment():
    with pytest.raises(
        ValueError, match="n_envs=4, but what was given is 1: copies are made of an id or a class"
    ):
        PPO("MlpPolicy", Endless(), n_envs=4)
    with pytest.raises(
        TypeError, match="makes copies of an id, a class or a function, and was given one Endless"
    ):
        make_vec_env(Endless(), 4)
    with pytest.raises(ValueError, match="policy_kwargs has no 'netarch'; did you mean net_arch"):
        PPO("MlpPolicy", Endless(), policy_kwargs={"netarch": [8]})
    with pytest.raises(
        EnvError, match=r"its constructor raised ZeroDivisionError: .* \(test_newcomer.py, line \d+\)"
    ):
        make_vec_env(lambda: 1 // 0, 1)


def test_a_model_says_what_it_is():
    assert repr(PPO("MlpPolicy")) == "<PPO without an environment>"
    model = PPO("MlpPolicy", Endless(), n_steps=8, batch_size=8, seed=3)
    assert (
        repr(model) == "<PPO on an environment of your own: 0 steps learned, 1 environment, seed 3>"
    )  # what a notebook shows
    with pytest.raises(ValueError, match="total_timesteps='1000' must be a whole number"):
        model.learn("1000")


def test_misspelt_words_of_a_model():
    with pytest.raises(ValueError, match=r"unknown: did you mean MlpPolicy or .*\?$"):
        PPO("MLPPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"'CartPole-v1' is unknown \(it comes before the environment: PPO"):
        PPO("CartPole-v1", "MlpPolicy")
    with pytest.raises(ValueError, match=r"unknown setting 'lr' .* did you mean learning_rate\?"):
        PPO("MlpPolicy", lr=1e-3)


def test_an_id_without_a_version_is_the_newest():
    assert full_id("CartPole") == "CartPole-v1"
    assert [full_id(name) for name in ("CartPole-v0", "NoSuch", "walks:Walk", "not an id?")] == [
        "CartPole-v0", "NoSuch", "walks:Walk", "not an id?",
    ]  # fmt: skip
    assert PPO("MlpPolicy", "CartPole", n_steps=8, batch_size=8).env_id == "CartPole-v1"


def test_the_command_alone(capsys):
    assert main([]) == 2
    assert "Train an agent with tuned settings" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"actrix {actrix.__version__}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["trian", "ppo"])
    assert "there is no command 'trian': did you mean train?" in capsys.readouterr().err


def test_where_a_file_may_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in (
        "runs/a/config.json",
        "runs/a/metrics.csv",
        "runs/a/model.safetensors",
        "best/mine.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("0,1,2,3,4,5")
    run, file = os.path.join("runs", "a"), os.path.join("best", "mine.safetensors")
    for words, there in [
        (["eval", "runs"], run), (["eval", f"{run}/metrics.csv"], run), (["eval", "best"], file),
        (["resume", "runs"], run), (["resume", f"{run}/model.safetensors"], run), (["plot", f"{run}/metrics.csv"], run),
    ]:  # fmt: skip
        assert main(words) == 2
        assert capsys.readouterr().err.endswith(f"Did you mean {there}?\n"), words
    assert main(["eval", "nowhere"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_warning_is_a_line_and_others_stay_as_they_are():
    with notices():
        assert warnings.formatwarning("so", UserWarning, actrix.__file__, 3) == "actrix: so\n"
        assert "other.py:3: UserWarning: so" in warnings.formatwarning("so", UserWarning, "other.py", 3)


class Forgot(BaseCallback):
    """Neither calls the constructor it inherits, nor returns."""

    def __init__(self):
        self.seen = 0

    def _on_step(self):
        self.seen += self.n_calls


def test_what_callbacks_forget(capsys):
    model = types.SimpleNamespace(num_timesteps=8, n_envs=2, num_episodes=6)
    callback, stop = Forgot(), StopTrainingOnMaxEpisodes(3, verbose=1)
    for each in (callback, stop):
        each.init_callback(model)
    with pytest.warns(UserWarning, match="Forgot._on_step returned None, which stops training: return True"):
        assert callback.on_step() is False
    assert callback.seen == 1
    assert stop.on_step() is False
    assert capsys.readouterr().out == "Stopping training because 6 episodes ended\n"
