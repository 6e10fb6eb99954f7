"""The complete state of one Gymnasium environment, taken and restored bit for bit, as plain data.

Each wrapper and the base environment is one level. What a level holds is known from a table of exact classes, or
asked of the level itself, if it offers `get_state()` and `set_state(state)`: then it saves its own state, neither
that of the levels below nor `np_random`, and set_state must fit an environment that was never reset.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.core.plain import copy_plain
from actrix.envs.guard import EnvError, _show, conform

_MISSING: Any = object()


def get_state(env: gym.Env) -> dict[str, Any]:
    """All that the future of `env` depends on, as plain data (see `actrix.core.plain.copy_plain`).

    `{"levels": [{"class", "state"}, ...] from the outermost wrapper to the base environment, "id", "rng", "seed"}`.
    The spaces' own random streams (`action_space.sample()`), windows and recorded frames are left out.

    Raises EnvError where `unsupported` says so, and where a level's own get_state raises or returns no plain data.
    """
    if (reason := unsupported(env)) is not None:
        raise EnvError(f"the environment's state cannot be saved: {reason}.")
    levels = _levels(env)
    base = levels[-1]
    generator, seed = base._np_random, base._np_random_seed
    # Before the levels are asked, so that one that draws random numbers meanwhile does not shift them.
    rng = None if generator is None else copy_plain(dict(generator.bit_generator.state))
    parts = [{"class": _path(level), "state": _known(level).read(level)} for level in levels]
    return {"levels": parts, "id": _id(base), "rng": rng, "seed": None if seed is None else int(seed)}


def set_state(env: gym.Env, state: dict[str, Any]) -> None:
    """Restore what `get_state` took; `env` is made alike and need not have been reset.

    Raises EnvError, one sentence that names the part that does not fit: another class, id or chain of wrappers, a
    missing, additional or ill-formed field. `env` is then unchanged, unless a level's own set_state raised.
    """
    if (reason := unsupported(env)) is not None:
        raise EnvError(f"the environment's state cannot be restored: {reason}.")
    levels = _levels(env)
    base = levels[-1]
    _keys("the environment", state, {"levels", "id", "rng", "seed"})
    if type(state["levels"]) is not list:
        raise EnvError("the environment's state has no list of levels.")
    for part in state["levels"]:
        _keys("a level of the environment", part, {"class", "state"})
        if type(part["class"]) is not str:
            raise EnvError(f"the class of a level of the environment is {_shown(part['class'])}.")
    saved, own = [part["class"] for part in state["levels"]], [_path(level) for level in levels]
    if saved != own:
        raise EnvError(f"the state was taken of {_chain(saved)}; this environment is {_chain(own)}.")
    if type(state["id"]) not in (str, type(None)) or state["id"] != _id(base):
        raise EnvError(f"the state was taken of {_shown(state['id'])}; this environment is {_id(base)!r}.")
    restore_rng = _rng(base, state["rng"], state["seed"])
    writes = [
        _known(level).write(level, part["state"]) for level, part in zip(levels, state["levels"], strict=True)
    ]
    for write in reversed(writes):  # the base first: a wrapper may look at what it wraps
        write()
    restore_rng()  # last: a level's own set_state may draw or reset


def unsupported(env: gym.Env) -> str | None:
    """Why the state of `env` cannot be saved, as a clause; None if it can."""
    for level in reversed(_levels(env)):
        name = type(level).__name__
        if (known := _known(level)) is not None:
            if (reason := known.unsupported(level)) is not None:
                return reason
            continue
        if isinstance(level, gym.Wrapper):
            return f"the wrapper {name} has no get_state() and set_state(state), and actrix does not know its state"
        module = type(level).__module__
        for prefix, where in _OUT_OF_REACH.items():
            if module.startswith(prefix):
                return f"{_id(level) or name} keeps its state in {where}"
        return f"{name} has no get_state() and set_state(state)"
    generator = _levels(env)[-1]._np_random
    bits = getattr(generator, "bit_generator", generator)
    if generator is not None and (type(generator) is not np.random.Generator or not _is_known(bits)):
        return f"its np_random is of {type(bits).__name__}, which actrix does not know"
    return None


_OUT_OF_REACH = {"gymnasium.envs.box2d": "Box2D", "ale_py": "the emulator"}
_BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}


def _is_known(bits: Any) -> bool:
    return type(bits) in _BIT_GENERATORS.values()


def _levels(env: gym.Env) -> list[Any]:
    levels: list[Any] = [env]
    while isinstance(levels[-1], gym.Wrapper):
        levels.append(levels[-1].env)
    return levels


def _path(level: gym.Env) -> str:
    # In a worker process the main module has another name.
    module = type(level).__module__.replace("__mp_main__", "__main__")
    return f"{module}.{type(level).__qualname__}"


def _chain(paths: list[str]) -> str:
    names = [path.rpartition(".")[2] for path in paths]
    return "<".join(names) + ">" * (len(names) - 1)


def _id(base: gym.Env) -> str | None:
    return None if base.spec is None else base.spec.id


def _shown(value: Any) -> str:
    try:
        return _show(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def _keys(what: str, given: Any, expected: set[str]) -> None:
    if type(given) is not dict:
        raise EnvError(f"the state of {what} is {_shown(given)}; it must be a dict.")
    for key in sorted(expected - given.keys()):
        raise EnvError(f"the state of {what} lacks {key!r}.")
    for key in sorted(given.keys() - expected, key=str):
        raise EnvError(f"the state of {what} has {key!r}, which is unknown.")


# Random numbers


def _rng(base: Any, rng: Any, seed: Any) -> Callable[[], None]:
    if seed is not None and type(seed) is not int:
        raise EnvError(f"the seed of np_random is {_shown(seed)}; it must be an integer or None.")
    fresh = None if rng is None else _generator(rng, seed)

    def write() -> None:
        now = base._np_random
        if fresh is None or now is None or type(now.bit_generator) is not type(fresh.bit_generator):
            base._np_random = fresh
        else:  # in place: others may hold the generator
            now.bit_generator.state = fresh.bit_generator.state
        base._np_random_seed = seed

    return write


def _generator(rng: Any, seed: int | None) -> np.random.Generator:
    try:
        # From the seed, so that np_random.spawn starts as it did.
        sequence = np.random.SeedSequence(0 if seed is None or seed < 0 else seed)
        bits = _BIT_GENERATORS[rng["bit_generator"]](sequence)
        bits.state = rng
        if not _equal(dict(bits.state), rng):
            raise ValueError
    except Exception:
        raise EnvError("the state of np_random is not that of a numpy bit generator.") from None
    return np.random.Generator(bits)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b))


# What levels hold


class _Asked:
    """A level that offers get_state() and set_state(state)."""

    def unsupported(self, level: Any) -> str | None:
        return None

    def read(self, level: Any) -> Any:
        name = type(level).__name__
        try:
            state = level.get_state()
        except Exception as error:
            raise EnvError(f"get_state of {name} raised {type(error).__name__}: {error}") from error
        try:
            return copy_plain(state)
        except ValueError as error:
            raise EnvError(f"get_state of {name} returned what cannot be saved: {error}") from None

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        name, state = type(level).__name__, _plain_copy(type(level).__name__, state)

        def write() -> None:
            try:
                level.set_state(state)
            except Exception as error:
                raise EnvError(f"set_state of {name} raised {type(error).__name__}: {error}") from error

        return write


Check = Callable[[Any, Any], bool]
"""(value, level) -> does it fit."""


class _Fields:
    """A level whose state is some attributes; a name may have dots. Those not set yet are listed in 'unset'."""

    def __init__(self, **fields: Check):
        self.fields = {name.replace("__", "."): check for name, check in fields.items()}

    def unsupported(self, level: Any) -> str | None:
        return None

    def read(self, level: Any) -> Any:
        found = {name: _attribute(level, name) for name in self.fields}
        unset = [name for name, value in found.items() if value is _MISSING]
        values = {name: _to_plain(value) for name, value in found.items() if value is not _MISSING}
        return {"fields": _plain_copy(type(level).__name__, values), "unset": unset}

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        name = type(level).__name__
        _keys(name, state, {"fields", "unset"})
        values, unset = state["fields"], state["unset"]
        if type(unset) is not list or not all(type(field) is str for field in unset):
            raise EnvError(f"the state of {name} has no list of unset fields.")
        _keys(name, values, set(self.fields) - set(unset))
        if not set(unset) <= set(self.fields):
            raise EnvError(f"the state of {name} has unset fields that are unknown.")
        values = _plain_copy(name, values)
        for field, value in values.items():
            if not self.fields[field](value, level):
                raise EnvError(f"the state of {name} does not fit: {field} is {_shown(value)}.")

        def write() -> None:
            for field in unset:
                level.__dict__.pop(field, None)
            for field, value in values.items():
                *owner, last = field.split(".")
                target, old = _attribute(level, ".".join(owner)), _attribute(level, field)
                setattr(target, last, deque(value, old.maxlen) if isinstance(old, deque) else value)

        return write


class _Statistics(_Fields):
    """RecordEpisodeStatistics: its clock is of this process, so the running episode's time starts anew."""

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        fields = super().write(level, state)

        def write() -> None:
            fields()
            level.episode_start_time = time.perf_counter()

        return write


class _Checker(_Fields):
    """PassiveEnvChecker: the objects it compares with the next step's are gone, so that check is over."""

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        fields = super().write(level, state)

        def write() -> None:
            fields()
            level._previous_data = None
            if level.checked_reset:
                level.checked_step = level.checked_data_reuse = True

        return write


class _Mujoco(_Fields):
    """A MuJoCo environment: what MuJoCo integrates, and what the last step left for the next one to read.

    The first alone is not enough: Ant, Humanoid, Pusher and Reacher read positions and forces before they step.
    Only arrays of floats are written, never sizes, indices or addresses, which a bad file could make point anywhere.
    """

    derived = (
        *(
            "xpos",
            "xquat",
            "xmat",
            "xipos",
            "ximat",
            "xanchor",
            "xaxis",
            "geom_xpos",
            "geom_xmat",
            "site_xpos",
        ),
        *("site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com", "subtree_linvel"),
        *("subtree_angmom", "cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "ten_length", "ten_velocity"),
        *("actuator_length", "actuator_velocity", "actuator_force", "qfrc_actuator", "qfrc_passive"),
        *("qfrc_bias", "qfrc_constraint", "qfrc_inverse", "qacc", "qacc_smooth", "sensordata", "energy"),
    )

    def unsupported(self, level: Any) -> str | None:
        import mujoco

        sleep = getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0)
        if level.model.opt.enableflags & int(sleep):
            return f"{_id(level) or type(level).__name__} lets bodies sleep, which MuJoCo's state leaves out"
        return None

    def read(self, level: Any) -> Any:
        import mujoco

        physics = np.zeros(self._sizes(level)["physics"])
        mujoco.mj_getState(level.model, level.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        derived = np.concatenate([array.ravel() for array in self._derived(level)])
        return {**super().read(level), "physics": physics, "derived": derived}

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        name, sizes = type(level).__name__, self._sizes(level)
        _keys(name, state, {"fields", "unset", *sizes})
        for part, size in sizes.items():
            array = state[part]
            if type(array) is not np.ndarray or array.shape != (size,) or array.dtype != np.float64:
                raise EnvError(
                    f"the state of {name} does not fit: {part} is {_shown(array)}; it must be float64 ({size},)."
                )
        fields = super().write(level, {key: state[key] for key in ("fields", "unset")})
        physics, derived = state["physics"].copy(), state["derived"].copy()

        def write() -> None:
            import mujoco

            fields()
            mujoco.mj_setState(level.model, level.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
            rest = derived
            for array in self._derived(level):
                array[...], rest = rest[: array.size].reshape(array.shape), rest[array.size :]

        return write

    def _sizes(self, level: Any) -> dict[str, int]:
        import mujoco

        return {
            "physics": mujoco.mj_stateSize(level.model, mujoco.mjtState.mjSTATE_INTEGRATION),
            "derived": sum(array.size for array in self._derived(level)),
        }

    def _derived(self, level: Any) -> list[np.ndarray]:
        # Some versions of MuJoCo lack some; the sizes tell.
        return [getattr(level.data, name) for name in self.derived if hasattr(level.data, name)]


def _attribute(level: Any, name: str) -> Any:
    for part in name.split(".") if name else []:
        level = getattr(level, part, _MISSING)
    return level


def _to_plain(value: Any) -> Any:
    if isinstance(value, deque):
        return list(value)
    return str(value) if isinstance(value, np.str_) else value


def _plain_copy(name: str, state: Any) -> Any:
    try:
        return copy_plain(state)
    except ValueError as error:
        raise EnvError(f"the state of {name} is no plain data: {error}") from None


def _flag(value: Any, _: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _integer(value: Any, _: Any = None) -> bool:
    return (type(value) is int and abs(value) < 2**63) or isinstance(value, np.integer)


def _count(value: Any, _: Any = None) -> bool:
    return _integer(value) and value >= 0


def _number(value: Any, _: Any = None) -> bool:
    return type(value) is float or _integer(value) or isinstance(value, np.floating)


def _text(value: Any, _: Any) -> bool:
    return type(value) is str


def _any(value: Any, _: Any) -> bool:
    return True


def _optional(check: Check) -> Check:
    return lambda value, level: value is None or check(value, level)


def _each(check: Check) -> Check:
    return lambda value, level: type(value) is list and all(check(part, level) for part in value)


def _vector(n: int) -> Check:
    def check(value: Any, _: Any) -> bool:
        if isinstance(value, np.ndarray):
            return value.shape == (n,) and value.dtype.kind == "f"
        return type(value) in (tuple, list) and len(value) == n and all(map(_number, value))

    return check


def _state_index(value: Any, level: Any) -> bool:
    return _count(value) and value < level.observation_space.n


def _like(name: str, exact: bool = False) -> Check:
    """Numbers in the shape that the level has now; `exact` wants the dtype too."""

    def check(value: Any, level: Any) -> bool:
        now = _attribute(level, name)
        if not (_number(value) or isinstance(value, np.ndarray)) or np.shape(value) != np.shape(now):
            return False
        return np.asarray(value).dtype == now.dtype if exact else np.asarray(value).dtype.kind == "f"

    return check


def _observation(value: Any, level: Any) -> bool:
    class Unfit(Exception):
        pass

    def complain(_: str) -> None:
        raise Unfit

    try:
        conform(level.env.observation_space, value, complain)
    except Unfit:
        return False
    return True


def _queue(check: Check, length: Callable[[Any], int | None]) -> Check:
    """A list of at most `length(level)`."""

    def fits(value: Any, level: Any) -> bool:
        most = length(level)
        return _each(check)(value, level) and (most is None or len(value) <= most)

    return fits


_STATELESS = _Fields()
_VECTOR = {n: _optional(_vector(n)) for n in (2, 4)}
_CLASSIC = "gymnasium.envs.classic_control."
_TOY = "gymnasium.envs.toy_text."
_WRAP = "gymnasium.wrappers."
_CARDS = _each(lambda value, _: _integer(value) and 1 <= value <= 10)
_STATISTICS = _queue(_number, lambda level: level.return_queue.maxlen)
_PLANE = lambda value, _: isinstance(value, np.ndarray) and value.shape == (2,) and value.dtype.kind in "if"
_MUJOCO: dict[str, dict[str, Check]] = {
    "Reacher": {"goal": _PLANE},
    "Pusher": {"goal_pos": _PLANE, "cylinder_pos": _PLANE},
    **{
        name: {}
        for name in ("Ant", "Half_Cheetah", "Hopper", "Humanoid", "HumanoidStandup", "Swimmer", "Walker2d")
    },
    **{name: {} for name in ("Inverted_Pendulum", "Inverted_Double_Pendulum")},
}

_KNOWN: dict[str, _Fields] = {
    _CLASSIC + "cartpole.CartPoleEnv": _Fields(state=_VECTOR[4], steps_beyond_terminated=_optional(_count)),
    _CLASSIC + "acrobot.AcrobotEnv": _Fields(state=_VECTOR[4]),
    _CLASSIC + "mountain_car.MountainCarEnv": _Fields(state=_VECTOR[2]),
    _CLASSIC + "continuous_mountain_car.Continuous_MountainCarEnv": _Fields(state=_VECTOR[2]),
    _CLASSIC + "pendulum.PendulumEnv": _Fields(state=_VECTOR[2], last_u=_optional(_number)),
    _TOY + "frozen_lake.FrozenLakeEnv": _Fields(s=_state_index, lastaction=_any),
    _TOY + "cliffwalking.CliffWalkingEnv": _Fields(s=_state_index, lastaction=_any),
    _TOY + "taxi.TaxiEnv": _Fields(s=_state_index, lastaction=_any, fickle_step=_flag, taxi_orientation=_any),
    _TOY + "blackjack.BlackjackEnv": _Fields(
        dealer=_CARDS, player=_CARDS, dealer_top_card_suit=_text, dealer_top_card_value_str=_text
    ),
    **{
        f"gymnasium.envs.mujoco.{name.lower()}_{version}.{name.replace('_', '')}Env": _Mujoco(**goals)
        for version in ("v4", "v5")
        for name, goals in _MUJOCO.items()
    },
    "actrix.envs.finite.FiniteEnv": _Fields(
        s=lambda v, level: _integer(v) and -1 <= v < level.mdp.n_states, t=_count
    ),
    "actrix.envs.guard.Guard": _Fields(steps=_count, seed=_optional(_integer)),
    "actrix.envs.probes.PositionOnly": _STATELESS,
    _WRAP + "common.OrderEnforcing": _Fields(_has_reset=_flag),
    _WRAP + "common.TimeLimit": _Fields(_elapsed_steps=_optional(_count)),
    _WRAP + "common.Autoreset": _Fields(autoreset=_flag),
    _WRAP + "common.PassiveEnvChecker": _Checker(
        checked_reset=_flag, checked_step=_flag, checked_render=_flag
    ),
    _WRAP + "common.RecordEpisodeStatistics": _Statistics(
        episode_count=_count,
        episode_returns=_number,
        episode_lengths=_count,
        time_queue=_STATISTICS,
        return_queue=_STATISTICS,
        length_queue=_STATISTICS,
    ),
    _WRAP + "stateful_action.RepeatAction": _STATELESS,
    _WRAP + "stateful_action.StickyAction": _Fields(
        last_action=_any, is_sticky_actions=_flag, num_repeats=_count, repeats_taken=_count
    ),
    _WRAP + "stateful_observation.TimeAwareObservation": _Fields(timesteps=_count),
    _WRAP + "stateful_observation.FrameStackObservation": _Fields(
        obs_queue=_queue(_observation, lambda level: level.stack_size), padding_value=_observation
    ),
    _WRAP + "stateful_observation.DelayObservation": _Fields(
        observation_queue=_queue(_observation, lambda level: level.delay + 1)
    ),
    _WRAP + "stateful_observation.MaxAndSkipObservation": _Fields(
        _obs_buffer=_like("_obs_buffer", exact=True)
    ),
    _WRAP + "stateful_observation.NormalizeObservation": _Fields(
        obs_rms__mean=_like("obs_rms.mean"),
        obs_rms__var=_like("obs_rms.var"),
        obs_rms__count=_number,
        _update_running_mean=_flag,
    ),
    _WRAP + "stateful_reward.NormalizeReward": _Fields(
        return_rms__mean=_like("return_rms.mean"),
        return_rms__var=_like("return_rms.var"),
        return_rms__count=_number,
        discounted_reward=_like("discounted_reward"),
        _update_running_mean=_flag,
    ),
    **{
        _WRAP + path: _STATELESS
        for path in (
            *(f"transform_action.{name}Action" for name in ("Clip", "Rescale", "Discretize")),
            *(
                f"transform_observation.{name}Observation"
                for name in ("Filter", "Flatten", "Grayscale", "Resize", "Reshape", "Rescale")
            ),
            *(f"transform_observation.{name}Observation" for name in ("Dtype", "AddRender", "Discretize")),
            "transform_reward.ClipReward",
            *(f"rendering.{name}" for name in ("HumanRendering", "AddWhiteNoise", "ObstructView")),
        )
    },
}
"""Exact classes by path (so that nothing is imported for it); a subclass may hold more, and so may the functions of
TransformObservation, -Action and -Reward."""
_ASKED = _Asked()


def _known(level: gym.Env) -> Any:
    """Who reads and writes this level, or None."""
    return _KNOWN.get(_path(level)) or (_ASKED if _offers(level) else None)


def _offers(level: Any) -> bool:
    # Not hasattr: a wrapper that forwards unknown names would offer those of what it wraps.
    if any(inspect.getattr_static(level, name, None) is None for name in ("get_state", "set_state")):
        return False
    try:
        inspect.signature(level.get_state).bind()
        inspect.signature(level.set_state).bind(None)  # MuJoCo's takes (qpos, qvel)
    except (TypeError, ValueError):
        return False
    return True
