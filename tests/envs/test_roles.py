"""One policy per role: what a role's rows are, and runs that train by turns."""

import json
import shlex
import shutil
import signal

import numpy as np
import pytest
from games import Meeting, Nim, Relay

from actrix import PPO, AgentEnvs, Model, RoleGame, train_roles
from actrix.cli import main, parser
from actrix.cli.train import config_of
from actrix.core.types import Spec
from actrix.envs.agents.roles import members
from actrix.envs.guard import EnvError
from actrix.envs.make import make_vec_env
from actrix.runs import session
from actrix.runs.folder import checkpointed_steps, load_config
from actrix.runs.report import repeat
from actrix.runs.roles import load_plan, plan_of

RELAY, TINY = "games:Relay", ["n_steps=4", "batch_size=8", "n_epochs=1", 'policy_kwargs={"net_arch": [4]}']
BOTH = {"sender": ["sender_0"], "receiver": ["receiver_0", "receiver_1"]}


class Scripted:
    """Acts by a function of (observations, masks, which rows begin) and keeps what it was asked."""

    def __init__(self, envs, act):
        self.spec, self.act, self.asked = envs.spec, act, []

    @property
    def policy(self):
        return self

    def evaluated(self, seed):
        return self

    def initial_memory(self, n):
        return np.zeros(n)

    def __call__(self, obs, memory, first, mask, deterministic):
        self.asked.append((np.array(obs), np.array(first)))
        return self.act(obs, mask), memory


def test_a_roles_words_are_agents_or_what_stands_before_their_number():
    agents = ["knight_0", "archer_0", "knight_1", "archer_1"]
    knights = {"knight": ["knight_0", "knight_1"], "archer": ["archer_0", "archer_1"]}
    assert members(agents, ["knight", "archer"]) == knights
    assert members(agents, {"a": ["archer"], "b": "knight_0", "c": ["knight_1"]})["a"] == knights["archer"]
    for roles, sentence in {
        ("knight", "mage"): "role 'mage' has no agent: the agents are knight_0",
        ("knight",): "agent 'archer_0' is in no role: each agent has one of knight",
        ("kni", "archer"): "role 'kni' has no agent",
        (): "no role is named",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            members(agents, roles)
    with pytest.raises(ValueError, match="agent 'knight_1' is in two roles, x and y"):
        members(agents, {"x": ["knight", "archer"], "y": ["knight_1"]})
    with pytest.raises(ValueError, match="'mage' of role 'x' has no agent"):
        members(agents, {"x": ["knight", "mage"], "y": ["archer"]})
    with pytest.raises(ValueError, match="role 'y' has no agent"):
        members(agents, {"x": agents, "y": []})


def test_rows_are_the_roles_agents_in_the_game_that_the_others_play_on():
    """Receivers beside a sender that says what it sees, against a loop over the game itself."""
    alone = AgentEnvs([RoleGame(Relay(), "sender", BOTH)])
    sender = Scripted(alone, lambda obs, mask: obs)
    envs = AgentEnvs([RoleGame(Relay(), "receiver", BOTH, {"sender": sender})])
    obs, _ = envs.reset([5, 0])
    sender.asked.clear()
    actions, game = np.random.default_rng(1).uniform(-1, 1, (16, 2, 1)).astype(np.float32), Relay()
    right, _ = game.reset(seed=5)
    for t, action in enumerate(actions):
        there = [agent in game.agents for agent in BOTH["receiver"]]
        assert all((obs[i] == right[a]).all() for i, a in enumerate(BOTH["receiver"]) if there[i])
        move = {a: action[i] for i, a in enumerate(BOTH["receiver"]) if there[i]}
        move |= {"sender_0": right["sender_0"]} if "sender_0" in game.agents else {}
        right, earned, gone, _, _ = game.step(move)
        step = envs.step(action)
        assert step.valid.tolist() == there
        assert step.terminated.tolist() == [gone.get(agent, False) for agent in BOTH["receiver"]]
        np.testing.assert_allclose(step.reward, [earned.get(a, 0.0) for a in BOTH["receiver"]], rtol=1e-6)
        if not game.agents:
            assert t in (7, 15)
            right, _ = game.reset()
        obs = step.obs
    begins = [bool(first[0]) for _, first in sender.asked]
    assert begins == [True, *[False] * 5] * 2  # it is asked only while it is there


def test_a_game_of_which_a_role_has_left_is_played_to_its_end():
    """The sender is gone after 6 of 8 steps: the receivers' last two are no step of its run."""
    receiver = AgentEnvs([RoleGame(Relay(), "receiver", BOTH)])
    still = Scripted(receiver, lambda obs, mask: np.zeros((2, 1), np.float32))
    game = Relay()
    envs = AgentEnvs([RoleGame(game, "sender", BOTH, {"receiver": still})])
    obs, _ = envs.reset([3])
    still.asked.clear()
    for t in range(12):
        step = envs.step(obs)  # which is right
        assert step.valid.all()
        assert step.reward[0] == 1
        assert bool(step.terminated[0]) == (t % 6 == 5)
        obs = step.obs
    assert [len(played.returns) for played in envs.games] == [1, 1]
    assert envs.games[0].team == 6
    assert len(still.asked) == 16
    begins = np.array([first for _, first in still.asked[:8]])
    assert begins[:, 0].tolist() == [True] + 7 * [False]
    assert begins[4, 1]  # the second is back
    assert not begins[5:, 1].any()


def test_turns_of_the_others_are_taken_by_their_policy():
    """Nim with 5 sticks: who leaves a multiple of 3 wins. The first player can, and then wins 1 less 0.1 a turn."""
    both = {"one": ["first"], "two": ["second"]}
    best = lambda obs, mask: np.where((obs[:, 0].astype(int) % 3 == 2) & mask[:, 1], 1, 0)
    two = AgentEnvs([RoleGame(Nim(), "two", both)])
    envs = AgentEnvs([RoleGame(Nim(), "one", both, {"two": Scripted(two, best)})])
    obs, mask = envs.reset([0])
    while not envs.games:
        step = envs.step(best(obs, mask))
        obs, mask = step.obs, step.mask
    assert envs.games[0].returns == pytest.approx({"first": 0.9 - 0.1})
    envs = AgentEnvs([RoleGame(Nim(), "two", both, {"one": Scripted(envs, best)})])
    obs, mask = envs.reset([0])
    while len(envs.games) < 2:
        step = envs.step(np.zeros(1, int))
    assert [played.team for played in envs.games] == pytest.approx([-1.1, -1.1])


def test_others_without_a_policy_act_at_random_by_the_seed():
    def rewards(seed):
        envs = AgentEnvs([RoleGame(Relay(), "receiver", BOTH)])
        envs.reset([seed, 0])
        return [envs.step(np.zeros((2, 1), np.float32)).reward.tolist() for _ in range(24)]

    assert rewards(1) == rewards(1) != rewards(2)


def test_what_is_wrong_with_roles_is_said_in_a_sentence():
    with pytest.raises(EnvError, match=r"observation_space of 'receiver_0' is Box.* 'sender_0' Discrete"):
        AgentEnvs([RoleGame(Relay(), "x", {"x": ["sender_0", "receiver_0"], "y": ["receiver_1"]})])
    with pytest.raises(EnvError, match="agents share one policy, but the observation_space"):
        RoleGame(Relay(), "y", {"x": ["sender_0", "receiver_0"], "y": ["receiver_1"]})
    with pytest.raises(ValueError, match="role 'judge' is none of sender, receiver"):
        RoleGame(Relay(), "judge", BOTH)
    with pytest.raises(ValueError, match="role 'sender' learns here"):
        RoleGame(Relay(), "sender", BOTH, {"sender": None})
    wrong = Scripted(AgentEnvs([Meeting()]), None)
    assert isinstance(wrong.spec, Spec)
    with pytest.raises(ValueError, match="the policy of role 'receiver' has the observation_space Box"):
        RoleGame(Relay(), "sender", BOTH, {"receiver": wrong})


@pytest.mark.slow  # `make test` has it with models of files, in the runs below
def test_two_live_models_play_each_other():
    small = dict(n_steps=8, batch_size=8, n_epochs=1, policy_kwargs={"net_arch": [4]}, seed=0)
    receiver = PPO("MlpPolicy", RoleGame(Relay(), "receiver", ["sender", "receiver"]), **small)
    sender = PPO("MlpPolicy", RoleGame(Relay(), "sender", BOTH, {"receiver": receiver}), **small)
    sender.learn(16)
    assert (sender.n_envs, receiver.n_envs) == (1, 2)


# ------------------------------------------------------------------ runs


def train(folder, *more):
    return main(["train", "ppo", RELAY, "--roles", "sender", "receiver", "--steps", "40", "--turn", "16", "--envs", "2",
                 "--seed", "4", "--out", str(folder), "--set", *TINY, "learning_rate=lin_3e-3", *more])  # fmt: skip


def arrays(folder):
    return {role: {name: x.tobytes() for name, x in Model.load(folder / role).get_parameters().items()}
            for role in BOTH}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles") / "run"
    assert train(folder, "--quiet") == 0
    return folder


def test_roles_train_by_turns_and_are_ordinary_runs(run):
    begins = {"sender": [0, 16, 32], "receiver": [0, 28]}  # with 8 steps a chunk; with 12 and, both there, 16
    for role, rows in {"sender": 2, "receiver": 4}.items():
        sessions = json.loads((run / role / "manifest.json").read_text())["sessions"]
        assert [s["step"] for s in sessions] == begins[role]
        assert Model.load(run / role).n_envs == 2
        assert make_vec_env(RELAY, 2, env_kwargs={"role": role, "roles": BOTH}).num_envs == rows
        assert (run / role / "curve.png").exists()
    model = Model.load(run / "sender")
    assert model.env_kwargs == {"role": "sender", "roles": BOTH}  # no path of this machine
    rates = np.genfromtxt(run / "sender" / "metrics.csv", delimiter=",", names=True)["trainlearning_rate"]
    rates = rates[~np.isnan(rates)]
    assert (np.diff(rates) < 0).all()  # one schedule over the whole budget, which no turn begins anew


@pytest.mark.slow
def test_both_roles_learn_what_is_right(tmp_path):
    """The sender says what it sees, which it can alone; the receivers then do what was said. Without looking they would
    pay 2/3 a step, 5.3 an episode of 8."""
    results = train_roles(
        "ppo", RELAY, ["sender", "receiver"], 8000, tmp_path / "run", turn=1000, n_envs=8, seeds=[0],
        settings={"n_steps": 16, "batch_size": 64, "learning_rate": 3e-3, "policy_kwargs": {"net_arch": [16]}},
    )  # fmt: skip
    assert results["sender"].summary.mean == 6
    assert results["receiver"].summary.mean > -1


def test_a_turn_that_was_broken_off_leaves_no_bit_behind(run, tmp_path, monkeypatch, capsys):
    """Stopped within the sender's second turn, and as if killed between a checkpoint and the model beside it."""
    folder, ask = tmp_path / "again", session._Turn.__call__

    def stopped(turn):
        if turn.run.folder.name == "sender" and turn.run.steps == 24:
            turn.stop._handle(signal.SIGTERM, None)
        return ask(turn)

    monkeypatch.setattr(session._Turn, "__call__", stopped)
    assert train(folder, "--quiet") == 130
    assert f"go on with: actrix resume {folder} --env {RELAY}" in capsys.readouterr().err
    monkeypatch.setattr(session._Turn, "__call__", ask)
    assert [checkpointed_steps(folder / role) // 16 for role in BOTH] == [1, 1]
    (folder / "receiver" / "model.safetensors").unlink()
    assert main(["resume", str(folder), "--quiet"]) == 2
    assert f"give --env {RELAY} yourself" in capsys.readouterr().err
    assert main(["resume", str(folder / "sender"), "--env", RELAY]) == 2
    assert f"is one role of {folder}: go on with all of them" in capsys.readouterr().err
    assert main(["resume", str(folder), "--quiet", "--env", RELAY]) == 0
    assert arrays(folder) == arrays(run)
    assert main(["resume", str(folder), "--env", RELAY]) == 2
    assert "has already finished its 40 steps for each role" in capsys.readouterr().err


def test_roles_are_evaluated_shown_and_plotted_together(run, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    assert main(["eval", str(run), "--episodes", "4", "--env", RELAY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(run / role) for role in BOTH]
    assert "(mean length 6.0" in lines[0]
    assert main(["video", str(run), "--env", RELAY, "--out", str(tmp_path / "v.mp4")]) == 0
    assert (tmp_path / "v.mp4").stat().st_size > 500
    assert main(["plot", str(run), "--out", str(tmp_path / "c.png")]) == 0
    assert main(["report", str(run), "-o", str(tmp_path / "r")]) == 2
    assert main(["export", str(run), "--to", "onnx"]) == 2
    assert capsys.readouterr().err.count("is a folder of roles") == 2
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(moved / "receiver")
    assert main(["eval", str(moved / "sender"), "--env", RELAY]) == 2
    assert "role sender plays with receiver, whose model is not beside it" in capsys.readouterr().err
    assert (
        main(
            [
                "eval",
                str(moved / "sender"),
                "--env",
                RELAY,
                "--episodes",
                "1",
                "--env-kwargs",
                f"models={run}",
            ]
        )
        == 0
    )


def test_the_command_of_a_role_trains_all_again(run):
    line = repeat(load_config(run / "receiver"), run / "receiver")
    args = parser().parse_args(shlex.split(line)[1:])
    roles = {name: agents.split(",") for name, _, agents in (word.partition("=") for word in args.roles)}
    assert plan_of(config_of(args), roles, args.turn) == load_plan(run)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--roles", "sender", "judge"], "role 'judge' has no agent"),
        (["--roles", "sender"], "agent 'receiver_0' is in no role"),
        (["--roles", "a=sender", "b=sender,receiver"], "agent 'sender_0' is in two roles, a and b"),
        (["--roles", "a=sender", "a=receiver"], "name each role once"),
        (["--roles", "../a=sender", "b=receiver"], "'../a' cannot name a folder"),
        (["--roles", "sender", "receiver", "--seeds", "2"], "leave several seeds out"),
        (["--roles", "sender", "receiver", "--track", "wandb"], "leave --track out"),
        (["--roles", "sender", "receiver", "--behind", "1"], "leave groups, actors, behind or learners out"),
        (
            ["--roles", "sender", "receiver", "--learners", "2", "--learner-processes", "2"],
            "behind or learners out",
        ),
        (["--turn", "5"], "give --roles"),
    ],
)
def test_what_is_typed_wrongly_ends_in_a_sentence(words, sentence, tmp_path, capsys):
    assert main(["train", "ppo", RELAY, "--steps", "48", "--out", str(tmp_path / "x"), *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_roles_are_of_games(tmp_path, capsys):
    assert main(["train", "ppo", "CartPole-v1", "--roles", "a", "--out", str(tmp_path / "x")]) == 2
    assert "roles are of environments of several agents, not of CartPole-v1" in capsys.readouterr().err
