"""`actrix eval`, `video`, `watch` and `record`: the same options, the same environment, the same refusals."""

import shutil
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from worlds import MEMORY, SMALL, Counting, Masked

from actrix import DQN, PPO, EvalCallback, evaluate_policy
from actrix.cli import main
from actrix.loops.evaluate import boundless
from actrix.runs import start

COMMANDS = ("eval", "video", "watch", "record")


class Paid(Counting):
    """Pays so many times as much; drawn for a window, too."""

    metadata: ClassVar[dict] = {"render_modes": ["human", "rgb_array"]}

    def __init__(self, pay=1, render_mode="rgb_array"):
        super().__init__()
        self.pay, self.render_mode = pay, render_mode

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, self.pay * reward, *rest


class MaskedPaid(Paid, Masked):
    """Never takes action 1."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that was trained with masks, and one without."""
    folder = tmp_path_factory.mktemp("play")
    masked, plain = PPO("MlpPolicy", MaskedPaid(), **SMALL), DQN("MlpPolicy", Paid(), **MEMORY)
    return {"masked": masked.save(folder / "masked"), "plain": plain.save(folder / "plain")}


def run(command, path, tmp_path, *options):
    to = ["--to", str(tmp_path / "set")] if command == "record" else []
    to += ["--out", str(tmp_path / "v.mp4")] if command == "video" else []
    return main([command, str(path), "--episodes", "2", *to, *options])


@pytest.mark.parametrize("command", COMMANDS)
def test_masks_that_are_gone_are_refused_and_new_ones_kept(command, files, tmp_path, capsys):
    assert run(command, files["masked"], tmp_path, "--env", "test_play:Paid") == 2
    said = capsys.readouterr().err
    assert "has no action masks, and the model was trained with them" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    # Sampled, an untrained policy without masks would soon take action 1.
    assert run(command, files["plain"], tmp_path, "--env", "test_play:MaskedPaid", "--stochastic") == 0


class Wide(Paid):
    """The same numbers in other bounds, as a wrapper may give them."""

    observation_space = gym.spaces.Box(-9, 9, Paid.observation_space.shape)


def test_bounds_of_what_is_observed_are_asked_for_in_training_alone(files):
    model = DQN.load(files["plain"])
    assert evaluate_policy(model, Wide(), n_eval_episodes=2) == evaluate_policy(
        model, Paid(), n_eval_episodes=2
    )
    with pytest.raises(ValueError, match=r"observation_space is Box\(-9.0, 9.0, .*, the model's is Box"):
        model.set_env(Wide())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Dict(a=Box(0, 1, (2,))), Dict(a=Box(-5, 1, (2,))), True),
        (Tuple([Box(0, 1, (2,)), Discrete(3)]), Tuple([Box(0, 2, (2,)), Discrete(3)]), True),
        (Box(0, 1, (2,)), Box(0, 1, (3,)), False),
        (Box(0, 255, (8, 8, 3), np.uint8), Box(0, 9, (8, 8, 3), np.uint8), False),  # a picture, and numbers
        (Discrete(3), Discrete(3, start=1), False),
    ],
)
def test_what_bounds_are(one, other, same):
    assert bool(boundless(one) == boundless(other)) is same


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_of_the_environment(command, files, tmp_path, capsys):
    options = ["--env", "test_play:Paid", "--env-kwargs", "pay=7"]
    assert run(command, files["plain"], tmp_path, *options) == 0
    assert "42.0" in capsys.readouterr().out
    assert run(command, files["plain"], tmp_path, "--env", "test_play:Paid", "--env-kwargs", "p=7") == 2
    assert "refuses the env_kwargs" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_a_files_arguments_belong_to_its_own_environment(tmp_path, capsys):
    model = DQN("MlpPolicy", "test_play:Paid", backend="gymnasium", env_kwargs={"pay": 3}, **MEMORY)
    path = model.save(tmp_path / "model")
    for options, mean in (
        (["--env", "test_play:Paid"], "18.00"),
        (["--env", "test_play:Paid", "--env-kwargs", "pay=5"], "30.00"),
        (["--env", "worlds:Counting"], "6.00"),  # takes none
    ):
        assert run("eval", path, tmp_path, *options) == 0
        assert mean in capsys.readouterr().out


def test_a_video_is_named_after_where_it_was_played(files, tmp_path, capsys):
    """The models know no id: theirs was an object."""
    path = shutil.copy(files["plain"], tmp_path)
    assert main(["video", path]) == 2
    assert "give --env ID" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["plain.safetensors"]
    assert main(["video", path, "--env", "test_play:Paid"]) == 0
    (video,) = (tmp_path / "videos").iterdir()
    assert video.name == "test_play-Paid-0.mp4"


def test_best_of_is_refused_before_episodes_are_played(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(start, "evaluate", lambda *_: pytest.fail("it played"))
    assert run("eval", files["plain"], tmp_path, "--env", "test_play:Paid", "--best-of", "4") == 2
    assert "--best-of is of answers to prompts, and test_play:Paid has none" in capsys.readouterr().err


def test_random_actions_are_not_sampled_from_the_policy(files, tmp_path, capsys):
    assert run("record", files["plain"], tmp_path, "--random", "--stochastic") == 2
    assert "either --random or --stochastic" in capsys.readouterr().err


def test_evaluations_of_training_are_refused_before_it_begins():
    model = PPO("MlpPolicy", MaskedPaid(), **SMALL)
    with pytest.raises(ValueError, match="has no action masks, and the model was trained with them"):
        model.learn(64, EvalCallback(Paid(), eval_freq=1000))
    assert model.num_timesteps == 0
    with pytest.raises(ValueError, match="has no action masks"):
        evaluate_policy(model, Paid(), 1)
    with pytest.raises(ValueError, match="has no action masks"):
        model.set_env(Paid())
