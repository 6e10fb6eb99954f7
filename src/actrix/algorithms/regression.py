"""Offline learning by weighted regression on the data's own actions: behaviour cloning and implicit Q-learning.

No target and no loss evaluates an action that is not in the data, so nothing there can be overestimated.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.algorithms import checks, off_policy
from actrix.algorithms.learner import Acting
from actrix.algorithms.off_policy import Batch, Replayed, State, weighted_mean
from actrix.algorithms.pathwise import Explore, Noise
from actrix.core import normalize
from actrix.core.distributions import ActionHead, DiagGaussian, Distribution, action_head
from actrix.core.fields import whole
from actrix.core.optim import descend_if_finite, flatten, polyak
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key, PyTree, Spec
from actrix.data.answers import ReplayBuffer
from actrix.nets.networks import MLP, SQRT2, Linear, NetworkConfig, resolve_activation
from actrix.nets.q_networks import Actor, Critics, apply, bounded, build_encoder, hidden_widths

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""Bounds of the policy's log standard deviation, as in the authors' code of IQL."""


@dataclasses.dataclass(frozen=True)
class ExpectileCritic:
    """Question 1: V(s) an upper expectile, over the data's actions, of min_i Q_i(s, a); Q fitted to r + γ′V(s′)."""

    expectile: float = 0.7
    """τ: ½ is the mean (the data's own policy), τ → 1 the best action in the data (Kostrikov et al. 2022)."""
    n_critics: int = 2
    """Networks Q_i whose target copies are joined by their minimum."""

    def __post_init__(self) -> None:
        whole(self, "n_critics")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile={self.expectile} must lie between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class WeightedRegression:
    """Question 2: maximise E[w log π(a|s)] over the data, w = min(exp(β A(s, a)), `max_weight`); 1 without a critic."""

    beta: float = 3.0
    """Inverse temperature, in units of 1/return: 0 clones the behaviour, ∞ clones its best actions only."""
    max_weight: float = 100.0

    name: ClassVar[str] = "weighted regression"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta={self.beta} must be a finite number of at least 0.")
        if not self.max_weight > 0:
            raise ValueError(f"max_weight={self.max_weight} must be positive.")

    def weight(self, advantage: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """min(exp(β A), max_weight), no gradient."""
        return jax.lax.stop_gradient(jnp.minimum(jnp.exp(self.beta * advantage), self.max_weight))


def expectile_loss(error: Float[Array, "*B"], expectile: float) -> Float[Array, "*B"]:
    """L_τ(u) = |τ − 1(u < 0)| u², whose minimiser over v of E[L_τ(x − v)] is the τ-expectile of x.

    Newey & Powell (1987); τ = ½ gives half the squared error, and the mean (Kostrikov et al. 2022, eq. 5: u = Q − V).
    """
    return jnp.where(error < 0, 1.0 - expectile, expectile) * error**2


class StateValue(eqx.Module):
    """V(s), a number."""

    encoder: Any
    body: MLP
    out: Linear

    def __init__(self, space: gym.Space, config: NetworkConfig, key: Key):
        keys = jax.random.split(key, 3)
        self.encoder = build_encoder(config, space, keys[0])
        widths = hidden_widths(config.vf, self.encoder)
        gain = SQRT2 if config.ortho_init else None
        activation = resolve_activation(config.activation_fn)
        self.body = MLP(self.encoder.size, widths, activation, gain, keys[1], layer_norm=config.layer_norm)
        self.out = Linear([self.encoder.size, *widths][-1], 1, None, keys[2])

    def __call__(self, obs: PyTree) -> Array:
        return self.out(self.body(self.encoder(obs)))[0]


class Regressor(eqx.Module):
    """The networks: a policy and, for IQL, critics Q(s, a) and V(s).

    Continuous actions have the density N(tanh(f(s)), diag σ²) with a learned σ that does not depend on the state, as
    in the authors' code of IQL. A squashed Gaussian would give actions at the bounds, which clipped policies leave
    in a data set in great number, the infinite pre-image atanh(±1).
    """

    actor: Actor
    log_std: Array | None
    critics: Critics | None
    value: StateValue | None

    @property
    def head(self) -> ActionHead:
        """How actions of the space are encoded."""
        return self.actor.head

    def dist(self, obs: PyTree, mask: Array | None) -> Distribution:
        """π(·|s) for a batch."""
        out = apply(self.actor, obs, mask)
        if self.log_std is None:
            return out
        log_std = jnp.clip(self.log_std, LOG_STD_MIN, LOG_STD_MAX)
        return DiagGaussian(out, jnp.broadcast_to(log_std, out.shape))


def build_regressor(config: NetworkConfig, spec: Spec, key: Key, n_critics: int) -> Regressor:
    """The networks for one environment's spaces; without critics there is no V either."""
    head, space = action_head(spec.action_space), spec.observation_space
    keys = jax.random.split(key, 3)
    return Regressor(
        Actor(space, head, config, False, keys[0]),
        jnp.zeros(head.size) + config.log_std_init if head.continuous else None,
        Critics(space, head, config, n_critics, 1, keys[1]) if n_critics else None,
        StateValue(space, config, keys[2]) if n_critics else None,
    )


@dataclasses.dataclass(frozen=True)
class Regression(Replayed):
    """A policy fitted to the data's actions, all alike (behaviour cloning) or by their advantage (IQL).

    Behaviour cloning (Pomerleau 1991): −E[log π(a|s)]. IQL (Kostrikov et al. 2022), in this order, Q̂ the minimum of
    the target critics: V ← E[L_τ(Q̂(s,a) − V(s))]; policy ← −E[w(Q̂(s,a) − V(s)) log π(a|s)]; each
    Q_i ← E[(r + γ′V(s′) − Q_i(s,a))²]. Deviations from the authors' code: one constant learning rate (theirs decays
    the policy's by a cosine), rewards as they are (theirs are scaled by 1000/(best − worst return) for locomotion,
    so choose `beta` for yours), no dropout in the policy.
    """

    critic: ExpectileCritic | None = ExpectileCritic()
    """None = behaviour cloning."""
    actor: WeightedRegression = WeightedRegression()
    data: ReplayBuffer = ReplayBuffer(learning_starts=0)
    gamma: float = 0.99
    learning_rate: Schedule = 3e-4
    tau: float = 0.005
    """Polyak coefficient of the target critics, moved after every update."""
    max_grad_norm: float | None = None
    optimizer: str = "adam"
    optimizer_eps: float = 1e-8
    normalize_obs: bool = False
    clip_obs: float = 10.0
    network: NetworkConfig = NetworkConfig(activation_fn="relu", ortho_init=False)

    # What the loops ask of every algorithm.
    def __post_init__(self) -> None:
        checks.settle_off_policy(self)
        if self.critic is None and self.data.prioritized:
            raise ValueError("prioritized=True needs a critic, whose error is the priority.")

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        space = spec.action_space
        if isinstance(space, spaces.Box) and not bounded(space):
            raise ValueError(f"the action space {space} has infinite bounds: a tanh actor needs finite ones.")
        if self.critic is not None and not isinstance(space, spaces.Box | spaces.Discrete):
            raise ValueError(f"IQL needs a Box or Discrete action space, not {space}: bc takes it.")
        checks.fits_off_policy(self, spec, num_envs)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        if self.critic is None:
            return "none", "cloning", "offline"
        return f"expectile, min of {self.critic.n_critics}", self.actor.name, "offline"

    @property
    def target_names(self) -> tuple[str, ...]:
        """Which networks have targets."""
        return () if self.critic is None else ("critic",)

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """Fresh networks: what a model file holds."""
        n_critics = 0 if self.critic is None else self.critic.n_critics
        net = build_regressor(self.network, spec, key, n_critics)
        return off_policy.initial_acting(self, net, spec)

    # ------------------------------------------------------------------ acting

    def initial_carry(self, acting: Acting, num_envs: int) -> None:
        """The policy remembers nothing."""

    def explore(self, progress: jax.Array) -> Explore:
        """No random actions after the random phase."""
        return Explore(jnp.zeros(()))

    def warm_acting(self, acting: Acting) -> Acting:
        """Uniformly random actions."""
        return dataclasses.replace(acting, explore=Explore(jnp.ones(())))

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> Noise:
        """All the randomness of a chunk's actions, drawn at once."""
        k1, k2, k3 = jax.random.split(key, 3)
        head, shape = acting.net.head, (rows, num_envs)
        uniform = head.draw(k2, shape)
        if head.continuous:
            uniform = jax.random.uniform(k2, (*shape, head.size), minval=-1.0)
        return Noise(head.draw(k1, shape), uniform, jax.random.uniform(k3, shape))

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise):
        """A sample of π for N observations: (action, None, None, carry)."""
        dist = self._dist(acting, obs, mask)
        action = dist.sample(noise.action)
        if isinstance(dist, DiagGaussian):
            action, random = jnp.clip(action, -1.0, 1.0), noise.uniform
        else:
            random = dist.uniform().sample(noise.uniform)
        switch = (noise.switch < acting.explore.random).reshape(-1, *(1,) * (action.ndim - 1))
        return acting.net.head.unflatten_action(jnp.where(switch, random, action)), None, None, carry

    def policy(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise | None):
        """The target policy (action, carry); noise None = its mode: tanh(f(s)), the likeliest action."""
        if noise is not None:
            action, _, _, carry = self.act(acting, carry, obs, mask, noise)
            return action, carry
        return acting.net.head.unflatten_action(self._dist(acting, obs, mask).mode()), carry

    def _dist(self, acting: Acting, obs: PyTree, mask: jax.Array | None) -> Distribution:
        return acting.net.dist(normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs), mask)

    # ------------------------------------------------------------------ learning

    def split(self, net: Regressor):
        """Policy, critics and V as a parameter vector each, and the way back."""
        parts = {"actor": (net.actor, net.log_std), "critic": net.critics, "value": net.value}
        pairs = {name: flatten(part) for name, part in parts.items() if part is not None}

        def build(weights: dict[str, jax.Array]) -> Regressor:
            new = {name: unflatten(weights[name]) for name, (_, unflatten) in pairs.items()}
            actor, log_std = new["actor"]
            return Regressor(actor, log_std, new.get("critic"), new.get("value"))

        return {name: theta for name, (theta, _) in pairs.items()}, build

    def update(
        self, state: State, build: Any, batch: Batch, number: jax.Array, key: Key, progress: jax.Array
    ):
        """One update of V, critics and policy; (state, priorities [B], metrics)."""
        rate = evaluate(self.learning_rate, progress)
        head = build(state.weights).head
        batch = dataclasses.replace(batch, action=head.flatten_action(batch.action))
        priority, metrics, finite = jnp.ones_like(batch.reward), {}, jnp.asarray(True)
        weight = jnp.ones_like(batch.reward)
        if self.critic is not None:
            q = self._target_q(build(state.weights | state.targets), batch)
            state, v, finite, metrics = self._update_value(state, build, batch, q, rate)
            weight = self.actor.weight(q - v)

        def actor_loss(theta: jax.Array) -> jax.Array:
            dist = build(state.weights | {"actor": theta}).dist(batch.obs, batch.mask)
            return weighted_mean(-weight * dist.log_prob(batch.action), batch.weight)

        loss, gradient = jax.value_and_grad(actor_loss)(state.weights["actor"])
        after, also = self._descend(state, "actor", gradient, rate)
        if self.critic is not None:
            after, priority, finite_q, more = self._update_critics(after, build, batch, key, rate)
            metrics, finite = metrics | more, finite & finite_q
        metrics |= {"train/actor_loss": loss, "nonfinite": 1.0 - (finite & also)}
        return after, priority, metrics

    def _target_q(self, target: Regressor, batch: Batch) -> jax.Array:
        """Q̂(s, a) `[B]`: the minimum of the target critics at the data's action."""
        return jnp.min(_taken(apply(target.critics, batch.obs, batch.action, None), batch.action), axis=1)

    def _update_value(self, state: State, build: Any, batch: Batch, q: jax.Array, rate: Any):
        """V ← E[L_τ(Q̂ − V)]; (state, the new V(s) `[B]`, whether it was finite, metrics)."""
        assert self.critic is not None
        expectile = self.critic.expectile

        def loss_of(theta: jax.Array) -> jax.Array:
            v = apply(build(state.weights | {"value": theta}).value, batch.obs)
            return weighted_mean(expectile_loss(q - v, expectile), batch.weight)

        loss, gradient = jax.value_and_grad(loss_of)(state.weights["value"])
        state, finite = self._descend(state, "value", gradient, rate)
        v = apply(build(state.weights).value, batch.obs)
        return state, v, finite, {"train/value_loss": loss, "train/value_mean": jnp.mean(v)}

    def _update_critics(self, state: State, build: Any, batch: Batch, key: Key, rate: Any):
        """Q_i ← E[(r + γ′V(s′) − Q_i)²], then the targets; (state, |δ| `[B]`, whether it was finite, metrics)."""
        value = apply(build(state.weights).value, batch.next_obs)
        target = (batch.reward + batch.discount * value)[:, None]
        keys = jax.random.split(key, len(value)) if self.network.dropout else None

        def loss_of(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
            net = build(state.weights | {"critic": theta})
            q = _taken(apply(net.critics, batch.obs, batch.action, keys), batch.action)
            return weighted_mean(jnp.sum((target - q) ** 2, axis=1), batch.weight), q

        (loss, q), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights["critic"])
        state, finite = self._descend(state, "critic", gradient, rate)
        targets = {name: polyak(x, state.weights[name], self.tau) for name, x in state.targets.items()}
        state = dataclasses.replace(state, targets=targets)
        metrics = {"train/critic_loss": loss, "train/q_mean": jnp.mean(q)}
        return state, jnp.abs(jnp.mean(q - target, axis=1)), finite, metrics

    def _descend(self, state: State, name: str, gradient: jax.Array, rate: Any) -> tuple[State, jax.Array]:
        theta, opt_state, finite = descend_if_finite(
            self.optimizer_of(name), gradient, state.opt_state[name], state.weights[name], rate
        )
        weights, opt_states = state.weights | {name: theta}, state.opt_state | {name: opt_state}
        return State(weights, state.targets, opt_states), finite


def _taken(q: jax.Array, action: jax.Array) -> jax.Array:
    """Critics' outputs `[B, E, 1]`, or `[B, E, A]` for discrete actions, at the taken action: `[B, E]`."""
    if q.shape[-1] == 1:
        return q[..., 0]
    return jnp.take_along_axis(q, action[:, None, None].astype(jnp.int32), axis=2)[..., 0]
