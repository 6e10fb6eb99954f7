"""Vector environments as Stable-Baselines3's scripts use them: what must not be lost, stale or ignored in silence."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

from actrix import (
    PPO,
    BaseCallback,
    Monitor,
    VecNormalize,
    evaluate_policy,
    is_vecenv_wrapped,
    make_vec_env,
    sync_envs_normalization,
)

SMALL = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs={"net_arch": [4]})


class Three(gym.Env):
    """Pays the number of the step; three to an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, parts=False):
        self.parts, box = parts, spaces.Box(-9, 9, (1,), np.float32)
        self.observation_space = (
            spaces.Dict({"z": box, "a": spaces.Dict({"n": spaces.Discrete(4), "b": box})}) if parts else box
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), float(self.t), self.t == 3, False, {}

    def _obs(self):
        t = np.array([self.t], np.float32)
        return {"z": t, "a": {"n": self.t, "b": -t}} if self.parts else t


def rows(path):
    with open(path) as file:
        next(file)
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "how", [{}, {"vec_env_cls": AsyncVectorEnv}, {"workers": 2}], ids=["here", "async", "workers"]
)
def test_each_environment_has_its_own_file_wherever_it_runs(how, tmp_path):
    for _ in range(2):  # the second time overwrites the first
        env = make_vec_env(Three, 3, monitor_dir=tmp_path, start_index=5, **how)
        try:
            env.reset()
            for _ in range(7):
                env.step([0, 0, 0])
        finally:
            env.close()
        assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i}.monitor.csv" for i in (5, 6, 7)]
        assert all([r["r"] for r in rows(p)] == ["6.0", "6.0"] for p in tmp_path.iterdir())


def test_a_file_that_goes_on_counts_time_from_its_start(tmp_path):
    kept = {"override_existing": False}
    for _ in range(2):
        env = make_vec_env(Three, 1, monitor_dir=tmp_path, monitor_kwargs=kept)
        env.reset()
        for _ in range(3):
            env.step([0])
        env.close()
    first, second = rows(tmp_path / "0.monitor.csv")
    assert float(first["t"]) < float(second["t"])


def test_a_monitored_id_is_still_known(tmp_path):
    assert make_vec_env("CartPole-v1", 2, monitor_dir=tmp_path).env_id == "CartPole-v1"
    assert Monitor(gym.make("CartPole-v1")).spec.max_episode_steps == 500


class Rows(BaseCallback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        self.seen.append((self.locals["new_obs"][0, 0], self.locals["rewards"][0]))
        return True


@pytest.mark.parametrize("by", ["step", "reset"])
def test_training_begins_new_episodes_where_its_environments_were_stepped_by_hand(by):
    model = PPO("MlpPolicy", make_vec_env(Three, 2), **SMALL).learn(32)
    assert model.runner._obs[0, 0] == 1  # sixteen steps are five episodes and one step
    env = model.get_env()
    env.step([0, 0]) if by == "step" else env.reset()
    callback = Rows()
    model.learn(16, reset_num_timesteps=False, callback=callback)
    assert callback.seen[:3] == [(1, 1), (2, 2), (0, 3)]


# ------------------------------------------------------------------ VecNormalize


@pytest.fixture(scope="module")
def trained():
    return PPO("MlpPolicy", VecNormalize(make_vec_env(Three, 2)), **SMALL).learn(32)


def test_learning_refuses_what_the_model_would_not_do():
    env = VecNormalize(make_vec_env(Three, 1), training=False)
    model = PPO("MlpPolicy", env, **SMALL)
    with pytest.raises(ValueError, match=r"set env\.training = True"):
        model.learn(8)
    env.training, env.norm_reward = True, False
    with pytest.raises(ValueError, match="asks for normalize_reward=False, the model has True"):
        model.learn(8)


def test_original_observations_and_rewards():
    env = VecNormalize(make_vec_env(Three, 2))
    assert env.reset() is env.get_original_obs()
    obs, rewards, *_ = env.step([0, 1])
    assert env.get_original_obs() is obs
    assert env.get_original_reward() is rewards
    assert rewards.tolist() == [1, 1]


def test_evaluation_with_other_statistics_is_refused(trained, tmp_path):
    trained.get_env().save(tmp_path / "s.npz")
    env = VecNormalize.load(tmp_path / "s.npz", make_vec_env(Three, 1))
    env.training = env.norm_reward = False
    assert evaluate_policy(trained, env, 1)[0] == 6
    assert evaluate_policy(trained, VecNormalize(make_vec_env(Three, 1)), 1)[0] == 6  # the model's own
    trained.learn(16)
    with pytest.raises(ValueError, match="are not the model's"):
        evaluate_policy(trained, env, 1)
    plain = PPO("MlpPolicy", make_vec_env(Three, 1), **SMALL)
    with pytest.raises(ValueError, match="the model learned without"):
        evaluate_policy(plain, VecNormalize(make_vec_env(Three, 1)), 1)


def test_a_file_of_other_observations_is_refused(trained, tmp_path):
    trained.get_env().save(tmp_path / "s.npz")
    with pytest.raises(ValueError, match=r"of shape \(1,\), the environment's \(\d,\)"):
        VecNormalize.load(tmp_path / "s.npz", make_vec_env("CartPole-v1", 1))
    with np.load(tmp_path / "s.npz") as file:
        wrong = dict(file) | {"obs/0/var": np.array([np.nan])}
    np.savez(tmp_path / "w.npz", **wrong)
    with pytest.raises(ValueError, match="they hold what no statistics are"):
        VecNormalize.load(tmp_path / "w.npz", make_vec_env(Three, 1))


def test_statistics_of_nested_observations_stand_where_the_observations_do(tmp_path):
    env = VecNormalize(make_vec_env(Three, 2, env_kwargs={"parts": True}))
    model = PPO("MultiInputPolicy", env, **SMALL).learn(32)
    rms = env.obs_rms
    assert rms["a"]["n"] is None
    np.testing.assert_allclose(rms["a"]["b"].mean, -rms["z"].mean, rtol=1e-6)
    assert rms["z"].mean > 0
    obs = env.reset()
    back = env.unnormalize_obs(env.normalize_obs(obs))
    np.testing.assert_allclose(back["z"], obs["z"], atol=1e-6)
    env.save(tmp_path / "s.npz")
    again = VecNormalize.load(tmp_path / "s.npz", make_vec_env(Three, 2, env_kwargs={"parts": True}))
    np.testing.assert_array_equal(again.obs_rms["a"]["b"].var, rms["a"]["b"].var)
    assert evaluate_policy(model, again, 2)[0] == 6


def test_evaluation_environments_show_the_statistics_of_training(trained):
    env, evaluation = trained.get_env(), VecNormalize(make_vec_env(Three, 1), training=False)
    sync_envs_normalization(env, evaluation)
    assert evaluation.obs_rms.count == env.obs_rms.count
    assert is_vecenv_wrapped(evaluation, VecNormalize)
    assert not is_vecenv_wrapped(evaluation.venv, VecNormalize)
