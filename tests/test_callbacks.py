"""Callbacks under Stable-Baselines3's names, in both loops; none of them changes the training."""

import functools

import gymnasium as gym
import numpy as np
import pytest

import actrix
from actrix import (
    PPO,
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs, ConstantReward
from actrix.show.log import Logger

MODES = ["compiled", "host"]
both = pytest.mark.parametrize("mode", MODES)
CHUNK = 32  # 8 steps of 4 environments


def make(mode="host", env=ActionObs, cls=PPO, **settings):
    env = env() if mode == "compiled" else HostJax(env(), 4)
    settings = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}} | settings
    return cls("MlpPolicy", env, n_envs=4, seed=0, **settings)


@functools.cache
def undisturbed(mode):
    return make(mode, normalize=True).learn(4 * CHUNK).get_parameters()


class Count(BaseCallback):
    """Counts every hook and remembers num_timesteps at each step."""

    def __init__(self):
        super().__init__()
        self.seen, self.calls = [], dict.fromkeys(("init", "start", "rollout", "rollout end", "end"), 0)

    def _init_callback(self):
        self.calls["init"] += 1

    def _on_training_start(self):
        self.calls["start"] += 1
        assert self.training_env is self.model.get_env()

    def _on_rollout_start(self):
        self.calls["rollout"] += 1

    def _on_step(self):
        self.seen.append(self.num_timesteps)
        return True

    def _on_rollout_end(self):
        self.calls["rollout end"] += 1

    def _on_training_end(self):
        self.calls["end"] += 1


# run/test_streams.py has the compiled loop.
@pytest.mark.parametrize("mode", [pytest.param("compiled", marks=pytest.mark.slow), "host"])
def test_nothing_changes_the_training(mode, tmp_path):
    """Evaluating (stochastically, on any environment), saving and predicting leave every bit as it was."""
    evaluation = EvalCallback(
        HostJax(ActionObs(), 3), eval_freq=3, n_eval_episodes=7, deterministic=False, verbose=0,
        log_path=tmp_path, best_model_save_path=tmp_path,
    )  # fmt: skip
    model = make(mode, normalize=True)

    def predict(locals_, globals_):
        locals_["self"].predict(np.zeros(2, np.float32))

    callbacks = [evaluation, CheckpointCallback(5, tmp_path), predict, Count()]
    model.learn(4 * CHUNK, callback=callbacks)
    for key, value in undisturbed(mode).items():
        np.testing.assert_array_equal(model.get_parameters()[key], value, err_msg=key)
    assert len(evaluation.evaluations_timesteps) > 1


def test_every_hook_runs_and_steps_are_counted():
    model, count = make(), Count()
    model.learn(2 * CHUNK, callback=CallbackList([count]))
    assert count.seen == list(range(4, 2 * CHUNK + 1, 4))
    assert count.calls == {"init": 1, "start": 1, "rollout": 2, "rollout end": 2, "end": 1}
    model.learn(CHUNK, callback=count, reset_num_timesteps=False)
    assert count.seen[-8:] == list(range(2 * CHUNK + 4, 3 * CHUNK + 1, 4))
    compiled = Count()
    make("compiled").learn(3 * CHUNK, callback=compiled)
    assert compiled.seen[-1] == 3 * CHUNK
    assert compiled.seen == sorted(compiled.seen)


@both
def test_steps_are_counted_once_with_a_warm_up(mode):
    """The warm-up chunk of the statistics counts, once; callbacks run in training only."""
    model, count = make(mode, normalize=True), Count()
    model.learn(3 * CHUNK, callback=count)
    assert count.seen == sorted(set(count.seen))
    assert count.seen[-1] == model.num_timesteps == 3 * CHUNK
    pieces, rows = model.runner.warm_up
    assert count.seen[0] > pieces * rows * 4 == CHUNK


def test_every_callback_of_a_list_is_called():
    count = Count()
    make().learn(10 * CHUNK, callback=[lambda *_: False, count])
    assert count.seen == [4]


def test_callbacks_see_the_parameters_of_now():
    """The acting part is copied once per update, not per step; what a callback reads is never stale."""
    model, seen = make(normalize=True), []
    model.learn(3 * CHUNK, callback=lambda *_: seen.append(model.acting))
    assert len(seen) == 16
    assert len({id(a) for a in seen}) == 2
    assert seen[0].obs_moments[0].count > 31  # those of the warm-up, not those before it
    assert seen[-1].obs_moments[0].count > 63


@pytest.mark.parametrize("given", ["object", "get_env"])
def test_eval_callback_refuses_the_environment_of_training(given):
    env = gym.make("CartPole-v1")
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0)
    evaluation = EvalCallback(env if given == "object" else model.get_env(), verbose=0)
    with pytest.raises(ValueError, match="an environment of its own"):
        model.learn(8, callback=[evaluation])


def test_steps_are_counted_in_whole_episodes_too():
    """Rows of environments whose episode is over do not count, so the number never falls."""

    class Uneven(gym.Env):
        observation_space, action_space = ActionObs().spec.observation_space, ActionObs().spec.action_space
        made = 0

        def __init__(self):
            Uneven.made += 1
            self.length = 1 + 3 * (Uneven.made % 2)

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.t += 1
            return np.zeros(2, np.float32), 1.0, self.t == self.length, False, {}

    env, count = actrix.make_vec_env(Uneven, 2), Count()
    model = actrix.REINFORCE("MlpPolicy", env, n_steps=5, seed=0, policy_kwargs={"net_arch": [4]})
    model.learn(10, callback=[count, StopTrainingOnMaxEpisodes(100)])
    assert count.seen == [2, 3, 4, 5, 7, 8, 9, 10]
    assert model.num_episodes == 4


@both
def test_eval_callback(mode, tmp_path, capsys):
    evaluation = EvalCallback(
        HostJax(ActionObs(), 2), eval_freq=8, n_eval_episodes=6, log_path=tmp_path / "logs",
        best_model_save_path=tmp_path / "best",
    )  # fmt: skip
    model = make(mode)
    model.logger = Logger(tmp_path / "run")
    model.learn(3 * CHUNK, callback=evaluation, reset_num_timesteps=False)
    model.logger.close()
    saved = np.load(tmp_path / "logs" / "evaluations.npz")
    np.testing.assert_array_equal(saved["timesteps"], [CHUNK, 2 * CHUNK, 3 * CHUNK])
    assert saved["results"].shape == saved["ep_lengths"].shape == (3, 6)
    assert evaluation.best_mean_reward == saved["results"].mean(1).max()
    assert evaluation.last_mean_reward == saved["results"].mean(1)[-1]
    assert capsys.readouterr().out.count("Eval num_timesteps=") == 3
    assert PPO.load(tmp_path / "best" / "best_model").num_timesteps <= 3 * CHUNK
    from actrix.show.metrics import read_metrics

    metrics = read_metrics(tmp_path / "run")
    logged = metrics["eval/mean_reward"]
    np.testing.assert_allclose(logged[~np.isnan(logged)], saved["results"].mean(1))
    np.testing.assert_array_equal(metrics["time/total_timesteps"][~np.isnan(logged)], saved["timesteps"])


def test_eval_and_checkpoint_fire_again_in_a_second_learn(tmp_path):
    evaluation = EvalCallback(HostJax(ActionObs(), 2), eval_freq=8, n_eval_episodes=2, verbose=0)
    model = make()
    model.learn(CHUNK, callback=evaluation)
    model.learn(CHUNK, callback=evaluation)
    model.learn(CHUNK, callback=evaluation, reset_num_timesteps=False)
    assert evaluation.evaluations_timesteps == [CHUNK, CHUNK, 2 * CHUNK]


@both
def test_checkpoint_callback(mode, tmp_path):
    model = make(mode).learn(2 * CHUNK, callback=CheckpointCallback(8, tmp_path / "ckpt", name_prefix="net"))
    names = sorted(p.name for p in (tmp_path / "ckpt").iterdir())
    assert names == [f"net_{CHUNK}_steps.safetensors", f"net_{2 * CHUNK}_steps.safetensors"]
    last = PPO.load(tmp_path / "ckpt" / f"net_{2 * CHUNK}_steps").get_parameters()
    now = model.get_parameters()
    # Inside the host loop the 16th call comes before the second update.
    assert all((last[k] == now[k]).all() for k in now) == (mode == "compiled")


@both
def test_reward_threshold_stops(mode):
    stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
    env = ConstantReward
    evaluation = EvalCallback(HostJax(env(), 2), stop, eval_freq=8, n_eval_episodes=2, verbose=0)
    model = make(mode, env).learn(50 * CHUNK, callback=evaluation)
    assert model.num_timesteps == CHUNK
    with pytest.raises(ValueError, match="callback_on_new_best"):
        make(mode).learn(CHUNK, callback=StopTrainingOnRewardThreshold(1.0))


def test_no_improvement_stops():
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=1)
    evaluation = EvalCallback(
        HostJax(ConstantReward(), 2), callback_after_eval=stop, eval_freq=8, n_eval_episodes=2, verbose=0
    )
    model = make("host", ConstantReward).learn(50 * CHUNK, callback=evaluation)
    assert model.num_timesteps == 4 * CHUNK  # the first is the best; then 3 > 2 without a better one
    with pytest.raises(ValueError, match="callback_after_eval"):
        make().learn(CHUNK, callback=StopTrainingOnNoModelImprovement(1))


def test_max_episodes_stops_and_learning_goes_on_afterwards():
    model = make().learn(50 * CHUNK, callback=StopTrainingOnMaxEpisodes(3))
    assert (model.num_episodes, model.num_timesteps) == (12, 12)
    before = model.get_parameters()
    model.learn(2 * CHUNK)  # without a callback: the stop is forgotten
    assert model.num_timesteps == 2 * CHUNK
    assert any((before[k] != v).any() for k, v in model.get_parameters().items())


@both
def test_every_n_timesteps(mode):
    count = Count()
    make(mode).learn(2 * CHUNK, callback=EveryNTimesteps(16, count))
    assert count.seen == ([16, 32, 48, 64] if mode == "host" else [32, 64])


def test_functions_and_lists():
    seen = []

    def stop_early(locals_, globals_):
        seen.append(locals_["rewards"].shape)
        return len(seen) < 3

    model = make().learn(10 * CHUNK, callback=[Count(), stop_early])
    assert model.num_timesteps == 12
    assert seen == [(4,)] * 3
    make().learn(CHUNK, callback=lambda *_: None)  # None means go on
    with pytest.raises(TypeError, match="BaseCallback, a list of them or a function"):
        make().learn(CHUNK, callback=3)
    with pytest.raises(ValueError, match="actrix video"):
        EvalCallback(HostJax(ActionObs(), 1), render=True)


# --------------------------------------------------------------------------- replayed data (and run/test_stepping.py)


def replayed(env=ActionObs, mode="compiled"):
    env = env() if mode == "compiled" else HostJax(env(), 4)
    settings = {"learning_starts": 16, "batch_size": 8, "buffer_size": 200, "target_update_interval": 20}
    return actrix.DQN("MlpPolicy", env, n_envs=4, seed=0, policy_kwargs={"net_arch": [8]}, **settings)


def test_nothing_changes_the_training_on_replayed_data_in_the_compiled_loop(tmp_path):
    undisturbed = replayed().learn(160).get_parameters()
    evaluation = EvalCallback(
        HostJax(ActionObs(), 3),
        eval_freq=10,
        n_eval_episodes=5,
        deterministic=False,
        verbose=0,
        log_path=tmp_path,
    )
    count = Count()
    model = replayed().learn(160, callback=[evaluation, CheckpointCallback(5, tmp_path), count])
    for key, value in undisturbed.items():
        np.testing.assert_array_equal(model.get_parameters()[key], value, err_msg=key)
    assert count.seen == sorted(set(count.seen))
    assert count.seen[0] > 16
    assert count.seen[-1] == model.num_timesteps == 160
    assert evaluation.evaluations_timesteps[-1] == 160
    last = actrix.DQN.load(tmp_path / "rl_model_160_steps")
    for key, value in last.get_parameters().items():
        np.testing.assert_array_equal(value, undisturbed[key])


@pytest.mark.slow  # run/test_stepping.py stops and goes on in this loop, evaluations stop training above
def test_stopping_on_replayed_data():
    """By the threshold of an evaluation, by the number of episodes; learning goes on afterwards."""
    stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
    evaluation = EvalCallback(HostJax(ConstantReward(), 2), stop, eval_freq=8, n_eval_episodes=2, verbose=0)
    model = replayed(ConstantReward, "host").learn(5000, callback=evaluation)
    assert model.num_timesteps == 32
    model.learn(5000, callback=StopTrainingOnMaxEpisodes(6))
    assert model.num_timesteps == 24
    assert model.learn(48).num_timesteps == 48
