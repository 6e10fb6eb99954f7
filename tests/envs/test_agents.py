"""Environments of several agents: rows are agents, checked against loops over agents written from the API."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from games import Meeting, Nim
from gymnasium import spaces

from actrix import PPO, evaluate_policy
from actrix.cli import main
from actrix.core.rows import backward_sum, rows_of
from actrix.core.types import Chunk
from actrix.doctor.examine import examine
from actrix.envs.agents.envs import AgentEnvs, TeamEnv
from actrix.envs.build import UnknownEnvError
from actrix.envs.guard import EnvError
from actrix.envs.make import as_host_env, choose_backend, make_vec_env

SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [4]})


def episodes_by_hand(seed, actions):
    """[(agent, [(obs, reward, next_obs)], terminated)] of Meeting, agent by agent, for actions [T, 4] (0-based)."""
    env, done, t = Meeting(), [], 0
    obs, _ = env.reset(seed=seed)
    open_ = {agent: [] for agent in env.agents}
    while t < len(actions):
        chosen = {agent: actions[t]["abcd".index(agent)] + 1 for agent in env.agents}
        new, reward, terminated, truncated, _ = env.step(chosen)
        t += 1
        for agent in chosen:
            open_[agent].append((obs[agent], reward[agent], new[agent]))
            if terminated[agent] or truncated[agent]:
                done.append((agent, open_.pop(agent), terminated[agent]))
        if not env.agents:
            new, _ = env.reset()
        for agent in env.agents:
            open_.setdefault(agent, [])
        obs = new
    return done


@pytest.fixture(scope="module")
def played():
    """(seeds, actions [T, 8], observations acted on, steps) of two meetings."""
    envs, rng = AgentEnvs([Meeting(), Meeting()]), np.random.default_rng(3)
    actions, seeds = rng.integers(3, size=(18, 8)), [11, 0, 0, 0, 22, 0, 0, 0]
    obs, mask = envs.reset(seeds)
    assert mask is None
    seen, steps, infos = [], [], []
    for action in actions:
        seen.append(obs)
        steps.append(envs.step(action))
        obs = steps[-1].obs
        infos.append(envs.infos())
    return (11, 22), actions, np.stack(seen), steps, infos, envs


def test_rows_are_agents_and_episodes_those_of_a_loop_over_agents(played):
    seeds, actions, seen, steps, infos, _ = played
    for g, seed in enumerate(seeds):
        wanted = episodes_by_hand(seed, actions[:, 4 * g : 4 * g + 4])
        found, open_ = [], {i: [] for i in range(4)}
        for t, step in enumerate(steps):
            for i in range(4):
                n = 4 * g + i
                if not step.valid[n]:
                    assert not step.terminated[n] | step.truncated[n]
                    continue
                open_[i].append((seen[t, n], step.reward[n], step.next_obs[n]))
                if step.terminated[n] or step.truncated[n]:
                    told = infos[t][n]["episode"]
                    assert told["l"] == len(open_[i])
                    assert 0 < told["t"] < 600
                    assert told["r"] == pytest.approx(sum(r for _, r, _ in open_[i]))
                    found.append(("abcd"[i], open_[i], bool(step.terminated[n])))
                    open_[i] = []
        assert [(a, len(e), d) for a, e, d in found] == [(a, len(e), d) for a, e, d in wanted]
        assert len(found) == 12  # a, twice b, c, in each of three meetings
        for (_, rows, _), (_, right, _) in zip(found, wanted, strict=True):
            for (o, r, n), (o2, r2, n2) in zip(rows, right, strict=True):
                assert (o == o2).all()
                assert r == np.float32(r2)
                assert (n == n2).all()


def test_a_game_tells_what_each_agent_and_the_team_earned(played):
    *_, steps, infos, envs = played
    game = envs.games[0]
    earned = {a: sum(s.reward[i] for s in steps[:6]) for i, a in enumerate("abcd")}
    assert game.returns == pytest.approx(earned)
    assert game.team == pytest.approx(sum(earned.values()))
    assert infos[5][3]["game"] == {"r": game.team, "l": 6, "agents": game.returns}
    assert "game" not in infos[4][0]


def test_truncation_bootstraps_termination_does_not_absence_gives_nothing(played):
    """λ-advantages of the chunk against sums over each agent's episodes, V(s) = the sum of s."""
    seeds, actions, seen, steps, *_ = played
    gamma, lam, value = 0.9, 0.8, lambda obs: float(obs.sum())
    stack = lambda name: jnp.asarray(np.stack([getattr(step, name) for step in steps]))
    chunk = Chunk(
        obs=jnp.asarray(seen), action=jnp.asarray(actions), reward=stack("reward"), next_obs=stack("next_obs"),
        terminated=stack("terminated"), truncated=stack("truncated"), valid=stack("valid"),
    )  # fmt: skip
    rows = rows_of(chunk, gamma)
    delta = rows.reward + rows.discount * rows.next_obs.sum(-1) - rows.obs.sum(-1)
    psi = np.asarray(backward_sum(rows.samples(delta), decay=rows.discount * lam, cut=rows.cut))
    for g, seed in enumerate(seeds):
        at = {agent: iter(np.flatnonzero(chunk.valid[:, 4 * g + i])) for i, agent in enumerate("abcd")}
        for agent, episode, terminated in episodes_by_hand(seed, actions[:, 4 * g : 4 * g + 4]):
            right, following = [], 0.0
            for k, (obs, reward, new) in reversed(list(enumerate(episode))):
                ahead = 0.0 if terminated and k == len(episode) - 1 else gamma * value(new)
                following = reward + ahead - value(obs) + gamma * lam * following
                right.insert(0, following)
            found = [psi[next(at[agent]), 4 * g + "abcd".index(agent)] for _ in episode]
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    assert (psi[~np.asarray(chunk.valid)] == 0).all()


class Filled(AgentEnvs):
    """Puts what no agent has wherever none is: huge observations, NaN rewards."""

    def reset(self, seeds=None):
        obs, mask = super().reset(seeds)
        self.there = np.array([agent in table.game.here for table in self.tables for agent in table.agents])
        return np.where(self.there[:, None], obs, np.float32(1e6)), mask

    def step(self, action):
        step, before = super().step(action), self.there
        self.there = np.array([agent in table.game.here for table in self.tables for agent in table.agents])
        blank = lambda x, there: np.where(there[:, None], x, np.float32(1e6))
        return step._replace(
            obs=blank(step.obs, self.there),
            next_obs=blank(step.next_obs, before),
            reward=np.where(before, step.reward, np.float32("nan")),
        )


def test_rows_of_absent_agents_influence_nothing(monkeypatch):
    monkeypatch.setattr("actrix.loops.collect.check_chunk", lambda *_: None)  # which would refuse the NaN
    learned = []
    for kind in (AgentEnvs, Filled):
        model = PPO("MlpPolicy", kind([Meeting(), Meeting()]), seed=0, normalize_obs=True, **SMALL)
        model.learn(128)
        learned.append(jax.tree.leaves(model.acting))
    for a, b in zip(*map(jax.device_get, learned), strict=True):
        np.testing.assert_array_equal(a, b)


def test_turns_come_to_what_agent_iteration_gives():
    rng, envs = np.random.default_rng(0), AgentEnvs([Nim()])
    _, mask = envs.reset()
    chosen = []
    while len(envs.games) < 5:
        (turn,) = [i for i, m in enumerate(mask) if m[1]] or [None]
        if turn is None:  # one stick is left: the one who may act may take it, as may seem the other
            turn = int(envs.tables[0].game.env.agent_selection == "second")
        action = np.array([0, 0])
        action[turn] = rng.choice(np.flatnonzero(mask[turn]))
        chosen.append(int(action[turn]))
        assert (mask[1 - turn] == [True, False]).all()  # who waits has one legal action
        step = envs.step(action)
        assert step.valid.all()
        assert step.mask.any(axis=1).all()
        mask = step.mask
    env, actions = Nim(), iter(chosen)
    for game in envs.games:
        env.reset()
        earned = dict.fromkeys(env.possible_agents, 0.0)
        while env.agents:
            agent = env.agent_selection
            _, reward, terminated, truncated, _ = env.last()
            earned[agent] += reward
            env.step(None if terminated or truncated else next(actions))
        assert game.returns == pytest.approx(earned)


def test_the_policy_does_not_see_the_mask_and_obeys_it():
    envs = make_vec_env(Nim, 3)
    assert envs.num_envs == 6
    assert envs.spec.observation_space == spaces.Box(0, 5, (2,), np.float32)
    model = PPO("MlpPolicy", envs, seed=0, **SMALL)
    model.learn(200)  # the game asserts that moves are legal
    assert len(envs.games) > 5


def test_an_object_trains_is_evaluated_saved_and_loaded(tmp_path):
    game = Meeting()
    model = PPO("MlpPolicy", game, seed=0, **SMALL).learn(64)
    model.learn(64)
    assert (model.n_envs, model.copies) == (4, 1)
    assert model.trains_on(game)
    returns, lengths = evaluate_policy(model, Meeting(), n_eval_episodes=6, return_episode_rewards=True)
    assert len(returns) <= 6
    assert set(lengths) <= {2, 6}
    model.save(tmp_path / "m")
    again = PPO.load(tmp_path / "m", env=[Meeting][0])
    assert again.n_envs == 4
    obs = np.zeros((4, 3), np.float32)
    assert (again.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    again.learn(32)


def test_a_game_is_played_to_its_last_picture():
    env = TeamEnv(Nim("rgb_array"))
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2, 2)
    total, over = 0.0, False
    while not over:
        _, reward, over, _, infos = env.step(np.array([0, 0]))
        total += reward
    assert set(infos) == {"first", "second"}
    assert total == pytest.approx(-0.5)  # five turns
    assert env.render().max() == 0  # no stick is left: it was not reset


# ------------------------------------------------------------------ by id


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package named pettingzoo with two families, whatever is installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pettingzoo"]:
        monkeypatch.delitem(sys.modules, name)
    root = tmp_path / "site" / "pettingzoo"
    for family, text in {
        "classic": "from games import Nim\nenv = Nim",
        "sisl": "from games import Meeting\nenv = None\nparallel_env = Meeting",
        "atari": "import no_such_emulator",
    }.items():
        (root / family).mkdir(parents=True)
        (root / family / "__init__.py").write_text("")
        (root / family / f"{family}_toy_v1.py").write_text(text)
    (root / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(root.parent))
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "pettingzoo"]:
        sys.modules.pop(name)


@pytest.mark.usefixtures("zoo")
def test_ids_name_the_family_or_not():
    for env_id in (
        "pettingzoo:sisl_toy_v1",
        "pettingzoo:sisl/sisl_toy_v1",
        "pettingzoo:pettingzoo.sisl.sisl_toy_v1",
    ):
        envs = make_vec_env(env_id, 2, seed=5, env_kwargs={"gain": 2.0})
        assert envs.num_envs == 8
        envs.reset()
        assert len({table.game.env.seed for table in envs.tables}) == 2
    assert choose_backend("auto", "pettingzoo:classic_toy_v1") == "pettingzoo"
    with pytest.raises(
        UnknownEnvError, match="no environment named 'sisl_toy_v2'; did you mean pettingzoo:sisl_toy"
    ):
        make_vec_env("pettingzoo:sisl_toy_v2")
    with pytest.raises(UnknownEnvError, match="refuses the env_kwargs"):
        make_vec_env("pettingzoo:sisl_toy_v1", env_kwargs={"size": 3})
    with pytest.raises(ImportError, match=r'pip install "pettingzoo\[atari\]"'):
        make_vec_env("pettingzoo:atari_toy_v1")
    with pytest.raises(ValueError, match="several agents: it takes no workers"):
        make_vec_env("pettingzoo:sisl_toy_v1", 2, workers=True)


def test_without_pettingzoo_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(ImportError, match=r"actrix\[pettingzoo\]"):
        make_vec_env("pettingzoo:pursuit_v5")


@pytest.mark.usefixtures("zoo")
def test_a_run_trains_evaluates_shows_and_asks_before_it_is_resumed(tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    run, name = tmp_path / "run", "pettingzoo:classic_toy_v1"
    settings = ["n_steps=16", "batch_size=32", "n_epochs=1", 'policy_kwargs={"net_arch": [4]}']
    assert main(["train", "ppo", name, "--envs", "2", "--steps", "128", "--seed", "0", "--quiet", "--out", str(run),
                 "--set", *settings]) == 0  # fmt: skip
    assert main(["resume", str(run), "--steps", "192", "--quiet"]) != 0
    assert f"give --env {name} yourself" in capsys.readouterr().err
    assert main(["resume", str(run), "--steps", "192", "--quiet", "--env", name]) == 0
    assert "in new episodes" in capsys.readouterr().err
    assert main(["eval", str(run), "--episodes", "4", "--env", name]) == 0
    assert main(["video", str(run), "--env", name, "--out", str(tmp_path / "v.mp4")]) == 0
    assert (tmp_path / "v.mp4").stat().st_size > 500
    assert main(["record", str(run), "--env", name, "--to", str(tmp_path / "d")]) != 0
    assert "a data set holds the episodes of one" in capsys.readouterr().err


def test_the_doctor_plays_all_agents():
    findings = examine(lambda: AgentEnvs([Meeting()]))
    assert {f.level for f in findings} == {"fine", "note"}
    assert any("never there: ['d']" in f.result for f in findings)
    (wrong,) = [f for f in examine(lambda: AgentEnvs([Wrong("shape")])) if f.level == "fix"]
    assert "agent 'a'" in wrong.result


# ------------------------------------------------------------------ what is wrong is said


class Wrong(Meeting):
    """Meeting with one fault."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        if fault == "no names":
            self.possible_agents = []
        if fault == "turns":
            self.last = lambda: None

    def observation_space(self, agent):
        return (
            spaces.Box(0, 1, (2,))
            if (self.fault, agent) == ("space", "c")
            else super().observation_space(agent)
        )

    def action_space(self, agent):
        return spaces.Box(-1, 1, (1,)) if self.fault == "turns" else super().action_space(agent)

    def step(self, actions):
        obs, reward, terminated, truncated, infos = super().step(actions)
        if self.fault == "raises":
            raise KeyError("goal")
        if self.fault == "shape":
            obs["a"] = np.zeros(7, np.float32)
        if self.fault == "stranger":
            self.agents.append("e")
        if self.fault == "blind":
            del obs["a"]
        if self.fault == "reward":
            reward["b"] = None
        if self.fault == "gone" and self.t == 6:
            del obs["a"]
        if self.fault == "tuple":
            return obs, reward
        return obs, reward, terminated, truncated, infos


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("no names", "it has no possible_agents"),
        ("space", r"agents share one policy, but the observation_space of 'c' is Box\(0.0, 1.0, \(2,\)"),
        ("turns", "agents that take turns need discrete actions"),
        ("raises", "game 0 at step 1: step raised KeyError: 'goal'"),
        (
            "shape",
            r"game 0 at step 1: the observation of agent 'a' .* Expected: \(3,\), actual shape: \(7,\)",
        ),
        ("stranger", "agent 'e' appeared, which possible_agents"),
        ("blind", "agent 'a' is there, but has no observation"),
        ("reward", "the reward of agent 'b' is None"),
        ("gone", "agent 'a' was cut off, but its last observation is not there"),
        ("tuple", "step did not return"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(fault, sentence):
    def play():
        envs = as_host_env(Wrong(fault))
        envs.reset([0] * 4)
        for _ in range(6):
            envs.step(np.zeros(4, int))

    with pytest.raises(EnvError, match=sentence):
        play()


def test_one_object_is_one_game():
    game = Meeting()
    with pytest.raises(ValueError, match="each an object of its own"):
        AgentEnvs([game, game])
    with pytest.raises(ValueError, match="one environment object cannot be 2"):
        as_host_env(game, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["classic/tictactoe_v3", "butterfly/knights_archers_zombies_v11", "classic/rps_v2"]
)
def test_pettingzoos_own_games(name):
    pytest.importorskip("pettingzoo")
    pytest.importorskip("pygame")
    envs = make_vec_env(f"pettingzoo:{name}", 2, seed=0)
    PPO("MlpPolicy", envs, seed=0, **SMALL).learn(32 * envs.num_envs)
