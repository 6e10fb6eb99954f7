"""`train_freq=(1, "episode")`: updates after whole episodes, as many as their steps where gradient_steps is −1."""

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

from actrix import BC, DQN, ActorCritic, BaseCallback, make_vec_env
from actrix.algorithms.settings import SettingError
from actrix.loops.compiled import CompiledRunner
from actrix.loops.host import HostRunner
from actrix.loops.stepping import SteppingRunner

EPISODE = (1, "episode")
SMALL = {
    "learning_starts": 8, "batch_size": 8, "buffer_size": 500, "target_update_interval": 4, "seed": 0,
    "gradient_steps": -1, "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip


class Lengths(gym.Env):
    """Episodes of these lengths in turn; the observation is the step, the reward the action."""

    observation_space, action_space = spaces.Box(0, 9, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, *lengths):
        self.lengths, self.t, self.number = lengths, 0, 0

    def reset(self, *, seed=None, options=None):
        if self.t or self.number == 0:  # a reset before any step begins no other episode
            self.number += 1
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.lengths[(self.number - 1) % len(self.lengths)]
        return np.full(1, self.t, np.float32), float(action), over, False, {}


def limited(*lengths, n=1, limit=6):
    return make_vec_env(lambda: gym.wrappers.TimeLimit(Lengths(*lengths), limit), n)


class Updates(BaseCallback):
    """(steps, gradient steps) before each update."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_rollout_end(self):
        training = self.model.runner.learner.training
        self.seen.append((self.num_timesteps, int(training.gradient_steps)))


def test_as_many_updates_as_the_episode_has_steps():
    seen = Updates()
    model = DQN("MlpPolicy", limited(4, 2, 5, 3), train_freq=EPISODE, **SMALL).learn(30, seen)
    assert type(model.runner) is HostRunner
    steps, before = np.array(seen.seen).T
    updates = np.append(before[1:], int(model.runner.learner.training.gradient_steps)) - before
    lengths = np.diff(np.concatenate([[8], steps]))
    assert set(lengths) <= {2, 3, 4, 5}
    assert len(set(lengths)) > 2
    assert updates.tolist() == lengths.tolist()
    rows = model.runner.learner.memory.rows
    assert int(rows.valid.sum()) == model.num_timesteps, "every step is in the memory, no padding"


def test_episodes_of_one_length_are_so_many_steps():
    """With four steps in each, it is train_freq=4."""
    found = []
    for rhythm in (4, EPISODE):
        model = DQN("MlpPolicy", limited(4, limit=4), train_freq=rhythm, **SMALL).learn(40)
        found.append((type(model.runner), model.num_timesteps, model.get_parameters()))
    (one, steps, by_steps), (other, episodes, by_episodes) = found
    assert (one, other) == (SteppingRunner, HostRunner)
    assert steps == episodes
    for name, x in by_steps.items():
        np.testing.assert_allclose(x, by_episodes[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_in_the_compiled_loop_and_with_one_update():
    model = DQN("MlpPolicy", "CartPole-v1", train_freq=EPISODE, **SMALL | {"gradient_steps": 1}).learn(60)
    assert isinstance(model.runner, CompiledRunner)
    learner = model.runner.learners[0]
    assert int(learner.training.gradient_steps) == model.run.iterations
    assert int(jax.tree.leaves(learner.memory.rows.valid)[0].sum()) == model.num_timesteps


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: DQN("MlpPolicy", train_freq=(2, "episode")), r"give steps, e.g. 4, or one whole episode"),
        (lambda: DQN("MlpPolicy", whole_episodes=True), "train_freq=4 counts steps, and whole_episodes"),
        (lambda: BC("MlpPolicy", whole_episodes=True), "a data set is fixed"),
        (lambda: DQN("MlpPolicy", Lengths(3), train_freq=EPISODE), "this environment has no time limit"),
        (
            lambda: DQN("MlpPolicy", "CartPole-v1", n_envs=2, envs_per_group=1, train_freq=EPISODE),
            "is of environments that one process steps together",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(make, error):
    with pytest.raises((SettingError, ValueError), match=error) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_word():
    model = ActorCritic("MlpPolicy", critic="q:double", actor="greedy", data="replay:whole")
    data = model.algorithm.data
    assert (data.whole_episodes, data.train_freq) == (True, 1)
    assert model.algorithm.answers[2] == "replay:whole"
