"""Settings as attributes: read, and set between two updates."""

import numpy as np
import pytest

import actrix
from actrix.callbacks import BaseCallback
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs

PPO = dict(n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=0)
DQN = dict(learning_starts=8, buffer_size=64, batch_size=8, policy_kwargs={"net_arch": [8]}, seed=0)


def test_settings_are_read():
    model = actrix.PPO("MlpPolicy", HostJax(ActionObs(), 2), clip_range=0.1, **PPO)
    assert (model.clip_range, model.gamma, model.n_steps, model.gae_lambda, model.ent_coef) == (
        0.1,
        0.99,
        16,
        0.95,
        0,
    )
    assert actrix.DQN("MlpPolicy", HostJax(ActionObs(), 2), **DQN).tau == 1.0
    with pytest.raises(AttributeError, match="'PPO' object has no attribute 'tau'"):
        model.tau  # noqa: B018
    assert model.replay_buffer is None


@pytest.mark.parametrize("mode", ["host", "compiled"])
def test_a_number_takes_effect_at_the_next_update_and_compiles_nothing(mode):
    env = HostJax(ActionObs(), 2) if mode == "host" else ActionObs()
    model = actrix.PPO("MlpPolicy", env, n_envs=2, **PPO).learn(64)
    before = model.get_parameters()
    model.learning_rate = 1e-30
    model.learn(64, reset_num_timesteps=False)
    compiled = model.runner._segment if mode == "compiled" else model.runner._learn
    assert compiled._cache_size() == 1
    for name, x in model.get_parameters().items():
        np.testing.assert_allclose(x, before[name], atol=1e-12)
    model.learning_rate = 0.01
    model.learn(64, reset_num_timesteps=False)
    assert any(np.abs(x - before[name]).max() > 1e-4 for name, x in model.get_parameters().items())
    assert compiled._cache_size() == 1


def test_a_whole_number_is_a_number():
    model = actrix.PPO("MlpPolicy", HostJax(ActionObs(), 2), **PPO)
    model.ent_coef, model.gamma, model.clip_range = 0, np.int64(1), 1
    assert (model.ent_coef, model.gamma, model.clip_range) == (0, 1, 1)


def test_it_is_saved_and_callbacks_may_set_it(tmp_path):
    class Halve(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.learning_rate = self.model.learning_rate / 2

    model = actrix.DQN("MlpPolicy", HostJax(ActionObs(), 2), learning_rate=0.01, **DQN)
    model.learn(64, callback=Halve())
    assert model.learning_rate < 0.01 / 4
    loaded = actrix.DQN.load(model.save(tmp_path / "model"))
    assert loaded.learning_rate == model.learning_rate
    assert model.run.metrics["train/learning_rate"] < 0.01 / 2


def test_what_is_refused():
    model = actrix.PPO("MlpPolicy", HostJax(ActionObs(), 2), **PPO)
    with pytest.raises(
        AttributeError, match=r"n_epochs=3 needs another program .* PPO\.load\(…, n_epochs=…\)"
    ):
        model.n_epochs = 3
    with pytest.raises(actrix.SettingError, match="gae_lambda"):
        model.gae_lambda = 2
    assert (model.n_epochs, model.gae_lambda) == (1, 0.95)
    table = actrix.QLearning(env="Taxi-v4", n_envs=2, seed=0)
    with pytest.raises(AttributeError, match="needs another program"):
        table.learning_rate = 0.3
    idle = actrix.PPO("MlpPolicy", **PPO)
    idle.n_epochs = 3
    assert idle.n_epochs == 3
    idle.mine = 5
    assert idle.mine == 5


def test_a_name_that_is_nearly_a_settings_is_refused():
    model = actrix.PPO("MlpPolicy", **PPO)
    with pytest.raises(AttributeError, match="no setting 'ent_coeff': did you mean 'ent_coef'"):
        model.ent_coeff = 0.1
    model.my_note = "kept"
    assert model.my_note == "kept"
