"""What environments say at a reset is kept for `VecEnv.reset_infos`, whoever resets them."""

import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from worlds import LENGTH, Counting

from actrix import (
    DummyVecEnv,
    SubprocVecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    make_vec_env,
)
from actrix.envs.foreign import ForeignVectorEnv
from actrix.envs.make import as_host_env
from actrix.envs.vec.vecenv import VecEnv


class Telling(Counting):
    """Says at a reset the how manieth it is, and of an even one that too."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)[0], {"reset": self.resets} | (
            {"even": 1} if self.resets % 2 == 0 else {}
        )


class Theirs:
    """A vector environment as Stable-Baselines3 has them."""

    def __init__(self):
        self.inner = make_vec_env(Telling, 2)
        self.num_envs, self.observation_space = 2, self.inner.observation_space
        self.action_space = self.inner.action_space

    def reset(self):
        return self.inner.reset()

    def step(self, actions):
        return self.inner.step(actions)

    def close(self):
        self.inner.close()

    @property
    def reset_infos(self):
        return self.inner.reset_infos


def sync(mode):
    return VecEnv(as_host_env(SyncVectorEnv([Telling] * 2, autoreset_mode=mode)))


MAKES = {
    "ours": lambda: make_vec_env(Telling, 2),
    "dummy": lambda: DummyVecEnv([Telling] * 2),
    "in processes": lambda: SubprocVecEnv([Telling] * 2),
    "same step": lambda: sync(AutoresetMode.SAME_STEP),
    "a step later": lambda: sync(AutoresetMode.NEXT_STEP),
    "theirs": lambda: VecEnv(as_host_env(ForeignVectorEnv(Theirs()))),
    "wrapped": lambda: VecNormalize(VecFrameStack(VecMonitor(make_vec_env(Telling, 2)), 2)),
}


@pytest.mark.filterwarnings("ignore:environments .* reset themselves")
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_infos_of_a_reset(make):
    env = make()
    env.reset()
    first = [info["reset"] for info in env.reset_infos]  # some makes were reset before, to look for masks
    even = lambda n: {"reset": n} | ({"even": 1} if n % 2 == 0 else {})
    assert env.reset_infos == [even(n) for n in first]
    for _ in range(LENGTH - 1):
        env.step([0, 0])
        assert env.reset_infos == [even(n) for n in first]
    for _ in range(2):  # the end, and the row of the reset where that comes later
        env.step([0, 0])
    assert env.reset_infos == [even(n + 1) for n in first]
    env.close()


def test_makes_without_infos_have_empty_ones():
    assert make_vec_env("CartPole-v1", 2).reset_infos == [{}, {}]
    assert VecExtractDictObs.reset_infos is VecEnv.reset_infos  # looked up, not called, of a class
