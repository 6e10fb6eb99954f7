import functools

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from makes import Own
from toys import Bad, Counting

from actrix.envs.guard import EnvError, check_chunk, env_seeds
from actrix.envs.make import as_host_env, make_vec_env

STEP = r"environment 0 at step 3 \(seed 7\): "
FAULTS = {
    "raises": STEP + "step raised ZeroDivisionError: division by zero",
    "shape": STEP + r"observation is not its space's\. Expected: \(3,\), actual shape: \(1, 3\)",
    "dtype": STEP + "observation holds float32; its space says uint8, which cannot hold it",
    "no array": STEP + r"observation is \[\[1\], \[2, 3\]\] \(list\), which is no array",
    "reward": STEP + r"reward is an array of shape \(1,\) and dtype float64; it must be a number",
    "large reward": STEP + r"reward is 1e\+40 .*, which no 32-bit float can be \(they end at 3.4e\+38\)",
    "text reward": STEP + "reward is '1' .*; it must be a number",
    "numbered flag": STEP + r"terminated is an array of shape \(\) and dtype int64; it must be a bool",
    "none reward": STEP + "reward is None .*; it must be a number",
    "flag": STEP + r"terminated is 1 \(int\); it must be a bool",
    "truncated flag": STEP + "truncated is None .*; it must be a bool",
    "old step": STEP + "step returned 4 values, the API of the old gym; it must return .*truncated, info",
    "none": STEP + "step returned None",
    "old reset": r"environment 0 at step 0 \(seed 7\): reset returned an array of shape \(3,\)",
    "reset raises": r"environment 0 at step 0 \(seed 7\): reset raised OSError: file lost",
}


def run(envs, steps=4):
    envs.reset([7] * envs.num_envs)
    for _ in range(steps):
        envs.step(np.zeros(envs.num_envs, np.int32))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_environment_is_named_in_one_sentence(fault):
    with pytest.raises(EnvError, match=FAULTS[fault]) as caught:
        # Discrete spaces make the constructor look for masks, which resets once without a seed.
        run(as_host_env(_Quiet(fault)))
    assert caught.value.args[0].count("\n") == 0
    if "raises" in fault:
        assert isinstance(caught.value.__cause__, ZeroDivisionError | OSError)


class _Quiet(Bad):
    """Bad, with its first reset (the search for masks) always good."""

    resets = 0

    def reset(self, **kwargs):
        self.resets += 1
        if self.resets == 1:
            return np.zeros(3, np.uint8), {}
        return super().reset(**kwargs)


def test_scalars_of_other_libraries_are_taken():
    class Scalars(Counting):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            flags = np.array(terminated), jnp.asarray(truncated)
            return obs, (jnp.float32(reward) if self.buffer[1] % 2 else np.array(reward)), *flags, info

    ours, plain = make_vec_env(Scalars, 2), make_vec_env(Counting, 2)
    for envs in (ours, plain):
        envs.reset([1, 2])
    for _ in range(12):
        one, two = (envs.step(np.zeros(2, np.int32)) for envs in (ours, plain))
        for name in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_reward_that_is_too_large_is_named_in_a_vector_environment():
    class Large(Own):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            reward[1] = -1e40
            return obs, reward, *rest

    with pytest.raises(
        EnvError, match=r"at step 1: reward of environment 1 is -1e\+40, which no 32-bit float"
    ):
        run(as_host_env(Large(AutoresetMode.DISABLED)))


def test_the_failing_one_of_several_is_named():
    made = []

    def build():
        made.append(Bad("raises" if len(made) == 2 else ""))
        return made[-1]

    with pytest.raises(EnvError, match="environment 2 at step 3"):
        run(make_vec_env(build, 4))


def test_keyboard_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        run(make_vec_env(lambda: Bad("interrupt")))


def test_a_constructor_that_raises_is_named():
    with pytest.raises(EnvError, match=r"environment 0: its constructor raised KeyError: 'no such level'"):
        make_vec_env(Bad, 2, env_kwargs={"fault": "constructor"})


@pytest.mark.filterwarnings("ignore:.*Received the following error|.*Traceback|.*Raising the last")
@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_an_error_in_a_worker_is_named():
    envs = make_vec_env(Bad, 2, env_kwargs={"fault": "raises"}, vec_env_cls=AsyncVectorEnv)
    with pytest.raises(EnvError, match=r"at step 3 .*ZeroDivisionError: division by zero"):
        run(envs)
    envs.close()


def test_a_worker_that_dies_is_named_and_the_others_end():
    makers = [Bad, functools.partial(Bad, "exit")]
    envs = as_host_env(AsyncVectorEnv(makers, context="forkserver"))
    with pytest.raises(EnvError, match=r"at step 3: the worker of environment 1 died with exit code 3"):
        run(envs)
    envs.close()
    assert not any(process.is_alive() for process in envs.envs.processes)


@pytest.mark.parametrize("fault", ["raises", "shape", "dtype"])
def test_a_users_vector_environment_is_checked(fault):
    with pytest.raises(EnvError, match="vector environment failed at step 3"):
        run(as_host_env(SyncVectorEnv([Bad, lambda: Bad(fault)])))


def test_check_chunk_names_the_first_bad_number():
    obs = {"a": np.zeros((4, 3, 2), np.float32), "b": np.zeros((4, 3), np.int32)}
    reward = np.zeros((4, 3), np.float32)
    check_chunk(obs, obs, reward, 11)
    bad = {**obs, "a": obs["a"].copy()}
    bad["a"][2, 1, 0] = np.nan
    with pytest.raises(EnvError, match=r"environment 1 at step 13: observation\['a'\] at index \[0\] is nan"):
        check_chunk(bad, obs, reward, 11)
    with pytest.raises(EnvError, match=r"environment 1 at step 13: next observation\['a'\]"):
        check_chunk(obs, bad, reward, 11)
    reward[0, 2] = -np.inf
    with pytest.raises(
        EnvError, match=r"environment 2 at step 11: reward is -inf; it must be finite \(32-bit"
    ):
        check_chunk(obs, obs, reward, 11)


def test_seeds_are_distinct_and_small():
    one, two = env_seeds(0, 50), env_seeds(1, 50)
    assert len({*one, *two}) == 100
    assert max(one) < 2**31
    assert one == env_seeds(np.int64(0), 50)
    assert one[:3] == env_seeds(0, 3)
    assert env_seeds(None, 2) != env_seeds(None, 2)
    assert env_seeds(2**64, 1)
    with pytest.raises(ValueError, match="seed=-1 must be a whole number of at least 0"):
        env_seeds(-1, 1)
