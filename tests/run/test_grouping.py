"""Groups of environments, and the policy before the last update, without Ray."""

import functools
import hashlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from tests.run.test_resume import assert_same, keep_all  # noqa: F401

from actrix import A2C, ACER, DQN, PPO, SAC, SARSA, SFT, VTrace
from actrix import model as model_file
from actrix.algorithms.settings import SettingError
from actrix.cli import main, parser
from actrix.cli.train import config_of
from actrix.crews import backend_for
from actrix.envs.guard import EnvError
from actrix.envs.make import make_vec_env
from actrix.files import checkpoint
from actrix.files.container import ModelFileError
from actrix.loops import groups, host
from actrix.loops.grouping import Grouping, limited
from actrix.loops.groups import GroupRunner
from actrix.loops.learners import Learners
from actrix.loops.runner import iteration_keys, wrapped
from actrix.loops.stepping import host_runner
from actrix.runs import config as config_file
from actrix.runs import start
from actrix.runs.config import resolve
from actrix.runs.folder import config_json, load_config
from actrix.runs.session import identity_of

SMALL = {
    "n_steps": 16, "batch_size": 16, "n_epochs": 2, "normalize": True, "policy_kwargs": {"net_arch": [8]}, "seed": 3,
}  # fmt: skip
STEPS = 16 * 4 * 6
ENVPOOL = importlib.util.find_spec("envpool") is not None


def model(kind=PPO, env="CartPole-v1", n_envs=4, **more):
    return kind("MlpPolicy", env, n_envs=n_envs, backend="gymnasium", **SMALL | more)


def digest(trained):
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(trained.runner.learners[0]):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def by_hand(trained, updates):
    """Chunk k + 1 with the policy before update k, in the plainest order."""
    runner = host_runner(trained.algorithm, make_vec_env("CartPole-v1", 4, backend="gymnasium"), 3)
    runner.set_training(total_steps=STEPS)
    runner.warm()
    older = None
    for k in range(updates):
        now = jax.tree.map(jnp.array, runner.learner.acting)
        key = iteration_keys(runner.iteration_key, wrapped(k))[0]
        chunk, _ = runner.collect(runner.rows, key, now if older is None else older)
        older = now
        runner.learner, _ = runner._learn(runner.learner, chunk, runner.iteration_key, wrapped(k))
    return runner.learner


def test_behind_is_the_policy_before_the_last_update(monkeypatch):
    """By its definition; and it makes no difference whether a thread collects meanwhile."""
    threads, start = [], host._Ahead.__init__
    monkeypatch.setattr(host._Ahead, "__init__", lambda *a: (threads.append(1), start(*a))[1])
    trained = model(behind=1).learn(STEPS)
    updates = trained.run.iterations
    assert len(threads) == updates - 1, "none after the last chunk"
    for a, b in zip(
        jax.tree.leaves(trained.runner.learner), jax.tree.leaves(by_hand(trained, updates)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    seen = []
    watched = model(behind=1).learn(STEPS, callback=lambda locals_, _: seen.append(locals_["dones"]))
    assert len(seen) == 16 * updates, "each step, in this thread"
    assert len(threads) == updates - 1
    assert digest(watched) == digest(trained) != digest(model().learn(STEPS))


def test_one_group_of_all_environments_is_the_ordinary_loop():
    for behind in (0, 1):
        whole = model(behind=behind).learn(STEPS)
        assert digest(model(behind=behind, envs_per_group=4).learn(STEPS)) == digest(whole)
    assert type(model(envs_per_group=4).runner) is GroupRunner
    halves = model(envs_per_group=2).learn(STEPS)
    assert digest(halves) == digest(model(envs_per_group=2).learn(STEPS)) != digest(model().learn(STEPS))
    assert len(halves.run.returns) == halves.num_episodes > 0


@pytest.mark.parametrize("idle", [0.0, 1e9])
def test_groups_that_wait_are_stepped_in_threads_and_come_to_the_same(idle, monkeypatch):
    """Never, and whatever they compute: from the second chunk on."""
    monkeypatch.setattr(groups, "IDLE", idle)
    trained = model(envs_per_group=2).learn(STEPS)
    assert (trained.runner.env._threads is not None) == (idle > 0)
    monkeypatch.undo()
    assert digest(trained) == digest(model(envs_per_group=2).learn(STEPS))


REPLAY = {
    "n_envs": 4, "backend": "gymnasium", "seed": 3, "policy_kwargs": {"net_arch": [8]}, "learning_starts": 40,
    "batch_size": 16, "train_freq": 4, "gradient_steps": 2, "buffer_size": 500,
}  # fmt: skip


def replaying(kind=DQN, env="CartPole-v1", **more):
    return kind("MlpPolicy", env, **REPLAY | more)


@pytest.mark.parametrize(
    ("kind", "env"), [(DQN, "CartPole-v1"), pytest.param(SAC, "Pendulum-v1", marks=pytest.mark.slow)]
)
def test_a_replay_memory_is_fed_by_groups_in_their_order(kind, env, tmp_path):
    """One group of all environments is the ordinary loop; so many updates to so many steps, whoever is behind; resuming
    is exact."""
    for behind in (0, 1):
        one = {"envs_per_group": 4, "behind": behind}
        ordinary, whole = (
            replaying(kind, env, **how).learn(40 + 16 * 8) for how in ({"behind": behind}, one)
        )
        assert digest(ordinary) == digest(whole)
        halves = replaying(kind, env, envs_per_group=2, behind=behind).learn(40 + 16 * 8)
        assert int(halves.runner.learner.training.gradient_steps) == 2 * 8
        assert int(halves.runner.learner.memory.rows.valid.sum()) == 40 + 16 * 8
        assert digest(halves) != digest(whole)
    half = replaying(kind, env, envs_per_group=2, behind=1)
    half.learn(40 + 16 * 4, checkpoint_dir=tmp_path)
    half = replaying(kind, env, envs_per_group=2, behind=1, seed=9)
    half.learn(40 + 16 * 8, resume_from=tmp_path)
    assert half.run.resumes == 0
    same = lambda x: jax.tree.leaves((x.runner.learner.acting, x.runner.learner.memory))
    for a, b in zip(same(half), same(halves), strict=True):
        np.testing.assert_array_equal(a, b)


class Marked(gym.Env):
    """Says in each observation which seed it got; episodes of 3 and of 5 steps by turns."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    mark, number = 0.0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.mark, self.number = float(seed % 1000), 0
        self.number, self.t = self.number + 1, 0
        return np.float32([self.mark, 0]), {}

    def step(self, action):
        self.t += 1
        done = self.t == (3 if self.number % 2 else 5)
        return np.float32([self.mark, self.t]), 1.0, done, False, {}

    def get_state(self):
        return {"mark": self.mark, "number": self.number, "t": self.t}

    def set_state(self, state):
        self.mark, self.number, self.t = state["mark"], state["number"], state["t"]


def test_groups_stand_side_by_side_with_their_own_seeds_and_noise():
    alone, halves = (model(env=Marked, normalize=False, envs_per_group=size) for size in (4, 2))
    chunks = []
    for one in (alone, halves):
        key = jax.random.key(0)
        chunk, (returns, lengths, *_) = one.runner.collect(16, key, one.runner.learner.acting)
        assert sorted(lengths.tolist()) == sorted([3, 5, 3, 5] * 4)
        np.testing.assert_array_equal(returns, lengths)
        chunks.append(chunk)
    np.testing.assert_array_equal(chunks[0].obs, chunks[1].obs)
    np.testing.assert_array_equal(chunks[0].first, chunks[1].first)
    assert len(np.unique(chunks[1].obs[0, :, 0])) == 4
    a = np.asarray(chunks[1].action)
    assert (a[:, :2] != a[:, 2:]).any(), "each group has noise of its own"


@pytest.mark.parametrize(
    "how",
    [
        {"behind": 1},
        {"behind": 1, "envs_per_group": 2},
        pytest.param(
            {"envs_per_group": 2, "policy_kwargs": {"net_arch": [8], "cell": "lstm"}}, marks=pytest.mark.slow
        ),
    ],
    ids=["behind", "behind in groups", "recurrent groups"],
)
def test_resuming_is_exact(how, tmp_path, keep_all):  # noqa: F811
    """Saving after every update, while the next chunk is being collected, changes nothing; and going on from such a
    file comes to the same."""
    build = lambda **more: model(**how | more)
    build().learn(STEPS, checkpoint_dir=tmp_path / "plain", checkpoint_seconds=1e9)
    build().learn(STEPS, checkpoint_dir=tmp_path / "whole", checkpoint_seconds=0)
    assert_same(tmp_path / "plain", tmp_path / "whole")
    middle = checkpoint.checkpoints(tmp_path / "whole")[2]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / middle.name).write_bytes(middle.read_bytes())
    build(seed=99).learn(STEPS, resume_from=tmp_path / "part", checkpoint_seconds=1e9)
    assert_same(tmp_path / "part", tmp_path / "whole")
    with pytest.raises((ValueError, RuntimeError), match=r"behind=0, and it was 1|groups"):
        model(seed=5).learn(STEPS, resume_from=tmp_path / "part")


@pytest.mark.parametrize(
    "trained",
    [
        lambda: model(behind=1, whole_episodes=True, n_steps=64, normalize=False).learn(64 * 4 * 4),
        lambda: replaying(SAC, "Pendulum-v1", behind=1, train_freq=(1, "episode"), n_envs=1).learn(1000),
    ],
)
def test_whole_episodes_begin_with_what_collects_them(trained):
    """Not with the learner's own arrays, which the update that is made meanwhile takes over."""
    assert trained().run.iterations >= 4


def test_an_error_in_the_chunk_ahead_is_raised_where_it_is_wanted():
    class Breaks(Marked):
        def step(self, action):
            if self.number > 20:
                raise OSError("unplugged")
            return super().step(action)

    with pytest.raises(EnvError, match="unplugged"):
        model(env=Breaks, behind=1, normalize=False).learn(1000)
    with pytest.raises(
        EnvError, match=r"group 0 \(environments 0 to 1 of the run\): environment 0 .* unplugged"
    ):
        model(env=Breaks, envs_per_group=2, normalize=False).learn(1000)


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (A2C, {"behind": 1, "batch_size": None}, "score weighs nothing by the ratio.*take behind=0"),
        (
            SARSA,
            {"env": "FrozenLake-v1", "envs_per_group": 2, "policy_kwargs": None},
            "learns online, from each step before the next",
        ),
        (PPO, {"behind": 2}, "behind=2 must be 0, 1 or any"),
        (
            VTrace,
            {"behind": "any", "lag": 0},
            "takes what actors have ready, whichever they are: give actors=N too",
        ),
        (
            PPO,
            {"behind": "any", "actors": 2},
            "on-policy correct for no other policy: take behind=1, or v-trace",
        ),
        (VTrace, {"behind": "any", "actors": 2}, "lag=8 adds older policies of its own: take lag=0"),
        (
            ACER,
            {"behind": "any", "actors": 2},
            "memory of data trajectories holds each environment's rows",
        ),
        (SAC, {"env": "Pendulum-v1", "behind": "any", "actors": 2}, "the memory of data replay holds"),
        (
            VTrace,
            {"behind": "any", "actors": 2, "lag": 0, "normalize_reward": True},
            "take normalize_reward=False",
        ),
        (
            VTrace,
            {"behind": "any", "actors": 3, "envs_per_group": 1, "lag": 0},
            "4 groups cannot be shared equally by",
        ),
        (PPO, {"envs_per_group": 3}, "does not divide the 4 environments: take one of 1, 2, 4"),
        (PPO, {"backend": "jax", "behind": 1}, "compiled loop"),
        (PPO, {"address": "localhost:1"}, "which actors need"),
        (PPO, {"actors": 8}, "actors=8 are more than the 4 environments: take n_envs=8"),
        (PPO, {"actors": 3}, "cannot be shared equally by actors=3: take n_envs=3 or 6"),
        (PPO, {"step_timeout": 5}, r"is of actors: give actors=N too, or .*workers=True, step_timeout=5\)"),
        (PPO, {"actors": 3, "envs_per_group": 2}, "more than the 2 groups of envs_per_group=2 in 4"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(kind, more, message):
    keep = SMALL if kind is PPO else {"policy_kwargs": SMALL["policy_kwargs"], "seed": 3}
    with pytest.raises(ValueError, match=message):
        kind("MlpPolicy", **{"env": "CartPole-v1", "n_envs": 4, "backend": "gymnasium"} | keep | more)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True, "5"])
def test_a_step_of_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match=f"step_timeout={seconds!r} must be a positive number of seconds"):
        Grouping(actors=2, step_timeout=seconds)
    assert limited(Grouping(actors=2), 5).step_timeout == 5
    assert limited(Grouping(actors=2), None) == Grouping(actors=2)


def test_an_object_cannot_be_in_groups():
    with pytest.raises(ValueError, match="give an id, a class or a function"):
        model(env=gym.make("CartPole-v1"), envs_per_group=1)


def test_an_id_is_named_as_it_is_without_groups():
    """And what a file could not hold of its environment is asked for."""
    trained = model(env="CartPole", envs_per_group=2)
    assert trained.env_id == model(env="CartPole").env_id == "CartPole-v1"
    trained.left_out = ["reward"]
    with pytest.raises(ModelFileError, match="was made with env_kwargs reward"):
        trained.set_env("CartPole")


def test_learners_processes_learn_from_the_host_loop_whatever_asks_for_them(monkeypatch):
    monkeypatch.setattr(model_file, "learners_of", lambda who: Learners())
    many = {"n_envs": 4, "learners": 2, "learner_processes": 2}
    assert type(PPO("MlpPolicy", "CartPole-v1", **many).runner) is type(model().runner)
    assert resolve("ppo", "CartPole-v1", **many).backend == ("envpool" if ENVPOOL else "gymnasium")


@pytest.mark.skipif(not ENVPOOL, reason="EnvPool is not installed")
def test_behind_rules_out_the_compiled_loop_only():
    """It had taken Gymnasium's environments where EnvPool's, which `auto` takes without it, are twice as fast."""
    assert backend_of(behind=1) == backend_of(behind=0) == "envpool"
    assert backend_of("CartPole-v1", behind=1) == "envpool"
    assert backend_of("CartPole-v1", behind=0) == "jax"
    assert backend_of(n_envs=1, behind=1) == "gymnasium"
    for more in ({"actors": 2}, {"envs_per_group": 2}, {"actors": 2, "behind": 0}):
        assert backend_of(**more) == "gymnasium"


def backend_of(env="LunarLander-v3", n_envs=4, **more):
    """What is chosen for a run and for a model, which agree."""
    grouping = Grouping(**more)
    chosen = resolve("ppo", env, n_envs=n_envs, steps=10_000, seeds=[0], **more).backend
    assert backend_for(grouping, "auto", env, None, n_envs) == chosen
    return chosen


@pytest.mark.parametrize(
    "more",
    [{"envs_per_group": 4}, {"envs_per_group": 4, "backend": "jax"}, {"actors": 2}, {"behind": 1},
     {"learners": 2, "learner_processes": 2}, {"workers": 2}],
)  # fmt: skip
def test_an_environment_that_only_the_compiled_loop_has_takes_no_groups(more):
    said = "Copy-v0 is a JAX environment, .*takes no actors, groups, behind, learner_processes or workers"
    with pytest.raises(ValueError, match=said):
        resolve("sft", "Copy-v0", n_envs=8, **more)
    if "workers" not in more:
        with pytest.raises(ValueError, match=said):
            SFT("MlpPolicy", "Copy-v0", n_envs=8, **more)


def test_an_address_where_nothing_of_a_run_would_be_is_refused(tmp_path, monkeypatch, capsys):
    """Also where it goes on, and of data sets; one that is left over from actors goes with them."""
    config = resolve("ppo", "CartPole-v1", n_envs=2, steps=100, seeds=[0])
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    assert main(["resume", str(tmp_path), "--quiet", "--address", "localhost:1"]) == 2
    assert "is of a Ray cluster: give actors, learner processes or several" in capsys.readouterr().err
    assert load_config(tmp_path) == config
    monkeypatch.setattr(config_file, "load_datasets", lambda paths: SimpleNamespace(env_id=None))
    offline = functools.partial(resolve, "bc", "CartPole-v1", dataset=["data"], address="localhost:1")
    with pytest.raises(SettingError, match="is of a Ray cluster: give actors, learner processes or several"):
        offline(seeds=[0])
    assert offline(seeds=[0, 1]).address == "localhost:1"
    with pytest.raises(SettingError, match="a data set has none"):
        offline(seeds=[0, 1], max_restarts=2)
    acted = resolve("ppo", "CartPole-v1", n_envs=2, actors=2, address="localhost:1", seeds=[0])
    none = {"learners": None, "learner_processes": None}
    assert start._moved(acted, None, actors=1, **none).address == "localhost:1"
    assert start._moved(acted, None, actors=0, **none).address is None


def test_the_commands_of_the_page_are_accepted(monkeypatch):
    """Resolved, where a user's environment is slow and there are four devices."""
    monkeypatch.setitem(gym.registry, "MyEnv-v0", EnvSpec("MyEnv-v0", CartPoleEnv))
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    page = (Path(__file__).parents[2] / "docs" / "actors.md").read_text("utf-8")
    lines = re.findall(r"^actrix train (.*)$", page, re.MULTILINE)
    assert len(lines) >= 8
    found = [config_of(parser().parse_args(["train", *shlex.split(line, comments=True)])) for line in lines]
    eight, cluster, none = found[:3]
    assert eight.actors == 8
    assert identity_of(eight) == identity_of(cluster) == identity_of(none)


def test_what_may_be_behind_follows_from_facts():
    model(behind=1)
    VTrace("MlpPolicy", "CartPole-v1", n_envs=4, backend="gymnasium", behind=1)
    assert Grouping(actors=2).lag == 1
    assert Grouping(actors=2, behind=0).lag == Grouping().lag == 0


def test_callbacks_of_groups_run_after_updates_and_the_environments_are_trainings():
    trained, seen = model(envs_per_group=2), []
    trained.learn(STEPS, callback=lambda locals_, _: seen.append(locals_["self"].num_timesteps))
    assert seen[-1] == trained.num_timesteps
    assert len(seen) == trained.run.iterations
    with pytest.raises(ValueError, match="stepped by training alone"):
        trained.get_env().reset()


def test_a_word_that_says_not_how_far_behind_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "ppo", "CartPole-v1", "--behind", "soon"])
    assert end.value.code == 2
    assert "argument --behind: 'soon' must be 0, 1 or any" in capsys.readouterr().err
