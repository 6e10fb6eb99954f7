"""Which environments and wrappers are known, by exact class, and what each holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.envs.guard import conform
from actrix.envs.state.levels import Asked, Check, Checker, Fields, Statistics, attribute, path_of
from actrix.envs.state.mujoco import Mujoco


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
        now = attribute(level, name)
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


_STATELESS = Fields()
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

_KNOWN: dict[str, Fields] = {
    _CLASSIC + "cartpole.CartPoleEnv": Fields(state=_VECTOR[4], steps_beyond_terminated=_optional(_count)),
    _CLASSIC + "acrobot.AcrobotEnv": Fields(state=_VECTOR[4]),
    _CLASSIC + "mountain_car.MountainCarEnv": Fields(state=_VECTOR[2]),
    _CLASSIC + "continuous_mountain_car.Continuous_MountainCarEnv": Fields(state=_VECTOR[2]),
    _CLASSIC + "pendulum.PendulumEnv": Fields(state=_VECTOR[2], last_u=_optional(_number)),
    _TOY + "frozen_lake.FrozenLakeEnv": Fields(s=_state_index, lastaction=_any),
    _TOY + "cliffwalking.CliffWalkingEnv": Fields(s=_state_index, lastaction=_any),
    _TOY + "taxi.TaxiEnv": Fields(s=_state_index, lastaction=_any, fickle_step=_flag, taxi_orientation=_any),
    _TOY + "blackjack.BlackjackEnv": Fields(
        dealer=_CARDS, player=_CARDS, dealer_top_card_suit=_text, dealer_top_card_value_str=_text
    ),
    **{
        f"gymnasium.envs.mujoco.{name.lower()}_{version}.{name.replace('_', '')}Env": Mujoco(**goals)
        for version in ("v4", "v5")
        for name, goals in _MUJOCO.items()
    },
    "actrix.envs.finite.FiniteEnv": Fields(
        s=lambda v, level: _integer(v) and -1 <= v < level.mdp.n_states, t=_count
    ),
    "actrix.envs.guard.Guard": Fields(steps=_count, seed=_optional(_integer)),
    "actrix.envs.probes.PositionOnly": _STATELESS,
    _WRAP + "common.OrderEnforcing": Fields(_has_reset=_flag),
    _WRAP + "common.TimeLimit": Fields(_elapsed_steps=_optional(_count)),
    _WRAP + "common.Autoreset": Fields(autoreset=_flag),
    _WRAP + "common.PassiveEnvChecker": Checker(
        checked_reset=_flag, checked_step=_flag, checked_render=_flag
    ),
    _WRAP + "common.RecordEpisodeStatistics": Statistics(
        episode_count=_count,
        episode_returns=_number,
        episode_lengths=_count,
        time_queue=_STATISTICS,
        return_queue=_STATISTICS,
        length_queue=_STATISTICS,
    ),
    _WRAP + "stateful_action.RepeatAction": _STATELESS,
    _WRAP + "stateful_action.StickyAction": Fields(
        last_action=_any, is_sticky_actions=_flag, num_repeats=_count, repeats_taken=_count
    ),
    _WRAP + "stateful_observation.TimeAwareObservation": Fields(timesteps=_count),
    _WRAP + "stateful_observation.FrameStackObservation": Fields(
        obs_queue=_queue(_observation, lambda level: level.stack_size), padding_value=_observation
    ),
    _WRAP + "stateful_observation.DelayObservation": Fields(
        observation_queue=_queue(_observation, lambda level: level.delay + 1)
    ),
    _WRAP + "stateful_observation.MaxAndSkipObservation": Fields(
        _obs_buffer=_like("_obs_buffer", exact=True)
    ),
    _WRAP + "stateful_observation.NormalizeObservation": Fields(
        obs_rms__mean=_like("obs_rms.mean"),
        obs_rms__var=_like("obs_rms.var"),
        obs_rms__count=_number,
        _update_running_mean=_flag,
    ),
    _WRAP + "stateful_reward.NormalizeReward": Fields(
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
_ASKED = Asked()


def known(level: gym.Env) -> Any:
    """Who reads and writes this level, or None."""
    return _KNOWN.get(path_of(level)) or (_ASKED if _offers(level) else None)


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
