"""Q-learning with a network: DQN and everything that makes it Rainbow, expected SARSA, SARSA, soft Q-learning.

One frozen dataclass; every part (double, dueling, prioritised, n-step, distributional, noisy) is a field.
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
from actrix.algorithms.learner import Acting
from actrix.algorithms.off_policy import Batch, Replayed, State
from actrix.core import normalize
from actrix.core.fields import choose, finite, switch, whole
from actrix.core.optim import descend_if_finite, polyak
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key, PyTree, Spec, record
from actrix.critics import distributional as dist
from actrix.critics import q_targets
from actrix.data.answers import ReplayBuffer
from actrix.nets.networks import NetworkConfig, noise_size, perturb
from actrix.nets.q_networks import QNet, apply, build_q_net

DISTRIBUTIONAL = (None, "c51", "qr", "iqn")


@record
class Noise:
    """One chunk's randomness."""

    choice: Draws
    net: jax.Array | None = None
    """`[T, M]` standard normals of the noisy layers, alike in all environments; None = no such layers."""


@dataclasses.dataclass(frozen=True)
class QLearning(Replayed):
    """A critic Q(s, ·) fitted to a one- or n-step target, an actor that is greedy in it, replayed data."""

    target: str = "q-learning"
    """'q-learning': max_a Q⁻(s′,a). 'double': Q⁻(s′, argmax_a Q(s′,a)) (van Hasselt et al. 2016).
    'expected-sarsa': Σ_a μ(a|s′) Q⁻(s′,a) with the current behaviour μ. 'sarsa': Q⁻(s′,a′) with the action that
    was taken. 'soft': τ log Σ_a exp(Q⁻(s′,a)/τ)/n over the n legal actions (Haarnoja et al.
    2017; Schulman et al. 2017a)."""
    actor: Greedy = Greedy()
    data: ReplayBuffer = ReplayBuffer(batch_size=32, train_freq=4)
    dueling: bool = False
    noisy: bool = False
    """Noisy layers explore instead of ε (Fortunato et al. 2018)."""
    distributional: str | None = None
    """None, 'c51' (Bellemare et al. 2017), 'qr' (Dabney et al. 2018a) or 'iqn' (Dabney et al. 2018b)."""
    n_atoms: int = 51
    v_min: float = -100.0
    v_max: float = 100.0
    """The support of C51: must hold every return that the discount allows."""
    n_quantiles: int = 50
    """QR: quantiles; IQN: samples of τ and τ′ in the loss."""
    n_policy_quantiles: int = 32
    """IQN: midpoints that acting averages over (sampled in the paper)."""
    quantile_dim: int = 64
    gamma: float = 0.99
    learning_rate: Schedule = 1e-4
    tau: float = 1.0
    """Polyak coefficient of the target network; 1 copies."""
    target_update_interval: int = 10_000
    """Environment steps between target updates."""
    max_grad_norm: float | None = 10.0
    optimizer: str = "adam"
    optimizer_eps: float = 1e-8
    normalize_obs: bool = False
    clip_obs: float = 10.0
    network: NetworkConfig = NetworkConfig(activation_fn="relu", ortho_init=False)

    # What the loops ask of every algorithm.
    whole_episodes = False
    normalize_reward = False
    target_names = ("q",)

    def __post_init__(self) -> None:
        checks.settle_off_policy(self)
        choose(self, target=tuple(q_targets.Q_TARGETS), distributional=DISTRIBUTIONAL)
        whole(self, "target_update_interval", "n_policy_quantiles", "quantile_dim")
        whole(self, "n_atoms", "n_quantiles", least=2)
        switch(self, "dueling", "noisy")
        finite(self, "v_min", "v_max")
        if not self.v_min < self.v_max:
            raise ValueError(f"v_min={self.v_min} must be below v_max={self.v_max}.")
        if self.distributional and self.target not in ("q-learning", "double"):
            raise ValueError(
                f"distributional={self.distributional!r} needs target 'q-learning' or 'double', not {self.target!r}."
            )
        if self.noisy and self.actor.exploration == "boltzmann":
            raise ValueError(
                "noisy layers explore by themselves: take exploration 'none' or 'epsilon-greedy'."
            )

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(
                f"Q-learning needs a Discrete action space, not {spec.action_space}: "
                "take sac, td3 or ddpg for continuous actions."
            )
        checks.fits_off_policy(self, spec, num_envs)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        words = [self.target] + [w for w, on in (("dueling", self.dueling), ("noisy", self.noisy)) if on]
        words += [self.distributional] if self.distributional else []
        words += [f"{self.data.n_steps}-step"] if self.data.n_steps > 1 else []
        return " ".join(words), str(self.actor), "prioritised replay" if self.data.prioritized else "replay"

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """A fresh Q network: what a model file holds."""
        atoms = {"c51": self.n_atoms, "qr": self.n_quantiles}.get(self.distributional or "", 1)
        net = build_q_net(
            self.network, spec, key, atoms=atoms, dueling=self.dueling, noisy=self.noisy,
            quantile_dim=self.quantile_dim if self.distributional == "iqn" else 0,
        )  # fmt: skip
        return off_policy.initial_acting(self, net, spec)

    # ------------------------------------------------------------------ acting

    def initial_carry(self, acting: Acting, num_envs: int) -> None:
        """The behaviour policy remembers nothing."""

    def explore(self, progress: jax.Array) -> Explore:
        """ε and the temperature at this share of training."""
        return self.actor.numbers(progress)

    def explore_metrics(self, explore: Explore) -> dict[str, jax.Array]:
        """What is logged of them."""
        return self.actor.metrics(explore)

    def warm_acting(self, acting: Acting) -> Acting:
        """Uniformly random actions."""
        return dataclasses.replace(acting, explore=dataclasses.replace(acting.explore, epsilon=jnp.ones(())))

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> Noise:
        """All the randomness of a chunk's actions, drawn at once."""
        choice, net = jax.random.split(key)
        draws = self.actor.draws(choice, (rows, num_envs), acting.net.head.size)
        return Noise(draws, jax.random.normal(net, (rows, noise_size(acting.net))) if self.noisy else None)

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise):
        """The behaviour policy for N observations: (action, None, None, carry)."""
        net = acting.net if noise.net is None else perturb(acting.net, noise.net)
        q = self._q(net, normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs))
        return self.actor.choose(q, acting.explore, noise.choice, mask), None, None, carry

    def policy(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Noise | None):
        """The target policy (action, carry): greedy in Q; with noise the behaviour policy."""
        if noise is not None:
            action, _, _, carry = self.act(acting, carry, obs, mask, noise)
            return action, carry
        q = self._q(acting.net, normalize.normalize_observation(acting.obs_moments, obs, self.clip_obs))
        return greedy.greedy_action(q, mask), carry

    # ------------------------------------------------------------------ learning

    def split(self, net: QNet):
        """The network as parameter vectors, and the way back."""
        return off_policy.split_one(net, "q")

    def synchronize(self, state: State, before: jax.Array, after: jax.Array) -> State:
        """Move the target network whenever a multiple of `target_update_interval` steps was passed."""
        passed = jnp.floor(after / self.target_update_interval) > jnp.floor(
            before / self.target_update_interval
        )
        target = polyak(state.targets["q"], state.weights["q"], jnp.where(passed, self.tau, 0.0))
        return dataclasses.replace(state, targets={"q": target})

    def update(
        self, state: State, build: Any, batch: Batch, number: jax.Array, key: Key, progress: jax.Array
    ):
        """One step of descent on the weighted loss; (state, priorities [B], metrics)."""
        keys = jax.random.split(key, 5)
        theta = state.weights["q"]
        net_of = lambda vector, k: self._perturbed(build({"q": vector}), k)
        target_of = self._target(
            net_of(theta, keys[0]), net_of(state.targets["q"], keys[1]), batch, keys[2], progress
        )
        target_of = jax.lax.stop_gradient(target_of)

        def loss(theta: jax.Array) -> tuple[jax.Array, tuple]:
            rows, priority, q = self._loss(net_of(theta, keys[3]), batch, target_of, keys[4])
            return off_policy.weighted_mean(rows, batch.weight), (priority, q)

        (value, (priority, q)), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
        rate = evaluate(self.learning_rate, progress)
        theta, opt_state, finite = descend_if_finite(
            self.optimizer_of("q"), gradient, state.opt_state["q"], theta, rate
        )
        state = State({"q": theta}, state.targets, {"q": opt_state})
        metrics = {"train/loss": value, "train/q_mean": jnp.mean(q), "nonfinite": 1.0 - finite}
        return state, priority, metrics

    def _target(self, online: QNet, target: QNet, batch: Batch, key: Key, progress: jax.Array) -> jax.Array:
        """The fitted target of each transition: a number, C51's probabilities, or quantiles [B, M]."""
        mask = batch.next_mask
        if self.distributional is None:
            q = apply(target, batch.next_obs)
            value = self._next_value(online, q, batch, key, progress)
            return batch.reward + batch.discount * value
        taus = (
            jax.random.uniform(key, (len(batch.reward), self.n_quantiles))
            if self.distributional == "iqn"
            else None
        )
        atoms = apply(target, batch.next_obs, taus)  # [B, A, atoms]
        chooser = online if self.target == "double" else target
        best = greedy.greedy_action(self._q(chooser, batch.next_obs), mask)
        chosen = jnp.take_along_axis(atoms, best[:, None, None], axis=1)[:, 0]
        if self.distributional == "c51":
            return dist.categorical_projection(
                self._support, jax.nn.softmax(chosen, axis=-1), batch.reward, batch.discount
            )
        return batch.reward[:, None] + batch.discount[:, None] * chosen

    def _next_value(
        self, online: QNet, q: jax.Array, batch: Batch, key: Key, progress: jax.Array
    ) -> jax.Array:
        """V(s′) `[B]` from the target network's Q(s′, ·)."""
        mask = batch.next_mask
        if self.target == "q-learning":
            return q_targets.greedy_value(q, mask)
        if self.target == "double":
            return q_targets.double_value(self._q(online, batch.next_obs), q, mask)
        if self.target == "soft":
            return q_targets.soft_value(q, self.explore(progress).temperature, mask=mask)
        online_q = self._q(online, batch.next_obs)
        behaviour = self.actor.probabilities(online_q, self.explore(progress), mask)
        if self.target == "expected-sarsa":
            return q_targets.expected_value(q, behaviour)
        # An action that was never taken (a truncated end, the newest row) is drawn from the behaviour policy.
        drawn = jnp.argmax(jnp.log(behaviour) + jax.random.gumbel(key, q.shape), axis=-1)
        known: Any = batch.next_action_known
        return q_targets.sarsa_value(q, jnp.where(known, batch.next_action, drawn))  # type: ignore[arg-type]

    def _loss(self, net: QNet, batch: Batch, target: jax.Array, key: Key) -> tuple[jax.Array, ...]:
        """(loss `[B]`, priority `[B]`, Q of the taken action). The priority is |δ|, or of a
        distribution the KL (C51) or the quantile loss."""
        if self.distributional is None:
            q = _taken(apply(net, batch.obs)[..., None], batch.action)[:, 0]
            return huber(q - target), jnp.abs(q - target), q
        if self.distributional == "c51":
            logits = _taken(apply(net, batch.obs), batch.action)
            rows = dist.categorical_loss(logits, target)
            entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
            return rows, rows - entropy, jax.nn.softmax(logits) @ self._support
        if self.distributional == "qr":
            taus = jnp.broadcast_to(dist.midpoints(self.n_quantiles), (len(target), self.n_quantiles))
            quantiles = _taken(apply(net, batch.obs), batch.action)
        else:
            taus = jax.random.uniform(key, (len(target), self.n_quantiles))
            quantiles = _taken(apply(net, batch.obs, taus), batch.action)
        rows = dist.quantile_huber_loss(quantiles, taus, target)
        return rows, rows, quantiles

    def _q(self, net: QNet, obs: PyTree) -> jax.Array:
        """Q(s, ·) `[B, A]` whatever the network represents."""
        if self.distributional == "iqn":
            rows = jax.tree.leaves(obs)[0].shape[0]
            taus = jnp.broadcast_to(dist.midpoints(self.n_policy_quantiles), (rows, self.n_policy_quantiles))
            return jnp.mean(apply(net, obs, taus), axis=-1)
        out = apply(net, obs)
        if self.distributional == "c51":
            return jax.nn.softmax(out, axis=-1) @ self._support
        return jnp.mean(out, axis=-1) if self.distributional == "qr" else out

    def _perturbed(self, net: QNet, key: Key) -> QNet:
        return perturb(net, jax.random.normal(key, (noise_size(net),))) if self.noisy else net

    @property
    def _support(self) -> jax.Array:
        return jnp.linspace(self.v_min, self.v_max, self.n_atoms)


def _taken(out: jax.Array, action: jax.Array) -> jax.Array:
    """`[B, A, K]` at the taken actions: `[B, K]`."""
    return jnp.take_along_axis(out, action[:, None, None].astype(jnp.int32), axis=1)[:, 0]


def huber(error: jax.Array, delta: float = 1.0) -> jax.Array:
    """½e² within ±δ, δ(|e| − ½δ) outside."""
    size = jnp.abs(error)
    return jnp.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))
