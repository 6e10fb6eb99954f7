"""JAX environments: all that an id may name, gymnax behind our contract, batched stepping.

`vector_reset` and `vector_step` are the only places where a batch of JAX environments is stepped; the
compiled loop and `HostJax` both call them, so both modes see the same transitions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym_spaces

from actrix.core.host import own
from actrix.core.spaces import check_action_space, check_observation_space, to_env_action
from actrix.core.types import Spec
from actrix.envs.base import JaxEnv, Step, step_keys
from actrix.envs.blackjack import Blackjack
from actrix.envs.classic import CLASSIC, ClassicEnv, TimedState
from actrix.envs.goals import GOAL_ENVS
from actrix.envs.guard import EnvError
from actrix.envs.probes import MEMORY_ENVS
from actrix.envs.tables import from_gymnasium
from actrix.envs.tokens.tasks import TOKEN_ENVS

# ----------------------------------------------------------------------------------------------- batches


def vector_reset(env: JaxEnv, keys: jax.Array) -> tuple[Any, Any, jax.Array | None]:
    """Start N episodes, keys [N, 2] from `step_keys`; return (state, obs [N, ...], mask [N, n] or None)."""
    state, obs = jax.vmap(env.reset)(_reset_keys(env, keys))
    state, obs = jax.tree.map(_strong, (state, obs))
    return state, obs, _masks(env, state)


def vector_step(env: JaxEnv, state: Any, action: jax.Array, keys: jax.Array) -> tuple[Any, Step]:
    """Step N environments and start a new episode in the rows that ended.

    `action` [N, ...] is in policy coordinates; `keys` [N, 2] = `step_keys(key, number, N)`. The returned
    state and `Step.obs` are those after the resets, `Step.next_obs` is the true successor.
    """
    action_space = env.spec.action_space

    def one(key, row, row_action):
        return env.step(key, row, to_env_action(action_space, row_action))

    after, next_obs, reward, terminated, truncated = jax.vmap(one)(keys[:, 0], state, action)
    fresh, first_obs = jax.vmap(env.reset)(_reset_keys(env, keys))
    for name, x in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if x.ndim != 1:
            raise ValueError(f"{env}: step returned a {name} of shape {x.shape[1:]}; it must be a scalar.")
    truncated = truncated & ~terminated
    done = terminated | truncated

    def where_done(new, old):
        # The types of a reset are the types of the loop's carry: gymnax mixes ints, bools and weak types.
        rows = done.reshape(done.shape + (1,) * (new.ndim - 1))
        return jnp.where(rows, _strong(new), old.astype(new.dtype))

    next_mask = _masks(env, after)
    state = jax.tree.map(where_done, fresh, after)
    obs = jax.tree.map(where_done, first_obs, next_obs)
    mask = _masks(env, state)
    if next_mask is not None:
        # No action is taken after the end, so an all-false mask is allowed there; a softmax of it is not.
        next_mask = next_mask | (done & ~next_mask.any(axis=-1))[:, None]
    next_obs = jax.tree.map(lambda n, o: n.astype(o.dtype), next_obs, obs)
    reward = reward.astype(jnp.float32)
    return state, Step(obs, next_obs, reward, terminated, truncated, None, mask, next_mask)


def _reset_keys(env: JaxEnv, keys: jax.Array) -> jax.Array:
    """The keys of episodes that start now; of a group all are its first one's, which gives all the same prompt."""
    rows, prompts = jnp.arange(len(keys)), env.spec.prompts
    return keys[:, 1] if prompts is None else keys[rows - rows % prompts.group, 1]


def _strong(x: jax.Array) -> jax.Array:
    return jax.lax.convert_element_type(x, x.dtype)


def _masks(env: JaxEnv, state: Any) -> Any:
    return None if env.spec.mask_size is None else jax.vmap(env.mask)(state)


class HostJax:
    """A JAX environment behind the host contract (`HostEnv`): numpy in, numpy out.

    Uses the same key numbers as the compiled loop: the first reset takes number 0, each step the next, a
    later reset of all environments one more. The arrays it returns are read-only views.
    """

    backend = "jax"

    def __init__(self, env: JaxEnv, num_envs: int, key: jax.Array | int = 0):
        self.env, self.spec, self.num_envs = env, env.spec, num_envs
        self.key = jax.random.key(key) if isinstance(key, int | np.integer) else key
        self.number = 0
        self.state: Any = None
        self._reset = jax.jit(lambda key, g: vector_reset(env, step_keys(key, g, num_envs)))
        self._step = jax.jit(
            lambda key, g, state, action: vector_step(env, state, action, step_keys(key, g, num_envs))
        )

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """Start all episodes; `seeds` together give a new key and start the numbers at 0 again."""
        if seeds is not None:
            self.key = jax.random.key(
                int(np.random.SeedSequence([int(s) for s in seeds]).generate_state(1)[0])
            )
            self.number = 0
        self.state, obs, mask = self._reset(self.key, self._next())
        return jax.tree.map(np.asarray, (obs, mask))

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] in policy coordinates."""
        if self.state is None:
            raise RuntimeError("HostJax.step was called before reset.")
        self.state, step = self._step(self.key, self._next(), self.state, action)
        out = jax.tree.map(np.asarray, step)
        if (complain := getattr(self.env, "complaint", None)) and (said := complain()):
            raise EnvError(said)
        return out

    def get_state(self) -> dict[str, Any] | None:
        """Everything that the next steps depend on, as plain data; None before the first reset."""
        if self.state is None:
            return None
        key = np.asarray(jax.random.key_data(self.key))
        return {
            "key": key,
            "number": self.number,
            "state": [np.asarray(x) for x in jax.tree.leaves(self.state)],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; EnvError where that was another environment's."""
        template = jax.eval_shape(lambda: self._reset(self.key, np.uint32(0))[0])
        expected, tree = jax.tree.flatten(template)
        found = [(np.shape(x), x.dtype) for x in state["state"]]
        if found != [(x.shape, x.dtype) for x in expected]:
            raise EnvError(f"the saved state of {self.env} holds {found}, which does not fit it.")
        self.state = jax.tree.unflatten(tree, own(list(state["state"])))
        self.key = jax.random.wrap_key_data(own(state["key"]), impl="threefry2x32")
        self.number = state["number"]

    def close(self) -> None:
        self.state = None

    def _next(self) -> np.uint32:
        self.number += 1
        return np.uint32((self.number - 1) % 2**32)


TOY_TEXT = frozenset(
    {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4"}
)
"""Gymnasium's tabular environments, compiled from their own tables (`from_gymnasium`)."""

JAX_TWINS = frozenset(CLASSIC) | TOY_TEXT | {"Blackjack-v1"}
"""Ids whose JAX step equals Gymnasium's from the same state (tested): train in one, act in the other."""

OWN_ENVS: dict[str, Any] = GOAL_ENVS | TOKEN_ENVS | MEMORY_ENVS
"""Our own, by id."""


# ------------------------------------------------------------------------------------------------ gymnax

BROKEN_IN_GYMNAX = frozenset({"SimpleBandit-bsuite", "BernoulliBandit-misc", "MNISTBandit-bsuite"})
"""Registered by gymnax 0.0.9, but their step or reset raises (the last one downloads a dead link)."""


@contextlib.contextmanager
def _gymnax_rules() -> Iterator[None]:
    # gymnax relies on implicit promotion and scatters with mixed types, which warn while they are traced.
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        yield


@dataclasses.dataclass(frozen=True)
class GymnaxEnv:
    """A gymnax environment with its `done` split into termination and an exact time limit (a `JaxEnv`).

    `params` are (name, value) pairs that replace gymnax's default parameters. For the ids in `JAX_TWINS` use
    `ClassicEnv`: gymnax's versions of them differ from Gymnasium's.
    """

    env_id: str
    max_episode_steps: int | None = None
    """None = gymnax's limit."""
    params: tuple[tuple[str, Any], ...] = ()

    @functools.cached_property
    def _made(self) -> tuple[Any, Any, int]:
        import gymnax

        if self.env_id not in gymnax_ids():
            raise ValueError(
                f"gymnax has no usable environment {self.env_id!r}; it has {', '.join(gymnax_ids())}."
            )
        # gymnax builds arrays in constructors; under a jit trace they would leak as tracers.
        with jax.ensure_compile_time_eval(), _gymnax_rules():
            env, params = gymnax.make(self.env_id)
            params = params.replace(**dict(self.params))
        limit = self.max_episode_steps or int(params.max_steps_in_episode)
        # gymnax folds its time limit into `done`: put it just out of reach and count here. (Not at infinity:
        # DiscountingChain observes time / limit.)
        return env, params.replace(max_steps_in_episode=limit + 1), limit

    @functools.cached_property
    def spec(self) -> Spec:
        env, params, limit = self._made
        with jax.ensure_compile_time_eval(), _gymnax_rules():
            observation_space = _gym_space(env.observation_space(params))
            action_space = _gym_space(env.action_space(params))
        check_observation_space(observation_space)
        check_action_space(action_space)
        return Spec(observation_space, action_space, limit)

    def reset(self, key: jax.Array) -> tuple[TimedState, jax.Array]:
        """Return (state, obs) of a new episode."""
        env, params, _ = self._made
        with _gymnax_rules():
            obs, inner = env.reset_env(key, params)
        inner = jax.tree.map(jnp.asarray, inner)
        return TimedState(inner, jnp.zeros((), jnp.int32)), self._cast(obs)

    def step(self, key: jax.Array, state: TimedState, action: jax.Array):
        """Return (state, obs, reward, terminated, truncated)."""
        env, params, limit = self._made
        with _gymnax_rules():
            obs, inner, reward, done, _ = env.step_env(key, state.inner, action, params)
        terminated = jnp.asarray(done, bool)
        t = state.t + 1
        truncated = (t >= limit) & ~terminated
        return TimedState(inner, t), self._cast(obs), jnp.asarray(reward, jnp.float32), terminated, truncated

    def mask(self, state: TimedState) -> None:
        return None

    def _cast(self, obs: jax.Array) -> jax.Array:
        space = self.spec.observation_space
        return jnp.asarray(obs, jnp.int32 if isinstance(space, gym_spaces.Discrete) else jnp.float32)


def _gym_space(space: Any) -> gym.Space:
    if hasattr(space, "n"):
        return gym_spaces.Discrete(int(space.n))
    if hasattr(space, "low"):
        low, high = (np.broadcast_to(np.asarray(b, np.float32), space.shape) for b in (space.low, space.high))
        return gym_spaces.Box(low, high, dtype=np.float32)
    return space


def jax_env(env_id: str, max_episode_steps: int | None = None, **params: Any) -> JaxEnv:
    """The JAX environment of that name: Gymnasium's classic control and toy text re-derived, our own, else gymnax's.

    Raises ValueError for an unknown id, ImportError where gymnax is needed and not installed.
    """
    if env_id in CLASSIC:
        if params:
            raise ValueError(f"{env_id} takes no parameters besides max_episode_steps, got {sorted(params)}.")
        return ClassicEnv(env_id, max_episode_steps)
    if env_id in TOY_TEXT:
        return from_gymnasium(env_id, max_episode_steps=max_episode_steps, **params)
    if env_id == "Blackjack-v1":
        if params:
            raise ValueError(f"{env_id} is compiled without natural and sab only, got {sorted(params)}.")
        return Blackjack(max_episode_steps)
    if env_id in OWN_ENVS:
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        return OWN_ENVS[env_id](**params, **limit)
    env = GymnaxEnv(env_id, max_episode_steps, tuple(sorted(params.items())))
    try:
        _ = env.spec
    except ImportError as error:
        raise ImportError(f'{env_id!r} needs gymnax: pip install "actrix[jax-envs]".') from error
    return env


def has_jax_env(env_id: str) -> bool:
    """Whether `jax_env(env_id)` would succeed (False where gymnax is not installed)."""
    return env_id in JAX_TWINS or env_id in OWN_ENVS or env_id in gymnax_ids()


@functools.cache
def gymnax_ids() -> tuple[str, ...]:
    """The ids gymnax registers; empty where it is not installed."""
    try:
        import gymnax
    except ImportError:
        return ()
    return tuple(id for id in gymnax.registered_envs if id not in BROKEN_IN_GYMNAX)
