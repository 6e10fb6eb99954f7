"""`actrix report`: one page with everything in it, whose numbers and command are the runs' own."""

import json
import re
import shlex

import numpy as np
import pytest
from matplotlib.figure import Figure

import actrix
from actrix import cli
from actrix.cli.options import pairs
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


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_command_repeats_the_run(runs, name):
    config = load_config(runs / name)
    args = cli.parser().parse_args(shlex.split(repeat(config, runs / name))[1:])
    algorithm, env_id = args.names
    seeds = [args.seed + i for i in range(args.seeds or 1)]
    again = resolve(algorithm, env_id, steps=args.steps, n_envs=args.envs, seeds=seeds, backend=args.backend,
                    settings=pairs(args.set, "--set"))  # fmt: skip
    assert (again.settings, again.seeds, again.n_timesteps) == (
        config.settings,
        config.seeds,
        config.n_timesteps,
    )
    assert (again.n_envs, again.backend) == (config.n_envs, config.backend)


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
