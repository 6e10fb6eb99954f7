import json
import os

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from actrix.show import plot
from actrix.show.log import Logger
from actrix.show.plot import load_run, plot_compare, plot_run, plot_seeds, smooth


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved, to look into."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )
    return figures


def make_run(folder, seed=0, algorithm="ppo", steps=100_000, config=True):
    rng = np.random.default_rng(seed)
    with Logger(folder) as log:
        for step in range(2_000, steps + 1, 2_000):
            log.record("rollout/ep_rew_mean", float("nan") if step == 2_000 else step / 1000 + rng.normal())
            log.record("rollout/ep_rew_std", 5.0)
            if step % 20_000 == 0:
                log.record("eval/mean_reward", step / 900)
            log.dump(step)
    if config:
        values = {"algorithm": algorithm, "env_id": "LunarLander-v3", "seed": seed}
        (folder / "config.json").write_text(json.dumps(values))
    return folder


def legend(figure):
    return [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


def test_one_run(tmp_path, drawn):
    out = plot_run(make_run(tmp_path / "run"), tmp_path / "plots" / "curve.png")
    assert os.listdir(out.parent) == ["curve.png"]
    with Image.open(out) as image:
        assert image.size == (1050, 630)
        assert round(image.info["dpi"][0]) == 150
    axes = drawn[0].axes[0]
    assert axes.get_title("left") == "PPO on LunarLander-v3, seed 0"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "episode return")
    assert legend(drawn[0]) == [
        "± std of recent episodes",
        "mean of last 100 episodes",
        "smoothed",
        "evaluation",
        "last evaluation: 111.1",
    ]
    assert "100k" in [t.get_text() for t in axes.get_xticklabels()]


def test_seeds_get_an_iqm_from_five_on(tmp_path, drawn):
    runs = [make_run(tmp_path / str(i), i, steps=100_000 - 10_000 * i) for i in range(5)]
    plot_run(runs, tmp_path / "a.png")
    plot_run(runs[:3], tmp_path / "b.png")
    assert legend(drawn[0]) == ["IQM of 5 seeds, band: 95% bootstrap interval", "each seed, smoothed"]
    assert legend(drawn[1]) == ["mean of 3 seeds, band: lowest to highest", "each seed, smoothed"]
    line = drawn[0].axes[0].lines[0]
    assert line.get_xdata()[-1] == 60_000
    assert line.get_ydata()[-1] == pytest.approx(60, abs=3)
    assert max(curve.get_xdata()[-1] for curve in drawn[0].axes[0].lines) == 100_000


def test_comparing(tmp_path, drawn):
    groups = {
        "PPO": [make_run(tmp_path / f"p{i}", i) for i in range(5)],
        "A2C $5_ bad^": [make_run(tmp_path / f"a{i}", i, "a2c") for i in range(2)],
        "DQN": make_run(tmp_path / "d", 0, "dqn"),
    }
    plot_compare(groups, tmp_path / "a.svg")
    assert drawn[0].axes[0].get_title("left") == "LunarLander-v3"
    assert legend(drawn[0]) == [
        "PPO: IQM of 5 seeds, band: 95% bootstrap interval",
        "A2C $5_ bad^: mean of 2 seeds, band: lowest to highest",
        "DQN: 1 seed",
    ]
    many = {str(i): groups["DQN"] for i in range(9)}
    plot_compare(many, tmp_path / "b.pdf", title="many $")
    lines = drawn[1].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


def test_little_or_nothing_to_draw(tmp_path, drawn):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metrics.csv").write_text("")
    (tmp_path / "empty/config.json").write_text("{torn")
    plot_run(tmp_path / "empty", tmp_path / "a.png")
    assert drawn[0].axes[0].get_title("left") == "empty"
    assert drawn[0].axes[0].texts[0].get_text() == "no episode finished"
    one = make_run(tmp_path / "one", steps=4_000, config=False)
    plot_run(one, tmp_path / "b.png")
    plot_run([one, tmp_path / "empty"], tmp_path / "c.png")
    plot_compare({"a": tmp_path / "empty", "b": one}, tmp_path / "d.png")
    assert legend(drawn[2])[0] == "1 of 2 without data; 1 seed"
    plot_seeds([([0, 1], [1, 2]), ([5, 6], [1, 2])], tmp_path / "e.png", title="apart")
    assert legend(drawn[4])[0] == "2 seeds without common steps"


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run folder: it has no metrics\.csv"):
        plot_run(tmp_path, tmp_path / "a.png")
    for call in [
        lambda: plot_run([], tmp_path / "a.png"),
        lambda: plot_seeds([], tmp_path / "a.png"),
        lambda: plot_compare({}, tmp_path / "a.png"),
        lambda: plot_compare({"x": []}, tmp_path / "a.png"),
    ]:
        with pytest.raises(ValueError, match="no "):
            call()
    assert os.listdir(tmp_path) == []


def test_smoothing_is_an_average_without_pull_at_the_ends():
    np.testing.assert_allclose(smooth(np.full(200, 3.0)), 3.0)
    line = np.arange(300.0)
    np.testing.assert_allclose(smooth(line)[30:-30], line[30:-30])
    noise = np.random.default_rng(0).normal(size=500)
    assert smooth(noise).std() < 0.4 * noise.std()
    for n in range(4):
        np.testing.assert_array_equal(smooth(np.arange(n)), np.arange(n))


def test_long_curves_are_thinned_without_losing_their_ends():
    x = np.arange(100_000.0)
    thin_x, thin_y = plot._thin(x, x * 2)
    assert len(thin_x) == plot.POINTS
    assert (thin_x[0], thin_x[-1]) == (x[0], x[-1])
    np.testing.assert_allclose(thin_y[1:-1], 2 * thin_x[1:-1])


def test_names_are_written_as_in_text(tmp_path):
    names = {
        "ppo": "PPO",
        "q-learning": "Q-learning",
        "off-pac": "Off-PAC",
        "crossq": "CrossQ",
        "MyPPO": "MyPPO",
    }
    for given, shown in names.items():
        assert plot._name(given) == shown
    assert plot._name(None) is None
    (tmp_path / "metrics.csv").write_text("")
    (tmp_path / "config.json").write_text('["not", "a", "config"]')
    assert load_run(tmp_path).title == tmp_path.name
