import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformReward
from toys import Counting

from actrix.core.spaces import UnsupportedSpaceError
from actrix.envs import build
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.build import UnknownEnvError, single_env
from actrix.envs.envpool import has_envpool
from actrix.envs.guard import EnvError
from actrix.envs.gymnasium import GymnasiumEnvs
from actrix.envs.make import as_host_env, choose_backend, make_jax_env, make_vec_env
from actrix.envs.probes import ConstantReward, PositionOnly

ENVPOOL = pytest.mark.skipif(not has_envpool("CartPole-v1"), reason="needs EnvPool")


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownEnvError, match="CartPole-v1"):
        make_vec_env("CartPoel-v1")
    with pytest.raises(UnknownEnvError, match="did you mean LunarLander"):
        make_vec_env("lunarlander-v9")
    with pytest.raises(UnknownEnvError, match="Breakout-MinAtar"):
        make_jax_env("Breakout-minatar")
    with pytest.raises(UnknownEnvError):
        make_vec_env("Taxi-v3x", backend="envpool")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_envs": 0}, "n_envs must be a positive integer, got 0"),
        ({"backend": "cuda"}, "backend must be one of auto"),
        ({"seed": -1}, "must be a whole number of at least 0"),
        ({"backend": "envpool", "wrapper_class": PositionOnly}, "takes an id only"),
        ({"backend": "jax", "wrapper_class": PositionOnly}, "takes an id only"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_vec_env("CartPole-v1", **kwargs)


def test_unsupported_spaces_are_refused():
    class Text(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Text(3)

    with pytest.raises(UnsupportedSpaceError, match=r"Text; supported are Box"):
        make_vec_env(Text)


def test_pettingzoos_prefix_is_no_module_of_the_users(monkeypatch):
    """Without PettingZoo the extra is named, nothing is imported and no folder becomes a place of modules."""
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.setattr(build, "_not_installed", lambda module: True)
    before = list(sys.path)
    for make in (functools.partial(choose_backend, "auto"), make_vec_env):
        with pytest.raises(
            ImportError, match=r'chess_v6 needs PettingZoo: pip install "actrix\[pettingzoo\]"'
        ):
            make("pettingzoo:chess_v6")
    assert build.named("pettingzoo:chess_v6") is None
    assert sys.path == before


def test_a_missing_package_is_named(monkeypatch):
    def missing(*args, **kwargs):
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gym, "make", missing)
    with pytest.raises(ImportError, match=r'pip install "actrix\[envs\]"'):
        make_vec_env("CartPole-v1", backend="gymnasium")


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_a_deprecated_version_is_gymnasiums_error_too():
    for kind in (UnknownEnvError, gym.error.DeprecatedEnv):
        with pytest.raises(kind, match="'Taxi-v3': Environment version v3 for `Taxi` is deprecated"):
            make_vec_env("Taxi-v3", 1)


@ENVPOOL
def test_auto_takes_envpool_only_for_plain_ids():
    assert make_vec_env("CartPole-v1", 2).backend == "envpool"
    assert make_vec_env("CartPole-v1", 2, wrapper_class=PositionOnly).backend == "gymnasium"
    assert make_vec_env("CartPole-v1", 2, env_kwargs={"sutton_barto_reward": True}).backend == "gymnasium"
    assert make_vec_env(Counting, 2).backend == "gymnasium"


@pytest.mark.parametrize("backend", ["gymnasium", pytest.param("envpool", marks=ENVPOOL), "jax"])
def test_the_seed_decides_the_run(backend):
    def run(seed):
        envs = make_vec_env("CartPole-v1", 3, seed=seed, backend=backend)
        assert isinstance(envs, HostEnv)
        assert envs.backend == backend
        obs = [envs.reset()[0], *(envs.step(np.array([0, 1, t % 2], np.int32)).obs for t in range(30))]
        envs.close()
        return np.stack(obs)

    first, again, other = run(5), run(5), run(6)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).all()
    assert len(np.unique(first[0][:, 0])) == 3


def test_wrappers_and_their_arguments_are_applied():
    envs = make_vec_env(
        "CartPole-v1", 2, wrapper_class=TransformReward, wrapper_kwargs={"func": lambda r: 7 * r}, seed=1
    )
    envs.reset()
    assert envs.step(np.zeros(2, np.int32)).reward.tolist() == [7, 7]
    envs = make_vec_env("CartPole-v1", wrapper_class=PositionOnly)
    assert envs.reset([3])[0].tolist() == [single_env("CartPole-v1").reset(seed=3)[0][[0, 2]].tolist()]


def test_as_host_env_takes_what_users_have():
    envs = make_vec_env(Counting, 2)
    assert as_host_env(envs) is envs
    assert as_host_env(Counting()).num_envs == 1
    assert as_host_env(Counting, 3).num_envs == 3
    assert as_host_env("CartPole-v1", 2).num_envs == 2
    # CartPole's own vector class: NEXT_STEP, no sub-environments.
    vector = as_host_env(gym.make_vec("CartPole-v1", 3))
    assert isinstance(vector, GymnasiumEnvs)
    vector.reset()
    invalid = [vector.step(np.zeros(3, np.int32)).valid for _ in range(30)]
    assert any(v is not None and not v.all() for v in invalid)
    jax_envs = as_host_env(ConstantReward(), 4)
    assert jax_envs.backend == "jax"
    assert isinstance(ConstantReward(), JaxEnv)
    with pytest.raises(ValueError, match="cannot be 2"):
        as_host_env(Counting(), 2)
    with pytest.raises(TypeError, match="cannot use float"):
        as_host_env(1.0)
    with pytest.raises(EnvError, match=r"gave a int, which is not a gymnasium\.Env"):
        make_vec_env(lambda: 3, 1)


def test_single_env_renders():
    env = single_env("CartPole-v1", render_mode="rgb_array")
    assert env.render_mode == "rgb_array"


def test_a_class_of_a_module_is_named(tmp_path, monkeypatch):
    envs = make_vec_env("toys:Counting", 2, env_kwargs={"kind": "box"}, backend="gymnasium")
    assert envs.num_envs == 2
    envs.close()
    with pytest.raises(UnknownEnvError, match=r"named 'toys:Nothing' \(the module has no such class"):
        make_vec_env("toys:Nothing", 1)
    for name in (":Env", "toys:", "..toys:Counting", ":"):
        with pytest.raises(UnknownEnvError, match="write module:Class, or module:Id"):
            make_vec_env(name, 1)
    with pytest.raises(UnknownEnvError, match="toys:FAULTS is a dict: name a class"):
        make_vec_env("toys:FAULTS", 1)
    make_vec_env("toys:Nested.Counting", 1).close()
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="leaves cannot be imported for Env: SystemExit: 0"):
        make_vec_env("leaves:Env", 1)
    with pytest.raises(ImportError, match="no_such_module cannot be imported for Env: ModuleNotFoundError"):
        make_vec_env("no_such_module:Env", 1)
    with pytest.raises(UnknownEnvError, match="toys:Counting refuses the env_kwargs"):
        make_vec_env("toys:Counting", 1, env_kwargs={"size": 3})
