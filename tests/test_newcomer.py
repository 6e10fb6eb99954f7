"""What made someone stop who used the library for the first time: each sentence says what to type instead."""

import gymnasium as gym
import numpy as np
import pytest

from actrix import PPO, EvalCallback, make_vec_env
from actrix.cli import main
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
