"""One seed, many streams, which neither meet each other nor feel who watches: item by item of what a run writes."""

import jax
import numpy as np
import pytest

from actrix import DQN, PPO, EvalCallback, make_vec_env
from actrix.envs.guard import env_seeds
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs
from actrix.loops.runner import iteration_keys, run_keys, warm_up_key

SEEDS = [0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**64]
NET = {"policy_kwargs": {"net_arch": [4]}, "seed": 3}


def test_streams_of_a_run_and_of_its_neighbours_are_distinct():
    """Initialisation, environments, acting and learning of every iteration, of seeds that 32 bits would confuse."""
    keys = []
    for seed in SEEDS:
        init, envs, iterations = run_keys(seed)
        keys += [init, envs, iterations, *(warm_up_key(iterations, piece) for piece in range(3))]
        keys += [key for i in (0, 1, 2**31 - 9) for key in iteration_keys(iterations, i)]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == len(keys)
    same = [jax.random.key_data(run_keys(seed)[0]).tobytes() for seed in (5, np.int64(5), np.uint8(5))]
    assert len(set(same)) == 1


def test_environments_of_neighbouring_seeds_share_no_seed(monkeypatch):
    """Neither in the host loop, which seeds them from the run's seed, nor where they are made."""
    given = []

    def reset(self, seeds=None):
        given.extend(seeds)
        raise KeyboardInterrupt

    for seed in (0, 1, 2):
        model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=9), n_steps=8, **NET | {"seed": seed})
        monkeypatch.setattr(type(model.env.host), "reset", reset)
        with pytest.raises(KeyboardInterrupt):
            model.learn(64)
        monkeypatch.undo()
        given += env_seeds(seed, 8)
    assert len(given) == len(set(given)) == 48
    assert all(0 <= seed < 2**31 for seed in given)


def build(kind, mode):
    env = ActionObs() if mode == "compiled" else HostJax(ActionObs(), 4)
    if kind == "ppo":
        return PPO("MlpPolicy", env, n_envs=4, n_steps=8, batch_size=16, n_epochs=2, normalize=True, **NET)
    settings = {"learning_starts": 16, "batch_size": 8, "buffer_size": 256, "per": True}
    return DQN("MlpPolicy", env, n_envs=4, **settings, **NET)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("ppo", "compiled"),
     *(pytest.param(*x, marks=pytest.mark.slow) for x in (("ppo", "host"), ("dqn", "compiled"), ("dqn", "host")))],
)  # fmt: skip
def test_nobody_who_watches_changes_a_bit(kind, mode, tmp_path, capsys):
    """Logs, progress, checkpoints after every segment and evaluations: the whole learner is as without them."""
    quiet = build(kind, mode).learn(320)
    watched = build(kind, mode)
    watched.verbose, watched.tensorboard_log = 1, str(tmp_path / "events")
    evaluation = EvalCallback(HostJax(ActionObs(), 2), eval_freq=8, n_eval_episodes=3, verbose=0)
    watched.learn(
        320, callback=evaluation, log_interval=3, checkpoint_dir=tmp_path / "c", checkpoint_seconds=0
    )
    assert len(evaluation.evaluations_timesteps) > 1
    assert list((tmp_path / "events").rglob("events.*"))
    assert list((tmp_path / "c").glob("step_*"))
    assert "total_timesteps" in capsys.readouterr().out
    one, two = (jax.tree_util.tree_leaves_with_path(m.runner.learners[0]) for m in (quiet, watched))
    for (path, x), (_, y) in zip(one, two, strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)
