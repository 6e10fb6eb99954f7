"""Data sets: through Minari and back, what is refused and in which words, what is drawn and recorded."""

import importlib.util
import json
import os
import sys

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

from actrix import BC
from actrix.core.spaces import to_env_action
from actrix.core.types import Spec
from actrix.data.datasets.dataset import DatasetError, Episode, assemble, check_spaces, mix
from actrix.data.datasets.play import record_episodes
from actrix.data.datasets.read import load_dataset
from actrix.data.datasets.write import DatasetWriter, write_dataset

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

FLOATS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PAIR = spaces.MultiDiscrete([3, 2], start=[1, 0])
TUPLE = spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.MultiBinary(3), PAIR))
DICT = spaces.Dict(
    {"image": spaces.Box(0, 255, (40, 36, 3), np.uint8), "kind": spaces.Discrete(4, start=-1), "b a": TUPLE}
)
SPACES = {
    "floats × Discrete": (FLOATS, spaces.Discrete(3, start=2)),
    "float64 × Box": (
        spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        spaces.Box(np.array([-2, 0], np.float32), np.array([3, 0.5], np.float32)),
    ),
    "Discrete × MultiBinary": (spaces.Discrete(5), spaces.MultiBinary(2)),
    "Dict × MultiDiscrete": (DICT, spaces.MultiDiscrete([2, 3], start=[0, 4])),
}
ENDS = ("terminated", "truncated", "both", "open")


def play(spec, lengths=(3, 1, 4, 2), ends=ENDS, seed=0):
    """Episodes of random numbers, one of each kind of end."""
    spec.observation_space.seed(seed)
    spec.action_space.seed(seed)
    rng = np.random.default_rng(seed)
    episodes = []
    for i, (n, end) in enumerate(zip(lengths, ends, strict=True)):
        obs = [spec.observation_space.sample() for _ in range(n + 1)]
        last = np.arange(n) == n - 1
        episodes.append(
            Episode(
                jax.tree.map(lambda *x: np.stack(x), *obs),
                np.stack([spec.action_space.sample() for _ in range(n)]),
                rng.normal(size=n),
                last & (end in ("terminated", "both")),
                last & (end in ("truncated", "both")),
                seed=i,
            )
        )
    return episodes


def spec_of(name):
    return Spec(*SPACES[name])


def equal(a, b):
    """Same structure, same numbers (the types may differ in width)."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x, np.asarray(y).dtype), y), a, b)


# ---------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", SPACES)
def test_minari_reads_what_was_written(name, tmp_path):
    spec, path = spec_of(name), tmp_path / "some set-v7"
    episodes = play(spec)
    write_dataset(path, episodes, spec, algorithm_name="random", author="me", description="numbers")
    found = minari.MinariDataset(path / "data")
    assert found.id == "some-set-v7"
    assert (found.total_episodes, found.total_steps) == (4, 10)
    assert (found.observation_space, found.action_space) == SPACES[name]
    for ours, theirs in zip(episodes, found, strict=True):
        equal(theirs.observations, ours.obs)
        equal(theirs.actions, ours.action)
        np.testing.assert_array_equal(theirs.rewards, ours.reward)
        np.testing.assert_array_equal(theirs.terminations, ours.terminated)
    assert [bool(e.truncations[-1]) for e in found] == [False, True, True, True]
    assert "4" in repr(found[2])
    assert [m["seed"] for m in found.storage.get_episode_metadata(range(4))] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", SPACES)
def test_loaded_arrays_are_the_episodes_end_to_end(name, tmp_path):
    spec, path = spec_of(name), tmp_path / "set"
    episodes = play(spec)
    data = load_dataset(write_dataset(path, episodes, spec))
    assert data.spec == spec
    assert (data.transitions, data.episodes, data.env_id) == (10, 4, None)
    chunk = data.chunk
    joined = lambda pick: jax.tree.map(lambda *x: np.concatenate(x)[:, None], *map(pick, episodes))
    equal(joined(lambda e: jax.tree.map(lambda x: x[:-1], e.obs)), chunk.obs)
    equal(joined(lambda e: jax.tree.map(lambda x: x[1:], e.obs)), chunk.next_obs)
    equal(joined(lambda e: np.float32(e.reward)), chunk.reward)
    back = to_env_action(spec.action_space, chunk.action)
    np.testing.assert_allclose(back, joined(lambda e: e.action), rtol=1e-6, atol=1e-6)
    if isinstance(spec.action_space, spaces.Box):
        assert chunk.action.dtype == np.float32
        assert np.abs(chunk.action).max() <= 1 + 1e-6
    else:
        assert chunk.action.dtype == np.int32
    rows = lambda flags: np.flatnonzero(flags[:, 0]).tolist()
    assert rows(chunk.first) == [0, 3, 4, 8]
    assert rows(chunk.terminated) == [2, 7]
    assert rows(chunk.truncated) == [3, 7, 9], "kept apart; the open episode is cut by the end of its data"
    assert chunk.valid is None
    returns = [float(np.sum(e.reward)) for e in episodes]
    np.testing.assert_allclose(data.returns, returns, rtol=1e-5)
    assert data.mean_return == pytest.approx(np.mean(returns), rel=1e-5)
    assert str(data) == f"set-v0: 10 transitions in 4 episodes, mean return {data.mean_return:.2f}"
    equal(assemble(episodes, spec).chunk, chunk)


@pytest.mark.filterwarnings("ignore")  # it recommends arguments, and leaves its temporary folder lying about
def test_minari_s_own_collector_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make("CartPole-v1"), record_infos=True)
    env.action_space.seed(0)
    for seed in range(3):
        env.reset(seed=seed)
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    theirs = env.create_dataset("cart/pole/random-v2")
    env.close()
    data = load_dataset("cart/pole/random-v2")
    assert (data.episodes, data.transitions) == (3, theirs.total_steps)
    assert (data.env_id, data.spec.max_episode_steps) == ("CartPole-v1", 500)
    joined = lambda pick: np.concatenate([pick(e) for e in theirs])
    np.testing.assert_array_equal(data.chunk.obs[:, 0], joined(lambda e: e.observations[:-1]))
    np.testing.assert_array_equal(data.chunk.next_obs[:, 0], joined(lambda e: e.observations[1:]))
    for ours, field in (("action", "actions"), ("reward", "rewards"), ("terminated", "terminations")):
        found = getattr(data.chunk, ours)[:, 0]
        np.testing.assert_array_equal(found, joined(lambda e, f=field: getattr(e, f)), err_msg=ours)
    assert not data.chunk.truncated.any()
    np.testing.assert_array_equal(data.lengths, [len(e) for e in theirs])


def test_an_id_is_looked_up_in_minari_s_store(tmp_path, monkeypatch):
    spec = spec_of("floats × Discrete")
    write_dataset(
        tmp_path / "a" / "b-v3", play(spec), spec, dataset_id="a/b-v3", env_id="CartPole-v1",
        env_kwargs={"sutton_barto_reward": True},
    )  # fmt: skip
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.load_dataset("a/b-v3").total_steps == 10
    data = load_dataset("a/b-v3")
    assert (data.name, data.env_id, data.env_kwargs) == (
        "a/b-v3",
        "CartPole-v1",
        {"sutton_barto_reward": True},
    )
    for path in (tmp_path / "a" / "b-v3", tmp_path / "a" / "b-v3" / "data"):
        equal(load_dataset(path).chunk, data.chunk)
    env = minari.load_dataset("a/b-v3").recover_environment()
    assert env.unwrapped._sutton_barto_reward
    env.close()


def test_a_data_set_of_minaris_is_taken_with_the_episodes_that_it_has(tmp_path):
    spec = spec_of("floats × Discrete")
    theirs = minari.MinariDataset(write_dataset(tmp_path / "set", play(spec), spec) / "data")
    equal(load_dataset(theirs).chunk, load_dataset(tmp_path / "set").chunk)
    cut = theirs.filter_episodes(lambda episode: bool(episode.truncations[-1]))
    assert load_dataset(cut).episodes == 3
    assert load_dataset(cut).transitions == cut.total_steps
    model = BC("MlpPolicy", dataset=cut, batch_size=4, policy_kwargs={"net_arch": [4]}, seed=0).learn(2)
    assert model.spec.observation_space == spec.observation_space
    with pytest.raises(DatasetError, match="no episode was left"):
        load_dataset(theirs.filter_episodes(lambda _: False))
    with pytest.raises(TypeError, match="a folder, an id or a MinariDataset, not list"):
        BC("MlpPolicy", dataset=[1])


def test_nothing_outside_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    before, spec = dict(os.environ), spec_of("floats × Discrete")
    load_dataset(write_dataset(tmp_path / "deep" / "set", play(spec), spec))
    with pytest.raises(DatasetError, match="is no Minari data set"):
        load_dataset("no/such-v0")
    assert dict(os.environ) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["set"]


# ---------------------------------------------------------------------------- refused


def edit_meta(path, **changes):
    file = path / "data" / "metadata.json"
    meta = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def replace(path, name, values):
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file[name]
        if values is not None:
            file[name] = values


META = {
    "metadata is not JSON": (lambda p: (p / "data" / "metadata.json").write_text("{"), "metadata.json cannot be read"),
    "metadata is a list": (lambda p: (p / "data" / "metadata.json").write_text("[]"), "metadata.json cannot be read"),
    "no metadata": (lambda p: (p / "data" / "metadata.json").unlink(), "has no metadata.json"),
    "another format": (lambda p: edit_meta(p, data_format="arrow"), "data_format 'arrow'; only 'hdf5'"),
    "no episodes": (lambda p: edit_meta(p, total_episodes=0), "total_episodes=0: the data set is empty"),
    "no spaces": (lambda p: edit_meta(p, observation_space=None), "observation_space is missing"),
    "a broken space": (lambda p: edit_meta(p, action_space='{"type": "Box"}'), "action_space cannot be read: KeyError"),
    "an unknown space": (lambda p: edit_meta(p, action_space='{"type": "Os"}'), "action_space cannot be read"),
    "text": (
        lambda p: edit_meta(p, observation_space=minari.serialization.serialize_space(spaces.Text(3))),
        "observation space is Text; supported are",
    ),
    "no HDF5": (lambda p: (p / "data" / "main_data.hdf5").unlink(), "cannot be read: No data found"),
    "not HDF5": (lambda p: (p / "data" / "main_data.hdf5").write_bytes(b"x" * 99), "episode 0 cannot be read: OSError"),
    "too few episodes": (lambda p: edit_meta(p, total_episodes=5), "episode 4 is missing"),
}  # fmt: skip


def field(name, values):
    return lambda p: replace(p, name, values)


def poke(name, index, value):
    """One number of a field changed."""

    def change(path):
        with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
            file[name][index] = value

    return change


FIELDS = {
    "no rewards": (field("episode_2/rewards", None), "episode 2 has no field 'rewards'"),
    "no observations": (field("episode_0/observations", None), "episode 0 has no field 'observations'"),
    "no terminations": (field("episode_1/terminations", None), "episode 1 has no field 'terminations'"),
    "a row of observations too few": (
        field("episode_2/observations", np.zeros((4, 3), np.float32)),
        r"episode 2: observations has shape \(4, 3\), expected \(5, 3\), one row more than rewards",
    ),
    "another shape": (
        field("episode_2/observations", np.zeros((5, 4), np.float32)), r"shape \(5, 4\), expected \(5, 3\)",
    ),
    "actions too short": (field("episode_2/actions", [2, 2, 2]), r"actions has shape \(3,\), expected \(4,\)"),
    "actions of floats": (field("episode_2/actions", [2.0] * 4), "actions holds float64; its space says int64"),
    "text for numbers": (field("episode_2/rewards", ["a", "b", "c", "d"]), "rewards holds object"),
    "flags too short": (field("episode_2/truncations", [False]), r"truncations has shape \(1,\)"),
    "flags that are none": (field("episode_2/truncations", [0, 0, 0, 7]), "expected 4 truth values"),
    "an end in the middle": (
        field("episode_2/truncations", [0, 1, 0, 0]), "episode 2: it goes on after its end at step 1",
    ),
    "NaN observation": (
        poke("episode_2/observations", (3, 1), np.nan),
        r"episode 2: at step 3, observations at index \[1\] is nan; it must be finite",
    ),
    "infinite reward": (poke("episode_0/rewards", 2, np.inf), "episode 0: at step 2, rewards is inf"),
    "beyond float32": (poke("episode_0/rewards", 2, 1e39), "episode 0: at step 2, rewards is inf"),
    "an action too far": (
        poke("episode_2/actions", 1, 5), r"episode 2: at step 1, actions is 5; it must lie in Discrete\(3",
    ),
    "an action before the start": (poke("episode_2/actions", 0, 1), "episode 2: at step 0, actions is 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", [*META, *FIELDS])
def test_refused_with_the_episode_and_the_field(what, tmp_path):
    change, words = (META | FIELDS)[what]
    spec, path = spec_of("floats × Discrete"), tmp_path / "set"
    write_dataset(path, play(spec), spec)
    change(path)
    with pytest.raises(DatasetError, match=words):
        load_dataset(path)


def test_refused_where_there_is_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty", __file__):
        with pytest.raises(DatasetError, match=r"is no Minari data set: there is no metadata\.json in"):
            load_dataset(path)


def test_refused_parts_of_dict_observations_and_actions_out_of_bounds():
    spec = spec_of("Dict × MultiDiscrete")
    (episode, *_) = play(spec)
    for obs, words in (
        ({k: v for k, v in episode.obs.items() if k != "kind"}, "observations lacks 'kind'"),
        (episode.obs | {"more": 1}, "observations has the unknown 'more'"),
        (episode.obs | {"b a": episode.obs["b a"][:2]}, r"observations\['b a'\] lacks 2"),
        (episode.obs | {"kind": np.array([0, 1, 3, 2])}, r"at step 2, observations\['kind'\] is 3"),
        (episode.obs["image"], "observations lacks 'b a', 'image', 'kind'"),
    ):
        with pytest.raises(DatasetError, match=words):
            assemble(
                [Episode(obs, episode.action, episode.reward, episode.terminated, episode.truncated)], spec
            )
    spec = spec_of("float64 × Box")
    (episode, *_) = play(spec)
    for low, good in ((-2.00001, True), (-2.1, False), (np.nan, False)):
        action = np.array(episode.action)
        action[1, 0] = low
        changed = [Episode(episode.obs, action, episode.reward, episode.terminated, episode.truncated)]
        if good:
            assert assemble(changed, spec).chunk.action[1, 0, 0] == -1
        else:
            with pytest.raises(DatasetError, match=r"episode 0: at step 1, actions at index \[0\] is"):
                assemble(changed, spec)
    with pytest.raises(DatasetError, match="is empty"):
        assemble([], spec)
    none = Episode(np.zeros((1, 2, 2)), np.zeros((0, 2)), [], [], [])
    with pytest.raises(DatasetError, match="is empty"):
        assemble([none], spec)
    assert assemble([none, episode], spec).episodes == 1


def test_an_environment_that_a_file_names_stays_a_name(tmp_path, monkeypatch):
    """Neither its id nor its entry point is imported, with the spaces in the file or without."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec, path = spec_of("floats × Discrete"), tmp_path / "set"
    write_dataset(path, play(spec), spec, env_id="CartPole-v1")
    env_spec = json.loads(json.loads((path / "data" / "metadata.json").read_text())["env_spec"])
    edit_meta(path, env_spec=json.dumps(env_spec | {"id": "evil:Env-v0", "entry_point": "evil:Env"}))
    assert load_dataset(path).env_id == "evil:Env-v0"
    edit_meta(path, observation_space=None, action_space=None)
    with pytest.raises(DatasetError, match="observation_space is missing"):
        load_dataset(path)
    edit_meta(path, env_spec="{}")
    write_dataset(tmp_path / "other", play(spec), spec, env_id="evil:Env-v0")
    assert load_dataset(tmp_path / "other").env_id == "evil:Env-v0"
    assert importlib.util.find_spec("evil")
    assert "evil" not in sys.modules
    assert not (tmp_path / "canary").exists()


def test_names_that_a_terminal_would_obey_are_not_shown(tmp_path):
    spec, path = spec_of("floats × Discrete"), tmp_path / "set"
    write_dataset(path, play(spec), spec, env_id="CartPole-v1")
    edit_meta(path, dataset_id="\x1b[2J", env_spec='{"id": "\\u001b[2J"}')
    data = load_dataset(path)
    assert (data.name, data.env_id) == (str(path), None)


def test_without_minari_the_error_says_what_to_install(tmp_path, monkeypatch):
    spec = spec_of("floats × Discrete")
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (lambda: load_dataset(tmp_path), lambda: write_dataset(tmp_path / "set", play(spec), spec)):
        with pytest.raises(ImportError, match=r'pip install "actrix\[offline\]"'):
            call()


# ---------------------------------------------------------------------------- writing


def test_a_data_set_is_written_whole_or_not_at_all(tmp_path):
    spec, path = spec_of("floats × Discrete"), tmp_path / "set"
    good, *_ = play(spec)
    bad = Episode(good.obs[:-1], good.action, good.reward, good.terminated, good.truncated)
    with pytest.raises(DatasetError, match="episode 1: observations has shape"):
        write_dataset(path, [good, bad], spec)
    with pytest.raises(DatasetError, match="no episode was added"):
        write_dataset(path, [], spec)

    def interrupted():
        yield good
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(path, interrupted(), spec)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatasetError, match="cannot be stored"):
        write_dataset(path, [good], spec, env_id="CartPole-v1", env_kwargs={"f": print})
    path.mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        write_dataset(path, [good], spec)
    assert list(tmp_path.iterdir()) == [path]


def test_the_writer_streams(tmp_path, monkeypatch):
    monkeypatch.setattr("actrix.data.datasets.write.FLUSH_STEPS", 4)
    spec = spec_of("floats × Discrete")
    with DatasetWriter(tmp_path / "set", spec) as writer:
        for episode in play(spec):
            writer.add(episode)
        assert (writer.episodes, writer.steps) == (4, 10)
    equal(load_dataset(tmp_path / "set").chunk, assemble(play(spec), spec).chunk)


# ---------------------------------------------------------------------------- recording and mixing


class Counter(gym.Env):
    """Counts in ONE array that it hands out every time; ends after 4 steps, is truncated never."""

    observation_space = spaces.Box(-1000, 1000, (1,), np.float32)
    action_space = spaces.Discrete(2, start=1)

    def __init__(self):
        self.seen, self.seeds = np.zeros(1, np.float32), []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.seen += action
        return self.seen, float(action), bool(self.seen[0] >= 4), False, {}


def one(obs, state, start):
    """Always action 1; the state counts calls within an episode."""
    assert start.shape == (1,)
    state = 0 if start[0] else state + 1
    assert state == obs[0]
    return np.int64(1), state


def test_recorded_episodes_are_copies_with_their_true_ends():
    env = Counter()
    spec = Spec(env.observation_space, env.action_space)
    episodes = list(record_episodes(one, env, steps=10, seed=3))
    data = assemble(episodes, spec)
    assert data.lengths.tolist() == [4, 4, 2]
    assert data.chunk.obs[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert data.chunk.next_obs[:, 0, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert np.flatnonzero(data.chunk.terminated).tolist() == [3, 7]
    assert np.flatnonzero(data.chunk.truncated).tolist() == [9]
    assert not np.any(data.chunk.action), "in policy coordinates"
    assert [e.seed for e in episodes] == env.seeds
    assert len(set(env.seeds)) == 3
    assert data.mean_return == pytest.approx(10 / 3)
    again = Counter()
    whole = list(record_episodes(one, again, episodes=3, seed=3))
    assert again.seeds == env.seeds
    assert [len(e.reward) for e in whole] == [4, 4, 4]
    other = Counter()
    list(record_episodes(one, other, episodes=3, seed=4))
    assert not set(other.seeds) & set(env.seeds)
    for wrong in ({}, {"steps": 3, "episodes": 3}, {"steps": 0}):
        with pytest.raises(ValueError, match="record either steps or episodes"):
            next(record_episodes(one, again, **wrong))


def test_recording_is_reproducible_and_a_time_limit_is_a_truncation():
    """Pendulum never terminates; its own limit cuts at 200, the budget of steps in the middle of an episode."""
    predict = lambda obs, state, start: (np.clip(obs[:1], -2, 2), None)

    def record(seed):
        env = gym.make("Pendulum-v1")
        try:
            return assemble(record_episodes(predict, env, steps=250, seed=seed), Spec(*spaces_of(env)))
        finally:
            env.close()

    one, again, other = record(1), record(1), record(2)
    assert one.lengths.tolist() == [200, 50]
    assert np.flatnonzero(one.chunk.truncated).tolist() == [199, 249]
    assert not one.chunk.terminated.any()
    equal(again.chunk, one.chunk)
    assert (one.chunk.obs[one.starts] != other.chunk.obs[other.starts]).any()


def spaces_of(env):
    return env.observation_space, env.action_space


def test_recorded_dict_observations_round_trip(tmp_path):
    class Nested(Counter):
        observation_space = spaces.Dict({"t": spaces.Tuple((spaces.Discrete(9), Counter.observation_space))})

        def reset(self, **kwargs):
            return {"t": (0, super().reset(**kwargs)[0])}, {}

        def step(self, action):
            obs, *rest = super().step(action)
            return {"t": (int(obs[0]), obs)}, *rest

    env = Nested()
    spec = Spec(env.observation_space, env.action_space)
    played = record_episodes(lambda obs, state, start: (1, None), env, episodes=2)
    data = load_dataset(write_dataset(tmp_path / "set", played, spec))
    count, same = data.chunk.next_obs["t"]
    assert count[:, 0].tolist() == same[:, 0, 0].tolist() == [1, 2, 3, 4] * 2


def test_mix_draws_whole_episodes_without_replacement():
    spec = spec_of("floats × Discrete")
    sets = [assemble(play(spec, [3] * 40, ["truncated"] * 40, seed=s), spec, name=f"set {s}") for s in (0, 1)]
    mixed = mix(sets, [60, 30], seed=5)
    assert (mixed.transitions, mixed.episodes, mixed.name) == (90, 30, "set 0 + set 1")
    assert (mixed.lengths == 3).all()
    pieces = lambda data: {data.chunk.obs[i : i + 3].tobytes() for i in data.starts}
    drawn = pieces(mixed)
    assert len(drawn) == 30
    assert [len(drawn & pieces(data)) for data in sets] == [20, 10]
    equal(mix(sets, [60, 30], seed=5).chunk, mixed.chunk)
    assert pieces(mix(sets, [60, 30], seed=6)) != drawn
    assert mix(sets, [1, 120], seed=0).transitions == 123
    with pytest.raises(ValueError, match="set 1 has 120 transitions: 121 cannot be drawn"):
        mix(sets, [1, 121], seed=0)
    with pytest.raises(ValueError, match="one size for each"):
        mix(sets, [1], seed=0)
    other = Spec(FLOATS, spaces.Discrete(4))
    with pytest.raises(ValueError, match="action_space"):
        mix([sets[0], assemble(play(other), other)], [1, 1], seed=0)


def test_spaces_that_differ_are_named():
    data = assemble(play(spec_of("Dict × MultiDiscrete")), spec_of("Dict × MultiDiscrete"), name="mine")
    actions = data.spec.action_space
    check_spaces(data, data.spec)
    parts = dict(DICT.spaces)
    same = spaces.Dict(parts | {"kind": spaces.Discrete(4, start=-1, dtype=np.int32)})
    check_spaces(data, Spec(same, actions))  # Minari keeps no dtype of a Discrete space
    for space, words in (
        (
            spaces.Dict(parts | {"kind": spaces.Discrete(3, start=-1)}),
            r"its observation_space\['kind'\] is Discrete\(3",
        ),
        (
            spaces.Dict({"kind": parts["kind"]}),
            r"has the parts \['kind'\], the data \['b a', 'image', 'kind'\]",
        ),
        (
            spaces.Dict(parts | {"b a": spaces.Tuple(TUPLE.spaces[:2])}),
            r"observation_space\['b a'\] has the parts",
        ),
        (FLOATS, "its observation_space is Box"),
    ):
        with pytest.raises(ValueError, match=f"does not fit the data set mine: .*{words}"):
            check_spaces(data, Spec(space, actions))
    with pytest.raises(ValueError, match="its action_space is Discrete"):
        check_spaces(data, Spec(DICT, spaces.Discrete(2)))
