"""Hindsight replay against plain loops over the episodes that were played, and where it is refused."""

import collections
import dataclasses

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actrix import DQN, SAC, SettingError, SubprocVecEnv, make_vec_env
from actrix.algorithms.answers import parse_data
from actrix.algorithms.presets import PRESETS, compose, words_of
from actrix.algorithms.settings import configure
from actrix.core.contract import same_memory
from actrix.core.types import Chunk, Goals, Spec
from actrix.data.hindsight import STRATEGIES, Hindsight
from actrix.envs.goals import BitFlip, PointReach
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.envs.make import choose_backend
from actrix.files import checkpoint, container
from actrix.loops import train
from actrix.loops.compiled import CompiledRunner
from actrix.loops.stepping import host_runner
from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints

N, BATCH, GAMMA = 2, 60, 0.9
NET = {"net_arch": [16]}
SMALL = {"policy_kwargs": NET, "learning_starts": 24, "train_freq": 4, "batch_size": 10, "buffer_size": 200}


def spec(compute_reward, compute_terminated=None):
    """States are told apart by their observation (environment, episode, step) and the goals that they reach."""
    box = lambda *shape: spaces.Box(-np.inf, np.inf, shape, np.float32)
    space = spaces.Dict(observation=box(3), achieved_goal=box(1), desired_goal=box(1))
    return Spec(space, spaces.Discrete(2), goals=Goals(compute_reward, compute_terminated))


def code(n, episode, t):
    """The goal that a state reaches, a number of its own; reward and end of a goal are functions of it."""
    return n * 4000 + episode * 40 + t


def reward_of(achieved, desired, info):
    assert info == {}
    return (2 * achieved - desired)[..., 0]


def ended_of(achieved, desired, info):
    return (achieved == desired)[..., 0]


class Play:
    """Episodes of random lengths that terminate, are truncated, or were cut off, in chunks."""

    def __init__(self, seed=0):
        self.rng, self.at = np.random.default_rng(seed), [(0, 0)] * N
        self.first = np.ones(N, bool)
        self.episodes = collections.defaultdict(list)
        """(environment, episode) → [(reward, terminated)], a row per step."""
        self.ended, self.stored = set(), [[] for _ in range(N)]
        """Finished episodes; rows of the ring, None for the extra one behind an end."""

    def state(self, n, episode, t):
        desired = -1.0 - code(n, episode, 0)
        return {
            "observation": [n, episode, t],
            "achieved_goal": [code(n, episode, t)],
            "desired_goal": [desired],
        }

    def chunk(self, rows, cut=False):
        """`cut`: a stop follows, after which other episodes begin."""
        out = []
        for _ in range(rows):
            row = collections.defaultdict(list)
            for n in range(N):
                episode, t = self.at[n]
                end = self.rng.choice(["", "terminated", "truncated"], p=[0.8, 0.1, 0.1])
                valid = (
                    bool(self.rng.random() > 0.1) or not self.first[n]
                )  # a reset row of a vector environment
                row["obs"].append(self.state(n, episode, t))
                row["next_obs"].append(self.state(n, episode, t + 1))
                reward = float(self.rng.normal())
                for name, x in dict(reward=reward, terminated=valid and end == "terminated", action=0, valid=valid,
                                    truncated=valid and end == "truncated", first=self.first[n]).items():  # fmt: skip
                    row[name].append(x)
                self.first[n] = not valid
                if not valid:
                    continue
                self.episodes[n, episode].append((reward, end == "terminated"))
                self.stored[n].append((episode, t))
                self.at[n] = episode, t + 1
                if end:
                    self._finish(n)
            out.append(row)
        chunk = lambda name: [row[name] for row in out]
        stack = lambda name: jax.tree.map(
            lambda *x: jnp.asarray(np.reshape(np.array(x, np.float32), (rows, N, -1))),
            *[state for row in chunk(name) for state in row], is_leaf=lambda x: isinstance(x, list),
        )  # fmt: skip
        array = lambda name: jnp.asarray(np.array(chunk(name)))
        if cut:
            for n in range(N):
                if not self.first[n]:
                    self._finish(n)
        return Chunk(
            obs=stack("obs"), next_obs=stack("next_obs"), action=array("action"),
            reward=array("reward").astype(jnp.float32), terminated=array("terminated"),
            truncated=array("truncated"), valid=array("valid"), first=array("first"),
        )  # fmt: skip

    def _finish(self, n):
        episode, _ = self.at[n]
        self.ended.add((n, episode))
        self.stored[n].append(None)
        self.at[n], self.first[n] = (episode + 1, 0), True

    def legal(self, capacity):
        """Every row of a finished episode that the ring still holds, and its states' numbers: {row: numbers}."""
        found = {}
        for n in range(N):
            # An open episode's newest successor takes a place too.
            kept = self.stored[n][-(capacity - (not self.first[n])) :]
            for episode, t in filter(None, kept):
                if (n, episode) in self.ended:
                    length = len(self.episodes[n, episode])
                    states = {s + 1 for e, s in filter(None, kept) if e == episode} | {
                        t for e, t in filter(None, kept) if e == episode
                    }
                    found[n, episode, t] = sorted(s for s in states if 0 < s <= length)
        return found


append = jax.jit(lambda memory, chunk: memory.append(chunk))


def filled(data, play, where, chunks=8, rows=9):
    memory = data.init(HEAD, where, N, None)
    for i in range(chunks):
        memory = append(memory, play.chunk(rows, cut=i == chunks // 2))
    return memory


class HEAD:
    """What the ring asks of a distribution."""

    shape, continuous = (), False


def drawn(data, memory, seeds=40):
    """Many batches' rows, as numpy arrays `[seeds, B]`."""
    sample = lambda key: data.sample(memory, memory.rows, key, GAMMA, jnp.zeros(()))[1]
    return jax.tree.map(
        np.asarray,
        jax.jit(lambda keys: jax.lax.map(sample, keys))(jax.random.split(jax.random.key(0), seeds)),
    )


@pytest.mark.parametrize("ends", [False, True], ids=["stored ends", "compute_terminated"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_row_and_its_goal_are_of_one_finished_episode_that_is_still_there(strategy, ends):
    data = Hindsight(buffer_size=66, batch_size=BATCH, n_sampled_goal=3, goal_selection_strategy=strategy)
    where = spec(reward_of, ended_of if ends else None)
    play = Play()
    memory = filled(data, play, where)
    capacity = memory.ring.capacity
    assert all(len(rows) > capacity for rows in play.stored)  # it has wrapped round
    legal, rows = play.legal(capacity), drawn(data, memory)
    assert rows.weight.mean() > 0.9  # few draws end in an open episode, or in no transition
    seen, wanted = set(), set()
    for i, k in np.argwhere(rows.weight > 0):
        n, episode, t = (int(x) for x in rows.obs["observation"][i, k])
        goal, desired = rows.obs["desired_goal"][i, k], rows.next_obs["desired_goal"][i, k]
        assert (n, episode, t) in legal
        np.testing.assert_array_equal(rows.next_obs["observation"][i, k], [n, episode, t + 1])
        np.testing.assert_array_equal(goal, desired)
        achieved = rows.next_obs["achieved_goal"][i, k]
        assert achieved == code(n, episode, t + 1)
        reward, terminated = play.episodes[n, episode][t]
        if k >= BATCH * 3 // 4:  # as it was
            assert goal == -1.0 - code(n, episode, 0)
        else:
            number = int(goal[0]) - code(n, episode, 0)
            seen.add((n, episode, t, number))
            reward = reward_of(achieved, goal, {})
            terminated = ended_of(achieved, goal, {}) if ends else terminated
        np.testing.assert_allclose(rows.reward[i, k], reward, rtol=1e-6)
        np.testing.assert_allclose(rows.discount[i, k], 0 if terminated else GAMMA)
    for (n, episode, t), numbers in legal.items():
        last = len(play.episodes[n, episode])
        allowed = {"future": [s for s in numbers if s > t], "final": [last], "episode": numbers}[strategy]
        wanted |= {(n, episode, t, s) for s in allowed}
    assert seen <= wanted
    assert len(seen) > 0.9 * len(wanted)  # and nearly all of them come up


def test_the_shares_and_the_goals_are_uniform():
    data = Hindsight(buffer_size=66, batch_size=BATCH, n_sampled_goal=4)
    play = Play(1)
    memory = filled(data, play, spec(reward_of), chunks=3)
    rows = drawn(data, memory, 400)
    real = rows.obs["desired_goal"][..., 0] < 0
    assert np.all(real.mean(axis=1)[rows.weight.all(axis=1)] == 1 / 5)
    legal = play.legal(memory.ring.capacity)
    counts = collections.Counter()
    for i, k in np.argwhere((rows.weight > 0) & ~real):
        row = tuple(int(x) for x in rows.obs["observation"][i, k])
        counts[row, int(rows.obs["desired_goal"][i, k, 0]) - code(row[0], row[1], 0)] += 1
    total, chi, cells = sum(counts.values()), 0.0, 0
    for row, numbers in legal.items():
        later = [s for s in numbers if s > row[2]]
        for s in later:
            expected = total / len(legal) / len(later)
            chi, cells = chi + (counts[row, s] - expected) ** 2 / expected, cells + 1
    # The χ² of so many cells, give or take five of its standard deviations.
    assert abs(chi - cells) < 5 * np.sqrt(2 * cells)


def test_an_open_episode_is_not_drawn_from():
    data = Hindsight(buffer_size=50, batch_size=8)
    memory = data.init(HEAD, spec(reward_of), N, None)
    play = Play()
    play.rng = type(
        "Never", (), {"choice": lambda *_, **__: "", "random": lambda *_: 1.0, "normal": lambda *_: 0.0}
    )()
    memory = append(memory, play.chunk(5))
    assert not drawn(data, memory, 3).weight.any()
    memory = append(
        append(memory, play.chunk(5, cut=True)), play.chunk(2)
    )  # the stop is seen with the next row
    rows = drawn(data, memory, 20)
    assert rows.weight.mean() > 0.9
    assert set(rows.obs["observation"][rows.weight > 0][:, 1]) == {0.0}
    # An episode longer than the ring pushes all others out.
    for _ in range(10):
        memory = append(memory, play.chunk(5))
    assert not drawn(data, memory, 3).weight.any()


# ------------------------------------------------------------------ words and refusals


def test_words():
    assert parse_data("hindsight") == Hindsight()
    said = "hindsight:n_sampled_goal=2,goal_selection_strategy=final"
    algorithm = configure(PRESETS["dqn"].algorithm, {"data": said})
    assert algorithm.data == Hindsight(
        n_sampled_goal=2, goal_selection_strategy="final", batch_size=32, train_freq=4
    )
    composed = compose("ensemble:2", "soft", said)
    again = words_of(composed)
    assert compose(again["critic"], again["actor"], again["data"], again["settings"]) == composed
    enumeration = type("GoalSelectionStrategy", (), {"name": "FUTURE"})()
    given = {"n_sampled_goal": 2, "goal_selection_strategy": enumeration, "copy_info_dict": False}
    for kind in ("HerReplayBuffer", type("HerReplayBuffer", (), {})):
        found = configure(
            PRESETS["sac"].algorithm, {"replay_buffer_class": kind, "replay_buffer_kwargs": given}
        )
        assert found.data == Hindsight(n_sampled_goal=2)


@pytest.mark.parametrize(
    "name", ["dqn", "qr-dqn", "ddpg", "td3", "sac", "discrete-sac", "tqc", "crossq", "awac"]
)
def test_every_replayed_composition_takes_it(name):
    algorithm = configure(PRESETS[name].algorithm, {"data": "hindsight"} | SMALL)
    env = BitFlip(4) if name in ("dqn", "qr-dqn", "discrete-sac") else PointReach(max_episode_steps=6)
    algorithm.check(env.spec, N)
    learner = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), env.spec, N))
    assert learner.memory.goals == env.spec.goals


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"goal_selection_strategy": "past"}, "goal_selection_strategy='past'"),
        ({"n_sampled_goal": 0}, "n_sampled_goal=0"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        configure(PRESETS["sac"].algorithm, {"data": "hindsight"} | settings)


def test_other_buffers_and_algorithms_are_refused():
    with pytest.raises(SettingError, match="HerReplayBuffer and the plain ones are known"):
        configure(PRESETS["sac"].algorithm, {"replay_buffer_class": "PrioritizedReplayBuffer"})
    with pytest.raises(SettingError, match="they go with replay_buffer_class"):
        configure(PRESETS["sac"].algorithm, {"replay_buffer_kwargs": {"n_sampled_goal": 2}})
    with pytest.raises(
        SettingError, match=r"needs the probabilities of who acted|runs along consecutive rows"
    ):
        configure(PRESETS["ppo"].algorithm, {"data": "hindsight"})


def refused(spec, words, num_envs=1, **settings):
    algorithm = configure(PRESETS["dqn"].algorithm, {"data": "hindsight"} | settings)
    with pytest.raises(ValueError, match=words):
        algorithm.check(spec, num_envs)


def test_environments_that_are_refused():
    spec = BitFlip(10).spec
    change = lambda **more: dataclasses.replace(spec, **more)
    fewer = spaces.Dict({k: s for k, s in spec.observation_space.spaces.items() if k != "achieved_goal"})
    refused(
        change(observation_space=fewer),
        "observes a Dict with observation, achieved_goal, desired_goal",
    )
    refused(change(observation_space=spaces.Box(-1, 1, (3,))), "observes a Dict")
    refused(change(goals=None), r"compute_reward\(achieved_goal, desired_goal, info\)")
    refused(
        change(goals=Goals(lambda a, d, info: jnp.zeros(()))),
        r"takes a batch: of two goals it has shape \(\)",
    )
    refused(spec, "learning_starts=100 is less than one episode of 10 steps in each of 16", num_envs=16)
    refused(spec, "buffer_size=40 is less", num_envs=8, buffer_size=40)
    refused(spec, "no per, and n_steps=1", n_steps=3)
    refused(spec, "no per, and n_steps=1", prioritized=True)
    refused(dataclasses.replace(spec, max_episode_steps=None, goals=None), "compute_reward")


# ------------------------------------------------------------------ environments


def test_the_environments_say_what_they_do():
    for env, size in ((BitFlip(6), 0), (PointReach(max_episode_steps=9), 3)):
        host = HostJax(env, 5)
        obs, _ = host.reset()
        rng = np.random.default_rng(0)
        for t in range(20):
            action = rng.uniform(-1, 1, (5, size)).astype(np.float32) if size else rng.integers(0, 6, 5)
            step = host.step(action)
            told = step.next_obs["achieved_goal"], step.next_obs["desired_goal"]
            np.testing.assert_array_equal(step.reward, env.spec.goals.compute_reward(*told, {}))
            if env.spec.goals.compute_terminated is not None:
                np.testing.assert_array_equal(step.terminated, env.spec.goals.compute_terminated(*told, {}))
            np.testing.assert_array_equal(step.next_obs["desired_goal"], obs["desired_goal"])
            assert env.spec.observation_space.contains(jax.tree.map(lambda x: x[0], step.obs))
            limit = env.spec.max_episode_steps
            assert not size or np.all(step.truncated == ((t + 1) % limit == 0))
            obs = step.obs


def test_their_ids():
    assert jax_env("BitFlip-v0", bits=15) == BitFlip(15)
    assert jax_env("PointReach-v0", max_episode_steps=20) == PointReach(max_episode_steps=20)
    assert choose_backend("auto", "BitFlip-v0", {"bits": 4}) == "jax"


class Reach(gym.Env):
    """As Gymnasium-Robotics has them: rewards of a batch, ends of one."""

    ends = False

    def __init__(self):
        point = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(observation=point, achieved_goal=point, desired_goal=point)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.asked = collections.Counter()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal, self.t = np.zeros(2), self.np_random.uniform(-0.3, 0.3, 2), 0
        return self._obs(), {}

    def _obs(self):
        return {
            "observation": self.x.copy(),
            "achieved_goal": self.x.copy(),
            "desired_goal": self.goal.copy(),
        }

    def compute_reward(self, achieved_goal, desired_goal, info):
        assert isinstance(achieved_goal, np.ndarray)
        self.asked[achieved_goal.shape] += 1
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.1).astype(np.float64)

    def compute_terminated(self, achieved_goal, desired_goal, info):
        assert achieved_goal.shape == (2,)
        return bool(self.ends and np.linalg.norm(achieved_goal - desired_goal) <= 0.1)

    def step(self, action):
        self.x, self.t = np.clip(self.x + 0.1 * action, -1, 1), self.t + 1
        reward = float(self.compute_reward(self.x, self.goal, {}))
        return self._obs(), reward, self.compute_terminated(self.x, self.goal, {}), self.t >= 6, {}


class Later(Reach):
    """Rewards need an environment that was reset."""

    def reset(self, **kwargs):
        self.scale = 1.0
        return super().reset(**kwargs)

    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) * self.scale


def test_an_environment_of_gymnasiums(tmp_path):
    env = Reach()
    model = SAC("MultiInputPolicy", env, replay_buffer_class="HerReplayBuffer", seed=0,
                replay_buffer_kwargs={"n_sampled_goal": 4}, **SMALL | {"gradient_steps": 2})  # fmt: skip
    model.learn(60)
    # 8 of 10 rows are relabelled in each of two updates for every 4 of the steps after the random ones.
    assert env.asked == {(2,): 60, (2, 2): 1, (8, 2): 2 * (60 - 24) // 4}
    model.save(tmp_path / "model")
    again = SAC.load(tmp_path / "model")
    assert again.algorithm.data == model.algorithm.data
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    again.set_env(Later())
    again.learn(60)
    another_environment_brings_its_own_rewards(again)


def another_environment_brings_its_own_rewards(model):
    before = model.runner.learners[0].memory
    near = type("Ends", (Reach,), {"ends": True})()
    model.set_env(near)
    memory = model.runner.learners[0].memory
    assert memory.goals is model.env.spec.goals is not before.goals
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(memory), jax.tree.leaves(before))
    assert same_memory(before, memory).goals is memory.goals
    model.learn(8)
    assert near.asked[(8, 2)] > 0


@pytest.mark.parametrize(
    "mode",
    [
        AutoresetMode.NEXT_STEP,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)),
    ],
)
def test_a_vector_environment_of_gymnasiums(mode):
    vector = SyncVectorEnv([Reach] * 3, autoreset_mode=mode)
    model = SAC("MultiInputPolicy", vector, data="hindsight", seed=0, **SMALL | {"learning_starts": 60})
    model.learn(120)
    memory = jax.tree.map(np.asarray, model.runner.learners[0].memory.rows)
    state = memory.obs["state"]
    for n in range(3):
        for i in np.flatnonzero(memory.valid[:, n])[:-1]:
            assert memory.obs["number"][i, n] == memory.obs["number"][i + 1, n] - 1
            np.testing.assert_array_equal(state["desired_goal"][i, n], state["desired_goal"][i + 1, n])
        np.testing.assert_array_equal(
            memory.first[memory.valid[:, n], n], memory.obs["number"][memory.valid[:, n], n] == 0
        )


def test_rewards_that_read_infos_are_refused_where_infos_were_asked_for():
    class Reads(Reach):
        def compute_reward(self, achieved, desired, info):
            return super().compute_reward(achieved, desired, info) * info.get("scale", 1)

    SAC("MultiInputPolicy", Reach(), data="hindsight", copy_info_dict=True, **SMALL)
    SAC("MultiInputPolicy", Reads(), data="hindsight", **SMALL)
    with pytest.raises(ValueError, match="compute_reward reads the info: no info is remembered"):
        SAC("MultiInputPolicy", Reads(), data="hindsight", copy_info_dict=True, **SMALL)


def test_rewards_that_need_a_reset_environment_in_processes():
    env = SubprocVecEnv([Later, Later])
    SAC("MultiInputPolicy", env, data="hindsight", **SMALL | {"learning_starts": 40}).learn(60)
    env.close()


def test_hidden_and_unvectorised_rewards_are_refused():
    with pytest.raises(ValueError, match="in this process"):
        SAC("MultiInputPolicy", make_vec_env(Reach, 2, workers=True), data="hindsight", **SMALL)
    one = type(
        "One", (Reach,), {"compute_reward": lambda self, a, d, info: -float(np.linalg.norm(a - d) > 0.1)}
    )
    with pytest.raises(Exception, match="vectorised over a batch"):
        SAC("MultiInputPolicy", one(), data="hindsight", **SMALL)


# ------------------------------------------------------------------ loops


def test_both_loops_learn_the_same():
    algorithm = configure(PRESETS["dqn"].algorithm, {"data": "hindsight"} | SMALL)
    env = BitFlip(4)
    compiled = CompiledRunner(algorithm, env, N, [3])
    host = host_runner(algorithm, HostJax(env, N), 3)
    for runner in (compiled, host):
        runner.set_training(total_steps=1000)
        runner.warm()
        runner.advance(5)
    one, two = compiled.learners[0], host.learners[0]
    jax.tree.map(np.testing.assert_array_equal, one.memory.rows, two.memory.rows)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one.acting.net, two.acting.net)


def bits(runner):
    state = runner.state
    leaves = jax.tree.leaves((state.learner, state.env, state.iteration, jax.random.key_data(state.env_key)))
    return [np.asarray(x).tobytes() for x in leaves]


def test_a_resumed_compiled_run_is_the_uninterrupted_one(tmp_path):
    algorithm = configure(PRESETS["dqn"].algorithm, {"data": "hindsight"} | SMALL)
    runner, run = CompiledRunner(algorithm, BitFlip(4), N, [3]), SeedRun(3, checkpoints=tmp_path)
    runner.set_training(total_steps=1000)
    runner.warm()
    run.add(*runner.advance(3))
    save_checkpoints(runner, [run])
    runner.advance(4)
    other = CompiledRunner(algorithm, BitFlip(4), N, [4])
    assert load_checkpoints(other, [SeedRun(3, checkpoints=tmp_path)]) is None
    other.advance(4)
    assert bits(other) == bits(runner)


def test_a_resumed_host_run_is_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP", 10**6)
    monkeypatch.setattr(train, "SAVE_SHARE", np.inf)

    def build():
        return DQN("MultiInputPolicy", HostJax(BitFlip(4), N), data="hindsight", seed=5, **SMALL)

    def arrays(folder):
        path = checkpoint.checkpoints(folder)[-1]
        header = container.read_header(path)
        return path.read_bytes()[header.start :]

    build().learn(120, checkpoint_dir=tmp_path / "whole", checkpoint_seconds=0)
    found = checkpoint.checkpoints(tmp_path / "whole")
    (tmp_path / "part").mkdir()
    middle = found[len(found) // 2]
    (tmp_path / "part" / middle.name).write_bytes(middle.read_bytes())
    part = tmp_path / "part"
    build().learn(120, checkpoint_dir=part, resume_from=part, checkpoint_seconds=1e9)
    assert arrays(tmp_path / "part") == arrays(tmp_path / "whole")


# ------------------------------------------------------------------ learning


def test_it_learns_the_values_of_flipping_bits():
    """At distance d from its goal V = −(1 + γ + … + γ^{d−2}), and the action flips one of the d bits."""
    settings = {"policy_kwargs": {"net_arch": [64], "activation_fn": "tanh"}, "batch_size": 64, "buffer_size": 8192,
                "learning_starts": 1024, "train_freq": 2, "gradient_steps": 4, "learning_rate": 5e-3, "gamma": 0.8,
                "target_update_interval": 128, "exploration_fraction": 1.0}  # fmt: skip
    algorithm = configure(PRESETS["dqn"].algorithm, {"data": "hindsight"} | settings)
    env = BitFlip(4)
    runner = CompiledRunner(algorithm, env, 16, [0])
    runner.set_training(total_steps=10**4)
    runner.warm()
    (report,) = runner.advance(300)
    assert not report.nonfinite
    acting = runner.learners[0].acting
    x, goal = (
        jnp.asarray(v, jnp.int8)
        for v in zip(*[(a, b) for a in np.ndindex(2, 2, 2, 2) for b in np.ndindex(2, 2, 2, 2)], strict=True)
    )
    obs = {"observation": x, "achieved_goal": x, "desired_goal": goal}
    action = np.asarray(algorithm.policy(acting, None, obs, None, None)[0])
    value = np.asarray(algorithm.critic.q_values(acting.net, obs).max(axis=-1))
    distance = np.sum(np.asarray(x != goal), axis=-1)
    wrong = np.asarray(x != goal)[np.arange(len(x)), action]
    assert wrong[distance > 0].mean() > 0.95
    for d in range(1, 5):
        np.testing.assert_allclose(value[distance == d].mean(), -(1 - 0.8 ** (d - 1)) / 0.2, atol=0.15)


@pytest.mark.slow
def test_ten_bits_need_hindsight():
    """§3.1 of the paper, in small: the same DQN with and without, 3 seeds each."""
    settings = {"learning_starts": 1000, "batch_size": 128, "buffer_size": 100_000, "gamma": 0.98,
                "learning_rate": 1e-3, "target_update_interval": 500}  # fmt: skip

    def success(data):
        algorithm = configure(PRESETS["dqn"].algorithm, {"data": data} | settings)
        runner = CompiledRunner(algorithm, BitFlip(10), 1, [0, 1, 2])
        runner.set_training(total_steps=51_000)
        runner.warm()
        runner.advance(12_000)
        return [np.mean(np.array(r.ep_returns[-100:]) > -10) for r in runner.advance(500)]

    assert max(success("replay")) < 0.1
    assert min(success("hindsight")) > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitFlip(0), "bits=0 must be a whole number of at least 1"),
        (lambda: BitFlip("x"), "bits='x' must be a whole number"),
        (lambda: PointReach(radius=-1), "radius=-1 must be positive"),
        (lambda: PointReach(max_episode_steps=0), "max_episode_steps=0 must be a whole number"),
    ],
)
def test_goal_environments_refuse_what_they_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
