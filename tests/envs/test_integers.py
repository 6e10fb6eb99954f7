"""Integers are never wrapped: what an environment's space, or JAX, cannot hold is refused."""

import gymnasium as gym
import numpy as np
import pytest

from actrix.envs.guard import EnvError
from actrix.envs.make import make_vec_env


class Counter(gym.Env):
    """Observes `value` in a dtype that its space may not have."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, value=0, given="int64", stated="int64"):
        info = np.iinfo(stated)
        self.observation_space = gym.spaces.Box(info.min, info.max, (3,), np.dtype(stated))
        self.value = np.full(3, value, np.dtype(given))

    def reset(self, *, seed=None, options=None):
        return np.zeros_like(self.value), {}

    def step(self, action):
        return self.value, 0.0, False, False, {}


@pytest.mark.parametrize("workers", [False, True])
@pytest.mark.parametrize(
    ("given", "stated", "value", "said"),
    [
        ("uint16", "uint8", 300, "holds 300; its space says uint8"),
        ("int64", "int16", 70000, "holds 70000; its space says int16"),
        ("int64", "int64", 2**33 + 7, r"holds 8589934599, which no 32-bit integer can"),
        ("uint16", "uint8", 200, None),
        ("int64", "int64", -(2**31), None),
    ],
)
def test_integers_are_not_wrapped(given, stated, value, said, workers):
    if workers and given == "uint16":
        pytest.skip("one case is enough to see that workers guard, too")
    kwargs = dict(value=value, given=given, stated=stated)
    env = make_vec_env(Counter, 1, seed=0, backend="gymnasium", env_kwargs=kwargs, workers=workers)
    try:
        env.reset()
        if said is None:
            assert env.step(np.zeros(1, np.int32)).next_obs.tolist() == [[value] * 3]
        else:
            with pytest.raises(EnvError, match=said):
                env.step(np.zeros(1, np.int32))
    finally:
        env.close()
