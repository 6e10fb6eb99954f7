"""Actors that read Q(s, ·) of discrete actions: greedy, ε-greedy, Boltzmann; and Ornstein–Uhlenbeck noise.

Action values are `[*B, A]` with any leading axes. In all functions

- `mask` `[*B, A]` is true where an action is legal; None = everywhere. What `q` holds at illegal actions (NaN
  included) influences nothing, nor do its gradients. A row that allows nothing counts as one that allows
  everything, as in `actrix.core.distributions`: what comes out is meaningless, but finite;
- `epsilon` and `temperature` are numbers or arrays that broadcast to `[*B]`;
- randomness is drawn beforehand: `uniform` in [0, 1), `gumbel` from the standard Gumbel distribution;
- actions are int32, everything else has the dtype of `q`.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

from actrix.core.distributions import ILLEGAL, greedy_action, legal_actions, positive

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
