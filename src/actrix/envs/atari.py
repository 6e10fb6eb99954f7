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
    `sb3_resets` begins as SB3 does: in games with FIRE, that and the third action for a whole step each after the
    no-ops, and a new life after one step of no-op. `frame_stack` 0 leaves the one picture, [84, 84, 1].
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
        sb3_resets: bool = False,
    ):
        """`env` is an `ALE/<Game>-v5` environment made with frameskip=1; raises ValueError for another one."""
        if getattr(env.unwrapped, "_frameskip", None) != 1:
            raise ValueError(f"AtariWrapper needs an ALE/* environment made with frameskip=1, not {env}.")
        if noop_max < 0:
            raise ValueError(f"AtariWrapper: noop_max must not be negative, got {noop_max}.")
        _own_settings(env.unwrapped, action_repeat_probability)
        game = _Game(env, noop_max, frame_skip if sb3_resets else 0)
        env = AtariPreprocessing(
            game,
            noop_max=0,
            frame_skip=frame_skip,
            screen_size=screen_size,
            grayscale_newaxis=not frame_stack,
        )
        env = _Episodes(env, game, terminal_on_life_loss, max_episode_frames // frame_skip, fire_on_life_loss)
        if clip_reward:
            env = TransformReward(env, lambda reward: float(np.sign(float(reward))))
        super().__init__(FrameStackObservation(env, frame_stack) if frame_stack else env)


class _Game(gym.Wrapper):
    """Raw frames, below the frame skip: how an episode starts.

    A game's end is hidden, and nothing comes after it, so that the frame skip always sees its last two
    frames (where it breaks off, AtariPreprocessing shows frames of the step before). Observations are not used:
    AtariPreprocessing reads the screen, of which it is told here. `step` > 0 is the length of a step for the way in
    which Stable-Baselines3 begins.
    """

    def __init__(self, env: gym.Env, noop_max: int, step: int = 0):
        super().__init__(env)
        screen = env.unwrapped.ale.getScreenDims()  # type: ignore[attr-defined]
        self.observation_space = gym.spaces.Box(0, 255, screen, np.uint8)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self.fire = meanings.index("FIRE") if "FIRE" in meanings else None
        self.noop_max, self.goes_on, self._step = noop_max, False, step
        self._last: tuple | None = None  # what came with the end, once it has come

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        obs: Any = None
        info: dict[str, Any] = {}
        fresh = seed is not None or not self.goes_on
        if fresh:
            obs, info = self.env.reset(seed=seed, options=options)
        for action in self._opening(fresh):
            obs, _, over, _, info = self.env.step(action)
            if over:
                obs, info = self.env.reset()
        self._last = None
        return obs, info

    def _opening(self, fresh: bool) -> list[int]:
        """The raw actions before an episode's first observation."""
        noops = int(self.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0
        if self._step:
            fire = [] if self.fire is None else [self.fire, 2]
            return [0] * (noops if fresh else self._step) + [a for a in fire for _ in range(self._step)]
        actions = [0] * noops
        if self.fire is not None:
            actions[-1:] = [self.fire]
        return actions

    def step(self, action: Any):
        if self._last is not None:
            return self._last
        obs, reward, over, _, info = self.env.step(action)
        if over:
            self._last = obs, 0.0, False, False, info
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
    game, settings = ale_id(env_id), settings_of(wrapper_kwargs)
    game_kwargs(settings, env_kwargs)  # may refuse
    seeds = env_seeds(seed, n_envs)
    envs: Any
    if atari_backend(backend, env_id, n_envs, wrapper_kwargs, env_kwargs) == "envpool":
        envs = EnvPoolAtari(str(atari_pool_id(game)), n_envs, seed, **_pool_options(settings))
    else:
        build = functools.partial(_single, game, env_kwargs, settings)
        envs = vectorise(build, n_envs, seeds)
        limit = settings["max_episode_frames"] // settings["frame_skip"]
        envs.spec = dataclasses.replace(
            envs.spec, max_episode_steps=limit, frame_stack=settings["frame_stack"] or None
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
    game, settings = ale_id(env_id), settings_of(wrapper_kwargs)
    reason = ""
    if env_kwargs:
        reason = "takes no env_kwargs"
    elif settings["noop_max"] < 1 or settings["frame_skip"] < 2:
        reason = "needs noop_max >= 1 and frame_skip >= 2"
    elif settings["sb3_resets"] or not settings["frame_stack"]:
        reason = "has neither sb3_resets nor frame_stack=0"
    elif settings["fire_on_life_loss"]:
        reason = "cannot press FIRE inside a game"
    elif backend == "envpool" and atari_pool_id(game) is None:
        raise UnknownEnvError(f"EnvPool is not installed or has no game {env_id!r}{_nearest_game(game)}")
    if backend == "envpool" and reason:
        raise ValueError(f"backend='envpool' {reason} for Atari.")
    if backend == "auto" and n_envs > 1 and not reason and atari_pool_id(game) is not None:
        return "envpool"
    return "gymnasium" if backend == "auto" else backend


def atari_single_env(
    env_id: str,
    render_mode: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    **wrapper_kwargs: Any,
) -> gym.Env:
    """One wrapped Gymnasium environment as `make_atari_env` builds it: for video and watching."""
    kwargs = dict(env_kwargs or {}) | ({} if render_mode is None else {"render_mode": render_mode})
    return _single(ale_id(env_id), kwargs, settings_of(wrapper_kwargs))


def is_atari(env_id: Any) -> bool:
    """Whether this is spelled like an Atari id: 'ALE/<Game>-v5' or '<Game>NoFrameskip-v4'."""
    return isinstance(env_id, str) and _ATARI.fullmatch(env_id) is not None


_ATARI = re.compile(r"ALE/(\w+)-v\d+|(\w+)NoFrameskip-v4")


def ale_id(env_id: Any) -> str:
    """ALE's name of a game; UnknownEnvError with the nearest one."""
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


def game_kwargs(settings: dict[str, Any], env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """What ALE's environment is made with; ValueError for what is the wrapper's to say."""
    for name in _OURS.keys() & (env_kwargs or {}).keys():
        raise ValueError(f"env_kwargs has {name!r}: give {_OURS[name]!r} in wrapper_kwargs instead.")
    return {
        "frameskip": 1,
        "repeat_action_probability": settings["action_repeat_probability"],
        "max_num_frames_per_episode": 0,
        "full_action_space": False,
        "obs_type": "ram",  # the cheapest; see _Game
        **(env_kwargs or {}),
    }


def _single(game: str, env_kwargs: dict[str, Any] | None, settings: dict[str, Any]) -> gym.Env:
    return wrapped(make_one(game, game_kwargs(settings, env_kwargs)), **settings)


def wrapped(env: gym.Env, **settings: Any) -> AtariWrapper:
    """`AtariWrapper`; ImportError names the extra."""
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


def settings_of(wrapper_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """All settings of `AtariWrapper`, checked."""
    wrapper_kwargs = wrapper_kwargs or {}
    for name, value in wrapper_kwargs.items():
        if name not in _DEFAULTS:
            raise ValueError(f"AtariWrapper has no setting {name!r}; it has {', '.join(_DEFAULTS)}.")
        default = _DEFAULTS[name]
        if isinstance(default, bool):
            sound, what = isinstance(value, bool), "True or False"
        elif isinstance(default, float):
            sound, what = isinstance(value, float | int) and 0 <= value <= 1, "a probability"
        else:
            least = 0 if name in ("noop_max", "frame_stack") else 1
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
