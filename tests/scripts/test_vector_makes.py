"""Vector environments of any make: the true returns, successors and legal actions, or one sentence."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from worlds import LENGTH, SMALL, Counting, Frame, Masked, Rows

from actrix import PPO
from actrix.cli import main
from actrix.core.spaces import UnsupportedSpaceError, check_observation_space
from actrix.envs.base import infos_of
from actrix.envs.guard import EnvError
from actrix.envs.make import as_host_env, make_vec_env

N = 2


def sync(mode, masks):
    return SyncVectorEnv([Masked if masks else Counting] * N, autoreset_mode=AutoresetMode(mode))


def play(env, steps=9, seeds=None):
    """Returns of the episodes, after checking every row's successor and mask."""
    host = as_host_env(env)
    obs, mask = host.reset(seeds)
    total, returns = np.zeros(N), []
    for _ in range(steps):
        action = np.zeros(N, int) if mask is None else mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        step = host.step(action)
        valid = np.ones(N, bool) if step.valid is None else step.valid
        assert (step.next_obs[valid, 0] == obs[valid, 0] + 1).all()
        total = np.where(valid, total + step.reward, total)
        done = (step.terminated | step.truncated) & valid
        assert (step.next_obs[done, 0] == LENGTH).all()
        assert (step.obs[done & (host.mode is not AutoresetMode.NEXT_STEP), 0] == 0).all()
        returns += total[done].tolist()
        total, obs, mask = np.where(done, 0, total), step.obs, step.mask
    return returns, mask


def test_seeds_reach_a_users_own_in_the_form_it_takes():
    env = Rows(N)
    as_host_env(env).reset([5, 6])
    assert env.seeds[-1] == [5, 6]


def test_masks_are_found_in_processes():
    env = AsyncVectorEnv([Masked] * N, context="forkserver")
    try:
        returns, mask = play(RecordEpisodeStatistics(env))
    finally:
        env.close()
    assert set(returns) == {6.0}
    assert (mask == [True, False, True]).all()


def test_truncation_is_told_apart():
    host = as_host_env(Rows(N, truncate=True))
    host.reset()
    steps = [host.step(np.zeros(N, int)) for _ in range(LENGTH)]
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()


def test_infos_are_listed_by_row():
    for env in (make_vec_env(Counting, N), as_host_env(sync("SameStep", False))):
        env.reset()
        env.step(np.zeros(N, int))
        assert [info["step"] for info in infos_of(env)] == [1, 1]


# ------------------------------------------------------------------ what is not Gymnasium's


class Foreign:
    """A vector environment as SuperSuit's or Stable-Baselines3's are: spaces of one, infos a list."""

    num_envs = N
    observation_space, action_space = Counting.observation_space, Counting.action_space

    def __init__(self, five=True, final="terminal_observation", truncate=False):
        self.rows, self.five, self.final, self.truncate = Rows(N, final="final_obs"), five, final, truncate

    def reset(self):
        obs, infos = self.rows.reset()
        return (obs, infos) if self.five else obs

    def step(self, actions):
        obs, reward, end, _, infos = self.rows.step(actions)
        final = infos.get("final_obs", [None] * N)
        cut = {"TimeLimit.truncated": True} if self.truncate else {}
        told = [({self.final: o} if self.final and o is not None else {}) | (cut if e else {})
                for o, e in zip(final, end, strict=True)]  # fmt: skip
        return (obs, reward, end, np.zeros(N, bool), told) if self.five else (obs, reward, end, told)

    def close(self):
        pass


@pytest.mark.parametrize("five", [True, False])
@pytest.mark.parametrize("final", ["terminal_observation", "final_observation", "final_obs"])
def test_foreign_vector_environments(five, final):
    assert set(play(Foreign(five, final))[0]) == {6.0}


def test_a_foreign_time_limit_is_a_truncation():
    host = as_host_env(Foreign(five=False, truncate=True))
    host.reset()
    steps = [host.step(np.zeros(N, int)) for _ in range(LENGTH)]
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()


# ------------------------------------------------------------------ one environment


class Loose(Counting):
    """Forms that people write: no options, no info."""

    def reset(self, seed=None):
        return super().reset(seed=seed)[0], None

    def step(self, action):
        return *super().step(action)[:4], []


def test_reset_without_options_and_infos_that_are_none():
    gym.register("Loose-v0", entry_point=Loose, max_episode_steps=2, disable_env_checker=True)
    try:
        for env, total in ((Loose, 6.0), ("Loose-v0", 3.0)):
            host = make_vec_env(env, N, backend="gymnasium", seed=0)
            host.reset()
            rewards = [host.step(np.zeros(N, int)) for _ in range(LENGTH)]
            assert sum(s.reward[0] for s in rewards[: 3 if total == 6 else 2]) == total
    finally:
        gym.registry.pop("Loose-v0")


def test_arguments_that_cannot_be_compared(tmp_path):
    """By the id, as an object and by the command line."""
    m = {"prices": np.ones((3, 3)), "frame": Frame()}
    gym.register("Priced-v0", entry_point=lambda m: Counting(), kwargs={"m": m})
    try:
        assert make_vec_env("Priced-v0", 1).env_id == "Priced-v0"
        assert make_vec_env("Priced-v0", 1, env_kwargs={"m": np.zeros((3, 3))}).env_id is None
        for env in ("Priced-v0", gym.make("Priced-v0")):
            assert PPO("MlpPolicy", env, **SMALL).learn(8).env_id == "Priced-v0"
        settings = ["n_steps=8", "batch_size=8", "n_epochs=1", "policy_kwargs={'net_arch': [4]}"]
        out = ["--out", str(tmp_path / "run"), "--quiet"]
        assert (
            main(["train", "ppo", "Priced-v0", "--steps", "8", "--envs", "1", *out, "--set", *settings]) == 0
        )
    finally:
        gym.registry.pop("Priced-v0")


# ------------------------------------------------------------------ one sentence


def failing(env, steps=LENGTH):
    host = as_host_env(env)
    host.reset()
    for _ in range(steps):
        host.step(np.zeros(N, int))


CASES = {
    "lost": (lambda: Foreign(final=None), "the last observation is lost"),
    "info": (lambda: Told(), "info is 'x' .*; it must be a dict"),
}


class Told(Counting):
    def step(self, action):
        return *super().step(action)[:4], "x"


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_taken_is_one_sentence(case):
    make, sentence = CASES[case]
    with pytest.raises(EnvError, match=sentence) as caught:
        failing(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "remedy"),
    [
        (gym.spaces.Box(0, 1, (0,)), "FilterObservation"),
        (gym.spaces.Dict(), "nothing to see"),
        (gym.spaces.Dict(a=gym.spaces.Text(5)), "TransformObservation"),
    ],
)
def test_spaces_without_a_number_name_the_remedy(space, remedy):
    with pytest.raises(UnsupportedSpaceError, match=remedy):
        check_observation_space(space)
