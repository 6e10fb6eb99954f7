"""`VecMonitor`, `VecExtractDictObs` and what finds a wrapper in a chain of them."""

import gymnasium as gym
import numpy as np
import pytest
from worlds import LENGTH, SMALL, Counting

import actrix
from actrix import PPO, VecNormalize, load_results, make_vec_env


class Told(Counting):
    """Says at ends whether it succeeded."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | {"is_success": terminated}


class Keyed(Counting):
    """The observation under a key, beside another."""

    observation_space = gym.spaces.Dict(
        {"seen": Counting.observation_space, "noise": gym.spaces.Box(0, 1, (1,))}
    )

    def _obs(self):
        return {"seen": super()._obs(), "noise": np.zeros(1, np.float32)}


def test_vec_monitor_writes_the_episodes_of_stepping_and_of_training(tmp_path):
    pytest.importorskip("pandas")
    env = actrix.VecMonitor(make_vec_env(Told, 2), tmp_path / "all", ("is_success",))
    env.reset()
    env.step([0, 0])
    env.reset()  # breaks the open episodes off
    infos = [env.step([0, 0])[3] for _ in range(LENGTH)]
    assert "episode" not in infos[-2][0]
    assert {k: infos[-1][1]["episode"][k] for k in ("r", "l", "is_success")} == {
        "r": 6,
        "l": 3,
        "is_success": True,
    }
    model = PPO("MlpPolicy", VecNormalize(env), **SMALL).learn(32)
    assert len(model.run.returns) == 10
    table = load_results(tmp_path)
    assert (len(table), set(table["r"]), set(table["l"])) == (12, {6.0}, {3})
    assert list(table) == ["index", "r", "l", "t", "is_success"]
    env.close()


@pytest.mark.filterwarnings("ignore:environments .0, 1. reset themselves")
@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_vec_monitor_counts_transitions_in_every_autoreset_mode(mode):
    envs = gym.vector.SyncVectorEnv([Told, Told], autoreset_mode=mode)
    env = actrix.VecMonitor(envs, info_keywords=("is_success",))
    env.reset()
    ends = [info["episode"] for _ in range(9) for info in env.step([0, 0])[3] if "episode" in info]
    assert {(e["r"], e["l"], e["is_success"]) for e in ends} == {(6.0, 3, True)}


def test_the_counts_of_vec_monitor_go_on_after_a_checkpoint():
    first, second = (actrix.VecMonitor(make_vec_env("CartPole-v1", 1)).host for _ in range(2))
    assert first.unsupported is None
    first.reset([0])
    first.step(np.zeros(1, int))
    second.set_state(first.get_state())
    steps = 1
    while "episode" not in (info := second.infos()[0]):
        second.step(np.zeros(1, int))
        steps += 1
    assert (info["episode"]["l"], info["episode"]["r"]) == (steps, steps)


def test_vec_monitor_around_other_monitors():
    env = make_vec_env(Counting, 1, monitor_kwargs={"allow_early_resets": True})
    with pytest.warns(UserWarning, match="have a Monitor already"):
        actrix.VecMonitor(env)
    with pytest.raises(ValueError, match=r"write VecNormalize\(VecMonitor\(env\)\)"):
        actrix.VecMonitor(VecNormalize(env))


def test_one_key_of_dict_observations():
    env = actrix.VecExtractDictObs(make_vec_env(Keyed, 2), "seen")
    assert env.reset().shape == (2, 2)
    obs, _, done, infos = [env.step([0, 0]) for _ in range(LENGTH)][-1]
    assert done.all()
    assert obs[0].tolist() == [0, 0]
    assert infos[0]["terminal_observation"].tolist() == [3, 0]
    assert list(PPO("MlpPolicy", env, **SMALL).learn(32).run.returns)[:2] == [6, 6]
    with pytest.raises(
        ValueError, match=r"VecExtractDictObs\(key='none'\): the observations are \['noise', 'seen'\]"
    ):
        actrix.VecExtractDictObs(make_vec_env(Keyed, 2), "none")
    with pytest.raises(ValueError, match="no Dict"):
        actrix.VecExtractDictObs(make_vec_env(Counting, 2), "seen")


def test_a_wrapper_is_found_in_a_chain():
    plain = make_vec_env(Counting, 1)
    inner = actrix.VecMonitor(plain)
    outer = VecNormalize(inner)
    assert actrix.unwrap_vec_normalize(outer) is outer
    assert actrix.unwrap_vec_wrapper(outer, actrix.VecMonitor) is inner
    assert actrix.unwrap_vec_normalize(inner) is None
    assert actrix.is_vecenv_wrapped(outer, actrix.VecMonitor)


def test_what_monitor_asks_of_reset(tmp_path):
    env = actrix.Monitor(Counting(), tmp_path / "x", reset_keywords=("level",))
    with pytest.raises(ValueError, match="Expected you to pass keyword argument level into reset"):
        env.reset()
    env.reset(options={"level": 2})
    episode = [env.step(0)[4] for _ in range(LENGTH)][-1]["episode"]
    assert (episode["r"], episode["level"]) == (6, 2)
    other = actrix.Monitor(Counting(), reset_keywords=("options",))
    with pytest.raises(ValueError, match="keyword argument options"):
        other.reset()
    other.reset(options={"any": 1})
    with pytest.raises(RuntimeError, match="Tried to step environment that needs reset"):
        actrix.Monitor(Counting()).step(0)


def test_episodes_of_files_of_which_one_is_empty(tmp_path):
    pytest.importorskip("pandas")
    with pytest.raises(actrix.LoadMonitorResultsError, match="no file that ends in"):
        load_results(tmp_path)
    actrix.Monitor(Counting(), tmp_path / "0")
    assert list(load_results(tmp_path)) == ["index", "r", "l", "t"]
    assert load_results(tmp_path).empty
    env = actrix.Monitor(Counting(), tmp_path / "1")
    env.reset()
    for _ in range(LENGTH):
        env.step(0)
    assert load_results(tmp_path)["r"].tolist() == [6.0]
