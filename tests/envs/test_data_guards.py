"""Bad data of any environment is stopped before it is stored: shapes, dtypes, reused buffers, odd action spaces."""

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from toys import Counting

from actrix import DQN, PPO, SAC, QLearning
from actrix.envs.guard import EnvError
from actrix.envs.make import as_host_env, make_vec_env

REPLAY = {
    "learning_starts": 4,
    "batch_size": 4,
    "buffer_size": 64,
    "seed": 0,
    "policy_kwargs": {"net_arch": [4]},
}


class Batched(VectorEnv):
    """A vector environment of the user's own, whose third step returns what it is told to."""

    def __init__(self, space, bad=None, first=None):
        self.num_envs, self.single_observation_space, self.single_action_space = 2, space, spaces.Discrete(2)
        self.observation_space = gym.vector.utils.batch_space(space, 2)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, 2)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.bad, self.first, self.t = bad, first, 0

    def reset(self, *, seed=None, options=None):
        return (self.observation_space.sample() if self.first is None else self.first), {}

    def step(self, action):
        self.t += 1
        obs = self.bad if self.t == 3 and self.bad is not None else self.observation_space.sample()
        no = np.zeros(2, bool)
        return obs, np.ones(2, np.float32), no, no, {}


IMAGE = spaces.Box(0, 255, (3, 5), np.uint8)
DICT = spaces.Dict({"a": IMAGE, "b": spaces.Discrete(3, start=1)})


@pytest.mark.parametrize(
    ("space", "bad", "message"),
    [
        (IMAGE, np.zeros((2, 5, 3), np.uint8), r"Expected: \(2, 3, 5\), actual shape: \(2, 5, 3\)"),
        (IMAGE, np.zeros((3, 5), np.uint8), r"actual shape: \(3, 5\)"),
        (IMAGE, np.uint8(0), r"actual shape: \(\)"),
        (IMAGE, np.full((2, 3, 5), 0.5), "holds float64; its space says uint8, which cannot hold it"),
        (IMAGE, {"a": 1}, "is no array|which is no array|actual shape"),
        (
            DICT,
            {"a": np.zeros((2, 3, 5), np.uint8)},
            r"has keys \['a'\]; it must be a dict with keys \['a', 'b'\]",
        ),
        (
            DICT,
            {"a": np.zeros((2, 3, 5), np.uint8), "b": np.array([1, 4])},
            r"observation\['b'\] .*\[1 4\].* must lie",
        ),
        (spaces.Discrete(3), np.array([0, 3]), r"observation is \[0 3\]; it must lie in \[0 0\] to \[2 2\]"),
    ],
)
def test_a_vector_environment_of_ones_own_is_not_broadcast(space, bad, message):
    """Item 42: transposed, scalar, batchless and float observations are errors, never cast or broadcast."""
    envs = as_host_env(Batched(space, bad))
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(2, np.int32))
    with pytest.raises(
        EnvError, match=f"vector environment at step 3: observation.*{message}|at step 3: .*{message}"
    ):
        envs.step(np.zeros(2, np.int32))
    with pytest.raises(EnvError, match="vector environment at step 0"):
        as_host_env(Batched(space, first=bad)).reset()


def test_stored_observations_do_not_change_when_the_environment_reuses_its_buffer():
    """Item 43: every row of the memory is the observation that was handed out then."""
    model = DQN("MlpPolicy", make_vec_env(Counting, 2), **REPLAY).learn(40)
    stored = np.asarray(jax.tree.leaves(model.runner.learners[0].memory.rows)[0]).reshape(-1, 2)
    assert {0.0, 1.0, 2.0} <= set(
        stored[:, 1].tolist()
    )  # the counter of the steps: one buffer would have one value


class OneAction(gym.Env):
    """One possible action, numbered from −3, which must arrive as that."""

    observation_space = spaces.Discrete(1)
    action_space = spaces.Discrete(1, start=-3)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        assert action == -3
        return 0, 1.0, True, False, {}


@pytest.mark.parametrize("cls", [PPO, DQN, QLearning])
def test_one_action_that_does_not_start_at_zero(cls):
    """Item 46: a single action and a shifted start train, and arrive shifted; an error over another is named."""
    settings = {"n_steps": 4, "batch_size": 4} if cls is PPO else REPLAY if cls is DQN else {"seed": 0}
    model = cls("MlpPolicy", OneAction(), **settings).learn(12)
    assert model.predict(0)[0] == -3
    envs = make_vec_env(OneAction, 2)
    envs.reset()
    with pytest.raises(EnvError, match=r"environment 1 at step 1.*AssertionError"):
        envs.step(np.array([0, 1]))


class Late(gym.Env):
    """NaN in the observation at its 11th step."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    t = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.full(2, np.nan if self.t == 11 else 0.5, np.float32)
        return obs, 1.0, False, self.t % 5 == 0, {}


def test_a_nan_never_reaches_the_memory():
    """Item 41: the row with it is refused before it is stored, and names environment and step."""
    model = SAC("MlpPolicy", Late(), **REPLAY)
    with pytest.raises(EnvError, match=r"environment 0 at step 11: next observation at index \[0\] is nan"):
        model.learn(40)
    learner = model.runner.learners[0]
    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves((learner.memory, learner.acting)) if x.dtype.kind == "f"
    )
    assert model.num_timesteps == 10
