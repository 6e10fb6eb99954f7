"""Actors that read Q(s, ·) of discrete actions: greedy, ε-greedy, Boltzmann; and Ornstein–Uhlenbeck noise.

Action values are `[*B, A]` with any leading axes. In all functions

- `mask` `[*B, A]` is true where an action is legal; None = everywhere. What `q` holds at illegal actions (NaN
  included) influences nothing, nor do its gradients. A row that allows nothing counts as one that allows
  everything, as in `actrix.core.distributions`: what comes out is meaningless, but finite;
- `epsilon` and `temperature` are numbers or arrays that broadcast to `[*B]`;
- randomness is drawn beforehand: `uniform` in [0, 1), `gumbel` from the standard Gumbel distribution;
- actions are int32, everything else has the dtype of `q`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

from actrix.core.answers import Actor, ActorFacts
from actrix.core.distributions import ILLEGAL, greedy_action, legal_actions, positive
from actrix.core.fields import rate, share
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key, record
from actrix.nets.torso import noise_size, perturb

Number = float | Float[Array, "..."]
Mask = Bool[Array, "*B A"]


def epsilon_greedy_probs(
    q: Float[Array, "*B A"], epsilon: Number, mask: Mask | None = None
) -> Float[Array, "*B A"]:
    """1 − ε + ε/|legal| for the greedy action, ε/|legal| for other legal actions, 0 for illegal ones.

    Sutton & Barto, Reinforcement Learning (2018), §5.4.
    """
    q = jnp.asarray(q)
    legal, epsilon = legal_actions(q, mask), _column(epsilon, q)
    greedy = jax.nn.one_hot(greedy_action(q, mask), q.shape[-1], dtype=q.dtype)
    number = jnp.sum(legal, axis=-1, keepdims=True).astype(q.dtype)
    return (1 - epsilon) * greedy + jnp.where(legal, epsilon / number, 0)


def greedy_probs(q: Float[Array, "*B A"], mask: Mask | None = None) -> Float[Array, "*B A"]:
    """Uniform over the legal actions of the largest Q: the greedy policy with its ties broken at random."""
    best = _ties(jnp.asarray(q), mask)
    return best / jnp.sum(best, axis=-1, keepdims=True).astype(jnp.asarray(q).dtype)


def sample_greedy(
    q: Float[Array, "*B A"], gumbel: Float[Array, "*B A"], mask: Mask | None = None
) -> Int[Array, "*B"]:
    """a ~ `greedy_probs`: in a table of equal values the first action is no better than the others.

    Sutton & Barto, Reinforcement Learning (2018), §2.2.
    """
    return jnp.argmax(jnp.where(_ties(jnp.asarray(q), mask), gumbel, -jnp.inf), axis=-1).astype(jnp.int32)


def _ties(q: Array, mask: Array | None) -> Array:
    bounded = jnp.where(legal_actions(q, mask), jnp.maximum(q, jnp.finfo(q.dtype).min), -jnp.inf)
    return bounded == jnp.max(bounded, axis=-1, keepdims=True)


def boltzmann_log_probs(
    q: Float[Array, "*B A"], temperature: Number, mask: Mask | None = None
) -> Float[Array, "*B A"]:
    """log π(a|s) = Q(s, a)/τ − log Σ_b exp(Q(s, b)/τ) over the legal actions b.

    The differences to the largest Q are taken before the division, so that they lose nothing for small τ. τ =
    0 is the limit: uniform over the greedy actions. Illegal actions get ILLEGAL as in
    `actrix.core.distributions`, which also bounds the rest: exp gives exactly 0, and p log p and its
    gradients stay finite, as with −∞ they would not. Sutton & Barto, Reinforcement Learning (2018), §2.8.
    """
    q = jnp.asarray(q)
    legal = legal_actions(q, mask)
    best = jnp.max(jnp.where(legal, q, -jnp.inf), axis=-1, keepdims=True)
    below = jnp.where(legal, q, 0) - stop_gradient(best)
    logits = jnp.maximum(below / positive(_column(temperature, q)), ILLEGAL)
    return jnp.where(legal, jax.nn.log_softmax(jnp.where(legal, logits, ILLEGAL), axis=-1), ILLEGAL)


def sample_boltzmann(
    q: Float[Array, "*B A"],
    temperature: Number,
    gumbel: Float[Array, "*B A"],
    mask: Mask | None = None,
) -> Int[Array, "*B"]:
    """a ~ π of `boltzmann_log_probs`: argmax_a log π(a|s) + Gumbel noise, an exact draw."""
    noisy = boltzmann_log_probs(q, temperature, mask) + gumbel
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)


def explore(
    chosen: Int[Array, "*B"],
    epsilon: Number,
    uniform: Float[Array, "*B"],
    gumbel: Float[Array, "*B A"],
    mask: Mask | None = None,
) -> Int[Array, "*B"]:
    """A uniformly random legal action where uniform < ε, else the chosen one.

    Around `greedy_action` it draws from `epsilon_greedy_probs`. The random action is argmax_a of the Gumbel
    noise; the same noise may have drawn `chosen`, because only one of the two is used.
    """
    random = greedy_action(gumbel, mask)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, uniform.dtype), uniform.shape)
    return jnp.where(uniform < epsilon, random, chosen).astype(jnp.int32)


def ou_step(
    state: Float[Array, "*B"], noise: Float[Array, "*B"], *, theta: Number, sigma: Number, dt: Number
) -> Float[Array, "*B"]:
    """x + θ(0 − x)dt + σ√dt ξ: one Euler step of an Ornstein–Uhlenbeck process with mean 0, ξ ~ N(0, 1).

    Its stationary standard deviation is σ/√(2θ − θ²dt) ≈ σ/√(2θ), not σ, and it forgets in about 1/(θ dt)
    steps. As `OrnsteinUhlenbeckActionNoise` of Stable-Baselines3. Uhlenbeck & Ornstein, "On the Theory of the
    Brownian Motion" (1930); exploration by it is Lillicrap et al., "Continuous Control with Deep
    Reinforcement Learning" (2016).
    """
    return state + theta * (0 - state) * dt + sigma * dt**0.5 * noise


def _column(x: Number, q: Array) -> Array:
    """A number per row of q as `[*B, 1]`, in q's dtype."""
    return jnp.broadcast_to(jnp.asarray(x, q.dtype), q.shape[:-1])[..., None]


# ---------------------------------------------------------------------------- question 2: greedy in Q(s, ·)


@record
class Explore:
    """The behaviour policy's numbers at one time of training."""

    epsilon: Array
    """Probability of a uniformly random legal action."""
    temperature: Array
    """Of Boltzmann exploration, in units of return."""


@record
class Draws:
    """One chunk's randomness `[T, N, ...]`."""

    uniform: Array
    gumbel: Array


@record
class Noise:
    """One chunk's randomness of an actor that reads a network."""

    choice: Draws
    net: Array | None = None
    """`[T, M]` standard normals of the noisy layers, alike in all environments; None = no such layers."""


@dataclasses.dataclass(frozen=True)
class Greedy(Actor):
    """The target policy is argmax_a Q(s, a), and so is the behaviour: noisy layers explore, or nothing does."""

    name: ClassVar[str] = "greedy"
    exploration: ClassVar[str] = "none"
    beside_noise: ClassVar[dict[bool, str]] = {False: "epsilon-greedy"}
    positional: ClassVar[tuple[str, ...]] = ()

    @property
    def facts(self):
        return ActorFacts(takes=("Q(s, ·)",), singly=True)

    # What explores, which tables share with networks.

    def numbers(self, progress):
        zero = jnp.zeros((), jnp.float32)
        return Explore(zero, zero + 1)

    def at_random(self, numbers):
        return dataclasses.replace(numbers, epsilon=jnp.ones(()))

    def draws(self, key: Key, shape: tuple[int, ...], actions: int) -> Draws:
        """The randomness of `prod(shape)` choices."""
        k1, k2 = jax.random.split(key)
        return Draws(jax.random.uniform(k1, shape), jax.random.gumbel(k2, (*shape, actions)))

    def preferred(
        self, q: Array, numbers: Explore, draws: Draws, mask: Array | None, ties: bool = False
    ) -> Array:
        """The action before any ε: greedy; `ties` breaks ties at random."""
        return sample_greedy(q, draws.gumbel, mask) if ties else greedy_action(q, mask)

    def choose(
        self, q: Array, numbers: Explore, draws: Draws, mask: Array | None, ties: bool = False
    ) -> Array:
        """The behaviour policy's action for `q` `[N, A]`."""
        chosen = self.preferred(q, numbers, draws, mask, ties)
        return explore(chosen, numbers.epsilon, draws.uniform, draws.gumbel, mask)

    def probabilities(self, q: Array, numbers: Explore, mask: Array | None, ties: bool = False) -> Array:
        """μ(·|s) of that choice, `[N, A]`."""
        if not ties:
            return epsilon_greedy_probs(q, numbers.epsilon, mask)
        chosen = greedy_probs(q, mask)
        legal = legal_actions(chosen, mask)
        return (1 - numbers.epsilon) * chosen + numbers.epsilon * legal / jnp.sum(
            legal, axis=-1, keepdims=True
        )

    # ------------------------------------------------------------------ the contract

    def noise(self, net, key, shape):
        choice, noise_key = jax.random.split(key)
        size = noise_size(net)
        normals = jax.random.normal(noise_key, (shape[0], size)) if size else None
        return Noise(self.draws(choice, shape, net.head.size), normals)

    def act(self, critic, net, numbers, carry, obs, mask, noise):
        q = critic.q_values(net if noise.net is None else perturb(net, noise.net), obs)
        return self.choose(q, numbers, noise.choice, mask), None, None, carry

    def policy(self, critic, net, numbers, carry, obs, mask, noise):
        if noise is not None:
            action, _, _, carry = self.act(critic, net, numbers, carry, obs, mask, noise)
            return action, carry
        return greedy_action(critic.q_values(net, obs), mask), carry

    def loss(self, critic, view, kept, rows, memo, progress, key):
        return jnp.zeros_like(rows.reward), {}


@dataclasses.dataclass(frozen=True)
class EpsilonGreedy(Greedy):
    """argmax_a Q(s, a); with probability ε behaviour takes a uniformly random legal action instead."""

    exploration_final_eps: float = 0.05
    exploration_fraction: float = 0.1
    """Share of training over which ε falls from its initial to its final value."""
    exploration_initial_eps: float = 1.0

    name: ClassVar[str] = "epsilon-greedy"
    exploration: ClassVar[str] = "epsilon-greedy"
    beside_noise: ClassVar[dict[bool, str]] = {True: "greedy"}
    positional: ClassVar[tuple[str, ...]] = (
        "exploration_final_eps", "exploration_fraction", "exploration_initial_eps",
    )  # fmt: skip
    behaves_by: ClassVar[tuple[str, ...]] = positional

    def __post_init__(self) -> None:
        share(self, "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")

    def numbers(self, progress):
        fraction = jnp.minimum(progress / jnp.maximum(self.exploration_fraction, 1e-9), 1.0)
        start, end = self.exploration_initial_eps, self.exploration_final_eps
        epsilon = jnp.asarray(start + (end - start) * fraction, jnp.float32)
        return Explore(epsilon, jnp.ones((), jnp.float32))

    def number_metrics(self, numbers):
        return {"rollout/exploration_rate": numbers.epsilon}


@dataclasses.dataclass(frozen=True)
class Boltzmann(Greedy):
    """argmax_a Q(s, a); behaviour draws an action with probability ∝ exp(Q(s, a)/τ). What Q is backed up to is the
    critic's: `q:soft` for the same τ."""

    temperature: Schedule = 1.0
    """τ, in units of return."""

    name: ClassVar[str] = "boltzmann"
    exploration: ClassVar[str] = "boltzmann"
    beside_noise: ClassVar[dict[bool, str]] = {}
    positional: ClassVar[tuple[str, ...]] = ("temperature",)
    behaves_by: ClassVar[tuple[str, ...]] = positional

    def __post_init__(self) -> None:
        rate(self, "temperature")

    @property
    def facts(self):
        return ActorFacts(takes=("Q(s, ·)",), singly=True, explores_by_value=True)

    def numbers(self, progress):
        temperature = jnp.asarray(evaluate(self.temperature, progress), jnp.float32)
        return Explore(jnp.zeros((), jnp.float32), temperature)

    def number_metrics(self, numbers):
        return {"rollout/temperature": numbers.temperature}

    def preferred(self, q, numbers, draws, mask, ties=False):
        return sample_boltzmann(q, numbers.temperature, draws.gumbel, mask)

    def probabilities(self, q, numbers, mask, ties=False):
        return jnp.exp(boltzmann_log_probs(q, numbers.temperature, mask))
