"""`actrix eval`, `video`, `watch` and `record`: the same options, the same environment, the same refusals."""

from typing import ClassVar

import pytest
from worlds import MEMORY, SMALL, Counting, Masked

from actrix import DQN, PPO, EvalCallback, evaluate_policy
from actrix.cli import main
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
