"""`actrix report`: one page with everything in it, whose numbers and command are the runs' own."""

import argparse
import contextlib
import dataclasses
import json
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import actrix
from actrix import cli
from actrix.cli.train import config_of
from actrix.runs import config as config_file
from actrix.runs.config import RunError, resolve
from actrix.runs.folder import load_config
from actrix.runs.report import repeat, report
from actrix.show.plot import plot_profiles

TINY = dict(n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [4]})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    actrix.train_seeds("ppo", "CartPole-v1", [3, 4], 64, str(folder / "two"), n_envs=2, settings=TINY)
    actrix.train_seeds(
        "a2c", "CartPole-v1", [3], 64, str(folder / "one"), n_envs=2, settings=TINY | {"batch_size": None}
    )
    return folder


def test_everything_is_in_the_page(runs, tmp_path):
    (runs / "one" / "videos").mkdir(exist_ok=True)
    (runs / "one" / "videos" / "episode.mp4").write_bytes(b"a video")
    path = report([runs / "two", runs / "one"], tmp_path / "report")
    page = path.read_text("utf-8")
    assert path.name == "index.html"
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
    assert page.count("data:image/svg+xml;base64,") == 2
    assert page.count("data:video/mp4;base64,") == 1
    assert 'name="viewport"' in page
    for seed in (3, 4):
        returns = json.loads((runs / "two" / f"seed-{seed}" / "evaluation.json").read_text())["returns"]
        assert f">{np.mean(returns):.1f}<" in page
    assert 'differs">on-policy:n_steps=16' in page
    origin = re.findall("<tr>(.*?)</tr>", page[page.index("<h2>Origin") :], re.DOTALL)[1:]
    told = [re.findall("<td.*?>(.*?)</td>", row) for row in origin]
    assert [row[:3] for row in told] == [
        ["ppo", "3,<wbr> 4", "2 × start"],
        ["a2c", "3", "1 × start"],
    ]
    for _, _, _, time, machine, versions in told:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time)
        assert re.search(r"\d cores?,.* cpu$", machine)
        assert f"actrix {actrix.__version__}" in versions
    assert "env_kwargs" not in page  # neither has any
    for line in re.search(r"<pre><code>(.*?)</code>", page, re.DOTALL)[1].splitlines():
        assert line.startswith("actrix train ")
    report([runs / "one"], tmp_path / "report")  # over a report it may be written


def options():
    """The options of `train`: name → its action."""
    commands = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {a.dest: a for a in commands.choices["train"]._actions if a.option_strings and a.dest != "help"}


PPO = "ppo LunarLander-v3 --seed 1"
HOST = f"{PPO} --backend gymnasium"
DQN = "dqn CartPole-v1 --seed 1"
COMPOSED = "--critic gae --actor ppo-clip --data on-policy CartPole-v1 --seed 1"
REPEATED = {
    "critic": COMPOSED.replace("gae", "gae:0.9"), "actor": COMPOSED.replace("ppo-clip", "ppo-clip:0.1"),
    "data": "--critic v-trace --actor score --data lag:4 CartPole-v1 --seed 1",
    "double": f"{DQN} --double", "dueling": f"{DQN} --dueling", "per": f"{DQN} --per", "noisy": f"{DQN} --noisy",
    "n_step": f"{DQN} --n-step 3", "distributional": f"{DQN} --distributional qr",
    "policy": f"{PPO} --policy MlpTransformerPolicy", "recurrent": f"{PPO} --recurrent", "init": f"{PPO} --init RUN",
    "dataset": "iql CartPole-v1 --seed 1 --dataset DATA", "steps": f"{PPO} --steps 999", "seed": f"{PPO} --seed 5",
    "seeds": f"{PPO} --seeds 3", "envs": f"{PPO} --envs 24", "backend": HOST, "workers": f"{PPO} --workers 2",
    "step_timeout": f"{PPO} --workers --step-timeout 7.5", "max_restarts": f"{PPO} --workers --max-restarts 2",
    "zoo": f"{PPO} --zoo 2 --set gamma=0.9", "set": f"{PPO} --set gamma=0.9 'policy_kwargs={{\"net_arch\":[8]}}'",
    "settings": f"{PPO} --settings FILE", "env_kwargs": f"{PPO} --env-kwargs gravity=-9.5 enable_wind=true",
    "actors": f"{PPO} --actors 8", "envs_per_group": f"{PPO} --envs-per-group 4", "behind": f"{HOST} --behind 1",
    "learners": f"{HOST} --learners 2 --learner-processes 2",
    "learner_processes": f"{HOST} --learners 4 --learner-processes 2",
}  # fmt: skip
"""A command for each option that bears on the result."""
BEARS_ON_NOTHING = {
    "address",
    "out",
    "video",
    "require",
    "checkpoint_seconds",
    "track",
    "quiet",
    "verbose",
    "debug",
}
"""What is made is the same, or is not what is trained."""
OF_ROLES = {"roles", "turn"}
"""`tests/envs/test_roles.py` repeats their command."""


def parsed(command):
    return cli.parser().parse_args(["train", *shlex.split(command)])


def resolved(command):
    return config_of(parsed(command))


def test_every_option_that_bears_on_the_result_is_repeated_somewhere_here():
    assert REPEATED.keys() | BEARS_ON_NOTHING | OF_ROLES == options().keys()


@pytest.mark.parametrize("option", REPEATED)
def test_the_command_resolves_to_the_configuration_that_it_repeats(option, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "load_datasets", lambda _: SimpleNamespace(env_id=None, env_kwargs=None))
    command = REPEATED[option].replace("RUN", str(runs / "one")).replace("FILE", str(tmp_path / "best.yaml"))
    (tmp_path / "best.yaml").write_text("gamma: 0.9\nn_epochs: 2\n")
    config = resolved(command)
    assert resolved(repeat(config, tmp_path).removeprefix("actrix train ")) == config
    without = parsed(command)
    setattr(without, option, options()[option].default)
    with contextlib.suppress(ValueError):  # of what that option makes possible
        assert config_of(without) != config


def test_an_address_is_of_a_place_and_seeds_apart_have_a_line_each(tmp_path):
    config = resolve("ppo", "CartPole-v1", seeds=[3, 7], address="head:6379")
    lines = repeat(config, tmp_path).splitlines()
    assert [resolved(line.removeprefix("actrix train ")) for line in lines] == [
        dataclasses.replace(config, seeds=(seed,), address=None) for seed in (3, 7)
    ]


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_command_repeats_the_run(runs, name):
    config = load_config(runs / name)
    assert resolved(repeat(config, runs / name).removeprefix("actrix train ")) == config


def test_what_cannot_be_reported_is_one_sentence(runs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((runs / "one" / "config.json").read_text()) | {"env_id": "Acrobot-v1"}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"do not compare: .* is of CartPole-v1, .* is of Acrobot-v1"):
        report([runs / "one", other], tmp_path / "report")
    config |= {"env_id": "CartPole-v1", "env_kwargs": {"sutton_barto_reward": True}}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        RunError, match=r"is of CartPole-v1, .* is of CartPole-v1 with sutton_barto_reward=True"
    ):
        report([runs / "one", other], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    with pytest.raises(RunError, match="not a run folder"):
        report([tmp_path], tmp_path / "report")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my own page")
    with pytest.raises(RunError, match="is no report"):
        report([runs / "one"], tmp_path / "mine")
    assert "not evaluated yet" in report([other], tmp_path / "report").read_text("utf-8")


def test_the_command_line(runs, tmp_path, capsys):
    assert cli.main(["report", str(runs / "two"), "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'index.html'}\n"


def test_profiles(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    plot_profiles({"a": [[0.0, 1], [2, 3]], "b": [[1.0]] * 5, "c": [[0.0, 2.0]]}, tmp_path / "p.svg")
    (axes,) = figures[0].axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a: 2 seeds", "b: 5 seeds", "c: 1 seed"]
    taus, shares = axes.lines[0].get_data()
    for tau, share in ((-0.03, 1.0), (0.5, 0.75), (1.5, 0.5), (2.5, 0.25), (3.05, 0.0)):
        assert shares[np.abs(taus - tau).argmin()] == share
    with pytest.raises(ValueError, match="no returns"):
        plot_profiles({}, tmp_path / "p.svg")
