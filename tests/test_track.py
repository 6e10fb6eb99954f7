"""Trackers: every row at its step, one run of theirs per seed, gone on with by `actrix resume`."""

import csv
import json
import sys
import types

import pytest

import actrix
from actrix.cli import main
from actrix.track import TRACKERS, MlflowCallback, TrackioCallback, WandbCallback

TRAIN = ["train", "a2c", "CartPole-v1", "--steps", "40", "--envs", "2", "--backend", "jax", "--quiet"]


class Run:
    """A run of the stand-in for trackio."""

    def __init__(self, options, fails=False):
        self.options, self.rows, self.finished, self.fails = options, [], False, fails

    def log(self, row, step):
        if self.fails:
            raise ConnectionError("gone")
        self.rows.append((step, row))

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    begun = []

    def init(**options):
        begun.append(Run(options))
        return begun[-1]

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=init))
    return begun


def test_a_run_sends_each_row_and_its_resume_goes_on_with_the_same_run(runs, tmp_path):
    folder = tmp_path / "run"
    assert main([*TRAIN, "--seed", "1", "--track", "trackio", "--out", str(folder)]) == 0
    with open(folder / "metrics.csv") as file:
        steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
    assert [step for run in runs for step, _ in run.rows] == steps
    assert "eval/mean_reward" in runs[-1].rows[-1][1]
    assert runs[0].options["config"]["settings"]["gamma"] == 0.99
    assert all(run.finished for run in runs)
    kept = json.loads((folder / "tracker.json").read_text())
    before = len(runs)
    assert main(["resume", str(folder), "--steps", "80", "--quiet"]) == 0
    assert len(runs) > before
    assert {run.options["name"] for run in runs} == {kept["run_id"]}
    assert runs[before].rows[0][0] > steps[-1]


def test_several_seeds_have_a_run_each_and_a_common_group(runs, tmp_path):
    assert main([*TRAIN, "--seeds", "2", "--track", "trackio", "--out", str(tmp_path / "both")]) == 0
    assert len({run.options["name"] for run in runs}) == 2
    assert {run.options["group"] for run in runs} == {"both"}
    assert {run.options["config"]["seed"] for run in runs} == {0, 1}


def test_a_callback_sends_each_row_of_learn(runs):
    model = actrix.A2C("MlpPolicy", "CartPole-v1", n_envs=2, backend="jax", seed=0)
    model.learn(40, callback=TrackioCallback(name="mine"))
    (run,) = runs
    assert run.rows
    assert run.finished
    assert run.options["config"]["algorithm"] == "a2c"
    assert not model.logger.outputs


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_sentence_before_anything_is_written(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert main([*TRAIN, "--track", name, "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'actrix[track]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_begins_no_run_leaves_no_folder_behind(monkeypatch, tmp_path, capsys):
    def refuse(**_):
        raise ConnectionError("the server is gone")

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=refuse))
    assert main([*TRAIN, "--track", "trackio", "--out", str(tmp_path / "run")]) != 0
    assert "trackio did not begin a run: the server is gone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_login_is_one_sentence(monkeypatch):
    class AuthenticationError(Exception):
        """Of wandb."""

    def login(prompt, verify):
        assert not prompt
        assert not verify  # which asks the server
        if keys and len(keys[0]) < 40:
            raise AuthenticationError("API key must have 40+ characters")
        return bool(keys)

    errors = types.SimpleNamespace(AuthenticationError=AuthenticationError)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(login=login, errors=errors))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    keys: list[str] = []
    with pytest.raises(ValueError, match="wandb has no login: run `wandb login`"):
        WandbCallback().check()
    keys.append("my")
    with pytest.raises(ValueError, match="wandb cannot log in: API key must"):
        WandbCallback().check()
    keys[0] = 40 * "k"
    WandbCallback().check()
    keys.clear()
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbCallback().check()


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_one_that_refuses_says_so(monkeypatch):
    run = Run({}, fails=True)
    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=lambda **_: run))
    one = TrackioCallback()
    one.begin({})
    with pytest.warns(UserWarning, match="gets no more metrics: gone"):
        one.log({"a": 1.0}, 1)
    one.log({"a": 1.0}, 2)
    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=lambda: None))
    with pytest.raises(OSError, match="trackio did not begin a run"):
        one.begin({})


def test_a_damaged_tracker_file_and_another_tracker_are_refused(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TRAIN, "--seed", "1", "--track", "trackio", "--out", str(folder)]) == 0
    sys.modules["mlflow"], old = types.SimpleNamespace(), sys.modules.get("mlflow")
    try:
        assert main(["resume", str(folder), "--steps", "80", "--track", "mlflow"]) == 2
    finally:
        sys.modules.pop("mlflow") if old is None else sys.modules.update(mlflow=old)
    assert "is tracked by trackio" in capsys.readouterr().err
    (folder / "tracker.json").write_text('{"tracker": 3}')
    assert main(["resume", str(folder), "--steps", "80"]) == 2
    assert "tracker.json cannot be read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_the_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/all.db")
    assert main([*TRAIN, "--seed", "1", "--track", "mlflow", "--out", "run"]) == 0
    assert main(["resume", "run", "--steps", "80", "--quiet"]) == 0
    run_id = json.loads((tmp_path / "run/tracker.json").read_text())["run_id"]
    client = mlflow.MlflowClient()
    assert len(client.search_runs([client.get_experiment_by_name("actrix").experiment_id])) == 1
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params["settings.gamma"] == "0.99"
    steps = [metric.step for metric in client.get_metric_history(run_id, "eval/mean_reward")]
    assert steps[-1] >= 80
    assert MlflowCallback(run_id=run_id).begin({}) == run_id


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_writes_the_run(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for key, said in (("", "has no login"), ("my", "cannot log in: WANDB_API_KEY invalid")):
        monkeypatch.setenv("WANDB_API_KEY", key)
        assert main([*TRAIN, "--track", "wandb", "--out", "run"]) == 2
        assert (told := capsys.readouterr().err).startswith("actrix: wandb "), told
        assert said in told
        assert not (tmp_path / "run").exists()
        wandb.teardown()  # it reads the variables once
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*TRAIN, "--seed", "1", "--track", "wandb", "--out", "run"]) == 0
    run_id = json.loads((tmp_path / "run/tracker.json").read_text())["run_id"]
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_holds_the_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--seed", "1", "--track", "trackio", "--out", "run"]) == 0
