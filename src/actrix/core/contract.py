"""What loops, files and models ask of an algorithm: the typed contract, and the states that pass through it."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp

from actrix.core import normalize
from actrix.core.spaces import normalized_shapes
from actrix.core.types import Chunk, Key, PyTree, Spec, record


@record
class Acting:
    """All that acting needs, and all that a model file holds."""

    net: Any
    obs_moments: tuple[normalize.Moments | None, ...] | None
    explore: PyTree = None
    """What only the behaviour policy needs: ε, a noise scale, older parameters."""


@record
class Learner:
    """acting + training (optimisers, what the answers keep, counters) + memory (replay; or None)."""

    acting: Acting
    training: Any
    memory: PyTree = None


TrainingState = TypeVar("TrainingState")


class Algorithm(abc.ABC, Generic[TrainingState]):
    """A frozen dataclass, the configuration, whose methods are pure functions of its states.

    A loop fills a chunk `[T, N]` by `act` and hands it to `learn`. Arrays are time-major; keys come from the run.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    gamma: float
    network: Any
    """How to build the network (`policy_kwargs`)."""
    normalize_obs: bool
    normalize_reward: bool
    norm_obs_keys: tuple[str, ...] | None
    clip_obs: float = 10.0
    """Bound of standardised observations."""
    data: Any
    """The answer to question 3, whose `batch_size` and `buffer_size` are None where it has none."""

    def numbers(self) -> dict[str, float]:
        """The settings that learning reads from `training.numbers`, so that they may change between two updates."""
        return {}

    def idle(self, offline: bool | None = None) -> dict[str, dict[str, str]]:
        """Settings that have no effect as the others stand: part ('' = of none) → name → what it would need.

        `offline`: it learns from a data set and collects nothing; None = where its data answer is one.
        """
        return {}

    def same_program(self, other: Algorithm) -> bool:
        """Whether the other differs in nothing but such numbers."""
        return self == other

    def normalized(self, spec: Spec) -> tuple[tuple[int, ...] | None, ...]:
        """Shape of each leaf of an observation that has statistics, if any has; ValueError for keys without such."""
        return normalized_shapes(
            spec.observation_space, self.norm_obs_keys, not self.network.normalize_images
        )

    # What the loops must know of it.

    @property
    def whole_episodes(self) -> bool:
        """A chunk holds one whole episode of every environment, padded with rows that are not valid."""
        return False

    @property
    def warms_up_whole(self) -> bool:
        """So do those of its warm-up: but a random phase counts steps."""
        return self.whole_episodes and not self.replays_transitions

    @property
    def shown(self) -> bool:
        """The environment shows right actions and acts itself while it is learned from."""
        return False

    @property
    def plays_at_random(self) -> bool:
        """Its target policy is stochastic by design, so that evaluation draws from it."""
        return False

    @property
    def steps_singly(self) -> bool:
        """It learns every few steps, so that one compiled call both learns and draws the next action."""
        return False

    @property
    def replays_transitions(self) -> bool:
        """It learns from a memory of transitions, so that a fixed data set may take the memory's place."""
        return False

    @property
    def remembers(self) -> bool:
        """It has a memory, which several seeds in one program would copy."""
        return False

    @property
    def stays_near(self) -> bool:
        """It pays for the KL to a reference policy."""
        return False

    @property
    def cuts_at_stop(self) -> bool:
        """Rows that a stop cut off are lost, so that the next row must not seem to follow the last one."""
        return False

    @property
    def learns_in_shares(self) -> bool:
        """Several devices may each compute a share of its batches (`core/shards.py`)."""
        return False

    def refuses_behind(self) -> str | None:
        """Why its chunks must be of the newest policy (a clause), or None where those of the one before will do."""
        return "this algorithm learns from what the newest one did: take ppo, ppo-kl, or data lag or trajectories"

    def refuses_any_order(self) -> str | None:
        """Why it cannot learn from whichever older policies' chunks, as they come (a clause), or None where it can."""
        return "this algorithm corrects for no other policy: take v-trace with lag=0"

    @property
    @abc.abstractmethod
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data), as people read them."""

    @abc.abstractmethod
    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""

    def fitted(self, spec: Spec, num_envs: int) -> Algorithm:
        """The same with batches that fit a chunk, where their size was left to it."""
        return self

    @abc.abstractmethod
    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""

    @abc.abstractmethod
    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) that are collected and not learned from: first statistics, a random phase."""

    def check_budget(self, total_steps: int, num_envs: int) -> None:
        """Raise ValueError where so many steps are spent before anything is learned."""

    def check_run(self, spec: Spec, total_steps: int, num_envs: int) -> None:
        """Raise ValueError where a whole run of so many steps would leave a part of the algorithm unused."""

    @abc.abstractmethod
    def init(self, key: Key, spec: Spec, num_envs: int, reference: Acting | None = None) -> Learner:
        """A fresh learner; `reference` is a policy to stay near."""

    @abc.abstractmethod
    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """A fresh network and what else acting needs."""

    # ------------------------------------------------------------------ acting

    def initial_carry(self, acting: Acting, num_envs: int) -> PyTree:
        """What the behaviour policy carries from step to step, zeroed where an episode starts; None = nothing."""
        return None

    def initial_memory(self, acting: Acting, num_envs: int) -> PyTree:
        """What the target policy carries from step to step; None = nothing."""
        return None

    @abc.abstractmethod
    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> PyTree:
        """All the randomness of a chunk's actions, `[T, N, ...]`, drawn at once."""

    @abc.abstractmethod
    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: PyTree) -> tuple:
        """The behaviour policy for N observations: (action, log_prob, dist, carry)."""

    @abc.abstractmethod
    def policy(
        self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: PyTree
    ) -> tuple:
        """The target policy: (action, carry); noise None = without chance, for evaluation and export."""

    def warm_acting(self, acting: Acting) -> Acting:
        """What acts in the warm-up."""
        return acting

    # ------------------------------------------------------------------ learning

    @abc.abstractmethod
    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """The learner after a chunk that is not learned from."""

    @abc.abstractmethod
    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, Any]]:
        """(the learner after a chunk, metrics by Stable-Baselines3's tags).

        A non-finite update changes nothing and sets the metric 'nonfinite' to 1; 'bad_row' is t·N + n of the first
        row with a non-finite reward or observation, or −1; 'batch' is what was learned from, where not the chunk.
        """

    def broken_off(self, learner: Learner, chunk: Chunk) -> Learner:
        """The learner after rows that a stop cut off before they made a chunk."""
        return learner

    def update_offline(self, learner: Learner, key: Key) -> tuple[Learner, dict[str, Any]]:
        """One update from a memory that nothing is added to; ValueError unless it replays transitions."""
        raise ValueError(
            "only algorithms that replay transitions learn from a data set: bc, iql, cql, td3-bc, dqn, sac, …"
        )

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with another policy (a warm start)."""
        return dataclasses.replace(learner, acting=acting)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments, for which `fresh` was made: what depends on them starts anew."""
        return learner


def progress(training: Any) -> jax.Array:
    """Share of the training budget spent, in [0, 1]."""
    return jnp.minimum(training.steps / training.total_steps, 1.0)


def counters() -> dict[str, jax.Array]:
    """`update`, `steps`, `steps_rest`, `total_steps` of a fresh training state."""
    zero = jnp.zeros(())
    return dict(update=jnp.zeros((), jnp.int32), steps=zero, steps_rest=zero, total_steps=jnp.ones(()))


def count(training: Any, chunk: Chunk) -> Any:
    """One update and the chunk's valid rows more. Compensated: float32 alone would lose small chunks at 1e8."""
    rows = jnp.asarray(chunk.reward.size if chunk.valid is None else jnp.sum(chunk.valid), jnp.float32)
    rows = rows - training.steps_rest
    steps = training.steps + rows
    rest = (steps - training.steps) - rows
    return dataclasses.replace(training, update=training.update + 1, steps=steps, steps_rest=rest)


def finite_rows(chunk: Chunk) -> jax.Array:
    """`[T, N]`: reward and observations are finite, or the row is not valid."""
    good = jnp.ones(chunk.reward.shape, bool)
    for x in jax.tree.leaves((chunk.reward, chunk.obs, chunk.next_obs)):
        if jnp.issubdtype(x.dtype, jnp.floating):
            good &= jnp.all(jnp.isfinite(x), axis=tuple(range(2, x.ndim)))
    return good if chunk.valid is None else good | ~chunk.valid


def first_bad_row(chunk: Chunk) -> jax.Array:
    """t·N + n of the first valid row with a non-finite reward or observation, or −1.

    The host loop says which value it was before it learns; the compiled loop has only this.
    """
    good = finite_rows(chunk)
    return jnp.where(jnp.all(good), -1, jnp.argmin(good.reshape(-1))).astype(jnp.int32)


def scrub(chunk: Chunk) -> Chunk:
    """The chunk with its non-finite rows zeroed, so that none of it reaches a memory; training stops then."""
    good = finite_rows(chunk)

    def zero(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(good.reshape(good.shape + (1,) * (x.ndim - 2)), x, 0)

    obs, next_obs, reward = jax.tree.map(zero, (chunk.obs, chunk.next_obs, chunk.reward))
    return dataclasses.replace(chunk, obs=obs, next_obs=next_obs, reward=reward)


def same_memory(old: PyTree, fresh: PyTree) -> PyTree:
    """What the old memory holds where it has room for as many environments, else the fresh one.

    What is no array in it is the fresh one's: it may be of the environments (their goals' rewards).
    """
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
    if shapes(old) != shapes(fresh):
        return fresh
    return jax.tree.unflatten(jax.tree.structure(fresh), jax.tree.leaves(old))
