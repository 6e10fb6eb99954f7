"""The state of an environment, taken, sent through JSON and put into a new one, gives the same future bit for bit."""

import importlib
import json
import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.classic_control import CartPoleEnv

from actrix.core.plain import pack, unpack
from actrix.envs.guard import EnvError, Guard
from actrix.envs.probes import PositionOnly
from actrix.envs.state.mujoco import Mujoco
from actrix.envs.state.whole import get_state, set_state, unsupported
from actrix.envs.tables import chain, cliff

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
TOY = ["FrozenLake-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4", "Blackjack-v1"]

MUJOCO = [
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
    *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
]


def make(env_id, **kwargs):
    return Guard(gym.make(env_id, disable_env_checker=True, **kwargs))


def through_json(state):
    skeleton, arrays = pack(state)
    return unpack(json.loads(json.dumps(skeleton, allow_nan=False)), arrays)


def bits(value):
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items() if key != "t"}  # the time that an episode took
    if isinstance(value, tuple | list):
        return [bits(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return str(value.dtype), value.shape, value.tobytes()
    return repr(value)


def play(env, steps, seed=0):
    """Take `steps` actions drawn from `seed`, with resets where episodes end; all that the environment says."""
    env.action_space.seed(seed)
    said = []
    for _ in range(steps):
        result = env.step(env.action_space.sample())
        said.append(bits(result))
        if result[2] or result[3]:
            said.append(bits(env.reset()))
    return said


def started(build, steps, seed=3):
    env = build()
    env.reset(seed=seed)
    play(env, steps, seed=1)
    return env


def check_exact(build, phases=(0, 1, 17, 250), steps=300):
    for k in phases:
        env, never_asked, fresh = started(build, k), started(build, k), build()
        set_state(fresh, through_json(get_state(env)))
        future = play(env, steps)
        assert future == play(never_asked, steps), f"asking changed the future after {k} steps"
        assert future == play(fresh, steps), f"restored after {k} steps"


# Known environments


@pytest.mark.parametrize("env_id", CLASSIC + TOY)
def test_exact(env_id):
    check_exact(lambda: make(env_id))


FEW = ("Ant", "Pusher", "Hopper", "InvertedPendulum")


@pytest.mark.parametrize(
    "env_id",
    [pytest.param(f"{name}-v5", marks=() if name in FEW else pytest.mark.slow) for name in MUJOCO],
)
def test_exact_mujoco(env_id):
    check_exact(lambda: make(env_id, max_episode_steps=100), phases=(0, 1, 130))


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize("env_id", ["Ant-v4", "Humanoid-v4", "Reacher-v4", "Walker2d-v4"])
def test_exact_mujoco_v4(env_id):
    check_exact(lambda: make(env_id), phases=(0, 77), steps=120)


def test_what_mujoco_environments_read_is_saved():
    module = importlib.import_module("gymnasium.envs.mujoco")
    integrated = {"qpos", "qvel", "act", "ctrl", "time", "model"}
    for path in pathlib.Path(module.__file__).parent.glob("*_v[45].py"):
        read = set(re.findall(r"data\.(?:body\([^)]*\)\.)?(\w+)", path.read_text()))
        assert read - integrated <= set(Mujoco.derived), path.name


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Taxi-v4", "Ant-v5"])
def test_a_used_environment_takes_the_state_too(env_id):
    env, other = started(lambda: make(env_id), 30), started(lambda: make(env_id), 200, seed=8)
    set_state(other, through_json(get_state(env)))
    assert play(env, 100) == play(other, 100)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Taxi-v4", "Blackjack-v1", "Reacher-v5"])
def test_one_that_was_never_reset(env_id):
    new, used = make(env_id), started(lambda: make(env_id), 20)
    set_state(used, get_state(new))
    assert used.unwrapped._np_random is None
    assert bits(get_state(used)) == bits(get_state(new))
    with pytest.raises(EnvError, match=r"before calling env\.reset"):
        used.step(used.action_space.sample())


def test_types_survive():
    for env_id in CLASSIC:
        env, fresh = started(lambda env_id=env_id: make(env_id), 3), make(env_id)
        set_state(fresh, through_json(get_state(env)))
        a, b = env.unwrapped.state, fresh.unwrapped.state
        assert type(a) is type(b)
        assert [type(x) for x in a] == [type(x) for x in b]
        assert bits(a) == bits(b)


def test_the_state_shares_nothing():
    env, fresh = started(lambda: make("CartPole-v1"), 3), make("CartPole-v1")
    state = get_state(env)
    before = through_json(state)
    set_state(fresh, state)
    assert not np.shares_memory(env.unwrapped.state, fresh.unwrapped.state)
    fresh.unwrapped.state[:] = 7
    play(env, 50)
    assert bits(state) == bits(before)


def test_sizes():
    skeleton, arrays = pack(get_state(started(lambda: make("Humanoid-v5"), 3)))
    assert sum(array.nbytes for array in arrays) < 25_000
    assert len(arrays) == 2
    assert len(json.dumps(skeleton)) < 2_000


def test_np_random_of_another_kind_and_who_holds_it():
    def build():
        env = make("CartPole-v1")
        env.unwrapped.np_random = np.random.Generator(np.random.MT19937(5))
        return env

    env, fresh = build(), make("CartPole-v1")
    env.reset()
    set_state(fresh, through_json(get_state(env)))
    assert play(env, 100) == play(fresh, 100)
    held = env.unwrapped.np_random
    set_state(env, get_state(fresh))
    assert env.unwrapped.np_random is held
    env.unwrapped.np_random = np.random.RandomState(5)
    assert "RandomState" in unsupported(env)


# Mutants: what is dropped is missed


def differs(env_id, mutate):
    env, fresh = started(lambda: make(env_id), 60), make(env_id)
    state = get_state(env)
    mutate(state)
    set_state(fresh, state)
    return play(env, 200) != play(fresh, 200)


def other_rng(state):
    state["rng"]["state"]["state"] += 1


def no_derived(state):
    state["levels"][-1]["state"]["derived"][:] = 0


def no_warmstart(state):
    state["levels"][-1]["state"]["physics"][30:44] = 0  # after the time, 15 positions and 14 velocities


def no_time(state):
    [
        level["state"]["fields"].update(_elapsed_steps=0)
        for level in state["levels"]
        if "TimeLimit" in level["class"]
    ]


@pytest.mark.parametrize(
    ("env_id", "mutate"),
    [
        ("CartPole-v1", other_rng),
        ("FrozenLake-v1", other_rng),
        ("Ant-v5", no_derived),
        ("Humanoid-v5", no_derived),
        ("Ant-v5", no_warmstart),
        ("Pendulum-v1", no_time),
    ],
)
def test_mutants(env_id, mutate):
    assert differs(env_id, mutate)
    assert not differs(env_id, lambda state: None)


# Wrappers


def cart_pole(*wrap, **kwargs):
    env = gym.make("CartPole-v1", **kwargs)
    for each in wrap:
        env = each(env)
    return env


WRAPPED = {
    "checker": lambda: cart_pole(disable_env_checker=False),
    "bare": lambda: gym.make("CartPole-v1").unwrapped,
    "statistics": lambda: cart_pole(lambda env: wrappers.RecordEpisodeStatistics(env, buffer_length=3)),
    "stack": lambda: cart_pole(lambda env: wrappers.FrameStackObservation(env, 4)),
    "stack of zeros": lambda: cart_pole(
        lambda env: wrappers.FrameStackObservation(env, 4, padding_type="zero")
    ),
    "stack of integers": lambda: wrappers.FrameStackObservation(gym.make("FrozenLake-v1"), 3),
    "stack of tuples": lambda: wrappers.FrameStackObservation(gym.make("Blackjack-v1"), 3),
    "delay": lambda: cart_pole(lambda env: wrappers.DelayObservation(env, 3)),
    "clock": lambda: cart_pole(wrappers.TimeAwareObservation),
    "clock beside": lambda: cart_pole(lambda env: wrappers.TimeAwareObservation(env, flatten=False)),
    "max and skip": lambda: cart_pole(lambda env: wrappers.MaxAndSkipObservation(env, 3)),
    "sticky": lambda: cart_pole(lambda env: wrappers.StickyAction(env, 0.3, (1, 4))),
    "normalised": lambda: cart_pole(wrappers.NormalizeObservation, wrappers.NormalizeReward),
    "frozen": lambda: PositionOnly(cart_pole()),
    "transformed": lambda: cart_pole(
        lambda env: wrappers.ClipReward(env, 0, 0.5),
        lambda env: wrappers.DtypeObservation(env, np.float64),
        lambda env: wrappers.ReshapeObservation(env, (2, 2)),
        wrappers.FlattenObservation,
    ),
    "actions": lambda: wrappers.ClipAction(wrappers.RescaleAction(gym.make("Pendulum-v1"), -1, 1)),
    "finite": lambda: cliff(max_episode_steps=40).as_gymnasium(),
    "finite, guarded": lambda: Guard(wrappers.TimeLimit(chain(7).as_gymnasium(), 10)),
}


@pytest.mark.filterwarnings("ignore:.*The observations? returned by")
@pytest.mark.parametrize("name", WRAPPED)
def test_exact_through_wrappers(name):
    check_exact(WRAPPED[name], phases=(0, 1, 2, 120), steps=150)


class Held(gym.Wrapper):
    def step(self, action):
        return self.env.step(action)


class Forwarding(Held):
    """Hands on what it does not know, as old wrappers did."""

    def __getattr__(self, name):
        return getattr(self.env, name)


class Adding(Held):
    """Adds the number of steps so far to the reward, and says so."""

    total = 0

    def step(self, action):
        self.total += 1
        obs, reward, *rest = super().step(action)
        return obs, reward + self.total, *rest

    def get_state(self):
        return {"total": self.total}

    def set_state(self, state):
        self.total = state["total"]


class Drifting(gym.Env):
    """A user's environment: keeps an array, a tuple and random numbers, and saves the first two."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)
    answer, refuses = None, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.last = self.np_random.normal(size=2).astype(np.float32), (None, 0)
        return self.x.copy(), {}

    def step(self, action):
        self.x += np.float32(self.np_random.normal()) + self.last[1]
        self.last = (True, action)
        return self.x.copy(), float(self.x[0]), bool(abs(self.x[1]) > 20), False, {}

    def get_state(self):
        return {"x": self.x, "last": self.last} if self.answer is None else self.answer

    def set_state(self, state):
        if self.refuses:
            raise ZeroDivisionError("no")
        self.reset(seed=7)  # whatever it does to np_random is undone
        self.x, self.last = state["x"], state["last"]


def test_levels_that_save_themselves():
    check_exact(lambda: Guard(Adding(wrappers.TimeLimit(Drifting(), 30))), phases=(0, 1, 75))
    env, fresh = started(lambda: Adding(Drifting()), 5), Adding(Drifting())
    state = get_state(env)
    set_state(fresh, state)
    assert type(fresh.unwrapped.last) is tuple
    assert not np.shares_memory(state["levels"][-1]["state"]["x"], env.unwrapped.x)
    assert not np.shares_memory(state["levels"][-1]["state"]["x"], fresh.unwrapped.x)


def test_levels_that_save_themselves_badly():
    env = started(Drifting, 3)
    for answer, says in [({"x": object()}, r"Drifting .*\['x'\] is a object"), ([{1: 2}], "key 1")]:
        env.answer = answer
        with pytest.raises(EnvError, match=says):
            get_state(env)
    env.answer = None
    state, fresh = get_state(env), Drifting()
    fresh.refuses = True
    with pytest.raises(EnvError, match="set_state of Drifting raised ZeroDivisionError: no"):
        set_state(fresh, state)
    with pytest.raises(EnvError, match=r"get_state of Drifting raised AttributeError"):
        get_state(Drifting())


# What cannot be saved says why


class Pole(CartPoleEnv):
    pass


class Only(gym.Env):
    observation_space = action_space = spaces.Discrete(2)

    def get_state(self):
        return 0

    def set_state(self, qpos, qvel):
        pass


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: gym.make("LunarLander-v3"), "LunarLander-v3 keeps its state in Box2D"),
        (lambda: Held(gym.make("LunarLander-v3")), "LunarLander-v3 keeps its state in Box2D"),
        (lambda: Held(cart_pole()), "the wrapper Held has no get_state"),
        (lambda: Forwarding(Drifting()), "the wrapper Forwarding has no"),
        (
            lambda: wrappers.TransformObservation(gym.make("CartPole-v1"), lambda obs: obs, None),
            "the wrapper TransformObservation",
        ),
        (lambda: wrappers.TransformReward(gym.make("CartPole-v1"), float), "the wrapper TransformReward"),
        (Pole, "Pole has no get_state"),
        (Only, "Only has no get_state"),
        (lambda: wrappers.TimeLimit(Pole(), 5), "Pole has no get_state"),
    ],
)
def test_unsupported(build, says):
    env = build()
    assert says in unsupported(env)
    with pytest.raises(EnvError, match=f"cannot be saved: .*{says}"):
        get_state(env)
    with pytest.raises(EnvError, match=f"cannot be restored: .*{says}"):
        set_state(env, {})


def test_atari_is_unsupported():
    gym.register_envs(pytest.importorskip("ale_py"))
    assert unsupported(gym.make("ALE/Pong-v5", frameskip=4)) == "ALE/Pong-v5 keeps its state in the emulator"


# What does not fit is refused, and nothing is changed


def field(name, value, level=-1):
    return lambda state: state["levels"][level]["state"]["fields"].__setitem__(name, value)


def entry(name, value):
    return lambda state: state.__setitem__(name, value)


def part(name, value):
    return lambda state: state["levels"][-1]["state"].__setitem__(name, value)


@pytest.mark.parametrize(
    ("env_id", "mutate", "says"),
    [
        ("CartPole-v1", field("state", np.zeros(3)), "CartPoleEnv does not fit: state is an array of shape"),
        ("CartPole-v1", field("state", np.zeros(4, int)), "state is an array .* dtype int64"),
        ("CartPole-v1", field("state", [0.0, 0.0, 0.0, "x"]), "state is"),
        ("CartPole-v1", field("state", object()), "CartPoleEnv is no plain data"),
        ("CartPole-v1", field("steps_beyond_terminated", -1), "steps_beyond_terminated is -1"),
        ("CartPole-v1", field("gravity", 1.0), "CartPoleEnv has 'gravity', which is unknown"),
        (
            "CartPole-v1",
            field("_elapsed_steps", 1.5, level=1),
            "TimeLimit does not fit: _elapsed_steps is 1.5",
        ),
        ("CartPole-v1", field("_elapsed_steps", True, level=1), "_elapsed_steps is True"),
        ("CartPole-v1", field("_has_reset", 1, level=2), "OrderEnforcing does not fit: _has_reset is 1"),
        ("CartPole-v1", lambda state: state["levels"][-1]["state"]["fields"].pop("state"), "lacks 'state'"),
        ("CartPole-v1", part("unset", ["gravity"]), "unset fields that are unknown"),
        ("CartPole-v1", part("unset", [["state"]]), "no list of unset fields"),
        ("CartPole-v1", part("unset", ["state"]), "CartPoleEnv has 'state', which is unknown"),
        ("CartPole-v1", lambda state: state.pop("rng"), "the environment lacks 'rng'"),
        ("CartPole-v1", entry("more", 1), "has 'more'"),
        ("CartPole-v1", entry("seed", 1.0), "seed of np_random is 1.0"),
        ("CartPole-v1", entry("rng", {}), "np_random is not that of"),
        ("CartPole-v1", entry("rng", 5), "np_random is not that of"),
        ("CartPole-v1", lambda state: state["rng"].update(bit_generator="PCG65"), "np_random is not that of"),
        ("CartPole-v1", lambda state: state["rng"].update(state=3), "np_random is not that of"),
        ("CartPole-v1", lambda state: state["rng"]["state"].update(inc=2**200), "np_random is not that of"),
        ("CartPole-v1", lambda state: state["rng"].update(has_uint32="x"), "np_random is not that of"),
        (
            "CartPole-v1",
            entry("id", "CartPole-v0"),
            "taken of 'CartPole-v0' .*; this environment is 'CartPole-v1'",
        ),
        ("CartPole-v1", entry("levels", None), "no list of levels"),
        ("CartPole-v1", entry("levels", [5]), "a level of the environment is 5"),
        (
            "CartPole-v1",
            lambda state: state["levels"].pop(0),
            "taken of TimeLimit<.*; this environment is Guard<",
        ),
        (
            "CartPole-v1",
            lambda state: state["levels"][0].update({"class": 3}),
            "class of a level of the environment is 3",
        ),
        ("CartPole-v1", entry("id", np.zeros(2)), "was taken of an array"),
        ("CartPole-v1", field("_elapsed_steps", 10**6000, level=1), "_elapsed_steps is a int"),
        ("CartPole-v1", lambda state: state["levels"].append(state["levels"][0]), "<Guard>"),
        ("FrozenLake-v1", field("s", 16), "FrozenLakeEnv does not fit: s is 16"),
        ("FrozenLake-v1", field("s", -1), "s is -1"),
        ("Taxi-v4", field("s", 3.0), "s is 3.0"),
        ("Blackjack-v1", field("dealer", [1, 11]), "dealer is"),
        ("Blackjack-v1", field("player", (1, 2)), "player is"),
        ("Ant-v5", part("physics", np.zeros(3)), r"physics is an array of shape \(3,\)"),
        ("Ant-v5", part("derived", np.zeros(3)), "derived is an array"),
        ("Ant-v5", part("derived", None), "derived is None"),
        ("Ant-v5", lambda state: state["levels"][-1]["state"].pop("physics"), "lacks 'physics'"),
        ("Reacher-v5", field("goal", np.zeros(3)), "goal is an array"),
    ],
)
def test_what_does_not_fit(env_id, mutate, says):
    bad = get_state(started(lambda: make(env_id), 3))
    mutate(bad)
    env, untouched = (started(lambda: make(env_id), 40, seed=5) for _ in range(2))
    with pytest.raises(EnvError, match=says) as raised:
        set_state(env, bad)
    assert len(str(raised.value)) < 300
    assert play(env, 100) == play(untouched, 100)


@pytest.mark.parametrize("other", ["Acrobot-v1", "Pendulum-v1", "Taxi-v4"])
def test_another_environment(other):
    state = get_state(started(lambda: make("CartPole-v1"), 3))
    with pytest.raises(EnvError, match=f"<CartPoleEnv>.*; this environment is .*{other[:4]}"):
        set_state(make(other), state)


def test_another_map():
    state = get_state(started(lambda: make("FrozenLake-v1", map_name="8x8", is_slippery=False), 0))
    state["levels"][-1]["state"]["fields"]["s"] = 60
    with pytest.raises(EnvError, match="s is 60"):
        set_state(make("FrozenLake-v1"), state)


def test_another_stack():
    state = get_state(started(WRAPPED["stack"], 9))
    with pytest.raises(EnvError, match="FrameStackObservation does not fit: obs_queue"):
        set_state(cart_pole(lambda env: wrappers.FrameStackObservation(env, 3)), state)


@pytest.mark.parametrize("state", [None, [], {}, 5, {"levels": 1}])
def test_no_state_at_all(state):
    with pytest.raises(EnvError, match="the state of the environment"):
        set_state(make("CartPole-v1"), state)
