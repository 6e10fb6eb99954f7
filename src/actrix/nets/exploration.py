"""How a network's policy is tried: noise drawn for a whole chunk, and generalised state-dependent exploration (gSDE).

gSDE (Raffin, Kober & Stulp, "Smooth Exploration for Robotic Reinforcement Learning", 2021) adds to the mean a linear
function of the policy's last hidden layer φ(s): a = μ(s) + φ(s)ᵀE, E_ij ~ N(0, σ_ij²); one E stays for many steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from actrix.core.types import Key, PyTree

EPSILON = 1e-6
"""Added to the variance, as in Stable-Baselines3: a state whose features are all 0 has a density, too."""


class Explores:
    """A network with `head` and `policy`; the noise of its actions is independent from step to step."""

    def draw(self: Any, key: Key, shape: tuple[int, int]) -> PyTree:
        """The noise of a chunk's actions, `[T, N, ...]`."""
        return self.head.draw(key, shape)

    def explore(self: Any, obs: PyTree, carry: PyTree, mask: Array | None, noise: PyTree) -> tuple:
        """(π(·|s), what `sample` takes to draw from it, memory) for a batch and one step of the noise."""
        out, carry = self.policy(obs, carry, mask)
        return out, noise, carry


@dataclasses.dataclass(frozen=True)
class StateNoise:
    """The noise φ(s)ᵀE, whose σ the network holds as `log_std`, `[L, d]` (or `[L, 1]`).

    Of a state alone a ~ N(μ, diag v), v_j = Σ_i φ_i² σ_ij² + ε: that is what every loss sees. Acting draws the same
    actions, dependent on each other through E.
    """

    sample_freq: int = -1
    """E is drawn anew at the start of each chunk and every so many steps of it; −1 = at its start only."""
    full_std: bool = True
    """σ for each feature and action; else one for each feature."""
    use_expln: bool = False
    """σ = exp(x) for x ≤ 0 and 1 + log(1 + x) above, which grows slowly, in place of exp(x)."""
    learn_features: bool = False
    """Gradients of v reach φ."""

    def parameters(self, features: int, size: int, value: float) -> Float[Array, "L d"]:
        """The parameters of σ."""
        return jnp.full((features, size if self.full_std else 1), float(value))

    def std(self, log_std: Float[Array, "L d"]) -> Float[Array, "L d"]:
        """σ."""
        if not self.use_expln:
            return jnp.exp(log_std)
        above = jnp.log1p(jnp.maximum(log_std, 0)) + 1
        return jnp.where(log_std > 0, above, jnp.exp(jnp.minimum(log_std, 0)))

    def log_std(
        self, features: Float[Array, " L"], log_std: Float[Array, "L d"], size: int
    ) -> Float[Array, " d"]:
        """½ log v of one state."""
        features = features if self.learn_features else jax.lax.stop_gradient(features)
        variance = jnp.square(features) @ jnp.square(self.std(log_std))
        return jnp.broadcast_to(0.5 * jnp.log(variance + EPSILON), (size,))

    def draw(self, key: Key, shape: tuple[int, int]) -> UInt32[Array, "T N 2"]:
        """What E follows from at each step: a key per environment, which stays while E does."""
        rows, num_envs = shape
        every = rows if self.sample_freq < 0 else self.sample_freq
        seeds = jax.random.bits(key, (-(-rows // every), num_envs, 2), jnp.uint32)
        return jnp.repeat(seeds, every, axis=0)[:rows]

    def normal(
        self, seeds: UInt32[Array, "N 2"], features: Float[Array, "N L"], log_std: Float[Array, "L d"],
        marginal: Float[Array, "N d"],
    ) -> Float[Array, "N d"]:  # fmt: skip
        """ξ = φᵀE/√v, standard normal of each state alone; `marginal` is ½ log v."""
        shape = (features.shape[-1], marginal.shape[-1])

        def unit(seed: Array) -> Array:
            return jax.random.normal(jax.random.wrap_key_data(seed, impl="threefry2x32"), shape)

        matrices = self.std(log_std) * jax.vmap(unit)(seeds)
        return jnp.einsum("nl,nld->nd", features, matrices) * jnp.exp(-marginal)
