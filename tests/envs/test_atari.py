import sys

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

import cv2

import actrix
from actrix.core.spaces import is_image
from actrix.envs import atari
from actrix.envs.atari import (
    EVALUATION,
    PLAY,
    AtariWrapper,
    atari_backend,
    atari_single_env,
    is_atari,
    make_atari_env,
)
from actrix.envs.base import HostEnv
from actrix.envs.build import UnknownEnvError, single_env
from actrix.envs.envpool import EnvPoolAtari, atari_pool_id
from actrix.envs.gymnasium import GymnasiumEnvs
from actrix.envs.make import make_vec_env

needs_envpool = pytest.mark.skipif(atari_pool_id("ALE/Pong-v5") is None, reason="needs EnvPool")
BACKENDS = ["gymnasium", pytest.param("envpool", marks=needs_envpool)]
BREAKOUT = "ALE/Breakout-v5"


def actions(envs, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, envs.spec.action_space.n, (steps, envs.num_envs)).astype(np.int32)


def roll(envs, steps, seed=0):
    """First observation and steps under random actions."""
    first, mask = envs.reset()
    assert mask is None
    return first, [envs.step(action) for action in actions(envs, steps, seed)]


@needs_envpool
@pytest.mark.parametrize(
    ("game", "settings", "ends"),
    [
        ("Breakout", {}, (15, 0)),  # lives
        ("Breakout", {**EVALUATION, "max_episode_frames": 600}, (1, 1)),  # whole games
        # No FIRE, and other sizes.
        (
            "MsPacman",
            {"max_episode_frames": 600, "screen_size": 42, "frame_skip": 3, "frame_stack": 2},
            (0, 2),
        ),
        pytest.param("MsPacman", {"max_episode_frames": 600}, (0, 4), marks=pytest.mark.slow),
        pytest.param("Pong", {"max_episode_frames": 900}, (0, 2), marks=pytest.mark.slow),
        pytest.param(
            "Qbert", {"screen_size": 42, "frame_skip": 3, "frame_stack": 2}, (1, 0), marks=pytest.mark.slow
        ),
    ],
)
def test_both_backends_are_the_same_environment(game, settings, ends):
    # With one no-op nothing is drawn at random.
    ours, theirs = (
        make_atari_env(f"ALE/{game}-v5", 2, 0, backend, {"noop_max": 1, **settings})
        for backend in ("gymnasium", "envpool")
    )
    assert (type(ours), type(theirs)) == (GymnasiumEnvs, EnvPoolAtari)
    assert ours.spec == theirs.spec
    (ours_first, ours_steps), (theirs_first, theirs_steps) = roll(ours, 320), roll(theirs, 320)
    np.testing.assert_array_equal(ours_first, theirs_first)
    pixels = different = terminated = truncated = 0
    for a, b in zip(ours_steps, theirs_steps, strict=True):
        for field in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
            assert getattr(a, field).dtype == getattr(b, field).dtype
        np.testing.assert_array_equal(a.obs, b.obs)
        away = np.abs(a.next_obs.astype(int) - b.next_obs) > 1
        # The last picture of a finished game may be an old one in EnvPool, and nothing else.
        assert not away[~a.terminated].any()
        assert not away[:, :-1].any()
        pixels, different = pixels + away.size, different + away.sum()
        terminated, truncated = terminated + a.terminated.sum(), truncated + a.truncated.sum()
    assert different <= 1e-3 * pixels
    assert terminated >= ends[0]
    assert truncated >= ends[1]


@needs_envpool
def test_envpool_starts_after_as_many_no_ops():
    env = atari_single_env("ALE/MsPacman-v5", noop_max=0)
    env.reset(seed=0)
    starts = set()
    for _ in range(30):
        env.unwrapped.step(0)
        screen = env.unwrapped.ale.getScreenGrayscale()
        starts.add(cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA).tobytes())
    for backend in ("gymnasium", "envpool"):
        obs, _ = make_atari_env("ALE/MsPacman-v5", 8, 1, backend).reset()
        found = {frame.tobytes() for frame in obs[:, -1]}
        assert found <= starts
        assert len(found) > 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_contract(backend):
    envs = make_atari_env(BREAKOUT, 3, 1, backend, {"max_episode_frames": 4 * 20})
    assert isinstance(envs, HostEnv)
    assert (envs.backend, envs.num_envs) == (backend, 3)
    assert (envs.spec.frame_stack, envs.spec.max_episode_steps) == (4, 20)
    assert is_image(envs.spec.observation_space)
    obs, steps = roll(envs, 130)
    handed = [(step, step.obs.copy(), step.next_obs.copy()) for step in steps]
    roll(envs, 30)
    ends = {"terminated": 0, "truncated": 0}
    for array in (obs, *(step.obs for step in steps)):
        assert array.shape == (3, 4, 84, 84)
        assert array.dtype == np.uint8
    assert (obs == obs[:, :1]).all()
    for step, before, next_before in handed:
        np.testing.assert_array_equal(step.obs, before)
        np.testing.assert_array_equal(step.next_obs, next_before)
        assert step.valid is step.mask is step.next_mask is None
        assert step.reward.dtype == np.float32
        assert step.terminated.dtype == step.truncated.dtype == bool
        assert not (step.terminated & step.truncated).any()
        # Single frames rebuild every stack: the frames shift by one, an episode's first one is repeated.
        np.testing.assert_array_equal(step.next_obs[:, :-1], obs[:, 1:])
        ended = step.terminated | step.truncated
        assert (step.obs[ended] == step.obs[ended][:, :1]).all()
        np.testing.assert_array_equal(step.obs[~ended], step.next_obs[~ended])
        obs = step.obs
        for flag in ends:
            ends[flag] += getattr(step, flag).sum()
    assert ends["truncated"] >= 12
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cut_shows_the_true_frame_and_starts_a_new_game(backend):
    settings = {"noop_max": 1, "terminal_on_life_loss": False}
    first, free = roll(make_atari_env(BREAKOUT, 1, 3, backend, settings), 40)
    _, cut = roll(make_atari_env(BREAKOUT, 1, 3, backend, {**settings, "max_episode_frames": 4 * 33}), 40)
    for t in range(33):
        np.testing.assert_array_equal(cut[t].next_obs, free[t].next_obs)
        assert cut[t].truncated == (t == 32)
        assert not cut[t].terminated
    assert (cut[32].next_obs[:, -1] != first[:, -1]).any()
    np.testing.assert_array_equal(cut[32].obs, first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_end_on_the_limit_is_a_termination(backend):
    def lives(limit):
        settings = {"noop_max": 1, "max_episode_frames": 4 * limit}
        envs = make_atari_env(BREAKOUT, 1, 0, backend, settings)
        return envs.reset()[0], [envs.step(np.zeros(1, np.int32)) for _ in range(60)]

    first, steps = lives(27_000)
    ends = [t for t, step in enumerate(steps) if step.terminated]
    assert len(ends) == 2  # every life begins with FIRE, else the ball would never move
    # The limit counts over lives, and a new game follows it.
    for end in ends:
        _, steps = lives(end + 1)
        assert steps[end].terminated
        assert not steps[end].truncated
        np.testing.assert_array_equal(steps[end].obs, first)
        assert not any(step.truncated for step in steps[:end])
    _, steps = lives(ends[1])
    assert [t for t in range(ends[1]) if steps[t].truncated or steps[t].terminated] == [ends[0], ends[1] - 1]
    assert steps[ends[1] - 1].truncated


def test_a_lost_life_ends_the_episode_and_the_game_goes_on():
    env = atari_single_env(BREAKOUT)
    rng, seen, over = np.random.default_rng(0), [], []
    _, info = env.reset(seed=0)
    for _ in range(7):
        terminated, start = False, info["lives"]
        while not terminated:
            *_, terminated, truncated, info = env.step(rng.integers(4))
            assert not truncated
            assert info["lives"] == start or terminated
        seen.append((start, info["lives"]))
        over.append(env.unwrapped.ale.game_over())
        _, info = env.reset()
    assert seen == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0), (5, 4), (4, 3)]
    assert over == [False] * 4 + [True] + [False] * 2
    # A second reset, one in the middle of a life, and one with a seed start a new game.
    assert [info["lives"], env.reset()[1]["lives"]] == [3, 5]
    env.step(0)
    assert env.reset()[1]["lives"] == 5
    while not terminated or info["lives"] == 5:
        *_, terminated, _, info = env.step(rng.integers(4))
    assert env.reset(seed=1)[1]["lives"] == 5


def test_a_game_played_for_evaluation_ends_when_it_is_over():
    env = atari_single_env(BREAKOUT, **EVALUATION)
    rng, terminated = np.random.default_rng(0), False
    env.reset(seed=0)
    while not terminated:
        obs, *_, terminated, _, info = env.step(rng.integers(4))
    assert info["lives"] == 0
    # The last picture is that of the last two frames, not of the step before.
    screen = env.unwrapped.ale.getScreenGrayscale()
    assert (obs[-1] >= cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA)).all()


def test_a_game_goes_on_after_a_lost_life_only_where_fire_is_pressed():
    """An agent that never presses FIRE itself: with PLAY it loses all lives, without it waits with the second."""

    def lives(settings):
        env = atari_single_env(BREAKOUT, **settings, max_episode_frames=4 * 1500)
        env.reset(seed=0)
        terminated = truncated = False
        while not (terminated or truncated):
            *_, terminated, truncated, info = env.step(0)
        return info["lives"], terminated

    assert lives(PLAY) == (0, True)
    assert lives(EVALUATION) == (4, False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rewards_are_clipped_to_their_sign(backend):
    def rewards(**settings):
        envs = make_atari_env(
            "ALE/SpaceInvaders-v5", 1, 0, backend, {**EVALUATION, "noop_max": 1, **settings}
        )
        return np.array([step.reward for step in roll(envs, 120)[1]])

    clipped, raw = rewards(clip_reward=True), rewards()
    assert raw.max() > 1
    np.testing.assert_array_equal(clipped, np.sign(raw))


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_no_ops_stay_in_bounds_and_fire_comes_last(game):
    counts = set()
    for noop_max in (0, 1, 4):
        env = atari_single_env(f"ALE/{game}-v5", noop_max=noop_max)
        raw, did = env.unwrapped, []
        step = raw.step
        raw.step = lambda action, step=step, did=did: did.append(action) or step(action)
        fire = [raw.get_action_meanings().index("FIRE")] if game == "Breakout" else []
        env.reset(seed=0)
        for _ in range(25 if noop_max == 4 else 2):
            did.clear()
            env.reset()
            assert did == [0] * (len(did) - len(fire)) + fire
            assert min(noop_max, 1) <= max(len(did), noop_max > 0) <= max(noop_max, len(fire))
            if noop_max == 4:
                counts.add(len(did))
    assert counts == {1, 2, 3, 4}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_repeats_the_stream(backend):
    game = "ALE/MsPacman-v5"
    envs = make_atari_env(game, 2, 5, backend)
    (a, steps_a), (b, steps_b) = roll(envs, 20), roll(make_atari_env(game, 2, 5, backend), 20)
    c, _ = make_atari_env(game, 2, 6, backend).reset()
    np.testing.assert_array_equal(a, b)
    for one, two in zip(steps_a, steps_b, strict=True):
        np.testing.assert_array_equal(one.obs, two.obs)
    assert (a != c).any()
    first, _ = envs.reset([1, 2])
    np.testing.assert_array_equal(envs.reset([1, 2])[0], first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sticky_actions(backend):
    def last(p):
        envs = make_atari_env(BREAKOUT, 1, 0, backend, {"noop_max": 1, "action_repeat_probability": p})
        return roll(envs, 15)[1][-1].obs

    np.testing.assert_array_equal(last(0.0), last(0))
    assert (last(0.5) != last(0.0)).any()


def test_the_wrapper_takes_over_the_settings_of_the_environment():
    # ALE/*-v5 is sticky and cuts at 108000 raw frames unless told otherwise.
    single_env("ALE/Pong-v5").close()
    kwargs = {"frameskip": 1, "max_num_frames_per_episode": 30}
    envs = make_vec_env(BREAKOUT, 1, 0, AtariWrapper, kwargs, {"noop_max": 1})
    env = envs.envs.envs[0]
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    ours = make_atari_env(BREAKOUT, 1, 0, "gymnasium", {"noop_max": 1})
    for a, b in zip(roll(envs, 40)[1], roll(ours, 40)[1], strict=True):
        np.testing.assert_array_equal(a.next_obs, b.next_obs)
        assert (a.terminated, a.truncated) == (b.terminated, b.truncated)
    with pytest.raises(ValueError, match=r"an ALE/\* environment made with frameskip=1, not .*Pong"):
        AtariWrapper(single_env("ALE/Pong-v5"))
    with pytest.raises(ValueError, match=r"an ALE/\* environment made with frameskip=1, not .*CartPole"):
        AtariWrapper(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="noop_max must not be negative, got -1"):
        AtariWrapper(single_env("ALE/Pong-v5", {"frameskip": 1}), noop_max=-1)


def test_ids():
    for env_id in ("ALE/Pong-v5", "PongNoFrameskip-v4", "ALE/TicTacToe3D-v5"):
        assert is_atari(env_id)
    for env_id in ("CartPole-v1", "Pong-v5", "PongNoFrameskip-v0", "Breakout-MinAtar", gym.Env, None):
        assert not is_atari(env_id)
    a, b = (make_atari_env(env_id, 1, 0) for env_id in ("PongNoFrameskip-v4", "ALE/Pong-v5"))
    assert a.env_id == b.env_id == "ALE/Pong-v5"
    assert a.spec == b.spec
    assert a.spec.max_episode_steps == 27_000
    np.testing.assert_array_equal(a.reset()[0], b.reset()[0])
    assert make_atari_env("ALE/Pong-v5", wrapper_kwargs=EVALUATION).env_id == "ALE/Pong-v5"
    other = make_atari_env("ALE/Pong-v5", env_kwargs={"full_action_space": True})
    assert other.env_id is None
    assert other.spec.action_space.n == 18


@needs_envpool
def test_which_backend():
    assert atari_backend("auto", "ALE/Pong-v5", 2) == "envpool"
    assert atari_backend("auto", "PongNoFrameskip-v4", 2) == "envpool"
    assert atari_backend("auto", "ALE/Pong-v5", 1) == "gymnasium"
    assert atari_backend("envpool", "ALE/TicTacToe3D-v5", 1) == "envpool"
    assert atari_backend("auto", "ALE/Pong-v5", 2, None, {"mode": 1}) == "gymnasium"
    assert atari_backend("auto", "ALE/Pong-v5", 2, {"noop_max": 0}) == "gymnasium"  # crashes EnvPool
    assert atari_backend("auto", "ALE/Pong-v5", 2, {"frame_skip": 1}) == "gymnasium"  # pools without end
    assert isinstance(make_atari_env("ALE/Pong-v5", 2), EnvPoolAtari)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "error", "message"),
    [
        ("ALE/Pnog-v5", {}, UnknownEnvError, "'ALE/Pnog-v5'; did you mean .*ALE/Pong-v5"),
        ("ALE/Pnog-v5", {"n_envs": 2}, UnknownEnvError, "'ALE/Pnog-v5'; did you mean .*ALE/Pong-v5"),
        ("PnogNoFrameskip-v4", {}, UnknownEnvError, "'ALE/Pnog-v5'; did you mean .*ALE/Pong-v5"),
        ("ALE/CartPole-v5", {"backend": "envpool"}, UnknownEnvError, "has no game 'ALE/CartPole-v5'"),
        (
            "Pong-v4",
            {},
            UnknownEnvError,
            "'Pong-v4' is no Atari id like 'ALE/Pong-v5'; did you mean ALE/Pong-v5",
        ),
        (BREAKOUT, {"n_envs": 0}, ValueError, "n_envs must be a positive integer, got 0"),
        (BREAKOUT, {"seed": -1}, ValueError, "must be a whole number of at least 0"),
        (
            BREAKOUT,
            {"backend": "jax"},
            ValueError,
            "backend must be one of auto, gymnasium, envpool for Atari",
        ),
        (
            BREAKOUT,
            {"wrapper_kwargs": {"noop": 3}},
            ValueError,
            "no setting 'noop'; it has noop_max, frame_skip",
        ),
        (BREAKOUT, {"wrapper_kwargs": {"noop_max": -1}}, ValueError, "noop_max must be a whole number >= 0"),
        (
            BREAKOUT,
            {"wrapper_kwargs": {"frame_skip": True}},
            ValueError,
            "frame_skip must be a whole number >= 1",
        ),
        (
            BREAKOUT,
            {"wrapper_kwargs": {"clip_reward": 1}},
            ValueError,
            "clip_reward must be True or False, got 1",
        ),
        (
            BREAKOUT,
            {"wrapper_kwargs": {"action_repeat_probability": 2}},
            ValueError,
            "action_repeat_probability must be a probability, got 2",
        ),
        (
            BREAKOUT,
            {"env_kwargs": {"frameskip": 2}},
            ValueError,
            "give 'frame_skip' in wrapper_kwargs instead",
        ),
        (BREAKOUT, {"env_kwargs": {"colour": 2}}, UnknownEnvError, "refuses the env_kwargs: .*'colour'"),
        (BREAKOUT, {"backend": "envpool", "env_kwargs": {"mode": 1}}, ValueError, "takes no env_kwargs"),
        (
            BREAKOUT,
            {"backend": "envpool", "wrapper_kwargs": {"noop_max": 0}},
            ValueError,
            "needs noop_max >= 1 and frame_skip >= 2",
        ),
    ],
)
def test_errors_are_one_sentence(env_id, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        make_atari_env(env_id, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["ale_py", "cv2"])
def test_a_missing_package_names_the_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "actrix\[atari\]"'):
        make_atari_env("ALE/Pong-v5")


def test_video():
    env = atari_single_env("ALE/Pong-v5", "rgb_array", **EVALUATION)
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)
    assert env.step(0)[0].shape == (4, 84, 84)
    raw = single_env("ALE/Pong-v5", render_mode="rgb_array")
    raw.reset(seed=0)
    assert raw.render().shape == (210, 160, 3)


def test_without_envpool_gymnasium_is_taken(monkeypatch):
    monkeypatch.setattr(atari, "atari_pool_id", lambda game: None)
    assert make_atari_env("ALE/Pong-v5", 2).backend == "gymnasium"
    with pytest.raises(UnknownEnvError, match="EnvPool is not installed or has no game"):
        make_atari_env("ALE/Pong-v5", 2, backend="envpool")


def by_hand(seed, noops, actions, lost_at):
    """Breakout as Stable-Baselines3 plays it, on raw frames: (picture, reward, frames) of each step, and its starts."""
    env = single_env(BREAKOUT, {"frameskip": 1, "repeat_action_probability": 0.0})
    env.reset(seed=seed)
    ale, grey = env.unwrapped.ale, env.unwrapped.ale.getScreenGrayscale

    def raw(action, times):
        frames, reward = [], 0.0
        for _ in range(times):
            reward += env.step(action)[1]
            frames.append(grey())
        return frames, reward

    raw(0, noops)
    raw(1, 4)
    raw(2, 4)
    seen = [ale.getEpisodeFrameNumber()]
    for t, action in enumerate(actions):
        frames, reward = raw(action, 4)
        picture = cv2.resize(np.maximum(*frames[-2:]), (84, 84), interpolation=cv2.INTER_AREA)
        seen.append((picture, np.sign(reward)))
        if t == lost_at:  # a life: one step of no-op, FIRE and the third action
            raw(0, 4)
            raw(1, 4)
            raw(2, 4)
    return seen, ale.lives()


def test_make_atari_env_is_stable_baselines3s(tmp_path):
    envs = actrix.make_atari_env(
        "BreakoutNoFrameskip-v4", 1, seed=3, monitor_dir=tmp_path, wrapper_kwargs={"noop_max": 7}
    )
    assert (envs.observation_space.shape, envs.spec.frame_stack) == ((84, 84, 1), None)
    assert envs.reset().shape == (1, 84, 84, 1)
    ale = envs.envs[0].unwrapped.ale
    noops = ale.getEpisodeFrameNumber() - 8
    assert 1 <= noops <= 7
    actions, seen, lost_at = [], [], None
    rng = np.random.default_rng(0)
    while lost_at is None or len(actions) < lost_at + 20:
        actions.append(int(rng.integers(4)))
        obs, reward, done, infos = envs.step([actions[-1]])
        if done[0] and lost_at is None:
            lost_at, obs = len(actions) - 1, infos[0]["terminal_observation"][None]
        assert "episode" not in infos[0], "the Monitor counts games, not lives"
        seen.append((obs[0, ..., 0], reward[0]))
    expected, lives = by_hand(3, noops, actions, lost_at)
    assert expected[0] == noops + 8
    assert lives == ale.lives() < 5
    for (picture, reward), (theirs, paid) in zip(seen, expected[1:], strict=True):
        np.testing.assert_array_equal(picture, theirs)
        assert reward == paid
    while "episode" not in infos[0]:
        infos = envs.step([0])[3]
    assert ale.lives() == 5, "a new game"
    assert actrix.load_results(tmp_path)["r"].tolist() == [infos[0]["episode"]["r"]]
    envs.close()


def test_frames_are_stacked_outside():
    envs = actrix.make_atari_env("ALE/Pong-v5", 2, seed=0, monitor_kwargs={"allow_early_resets": False})
    assert envs.get_attr("allow_early_resets") == [False, False]
    stacked = actrix.VecFrameStack(envs, 4)
    obs = stacked.reset()
    assert obs.shape == (2, 84, 84, 4)
    assert not obs[..., :3].any()
    assert stacked.spec.max_episode_steps == 27_000
    after = stacked.step([2, 3])[0]
    np.testing.assert_array_equal(after[..., 2], obs[..., 3])
    with pytest.raises(
        ValueError, match="make_atari_env makes Gymnasium's environments; give a model the id"
    ):
        actrix.make_atari_env("ALE/Pong-v5", 2, backend="envpool")
