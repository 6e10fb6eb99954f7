"""Parallel Q-learning (PQN): λ-returns from many environments at once, no replay memory, no target network.

Layer norm keeps it stable (Gallici et al. 2024). Each chunk is used for a few epochs of minibatches and dropped.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.actors import greedy
from actrix.actors.exploration import Draws, Explore, Greedy
from actrix.algorithms import checks, off_policy
from actrix.algorithms.learner import Acting, Learner, count, first_bad_row
from actrix.core import normalize
from actrix.core.fields import share, switch, whole
from actrix.core.optim import descend_if_finite, flatten, make_optimizer
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics import q_targets, returns
from actrix.data.answers import OnPolicy
from actrix.data.rollout import minibatch_indices
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import QNet, apply, build_q_net


@dataclasses.dataclass(frozen=True)
class ParallelQLearning:
    """A critic Q(s, ·) fitted to λ-returns of max_a Q, an actor that is ε-greedy in it, fresh data.

    G_t = r_t + γ_t[(1 − λ) max_a Q(s_{t+1}, a) + λ G_{t+1}]. For λ > 0 it follows the behaviour policy for a while,
    uncorrected: a bias that shrinks with ε (Peng's Q(λ)).
    """

    actor: Greedy = Greedy(exploration_fraction=0.2)
    data: OnPolicy = OnPolicy()
    n_steps: int = 32
    """Rows per environment in a chunk."""
    batch_size: int = 128
    n_epochs: int = 4
    gamma: float = 0.99
    lam: float = 0.95
    learning_rate: Schedule = 2.5e-4
    dueling: bool = False
    max_grad_norm: float | None = 10.0
    optimizer: str = "radam"
    optimizer_eps: float = 1e-8
    normalize_obs: bool = False
    clip_obs: float = 10.0
    network: NetworkConfig = NetworkConfig(
        activation_fn="relu", layer_norm=True, pi=(128, 128), vf=(128, 128)
    )

    whole_episodes = False
    normalize_reward = False

    def __post_init__(self) -> None:
        checks.settle_off_policy(self)
        whole(self, "n_steps", "batch_size", "n_epochs")
        share(self, "lam")
        switch(self, "dueling")

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(
                f"Q-learning needs a Discrete action space, not {spec.action_space}: "
                "take sac, td3 or ddpg for continuous actions."
            )
        checks.plain_network(self.network)
        checks.batch_fits(self.batch_size, self.n_steps, num_envs)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        return f"Q-learning λ-return:{self.lam}", str(self.actor), "on-policy"

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        return self.n_steps

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) that only fill the running statistics."""
        return (1, min(rows, max(32, 1024 // num_envs))) if self.normalize_obs else (0, 0)

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Any = None) -> Learner:
        """A fresh learner."""
        checks.no_reference(reference)
        acting = self.initial_acting(key, spec)
        return Learner(acting, off_policy.initial_training(self, acting.net))

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """A fresh Q network: what a model file holds."""
        net = build_q_net(self.network, spec, key, dueling=self.dueling)
        return off_policy.initial_acting(self, net, spec)

    # ------------------------------------------------------------------ acting

    def initial_carry(self, acting: Acting, num_envs: int) -> None:
        """The policy remembers nothing."""

    initial_memory = initial_carry

    def explore(self, progress: jax.Array) -> Explore:
        """ε at this share of training."""
        return self.actor.numbers(progress)

    def warm_acting(self, acting: Acting) -> Acting:
        """The policy acts as ever while the statistics warm up."""
        return acting

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> Draws:
        """All the randomness of a chunk's actions, drawn at once."""
        return self.actor.draws(key, (rows, num_envs), acting.net.head.size)

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Draws):
        """The behaviour policy for N observations: (action, None, None, carry)."""
        q = apply(acting.net, normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs))
        return self.actor.choose(q, acting.explore, noise, mask), None, None, carry

    def policy(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Draws | None):
        """The target policy (action, carry): greedy in Q; with noise the behaviour policy."""
        if noise is not None:
            action, _, _, carry = self.act(acting, carry, obs, mask, noise)
            return action, carry
        q = apply(acting.net, normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs))
        return greedy.greedy_action(q, mask), carry

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with another policy (a warm start)."""
        return dataclasses.replace(learner, acting=acting)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments: nothing in it depends on them."""
        return learner

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """Move the observation statistics by a chunk without learning from it."""
        moments = learner.acting.obs_moments
        if moments is None:
            return learner
        moments = normalize.update_observation_moments(moments, chunk.obs, chunk.valid)
        return dataclasses.replace(learner, acting=dataclasses.replace(learner.acting, obs_moments=moments))

    # ------------------------------------------------------------------ learning

    target_names = ()

    def split(self, net: QNet):
        """The network as a parameter vector, and the way back."""
        return off_policy.split_one(net, "q")

    def optimizer_of(self, name: str):
        """The optimiser of a parameter vector."""
        return make_optimizer(self.optimizer, self.max_grad_norm, self.optimizer_eps)

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """Fit Q to the chunk's λ-returns, which are computed anew before each epoch; (learner, metrics)."""
        acting, training = learner.acting, learner.training
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        rate = evaluate(self.learning_rate, progress)
        theta, build = flatten(acting.net)
        see = lambda obs: normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        raw, chunk = chunk, dataclasses.replace(chunk, obs=see(chunk.obs), next_obs=see(chunk.next_obs))
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        rows, optimizer = jax.tree.map(flat, (chunk.obs, chunk.action, chunk.valid)), self.optimizer_of("q")

        def minibatch(state: tuple, batch: tuple) -> tuple[tuple, tuple]:
            theta, opt_state = state
            (obs, action, valid), target = batch

            def loss(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
                q = jnp.take_along_axis(apply(build(theta), obs), action[:, None], axis=1)[:, 0]
                weight = jnp.ones(q.shape) if valid is None else valid.astype(q.dtype)
                return off_policy.weighted_mean(0.5 * (q - target) ** 2, weight), jnp.mean(q)

            (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
            theta, opt_state, finite = descend_if_finite(optimizer, gradient, opt_state, theta, rate)
            return (theta, opt_state), (value, q, finite)

        def epoch(state: tuple, key: Key) -> tuple[tuple, tuple]:
            target = jax.lax.stop_gradient(flat(self._target(build(state[0]), chunk)))
            index = minibatch_indices(key, target.shape[0], target.shape[0] // self.batch_size)
            take = lambda i: jax.tree.map(lambda x: jnp.take(x, i, axis=0), (rows, target))
            return jax.lax.scan(lambda s, i: minibatch(s, take(i)), state, index)

        state = (theta, training.opt_state["q"])
        (new, opt_state), (value, q, finite) = jax.lax.scan(
            epoch, state, jax.random.split(key, self.n_epochs)
        )
        bad_row = first_bad_row(raw)
        good = bad_row < 0
        net = build(jnp.where(good, new, theta))
        opt_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), opt_state, training.opt_state["q"])
        moments = self.observe(learner, raw).acting.obs_moments
        training = dataclasses.replace(
            count(training, raw),
            opt_state={"q": opt_state},
            gradient_steps=training.gradient_steps + value.size,
        )
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        explore = self.explore(progress)
        metrics = {
            "train/loss": jnp.mean(value),
            "train/q_mean": jnp.mean(q),
            "train/learning_rate": jnp.asarray(rate),
            "train/n_updates": training.gradient_steps,
            "nonfinite": 1.0 - (jnp.all(finite) & good),
            "bad_row": bad_row,
        }
        return Learner(Acting(net, moments, explore), training), metrics | self.actor.metrics(explore)

    def _target(self, net: QNet, chunk: Chunk) -> jax.Array:
        """λ-returns `[T, N]`."""
        next_value = q_targets.greedy_value(apply(net, chunk.next_obs, axes=2), chunk.next_mask)
        return returns.lambda_return(
            reward=chunk.reward, next_value=next_value, terminated=chunk.terminated, truncated=chunk.truncated,
            valid=chunk.valid, gamma=self.gamma, lam=self.lam,
        )  # fmt: skip
