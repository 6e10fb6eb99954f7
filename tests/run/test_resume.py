"""Resuming in the host loop: exact where environments can be restored, else new episodes that are said to be new."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest

from actrix import DQN, PPO, SAC, BaseCallback, make_vec_env
from actrix.files import checkpoint, container
from actrix.loops import train
from actrix.loops.train import SeedRun, load_checkpoints, save_checkpoints
from actrix.model import MODELS

NET = {"policy_kwargs": {"net_arch": [8]}}
ROLLOUT = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "normalize": True, **NET}
REPLAY = {"learning_starts": 32, "train_freq": 4, "batch_size": 16, "buffer_size": 128, **NET}
CASES = {
    "ppo": ("CartPole-v1", 2, ROLLOUT),
    "ppo lstm": ("Acrobot-v1", 2, ROLLOUT | {"policy_kwargs": {"net_arch": [8], "cell": "lstm"}}),
    "ppo mujoco": ("Ant-v5", 2, ROLLOUT),
    "reinforce": ("CartPole-v1", 2, {**NET}),
    "dqn": (
        "CartPole-v1",
        1,
        REPLAY | {"per": True, "n_step": 3, "target_update_interval": 16, "noisy": True},
    ),
    "sac": ("Pendulum-v1", 1, REPLAY | {"train_freq": 1, "gradient_steps": 1}),
    "dqn episodes": ("CartPole-v1", 1, REPLAY | {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "ddpg": ("MountainCarContinuous-v0", 1, REPLAY | {"noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}),
    "acer": ("CartPole-v1", 2, {"n_steps": 8, **NET}),
    "sac workers": ("Pendulum-v1", 2, REPLAY),
    "sarsa": ("FrozenLake-v1", 2, {}),
    "q-lambda": ("Taxi-v4", 1, {}),
    "stream-ac": ("CartPole-v1", 1, {**NET}),
}
REPEATED = (
    "ppo", "ppo mujoco", "dqn episodes", "sac", "sac workers", "sarsa", "reinforce", "ddpg", "q-lambda", "acer",
)  # fmt: skip
"""What others of these cases do besides: `slow`. (ACER's loop is PPO's, and its memory goes on in
algorithms/test_resume_presets.py.) That the state of MuJoCo's environments and of workers goes on is in
envs/test_state.py and envs/test_workers.py."""
STEPS = 320
WARM_UP = {"stream-ac": 1024}
"""Steps before the first update: an interruption there leaves no checkpoint."""


def build(case, seed=5, **more):
    env_id, n_envs, settings = CASES[case]
    env = make_vec_env(env_id, n_envs, seed=1, backend="gymnasium", workers="workers" in case)
    return MODELS[case.split()[0]]("MlpPolicy", env, seed=seed, **settings | more)


def tensors(folder):
    """Name → bytes of everything in the newest checkpoint, and its counters."""
    path = checkpoint.checkpoints(folder)[-1]
    header = container.read_header(path)
    meta = {k: v for k, v in header.meta.items() if k != "versions"}
    data, at, found = path.read_bytes()[header.start :], 0, {}
    for name, tensor in header.tensors.items():
        found[name], at = (str(tensor), data[at : at + tensor.size]), at + tensor.size
    return found, meta


def assert_same(one, two):
    (arrays, meta), (arrays_, meta_) = tensors(one), tensors(two)
    assert [n for n in {*arrays, *arrays_} if arrays.get(n) != arrays_.get(n)] == []
    assert meta == meta_


@pytest.fixture
def keep_all(monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP", 10**6)
    monkeypatch.setattr(train, "SAVE_SHARE", np.inf)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in REPEATED else case for case in CASES]
)
def test_a_resumed_call_is_the_uninterrupted_one(case, tmp_path, keep_all):
    """Also: saving after every update changes nothing, and what is saved first is no later."""
    steps = STEPS + WARM_UP.get(case, 0)
    build(case).learn(steps, checkpoint_dir=tmp_path / "plain", checkpoint_seconds=1e9)
    build(case).learn(steps, checkpoint_dir=tmp_path / "whole", checkpoint_seconds=0)
    assert_same(tmp_path / "plain", tmp_path / "whole")
    saved = checkpoint.checkpoints(tmp_path / "whole")
    assert len(saved) > 3
    (tmp_path / "part").mkdir()
    shutil.copy(saved[len(saved) // 3], tmp_path / "part")
    model = build(case, seed=99)  # the seed is the checkpoint's
    model.learn(steps, resume_from=tmp_path / "part", checkpoint_seconds=1e9)
    assert model.seed == 5
    assert_same(tmp_path / "part", tmp_path / "whole")


class Countless(gym.Wrapper):
    """A wrapper that actrix does not know: its state cannot be saved."""


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (dict(env_id="CartPole-v1", wrapper_class=Countless), "the wrapper Countless"),
        (dict(env_id="CartPole-v1", backend="envpool"), "EnvPool does not give the state"),
        (dict(env_id="LunarLander-v3", backend="gymnasium"), "LunarLander"),
    ],
    ids=["wrapper", "envpool", "box2d"],
)
def test_new_episodes_where_environments_cannot_be_restored(what, why, tmp_path, capsys):
    """Two resumes of one checkpoint agree, the open episodes are counted as dropped, and the reason is said; another
    resume of the same step by the same seed does not repeat their episodes."""

    def model():
        return PPO("MlpPolicy", make_vec_env(n_envs=2, seed=1, **what), seed=5, **ROLLOUT)

    model().learn(96, checkpoint_dir=tmp_path / "whole")
    for name in ("a", "b"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        again = model()
        again.verbose = 1
        again.learn(160, resume_from=tmp_path / name)
        assert again.run.resumes == 1
        assert 1 <= again.run.dropped_episodes <= 2, "one may just have ended"
    assert_same(tmp_path / "a", tmp_path / "b")
    out = capsys.readouterr().out
    assert "new episodes" in out
    assert why in out
    third = model()
    seeds, reseed = [], third.runner.reseed
    third.runner.reseed = lambda given: (seeds.extend(given), reseed(given))
    third.learn(192, resume_from=tmp_path / "a")
    assert third.run.resumes == 2
    first = model()
    first.runner.reseed = seeds.extend
    train.load_checkpoints(first.runner, [SeedRun(5, checkpoints=tmp_path / "whole")])
    assert len({*seeds}) == 2


def test_what_a_memory_holds_is_cut_where_episodes_were_dropped(tmp_path):
    def model():
        env = make_vec_env("CartPole-v1", 1, seed=1, wrapper_class=Countless)
        return DQN("MlpPolicy", env, seed=5, **REPLAY | {"n_step": 3})

    model().learn(60, checkpoint_dir=tmp_path)
    again = model()
    again.learn(64, resume_from=tmp_path)
    rows = again.runner.learners[0].memory.rows
    head = int(rows.head[0])
    first = np.asarray(rows.first[:head, 0])
    resumed_at = np.flatnonzero(first)[-1]
    assert bool(rows.truncated[resumed_at - 2, 0] | rows.terminated[resumed_at - 2, 0])
    assert not bool(rows.valid[resumed_at - 1, 0]), "the extra row that keeps the true successor"


def test_an_error_inside_a_chunk_leaves_a_checkpoint_without_episodes(tmp_path):
    """The rows since the last update are lost: going on in the same episodes would leave a gap in them."""
    model = build("ppo")
    model.learn(64)
    original = model.env.host.step
    model.env.host.step = lambda action: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.learn(32, reset_num_timesteps=False)
    (snapshot,) = model.runner.snapshots()
    assert snapshot.loop["env"] is None
    # Where an earlier file of this step still has its episodes, it stays.
    run, kept = SeedRun(5, checkpoints=tmp_path, steps=64, iterations=2), b"with its episodes"
    (tmp_path / "step_000000000064.safetensors").write_bytes(kept)
    save_checkpoints(model.runner, [run])
    assert checkpoint.checkpoints(tmp_path)[0].read_bytes() == kept
    run.steps = 96
    save_checkpoints(model.runner, [run])
    assert len(checkpoint.checkpoints(tmp_path)) == 2
    model.env.host.step = original
    model.learn(32)
    assert model.runner.snapshots()[0].loop["env"] is not None


def test_a_callbacks_stop_and_a_resume_from_there(tmp_path):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 30

    model = build("dqn")
    model.learn(STEPS, callback=Stop(), checkpoint_dir=tmp_path)
    again = build("dqn")
    again.learn(STEPS, resume_from=tmp_path)
    assert STEPS <= again.num_timesteps < STEPS + 4


def test_counting_goes_on_as_in_the_call_that_was_interrupted(tmp_path):
    """`total_timesteps` is the interrupted call's, also where that began at some step."""
    model = build("ppo")
    model.learn(64)
    model.learn(96, reset_num_timesteps=False, checkpoint_dir=tmp_path)
    assert model.num_timesteps == 160
    again = build("ppo")
    again.learn(128, reset_num_timesteps=False, resume_from=tmp_path)
    assert again.num_timesteps == 192


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.5}, r"settings.gamma is 0.5, the checkpoint has 0.99"),
        (
            {"policy_kwargs": {"net_arch": [9]}},
            r"settings.policy_kwargs.pi is \[9\], the checkpoint has \[8\]",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(change, message, tmp_path):
    build("ppo").learn(64, checkpoint_dir=tmp_path)
    before = sorted(p.name for p in tmp_path.glob("step_*"))
    with pytest.raises(ValueError, match=message):
        build("ppo", **change).learn(96, resume_from=tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == before


def test_from_a_run_folder(tmp_path):
    """What `actrix train` left goes on in Python; its folder stays as it is."""
    from actrix.runs import start as experiment
    from actrix.runs.config import resolve

    config = resolve("ppo", "CartPole-v1", steps=64, n_envs=2, seeds=[5], settings=ROLLOUT)
    experiment.start(config, tmp_path / "run", quiet=True)
    before = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    model = PPO("MlpPolicy", "CartPole-v1", n_envs=2, **config.settings)
    model.learn(96, resume_from=tmp_path / "run", checkpoint_dir=tmp_path / "more")
    assert (model.num_timesteps, model.seed) == (96, 5)
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == before
    longer = experiment.resume(tmp_path / "run", steps=96, quiet=True)
    assert longer.finished
    whole, _ = tensors(tmp_path / "run" / "checkpoints")
    found, _ = tensors(tmp_path / "more")
    other = "['learner'].training.total_steps"
    assert {n for n in whole if whole[n] != found[n]} <= {other}


def test_other_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no checkpoint to resume from"):
        build("ppo").learn(64, resume_from=tmp_path / "nothing")
    build("ppo").learn(64, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="algorithm is"):
        SAC("MlpPolicy", "Pendulum-v1").learn(64, resume_from=tmp_path)
    (path,) = checkpoint.checkpoints(tmp_path)
    with pytest.raises(container.ModelFileError, match="'checkpoint', not a model"):
        PPO.load(path)


def test_another_loops_checkpoint_is_refused(tmp_path):
    """Compiled and host loops carry different things from chunk to chunk."""
    build("ppo").learn(64, checkpoint_dir=tmp_path)
    compiled = PPO("MlpPolicy", "CartPole-v1", n_envs=2, seed=5, **ROLLOUT)
    assert compiled.runner.backend == "jax"
    with pytest.raises(ValueError, match="of another model: env"):
        compiled.learn(96, resume_from=tmp_path)
    with pytest.raises(container.ModelFileError, match=r"fit|the key"):
        load_checkpoints(compiled.runner, [SeedRun(5, checkpoints=tmp_path)])


def test_a_damaged_loop_is_refused(tmp_path):
    """The checksums are right, the contents are not."""
    model = build("ppo")
    model.learn(64, checkpoint_dir=tmp_path)
    (path,) = checkpoint.checkpoints(tmp_path)
    header = container.read_header(path)
    snapshot, counters = checkpoint.load(path, model.runner.snapshots()[0].learner)
    snapshot.loop["env"]["memory"] = [np.zeros(3)]
    path.unlink()
    checkpoint.save(tmp_path, snapshot, {k: counters[k] for k in (*header.meta, "history") if k in counters})
    with pytest.raises(container.ModelFileError, match="memory holds"):
        load_checkpoints(build("ppo").runner, [SeedRun(5, checkpoints=tmp_path)])


def test_64_bit_numbers_and_infinities_of_the_loop_survive(tmp_path):
    from actrix.files.checkpoint import Snapshot

    loop = {"x": np.array([np.inf, 1e300, -0.0]), "n": np.array([2**40]), "big": 2**100, "none": None}
    run = SeedRun(1, checkpoints=tmp_path, steps=2**40, iterations=1)
    run.returns.extend([np.inf, 1.5])
    run.lengths.extend([3, 4])
    checkpoint.save(tmp_path, Snapshot({"w": np.ones(2, np.float32)}, loop), run.counters)
    found, counters = checkpoint.load_newest(tmp_path, {"w": np.ones(2, np.float32)})
    assert found.loop["big"] == 2**100
    for name in ("x", "n"):
        assert found.loop[name].tobytes() == loop[name].tobytes()
    assert counters["num_timesteps"] == 2**40
    assert counters["history"]["ep_returns"].tolist() == [np.inf, 1.5]
    assert json.dumps(counters["run"]) == "{}"
