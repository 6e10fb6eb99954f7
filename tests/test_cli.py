"""The command line end to end on real environments, with few steps."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from actrix.actors.greedy import EpsilonGreedy, Greedy
from actrix.cli import main, parser
from actrix.cli import train as cli_train
from actrix.critics.backups import Double, Max
from actrix.critics.represent import Categorical, ImplicitQuantiles, Number, Quantiles
from actrix.runs import session
from actrix.runs import start as runs
from actrix.runs.config import RunError, resolve
from actrix.runs.folder import config_json, load_config, seed_folders
from actrix.show.metrics import STEP, read_metrics

SMALL = ["--set", "n_steps=32", "batch_size=64", "n_epochs=2", "--envs", "4", "--steps", "1024", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    assert main(["train", "ppo", "CartPole-v1", "--out", str(folder), "--seed", "1", *SMALL]) == 0
    return folder


def test_a_run_folder_holds_everything(run):
    names = {p.name for p in run.iterdir()}
    assert {
        "config.json",
        "metrics.csv",
        "model.safetensors",
        "curve.png",
        "checkpoints",
        "evaluation.json",
    } <= names
    assert sum(n.startswith("events.out.tfevents") for n in names) == 1
    config = json.loads((run / "config.json").read_text())
    assert (config["algorithm"], config["env_id"], config["seed"], config["n_timesteps"]) == (
        "ppo",
        "CartPole-v1",
        1,
        1024,
    )
    assert "n_steps=32" in config["settings"]["data"]
    assert config["versions"]["jax"]
    metrics = read_metrics(run)
    assert metrics[STEP][-1] == 1024
    assert np.isfinite(metrics["eval/mean_reward"][-1])
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_eval_prints_mean_and_spread(run, capsys):
    assert main(["eval", str(run), "--episodes", "4"]) == 0
    assert "±" in capsys.readouterr().out
    assert main(["eval", str(run / "model.safetensors"), "--episodes", "2", "--stochastic"]) == 0


def test_video_writes_an_mp4(run, capsys):
    assert main(["video", str(run)]) == 0
    (video,) = (run / "videos").glob("*.mp4")
    assert video.read_bytes()[4:8] == b"ftyp"


def test_plot_one_and_several(run, tmp_path, capsys):
    assert main(["plot", str(run), "--out", str(tmp_path / "one.png")]) == 0
    assert main(["plot", str(run), str(run), "--out", str(tmp_path / "two.png")]) == 0
    assert (tmp_path / "two.png").stat().st_size > 5000


def test_an_existing_folder_is_refused(run, capsys):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert main(["train", "ppo", "CartPole-v1", "--out", str(run), *SMALL[:-1]]) == 2
    said = capsys.readouterr()
    assert "resume" in said.err
    assert not said.out
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}


def test_resume_goes_on_counting(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "ppo", "CartPole-v1", "--out", str(folder), "--seed", "1", *SMALL]) == 0
    assert main(["resume", str(folder), "--steps", "2048", "--quiet"]) == 0
    metrics = read_metrics(folder)
    steps = metrics[STEP]
    assert steps[-1] == 2048
    assert (np.diff(steps) >= 0).all()
    assert main(["resume", str(folder), "--steps", "10", "--quiet"]) == 2


@pytest.mark.parametrize(
    "more",
    [
        ["--backend", "gymnasium"],
        # run/test_interruptions.py resumes such seeds, and run/test_folders.py begins one anew.
        pytest.param(["--seeds", "2"], marks=pytest.mark.slow),
    ],
    ids=["host", "several compiled"],
)
def test_resume_of_other_loops(more, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "ppo", "CartPole-v1", "--out", str(folder), "--seed", "1", *SMALL, *more]) == 0
    paths = [path for path, _ in seed_folders(folder, load_config(folder))]
    assert len(paths) == (2 if "--seeds" in more else 1)
    before = {path: (path / "metrics.csv").read_bytes() for path in paths}
    for again in ([], ["--steps", "1024"]):
        assert main(["resume", str(folder), "--quiet", *again]) == 2
        assert "already finished" in capsys.readouterr().err
    assert before == {path: (path / "metrics.csv").read_bytes() for path in paths}
    assert main(["resume", str(folder), "--steps", "1536", "--quiet"]) == 0
    for path in paths:
        steps = read_metrics(path)[STEP]
        assert steps[-1] == 1536
        assert (np.diff(steps) >= 0).all()
        assert json.loads((path / "evaluation.json").read_text())["num_timesteps"] == 1536
    shutil.rmtree(paths[-1] / "checkpoints")
    assert main(["resume", str(folder), "--steps", "2048", "--quiet"]) == 2
    assert "a model but not the checkpoint" in capsys.readouterr().err
    for path in paths:  # as if it had been killed before its first checkpoint
        (path / "model.safetensors").unlink()
        (path / "evaluation.json").unlink()
    assert main(["resume", str(folder), "--steps", "2048", "--quiet"]) == 0
    assert "begins anew" in capsys.readouterr().err
    for path in paths:
        assert read_metrics(path)[STEP][0] < 1024


def test_a_killed_final_evaluation_is_made_up_for(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_two_resumes_of_one_checkpoint_agree(run, tmp_path, capsys):
    from actrix.model import Model

    parameters = []
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name)
        assert main(["resume", str(tmp_path / name), "--steps", "1536", "--quiet"]) == 0
        parameters.append(Model.load(tmp_path / name).get_parameters())
    for key, value in parameters[0].items():
        np.testing.assert_array_equal(value, parameters[1][key])


def test_many_seeds_compiled(tmp_path, capsys):
    folder = tmp_path / "seeds"
    assert main(["train", "ppo", "CartPole-v1", "--seeds", "5", "--out", str(folder), *SMALL]) == 0
    assert {"seed-0", "seed-1", "seed-2", "curve.png"} <= {p.name for p in folder.iterdir()}
    assert "5 seeds" in capsys.readouterr().out
    assert main(["eval", str(folder), "--episodes", "2"]) == 0
    assert "all seeds" in capsys.readouterr().out


def test_many_seeds_from_python(tmp_path):
    import actrix

    settings = {"n_steps": 32, "batch_size": 64, "n_epochs": 2}
    results = actrix.train_seeds(
        "ppo", "CartPole-v1", [3, 4, 5, 6, 7], 512, tmp_path / "five", settings=settings, n_envs=4
    )
    assert list(results.returns) == [3, 4, 5, 6, 7]
    summary = results.summary
    assert summary.low <= summary.iqm <= summary.high
    assert "IQM" in str(summary)
    assert "interval" in str(summary)


@pytest.mark.slow  # run/test_interruptions.py trains such processes, kills their parent and compares each alone
def test_many_seeds_in_processes(tmp_path):
    """They train apart; and what they print goes into their folder and nowhere else."""
    folder = tmp_path / "seeds"
    arguments = ["--seeds", "2", "--out", str(folder), "--backend", "gymnasium", *SMALL]
    assert main(["train", "ppo", "CartPole-v1", *arguments]) == 0
    results = [json.loads((folder / f"seed-{s}" / "evaluation.json").read_text()) for s in (0, 1)]
    assert all(len(r["returns"]) == session.EVAL_EPISODES for r in results)
    assert results[0]["returns"] != results[1]["returns"]
    assert all((folder / f"seed-{s}" / "output.log").read_text() for s in (0, 1))


def test_composition(tmp_path, capsys):
    folder = tmp_path / "composed"
    arguments = ["--critic", "td-lambda:0.9", "--actor", "ppo-clip:0.2", "--data", "on-policy", "CartPole-v1"]
    assert main(["train", *arguments, "--out", str(folder), *SMALL]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["critic"].startswith("td-lambda:0.9")
    assert config["algorithm"] == "actor-critic"
    assert main(["eval", str(folder), "--episodes", "2"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "--critic q:double,dueling,c51 --actor boltzmann:0.1 --data replay:per,n=3 CartPole-v1",
        "--critic ensemble:5,quantiles=25 --actor soft --data replay Pendulum-v1",
        "--critic v-trace --actor ppo-clip --data trajectories CartPole-v1",
        "--critic gae:0.95 --actor weighted:1 --data trajectories CartPole-v1",
    ],
)
def test_compositions_train_to_the_end(words, tmp_path, capsys):
    """Those of the changelog, with as many updates as fit into seconds."""
    folder = tmp_path / "run"
    few = ["--steps", "1500", "--set", "policy_kwargs={'net_arch': [16]}", "--out", str(folder)]
    assert main(["train", *words.split(), *few]) == 0
    assert "final evaluation" in capsys.readouterr().out
    assert read_metrics(folder)[STEP][-1] >= 1500
    assert main(["eval", str(folder), "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppoo", "CartPole-v1"], ["ppoo", "did you mean ppo"]),
        (["ppo", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["ppo", "CartPole-v1", "--set", "gama=0.9"], ["gama", "gamma"]),
        (["ppo", "CartPole-v1", "--set", "gamma=2"], ["gamma=2"]),
        (["ppo", "CartPole-v1", "--set", "batch_size=300"], ["300", "256"]),
        (["ppo", "CartPole-v1", "--set", "learning_rate=-1"], ["learning_rate"]),
        (["ppo", "CartPole-v1", "--set", "n_steps"], ["KEY=VALUE"]),
        (
            ["ppo", "CartPole-v1", "--set", "policy_kwargs={'net_arch': 'big'}"],
            ["net_arch", "big", "[64, 64]"],
        ),
        (["ppo", "CartPole-v1", "--set", "use_sde=True"], ["use_sde", "exploration"]),
        (["--critic", "td", "--actor", "score:q", "CartPole-v1"], ["refused", "Q(s,a)"]),
        (["--critic", "gea", "CartPole-v1"], ["gea", "gae"]),
        (["--critic", "q-td", "--actor", "score", "Pendulum-v1"], ["Discrete"]),
        (["ppo", "CartPole-v1", "--critic", "td"], ["form is"]),
        (["ppo", "CartPole-v1", "--seeds", "0"], ["--seeds"]),
        (["ppo", "LunarLander-v3", "--backend", "jax"], ["JAX"]),
        (["ppo", "LunarLander-v2"], ["LunarLander-v3"]),
        (["ppo", "CartPole v1"], ["CartPole v1", "alformed"]),
        (["ppo", "CartPole-v1", "--env-kwargs", "foo=1"], ["env_kwargs", "'foo'"]),
        (["ppo", "Breakout-MinAtar", "--env-kwargs", "foo=1"], ["env_kwargs", "'foo'"]),
        (["ppo", "CartPole-v1", "--backend", "gymnasium", "--env-kwargs", "foo=1"], ["env_kwargs", "'foo'"]),
        (["ppo", "CartPole-v1", "--set", "policy_kwargs=5"], ["policy_kwargs=5", "dict"]),
        (["ppo", "CartPole-v1", "--set", "policy=5"], ["policy=5"]),
        (["ppo", "CartPole-v1", "--set", "policy=MlpPolice"], ["MlpPolice", "MlpPolicy"]),
        (["ppo", "CartPole-v1", "--set", "critic=5"], ["critic=5"]),
        (["ppo", "CartPole-v1", "--set", "n_envs=[2]"], ["n_envs=[2]"]),
        (["ppo", "CartPole-v1", "--set", "n_envs=-1"], ["n_envs=-1"]),
        (["ppo", "CartPole-v1", "--set", "policy_kwargs={'net_arch': [-5]}"], ["-5"]),
        (["ppo", "CartPole-v1", "--recurrent", "--set", "policy_kwargs={'hidden_size': 'x'}"], ["'x'"]),
        (["ppo", "Pendulum-v1", "--set", "ref_kl_coef=0.1"], ["ref_kl_coef"]),
        (["dqn", "Pendulum-v1"], ["Discrete action space", "sac"]),
        (["sac", "CartPole-v1"], ["Box action space", "use discrete-sac"]),
        (["td3", "CartPole-v1"], ["deterministic", "discrete-sac"]),
        (["discrete-sac", "Pendulum-v1"], ["use sac"]),
        (["dqn", "CartPole-v1", "--set", "learning_starts=100"], ["learning_starts=100", "100 steps"]),
        (["c51", "CartPole-v1", "--set", "v_min=2", "v_max=1"], ["v_min=2", "v_max=1"]),
        (["dqn", "CartPole-v1", "--set", "distributional=c52"], ["c52", "c51, qr, iqn"]),
        (
            ["dqn", "CartPole-v1", "--set", "train_freq=(4,'episode')"],
            ["(4, 'episode')", "one whole episode"],
        ),
        (["dqn", "CartPole-v1", "--set", "gradient_steps=0"], ["gradient_steps=0"]),
        (["td3", "Pendulum-v1", "--set", "action_noise=pink"], ["action_noise='pink'", "NormalActionNoise"]),
        (["sac", "Pendulum-v1", "--set", "tau=2"], ["tau=2", "[0, 1]"]),
        (["dqn", "CartPole-v1", "--recurrent"], ["recurrent", "policy-gradient"]),
        (
            ["sac", "Pendulum-v1", "--set", "replay_buffer_class=HerReplayBuffer"],
            ["observes a Dict with observation, achieved_goal, desired_goal"],
        ),
        (["sac", "Pendulum-v1", "--double"], ["unknown setting 'double'"]),
        (["ppo", "CartPole-v1", "--noisy"], ["unknown setting 'noisy'"]),
        (
            ["--critic", "v-trace", "--actor", "score", "--data", "leg:4", "CartPole-v1"],
            ["leg:4", "did you mean lag?"],
        ),
        (
            ["--critic", "gae", "--actor", "score", "--data", "lag:4", "CartPole-v1"],
            ["refused", "correction"],
        ),
        (["iql", "CartPole-v1"], ["iql learns from a data set", "--dataset PATH"]),
        (["iql", "--dataset", "no/such-v0"], ["no/such-v0", "no Minari data set"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
def test_a_mistake_gets_one_line_and_leaves_nothing(arguments, words, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", *arguments, "--out", str(folder), "--steps", "100"]) == 2
    said = capsys.readouterr()
    assert not said.out, "it is announced, and then refused"
    message = said.err.strip()
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    assert not folder.exists()


def test_an_environment_that_cannot_be_built_is_one_line(tmp_path, capsys):
    arguments = ["ppo", "FrozenLake-v1", "--env-kwargs", "map_name=9x9", "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 1
    assert "KeyError" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(where):
    from actrix.algorithms.settings import SettingError

    arguments = ["train", "ppoo", "CartPole-v1"]
    with pytest.raises(SettingError):
        main(["--debug", *arguments] if where == "before" else [*arguments, "--debug"])


def test_require_and_video(tmp_path, capsys):
    arguments = ["train", "ppo", "CartPole-v1", "--seed", "1", *SMALL]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--require", "1", "--video"]) == 0
    (video,) = (tmp_path / "a" / "videos").glob("*.mp4")
    assert video.read_bytes()[4:8] == b"ftyp"
    assert main([*arguments, "--out", str(tmp_path / "b"), "--require", "501"]) == 1
    assert "required 501" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["eval"], ["video"], ["resume"], ["plot"], ["watch"]])
def test_a_missing_run_is_named(command, tmp_path, capsys):
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_steps_that_are_no_number(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train", "ppo", "CartPole-v1", "--steps", "many"])
    assert error.value.code == 2
    assert "many" in capsys.readouterr().err


def test_a_file_cannot_name_a_module(run, tmp_path, capsys, monkeypatch):
    """A canary module would be imported by gym.make('canary:E-v0'); a model file that says so is refused."""
    from actrix.model import Model

    (tmp_path / "canary.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = Model.load(run)
    model.env_id = "canary:E-v0"
    path = model.save(tmp_path / "evil")
    for command in ("eval", "video", "watch"):
        assert main([command, str(path)]) == 2
        assert "--env canary:E-v0" in capsys.readouterr().err
    assert "canary" not in sys.modules


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("reinforce", "vpg", "qac", "tdac", "a2c", "ppo", "ppo-kl"))
    assert main(["list", "--envs", "ppo"]) == 0
    assert "LunarLander-v3" in capsys.readouterr().out


def test_the_words_that_are_printed_are_a_command():
    from actrix.algorithms.learn import Composition
    from actrix.algorithms.presets import PRESETS
    from actrix.cli import parser
    from actrix.cli.show import _in_words
    from actrix.cli.train import config_of

    for name, preset in PRESETS.items():
        if not isinstance(preset.algorithm, Composition) or preset.offline:
            continue
        line = shlex.split(_in_words(preset.algorithm, preset.n_envs))
        config = config_of(parser().parse_args(["train", *line, "CartPole-v1"]))
        assert (config.build(), config.n_envs) == (preset.algorithm, preset.n_envs), name


def test_what_is_printed_for_an_environment_is_what_train_takes(capsys):
    """Words for a composition, else the name; each algorithm's first environment in the zoo, and one that is not."""
    from actrix import zoo
    from actrix.algorithms.presets import PRESETS
    from actrix.cli import parser
    from actrix.cli.train import config_of

    for name, preset in PRESETS.items():
        ids = [n for n in zoo.load(name) if n != "default" and "@" not in n and "*" not in n]
        for env_id in (*ids[:1], *(() if preset.offline else ("FrozenLake-v1",))):
            assert main(["list", name, env_id]) == 0
            line = shlex.split(capsys.readouterr().out.splitlines()[0])
            ours, usual = (
                config_of(parser().parse_args(["train", *words])) for words in (line, [name, env_id])
            )
            assert (ours.build(), ours.n_envs, ours.n_timesteps) == (
                usual.build(), usual.n_envs, usual.n_timesteps,
            ), line  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo", "--envs", "dqn"], "nothing else goes with it"),
        (["--compositions", "--envs", "dqn"], "nothing else goes with it"),
        (["ppo", "--zoo", "2"], "list ALGORITHM ENV --zoo 2"),
        (["ppo", "CartPole-v1", "--zoo", "9"], "it has CartPole-v1, CartPole-v1@2"),
    ],
)
def test_list_ignores_no_word(arguments, words, capsys):
    assert main(["list", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_offline_algorithms_and_versions_are_listed_too(capsys):
    assert main(["list", "bc", "Pendulum-v1"]) == 0
    assert "Pendulum-v1 --dataset DATA" in capsys.readouterr().out
    assert main(["list", "--envs", "ppo"]) == 0
    assert "CartPole-v1 --zoo 2" in capsys.readouterr().out
    assert main(["list", "ppo", "CartPole-v1", "--zoo", "2"]) == 0
    assert "n_steps=128" in capsys.readouterr().out


def compositions(*words):
    assert main(["list", "--compositions", *words]) == 0


def test_the_table_of_compositions_is_a_page(monkeypatch, capsys):
    from actrix.algorithms.answers import CRITICS, DATA
    from actrix.algorithms.sound import table

    monkeypatch.setenv("COLUMNS", "100")
    compositions()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 80
    assert max(map(len, lines)) <= 100
    cells = table()
    gae = next(line.split() for line in lines if line.startswith("gae "))
    sound = [c.data for c in cells if c.critic == "gae" and c.reason is None]
    assert gae[1:] == [str(sound.count(data)) for data in DATA if data in sound]
    assert all(any(line.split()[:1] == [critic] for line in lines) for critic in CRITICS)
    refused = [
        int(line.split()[0]) for line in lines if line.strip()[:1].isdigit() and " of " not in line[:20]
    ]
    assert sum(refused) == sum(c.reason is not None for c in cells)


def test_the_table_of_compositions_by_words(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    compositions("gae", "ppo-clip")
    said = capsys.readouterr().out
    assert said.startswith("2 of 91 compositions are sound:")
    assert "refused: without correction the critic" in said
    compositions("gae", "soft")
    assert "refused: soft takes an ensemble Q(s, a), and the critic is a V(s)" in capsys.readouterr().out
    compositions("--all")
    assert len(capsys.readouterr().out.splitlines()) < 400
    for arguments, words in [
        (["--compositions", "gea"], "'gea' is no critic, actor, ψ or data: did you mean gae?"),
        (["--compositions", "gae", "td"], "gae td: no composition has them all"),
        (["--all"], "--all is of --compositions"),
    ]:
        assert main(["list", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_rows_of_the_table_of_compositions_are_its_cells():
    """What shares a row combines freely."""
    import itertools

    from actrix.algorithms.sound import table
    from actrix.cli.compositions import QUESTIONS, _rows

    cells = table()
    for reason in {c.reason for c in cells}:
        mine = [tuple(getattr(c, question) for question in QUESTIONS) for c in cells if c.reason == reason]
        rows = _rows([c for c in cells if c.reason == reason])
        assert sorted(x for row in rows for x in itertools.product(*row)) == sorted(mine)


@pytest.mark.slow  # signals are sent to it, below
def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "actrix", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "train" in done.stdout


@pytest.mark.slow  # its seeds' processes do below, and run/test_interruptions.py resumes what was killed
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm_leaves_a_checkpoint_to_resume_from(tmp_path):
    folder = tmp_path / "run"
    message = _train_until_stopped(folder, [folder], signal.SIGTERM)
    assert "actrix resume" in message
    assert list((folder / "checkpoints").glob("*.safetensors"))
    assert (folder / "model.safetensors").exists()
    total = _shorten(folder, [folder])
    assert main(["resume", str(folder), "--quiet"]) == 0
    steps = read_metrics(folder)[STEP]
    assert steps[-1] >= total
    assert (np.diff(steps) >= 0).all()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_the_processes_of_all_seeds(number, tmp_path):
    """No orphans, a checkpoint each; and a seed that has none yet starts anew when the run is resumed."""
    folder = tmp_path / "run"
    paths = [folder / "seed-0", folder / "seed-1"]
    message = _train_until_stopped(folder, paths, number, ["--seeds", "2"])
    assert "actrix resume" in message
    for path in paths:
        output = (path / "output.log").read_text()
        assert list((path / "checkpoints").glob("*.safetensors")), f"{sorted(path.rglob('*'))}\n{output}"
        assert (path / "model.safetensors").exists()
    assert not _processes_naming(folder)
    if number == signal.SIGTERM:  # run/test_folders.py begins such a seed anew in one process
        return
    total = _shorten(folder, paths)
    shutil.rmtree(paths[1] / "checkpoints")  # as if it had been killed before its first one
    (paths[1] / "model.safetensors").unlink()
    assert main(["resume", str(folder), "--quiet"]) == 0
    for path in paths:
        steps = read_metrics(path)[STEP]
        assert steps[-1] >= total
        assert (np.diff(steps) >= 0).all()
        assert (path / "evaluation.json").exists()
    assert len(list(paths[1].glob("events.out.tfevents*"))) == 1  # of training and final evaluation


def _train_until_stopped(folder, paths, number, more=()):
    command = [sys.executable, "-m", "actrix", "train", "ppo", "CartPole-v1", "--out", str(folder), *more]
    child = subprocess.Popen(
        [*command, "--steps", "1000000", "--backend", "gymnasium", "--set", "n_steps=32", "batch_size=64",
         "n_epochs=1", "n_envs=2", "policy_kwargs={'net_arch': [8]}", "--quiet"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for path in paths:
        _wait_for(lambda p=path / "metrics.csv": p.exists() and len(p.read_text()) > 500)
    child.send_signal(number)
    _, message = child.communicate(timeout=60)
    assert child.returncode == 130, message
    return message


def _shorten(folder, paths):
    """Set the budget of a stopped run to a little more than its first seed's steps, by hand."""
    (newest,) = (paths[0] / "checkpoints").glob("*.safetensors")
    total = int(newest.stem.removeprefix("step_")) + 512
    for path in {folder, *paths}:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "n_timesteps": total}))
    return total


def _processes_naming(folder):
    """Command lines of the running processes that name a folder (where there is a /proc)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [text for text in [file.read_bytes().decode()] if str(folder) in text]
    return found


@pytest.mark.slow
def test_processes_with_other_hash_seeds_agree(tmp_path):
    from actrix.model import Model

    parameters = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-m", "actrix", "train", "ppo", "CartPole-v1", "--out", str(folder),
             "--seed", "3", *SMALL],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, timeout=120,
        )  # fmt: skip
        parameters.append(Model.load(folder).get_parameters())
    assert parameters[0].keys() == parameters[1].keys()
    for key, value in parameters[0].items():
        np.testing.assert_array_equal(value, parameters[1][key])


def _wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


def test_zoo_entries_all_configure():
    from actrix import zoo
    from actrix.algorithms.presets import PRESETS
    from actrix.algorithms.settings import configure

    for name, preset in PRESETS.items():
        for env_id, entry in zoo.load(name).items():
            settings = {k: v for k, v in entry.items() if k not in zoo.RUN_KEYS}
            algorithm = configure(preset.algorithm, settings)
            replayed, data = algorithm.replays_transitions, algorithm.data
            rows, size = getattr(data, "n_steps", None), getattr(data, "batch_size", None)
            if not replayed and rows is not None and size is not None:
                assert rows * entry.get("n_envs", preset.n_envs) % size == 0, (name, env_id)
            if replayed and entry.get("n_timesteps"):
                assert algorithm.data.learning_starts < entry["n_timesteps"], (name, env_id)


def test_a_version_of_the_zoos_settings_is_asked_for(tmp_path, capsys):
    """The first is the default, `--zoo 2` another, which the run names."""
    train_ = ["train", "ppo", "CartPole-v1", "--seed", "0"]
    first, second = (
        cli_train.config_of(parser().parse_args([*train_, *more])) for more in ([], ["--zoo", "2"])
    )
    assert resolve("ppo", "CartPole-v1", seeds=[0], tuned=1) == first
    assert (first.tuned, second.tuned) == (True, 2)
    assert (first.n_timesteps, second.n_timesteps) == (100_000, 30_000)
    (tmp_path / "config.json").write_text(json.dumps(config_json(second)))
    assert load_config(tmp_path) == second
    assert main([*train_, "--zoo", "9"]) == 2
    said = "actrix: the zoo has no version 9 of ppo on CartPole-v1: it has CartPole-v1, CartPole-v1@2.\n"
    assert capsys.readouterr().err == said
    assert main(["train", "ppo", "Taxi-v4", "--zoo", "2"]) == 2
    assert capsys.readouterr().err == "actrix: the zoo has no version 2 of ppo on Taxi-v4: it has no entry.\n"


def test_output_goes_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "ppo", "CartPole-v1", "--seed", "0", *SMALL]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("ppo-CartPole-v1-")


# --------------------------------------------------------------------------- replayed and fixed data

TINY = [
    "learning_starts=64",
    "buffer_size=1000",
    "batch_size=16",
    "train_freq=8",
    "gradient_steps=1",
    "policy_kwargs={'net_arch': [8]}",
]
FEW = ["--backend", "gymnasium", "--quiet", "--set", *TINY, "target_update_interval=100", "--seed", "1"]


@pytest.fixture(scope="module")
def dqn_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "dqn"
    arguments = ["train", "dqn", "CartPole-v1", "--out", str(folder), "--steps", "304", "--envs", "2", *FEW]
    assert main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def dataset(dqn_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "cart-v0"
    assert main(["record", str(dqn_run), "--to", str(folder), "--steps", "150", "--stochastic"]) == 0
    return folder


def test_a_run_of_replayed_data_holds_everything(dqn_run, capsys):
    names = {p.name for p in dqn_run.iterdir()}
    assert {
        "config.json",
        "metrics.csv",
        "model.safetensors",
        "curve.png",
        "checkpoints",
        "evaluation.json",
    } <= names
    config = json.loads((dqn_run / "config.json").read_text())
    assert (config["algorithm"], config["n_timesteps"], config["n_envs"]) == ("dqn", 304, 2)
    data = load_config(dqn_run).build().data
    assert (data.learning_starts, data.train_freq) == (64, 8)
    metrics = read_metrics(dqn_run)
    assert metrics[STEP][-1] == 304
    assert np.nanmin(metrics["rollout/exploration_rate"]) < 0.1
    assert np.isfinite(metrics["eval/mean_reward"][-1])
    assert main(["eval", str(dqn_run), "--episodes", "2"]) == 0
    assert "±" in capsys.readouterr().out


def resolved(arguments, monkeypatch):
    """The configuration that a command comes to, without training."""
    found = []

    def start(config, folder, **kwargs):
        found.append(config)
        raise RunError("not trained")

    monkeypatch.setattr(runs, "start", start)
    assert main(["train", *arguments, "--quiet"]) == 2
    return found[0]


@pytest.mark.parametrize(
    ("steps", "refused"), [(1024, True), pytest.param(1025, False, marks=pytest.mark.slow)]
)
def test_a_run_too_short_to_replay_anything_is_refused(steps, refused, tmp_path, capsys):
    """The first chunk of 128 steps that begins at step 1000 or later is the one at 1024."""
    arguments = [
        "train",
        "acer",
        "CartPole-v1",
        "--steps",
        str(steps),
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main([*arguments, "--set", "n_steps=16", "n_envs=8", "learning_starts=1000"]) == (
        2 if refused else 0
    )
    if refused:
        assert "learning_starts=1000 is more than the 896 steps before the last" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        settings = {"n_steps": 16, "learning_starts": 1000}
        runs.check(resolve("acer", "CartPole-v1", steps=1025, n_envs=8, seeds=[0], settings=settings))
    else:
        assert np.isfinite(read_metrics(tmp_path / "run")["train/replay_loss"]).any()


PARTS = {
    "--double": {"critic": {"backup": Double}},
    "--no-double": {"critic": {"backup": Max}},
    "--dueling": {"critic": {"dueling": True}},
    "--no-dueling": {"critic": {"dueling": False}},
    "--per": {"data": {"prioritized": True}},
    "--no-per": {"data": {"prioritized": False}},
    "--noisy": {"critic": {"noisy": True}, "actor": Greedy},
    "--no-noisy": {"critic": {"noisy": False}, "actor": EpsilonGreedy},
    "--n-step 3": {"data": {"n_steps": 3}},
    "--n-step 1": {"data": {"n_steps": 1}},
    "--distributional c51": {"critic": {"representation": Categorical}},
    "--distributional qr": {"critic": {"representation": Quantiles}},
    "--distributional iqn": {"critic": {"representation": ImplicitQuantiles}},
    "--distributional none": {"critic": {"representation": Number}},
    "--double --dueling --per --n-step 3 --distributional c51 --noisy": {
        "critic": {"backup": Double, "dueling": True, "representation": Categorical, "noisy": True},
        "actor": Greedy,
        "data": {"prioritized": True, "n_steps": 3},
    },
}
"""What a switch makes of the answers; a class stands for what is of it already, else for its defaults."""


def changed(held, change):
    if isinstance(change, type):
        return held if type(held) is change else change()
    if isinstance(change, dict):
        return dataclasses.replace(
            held, **{name: changed(getattr(held, name), x) for name, x in change.items()}
        )
    return change


@pytest.mark.parametrize("name", ["dqn", "rainbow"])
@pytest.mark.parametrize("switches", PARTS)
def test_each_part_of_rainbow_is_a_switch(name, switches, monkeypatch, tmp_path):
    """It changes what it says and nothing else, and comes back from config.json."""
    plain = resolved([name, "CartPole-v1", "--seed", "0"], monkeypatch)
    config = resolved([name, "CartPole-v1", "--seed", "0", *switches.split()], monkeypatch)
    assert config.build() == changed(plain.build(), PARTS[switches])
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    assert load_config(tmp_path).build() == config.build()
    assert load_config(tmp_path) == config


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--critic", "v-trace", "--actor", "score", "--data", "lag:4"], {"data": "lag:4"}),
        (
            ["--critic", "q-retrace", "--actor", "acer", "--data", "trajectories:2:5000"],
            {"data": "trajectories:2:5000:1000"},
        ),
        (
            ["--critic", "q:double", "--actor", "boltzmann:0.1", "--data", "replay:per,n=3"],
            {"data": "replay:buffer_size=1000000", "actor": "boltzmann:0.1"},
        ),
    ],
)
def test_compositions_with_data_come_back_from_their_config(arguments, settings, monkeypatch, tmp_path):
    config = resolved([*arguments, "CartPole-v1", "--seed", "0"], monkeypatch)
    assert config.algorithm == "actor-critic"
    assert all(config.settings[name].startswith(word) for name, word in settings.items())
    assert config.settings["critic"].startswith(arguments[1])
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    assert load_config(tmp_path).build() == config.build()


def test_the_old_word_of_replayed_trajectories_is_understood(monkeypatch):
    arguments = ["--critic", "q-retrace", "--actor", "acer", "CartPole-v1", "--seed", "0", "--data"]
    with pytest.warns(FutureWarning, match="'trajectories:2:5000' now"):
        old = resolved([*arguments, "replay:2:5000"], monkeypatch)
    assert old == resolved([*arguments, "trajectories:2:5000"], monkeypatch)


@pytest.mark.slow  # `test_composition` trains one; lagged data learn in algorithms/test_compositions.py
def test_a_composition_with_lagged_data_trains(tmp_path):
    folder = tmp_path / "lagged"
    arguments = [
        "--critic",
        "v-trace",
        "--actor",
        "score",
        "--data",
        "lag:4",
        "CartPole-v1",
        "--out",
        str(folder),
    ]
    assert main(["train", *arguments, "--steps", "256", "--envs", "4", "--set", "n_steps=8", "--quiet"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["data"].startswith("lag:4:n_steps=8")
    assert config["algorithm"] == "actor-critic"
    assert main(["eval", str(folder), "--episodes", "2"]) == 0


def test_resume_restores_networks_targets_optimiser_and_memory(dqn_run, tmp_path, monkeypatch):
    import jax

    from actrix.files import checkpoint
    from actrix.model import Model

    parameters, restored = [], []
    original = session.train

    def train(runner, runs, *args, **kwargs):
        restored.append((jax.device_get(runner.learners[0]), runs[0].steps))
        return original(runner, runs, *args, **kwargs)

    monkeypatch.setattr(session, "train", train)
    for name in ("a", "b"):
        shutil.copytree(dqn_run, tmp_path / name)
        assert main(["resume", str(tmp_path / name), "--steps", "400", "--quiet"]) == 0
        parameters.append(Model.load(tmp_path / name).get_parameters())
    learner, steps = restored[0]
    found, counters = checkpoint.load_newest(dqn_run / "checkpoints", learner)
    saved = found.learner
    assert steps == counters["num_timesteps"] == 304
    jax.tree.map(np.testing.assert_array_equal, learner, saved)
    assert int(np.sum(learner.memory.rows.ready)) == 304
    assert int(learner.training.gradient_steps) == (304 - 64) // 16
    assert any(np.any(x) for x in jax.tree.leaves(learner.training.opt))
    before = Model.load(dqn_run).get_parameters()
    assert any((before[k] != v).any() for k, v in parameters[0].items()), "learning goes on"
    for key, value in parameters[0].items():
        np.testing.assert_array_equal(value, parameters[1][key], err_msg=key)
    metrics = read_metrics(tmp_path / "a")
    assert metrics[STEP][-1] == 400
    assert (np.diff(metrics[STEP]) >= 0).all()


def test_record_writes_a_data_set_that_minari_reads(dqn_run, dataset, tmp_path, capsys):
    import minari

    found = minari.MinariDataset(dataset / "data")
    assert (found.total_steps, found.id) == (150, "cart-v0")
    assert (found.env_spec.id, found.storage.metadata["algorithm_name"]) == ("CartPole-v1", "dqn")
    assert found[found.total_episodes - 1].truncations[-1], "cut by the budget of steps"
    assert main(["record", str(dqn_run), "--to", str(dataset)]) in (1, 2)
    assert "exists already" in capsys.readouterr().err
    assert main(["record", str(dqn_run), "--to", str(tmp_path / "c"), "--steps", "9", "--episodes", "1"]) == 2
    assert "not both" in capsys.readouterr().err
    assert main(["record", str(tmp_path / "none"), "--to", str(tmp_path / "c")]) == 2
    assert list(tmp_path.iterdir()) == []
    sets = []
    for name in ("a", "b"):
        arguments = ["--to", str(tmp_path / name), "--episodes", "3", "--random", "--seed", "5"]
        assert main(["record", str(dqn_run), *arguments]) == 0
        assert "3 episodes of random, mean return" in capsys.readouterr().out
        sets.append(minari.MinariDataset(tmp_path / name / "data"))
    for one, other in zip(*sets, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)


def test_training_on_a_data_set(dataset, tmp_path, capsys, monkeypatch):
    """Evaluated where the data say, or where the user says; resumed; several sets at once."""
    small = ["--set", "batch_size=16", "policy_kwargs={'net_arch': [8]}", "--seed", "0", "--quiet"]
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.chdir(dataset.parent)
    assert main(["train", "iql", "--dataset", dataset.name, "--out", str(one), "--steps", "40", *small]) == 0
    monkeypatch.chdir(tmp_path)  # the run is resumed from elsewhere
    assert "iql on cart-v0: final evaluation" in capsys.readouterr().out
    config = json.loads((one / "config.json").read_text())
    assert (config["env_id"], config["backend"], config["dataset"]) == (
        "CartPole-v1",
        "offline",
        [str(dataset)],
    )
    assert len(json.loads((one / "evaluation.json").read_text())["returns"]) == session.EVAL_EPISODES
    metrics = read_metrics(one)
    assert metrics[STEP][-1] == 40
    assert np.sum(~np.isnan(metrics["eval/mean_reward"])) > 1, "a curve, not only its end"
    assert main(["resume", str(one), "--steps", "60", "--quiet"]) == 0
    assert read_metrics(one)[STEP][-1] == 60
    assert main(["eval", str(one), "--episodes", "2"]) == 0
    arguments = [
        "iql",
        "CartPole-v1",
        "--dataset",
        str(dataset),
        str(dataset),
        "--out",
        str(two),
        "--steps",
        "20",
    ]
    assert main(["train", *arguments, *small]) == 0
    assert json.loads((two / "config.json").read_text())["dataset"] == [str(dataset)] * 2


def test_training_on_a_data_set_without_an_environment(dataset, tmp_path, capsys):
    nameless, folder = tmp_path / "set", tmp_path / "run"
    shutil.copytree(dataset, nameless)
    meta = json.loads((nameless / "data" / "metadata.json").read_text())
    del meta["env_spec"]
    (nameless / "data" / "metadata.json").write_text(json.dumps(meta))
    small = ["--set", "batch_size=16", "policy_kwargs={'net_arch': [8]}", "--quiet"]
    assert (
        main(["train", "bc", "--dataset", str(nameless), "--out", str(folder), "--steps", "20", *small]) == 0
    )
    assert "without an environment to evaluate in" in capsys.readouterr().out
    assert (folder / "model.safetensors").exists()
    assert not (folder / "evaluation.json").exists()
    assert main(["eval", str(folder), "--episodes", "2", "--env", "CartPole-v1"]) == 0
    assert main(["eval", str(folder)]) == 2
    assert "give --env ID" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (
            None,
            ["iql", "Acrobot-v1"],
            ["does not fit the data set cart-v0", "observation_space", "(6,)", "(4,)"],
        ),
        (None, ["iql", "Pendulum-v1"], ["does not fit the data set cart-v0"]),
        (None, ["ppo"], ["ppo needs an environment", "bc, cql, iql, td3-bc"]),
        (
            None,
            ["iql", "--envs", "4"],
            ["n_envs=4 is of environments that are trained in: a data set has none"],
        ),
        (None, ["iql", "--backend", "jax"], ["backend='jax' is of environments that are trained in"]),
        (None, ["td3-bc"], ["Box action space", "Discrete(2)"]),
        (None, ["--critic", "td"], ["the form is"]),
        (
            None,
            ["--critic", "td", "--set", "gamma=0.9", "CartPole-v1"],
            ["'CartPole-v1' stands behind --set"],
        ),
        (None, ["--critic", "td", "CartPole-v1"], ["actor-critic needs an environment", "bc, cql"]),
        ("rewards", ["iql"], ["episode 0", "no field 'rewards'"]),
        ("observations", ["bc", "CartPole-v1"], ["episode 0", "no field 'observations'"]),
    ],
)
def test_a_data_set_that_does_not_fit_leaves_nothing(change, arguments, words, dataset, tmp_path, capsys):
    import h5py

    path = tmp_path / "set"
    shutil.copytree(dataset, path)
    if change:
        with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
            del file[f"episode_0/{change}"]
    arguments = [*arguments, "--dataset", str(path), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["train", *arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_an_environment_that_a_data_set_names_is_not_imported(dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(dataset, tmp_path / "set")
    file = tmp_path / "set" / "data" / "metadata.json"
    meta = json.loads(file.read_text())
    meta["env_spec"] = json.dumps(
        json.loads(meta["env_spec"]) | {"id": "canary:E-v0", "entry_point": "canary:E"}
    )
    file.write_text(json.dumps(meta))
    small = ["--steps", "20", "--quiet", "--set", "batch_size=16", "policy_kwargs={'net_arch': [8]}"]
    assert (
        main(["train", "bc", "--dataset", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *small]) == 0
    )
    assert "without an environment" in capsys.readouterr().out
    assert "canary" not in sys.modules


def test_where_a_file_is_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["plot", str(run)], ["export", str(run), "--to", "stablehlo"]):
        for folder in (".", ".."):
            assert main([*words, "--out", folder]) == 2
            assert f"'{folder}' is a folder: name a file" in capsys.readouterr().err
    assert main(["plot", str(run), "--out", "picture"]) == 0
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


ONLY_HERE = """
import importlib.machinery

import gymnasium as gym

assert importlib.machinery.PathFinder.find_spec("optax").submodule_search_locations, "the package, not the file here"


def make():
    return gym.make("FrozenLake-v1")
"""
BOTH = """
import os, runpy, sys
for words in {commands}:
    sys.argv = [{actrix!r}, *words]
    try:
        runpy.run_path({actrix!r}, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    if os.path.exists("torch.py"):
        os.unlink("torch.py")
"""


def test_modules_of_the_current_folder_are_found_where_one_is_named(tmp_path, capsys):
    """By the installed command, too; they hide no installed one. Else none is run (tensorboardX tries torch)."""
    (tmp_path / "only_here.py").write_text(ONLY_HERE)
    (tmp_path / "optax.py").write_text("raise RuntimeError('hidden')\n")
    (tmp_path / "torch.py").write_text("import os; os._exit(9)\n")
    actrix = Path(sys.executable).parent / "actrix"
    both = [["train", "q-learning", env, "--steps", "500", "--quiet", "--out", out]
            for env, out in (("FrozenLake-v1", "other"), ("only_here:make", "run"))]  # fmt: skip
    commands = tmp_path / "elsewhere" / "commands.py"  # the installed one twice, in one process
    commands.parent.mkdir()
    commands.write_text(BOTH.format(actrix=str(actrix), commands=both))
    done = subprocess.run(
        [sys.executable, str(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert main(["eval", str(tmp_path / "run"), "--episodes", "1"]) == 2
    assert "give --env only_here:make yourself" in capsys.readouterr().err
    path = [*sys.path]
    try:
        with contextlib.chdir(tmp_path):
            assert main(["eval", "run", "--episodes", "1", "--env", "only_here:make"]) == 0
    finally:
        sys.path[:] = path
    assert "over 1 episode " in capsys.readouterr().out


@pytest.mark.parametrize("command", [["--settings", "{}"], ["--out", "{}/file/run"]])
def test_a_path_of_the_wrong_kind_is_named_without_a_number(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["train", "ppo", "CartPole-v1", *(word.format(tmp_path) for word in command)]) in (1, 2)
    told = capsys.readouterr().err
    assert str(tmp_path) in told
    assert "irectory." in told
    assert "Errno" not in told
