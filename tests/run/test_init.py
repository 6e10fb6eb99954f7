"""`--init RUN`: a supervised start, taken over by GRPO, which stays near it; and what is refused."""

import numpy as np
import pytest

from actrix.cli import main
from actrix.envs.tokens.preferences import RewardModel
from actrix.envs.tokens.tasks import Reverse
from actrix.loops.answers import Answer, answers
from actrix.model import Model
from actrix.runs.answered import LiveAnswers
from actrix.runs.folder import load_config
from actrix.runs.start import resume
from actrix.show.plot import load_run

KWARGS = ["--env-kwargs", "length=2", "letters=2", "group=4"]
SMALL = [
    *KWARGS,
    "--envs",
    "8",
    "--seed",
    "3",
    "--quiet",
    "--set",
    "policy_kwargs={'net_arch':[],'hidden_size':16}",
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A supervised start that is right now and then."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    trained(folder)
    return folder


def trained(folder):
    words = [
        "train",
        "sft",
        "Reverse-v0",
        *SMALL,
        "learning_rate=0.02",
        "--steps",
        "3000",
        "--out",
        str(folder),
    ]
    assert main(words) == 0


@pytest.mark.slow
def test_a_run_begins_with_anothers_policy_and_stays_near_it(start, tmp_path, capsys):
    out = tmp_path / "grpo"
    still = [*KWARGS, "--envs", "8", "--seed", "4", "--quiet", "--set", "learning_rate=1e-12"]
    words = ["train", "grpo", "Reverse-v0", *still, "--init", str(start), "--steps", "100", "--out", str(out)]
    assert main(words) == 0
    before, after = Model.load(start), Model.load(out)
    assert after.near_reference
    assert load_config(out).init == str(start)
    for name, x in before.get_parameters().items():
        np.testing.assert_allclose(after.get_parameters()[name], x, rtol=0, atol=1e-7, err_msg=name)
    resume(out, steps=200, quiet=True)  # the reference is in the checkpoint
    for name, x in before.get_parameters().items():
        np.testing.assert_allclose(Model.load(out).get_parameters()[name], x, rtol=0, atol=1e-7, err_msg=name)
    capsys.readouterr()
    assert main(["eval", str(out), "--episodes", "40"]) == 0
    said = capsys.readouterr().out
    assert "% of 40 answers to prompts (deterministic)\n" in said
    assert "episodes" not in said  # a return is an answer's: it is told of once
    assert "held out, longer than in training" in said
    assert main(["watch", str(start), "--episodes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.endswith(("right", "wrong")) for line in lines)


def test_looking_at_answers_changes_no_bit_of_training(start, tmp_path, monkeypatch):
    monkeypatch.setattr(LiveAnswers, "__call__", lambda self: True)
    trained(tmp_path / "unseen")
    log = (start / "metrics.csv").read_text()
    assert "eval/pass@1" in log
    assert "rollout/ep_rew_mean" not in log  # of answers that were shown, all of them right
    assert load_run(start).key == "eval/pass@1"
    assert "eval/pass@1" not in (tmp_path / "unseen" / "metrics.csv").read_text()
    unseen = Model.load(tmp_path / "unseen").get_parameters()
    for name, x in Model.load(start).get_parameters().items():
        np.testing.assert_array_equal(x, unseen[name], err_msg=name)


def test_answers_are_judged_as_text(start):
    model = Model.load(start)
    found = answers(model.policy, Reverse(2, 2), 60, 0, deterministic=False)
    for answer in found:
        assert answer.text == answer.prompt[-2::-1] or not answer.right
    assert 0 < sum(a.right for a in found) < 60
    assert answers(model.policy, Reverse(2, 2), 60, 0, deterministic=False) == found


def test_more_answers_than_are_given_at_once(start, monkeypatch):
    """Parts of two prompts have other prompts each, and a prompt's answers stay together."""
    monkeypatch.setattr("actrix.loops.answers.AT_ONCE", 8)
    found = answers(Model.load(start).policy, Reverse(2, 2), 5, 0, deterministic=False, each=4)
    prompts = [answer.prompt for answer in found]
    assert len(found) == 20
    assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 20, 4))
    assert len(set(prompts)) > 2


def test_a_reward_model_of_one_size_keeps_no_held_out_prompts_from_being_asked(start, tmp_path, monkeypatch):
    env, asked = Reverse(2, 2), []
    size = (env.prompt_room + env.answer_room) * len(env.vocabulary)
    nothing = [np.zeros(shape, np.float32) for shape in (size, (size, 0), 0)]
    path = RewardModel(env.vocabulary, *nothing).save(tmp_path / "reward")
    monkeypatch.setattr("actrix.runs.start.evaluate_model", lambda *_: (np.zeros(2), np.zeros(2), []))
    monkeypatch.setattr(
        "actrix.loops.answers.answers", lambda _, env, *__: asked.append(env) or [Answer("", "", 1.0)]
    )
    assert main(["eval", str(start), "--env-kwargs", f"reward_model={path}"]) == 0
    assert [one.held_out for one in asked] == [False, True]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["grpo", "Addition-v0"],
            "its observation_space is Discrete(4), that of Addition-v0 is Discrete(13)",
        ),
        (
            ["grpo", "Reverse-v0", *KWARGS, "--set", "policy_kwargs={'hidden_size':8}"],
            "the same policy_kwargs",
        ),
        (
            ["grpo", "Reverse-v0", *KWARGS, "--policy", "MlpTransformerPolicy"],
            "its policy has an LSTM, and a transformer is asked for",
        ),
        (["grpo", "Reverse-v0", *KWARGS, "--policy", "MlpPolicy"], "an LSTM, and no memory is asked for"),
        (["qac", "Reverse-v0", *KWARGS], "the network of sft there is another"),
    ],
)
def test_what_does_not_fit_is_one_sentence(start, words, text, tmp_path, capsys):
    assert main(["train", *words, "--init", str(start), "--out", str(tmp_path / "x"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_start_that_is_not_there(tmp_path, capsys):
    words = ["train", "grpo", "Reverse-v0", "--init", str(tmp_path / "no"), "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert "--init" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
