"""What all replay-based algorithms share: the memory, the n-step batch, and the update loop of `learn`.

An algorithm (`QLearning`, `Pathwise`, …) brings the loss: `update(state, batch, key, progress)`. Here a chunk
goes into the memory and `gradient_steps` batches come out of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from actrix.algorithms import checks
from actrix.algorithms.learner import Acting, Learner, count, first_bad_row, scrub
from actrix.core import normalize
from actrix.core.optim import flatten, make_optimizer
from actrix.core.schedules import evaluate
from actrix.core.types import Chunk, Key, PyTree, Spec, Transition, record
from actrix.critics import returns
from actrix.data.replay import Ends, Replay, weights
from actrix.nets.networks import normalized_shapes

WARM_UP_ROWS = 1024
"""Longest chunk of the random phase: a hundred thousand images at once would not fit into memory."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """The replay ring and what it holds."""

    rows: PyTree
    ring: Replay = dataclasses.field(metadata=dict(static=True))


@record
class State:
    """What updates change: parameter vectors by the name of the network, their targets and optimisers."""

    weights: dict[str, jax.Array]
    targets: dict[str, jax.Array]
    opt_state: dict[str, Any]


@record
class Training:
    """All that learning needs besides the acting network: targets, optimisers, learned scalars, counters."""

    targets: dict[str, jax.Array]
    opt_state: dict[str, Any]
    scalars: dict[str, jax.Array]
    """Learned numbers that are no part of a network, e.g. the logarithm of a temperature."""
    update: jax.Array
    gradient_steps: jax.Array
    steps: jax.Array
    """Environment steps taken, float32; `steps_rest` is what rounding left out of it (Kahan)."""
    steps_rest: jax.Array
    total_steps: jax.Array


@record
class Batch:
    """B transitions ready for a loss; with n-step targets `reward` is the discounted sum of n rewards."""

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    """Σ_{k≤m} γ^k r_{t+k}, where m is the last row used: n−1, or the first cut."""
    discount: jax.Array
    """γ^{m+1}(1 − terminated_m), what multiplies the value of `next_obs`."""
    next_obs: PyTree
    """The successor of row m."""
    weight: jax.Array
    """Importance weight of prioritised drawing; 0 where no transition could be drawn."""
    mask: jax.Array | None = None
    next_mask: jax.Array | None = None
    next_action: jax.Array | None = None
    next_action_known: jax.Array | None = None
    """False where the next action was never taken (an episode's end, the newest row)."""


class Replayed:
    """What `QLearning`, `Pathwise` and `Regression` share: everything around their updates.

    They bring `initial_acting`, `noise`, `act`, `policy`, `explore`, `split`, `target_names` and `update`.
    """

    whole_episodes = False
    normalize_reward = False
    data: Any
    optimizer: Any
    max_grad_norm: Any
    optimizer_eps: Any

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        return self.data.train_freq

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) of the random phase: at least `learning_starts` steps in all."""
        rows = -(-self.data.learning_starts // num_envs)
        pieces = -(-rows // WARM_UP_ROWS)
        return pieces, -(-rows // max(pieces, 1))

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Any = None) -> Learner:
        """A fresh learner with an empty memory."""
        checks.no_reference(reference)
        return initial_learner(self, key, spec, num_envs, self.initial_scalars())

    def initial_scalars(self) -> dict[str, jax.Array]:
        """Learned numbers that are no part of a network."""
        return {}

    def initial_memory(self, acting: Acting, num_envs: int) -> None:
        """The target policy remembers nothing."""

    def explore_metrics(self, explore: Any) -> dict[str, jax.Array]:
        """What is logged of the behaviour policy's numbers: nothing."""
        return {}

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """Remember a chunk of the random phase."""
        return remember(learner, chunk)

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """Remember a chunk and make `gradient_steps` updates."""
        return learn(self, learner, chunk, key)

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with another policy (a warm start); its targets start as copies."""
        return with_acting(self, learner, acting)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments, for which `fresh` was made."""
        return adopt(learner, fresh)

    def optimizer_of(self, name: str) -> Any:
        """The optimiser of a parameter vector."""
        return make_optimizer(self.optimizer, self.max_grad_norm, self.optimizer_eps)

    def synchronize(self, state: State, before: jax.Array, after: jax.Array) -> State:
        """Before a chunk's updates: nothing, where the targets follow every update."""
        return state


def initial_learner(
    algorithm: Any, key: Key, spec: Spec, num_envs: int, scalars: dict[str, jax.Array] | None = None
) -> Learner:
    """A learner with an empty memory around a fresh network."""
    acting = algorithm.initial_acting(key, spec)
    training = initial_training(algorithm, acting.net, scalars or {})
    data = algorithm.data
    memory = empty_memory(
        acting.net.head, spec, num_envs, transitions=max(data.buffer_size, data.train_freq * num_envs),
        window=data.n_steps, alpha=data.priority_alpha if data.prioritized else 0.0,
    )  # fmt: skip
    return Learner(acting, training, memory)


def initial_training(algorithm: Any, net: Any, scalars: dict[str, jax.Array] = {}) -> Training:  # noqa: B006
    """Targets that are copies, fresh optimisers, counters at 0."""
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    vectors, _ = algorithm.split(net)
    return Training(
        targets={name: jnp.array(vectors[name]) for name in algorithm.target_names},
        opt_state={name: algorithm.optimizer_of(name).init(x) for name, x in (vectors | scalars).items()},
        scalars=scalars, update=none, gradient_steps=none, steps=zero, steps_rest=zero, total_steps=jnp.ones(()),
    )  # fmt: skip


def initial_acting(algorithm: Any, net: Any, spec: Spec) -> Acting:
    """What a model file holds: the network, its observation statistics, the behaviour policy's numbers."""
    shapes = normalized_shapes(spec.observation_space)
    moments = normalize.init_observation_moments(shapes) if algorithm.normalize_obs else None
    return Acting(net, moments, algorithm.explore(jnp.zeros(())))


def empty_memory(
    head: Any,
    spec: Spec,
    num_envs: int,
    *,
    transitions: int,
    window: int,
    alpha: float = 0.0,
    keep: Any = (None, None),
) -> Memory:
    """Room for so many transitions of one environment's spaces; `keep` is an example (log_prob, dist) of one."""
    stack = spec.frame_stack or 1
    # The room of two windows more keeps tiny buffers sound: the newest rows have no complete window yet.
    ring = Replay(transitions // num_envs + 2 * (window + stack), window=window, stack=stack, alpha=alpha)
    sample = spec.observation_space.sample()
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype), sample)
    flag: Any = jax.ShapeDtypeStruct((), jnp.bool_)
    action: Any = jax.ShapeDtypeStruct(head.shape, jnp.float32 if head.continuous else jnp.int32)
    mask: Any = None if spec.mask_size is None else jax.ShapeDtypeStruct((spec.mask_size,), jnp.bool_)
    number: Any = jax.ShapeDtypeStruct((), jnp.float32)
    log_prob, dist = keep
    row = Transition(
        obs=obs, action=action, reward=number, next_obs=obs, terminated=flag,
        truncated=flag, log_prob=log_prob, dist=dist, mask=mask, next_mask=mask,
    )  # fmt: skip
    return Memory(ring.init(row, num_envs), ring)


def append(memory: Memory, chunk: Chunk) -> Memory:
    """The memory with a chunk added; what is not finite in it is zeroed (training stops then)."""
    return dataclasses.replace(memory, rows=memory.ring.add(memory.rows, scrub(chunk)))


def remember(learner: Learner, chunk: Chunk) -> Learner:
    """The chunk counted and put into the memory: what the random phase does instead of learning."""
    training = dataclasses.replace(count(learner.training, chunk), update=learner.training.update)
    moments = learner.acting.obs_moments
    if moments is not None:
        moments = normalize.update_observation_moments(moments, chunk.obs, chunk.valid)
    acting = dataclasses.replace(learner.acting, obs_moments=moments)
    return Learner(acting, training, append(learner.memory, chunk))


def with_acting(algorithm: Any, learner: Learner, acting: Acting) -> Learner:
    """The learner with another policy; its target networks start as copies of the new networks."""
    vectors, _ = algorithm.split(acting.net)
    targets = {name: jnp.array(vectors[name]) for name in algorithm.target_names}
    return Learner(acting, dataclasses.replace(learner.training, targets=targets), learner.memory)


def adopt(learner: Learner, fresh: Learner) -> Learner:
    """The learner for other environments: the memory is kept where it has room for as many."""
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
    same = shapes(learner.memory) == shapes(fresh.memory)
    return dataclasses.replace(learner, memory=learner.memory if same else fresh.memory)


def learn(algorithm: Any, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
    """Remember a chunk, then make `gradient_steps` updates from the memory; returns the learner and metrics.

    A non-finite gradient changes nothing and sets the metric 'nonfinite' to 1. The metric 'batch' is what the first
    such update learned from, if there was one.
    """
    before, frozen = learner.training.steps, learner.acting
    bad_row = first_bad_row(chunk)
    learner = remember(learner, chunk)
    steps = algorithm.data.updates(*chunk.reward.shape)
    learner, metrics = update_many(algorithm, learner, frozen, before, steps, key)
    training = dataclasses.replace(learner.training, update=learner.training.update + 1)
    explore = algorithm.explore(_progress(training))
    acting = dataclasses.replace(learner.acting, explore=explore)
    metrics |= {"bad_row": bad_row, "nonfinite": jnp.maximum(metrics["nonfinite"], bad_row >= 0)}
    return Learner(acting, training, learner.memory), metrics | algorithm.explore_metrics(explore)


def update_many(
    algorithm: Any, learner: Learner, frozen: Acting, before: jax.Array, steps: int, key: Key
) -> tuple[Learner, dict[str, jax.Array]]:
    """`steps` updates from the memory, on observations normalised by the statistics that acted (`frozen`)."""
    training, memory, data = learner.training, learner.memory, algorithm.data
    progress = _progress(training)
    vectors, build = algorithm.split(learner.acting.net)
    state = State(vectors | training.scalars, training.targets, training.opt_state)
    state = algorithm.synchronize(state, before, training.steps)
    ring, beta = memory.ring, evaluate(data.priority_beta, progress)

    def update(state: State, rows: PyTree, number: jax.Array, key: Key) -> tuple[State, PyTree, dict, Batch]:
        draw_key, key = jax.random.split(key)
        draw = ring.draw(rows, draw_key, data.batch_size)
        weight = weights(draw, rows, beta) if data.prioritized else draw.ok.astype(jnp.float32)
        batch = n_step_batch(ring.ends(rows, draw, data.n_steps), weight, algorithm.gamma)
        batch = normalized(batch, frozen.obs_moments, algorithm.clip_obs)
        state, priority, metrics = algorithm.update(state, build, batch, number, key, progress)
        if data.prioritized:
            rows = ring.priorities(rows, draw, priority)
        return state, rows, metrics, batch

    number = training.gradient_steps
    if steps == 1:
        state, rows, metrics, batch = update(state, memory.rows, number, key)
    else:
        keys = jax.random.split(key, steps)
        empty = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, state, memory.rows, number, key)[3]
        )

        def one(carry: tuple, key: Key) -> tuple[tuple, dict]:
            state, changed, number, known, kept = carry
            state, rows, metrics, batch = update(
                state, memory.rows if changed is None else changed, number, key
            )
            bad = metrics["nonfinite"] > 0
            kept = jax.lax.cond(bad & ~known, lambda: batch, lambda: kept)
            return (state, None if changed is None else rows, number + 1, known | bad, kept), metrics

        # The memory stays outside the carry where nothing in it changes.
        start = (state, memory.rows if data.prioritized else None, number, jnp.zeros((), bool), empty)
        (state, changed, _, _, batch), metrics = jax.lax.scan(one, start, keys)
        rows = memory.rows if changed is None else changed
    nonfinite = jnp.max(jnp.atleast_1d(metrics.pop("nonfinite")))
    metrics = {
        name: jnp.nanmean(x) for name, x in metrics.items()
    }  # a delayed actor has none in some updates
    scalars = {name: state.weights[name] for name in training.scalars}
    training = dataclasses.replace(
        training,
        targets=state.targets,
        opt_state=state.opt_state,
        scalars=scalars,
        gradient_steps=number + steps,
    )
    acting = dataclasses.replace(learner.acting, net=build(state.weights))
    metrics |= {
        "batch": batch,
        "nonfinite": nonfinite,
        "train/n_updates": training.gradient_steps,
        "train/learning_rate": jnp.asarray(evaluate(algorithm.learning_rate, progress)),
    }
    return Learner(acting, training, dataclasses.replace(memory, rows=rows)), metrics


def n_step_batch(ends: Ends, weight: jax.Array, gamma: float) -> Batch:
    """The n-step return of each draw, split into its rewards and the discount of what follows.

    Both are the on-policy Monte Carlo return of the n rows: of the rewards with value 0 after them, and of no
    rewards with value 1 after them.
    """
    cut: Any = dict(terminated=ends.terminated, truncated=ends.truncated, valid=ends.valid, gamma=gamma)
    zero, one = jnp.zeros_like(ends.reward), jnp.ones_like(ends.reward)
    reward = returns.monte_carlo(reward=ends.reward, next_value=zero, **cut)[0]
    discount = returns.monte_carlo(reward=zero, next_value=one, **cut)[0]
    return Batch(
        ends.obs, ends.action, reward, discount, ends.next_obs, weight, ends.mask, ends.next_mask, ends.next_action,
        ends.next_action_known,
    )  # fmt: skip


def normalized(batch: Batch, moments: Any, clip: float) -> Batch:
    """The batch with its observations standardised where the policy's are."""
    if moments is None:
        return batch
    obs = normalize.normalize_observation(moments, batch.obs, clip)
    next_obs = normalize.normalize_observation(moments, batch.next_obs, clip)
    return dataclasses.replace(batch, obs=obs, next_obs=next_obs)


def weighted_mean(rows: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean over the drawn transitions, each with its importance weight: Σ w·x / number drawn."""
    return jnp.sum(weight * rows) / jnp.maximum(jnp.sum(weight > 0), 1)


def split_one(net: Any, name: str) -> tuple[dict[str, jax.Array], Any]:
    """({name: θ}, weights -> network) of a network that is learned as one vector."""
    theta, unflatten = flatten(net)
    return {name: theta}, lambda weights: unflatten(weights[name])


def _progress(training: Training) -> jax.Array:
    return jnp.minimum(training.steps / training.total_steps, 1.0)
