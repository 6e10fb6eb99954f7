"""The host loop of replayed data: what reaches the memory, who sees each step, which error says what."""

import functools
import itertools

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actrix import (
    ACER,
    DDPG,
    DQN,
    PGQL,
    TD3,
    BaseCallback,
    CheckpointCallback,
    EnvError,
    EvalCallback,
    EveryNTimesteps,
    OffPAC,
    StopTrainingOnMaxEpisodes,
    evaluate_policy,
    make_vec_env,
)
from actrix.core.platform import fewer_copies
from actrix.data.ring import Draw
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ContinuousTarget
from actrix.loops import stepping
from actrix.loops.host import HostRunner
from actrix.loops.runner import iteration_keys, wrapped
from actrix.loops.stepping import SteppingRunner
from actrix.loops.train import NonFiniteError

SMALL = {
    "learning_starts": 8, "train_freq": 1, "batch_size": 8, "buffer_size": 500, "target_update_interval": 20, "seed": 0,
    "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip
PAIRS = SMALL | {"train_freq": 2}
CONTINUOUS = {k: v for k, v in PAIRS.items() if k != "target_update_interval"} | {
    "noise_type": "ornstein-uhlenbeck", "noise_std": 0.5,
}  # fmt: skip


class Walk(gym.Env):
    """obs = (number of the episode, steps in it), reward = steps before; terminates after `ends` steps, if ever."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)
    made = 0

    def __init__(self, ends=None, bad_at=0, bad=None, bad_reward=None):
        self.ends, self.episode, self.count = ends, 0, 0
        self.bad_at, self.bad, self.bad_reward = bad_at, bad, bad_reward

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.t, self.count = self.t + 1, self.count + 1
        obs, reward = self._obs(), float(self.t - 1)
        if self.count == self.bad_at:
            obs = obs if self.bad is None else np.float32(self.bad)
            reward = reward if self.bad_reward is None else self.bad_reward
        return obs, reward, self.t == self.ends, False, {}

    def _obs(self):
        return np.float32([self.episode, self.t])


class Steered(Walk):
    """The same with an action of one number, and observations that never change."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _obs(self):
        return np.ones(2, np.float32)


def two(mode=AutoresetMode.SAME_STEP):
    """Environment 0 terminates after 3 steps, environment 1 is cut by Gymnasium's wrapper after 5."""
    makers = [lambda: gym.wrappers.TimeLimit(Walk(3), 5), lambda: gym.wrappers.TimeLimit(Walk(), 5)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def remembered(model):
    """Every transition in the memory: (environment, obs, next_obs, reward, terminated, truncated)."""
    memory = model.runner.learner.memory
    index, env = np.nonzero(np.asarray(memory.rows.ready))
    draw = Draw(index, env, np.ones(len(index), bool), None)
    found = jax.tree.map(lambda x: np.asarray(x)[0], memory.ring.windows(memory.rows, draw, 1))
    assert found.valid.all()
    return env, found.obs, found.next_obs, found.reward, found.terminated, found.truncated


@functools.cache
def undisturbed():
    return DQN("MlpPolicy", two(), **SMALL).learn(60).get_parameters()


# --------------------------------------------------------------------------- what is remembered


@pytest.mark.parametrize("mode", AutoresetMode)
def test_truncated_is_not_terminated_and_successors_are_true(mode):
    """In NEXT_STEP mode the rows of the resets are neither stored nor counted."""
    model = DQN("MlpPolicy", two(mode), **SMALL).learn(60)
    env, obs, next_obs, reward, terminated, truncated = remembered(model)
    assert len(env) == model.num_timesteps >= 60
    np.testing.assert_array_equal(next_obs - obs, np.tile([0, 1], (len(obs), 1)))
    np.testing.assert_array_equal(reward, obs[:, 1])
    np.testing.assert_array_equal(terminated, (env == 0) & (next_obs[:, 1] == 3))
    np.testing.assert_array_equal(truncated, (env == 1) & (next_obs[:, 1] == 5))
    assert len({(e, *map(float, o)) for e, o in zip(env, obs, strict=True)}) == len(env), "each once"
    assert model.num_episodes == np.sum(terminated | truncated)
    assert set(zip(model.run.lengths, model.run.returns, strict=True)) == {(3, 3.0), (5, 10.0)}


def test_episodes_that_are_broken_off_are_cut_in_the_memory():
    """`learn` and an evaluation on the environment of training start new episodes: as truncations, without a jump."""
    env = two()
    model = DQN("MlpPolicy", env, **SMALL).learn(16)
    model.learn(14)
    evaluate_policy(model, env, 2)
    model.learn(14, reset_num_timesteps=False)
    assert model.num_timesteps == 28
    which, obs, next_obs, _, terminated, truncated = remembered(model)
    assert len(which) == 44
    np.testing.assert_array_equal(next_obs - obs, np.tile([0, 1], (44, 1)))
    np.testing.assert_array_equal(terminated, (which == 0) & (next_obs[:, 1] == 3))
    broken = truncated & (next_obs[:, 1] < 5)
    assert sorted(next_obs[broken & (which == 0)][:, 1]) == [1, 2]  # after 7 and 8 steps of threes
    assert sorted(next_obs[broken & (which == 1)][:, 1]) == [2, 3]


@pytest.mark.slow  # algorithms/test_modes.py compares these rounds with the compiled loop's, of DDPG, SAC and Rainbow
@pytest.mark.parametrize("block", [3, stepping.BLOCK])
def test_one_compiled_call_per_round_changes_nothing(block, monkeypatch):
    """Against the plain host loop, which calls `act` and `learn` one after the other: the same numbers.

    Ornstein–Uhlenbeck noise is what a policy remembers between steps.
    """
    monkeypatch.setattr(stepping, "BLOCK", block)  # of iterations whose random numbers are drawn together
    model = DDPG("MlpPolicy", HostJax(ContinuousTarget(), 2), **CONTINUOUS)
    fused = model.runner
    assert type(fused) is SteppingRunner
    assert fused._block == block
    plain = HostRunner(model.algorithm, HostJax(ContinuousTarget(), 2), 0)
    for runner in (fused, plain):
        runner.set_training(total_steps=100)
        runner.warm()
    reports = [fused.advance(5)[0], fused.advance(3)[0]], [plain.advance()[0] for _ in range(8)]
    one, other = (np.concatenate([r.ep_returns for r in x]) for x in reports)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert sum(r.steps for r in reports[0]) == sum(r.steps for r in reports[1]) == 32
    for x, y in zip(jax.tree.leaves(fused.learners[0]), jax.tree.leaves(plain.learners[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert fused._round._cache_size() == fused._action._cache_size() == 1


@pytest.mark.parametrize("start", [-2, 2**31 - 3, 2**32 - 3])
def test_random_numbers_of_a_block_are_those_of_each_iteration(start):
    """Where iterations pass a block's end, 0, 2³¹ and 2³², too."""
    runner = DQN("MlpPolicy", two(), **PAIRS).runner
    runner._compile()
    acting = runner.learner.acting
    for iteration in range(start, start + 5):
        drawn, place = runner._drawn(iteration)
        noise, key = jax.tree.map(lambda x, place=place: x[place], drawn)
        own_noise, _ = iteration_keys(runner.iteration_key, wrapped(iteration + 1))
        wanted = runner.algorithm.noise(acting, own_noise, runner.rows, runner.num_envs)
        for x, y in zip(jax.tree.leaves(noise), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(x, y)
        (_, own_key) = iteration_keys(runner.iteration_key, wrapped(iteration))
        assert jax.random.key_data(key).tolist() == jax.random.key_data(own_key).tolist()


def test_what_is_pending_in_a_file_is_complete_and_nothing_else():
    """The next action, as files have it now, or with the noise after it as before December 2026."""
    model = DDPG("MlpPolicy", HostJax(ContinuousTarget(), 2), **CONTINUOUS).learn(40)
    runner = model.runner
    (snapshot,) = runner.snapshots()
    with_pending = lambda given: [snapshot.loop | {"env": snapshot.loop["env"] | {"pending": given}}]
    pending = snapshot.loop["env"]["pending"]
    noise = runner.algorithm.noise(runner.learner.acting, runner.iteration_key, runner.rows, runner.num_envs)
    old = [np.asarray(x) for x in jax.tree.leaves(noise)]
    for given in (pending, pending + old):
        runner.set_loops(with_pending(given))
        for x, y in zip(jax.tree.leaves(tuple(runner._pending)), pending, strict=True):
            np.testing.assert_array_equal(x, y)
    for given in (pending[:-1], pending + old + old, pending + [x[:-1] for x in old], pending + pending):
        with pytest.raises(ValueError, match="pending holds"):
            runner.set_loops(with_pending(given))


# --------------------------------------------------------------------------- callbacks


class Count(BaseCallback):
    """num_timesteps, parameters and `dones` at each step."""

    def __init__(self):
        super().__init__()
        self.seen, self.actings, self.dones, self.rollouts = [], [], 0, [0, 0]

    def _on_rollout_start(self):
        self.rollouts[0] += 1

    def _on_rollout_end(self):
        self.rollouts[1] += 1

    def _on_step(self):
        self.seen.append(self.num_timesteps)
        self.actings.append(self.model.acting)
        self.dones += int(np.sum(self.locals["dones"]))
        return True


def test_on_step_runs_at_each_step_and_counts_right():
    """After the random phase of 8 steps, which callbacks do not see, two environments at a time."""
    model, count = DQN("MlpPolicy", two(), **PAIRS), Count()
    model.learn(24, callback=count)
    assert count.seen == [10, 12, 14, 16, 18, 20, 22, 24]
    assert model.num_timesteps == 24
    assert count.rollouts[1] >= 1
    first = [jax.tree.leaves(a.net)[0].tobytes() for a in map(jax.device_get, count.actings)]
    assert [x == y for x, y in itertools.pairwise(first)] == [True, False] * 3 + [True], "with updates only"
    assert count.dones + (8 // 2 // 3) == model.num_episodes
    model.learn(8, callback=count, reset_num_timesteps=False)
    assert count.seen[8:] == [26, 28, 30, 32]
    again = Count()
    model.learn(8, callback=again)
    assert again.seen == [2, 4, 6, 8], "no second random phase"


def test_nothing_changes_the_training(tmp_path):
    """Evaluating (stochastically), saving and predicting leave every bit as it was."""
    evaluation = EvalCallback(
        gym.wrappers.TimeLimit(Walk(), 4), eval_freq=5, n_eval_episodes=3, deterministic=False, verbose=0,
        log_path=tmp_path, best_model_save_path=tmp_path,
    )  # fmt: skip

    def predict(locals_, globals_):
        locals_["self"].predict(np.zeros(2, np.float32))

    model = DQN("MlpPolicy", two(), **SMALL)
    model.learn(60, callback=[evaluation, CheckpointCallback(7, tmp_path), predict, Count()])
    assert model.get_parameters().keys() == undisturbed().keys()
    for key, value in undisturbed().items():
        np.testing.assert_array_equal(model.get_parameters()[key], value, err_msg=key)
    assert evaluation.evaluations_timesteps == [10, 20, 30, 40, 50, 60]
    saved = sorted(int(p.stem.split("_")[2]) for p in tmp_path.glob("rl_model_*"))
    assert saved == [14, 28, 42, 56]
    loaded = DQN.load(tmp_path / "rl_model_56_steps")
    assert loaded.num_timesteps == 56


def test_a_stop_inside_a_chunk_and_learning_goes_on_afterwards():
    model = DQN("MlpPolicy", two(), **PAIRS)
    model.learn(500, callback=StopTrainingOnMaxEpisodes(4))
    assert (model.num_episodes, model.num_timesteps) == (8, 30)  # 10 + 6 episodes would take 30 steps each
    before = model.get_parameters()
    model.learn(40)
    assert model.num_timesteps == 40
    assert any((before[k] != v).any() for k, v in model.get_parameters().items())
    _, obs, next_obs, *_ = remembered(model)
    assert (next_obs[:, 1] - obs[:, 1] == 1).all()
    count = Count()
    model.learn(24, callback=EveryNTimesteps(8, count))
    assert count.seen == [8, 16, 24]


@pytest.mark.parametrize("settings", [SMALL, PAIRS], ids=["whole chunk", "half a chunk"])
def test_going_on_in_the_episodes_that_a_stop_interrupted_jumps_over_no_step(settings):
    model = DQN("MlpPolicy", two(), **settings)
    model.learn(500, callback=lambda local, everything: model.num_timesteps < 21)
    assert model.num_timesteps == 22
    model.learn(42, reset_num_timesteps=False)
    which, obs, next_obs, *_ = remembered(model)
    assert len(which) == model.num_timesteps  # every step is there
    assert (next_obs[:, 1] - obs[:, 1] == 1).all()


def test_trajectories_after_a_stop_are_cut_there():
    model = OffPAC("MlpPolicy", two(), n_steps=4, learning_starts=0, replay_ratio=1, seed=0)
    model.learn(500, callback=lambda local, everything: model.num_timesteps < 21)
    model.learn(40, reset_num_timesteps=False)
    _, obs, next_obs, *_ = remembered(model)
    assert (next_obs[:, 1] - obs[:, 1] == 1).all()


@pytest.mark.parametrize(
    ("cls", "backend"),
    [(OffPAC, "jax"), (PGQL, "gymnasium"),
     *(pytest.param(*x, marks=pytest.mark.slow) for x in
       ((OffPAC, "gymnasium"), (PGQL, "jax"), (ACER, "jax"), (ACER, "gymnasium")))],
)  # fmt: skip
def test_trajectories_are_replayed_behind_a_warm_up_of_the_statistics(cls, backend):
    small = {
        "n_envs": 2,
        "n_steps": 4,
        "learning_starts": 16,
        "replay_ratio": 2,
        "policy_kwargs": {"net_arch": [4]},
    }
    model = cls("MlpPolicy", "CartPole-v1", backend=backend, normalize=True, seed=0, **small)
    assert model.runner.algorithm.warm_up(4, 2)[0]
    model.learn(64)
    assert np.isfinite(model.run.metrics["train/replay_loss"])


# --------------------------------------------------------------------------- errors


def vector(*envs):
    return SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("step", [3, 11], ids=["random phase", "training"])
@pytest.mark.parametrize("what", ["obs", "reward"])
def test_non_finite_environments_are_named(what, step):
    bad = {"bad": [0.0, np.inf]} if what == "obs" else {"bad_reward": np.nan}
    model = DQN("MlpPolicy", vector(Walk(5), Walk(5, bad_at=step, **bad)), **SMALL)
    before = model.get_parameters()
    name = r"next observation at index \[1\] is inf" if what == "obs" else "reward is nan"
    with pytest.raises(EnvError, match=rf"environment 1 at step {step}: {name}; it must be finite"):
        model.learn(60)
    after = model.get_parameters()
    assert all(np.isfinite(x).all() for x in after.values())
    assert any((before[k] != after[k]).any() for k in after) == (step == 11)
    assert np.isfinite(remembered(model)[3]).all()


def test_an_environment_that_raises_is_named():
    class Breaks(Walk):
        def step(self, action):
            out = super().step(action)
            if self.count == 9:
                raise ZeroDivisionError("division by zero")
            return out

    model = DQN("MlpPolicy", make_vec_env(Breaks, 2), **SMALL)
    with pytest.raises(EnvError, match=r"environment 0 at step 9.*ZeroDivisionError: division by zero"):
        model.learn(60)


@pytest.mark.slow  # tests/test_bad_input.py asks it of DQN in this loop
def test_a_non_finite_update_keeps_the_last_good_parameters():
    """1e30 is a finite reward, but its squared error, and the square of its gradient in Adam, are not."""
    model = DDPG("MlpPolicy", vector(Steered(5), Steered(5, bad_at=7, bad_reward=1e30)), **CONTINUOUS)
    with pytest.raises(
        NonFiniteError, match=r"non-finite \(seed 0, around environment step \d+\).*learning_rate"
    ):
        model.learn(500)
    learner = model.runner.learner
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((learner.acting, learner.training)))


def test_a_large_update_with_fewer_copies_is_the_same(monkeypatch):
    large = CONTINUOUS | {"policy_kwargs": {"net_arch": [400, 300]}, "batch_size": 64}

    def trained():
        model = TD3("MlpPolicy", "Pendulum-v1", backend="gymnasium", **large).learn(20)
        return jax.tree.leaves(jax.device_get(model.acting.net))

    assert fewer_copies(), "this XLA knows the option, else the test would see nothing"
    with_it, asked = trained(), []
    monkeypatch.setattr(stepping, "fewer_copies", lambda: asked.append(1))
    assert all(np.array_equal(x, y) for x, y in zip(with_it, trained(), strict=True))
    assert asked


def test_an_xla_without_the_option_compiles_without_it(monkeypatch):
    def refuses(function, **options):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(jax, "jit", refuses)
    assert fewer_copies.__wrapped__() is None
