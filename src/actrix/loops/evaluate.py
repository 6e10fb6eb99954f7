"""Evaluation: fresh episodes with frozen statistics; touches nothing of the training run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from actrix.core.contract import Algorithm
from actrix.core.host import fold_in
from actrix.core.spaces import to_env_action
from actrix.core.types import PyTree, Spec
from actrix.envs.atari import PLAY, is_atari, make_atari_env
from actrix.envs.base import HostEnv, Step, infos_of, successes
from actrix.envs.build import token_task
from actrix.envs.guard import env_seeds
from actrix.envs.make import as_host_env, make_vec_env
from actrix.envs.vec.normalize import unwrap_vec_normalize
from actrix.envs.vec.vecenv import VecEnv
from actrix.loops.runner import run_keys
from actrix.nets.memory import zero_where

EVAL_ENVS = 10
ENDLESS = 20_000
CUT = (
    "an episode of an environment without a time limit was cut after {} steps "
    "(gym.wrappers.TimeLimit, or max_episode_steps where it is registered, sets one)."
)
EVALUATION = 2**31 - 1
"""The number, no call's, that leads from a key to those of evaluations."""


@functools.lru_cache(maxsize=64)
def _compiled(algorithm: Algorithm) -> tuple[Callable, Callable]:
    """(policy, noise) of an algorithm: kept, so that a new `Policy` after each update compiles nothing."""

    def call(acting, memory, first, obs, mask, noise):
        if memory is not None:
            memory = zero_where(first, memory)
        return algorithm.policy(acting, memory, obs, mask, noise)

    def draw(acting, key, n):
        return jax.tree.map(lambda x: x[0], algorithm.noise(acting, key, 1, n))

    return jax.jit(call), jax.jit(draw, static_argnums=2)


@dataclasses.dataclass
class Stream:
    """How far the noise of a model's policies has come: one stream, whatever its parameters become."""

    calls: int = 0
    evaluations: int = 0


class Policy:
    """A frozen policy for batches of observations: acting parameters behind one compiled call.

    Its noise follows from `seed` and `stream`, which the policies of one model share.
    """

    def __init__(self, algorithm: Algorithm, acting: PyTree, seed: int = 0, stream: Stream | None = None):
        self.algorithm, self.acting = algorithm, acting
        self.key = jax.random.key(seed)
        self.stream = Stream() if stream is None else stream
        self._call, self._noise = _compiled(algorithm)

    def initial_memory(self, num_envs: int) -> PyTree:
        """Zero memory of a recurrent policy; None for others."""
        return self.algorithm.initial_memory(self.acting, num_envs)

    def evaluated(self, seed: int | None) -> Policy:
        """The same policy with the noise of one evaluation: of `seed`, or (None) of the next one in the stream."""
        key = self.key if seed is None else run_keys(seed)[0]
        key = fold_in(key, EVALUATION)
        if seed is None:
            key = fold_in(key, self.stream.evaluations)
            self.stream.evaluations += 1
        policy = copy.copy(self)
        policy.key, policy.stream = key, Stream()
        return policy

    def __call__(
        self, obs: PyTree, memory: PyTree, first: np.ndarray, mask: np.ndarray | None, deterministic: bool
    ) -> tuple[np.ndarray, PyTree]:
        """(actions in policy coordinates [N, ...], memory); `first` marks rows that start an episode.

        A policy that is random itself (one that is evaluated, not improved) is played as it is.
        """
        noise = None
        if not deterministic or self.algorithm.plays_at_random:
            noise = self._noise(self.acting, fold_in(self.key, self.stream.calls), len(first))
            self.stream.calls += 1
        action, memory = self._call(self.acting, memory, first, obs, mask, noise)
        return np.asarray(action), memory


def evaluate(
    policy: Policy, env: HostEnv, episodes: int, deterministic: bool = True, seed: int | None = None,
    on_step: Callable[..., None] | None = None, use_masking: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Undiscounted returns and lengths of `episodes` fresh episodes, in the order in which they end.

    Each environment plays its fixed share, so that short episodes are not favoured. `seed` seeds the
    environments and the noise of sampled actions (None = the environments' own streams, and noise that no evaluation
    of this policy had yet). Where there is no time limit an episode is cut, with a warning, after
    `ENDLESS` steps: a greedy policy may walk in circles.
    """
    if episodes < 1:
        raise ValueError(f"n_eval_episodes={episodes} must be at least 1.")
    n = env.num_envs
    share = np.array([(episodes + i) // n for i in range(n)])
    policy = policy.evaluated(seed)
    obs, mask = env.reset(None if seed is None else env_seeds(seed, n))
    memory, first = policy.initial_memory(n), np.ones(n, bool)
    total, length, count = np.zeros(n), np.zeros(n, int), np.zeros(n, int)
    limit, absent = ENDLESS if env.spec.max_episode_steps is None else None, np.zeros(n, int)
    patience = limit or 10 * (env.spec.max_episode_steps or 0)  # steps in which an agent does not come
    returns, lengths = [], []
    while (count < share).any():
        action, memory = policy(obs, memory, first, mask if use_masking else None, deterministic)
        before, step = obs, env.step(action)
        valid = np.ones(n, bool) if step.valid is None else step.valid
        absent = np.where(valid, 0, absent + 1)
        count = np.where(absent >= patience, share, count)  # an agent that does not come plays no episode
        total, length = total + np.where(valid, step.reward, 0.0), length + valid
        done = (step.terminated | step.truncated) & valid
        endless = np.zeros(n, bool) if limit is None else (length >= limit) & ~done & (count < share)
        if endless.any():
            warnings.warn(CUT.format(limit), stacklevel=2)
            returns += total[endless].tolist()
            lengths += length[endless].tolist()
            count = np.where(endless, share, count)  # it would go on for ever: no further episodes there
        playing = count < share
        for i in np.flatnonzero(done & playing):
            returns.append(total[i])
            lengths.append(length[i])
            count[i] += 1
        if on_step is not None:
            on_step(before, action, step, done, total, length, playing)
        total, length = np.where(done, 0.0, total), np.where(done, 0, length)
        first = done | ~valid
        obs, mask = step.obs, step.mask
    return np.asarray(returns), np.asarray(lengths)


def noting(env: HostEnv, told: list[float]) -> Callable[..., None]:
    """`on_step` of `evaluate` that adds to `told` what `env` says of the success of each episode."""

    def note(
        before: Any, action: Any, step: Step, done: np.ndarray, total: Any, length: Any, playing: np.ndarray
    ):
        told.extend(successes(env, done & playing))

    return note


def evaluation_env(
    env_id: str, episodes: int, env_kwargs: dict | None = None, wrapper: Any = None
) -> HostEnv:
    """Gymnasium's own environment for an id, whatever trained; a JAX environment where Gymnasium has none."""
    from actrix.envs.jax_envs import JAX_TWINS, has_jax_env

    n = min(EVAL_ENVS, episodes)
    if (task := token_task(env_id, env_kwargs)) is not None:  # every answer to a prompt of its own
        return make_vec_env(dataclasses.replace(task, group=1), n)
    if is_atari(env_id):  # whole games, unclipped rewards
        return make_atari_env(env_id, n, backend="gymnasium", wrapper_kwargs=PLAY, env_kwargs=env_kwargs)
    jax_only = has_jax_env(env_id) and env_id not in JAX_TWINS
    return make_vec_env(env_id, n, env_kwargs=env_kwargs, wrapper_class=wrapper,
                        backend="jax" if jax_only else "gymnasium")  # fmt: skip


def check_same_spaces(ours: Spec, theirs: Spec, bounds: bool = False) -> None:
    """Raise ValueError with the difference unless an environment has the spaces that the policy was made for.

    Of observed numbers the `bounds` may differ unless they are asked for: no network looks at them. Masks may be new:
    what is illegal is left out of the policy. Where they are gone, it would do what it never learned.
    """
    for what in ("observation_space", "action_space"):
        mine, other = getattr(ours, what), getattr(theirs, what)
        alike = boundless if what == "observation_space" and not bounds else lambda space: space
        if alike(mine) != alike(other):
            raise ValueError(f"the environment's {what} is {other}, the model's is {mine}.")
    if ours.mask_size is not None and theirs.mask_size is None:
        raise ValueError(
            "the environment has no action masks, and the model was trained with them, so that it never learned what "
            "was illegal: give one with action_masks() or info['action_mask']."
        )


def playable(model: Any, env: Any) -> Any:
    """The environment for any number of evaluations: made, and searched for masks, once (a VecEnv, which has statistics
    of its own, as it is). ValueError where it is not of the model's spaces."""
    env = env if isinstance(env, VecEnv) else as_host_env(env)
    check_same_spaces(model._known_spec(), _stepped(env).spec)
    return env


def _stepped(env: Any) -> HostEnv:
    """What evaluation steps: the environments themselves where a `VecEnv` shows them in another way."""
    inside = isinstance(env, VecEnv) and isinstance(env.trained, HostEnv)
    return env.trained if inside else as_host_env(env)


def boundless(space: gym.Space) -> gym.Space:
    """The space, of whose real numbers nothing is said but how many they are."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: boundless(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([boundless(part) for part in space.spaces])
    return space


def _tell(
    callback: Callable, model: Any, env: HostEnv, obs: Any, action: np.ndarray, step: Step, done: np.ndarray,
    returns: np.ndarray, lengths: np.ndarray, playing: np.ndarray,
) -> None:  # fmt: skip
    """Call `callback` for each environment that has not played its share, with Stable-Baselines3's locals."""
    infos = infos_of(env)
    known = {
        "model": model, "env": env, "n_envs": env.num_envs, "infos": infos, "observations": obs,
        "new_observations": step.obs, "actions": to_env_action(env.spec.action_space, action), "rewards": step.reward,
        "dones": done, "current_rewards": returns, "current_lengths": lengths,
    }  # fmt: skip
    for i in np.flatnonzero(playing).tolist():
        callback(known | {"i": i, "info": infos[i], "reward": step.reward[i], "done": done[i]}, {})


def evaluate_policy(
    model: Any,
    env: Any,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Any = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    seed: int | None = None,
    use_masking: bool = True,
) -> Any:
    """(mean, std) of the return over fresh episodes, or (returns, lengths) with `return_episode_rewards`.

    Each environment plays an equal share, so short episodes are not favoured. Statistics stay frozen. `seed` fixes the
    environments and the noise of sampled actions; without it every evaluation of a model has other noise.
    `callback(locals, globals)` runs after every step of every environment, with Stable-Baselines3's locals: `i`,
    `info`, `reward`, `done`, `infos`, `observations`, `actions` (environment units), … `model` may be its `policy`.
    `warn` has no effect (no Monitor is needed); without `use_masking` illegal actions are played too. Raises ValueError
    where the environment's spaces differ from the model's, AssertionError below `reward_threshold`.
    """
    if render:
        raise ValueError("evaluate_policy does not render: use `actrix watch` or `actrix video`.")
    host = _stepped(playable(model, env))
    if (normalizes := unwrap_vec_normalize(env)) is not None:
        normalizes.check_evaluation(model)
    on_step = None if callback is None else functools.partial(_tell, callback, model, host)
    try:
        returns, lengths = evaluate(
            model.policy, host, n_eval_episodes, deterministic, seed, on_step, use_masking
        )
    finally:
        if model.trains_on(env):
            model.runner.restart()  # its open episodes were played on by the evaluation
    if reward_threshold is not None:
        assert np.mean(returns) > reward_threshold, (
            f"mean reward {np.mean(returns):.2f} < {reward_threshold:.2f}"
        )
    if return_episode_rewards:
        return returns.tolist(), lengths.tolist()
    return float(np.mean(returns)), float(np.std(returns))
