"""What scripts log and save: `logger.configure`, text and pictures, every space and setting in files."""

import json
import re
import sys

import equinox as eqx
import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tensorboardX.proto.event_pb2 import Event
from worlds import LENGTH, Counting

import actrix
from actrix import (
    PPO,
    Figure,
    HParam,
    HumanOutputFormat,
    Image,
    KVWriter,
    Logger,
    ModelFileError,
    SettingError,
    Video,
    configure,
    evaluate_policy,
    make_vec_env,
)
from actrix.cli import main
from actrix.core.spaces import DTYPES, UnsupportedSpaceError
from actrix.files.spaces import space_from_json, space_to_json
from actrix.runs.config import resolve
from actrix.runs.start import model_env_id
from actrix.show.log import DEBUG, DISABLED, INFO
from actrix.show.metrics import read_metrics
from samples import Samples

SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}, "seed": 0}


def summaries(folder):
    """(step, value) of all that an event file holds."""
    (path,) = folder.glob("events.*")
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, v) for v in event.summary.value]
        data = data[16 + size :]
    return found


# ------------------------------------------------------------------ logs


def test_configure_and_set_logger(tmp_path, capsys):
    logger = configure(tmp_path / "log", ["stdout", "csv", "tensorboard"])
    assert logger.get_dir() == str(tmp_path / "log")
    model = PPO("MlpPolicy", make_vec_env(Counting, 1), tensorboard_log=tmp_path / "other", **SMALL)
    model.learn(8)
    own = model.logger
    model.set_logger(logger)
    model.learn(8)
    model.learn(8, reset_num_timesteps=False)
    assert model.logger is logger
    assert read_metrics(tmp_path / "log")["time/total_timesteps"].tolist() == [8, 16]
    assert "ep_rew_mean" in capsys.readouterr().out
    assert {8, 16} <= {step for step, _ in summaries(tmp_path / "log")}
    assert len(list((tmp_path / "other").iterdir())) == 1
    for log in (own, logger):
        log.close()
        with pytest.raises(ValueError, match="is closed"):
            log.dump(24)
    with pytest.raises(ValueError, match="is closed"):
        model.learn(8)


class Kept(KVWriter):
    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((key_values, key_excluded, step))

    def close(self):
        self.closed = True


def test_rows_go_to_writers_of_ones_own(capsys):
    kept = Kept()
    with Logger(None, [HumanOutputFormat(sys.stdout), kept]) as logger:
        model = PPO("MlpPolicy", make_vec_env(Counting, 1), **SMALL)
        model.set_logger(logger)
        model.learn(16)
        logger.record("note", "text", exclude="csv")
        logger.dump(17)
    assert [step for _, _, step in kept.rows] == [8, 16, 17]
    assert kept.rows[1][0]["rollout/ep_len_mean"] == LENGTH
    assert kept.rows[2][0]["note"] == "text"
    assert kept.rows[2][1] == {"note": ("csv",), "time/total_timesteps": ()}
    assert kept.closed
    assert capsys.readouterr().out.count("total_timesteps") == 3
    with pytest.raises(TypeError, match="objects with write"):
        Logger(None, ["stdout"])


def test_messages_have_levels(capsys):
    with configure(None, ["stdout"]) as logger:
        say = lambda: [getattr(logger, name)(name) for name in ("debug", "info", "warn", "error")]
        for level, printed in ((INFO, 3), (DEBUG, 4), (DISABLED, 0)):
            logger.set_level(level)
            say()
            assert len(capsys.readouterr().out.split()) == printed
    assert (logger.level, logger.dir) == (DISABLED, logger.get_dir())


def test_counting_goes_on_from_the_number_that_is_set():
    model = PPO("MlpPolicy", make_vec_env(Counting, 1), **SMALL).learn(8)
    model.num_timesteps = 1000
    assert model.learn(8, reset_num_timesteps=False).num_timesteps == 1008
    assert float(model.runner.learners[0].training.steps) == 1008
    assert model.learn(8).num_timesteps == 8


def test_what_configure_and_set_logger_refuse(tmp_path, monkeypatch):
    for name in ("json", "log"):
        with pytest.raises(ValueError, match=f"'{name}' is not written .metrics.csv holds"):
            configure(tmp_path, ["csv", name])
    with pytest.raises(ValueError, match="choose of csv, tensorboard, stdout"):
        configure(tmp_path, ["wandb"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        TypeError, match=r"actrix.configure.folder, formats. makes, or an actrix.Logger, not a str"
    ):
        PPO("MlpPolicy", None, **SMALL).set_logger("log")
    with configure(tmp_path, "csv") as logger:
        logger.dump(3)
    with pytest.raises(FileExistsError, match="resume_step"):
        configure(tmp_path, ["csv"])
    with configure(tmp_path, ["csv"], resume_step=2) as logger:
        logger.dump(4)
    assert read_metrics(tmp_path)["time/total_timesteps"].tolist() == [4]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    configure().close()
    assert len(list(tmp_path.glob("actrix-*/metrics.csv"))) == 1


def test_text_and_arrays(tmp_path, capsys):
    with configure(tmp_path, ["stdout", "csv", "tensorboard"]) as logger:
        logger.record("note", "hello\nworld" + "x" * 40)
        logger.record("hidden", "quiet", exclude=("stdout", "log", "json", "csv"))
        logger.record("weights", np.array([1.0, 2.0, np.nan, 4.0]))
        logger.record("jax", jnp.ones((2, 2), jnp.bfloat16))
        logger.record("nothing", np.full(3, np.nan))
        logger.record("both", "text")
        logger.record("both", 1)
        logger.record("loss", 1)
        logger.record("loss", "diverged", exclude="tensorboard")
        assert logger.name_to_value == {"both": 1}
        assert logger.dump(5) == {"time/total_timesteps": 5, "both": 1}
        logger.record("new", 2)
        assert logger.name_to_value == {"time/total_timesteps": 5, "both": 1, "new": 2}
        assert logger.values == {"new": 2}
    assert list(read_metrics(tmp_path)) == ["time/total_timesteps", "both"]
    out = capsys.readouterr().out
    assert r"hello\nworldxxxxxxxxxxxxxxxxxxxxx..." in out
    assert "quiet" not in out
    assert "weights" not in out
    assert "diverged" in out
    found = {v.tag: v for _, v in summaries(tmp_path)}
    assert found["note/text_summary"].tensor.string_val[0].decode() == "hello\nworld" + "x" * 40
    assert found["hidden/text_summary"].metadata.plugin_data.plugin_name == "text"
    histogram = found["weights"].histo
    assert (histogram.num, histogram.sum, histogram.min, histogram.max) == (3, 7, 1, 4)
    assert found["jax"].histo.sum == 4
    assert not {"nothing", "loss", "loss/text_summary"} & set(found)


def test_pictures_and_hyperparameters(tmp_path):
    from matplotlib.figure import Figure as Drawing

    pixels = np.zeros((4, 6, 3), np.uint8)
    with configure(tmp_path, ["csv", "tensorboard"]) as logger:
        logger.record("image", Image(pixels, "HWC"), exclude=("stdout", "csv"))
        drawing = Drawing(figsize=(1, 1), dpi=20)
        drawing.add_subplot().plot([1, 2])
        logger.record("figure", Figure(drawing, close=True))
        logger.record("hparams", HParam({"gamma": 0.9}, {"rollout/ep_rew_mean": 0.0}))
        logger.dump(1)
        pixels[:] = 255
    found = {v.tag: v for _, v in summaries(tmp_path)}
    assert (found["image"].image.height, found["image"].image.width) == (4, 6)
    assert (found["figure"].image.height, found["figure"].image.width) == (20, 20)
    assert "_hparams_/experiment" in found
    with pytest.raises(ValueError, match="actrix video"):
        Video(np.zeros((1, 2, 3, 4, 4)), fps=4)
    with pytest.raises(TypeError, match="text, an array"):
        actrix.configure(tmp_path / "b", ["csv"]).record("x", [1, 2])


def test_a_resumed_log_hides_what_was_written_after_the_checkpoint(tmp_path):
    for steps, resume in [((1, 2), None), ((2, 3), 1)]:
        with configure(tmp_path, ["tensorboard", "csv"], resume_step=resume) as logger:
            for step in steps:
                logger.record("note", f"{step} of {resume}")
                logger.dump(step)
    assert read_metrics(tmp_path)["time/total_timesteps"].tolist() == [1, 2, 3]
    assert [step for step, v in summaries(tmp_path) if v.tag == "note/text_summary"] == [1, 2, 2, 3]
    (path,) = tmp_path.glob("events.*")
    assert (
        Event(step=2, session_log={"status": 1}).SerializeToString() in path.read_bytes()
    )  # hides the first 2


# ------------------------------------------------------------------ what trains can be saved


class Drawn(Samples):
    """Two steps to an episode, each worth 1."""

    length, terminates = 2, True

    def reward(self, action):
        return 1.0


BOX = spaces.Box(-1, 1, (2,), np.float32)
ODD = spaces.Dict(
    {"2": BOX, "b b": spaces.Discrete(3, start=-2), "a.c": spaces.Tuple((spaces.MultiBinary(2), BOX))}
)
OBSERVATIONS = {
    "float32": BOX,
    "float64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "float16": spaces.Box(0, 1, (2, 2), np.float16),
    "scalar": spaces.Box(0, 1, (), np.float32),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "bytes": spaces.Box(0, 255, (3,), np.uint8),
    "bool": spaces.Box(0, 1, (3,), np.bool_),
    "int": spaces.Box(-5, 5, (2,), np.int64),
    "discrete": spaces.Discrete(4, start=-1),
    "one": spaces.Discrete(1),
    "multidiscrete": spaces.MultiDiscrete([3, 2], start=[1, -1]),
    "multibinary": spaces.MultiBinary(3),
    "bits": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((BOX, spaces.MultiBinary(2))),
    "nested": ODD,
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=5),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "multibinary": spaces.MultiBinary(2),
    "box": spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32)),
    "box64": spaces.Box(-1, 1, (1, 2), np.float64),
}
FOUR = {"policy_kwargs": {"net_arch": [4]}}
CHUNK = FOUR | {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
RING = FOUR | {"learning_starts": 4, "batch_size": 4, "buffer_size": 16}
TAKES = {"discrete": ("DQN", RING), "box": ("SAC", RING), "box64": ("TD3", RING)}
"""What learns from a memory with these actions; PPO takes all."""


def survives(cls, observation_space, action_space, folder, settings, steps=16, template=False, env=Drawn):
    """Train, go on from a checkpoint, save, load, act, evaluate: each of them as if nothing had been written."""
    make = lambda: cls("MlpPolicy", env(observation_space, action_space), seed=3, **settings)
    model = make().learn(steps, checkpoint_dir=folder / "c")
    again = make().learn(steps, resume_from=folder / "c")
    path = again.save(folder / "m")
    loaded = cls.load(path, **({"template": make()} if template else {}))
    ours, theirs, read = (m.get_parameters() for m in (model, again, loaded))
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value)
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype
    assert loaded.spec == model.spec
    env = env(observation_space, action_space)
    for _ in range(3):
        obs = env.observation_space.sample()
        actions = [m.predict(obs, deterministic=True)[0] for m in (model, loaded)]
        np.testing.assert_array_equal(*actions)
        assert env.action_space.contains(actions[0])
    assert evaluate_policy(loaded, env, 2)[0] == 2
    return loaded


PAIRS = [(o, a, PPO, CHUNK) for o in OBSERVATIONS for a in ACTIONS]
PAIRS += [(o, a, getattr(actrix, name), ring) for o in OBSERVATIONS for a, (name, ring) in TAKES.items()]
FEW = [
    ("nested", "multidiscrete", "PPO"),
    ("bytes", "multibinary", "PPO"),
    ("bool", "discrete", "PPO"),
    ("float64", "box64", "TD3"),
]
"""Pairs that cover the kinds; the others are slow."""


@pytest.mark.parametrize(
    ("seen", "done", "cls", "settings"),
    [
        pytest.param(
            *pair,
            id=f"{pair[0]}-{pair[1]}-{pair[2].__name__}",
            marks=[] if (*pair[:2], pair[2].__name__) in FEW else pytest.mark.slow,
        )
        for pair in PAIRS
    ],
)
def test_every_space_survives(tmp_path, seen, done, cls, settings):
    survives(cls, OBSERVATIONS[seen], ACTIONS[done], tmp_path, settings)


class Squared(eqx.Module):
    """An encoder of the user's own."""

    weight: jnp.ndarray

    def __init__(self, space, key):
        self.weight = jnp.ones((space.shape[0], 3)) * 0.1

    def __call__(self, obs):
        return (obs @ self.weight) ** 2


def swish(x):
    return x * jnp.tanh(x)


def net(**more):
    return {"policy_kwargs": {"net_arch": [4], **more}}


NOISE = actrix.OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.1 * np.ones(2))
NUMBERS = {"gamma": np.float32(0.5), "n_epochs": np.int64(1), "ent_coef": jnp.float32(0.25)}
WORDS = {"critic": "v-trace", "actor": "score", "data": "lag:2"}
MANY = {
    "schedule": (PPO, "box", CHUNK | {"learning_rate": "lin_0.001", "clip_range": actrix.Linear(0.3, 0.1)}),
    "function": (PPO, "discrete", CHUNK | {"learning_rate": lambda left: 1e-3 * left**2}),
    "activation by name": (PPO, "discrete", CHUNK | net(activation_fn="relu")),
    "activation function": (PPO, "discrete", CHUNK | net(activation_fn=swish)),
    "extractor": (PPO, "discrete", CHUNK | net(features_extractor_class=Squared)),
    "extractor of critics": (actrix.SAC, "box", RING | net(features_extractor_class=Squared)),
    "normalised": (PPO, "box", CHUNK | {"normalize": True, "target_kl": 0.1, "clip_range_vf": 0.2}),
    "recurrent": (PPO, "discrete", CHUNK | net(cell="lstm", lstm_hidden_size=3)),
    "transformer": (PPO, "discrete", CHUNK | net(cell="transformer", d_model=8, context=3)),
    "gru": (actrix.A2C, "box", FOUR | {"n_steps": 4} | net(cell="gru", lstm_hidden_size=3)),
    "prioritised": (actrix.DQN, "discrete", RING | {"prioritized": True, "priority_beta": "lin_0.4_1.0", "n_steps": 2}),
    "distributional": (actrix.Rainbow, "discrete", RING | {"n_atoms": 5}),
    "noise": (actrix.TD3, "box", RING | {"action_noise": NOISE}),
    "critics normalised": (actrix.TQC, "box", RING | {"normalize_obs": True, "n_quantiles": 3, "ent_coef": "auto_0.2"}),
    "trajectories": (actrix.ACER, "discrete", FOUR | {"n_steps": 4, "buffer_size": 64, "learning_starts": 8}),
    "numpy's numbers": (PPO, "discrete", CHUNK | NUMBERS | net(net_arch={"pi": (np.int64(4),), "vf": np.array([4])})),
    "words": (actrix.ActorCritic, "discrete", FOUR | WORDS | {"n_steps": 4}),
}  # fmt: skip
QUICK = ("function", "activation function", "recurrent", "prioritised")


TABLE = spaces.MultiDiscrete([[3, 2], [2, 2]])
SWAPPED = {kind: np.dtype(kind).newbyteorder() for kind in ("float32", "float64", "int16", "int64")}
UNSTORED = [
    (TABLE, None, "MultiDiscrete must have one"),
    (None, TABLE, "MultiDiscrete must have one"),
    (spaces.Dict({1: BOX, 2: BOX}), None, r"has the key 1 \(int\); keys of a Dict must be text.*: '1'\."),
    (spaces.Dict(a=spaces.Dict({3: BOX})), None, r"space\['a'\] has the key 3 \(int\)"),
    (spaces.Tuple((BOX, spaces.Dict({4: BOX}))), None, r"space\[1\] has the key 4 \(int\)"),
    *((spaces.Box(0, 1, (2,), dtype), None, f"byte order: make .*, {kind}") for kind, dtype in SWAPPED.items()),
    (spaces.Dict(a=spaces.Box(0, 1, (2,), SWAPPED["float32"])), None, r"\['a'\] holds .f4"),
    (None, spaces.Box(-1, 1, (2,), SWAPPED["float32"]), "action space holds .f4"),
    (spaces.MultiDiscrete([2, 3], SWAPPED["int64"]), None, "space holds .i8"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "done", "message"), UNSTORED)
def test_a_space_that_cannot_be_stored_is_refused_when_the_model_is_built(seen, done, message):
    with pytest.raises(UnsupportedSpaceError, match=message):
        PPO("MlpPolicy", Drawn(BOX if seen is None else seen, BOX if done is None else done), **CHUNK)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_box_of_every_dtype_comes_back_from_a_file(dtype):
    low = np.array([0, 1]).astype(dtype)
    space = spaces.Box(
        low, low | True if dtype == "bool" else low + low.dtype.type(1), dtype=np.dtype(dtype).type
    )
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MANY]
)
def test_every_setting_survives(tmp_path, name):
    cls, actions, settings = MANY[name]
    steps = 40 if settings.get("normalize") else 16
    survives(cls, BOX, ACTIONS[actions], tmp_path, settings, steps, template=True)


def test_a_reference_survives(tmp_path):
    reference = PPO("MlpPolicy", Drawn(BOX, ACTIONS["discrete"]), **CHUNK)
    settings = CHUNK | {"reference": reference, "ref_kl_coef": 0.1}
    loaded = survives(PPO, BOX, ACTIONS["discrete"], tmp_path / "reference", settings)
    with pytest.raises(ValueError, match="give reference=model"):
        PPO.load(loaded.save(tmp_path / "near"), Drawn(BOX, ACTIONS["discrete"]))


class Goal(Drawn):
    """Any goal is worth the same."""

    def compute_reward(self, achieved, desired, info):
        return np.ones(np.shape(achieved)[:-1])


@pytest.mark.slow  # data/test_hindsight.py saves and loads a model with it
def test_hindsight_survives(tmp_path):
    goals = spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
    survives(
        actrix.DQN,
        goals,
        ACTIONS["discrete"],
        tmp_path,
        RING | {"data": "hindsight", "learning_starts": 8},
        env=Goal,
    )


# ------------------------------------------------------------------ arguments of the environment


class Sized(Counting):
    """Cannot be made without its function."""

    def __init__(self, reward, size=(2,)):
        super().__init__()
        assert callable(reward)
        self.size = size


@pytest.fixture(scope="module")
def sized():
    gym.register("Sized-v0", entry_point=Sized)
    yield "Sized-v0"
    gym.registry.pop("Sized-v0")


def test_what_a_file_could_not_hold_is_asked_for(sized, tmp_path, capsys):
    reward = lambda x: x
    model = PPO("MlpPolicy", sized, env_kwargs={"reward": reward, "size": (3, 4)}, **SMALL)
    with pytest.warns(UserWarning, match="env_kwargs reward cannot be written"):
        path = model.save(tmp_path / "m")
    asks = r"Sized-v0 was made with env_kwargs reward, .* load\(path, env_kwargs=\{'reward': …\}\)"
    with pytest.raises(ModelFileError, match=asks):
        PPO.load(path, sized)
    loaded = PPO.load(path)
    assert loaded.left_out == ("reward",)
    assert loaded.env_kwargs == {"size": [3, 4]}  # JSON has no tuples
    for call in (
        lambda: loaded.set_env(sized),
        lambda: model_env_id(loaded),
        lambda: model_env_id(loaded, sized),
    ):
        with pytest.raises(ModelFileError, match=asks):
            call()
    assert model_env_id(loaded, "CartPole-v1") == "CartPole-v1"
    for command in ("eval", "video"):
        assert main([command, str(path)]) == 2
        assert "made with env_kwargs reward" in capsys.readouterr().err
    assert PPO.load(loaded.save(tmp_path / "again")).left_out == ("reward",)
    given = PPO.load(path, sized, env_kwargs={"reward": reward})
    assert given.left_out == ()
    assert given.env_kwargs == {"reward": reward, "size": [3, 4]}
    loaded.set_env(Sized(reward))
    assert main(["inspect", str(path)]) == 0
    assert re.search(r'env_kwargs_left_out +\["reward"\]', capsys.readouterr().out)


def test_run_folders_hold_all_arguments_or_are_refused(sized, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(SettingError, match=r"env_kwargs reward cannot be written to a run's config.json"):
        actrix.train_seeds("ppo", sized, [0], 64, folder, env_kwargs={"reward": lambda x: x})
    assert not folder.exists()
    config = resolve("ppo", "CartPole-v1", env_kwargs={"sutton_barto_reward": np.bool_(True)})
    assert config.env_kwargs == {"sutton_barto_reward": True}


def test_addresses_do_not_tell_one_training_from_another(sized, tmp_path):
    def train(steps, **kwargs):
        model = PPO("MlpPolicy", sized, env_kwargs={"reward": lambda x: x}, **SMALL)
        return model.learn(steps, **kwargs)

    train(8, checkpoint_dir=tmp_path)
    assert train(16, resume_from=tmp_path).num_timesteps == 16


def test_a_run_whose_statistics_take_the_budget_is_refused(tmp_path):
    small = {"n_steps": 8, "batch_size": 8, "normalize": True, "n_epochs": 1}
    with pytest.raises(SettingError, match=r"the first 16 steps fill the statistics .* budget is 16"):
        actrix.train_seeds("ppo", "CartPole-v1", [0], 16, tmp_path / "run", n_envs=2, settings=small)
    assert not (tmp_path / "run").exists()


def test_messages_go_where_tables_are_printed(tmp_path, capsys):
    with configure(tmp_path / "shown", ["stdout"]) as loud, configure(tmp_path / "kept", ["csv"]) as quiet:
        loud.info("level", 2)
        quiet.warn("nothing of this")
    assert capsys.readouterr().out == "level 2\n"
