"""Atari games with the preprocessing of DQN: `make_atari_env`, and `AtariWrapper` for one environment.

One step is four raw frames with the same action; the observation is the last four pictures, each 84×84 grey and
the maximum over the last two raw frames of its step (Mnih et al. 2015, "Human-level control through deep
reinforcement learning", Methods). No sticky actions unless asked for (Machado et al. 2018).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformReward

from actrix.envs.base import HostEnv
from actrix.envs.build import UnknownEnvError, make_one, nearest, register_atari, vectorise
from actrix.envs.envpool import EnvPoolAtari, atari_pool_id
from actrix.envs.guard import env_seeds

EVALUATION = {"terminal_on_life_loss": False, "clip_reward": False}
"""`wrapper_kwargs` under which an episode is a whole game with its own score."""
PLAY = {**EVALUATION, "fire_on_life_loss": True}
"""The same for an agent trained life by life, whose every life began with FIRE: how evaluation and video play."""

BACKENDS = ("auto", "gymnasium", "envpool")
_OURS = {  # settings of the environment that the wrapper owns
    "frameskip": "frame_skip",
    "repeat_action_probability": "action_repeat_probability",
    "max_num_frames_per_episode": "max_episode_frames",
}


class AtariWrapper(gym.Wrapper):
    """Stable-Baselines3's `AtariWrapper` with its frame stack: observations uint8 [frame_stack, 84, 84], oldest first.

    A reset plays 1 to `noop_max` raw frames of no-op, the last of them FIRE in games that have it (0 leaves FIRE
    alone). With `terminal_on_life_loss` a lost life ends the episode, and the next reset without a seed goes on
    in the same game. A game is cut (truncated) after `max_episode_frames` raw frames, counted in whole steps from
    its first one and over its lives. An episode's first observation repeats its first frame.

    Not as in SB3, but as in EnvPool, so that both backends are the same environment: FIRE lasts one raw frame
    (SB3: four, then four of the next action), a new life begins with no-ops too (SB3: one step of no-op), and
    the stack repeats the first frame (SB3: zeros). Where lives do not end episodes, `fire_on_life_loss` presses FIRE
    for one raw frame after each (Breakout otherwise waits for ever on an agent that never had to; not in EnvPool).
    """

    def __init__(
        self,
        env: gym.Env,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
        frame_stack: int = 4,
        max_episode_frames: int = 108_000,
        fire_on_life_loss: bool = False,
    ):
        """`env` is an `ALE/<Game>-v5` environment made with frameskip=1; raises ValueError for another one."""
        if getattr(env.unwrapped, "_frameskip", None) != 1:
            raise ValueError(f"AtariWrapper needs an ALE/* environment made with frameskip=1, not {env}.")
        if noop_max < 0:
            raise ValueError(f"AtariWrapper: noop_max must not be negative, got {noop_max}.")
        _own_settings(env.unwrapped, action_repeat_probability)
        game = _Game(env, noop_max)
        env = AtariPreprocessing(game, noop_max=0, frame_skip=frame_skip, screen_size=screen_size)
        env = _Episodes(env, game, terminal_on_life_loss, max_episode_frames // frame_skip, fire_on_life_loss)
        if clip_reward:
            env = TransformReward(env, lambda reward: float(np.sign(float(reward))))
        super().__init__(FrameStackObservation(env, frame_stack))


class _Game(gym.Wrapper):
    """Raw frames, below the frame skip: how an episode starts.

    A game's end is hidden: ALE ignores what comes after it, so that the frame skip always sees its last two
    frames (where it breaks off, AtariPreprocessing shows frames of the step before). Observations are not used:
    AtariPreprocessing reads the screen, of which it is told here.
    """

    def __init__(self, env: gym.Env, noop_max: int):
        super().__init__(env)
        screen = env.unwrapped.ale.getScreenDims()  # type: ignore[attr-defined]
        self.observation_space = gym.spaces.Box(0, 255, screen, np.uint8)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self.fire = meanings.index("FIRE") if "FIRE" in meanings else None
        self.noop_max, self.goes_on = noop_max, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        obs: Any = None
        info: dict[str, Any] = {}
        if seed is not None or not self.goes_on:
            obs, info = self.env.reset(seed=seed, options=options)
        frames = int(self.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0
        actions = [0] * frames
        if self.fire is not None:
            actions[-1:] = [self.fire]
        for action in actions:
            obs, _, over, _, info = self.env.step(action)
            if over:
                obs, info = self.env.reset()
        return obs, info

    def step(self, action: Any):
        obs, reward, _, _, info = self.env.step(action)
        return obs, reward, False, False, info


class _Episodes(gym.Wrapper):
    """Where an episode ends: the game is over, a life is lost, or the time is up."""

    def __init__(self, env: gym.Env, game: _Game, life_ends: bool, max_steps: int, fire: bool):
        super().__init__(env)
        self.fire = fire and game.fire is not None and not life_ends
        self.game, self.ale = game, game.unwrapped.ale  # type: ignore[attr-defined]
        self.life_ends, self.max_steps = life_ends, max_steps
        self.lives = self.steps = 0
        self.lost = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None or not self.game.goes_on:
            self.steps = 0
        result = self.env.reset(seed=seed, options=options)
        self.game.goes_on, self.lost, self.lives = False, False, self.ale.lives()
        return result

    def step(self, action: Any):
        bonus: Any = 0.0
        if self.lost and self.fire:
            bonus = self.game.step(self.game.fire)[1]
        obs, reward, _, _, info = self.env.step(action)
        self.steps += 1
        before, self.lives = self.lives, self.ale.lives()
        over, cut = self.ale.game_over(with_truncation=False), self.steps >= self.max_steps
        lost = self.life_ends and 0 < self.lives < before
        self.lost, self.game.goes_on = self.lives < before, lost and not over and not cut
        return obs, float(reward) + float(bonus), over or lost, cut, info


def make_atari_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    backend: str = "auto",
    wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> HostEnv:
    """`n_envs` copies of an Atari game with the preprocessing of `AtariWrapper`; Stable-Baselines3's parameter names.

    `env_id` is 'ALE/Pong-v5' or 'PongNoFrameskip-v4', which here means the same: minimal actions, the frame skip
    and the stickiness of the wrapper. `wrapper_kwargs` go to `AtariWrapper` (or to EnvPool, under these names);
    for evaluation use `EVALUATION`. `env_kwargs` go to ALE (mode, difficulty, full_action_space).
    Backend: see `atari_backend`. `spec.frame_stack` and `spec.max_episode_steps` (27000) are set.

    Raises UnknownEnvError (with the nearest names), ImportError (a missing extra), ValueError (bad settings).
    """
    if int(n_envs) != n_envs or n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, got {n_envs}.")
    for name in _OURS.keys() & (env_kwargs or {}).keys():
        raise ValueError(f"env_kwargs has {name!r}: give {_OURS[name]!r} in wrapper_kwargs instead.")
    game, settings = _ale_id(env_id), _settings(wrapper_kwargs or {})
    seeds = env_seeds(seed, n_envs)
    envs: Any
    if atari_backend(backend, env_id, n_envs, wrapper_kwargs, env_kwargs) == "envpool":
        envs = EnvPoolAtari(str(atari_pool_id(game)), n_envs, seed, **_pool_options(settings))
    else:
        build = functools.partial(_single, game, env_kwargs, settings)
        envs = vectorise(build, n_envs, seeds)
        limit = settings["max_episode_frames"] // settings["frame_skip"]
        envs.spec = dataclasses.replace(
            envs.spec, max_episode_steps=limit, frame_stack=settings["frame_stack"]
        )
    envs.env_id = game if not env_kwargs and set(wrapper_kwargs or ()) <= set(PLAY) else None
    return envs


def atari_backend(
    backend: str,
    env_id: str,
    n_envs: int = 2,
    wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> str:
    """'envpool' or 'gymnasium' for an Atari id.

    'auto' takes EnvPool where it is installed and has the game, `n_envs` > 1, there are no `env_kwargs`, and
    `noop_max` and `frame_skip` are ones that it can do. Raises ValueError where 'envpool' is asked for in vain.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} for Atari, got {backend!r}.")
    game, settings = _ale_id(env_id), _settings(wrapper_kwargs or {})
    reason = ""
    if env_kwargs:
        reason = "takes no env_kwargs"
    elif settings["noop_max"] < 1 or settings["frame_skip"] < 2:
        reason = "needs noop_max >= 1 and frame_skip >= 2"
    elif settings["fire_on_life_loss"]:
        reason = "cannot press FIRE inside a game"
    elif backend == "envpool" and atari_pool_id(game) is None:
        raise UnknownEnvError(f"EnvPool is not installed or has no game {env_id!r}{_nearest_game(game)}")
    if backend == "envpool" and reason:
        raise ValueError(f"backend='envpool' {reason} for Atari.")
    if backend == "auto" and n_envs > 1 and not reason and atari_pool_id(game) is not None:
        return "envpool"
    return "gymnasium" if backend == "auto" else backend


def atari_single_env(env_id: str, render_mode: str | None = None, **wrapper_kwargs: Any) -> gym.Env:
    """One wrapped Gymnasium environment as `make_atari_env` builds it: for video and watching."""
    env_kwargs = {} if render_mode is None else {"render_mode": render_mode}
    return _single(_ale_id(env_id), env_kwargs, _settings(wrapper_kwargs))


def is_atari(env_id: Any) -> bool:
    """Whether this is spelled like an Atari id: 'ALE/<Game>-v5' or '<Game>NoFrameskip-v4'."""
    return isinstance(env_id, str) and _ATARI.fullmatch(env_id) is not None


_ATARI = re.compile(r"ALE/(\w+)-v\d+|(\w+)NoFrameskip-v4")


def _ale_id(env_id: str) -> str:
    match = _ATARI.fullmatch(env_id) if isinstance(env_id, str) else None
    if match is None:
        nearest = _nearest_game(f"ALE/{re.split('[-/]', str(env_id))[0]}-v5")
        raise UnknownEnvError(f"{env_id!r} is no Atari id like 'ALE/Pong-v5'{nearest}")
    return f"ALE/{match[2]}-v5" if match[2] else env_id


def _nearest_game(game: str) -> str:
    try:
        register_atari()
    except ImportError:
        return "."
    return nearest(game)


def _single(game: str, env_kwargs: dict[str, Any] | None, settings: dict[str, Any]) -> gym.Env:
    kwargs = {
        "frameskip": 1,
        "repeat_action_probability": settings["action_repeat_probability"],
        "max_num_frames_per_episode": 0,
        "full_action_space": False,
        "obs_type": "ram",  # the cheapest; see _Game
        **(env_kwargs or {}),
    }
    env = make_one(game, kwargs)
    try:
        return AtariWrapper(env, **settings)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f'Atari needs OpenCV: pip install "actrix[atari]" ({error})') from error


def _own_settings(game: Any, action_repeat_probability: float) -> None:
    """The stickiness asked for, no frame limit below ours; ALE reads both when it loads a game."""
    stickiness = np.float32(action_repeat_probability)
    if (
        game.ale.getFloat("repeat_action_probability") != stickiness
        or game.ale.getInt("max_num_frames_per_episode") != 0
    ):
        game.ale.setFloat("repeat_action_probability", float(stickiness))
        game.ale.setInt("max_num_frames_per_episode", 0)
        game.load_game()


_DEFAULTS: dict[str, Any] = {
    name: p.default
    for name, p in inspect.signature(AtariWrapper.__init__).parameters.items()
    if p.default is not p.empty
}


def _settings(wrapper_kwargs: dict[str, Any]) -> dict[str, Any]:
    """All settings of `AtariWrapper`, checked."""
    for name, value in wrapper_kwargs.items():
        if name not in _DEFAULTS:
            raise ValueError(f"AtariWrapper has no setting {name!r}; it has {', '.join(_DEFAULTS)}.")
        default = _DEFAULTS[name]
        if isinstance(default, bool):
            sound, what = isinstance(value, bool), "True or False"
        elif isinstance(default, float):
            sound, what = isinstance(value, float | int) and 0 <= value <= 1, "a probability"
        else:
            least = 0 if name == "noop_max" else 1
            sound = isinstance(value, int) and not isinstance(value, bool) and value >= least
            what = f"a whole number >= {least}"
        if not sound:
            raise ValueError(f"AtariWrapper: {name} must be {what}, got {value!r}.")
    return {**_DEFAULTS, **wrapper_kwargs}


def _pool_options(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "noop_max": settings["noop_max"],
        "frame_skip": settings["frame_skip"],
        "img_height": settings["screen_size"],
        "img_width": settings["screen_size"],
        "episodic_life": settings["terminal_on_life_loss"],
        "reward_clip": settings["clip_reward"],
        "repeat_action_probability": settings["action_repeat_probability"],
        "stack_num": settings["frame_stack"],
        "max_episode_steps": settings["max_episode_frames"] // settings["frame_skip"],
        "use_fire_reset": True,
        "gray_scale": True,
        "use_inter_area_resize": True,
        "full_action_space": False,
    }
