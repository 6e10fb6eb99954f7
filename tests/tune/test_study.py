"""A study from the command line to its result; what a kill leaves behind; what is refused."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from matplotlib.figure import Figure
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console

import actrix
from actrix.algorithms.settings import SettingError
from actrix.cli import main, parser
from actrix.cli import train as cli_train
from actrix.core.numbers import numbers_of, unpacked
from actrix.loops.evaluate import Policy, evaluate, evaluation_env
from actrix.loops.train import NonFiniteError, SeedRun, train
from actrix.runs.config import RunError, resolve
from actrix.runs.session import make_runner
from actrix.show.stats import iqm, summarize
from actrix.tune import compare, start, trial, work
from actrix.tune.board import Board
from actrix.tune.pictures import _scatter, history
from actrix.tune.plan import Plan, make_plan
from actrix.tune.space import Range
from actrix.tune.study import ask, begin, best, counted, open_study, recover, repair

TUNE = [
    "tune",
    "q-learning",
    "FrozenLake-v1",
    "--seeds",
    "2",
    "--steps",
    "500",
    "--held-out",
    "1",
    "--quiet",
]
TWO = [*TUNE, "--trials", "2"]


def plain(folder):
    """The study as plain Optuna reads it, which knows nothing of actrix."""
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def plan_of(steps=1000, seeds=(0, 1), evaluations=4, settings=None, held_out=5):
    settings = settings or {}
    told = dict(seeds=seeds, steps=steps, settings=settings)
    base, default = (resolve("a2c", "CartPole-v1", tuned=tuned, **told) for tuned in (True, False))
    return make_plan(base, default, settings, None, held_out, evaluations)


@pytest.fixture
def study(tmp_path):
    """A plan, its folder and its study, without a trial."""
    (tmp_path / "workers").mkdir()
    plan = plan_of()
    return plan, tmp_path, open_study(plan, tmp_path, None, 20)


# ---------------------------------------------------------------------------- from the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "lake"
    space = out.parent / "space.yaml"
    space.write_text("gamma: {low: 0.9, high: 0.999}\nexploration_fraction: null\n")
    fixed = ["--space", str(space), "--set", "train_freq=8"]
    assert main([*TWO, *fixed, "--out", str(out)]) == 0
    return out


def test_a_study_is_plain_optunas(folder):
    study = plain(folder)
    assert study.direction.name == "MAXIMIZE"
    assert len(counted(study.trials)) == 2
    first = study.trials[0]
    assert {"1-gamma", "learning_rate"} <= set(first.params)
    assert not {"train_freq", "log2 train_freq", "exploration_fraction"} & set(first.params)
    zoo = resolve("q-learning", "FrozenLake-v1", seeds=[0]).build()
    assert first.params["1-gamma"] == pytest.approx(1 - zoo.gamma)  # the first trial is the zoo's point
    returns = first.user_attrs["returns at 500"]
    assert len(returns) == 2
    assert first.value == pytest.approx(iqm(returns))


def test_best_yaml_trains_what_was_chosen(folder):
    result = json.loads((folder / "result.json").read_text())
    number = int(result["chosen"].removeprefix("trial-"))
    settings = yaml.safe_load((folder / "best.yaml").read_text())
    assert settings["train_freq"] == 8
    again = resolve("q-learning", "FrozenLake-v1", settings=settings, seeds=[0])
    chosen = Plan.load(folder).config(plain(folder).trials[number].params)
    assert (again.settings, again.n_envs, again.n_timesteps) == (chosen.settings, chosen.n_envs, 500)
    head = (folder / "best.yaml").read_text().splitlines()
    assert f"# actrix train q-learning FrozenLake-v1 --settings {folder / 'best.yaml'}" in head


def test_the_rounds_share_no_seed_with_the_search_nor_with_each_other(folder):
    result = json.loads((folder / "result.json").read_text())
    assert (result["tuning_seeds"], result["choice"]["seeds"], result["result"]["seeds"]) == (
        [0, 1],
        [2],
        [3],
    )
    assert {"zoo", "default"} < set(result["result"]["settings"])
    assert set(result["result"]["settings"]) == {result["chosen"], "zoo", "default"}
    config = json.loads((folder / "result" / result["chosen"] / "config.json").read_text())
    assert config["seeds"] == [3]
    for name in ("history.png", "slices.png", "result.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_and_trains_nothing_twice(folder, capsys):
    space = ["--space", str(folder.parent / "space.yaml"), "--set", "train_freq=8", "--out", str(folder)]
    before = {p: p.stat().st_mtime_ns for p in (folder / "choice").rglob("evaluation.json")}
    assert main([*TWO, *space]) == 0
    assert {p: p.stat().st_mtime_ns for p in (folder / "choice").rglob("evaluation.json")} == before
    assert len(plain(folder).trials) == 2
    assert main([*TWO, *space, "--seeds", "3"]) == 2
    error = capsys.readouterr().err
    assert "holds a study with other options (base.seeds is [0, 1, 2], the study has [0, 1]" in error
    assert main([*TWO, *space, "--storage", f"sqlite:///{folder}/x.db"]) == 2  # its trials are in the journal
    assert '(storage is "sqlite:///' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["sarsa", "FrozenLake-v1"],
            "holds a study of q-learning on FrozenLake-v1, not of sarsa on FrozenLake-v1",
        ),
        (["q-learning", "CliffWalking-v1"], "not of q-learning on CliffWalking-v1: choose another --out"),
        (["q-learning", "FrozenLake-v1", "--trials", "0"], "trials=0 must be at least 1"),
        (["q-learning", "FrozenLake-v1", "--jobs", "0"], "jobs=0 must be at least 1"),
        (["q-learning", "FrozenLake-v1", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["q-learning", "FrozenLake-v1", "--held-out", "0"], "held_out=0 must be at least 1"),
        (["q-learning", "FrozenLake-v1", "--evaluations", "0"], "evaluations=0 must be at least 1"),
        (
            ["q-learning", "FrozenLake-v1", "--address", "head:1", "--storage", "sqlite:///a.db"],
            "nodes of a cluster cannot share SQLite: leave --storage out, or name a database server",
        ),
        *(
            (
                ["q-learning", "FrozenLake-v1", "--storage", url],
                f"--storage {url} lies in memory, which no other",
            )
            for url in (
                "sqlite://",
                "sqlite:///:memory:",
                "sqlite+pysqlite://",
                "sqlite:///file:a?mode=memory&uri=true",
            )
        ),
        (["q-learning"], "the form is: actrix tune ALGORITHM ENV"),
        (
            ["td", "FrozenLake-v1", "--set", "gamma=0.9", "lam=0", "learning_rate=0.1"],
            "no setting to search by itself",
        ),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(folder, capsys, words, said):
    common = ["--steps", "500", "--held-out", "1", "--quiet", "--out", str(folder)]
    assert main(["tune", *words[:1], *words[1:2], *common, *words[2:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("actrix: ")
    assert said in error
    assert error.count("\n") == 1


def test_without_optuna_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "ppo", "CartPole-v1"]) == 2
    assert capsys.readouterr().err == "actrix: tuning needs Optuna: pip install 'actrix[tune]'\n"


def test_a_folder_of_something_else_or_an_unknown_storage_is_refused(tmp_path, capsys):
    assert main([*TWO, "--out", str(tmp_path / "new"), "--storage", "nosql://me:secret@host"]) == 2
    error = capsys.readouterr().err
    assert "--storage nosql:… cannot be opened" in error
    assert "secret" not in error
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").write_text("")
    assert main([*TWO, "--out", str(tmp_path)]) == 2
    assert "exists and holds no study: choose another --out" in capsys.readouterr().err
    assert main([*TWO, "--out", str(tmp_path / "thesis.tex")]) == 2
    assert "thesis.tex exists and holds no study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (None, "the folder's"),
        ("sqlite:////tmp/all.db", "sqlite:////tmp/all.db"),
        ("sqlite:////tmp/a@b/all.db", "sqlite:////tmp/a%40b/all.db"),
        ("postgresql://h/db?password=s3/x@y", "postgresql://h/db"),
        ("postgresql://me:secret@host:5432/all", "postgresql://host:5432/all"),
        ("postgresql://me:se/cr?et@host/all?password=secret", "postgresql://host/all"),
        ("mysql://host/all?user=me&password=secret", "mysql://host/all"),
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
    ],
)
def test_a_study_notes_its_storage_without_passwords(url, place):
    assert start._place(url) == place


def test_a_database_is_told_by_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start._place("sqlite:///all.db") == start._place(f"sqlite:///{tmp_path}/all.db")


@pytest.mark.parametrize(("direction", "trials"), [("minimize", 3), ("maximize", 3), ("minimize", 0)])
def test_a_study_of_somebody_elses_is_left_alone(tmp_path, capsys, direction, trials):
    url = f"sqlite:///{tmp_path}/all.db"
    theirs = optuna.create_study(study_name="mine", storage=url, direction=direction)
    theirs.optimize(lambda t: t.suggest_float("x", 0, 1), trials)
    assert main([*TWO, "--out", str(tmp_path / "mine"), "--storage", url]) == 2
    said = f"the storage has a study named 'mine' that actrix did not begin ({trials} trials): choose another --out"
    assert said in capsys.readouterr().err
    after = optuna.load_study(study_name="mine", storage=url)
    assert (len(after.trials), after.user_attrs) == (trials, {})
    assert [p.name for p in tmp_path.iterdir()] == ["all.db"]


def test_a_budget_without_room_for_the_smallest_chunk_is_refused_before_the_search(tmp_path, capsys):
    """Its fifty refused trials built environments for a minute."""
    out = ["--quiet", "--out", str(tmp_path / "new")]
    assert main(["tune", "a2c", "CartPole-v1", "--steps", "10", *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "actrix: no trial fits into 10 steps: the smallest chunk that is searched has 8, and two "
    )
    assert "give --steps 80 or more, or fewer --evaluations" in error
    assert not list(tmp_path.iterdir())
    trial.check_smallest(plan_of(80, evaluations=5))  # a2c: one row of eight environments
    with pytest.raises(SettingError, match="--steps 80 or more"):
        trial.check_smallest(plan_of(79, evaluations=5))
    trial.check_smallest(plan_of(79, evaluations=1))


def again(folder, to):
    """The command that made `folder`, of a copy of it."""
    shutil.copytree(folder, to / folder.name)
    space = ["--space", str(folder.parent / "space.yaml"), "--set", "train_freq=8"]
    return to / folder.name, [*TWO, *space, "--out", str(to / folder.name)]


def test_rounds_of_trials_that_the_storage_has_not_are_refused(folder, tmp_path, capsys):
    """Their returns would stand for other settings of the same number."""
    copy, command = again(folder, tmp_path)
    (copy / "journal.log").unlink()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert (
        f"{copy}/choice/trial-0 is of another study than the storage's (the storage has no finished trial-0)"
        in error
    )
    assert not plain(copy).trials  # refused before the search


def test_a_round_of_other_settings_is_refused(folder, tmp_path, capsys):
    copy, command = again(folder, tmp_path)
    held = json.loads((path := copy / "result" / "zoo" / "config.json").read_text())
    path.write_text(json.dumps(held | {"settings": held["settings"] | {"gamma": 0.5}}))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{copy}/result/zoo is of another study than the storage's (settings.gamma is " in error
    assert ", there it is 0.5): move " in error


def test_what_no_trial_could_train_is_refused_before_the_search(tmp_path, capsys):
    """Not by fifty refused trials, nor when the standards are trained after it."""
    command = ["tune", "dqn", "Pendulum-v1", "--steps", "2000", "--quiet", "--out", str(tmp_path / "new")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("actrix: Q-learning needs a Discrete action space")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_show_space_prints_a_file_and_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["tune", "--critic", "gae:0.9", "--actor", "ppo-clip:0.3", "CartPole-v1", "--show-space"]) == 0
    )
    space = yaml.safe_load(capsys.readouterr().out)
    assert space["clip_range"] == {"low": 0.075, "high": 1.2, "scale": "log"}
    assert not list(tmp_path.iterdir())


LIKE_TRAIN = {
    "critic": ["--critic", "td", "CartPole-v1"],
    "actor": ["--critic", "gae:0.9", "--actor", "ppo-clip:0.3", "--data", "on-policy", "CartPole-v1"],
    "data": ["--critic", "v-trace", "--actor", "ppo-clip", "--data", "trajectories:4", "CartPole-v1"],
    "double": ["dqn", "CartPole-v1", "--double"],
    "dueling": ["rainbow", "CartPole-v1", "--no-dueling"],
    "per": ["dqn", "CartPole-v1", "--per"],
    "noisy": ["dqn", "CartPole-v1", "--noisy"],
    "n_step": ["dqn", "CartPole-v1", "--double", "--n-step", "3", "--distributional", "qr"],
    "distributional": ["c51", "CartPole-v1", "--distributional", "none"],
    "policy": ["ppo", "CartPole-v1", "--policy", "MlpLstmPolicy"],
    "init": ["ppo", "Acrobot-v1", "--init", "MODEL"],
    "dataset": ["bc", "CartPole-v1", "--dataset", "DATA"],
    "steps": ["ppo", "CartPole-v1", "--steps", "5e5"],
    "envs": ["ppo", "CartPole-v1", "--envs", "3"],
    "backend": ["ppo", "CartPole-v1", "--backend", "gymnasium"],
    "workers": ["ppo", "CartPole-v1", "--workers"],
    "step_timeout": ["ppo", "CartPole-v1", "--workers", "2", "--step-timeout", "7.5"],
    "max_restarts": ["ppo", "CartPole-v1", "--workers", "2", "--max-restarts", "1"],
    "zoo": ["ppo", "CartPole-v1", "--zoo", "2"],
    "set": ["ppo", "Acrobot-v1", "--set", "policy_kwargs={'activation_fn': 'relu'}", "n_envs=4"],
    "env_kwargs": ["q-learning", "FrozenLake-v1", "--env-kwargs", "map_name=8x8", "is_slippery=False"],
}
"""Each option that is of `train` and `tune` → a study with it."""
OF_THE_STUDY = {"names", "help", "debug", "seed", "seeds", "out", "quiet"}
"""Those of both that say nothing of what one seed of a trial trains."""
OTHERS = [
    ["ppo", "CartPole-v1", "--set", "actor=ppo-kl"],  # the zoo's clip_range goes with the actor
    ["ppo", "CartPole-v1", "--set", "critic=td", "normalize_obs=true"],
    ["ppo", "MountainCar-v0", "--set", "normalize_obs=false"],  # half of the zoo's normalize
    ["sac", "Pendulum-v1", "--set", "data=replay:per"],
    ["ppo", "CartPole-v1", "--set", "policy=MlpLstmPolicy"],
    ["dqn", "ALE/Pong-v5", "--policy", "MlpPolicy"],  # the zoo's is another
]


def options(command):
    """dest → option, of a command."""
    (commands,) = (a for a in parser()._actions if isinstance(a.choices, dict))
    return {a.dest: a for a in commands.choices[command]._actions}


def test_no_option_of_both_commands_is_left_out():
    train_, tune_ = options("train"), options("tune")
    assert {*train_} & {*tune_} == {*LIKE_TRAIN} | OF_THE_STUDY
    assert all({*tune_[name].option_strings} & {*words} for name, words in LIKE_TRAIN.items())


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A model to begin with, and a data set."""
    folder = tmp_path_factory.mktemp("begun")
    small = {"policy_kwargs": {"net_arch": [4], "activation_fn": "relu"}}
    model = actrix.PPO("MlpPolicy", "Acrobot-v1", seed=0, **small)
    cart = actrix.PPO("MlpPolicy", "CartPole-v1", seed=0, **small)
    cart.save(folder / "cart.safetensors")
    assert (
        main(["record", str(folder / "cart.safetensors"), "--to", str(folder / "cart-v0"), "--steps", "60"])
        == 0
    )
    return {"MODEL": str(model.save(folder / "model.safetensors")), "DATA": str(folder / "cart-v0")}


def test_the_network_to_begin_with_is_not_searched(begun, tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("policy_kwargs.net_arch: [[4], [8]]")
    command = ["tune", "ppo", "Acrobot-v1", "--init", begun["MODEL"], "--space", str(tmp_path / "space.yaml")]
    assert main([*command, "--out", str(tmp_path / "new")]) == 2
    said = "policy_kwargs.net_arch: every trial has the network of --init; leave out one of the two."
    assert capsys.readouterr().err == f"actrix: {said}\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [*LIKE_TRAIN.values(), *OTHERS], ids=" ".join)
@pytest.mark.parametrize("network", [True, False])
def test_the_command_in_best_yaml_trains_the_trial(tmp_path, begun, words, network):
    """Whatever was composed, switched or fixed: the printed words and the file resolve to the trial's run."""
    space = tmp_path / "space.yaml"
    network &= not {"q-learning", "--init"} & {*words}  # a table has none, and one to begin with is kept
    space.write_text("policy_kwargs.net_arch: [[8], [16, 16]]\n" if network else "{}")
    words = ["tune", *(begun.get(word, word) for word in words), "--space", str(space)]
    args = parser().parse_args(words)
    base, default = (cli_train.config_of(args, tuned=tuned) for tuned in (True, False))
    plan = make_plan(base, default, cli_train.settings_of(args), space, 5, 5)
    sampler = optuna.samplers.RandomSampler(seed=0)
    params = optuna.create_study(sampler=sampler).ask({x.param: x.distribution() for x in plan.space}).params
    config = plan.config(params)
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(plan.written(params)))
    line = [
        "train",
        *plan.train_words(config.n_envs),
        "--settings",
        str(tmp_path / "best.yaml"),
        "--seed",
        "0",
    ]
    trained = cli_train.config_of(parser().parse_args(line))
    assert trained == dataclasses.replace(config, seeds=(0,))
    assert (trained.settings["policy_kwargs"] != base.settings["policy_kwargs"]) == network


def test_train_takes_a_file_of_settings(tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text("n_timesteps: 64\nn_envs: 2\nlearning_rate: 1e-3\nn_steps: 8\n")
    train_ = ["train", "a2c", "CartPole-v1", "--settings", str(path), "--seed", "0", "--quiet"]
    assert main([*train_, "--set", "n_steps=16", "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["n_timesteps"], config["n_envs"]) == (64, 2)
    assert config["settings"]["learning_rate"] == 1e-3
    assert "n_steps=16" in config["settings"]["data"]
    for text, said in [
        ("gama: 0.9", "did you mean gamma"),
        ("- a", "must map settings"),
        ("a: [", "is no YAML"),
        ("gamma: 0.9\ngamma: 0.8", "own.yaml: gamma is given twice."),
    ]:
        path.write_text(text)
        assert main([*train_, "--out", str(tmp_path / "other")]) == 2
        assert said in capsys.readouterr().err


# ---------------------------------------------------------------------------- trials


def test_seeds_train_together_as_each_would_alone_also_in_another_trials_program():
    """The second trial runs the program that the first one compiled, with its own numbers: bit for bit."""
    env = evaluation_env("CartPole-v1", 5)
    for rate, gamma in ((1e-3, 0.9), (3e-3, 0.99)):
        plan = plan_of(settings={"learning_rate": rate, "gamma": gamma}, seeds=(3, 4))
        one = trial.Trial(plan.base, 4)
        assert len(one.groups) == 1  # one program
        one.advance(500)
        runner = one.groups[0][0]
        learned = numbers_of(unpacked(runner.algorithm, runner.learners[0].training.numbers.tolist()))
        assert learned["gamma"] == pytest.approx(gamma)
    assert one.groups[0][0].algorithm.gamma == 0.9  # the first trial's program
    one.advance(1000)
    for seed, mean in zip((3, 4), one.returns(env, 5), strict=True):
        runner = make_runner(plan.base, plan.base.build(), [seed])
        train(runner, [SeedRun(seed)], 1000)
        alone = evaluate(Policy(runner.algorithm, runner.actings[0]), env, 5, seed=seed + 10**6)[0]
        assert mean == np.mean(alone)
    env.close()


def test_chunks_that_are_long_for_the_budget_are_refused():
    with pytest.raises(ValueError, match="a chunk of 512 steps is more than half of the 250"):
        trial.Trial(plan_of(settings={"n_steps": 64}).base, 4)


class Scripted:
    """A trial whose seeds return what the script says, at each of four checkpoints."""

    def __init__(self, script):
        self.script = script

    def __call__(self, config, evaluations):
        self.rows = self.script.pop(0)
        if isinstance(self.rows, ValueError):
            raise self.rows
        return self

    def run(self, report):
        if isinstance(self.rows, BaseException):
            raise self.rows
        for k, row in enumerate(self.rows[:-1], 1):
            if not report(250 * k, row):
                return None
        return self.rows[-1]

    def close(self):
        pass


def scripted(monkeypatch, study, script, trials):
    plan, folder, held = study
    monkeypatch.setattr(work, "Trial", Scripted(script))
    work.work(held, plan, folder, trials)
    return held.trials


def test_trials_are_pruned_by_the_median_of_iqms(monkeypatch, study):
    """A seed that fails costs little, one that is lucky helps little: five trials of 100, then ones around them."""
    plain_ = [[100.0] * 5] * 4
    one_dead = [[100.0, 101.0, 0.0, 101.0, 100.0]] * 4  # IQM 100.3: the mean of the middle three
    one_lucky = [[90.0, 500.0, 90.0, 90.0, 90.0]] * 4  # IQM 90, although its mean is 172
    trials = scripted(monkeypatch, study, [*[plain_] * 5, one_dead, one_lucky], 7)
    assert [t.state.name for t in trials] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert trials[5].value == pytest.approx(301 / 3)
    # A third of the budget goes unpruned: the first checkpoint at which it may be is the second, at step 500.
    assert list(trials[6].intermediate_values) == [250, 500]
    assert trials[6].user_attrs["returns at 500"] == one_lucky[0]
    finished, pruned, leading = history(study[0], trials).axes[0].lines
    assert list(finished.get_ydata()) == [100.0] * 5 + [pytest.approx(301 / 3)]
    assert (list(pruned.get_xdata()), list(pruned.get_ydata())) == ([6], [90.0])
    assert max(leading.get_ydata()) == pytest.approx(301 / 3)


@pytest.mark.parametrize("exponents", [[6], [6, 6], [5, 6], [3, 10]])
def test_ticks_are_values_that_there_may_be(exponents):
    ax = Figure().add_subplot()
    _scatter(
        ax, Range("batch_size", 8, 1024, "power", whole=True), exponents, [1.0] * len(exponents), exponents
    )
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    ticks = {t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high}
    assert {str(2**k) for k in exponents} & ticks
    assert ticks <= {str(2**k) for k in range(2, 12)}


def test_one_trial_of_one_seed_has_a_history(monkeypatch, study):
    plan = plan_of(seeds=(0,))
    (ax,) = history(plan, scripted(monkeypatch, study, [[[1.0]] * 4], 1)).axes
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    assert [t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high] == ["0"]
    assert ax.get_ylabel() == "IQM of 1 seed"
    text = io.StringIO()
    Console(file=text, width=150).print(Board(plan, study[2], 1, enabled=False).table())
    assert text.getvalue().splitlines()[0].rstrip().endswith("1 seed a trial")


def test_diverged_trials_count_and_refused_ones_do_not(monkeypatch, study):
    good = [[1.0, 2.0]] * 4
    script = [
        NonFiniteError("the update became non-finite"),
        ValueError("batch_size=64 does not divide 40"),
        good,
        good,
    ]
    trials = scripted(monkeypatch, study, script, 3)
    assert [t.state.name for t in trials] == ["PRUNED", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [t.number for t in counted(trials)] == [0, 2, 3]
    assert trials[1].user_attrs["refused"] == "batch_size=64 does not divide 40"


def test_a_space_of_which_everything_is_refused_ends_with_the_reason(monkeypatch, study):
    with pytest.raises(ValueError, match=r"50 settings in a row were refused \(no\): narrow the space"):
        scripted(monkeypatch, study, [ValueError("no")] * 60, 3)


def test_the_best_are_ranked_by_their_last_returns_and_then_by_the_earlier_ones(monkeypatch, study):
    slow, fast, low = (
        [[0.0], [9.0], [9.0], [500.0]],
        [[0.0], [400.0], [500.0], [500.0]],
        [[600.0]] * 3 + [[10.0]],
    )
    scripted(monkeypatch, study, [slow, low, fast], 3)
    assert [t.number for t in best(study[2], 5)] == [2, 0, 1]


def test_what_breaks_a_trial_off_leaves_no_half_trial(monkeypatch, study):
    held = study[2]
    with pytest.raises(KeyboardInterrupt):
        scripted(monkeypatch, study, [[[1.0]] * 4, KeyboardInterrupt()], 3)
    assert [t.state.name for t in held.trials] == ["COMPLETE", "FAIL", "WAITING"]
    broken = held.trials[1].params
    trials = scripted(monkeypatch, study, [[[2.0]] * 4, [[3.0]] * 4], 3)
    assert trials[2].params == broken  # the same settings, once more
    assert [t.number for t in counted(trials)] == [0, 2, 3]


def test_what_a_kill_left_running_is_failed_and_tried_again(study):
    plan, folder, held = study
    begin(held, plan)
    first = ask(held, plan, folder, 3)
    first.report(1.0, 250)
    assert ask(held, plan, folder, 1) is None  # it counts while it runs
    again = open_study(plan, folder, None, 3)
    assert recover(again, folder, own=True) == 1
    assert [t.state for t in again.trials].count(TrialState.RUNNING) == 0
    queued = [t for t in again.trials if t.user_attrs.get("again") == 0]
    assert queued[0].system_attrs["fixed_params"] == first.params
    assert counted(again.trials) == []


def test_in_a_shared_storage_only_the_folders_own_trials_are_taken_for_dead(study, tmp_path_factory):
    plan, folder, held = study
    ask(held, plan, folder, 3)
    assert recover(held, tmp_path_factory.mktemp("other"), own=False) == 0
    assert recover(held, folder, own=False) == 1


def test_a_line_that_a_crash_tore_is_cut_off(study):
    plan, folder, held = study
    ask(held, plan, folder, 3)
    journal = folder / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    repair(folder)
    assert journal.read_bytes() == whole
    assert len(open_study(plan, folder, None, 3).trials) == 1


def test_a_journal_that_is_none_is_named(study):
    plan, folder, _ = study
    for line in ("garbage", '{"op_code": 4}', "[]"):
        (folder / "journal.log").write_text(f"{line}\n")
        with pytest.raises(RunError, match=r"journal\.log cannot be read \(\w+: .*\): restore it, or choose"):
            open_study(plan, folder, None, 3)


def test_a_study_of_another_plan_in_the_storage_is_refused(study):
    _, folder, _ = study
    with pytest.raises(RuntimeError, match="the storage has another study named"):
        open_study(plan_of(steps=2000), folder, None, 3)


def test_the_table_shows_what_runs_and_the_best_first(monkeypatch, study):
    plan, folder, held = study
    scripted(monkeypatch, study, [[[1.0]] * 4, [[3.0]] * 4, ValueError("too large"), [[2.0]] * 4], 3)
    ask(held, plan, folder, 4).report(7.5, 500)
    board = Board(plan, held, 4, enabled=False)
    text = io.StringIO()
    Console(file=text, width=150).print(board.table())
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert " ".join(lines[1][:6]) == "3 of 4 trials 0 pruned"
    assert [line[:4] for line in lines[3:]] == [
        ["4", "running", "7.5", "50%"],
        *([number, "complete", value, "100%"] for number, value in (("1", "3"), ("3", "2"), ("0", "1"))),
    ]
    assert board.line(held.trials[2]) == "trial 2: refused, too large; best 3 (trial 1); 3 of 4"


def test_better_is_said_only_where_intervals_do_not_overlap():
    good, bad = (summarize({s: [x + s] for s in range(5)}) for x in (100.0, 0.0))
    outcome = compare.Outcome(Path(), compare.Candidate("trial-3", None), {}, {"trial-3": good, "zoo": bad})
    assert compare.verdict(outcome) == ["trial-3 is better than the zoo setting"]
    outcome.result.update({"trial-3": bad, "zoo": good})
    assert compare.verdict(outcome) == ["trial-3 is worse than the zoo setting"]
    outcome.result["zoo"] = summarize({s: [s + 1.0] for s in range(5)})
    assert "is not told from the zoo setting" in compare.verdict(outcome)[0]
    outcome.result["zoo"] = summarize({s: [s + 1.0] for s in range(4)})
    assert "too few held-out seeds" in compare.verdict(outcome)[0]


# ---------------------------------------------------------------------------- processes and kills

OWN = """
import gymnasium as gym
import numpy as np

class Slow(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), float(action), False, self.t == 10, {}
"""
OWN_TUNE = [sys.executable, "-m", "actrix", "tune", "a2c", "slow:Slow", "--seeds", "2", "--envs", "2", "--steps", "600",
            "--held-out", "1", "--evaluations", "3", "--out", "study"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_study_of_an_own_environment_survives_kill_9(tmp_path, jobs):
    """Killed at two random moments, then run to its end: as many trials as wanted, none of them half."""
    (tmp_path / "slow.py").write_text(OWN)
    command, folder = [*OWN_TUNE, "--trials", "4", "--jobs", jobs], tmp_path / "study"
    rng = np.random.default_rng()
    for done in (1, 2):
        child = subprocess.Popen(command, cwd=tmp_path)
        until(
            lambda done=done: (
                (folder / "journal.log").is_file() and len(counted(plain(folder).trials)) >= done
            )
        )
        time.sleep(rng.uniform(0, 2))
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command, cwd=tmp_path, check=True, timeout=400)
    trials = plain(folder).trials
    whole = counted(trials)
    assert len(whole) == 4
    assert not any(t.state is TrialState.RUNNING for t in trials)
    for t in whole:
        if t.state is TrialState.COMPLETE:
            assert {"returns at 200", "returns at 400", "returns at 600"} <= set(t.user_attrs)
    assert (folder / "best.yaml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_two_processes_share_a_study(tmp_path, storage):
    (tmp_path / "slow.py").write_text(OWN)
    url = [] if storage is None else ["--storage", f"sqlite:///{tmp_path}/all.db"]
    command = [*OWN_TUNE, "--trials", "4", "--jobs", "2", *url]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=230)
    folder = tmp_path / "study"
    study = plain(folder) if storage is None else optuna.load_study(study_name="study", storage=url[1])
    assert len(counted(study.trials)) == 4
    assert (folder / "best.yaml").is_file()
    assert not any(os.stat(log).st_size for log in (folder / "workers").glob("*.log"))


def until(condition, seconds=120):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
