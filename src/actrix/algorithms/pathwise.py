"""Deterministic and soft actor-critics on replayed data: DDPG, TD3, SAC, discrete SAC, TQC, DroQ, TD3+BC, CQL.

One frozen dataclass; the algorithms differ in the ensemble of critics, the actor and a few weights.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.actors import pathwise as losses
from actrix.actors.greedy import explore, ou_step
from actrix.actors.pathwise import Deterministic, Soft
from actrix.algorithms import checks, off_policy
from actrix.algorithms.learner import Acting
from actrix.algorithms.off_policy import Batch, Replayed, State, weighted_mean
from actrix.core import normalize
from actrix.core.distributions import legal_actions
from actrix.core.fields import choose, finite, switch, whole
from actrix.core.optim import descend_if_finite, flatten, polyak
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key, PyTree, Spec, record
from actrix.critics import distributional as dist
from actrix.data.answers import ReplayBuffer
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import ActorCritics, apply, bounded, build_actor_critics

OU_THETA, OU_DT = 0.15, 1e-2
"""Ornstein–Uhlenbeck noise as in Stable-Baselines3."""


@record
class Explore:
    """The behaviour policy's numbers."""

    random: jax.Array
    """Probability of a uniformly random action: 1 in the random phase."""


@record
class Noise:
    """One chunk's randomness, `[T, N, ...]`."""

    action: jax.Array
    uniform: jax.Array
    """Uniformly random actions in [−1, 1] (Gumbel noise for discrete ones)."""
    switch: jax.Array


@dataclasses.dataclass(frozen=True)
class CriticEnsemble:
    """Question 1: how many critics, what they represent, how they are joined."""

    n_critics: int = 2
    """Networks that are joined by their minimum in the target (clipped double Q, Fujimoto et al. 2018)."""
    n_quantiles: int = 0
    """TQC: quantiles per critic (Kuznetsov et al. 2020); 0 = the critics are plain numbers."""
    top_quantiles_to_drop_per_net: int = 2
    actor_q: str = "min"
    """What the actor ascends: 'min', 'mean' or 'first' of the critics."""

    def __post_init__(self) -> None:
        whole(self, "n_critics")
        whole(self, "n_quantiles", "top_quantiles_to_drop_per_net", least=0)
        choose(self, actor_q=("min", "mean", "first"))
        if self.n_quantiles and self.top_quantiles_to_drop_per_net >= self.n_quantiles:
            raise ValueError(
                f"top_quantiles_to_drop_per_net={self.top_quantiles_to_drop_per_net} leaves none of "
                f"n_quantiles={self.n_quantiles}."
            )

    def join(self, q: jax.Array, how: str) -> jax.Array:
        """`[B, E, ...]` → `[B, ...]`."""
        if how == "first":
            return q[:, 0]
        return jnp.min(q, axis=1) if how == "min" else jnp.mean(q, axis=1)


@dataclasses.dataclass(frozen=True)
class Pathwise(Replayed):
    """An ensemble of critics Q(s, a), an actor that follows their gradient, replayed data."""

    critic: CriticEnsemble = CriticEnsemble()
    actor: Deterministic | Soft = Soft()
    data: ReplayBuffer = ReplayBuffer()
    gamma: float = 0.99
    learning_rate: Schedule = 3e-4
    tau: float = 0.005
    """Polyak coefficient of the target networks, moved after every update."""
    policy_delay: int = 1
    """Critic updates per update of actor, temperature and (for a deterministic actor) targets."""
    bc_alpha: float | None = None
    """TD3+BC: the actor minimises −λQ + (f_φ(s) − a)² with λ = bc_alpha / mean|Q|; None = off."""
    cql_alpha: float = 0.0
    """CQL: weight of log Σ_a exp Q(s, a) − Q(s, a_data) in the critics' loss (Kumar et al. 2020)."""
    cql_actions: int = 10
    """Actions drawn from each of: uniform, π(·|s), π(·|s′), to estimate the log-sum-exp."""
    max_grad_norm: float | None = None
    optimizer: str = "adam"
    optimizer_eps: float = 1e-8
    normalize_obs: bool = False
    clip_obs: float = 10.0
    network: NetworkConfig = NetworkConfig(activation_fn="relu", ortho_init=False)

    def __post_init__(self) -> None:
        checks.settle_off_policy(self)
        whole(self, "policy_delay", "cql_actions")
        switch(self, "discrete")
        finite(self, "cql_alpha", least=0)
        if self.bc_alpha is not None and not (self.bc_alpha > 0 and isinstance(self.actor, Deterministic)):
            raise ValueError(f"bc_alpha={self.bc_alpha} must be positive, with a deterministic actor.")
        if self.cql_alpha and not (isinstance(self.actor, Soft) and not self.critic.n_quantiles):
            raise ValueError(
                f"cql_alpha={self.cql_alpha} needs a soft actor, whose density it weighs by, and critics without "
                "quantiles: take cql, or sac."
            )
        if self.discrete and self.critic.n_quantiles:
            raise ValueError(
                f"n_quantiles={self.critic.n_quantiles}: the critics of discrete actions are plain numbers."
            )

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        space, soft = spec.action_space, isinstance(self.actor, Soft)
        if isinstance(space, spaces.Box):
            if not bounded(space):
                raise ValueError(
                    f"the action space {space} has infinite bounds: a tanh actor needs finite ones."
                )
        elif not (soft and isinstance(space, spaces.Discrete)):
            hint = "use discrete-sac or dqn" if isinstance(space, spaces.Discrete) else "use ppo"
            raise ValueError(f"a {self.actor.name} actor needs a Box action space, not {space}: {hint}.")
        elif not self.discrete:
            what = "CQL" if self.cql_alpha else "SAC"
            hint = "set discrete=True" if self.cql_alpha else "use discrete-sac (or dqn)"
            raise ValueError(f"{what} needs a Box action space, not {space}: {hint}.")
        if self.discrete and isinstance(space, spaces.Box):
            raise ValueError(f"discrete SAC needs a Discrete action space, not {space}: use sac.")
        checks.fits_off_policy(self, spec, num_envs)

    discrete: bool = False
    """Discrete actions: values and policy loss are exact sums over the actions (Christodoulou 2019)."""

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        c = self.critic
        words = ["soft" if isinstance(self.actor, Soft) else "Q-learning"]
        words += [f"min of {c.n_critics}"] if c.n_critics > 1 and not c.n_quantiles else []
        words += [f"truncated quantiles of {c.n_critics}"] if c.n_quantiles else []
        words += ["conservative"] if self.cql_alpha else []
        actor = self.actor.name + (" + cloning" if self.bc_alpha else "")
        offline = self.cql_alpha or self.bc_alpha
        data = "offline" if offline else "prioritised replay" if self.data.prioritized else "replay"
        return ", ".join(words), actor, data

    @property
    def target_names(self) -> tuple[str, ...]:
        """Which networks have targets: a soft actor has none."""
        return ("actor", "critic") if isinstance(self.actor, Deterministic) else ("critic",)

    def initial_scalars(self) -> dict[str, jax.Array]:
        """log α of an adapted temperature."""
        if isinstance(self.actor, Soft) and self.actor.adapted:
            return {"log_alpha": jnp.full(1, math.log(self.actor.initial_coef), jnp.float32)}
        return {}

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """A fresh actor and critics: what a model file holds."""
        net = build_actor_critics(
            self.network, spec, key, stochastic=self.actor.stochastic, n_critics=self.critic.n_critics,
            atoms=self.critic.n_quantiles or 1,
        )  # fmt: skip
        return off_policy.initial_acting(self, net, spec)

    # ------------------------------------------------------------------ acting

    def initial_carry(self, acting: Acting, num_envs: int) -> jax.Array | None:
        """The state of Ornstein–Uhlenbeck noise, zeroed where an episode starts."""
        if getattr(self.actor, "noise_type", None) != "ornstein-uhlenbeck":
            return None
        return jnp.zeros((num_envs, acting.net.head.size))

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
        uniform = (
            jax.random.uniform(k2, (*shape, head.size), minval=-1.0)
            if head.continuous
            else head.draw(k2, shape)
        )
        return Noise(head.draw(k1, shape), uniform, jax.random.uniform(k3, shape))

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise):
        """The behaviour policy for N observations: (action, None, None, carry)."""
        head = acting.net.head
        out = self._actor(acting, obs, mask)
        if isinstance(self.actor, Soft):
            action = out.sample(noise.action)
        elif self.actor.noise_type == "ornstein-uhlenbeck":
            carry = ou_step(carry, noise.action, theta=OU_THETA, sigma=self.actor.noise_std, dt=OU_DT)
            action = jnp.clip(out + carry, -1.0, 1.0)
        else:
            scale = self.actor.noise_std if self.actor.noise_type == "normal" else 0.0
            action = jnp.clip(out + scale * noise.action, -1.0, 1.0)
        random = acting.explore.random
        if head.continuous:
            action = jnp.where((noise.switch < random)[:, None], noise.uniform, action)
        else:
            action = explore(action, random, noise.switch, noise.uniform, mask)
        return head.unflatten_action(action), None, None, carry

    def policy(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise | None):
        """The target policy (action, carry); noise None = without noise: tanh(mean), the likeliest action."""
        out = self._actor(acting, obs, mask)
        if isinstance(self.actor, Soft):
            out = out.mode() if noise is None else out.sample(noise.action)
        return acting.net.head.unflatten_action(out), carry

    def _actor(self, acting: Acting, obs: PyTree, mask: jax.Array | None) -> Any:
        return apply(
            acting.net.actor, normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs), mask
        )

    # ------------------------------------------------------------------ learning

    def split(self, net: ActorCritics):
        """Actor and critics as a parameter vector each, and the way back."""
        actor, to_actor = flatten(net.actor)
        critic, to_critics = flatten(net.critics)

        def build(weights: dict[str, jax.Array]) -> ActorCritics:
            return ActorCritics(to_actor(weights["actor"]), to_critics(weights["critic"]))

        return {"actor": actor, "critic": critic}, build

    def update(
        self, state: State, build: Any, batch: Batch, number: jax.Array, key: Key, progress: jax.Array
    ):
        """One critic update and, every `policy_delay`, one of the actor; (state, priorities [B], metrics)."""
        keys = jax.random.split(key, 4)
        rate = evaluate(self.learning_rate, progress)
        batch = dataclasses.replace(batch, action=self._flat(build, state, batch.action))
        target = jax.lax.stop_gradient(self._target(state, build, batch, keys[0]))

        def critic_loss(theta: jax.Array):
            net = build(state.weights | {"critic": theta})
            rows, q = self._critic_rows(net, batch, target, keys[1])
            value = weighted_mean(rows, batch.weight)
            if self.cql_alpha:
                value += self.cql_alpha * self._conservatism(net, batch, q, keys[3])
            return value, (q, rows)

        (loss, (q, rows)), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.weights["critic"])
        state, finite = self._descend(state, "critic", gradient, rate)
        # |δ|, averaged over the critics; a distribution's loss in its place for quantiles.
        priority = rows if self.critic.n_quantiles else jnp.mean(jnp.abs(q - target), axis=(1, 2))
        metrics = {"train/critic_loss": loss, "train/q_mean": jnp.mean(q)}

        update_actor = lambda state: self._update_actor(state, build, batch, keys[2], rate)
        if self.policy_delay == 1:
            state, finite_actor, more = update_actor(state)
        else:
            shapes = jax.eval_shape(update_actor, state)[2]
            skip = lambda state: (
                state,
                jnp.asarray(True),
                jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan), shapes),
            )
            state, finite_actor, more = jax.lax.cond(
                (number + 1) % self.policy_delay == 0, update_actor, skip, state
            )
        metrics |= more
        metrics["nonfinite"] = 1.0 - (finite & finite_actor)
        if isinstance(self.actor, Soft):
            state = self._move_targets(state)
        return state, priority, metrics

    def _update_actor(self, state: State, build: Any, batch: Batch, key: Key, rate: Any):
        """One update of the actor, of the temperature, and of a deterministic actor's targets."""
        alpha = self._alpha(state)
        dropout_key, key = jax.random.split(key)
        drawn = (batch.weight > 0).astype(batch.reward.dtype)

        def actor_loss(theta: jax.Array):
            rows, entropy = self._actor_rows(
                build(state.weights | {"actor": theta}), batch, alpha, key, dropout_key
            )
            return weighted_mean(rows, drawn), entropy

        (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.weights["actor"])
        state, finite = self._descend(state, "actor", gradient, rate)
        metrics = {"train/actor_loss": loss}
        if isinstance(self.actor, Soft):
            metrics |= {"train/ent_coef": alpha, "train/entropy": jnp.mean(entropy)}
            if self.actor.adapted:
                target_entropy = self._target_entropy(build(state.weights).actor.head, batch.mask)
                rows = lambda x: losses.temperature_loss(x[0], entropy, target_entropy)
                temperature = lambda x: weighted_mean(rows(x), drawn)
                loss, gradient = jax.value_and_grad(temperature)(state.weights["log_alpha"])
                state, also = self._descend(state, "log_alpha", gradient, rate)
                metrics["train/ent_coef_loss"] = loss
                finite = finite & also
        else:
            state = self._move_targets(state)
        return state, finite, metrics

    def _target(self, state: State, build: Any, batch: Batch, key: Key) -> jax.Array:
        """r + γ′(Q⁻(s′, a′) − α log π(a′|s′)): `[B, 1, 1]`, or TQC's kept atoms `[B, 1, M]`."""
        noise_key, dropout_key = jax.random.split(key)
        target, soft = build(state.weights | state.targets), isinstance(self.actor, Soft)
        actor = build(state.weights).actor if soft else target.actor
        out = apply(actor, batch.next_obs, batch.next_mask)
        rows, alpha = batch.reward.shape[0], self._alpha(state)
        keys = self._dropout_keys(dropout_key, rows)
        column = lambda x: x[:, None, None]
        if self.discrete:
            q = apply(target.critics, batch.next_obs, None, keys)
            value = column(losses.discrete_soft_value(out.logits, self.critic.join(q, "min"), alpha))
            return column(batch.reward) + column(batch.discount) * value
        xi = actor.head.draw(noise_key, (rows,))
        if isinstance(self.actor, Soft):
            action, log_prob = out.sample_with_log_prob(xi)
            bonus = column(alpha * log_prob)
        else:
            smoothing = jnp.clip(
                self.actor.target_policy_noise * xi,
                -self.actor.target_noise_clip,
                self.actor.target_noise_clip,
            )
            action, bonus = jnp.clip(out + smoothing, -1.0, 1.0), jnp.zeros(())
        q = apply(target.critics, batch.next_obs, action, keys)
        if self.critic.n_quantiles:
            kept = self.critic.n_critics * (
                self.critic.n_quantiles - self.critic.top_quantiles_to_drop_per_net
            )
            value = jnp.sort(q.reshape(rows, -1), axis=-1)[:, None, :kept]
        else:
            value = self.critic.join(q, "min")[:, None]
        return column(batch.reward) + column(batch.discount) * (value - bonus)

    def _critic_rows(self, net: ActorCritics, batch: Batch, target: jax.Array, key: Key):
        """(loss of each transition, summed over the critics; their outputs `[B, E, K]`)."""
        keys = self._dropout_keys(key, len(batch.reward))
        if self.discrete:
            q = apply(net.critics, batch.obs, None, keys)
            q = jnp.take_along_axis(q, batch.action[:, None, None].astype(jnp.int32), axis=2)
        else:
            q = apply(net.critics, batch.obs, batch.action, keys)
        if self.critic.n_quantiles:
            taus = jnp.broadcast_to(dist.midpoints(self.critic.n_quantiles), q.shape)
            samples = jnp.broadcast_to(target, (*q.shape[:2], target.shape[-1]))
            # Mean over predicted quantiles as in the paper's code, not their sum.
            return jnp.mean(dist.quantile_huber_loss(q, taus, samples), axis=1) / self.critic.n_quantiles, q
        return 0.5 * jnp.sum((q - target) ** 2, axis=(1, 2)), q

    def _actor_rows(self, net: ActorCritics, batch: Batch, alpha: jax.Array, key: Key, dropout_key: Key):
        """(actor's loss of each transition, entropy of each or its sample)."""
        rows = len(batch.reward)
        out = apply(net.actor, batch.obs, batch.mask)
        keys = self._dropout_keys(dropout_key, rows)
        critics = net.critics.first() if self.critic.actor_q == "first" else net.critics
        if self.discrete:
            q = self.critic.join(apply(critics, batch.obs, None, keys), self.critic.actor_q)
            q = jax.lax.stop_gradient(q)
            return losses.discrete_soft_policy_loss(out.logits, q, alpha), out.entropy()
        if isinstance(self.actor, Soft):
            action, log_prob = out.sample_with_log_prob(net.actor.head.draw(key, (rows,)))
        else:
            action, log_prob = out, jnp.zeros(rows)
        q = jnp.mean(self.critic.join(apply(critics, batch.obs, action, keys), self.critic.actor_q), axis=-1)
        if isinstance(self.actor, Soft):
            return losses.soft_policy_loss(log_prob, q, alpha), -log_prob
        if self.bc_alpha is None:
            return -q, -log_prob
        cloning = jnp.mean((action - batch.action) ** 2, axis=-1)
        return cloning - losses.behaviour_cloning_weight(q, self.bc_alpha) * q, -log_prob

    def _conservatism(self, net: ActorCritics, batch: Batch, q: jax.Array, key: Key) -> jax.Array:
        """CQL(H): mean of log Σ_a exp Q(s, a) − Q(s, a_data), summed over the critics.

        For continuous actions the integral is estimated by importance sampling from the uniform distribution,
        π(·|s) and π(·|s′), `cql_actions` each (Kumar et al. 2020, appendix F).
        """
        if self.discrete:
            all_q = apply(net.critics, batch.obs, None, None)
            if batch.mask is not None:
                all_q = jnp.where(legal_actions(all_q, batch.mask[:, None, :]), all_q, -jnp.inf)
            gap = jax.nn.logsumexp(all_q, axis=-1) - q[..., 0]
            return weighted_mean(jnp.sum(gap, axis=1), batch.weight)
        rows, count, head = len(batch.reward), self.cql_actions, net.actor.head
        frozen = jax.lax.stop_gradient(net.actor)
        keys = jax.random.split(key, 3)
        uniform = jax.random.uniform(keys[0], (count, rows, head.size), minval=-1.0)
        proposals = [(uniform, jnp.full((count, rows), -head.size * math.log(2.0)))]
        for obs, k in ((batch.obs, keys[1]), (batch.next_obs, keys[2])):
            policy = apply(frozen, obs, None)
            xi = head.draw(k, (count, rows))
            proposals.append(jax.vmap(policy.sample_with_log_prob)(xi))
        action = jnp.concatenate([a for a, _ in proposals])
        log_density = jnp.concatenate([p for _, p in proposals])
        repeat = lambda x: jnp.broadcast_to(x, (len(action), *x.shape)).reshape(-1, *x.shape[1:])
        sampled = apply(net.critics, jax.tree.map(repeat, batch.obs), action.reshape(-1, head.size), None)
        sampled = sampled[..., 0].reshape(len(action), rows, -1) - log_density[..., None]
        gap = jax.nn.logsumexp(sampled, axis=0) - math.log(len(action)) - q[..., 0]
        return weighted_mean(jnp.sum(gap, axis=1), batch.weight)

    # ------------------------------------------------------------------ small pieces

    def _descend(self, state: State, name: str, gradient: jax.Array, rate: Any) -> tuple[State, jax.Array]:
        theta, opt_state, finite = descend_if_finite(
            self.optimizer_of(name), gradient, state.opt_state[name], state.weights[name], rate
        )
        weights, opt_states = state.weights | {name: theta}, state.opt_state | {name: opt_state}
        return State(weights, state.targets, opt_states), finite

    def _move_targets(self, state: State) -> State:
        targets = {name: polyak(x, state.weights[name], self.tau) for name, x in state.targets.items()}
        return dataclasses.replace(state, targets=targets)

    def _alpha(self, state: State) -> jax.Array:
        if not isinstance(self.actor, Soft):
            return jnp.zeros(())
        if not self.actor.adapted:
            return jnp.asarray(self.actor.initial_coef, jnp.float32)
        return jnp.exp(state.weights["log_alpha"][0])

    def _target_entropy(self, head: Any, mask: jax.Array | None) -> float | jax.Array:
        """H̄: as given, or −dim A; of discrete actions half the largest entropy, ½ log of how many are legal."""
        assert isinstance(self.actor, Soft)
        if self.actor.target_entropy != "auto":
            return float(self.actor.target_entropy)
        if head.continuous:
            return -float(head.size)
        if mask is None:
            return 0.5 * math.log(head.size)
        return 0.5 * jnp.log(jnp.sum(legal_actions(jnp.zeros(mask.shape), mask), axis=-1))

    def _dropout_keys(self, key: Key, rows: int) -> jax.Array | None:
        return jax.random.split(key, rows) if self.network.dropout else None

    def _flat(self, build: Any, state: State, action: jax.Array) -> jax.Array:
        return build(state.weights).actor.head.flatten_action(action)
