"""Vector environments of any make give the transitions, returns and masks of a loop by hand."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from makes import AsAttribute, Copies, Known, Markov, Own, legal, spread

from actrix.core.spaces import UnsupportedSpaceError
from actrix.envs.guard import EnvError
from actrix.envs.make import as_host_env, make_vec_env
from actrix.envs.vec.names import DummyVecEnv, SubprocVecEnv

SEEDS, STEPS = [11, 22, 33], 30
SAME, NEXT, OFF = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


def choose(obs, t, masked):
    """An action that only the state and the number of the transition decide, legal where masks are."""
    options = np.flatnonzero(legal(obs)) if masked else np.arange(3)
    return int(options[t % len(options)])


def by_hand(seed, masked):
    env, rows = Known("info" if masked else "none"), []
    obs, _ = env.reset(seed=seed)
    for t in range(STEPS):
        next_obs, reward, terminated, truncated, _ = env.step(choose(obs, t, masked))
        rows.append((*obs.tolist(), reward, *next_obs.tolist(), terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    return rows


def returns(rows):
    """Of the finished episodes."""
    out, total = [], 0.0
    for _, _, reward, *_, terminated, truncated in rows:
        total += reward
        if terminated or truncated:
            out, total = [*out, total], 0.0
    return out


def check(envs, seeds, masked):
    """Transitions, returns and masks of a HostEnv against the hand's."""
    assert envs.spec.mask_size == (3 if masked else None)
    obs, mask = envs.reset()
    rows = [[] for _ in seeds]
    while min(map(len, rows)) < STEPS:
        if masked:
            for x, m in zip(obs, mask, strict=True):
                assert m.tolist() == legal(x).tolist()
        step = envs.step(
            np.array([choose(x, len(r), masked) for x, r in zip(obs, rows, strict=True)], np.int32)
        )
        for i in range(len(seeds)):
            if step.valid is None or step.valid[i]:
                flags = bool(step.terminated[i]), bool(step.truncated[i])
                rows[i].append((*obs[i].tolist(), float(step.reward[i]), *step.next_obs[i].tolist(), *flags))
        obs, mask = step.obs, step.mask
    for got, seed in zip(rows, seeds, strict=True):
        expected = by_hand(seed, masked)
        assert got[:STEPS] == expected
        assert len(returns(expected)) > 5
        assert returns(got[:STEPS]) == returns(expected)


def play(envs, steps=10):
    """Reset, and step with every action."""
    host = as_host_env(envs)
    host.reset()
    for _ in range(steps):
        host.step(np.array([0, 1, 2]))


WRAPPERS = {"bare": lambda envs: envs, "statistics": RecordEpisodeStatistics, "plain": VectorWrapper}


def seeded(envs, seeds=SEEDS):
    """As a HostEnv whose first reset takes these seeds."""
    host = as_host_env(envs)
    host._seeds = seeds
    return host


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("masks", ["none", "method", "info"])
def test_gymnasiums_in_this_process(masks, mode, wrapper):
    envs = SyncVectorEnv([lambda: Known(masks)] * 3, autoreset_mode=mode)
    check(seeded(WRAPPERS[wrapper](envs)), SEEDS, masks != "none")


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("masks", ["none", "method", "info", "attribute"])
@pytest.mark.parametrize(
    ("style", "seeds", "wrapper"),
    [
        (style, seeds, wrapper)
        for style in ("arrays", "lists")
        for seeds in ("list", "int", "none")
        for wrapper in WRAPPERS
        # Gymnasium's wrappers pass a seed on; its statistics add to a dict of infos, and compute with arrays.
        if not (wrapper != "bare" and seeds == "none") and not (wrapper == "statistics" and style == "lists")
    ],
)
def test_ones_own(style, seeds, masks, mode, wrapper):
    lists = style == "lists"
    infos = "dict" if wrapper == "statistics" else "list" if lists else "None"
    cls = AsAttribute if masks == "attribute" else Own
    made = cls(
        mode, masks, seeds, declared=wrapper == "statistics" or mode is not NEXT, lists=lists, infos=infos
    )
    envs = seeded(WRAPPERS[wrapper](made))
    expected = SEEDS if seeds == "list" else spread(SEEDS[0] if seeds == "int" else None, 3)
    if seeds == "none":
        with pytest.warns(RuntimeWarning, match="takes no seed"):
            envs.reset()
    if made.metadata:
        check(envs, expected, masks != "none")
    else:
        with pytest.warns(UserWarning, match=UNDECLARED):
            check(envs, expected, masks != "none")


@pytest.mark.parametrize(
    "make",
    [
        lambda by: make_vec_env(lambda: Known(by), 3),
        lambda by: make_vec_env(lambda: Known(by), 3, vec_env_cls=SyncVectorEnv),
        lambda by: SyncVectorEnv([lambda: Known(by)] * 3, autoreset_mode=SAME),
        lambda by: make_vec_env(Known, 3, env_kwargs={"masks": by}, workers=True),
        lambda by: AsyncVectorEnv([lambda: Known(by)] * 3, autoreset_mode=OFF, context="forkserver"),
        Copies,
        lambda by: Own(SAME, by),
        lambda by: Own(OFF, by, infos="list"),
    ],
)
def test_masks_may_be_called_action_masks_in_infos(make):
    made = make("infos")
    try:
        check(seeded(made), spread(SEEDS[0], 3) if isinstance(made, Copies) else SEEDS, True)
    finally:
        made.close()


@pytest.mark.parametrize(
    "make", [lambda *a: make_vec_env(Known, 3, env_kwargs={"masks": "odd"}), lambda *a: Copies("odd")]
)
def test_what_has_no_masks_shape_is_none(make):
    assert seeded(make()).spec.mask_size is None


UNDECLARED = (
    "(Own|AsAttribute) declares no autoreset mode, and is taken for NEXT_STEP, .* = {'autoreset_mode': gym"
)


def test_a_mode_that_nothing_says_is_warned_of_once():
    """One that resets in the same step, tells no last observation and rewards the end alone contradicts nothing."""
    with pytest.warns(UserWarning, match=UNDECLARED) as caught:
        play(Own(NEXT, declared=False))
    assert len(caught) == 1
    play(Own(NEXT))
    play(Own(NEXT, declared=False), steps=0)


def test_masks_in_different_ways_are_one_sentence():
    """Here and in processes; the wrapper of the library's own that lacks them is no business of anyone's."""
    makes = [lambda: Known("method"), lambda: Known("info")]
    for vec_env in (DummyVecEnv, SubprocVecEnv):
        with pytest.raises(
            EnvError, match="environment 1 has no action_masks, and environment 0 has: give all"
        ) as caught:
            vec_env(makes).reset()
        assert "Guard" not in str(caught.value)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("masks", ["none", "method", "info"])
def test_gymnasiums_in_processes(masks, mode):
    """Every wrapper around the same processes, with seeds as a list, one for all (what `seed=` makes of it), or none:
    then the streams go on, as in this process."""
    makes, masked = [lambda: Known(masks)] * 3, masks != "none"
    envs = AsyncVectorEnv(makes, autoreset_mode=mode, context="forkserver")
    try:
        for wrap in WRAPPERS.values():
            check(seeded(wrap(envs)), SEEDS, masked)
        one = as_host_env(envs, seed=4)
        check(one, list(one._seeds), masked)
        here = as_host_env(SyncVectorEnv(makes, autoreset_mode=mode), seed=4)
        check(here, list(here._seeds), masked)
        for _ in range(2):
            for x, y in zip(one.reset(), here.reset(), strict=True):
                np.testing.assert_array_equal(x, y)
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("cls", "masks", "wrapper"),
    # A parallel environment has masks in its infos. Gymnasium's wrappers take its VectorEnv alone.
    [*((Copies, masks, "bare") for masks in ("none", "method", "info"))]
    + [(Markov, masks, wrapper) for masks in ("none", "info") for wrapper in WRAPPERS],
)
@pytest.mark.filterwarnings("ignore:.*is missing `autoreset_mode` tag")
def test_those_of_stable_baselines_and_supersuit(cls, masks, wrapper):
    check(seeded(WRAPPERS[wrapper](cls(masks))), spread(SEEDS[0], 3), masks != "none")


def test_a_special_one_of_gymnasium_takes_one_seed():
    make = lambda: gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    one, two = as_host_env(make(), seed=4), as_host_env(make(), seed=4)
    np.testing.assert_array_equal(one.reset()[0], two.reset()[0])
    ends = 0
    for _ in range(60):
        step = one.step(np.ones(3, np.int32))
        ends += step.terminated.sum()
    assert ends > 5


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_an_envpool_object(wrapper):
    envpool = pytest.importorskip("envpool")
    envs = as_host_env(WRAPPERS[wrapper](envpool.make("CartPole-v1", env_type="gymnasium", num_envs=3)))
    assert envs.spec.max_episode_steps == 500
    obs, _ = envs.reset()
    invalid = 0
    for _ in range(40):
        step = envs.step(np.ones(3, np.int32))
        valid = np.ones(3, bool) if step.valid is None else step.valid
        invalid += (~valid).sum()
        np.testing.assert_allclose(step.next_obs[valid, 0], (obs[:, 0] + 0.02 * obs[:, 1])[valid], atol=1e-6)
        obs = step.obs
    assert invalid > 3


@pytest.mark.filterwarnings("ignore:.*precision lowered|.*copying the environment spec")
def test_envpools_that_cannot_be_taken_name_the_remedy():
    envpool = pytest.importorskip("envpool")
    make = lambda kind, **more: envpool.make("CartPole-v1", env_type=kind, num_envs=3, **more)
    with pytest.raises(EnvError, match="batch_size=num_envs"):
        as_host_env(make("gymnasium", batch_size=2))
    with pytest.raises(EnvError, match="make it with env_type='gymnasium'"):
        as_host_env(make("dm"))
    with pytest.raises(EnvError, match=r"one of gymnasium\.wrappers\.vector"):
        as_host_env(gym.wrappers.RecordEpisodeStatistics(make("gymnasium")))


def test_a_vector_environment_made_by_a_class_or_function_is_named():
    for env in (Own, lambda **_: Own(OFF)):
        with pytest.raises(
            EnvError, match=r"gave a Own, a vector environment.*PPO\('MlpPolicy', Own\(…\)\)"
        ) as caught:
            make_vec_env(env, 2, env_kwargs={"mode": OFF})
        assert "constructor" not in str(caught.value)
        assert isinstance(caught.value, TypeError)
    with pytest.raises(EnvError, match="its function gave a Own, a vector environment"):
        DummyVecEnv([lambda: Own(OFF)])
    with pytest.raises(TypeError, match=r"Corridor gave a int, which is not a gymnasium\.Env"):
        make_vec_env(Corridor)


def Corridor():
    return 5


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_space_that_was_forgotten_is_named(name):
    class Forgot(Known):
        def __init__(self):
            super().__init__()
            setattr(self, name, None)

    with pytest.raises(EnvError, match=f"Forgot whose {name} is None .*: set one of gymnasium.spaces"):
        as_host_env(Forgot())


def test_a_vector_environments_space_that_was_forgotten_is_named():
    envs = Own(OFF)
    del envs.single_observation_space
    with pytest.raises(EnvError, match="Own has no single_observation_space: set it"):
        play(envs)


@pytest.mark.filterwarnings("ignore:Own declares no autoreset mode")
@pytest.mark.parametrize(
    ("real", "declared", "message"),
    [
        (SAME, None, "infos has 'final_obs', as in SAME_STEP mode, but its metadata has no autoreset_mode"),
        (SAME, NEXT, "its metadata declares NEXT_STEP"),
        (SAME, OFF, "its metadata declares DISABLED"),
        (OFF, None, "after an end has a reward or ends again"),
        (NEXT, SAME, "infos has no 'final_obs'"),
        (NEXT, "whenever", "autoreset_mode 'whenever'; it must be one of .*NEXT_STEP, SAME_STEP, DISABLED"),
    ],
)
def test_a_mode_that_the_data_contradict_is_said(real, declared, message):
    envs = Own(real)
    envs.metadata = {} if declared is None else {"autoreset_mode": declared}
    with pytest.raises(EnvError, match=message):
        play(envs)


@pytest.mark.parametrize("word", ["same_step", "SameStep", "SAME_STEP", "AutoresetMode.SAME_STEP"])
def test_a_mode_may_be_written_as_text(word):
    envs = Own(SAME)
    envs.metadata = {"autoreset_mode": word}
    check(seeded(envs), SEEDS, False)


def test_a_disabled_reset_leaves_the_others_alone():
    class All(Own):
        def _reset(self, seed, options):
            return super()._reset(None if options else seed, None)

    with pytest.raises(EnvError, match="must reset those alone"):
        play(All(OFF))


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("reset", lambda r: r[0], r"reset returned .*; it must return \(obs, infos\)"),
        ("reset", lambda r: (r[0], "no"), r"it must return \(obs, infos\)"),
        (
            "step",
            lambda r: (r[0], r[1], r[2], r[4]),
            "step returned 4 values; it must return .* truncated, infos",
        ),
        ("step", lambda r: None, "step returned None"),
        ("step", lambda r: (r[0], ["a", "b", "c"], *r[2:]), "reward holds <U1; it must be numbers"),
        ("step", lambda r: (r[0], [1, [2], 3], *r[2:]), "reward is .*; it must be an array"),
        ("step", lambda r: (r[0], [1, 2], *r[2:]), r"reward has shape \(2,\); it must be an array \(3,\)"),
        ("step", lambda r: (r[0], r[1], [0, 1, 0], *r[3:]), "terminated holds int64; it must be bool"),
        ("step", lambda r: (*r[:4], [{}]), "infos is .*; it must be a dict, or a list of 3 dicts"),
        ("step", lambda r: (*r[:4], 5), "infos is 5 .*; it must be a dict"),
        ("step", lambda r: (*r[:4], {"action_mask": np.ones((3, 3), bool)}), "had none at the first reset"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(method, change, message):
    envs = Own(OFF)
    call = getattr(envs, method)
    setattr(envs, method, lambda *args, **kwargs: change(call(*args, **kwargs)))
    with pytest.raises(EnvError, match=message) as caught:
        play(envs, 1)
    assert "\n" not in str(caught.value)


def test_a_lost_last_observation_is_named():
    class Loses(Copies):
        def step_wait(self):
            *values, infos = super().step_wait()
            return *values, [{k: v for k, v in one.items() if k != "terminal_observation"} for one in infos]

    with pytest.raises(EnvError, match="the last observation is lost"):
        play(Loses())


@pytest.mark.parametrize("info", [None, []])
def test_an_info_of_one_environment_may_be_empty(info):
    class Empty(Known):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], info

        def step(self, action):
            return *super().step(action)[:4], info

    for vec_env_cls in (None, SyncVectorEnv):
        envs = make_vec_env(Empty, 3, vec_env_cls=vec_env_cls)
        envs._seeds = SEEDS
        check(envs, SEEDS, False)
    info = 5
    with pytest.raises(EnvError, match=r"info is 5 .*; it must be a dict"):
        envs.step(np.array([0, 1, 2]))


class OldReset(Known):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class NoSeed(Known):
    def reset(self):
        return super().reset()


@pytest.mark.parametrize("cls", [OldReset, NoSeed])
@pytest.mark.parametrize("wrap", [None, lambda env: gym.wrappers.TimeLimit(env, 50)])
def test_options_and_seeds_go_only_where_they_are_taken(cls, wrap):
    envs = make_vec_env(cls, 3, wrapper_class=wrap)
    envs._seeds = SEEDS
    check(envs, SEEDS, False)
    one = as_host_env(gym.wrappers.TimeLimit(cls(), 50))
    one.reset([1])


def test_one_object_is_not_several_environments():
    env = Known()
    with pytest.raises(EnvError, match="environments 0 and 1 are one and the same object"):
        make_vec_env(lambda: env, 2)
    with pytest.raises(EnvError, match="one and the same object"):
        as_host_env(SyncVectorEnv([lambda: gym.wrappers.TimeLimit(env, 9)] * 2))


S = gym.spaces


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        ("observation_space", S.Box(0, 1, (0,)), r"shape \(0,\) without a number.*FilterObservation"),
        ("observation_space", S.Box(0, 1, (3, 0)), "without a number"),
        ("observation_space", S.Dict({}), "an empty Dict"),
        ("observation_space", S.Tuple(()), "an empty Tuple"),
        (
            "observation_space",
            S.Dict({"a": S.Discrete(2), "b": S.Dict({})}),
            r"space\['b'\] is an empty Dict",
        ),
        (
            "observation_space",
            S.Dict({"a": S.Discrete(2), "t": S.Text(5)}),
            r"\['t'\] is Text; .*FilterObservation",
        ),
        ("observation_space", S.Text(5), "is Text; .*TransformObservation"),
        ("action_space", S.Box(-1, 1, (0,)), "action space .* is empty"),
        ("action_space", S.Text(5), "action space is Text; .*ActionWrapper"),
    ],
)
def test_a_space_without_use_is_refused_with_a_remedy(name, space, message):
    class Odd(Known):
        pass

    setattr(Odd, name, space)
    with pytest.raises(UnsupportedSpaceError, match=message):
        make_vec_env(Odd, 2)


def test_arguments_may_be_arrays():
    class Map(Known):
        def __init__(self, m=None):
            super().__init__()

    for m in (np.array([1.0, np.nan]), [np.ones(2), np.ones(3)], {"a": np.ones(2)}, float("nan")):
        gym.register("KnownMap-v0", entry_point=Map, kwargs={"m": m})
        try:
            assert make_vec_env("KnownMap-v0", 2).env_id == "KnownMap-v0"
            assert as_host_env(gym.make("KnownMap-v0")).env_id == "KnownMap-v0"
            assert as_host_env(gym.make("KnownMap-v0", m=np.zeros(2))).env_id is None
        finally:
            del gym.registry["KnownMap-v0"]


UNGUARDED = """
import gymnasium as gym
from actrix import make_vec_env
make_vec_env("CartPole-v1", 2, vec_env_cls=gym.vector.AsyncVectorEnv, backend="gymnasium")
"""


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_of_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert "EnvError: the environments' processes did not start" in done.stderr, done.stderr
    assert 'its code under if __name__ == "__main__":.' in done.stderr
