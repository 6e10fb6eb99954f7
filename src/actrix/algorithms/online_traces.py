"""Online actor-critic with eligibility traces: δ_t e_t for actor and critic, one step at a time, no batch.

One frozen dataclass: plain semi-gradient TD(λ) steps (`td-lambda-ac`), or the bounded steps, sparse initialisation and
normalisation of stream AC (`stream-ac`), each by a field of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.algorithms.reference import refuse
from actrix.algorithms.sound import plain_network
from actrix.core import normalize
from actrix.core.contract import Acting, Algorithm, Learner, count, first_bad_row, scrub
from actrix.core.fields import choose, finite, names, share, switch
from actrix.core.optim import flatten
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.types import Chunk, Key, PyTree, Spec, record
from actrix.critics import traces
from actrix.data.online import Online
from actrix.nets.networks import NetworkConfig
from actrix.nets.obeyed import ENCODING, HIDDEN
from actrix.nets.online_networks import ActorAndCritic, build_actor_and_critic
from actrix.nets.view import apply

STEPS = ("plain", "bounded")


@record
class Training:
    """Reward statistics and counters."""

    reward_scale: normalize.RewardScale | None
    update: jax.Array
    steps: jax.Array
    """Environment steps learned from, float32; `steps_rest` is what rounding left out of it (Kahan)."""
    steps_rest: jax.Array
    total_steps: jax.Array


@record
class Traces:
    """Each environment's traces, and γ^t of its open episode."""

    actor: jax.Array
    """`[N, P]`."""
    critic: jax.Array
    weight: jax.Array
    """`[N]`: γ^t, multiplied into the actor's trace with `gamma_weight`."""


@dataclasses.dataclass(frozen=True)
class OnlineTraces(Algorithm):
    """A critic V_w by TD(λ), an actor π_θ by the score function, both along eligibility traces, on fresh data.

    δ_t = r_t + γ_t V(s_{t+1}) − V(s_t); z_w ← γλ z_w + ∇V(s_t); w ← w + α_w δ_t z_w;
    z_θ ← γλ z_θ + ∇[log π(a_t|s_t) + c sign(δ_t) H(π(·|s_t))]; θ ← θ + α_θ δ_t z_θ.
    Traces are 0 at an episode's start. Several environments have traces of their own and make one step together, the
    mean of theirs. Sutton & Barto, Reinforcement Learning (2018), §13.6; the entropy term is that of Elsayed, Vasan &
    Mahmood, "Streaming Deep Reinforcement Learning Finally Works" (2024).
    """

    data: Online = Online()
    gamma: float = 0.99
    lam: float = 0.8
    """λ of the critic's traces."""
    actor_lam: float | None = None
    """λ of the actor's; None = `lam`."""
    learning_rate: Schedule = 1e-3
    """α_w."""
    actor_learning_rate: Schedule | None = None
    """α_θ; None = α_w. 0 keeps the initial policy: semi-gradient TD(λ) evaluates it."""
    step: str = "plain"
    """'plain', or 'bounded': α/max(1, α κ max(|δ|, 1) ‖z‖₁), so that no step overshoots its own target (ObGD)."""
    kappa: float = 2.0
    """κ of the critic's bounded step."""
    actor_kappa: float = 3.0
    """κ of the actor's."""
    ent_coef: float = 0.0
    """c, weight of the entropy in the actor's trace."""
    gamma_weight: bool = False
    """Multiply the score by γ^t, as the policy gradient theorem has it."""
    sparsity: float = 0.0
    """Share of every unit's incoming weights that start at 0; 0 = orthogonal initialisation."""
    normalize_obs: bool = False
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    norm_obs_keys: tuple[str, ...] | None = None
    """Of a Dict observation the keys that `normalize_obs` is of; None = all."""
    network: NetworkConfig = NetworkConfig()

    @property
    def steps_singly(self) -> bool:
        """It learns from every row."""
        return True

    @property
    def cuts_at_stop(self) -> bool:
        """What a stop cut off is lost."""
        return True

    def __post_init__(self) -> None:
        for name in ("learning_rate", "actor_learning_rate"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_schedule(value, name))
                low, high = bounds(getattr(self, name))
                if not (low >= 0 and (high > 0 or name != "learning_rate")):
                    raise ValueError(f"{name}={value} must be positive.")
        share(self, "gamma", "lam", *(["actor_lam"] if self.actor_lam is not None else []))
        share(self, "sparsity")
        choose(self, step=STEPS)
        finite(self, "kappa", "actor_kappa", "ent_coef", "clip_obs", "clip_reward", least=0)
        switch(self, "gamma_weight", "normalize_obs", "normalize_reward")
        names(self, "norm_obs_keys", only_with="normalize_obs")

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment; raises ValueError."""
        plain_network(self.network)
        self.normalized(spec)
        gaussian = ("log_std_init",) if isinstance(spec.action_space, spaces.Box) else ()
        hidden = [
            name for name in HIDDEN if not (self.sparsity and name == "ortho_init")
        ]  # it draws all anew
        self.network.refuse_unused(*ENCODING, *hidden, *gaussian)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        bound = ", bounded step" if self.step == "bounded" else ""
        return f"td(λ):{self.lam}{bound}", "score × δ·trace", "on-policy, online"

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        return self.data.train_freq

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) that only fill the running statistics."""
        return (1, max(32, 1024 // num_envs)) if self.normalize_obs or self.normalize_reward else (0, 0)

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Any = None) -> Learner:
        """A fresh learner."""
        refuse(reference)
        acting = self.initial_acting(key, spec)
        zero = jnp.zeros(())
        training = Training(
            normalize.init_reward_scale(num_envs) if self.normalize_reward else None,
            update=jnp.zeros((), jnp.int32), steps=zero, steps_rest=zero, total_steps=jnp.ones(()),
        )  # fmt: skip
        size = lambda net: flatten(net)[0].size
        empty = lambda net: jnp.zeros((num_envs, size(net)))
        memory = Traces(empty(acting.net.actor), empty(acting.net.critic), jnp.ones(num_envs))
        return Learner(acting, training, memory)

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """Fresh networks and observation statistics: what a model file holds."""
        net = build_actor_and_critic(self.network, spec, key, self.sparsity)
        shapes = self.normalized(spec)
        return Acting(net, normalize.init_observation_moments(shapes) if self.normalize_obs else None)

    # ------------------------------------------------------------------ acting

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> jax.Array:
        """All the randomness of a chunk's actions, drawn at once."""
        return acting.net.head.draw(key, (rows, num_envs))

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array):
        """a ~ π(·|s) for N observations: (action, None, None, carry)."""
        action, carry = self.policy(acting, carry, obs, mask, noise)
        return action, None, None, carry

    def policy(
        self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array | None
    ):
        """The policy (action, carry); noise None = its mode."""
        obs = normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        dist = apply(acting.net.actor, obs, mask)
        action = dist.mode() if noise is None else dist.sample(noise)
        return acting.net.head.unflatten_action(action), carry

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with other networks (a warm start); traces of the old ones are dropped."""
        memory = jax.tree.map(jnp.zeros_like, learner.memory)
        memory = dataclasses.replace(memory, weight=jnp.ones_like(learner.memory.weight))
        return Learner(acting, learner.training, memory)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments: traces and running returns start anew."""
        scale = learner.training.reward_scale
        if scale is not None:
            scale = dataclasses.replace(scale, running=fresh.training.reward_scale.running)
        return Learner(
            learner.acting, dataclasses.replace(learner.training, reward_scale=scale), fresh.memory
        )

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """Move the running statistics by a chunk without learning from it."""
        before = learner.acting.obs_moments, learner.training.reward_scale
        moments, scale = normalize.updated(*before, chunk, self.gamma)
        training = dataclasses.replace(learner.training, reward_scale=scale)
        return Learner(dataclasses.replace(learner.acting, obs_moments=moments), training, learner.memory)

    # ------------------------------------------------------------------ learning

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """One step of both networks per row, in order of time, then the statistics move; (learner, metrics)."""
        acting, training = learner.acting, learner.training
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        rate = jnp.asarray(evaluate(self.learning_rate, progress))
        own = self.actor_learning_rate
        rates = (rate if own is None else jnp.asarray(evaluate(own, progress)), rate)
        raw, bad_row = chunk, first_bad_row(chunk)
        chunk = scrub(chunk)
        see = lambda obs: normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs)
        reward = chunk.reward
        if training.reward_scale is not None:
            reward = normalize.scale_reward(training.reward_scale, reward, self.clip_reward)
        chunk = dataclasses.replace(chunk, obs=see(chunk.obs), next_obs=see(chunk.next_obs), reward=reward)
        theta, w = flatten(acting.net.actor), flatten(acting.net.critic)

        def step(state: tuple, row: Chunk) -> tuple[tuple, tuple]:
            return self._step(state, row, theta[1], w[1], rates)

        (new_theta, new_w, memory), (delta, entropy) = jax.lax.scan(
            step, (theta[0], w[0], learner.memory), dataclasses.replace(chunk, carry0=None)
        )
        good = (bad_row < 0) & jnp.isfinite(jnp.sum(new_theta) + jnp.sum(new_w))
        keep = lambda new, old: jnp.where(good, new, old)
        net = ActorAndCritic(theta[1](keep(new_theta, theta[0])), w[1](keep(new_w, w[0])))
        seen = self.observe(learner, raw)
        moments = jax.tree.map(keep, seen.acting.obs_moments, acting.obs_moments)
        scale = jax.tree.map(keep, seen.training.reward_scale, training.reward_scale)
        training = dataclasses.replace(count(training, raw), reward_scale=scale)
        memory = jax.tree.map(keep, memory, learner.memory)
        metrics = {
            "train/td_error": jnp.mean(jnp.abs(delta)),
            "train/entropy_loss": -jnp.mean(entropy),
            "train/learning_rate": rate,
            "train/n_updates": training.update,
            "nonfinite": 1.0 - good,
            "bad_row": bad_row,
        }
        return Learner(Acting(net, moments), training, memory), metrics

    def _step(
        self, state: tuple, row: Chunk, actor_of: Any, critic_of: Any, rates: tuple
    ) -> tuple[tuple, tuple]:
        """One row of every environment: ((θ, w, traces), (δ, entropy))."""
        theta, w, memory = state
        valid = jnp.ones(row.reward.shape, bool) if row.valid is None else row.valid
        first = jnp.zeros_like(valid) if row.first is None else row.first
        value, slope = jax.vmap(jax.value_and_grad(lambda w, obs: critic_of(w)(obs)), (None, 0))(w, row.obs)
        following = jnp.where(row.terminated, 0, apply(critic_of(w), row.next_obs))
        delta = row.reward + self.gamma * following - value

        def objective(theta: jax.Array, obs: PyTree, action: Any, mask: Any, sign: jax.Array):
            dist = actor_of(theta)(obs, mask)
            entropy = dist.entropy()
            return dist.log_prob(action) + self.ent_coef * sign * entropy, entropy

        action = actor_of(theta).head.flatten_action(row.action)
        score, entropy = jax.vmap(jax.grad(objective, has_aux=True), (None, 0, 0, 0, 0))(
            theta, row.obs, action, row.mask, jnp.sign(delta)
        )
        weight = jnp.where(first, 1.0, memory.weight)
        if self.gamma_weight:
            score = score * weight[:, None]
        decay = lambda lam: jnp.where(first, 0.0, self.gamma * lam)
        z_actor = traces.accumulating(
            memory.actor, score, decay(self.lam if self.actor_lam is None else self.actor_lam)
        )
        z_critic = traces.accumulating(memory.critic, slope, decay(self.lam))
        theta = theta + self._change(z_actor, delta, valid, rates[0], self.actor_kappa)
        w = w + self._change(z_critic, delta, valid, rates[1], self.kappa)
        goes_on = (valid & ~(row.terminated | row.truncated))[:, None]
        memory = Traces(
            jnp.where(goes_on, z_actor, 0), jnp.where(goes_on, z_critic, 0),
            jnp.where(goes_on[:, 0], weight * self.gamma, 1.0),
        )  # fmt: skip
        return (theta, w, memory), (jnp.where(valid, delta, 0), entropy)

    def _change(
        self, z: jax.Array, delta: jax.Array, valid: jax.Array, rate: jax.Array, kappa: float
    ) -> jax.Array:
        """Mean over the environments of α_n δ_n z_n."""
        if self.step == "bounded":
            rate = traces.bounded_step(z, delta, rate, kappa)
        change = jnp.where(valid[:, None], (rate * delta)[:, None] * z, 0)
        return jnp.sum(change, axis=0) / jnp.maximum(jnp.sum(valid), 1)
