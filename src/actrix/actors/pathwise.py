"""Actors that follow the gradient of a critic through their own action: deterministic and soft.

Question 2 answered by `Deterministic` (DDPG, TD3) or `Soft` (SAC and its relatives), and the losses of both.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from actrix.core.fields import finite

NOISES = ("none", "normal", "ornstein-uhlenbeck")


@dataclasses.dataclass(frozen=True)
class Deterministic:
    """a = f_φ(s), ascending Q(s, f_φ(s)) (Silver et al. 2014); explores by noise added to the action."""

    noise_type: str = "normal"
    """'normal', 'ornstein-uhlenbeck' or 'none'."""
    noise_std: float = 0.1
    """σ in policy coordinates, where [−1, 1] spans the action's bounds. The spread of Ornstein–Uhlenbeck noise is
    1.83σ, and it forgets within about 670 steps (θ = 0.15, dt = 0.01, as in Stable-Baselines3)."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise that smooths the target action (Fujimoto et al. 2018); 0 = none."""
    target_noise_clip: float = 0.5

    name: ClassVar[str] = "deterministic"
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.noise_type not in NOISES:
            raise ValueError(f"noise_type={self.noise_type!r}: choose one of {', '.join(NOISES)}.")
        finite(self, "noise_std", "target_policy_noise", "target_noise_clip", least=0)


@dataclasses.dataclass(frozen=True)
class Soft:
    """π fitted to exp(Q/α): minimises E[α log π − Q] through the reparametrised action (Haarnoja et al. 2018)."""

    ent_coef: float | str = "auto"
    """α; 'auto' (or 'auto_0.1' to start there) is adapted so that the entropy stays at `target_entropy`."""
    target_entropy: float | str = "auto"
    """'auto' = −dim(A) for continuous actions, ½ log |A| for discrete ones (0.98 log |A| in Christodoulou 2019,
    which keeps a two-action policy near uniform)."""

    name: ClassVar[str] = "soft"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        text = self.ent_coef
        try:
            initial = self.initial_coef
        except (TypeError, ValueError):
            initial = -1.0
        if not (0 < initial < math.inf or (text == 0 and not self.adapted)):
            raise ValueError(f"ent_coef={text!r}: write 'auto', 'auto_<number>' or a number of at least 0.")
        if self.target_entropy != "auto":
            try:
                target = float(self.target_entropy)
                if not math.isfinite(target):
                    raise ValueError
                object.__setattr__(self, "target_entropy", target)
            except (TypeError, ValueError):
                raise ValueError(
                    f"target_entropy={self.target_entropy!r}: write 'auto' or a number."
                ) from None

    @property
    def adapted(self) -> bool:
        """Whether α is learned."""
        return isinstance(self.ent_coef, str)

    @property
    def initial_coef(self) -> float:
        """α at the start."""
        if not isinstance(self.ent_coef, str):
            return float(self.ent_coef)
        kind, *number = self.ent_coef.split("_")
        if kind != "auto" or len(number) > 1:
            raise ValueError(self.ent_coef)
        return float(number[0]) if number else 1.0


def soft_policy_loss(
    log_prob: Float[Array, "*B"], q: Float[Array, "*B"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """α log π(a|s) − Q(s, a) at a reparametrised action a = f_φ(s, ξ) (Haarnoja et al. 2018, eq. 7)."""
    return alpha * log_prob - q


def discrete_soft_policy_loss(
    log_probs: Float[Array, "*B A"], q: Float[Array, "*B A"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """Σ_a π(a|s)[α log π(a|s) − Q(s, a)], with gradients through both factors π (Christodoulou 2019)."""
    return jnp.sum(jnp.exp(log_probs) * (alpha * log_probs - q), axis=-1)


def discrete_soft_value(
    log_probs: Float[Array, "*B A"], q: Float[Array, "*B A"], alpha: jax.Array
) -> Float[Array, "*B"]:
    """V(s) = Σ_a π(a|s)[Q(s, a) − α log π(a|s)], the exact expectation over discrete actions."""
    return jnp.sum(jnp.exp(log_probs) * (q - alpha * log_probs), axis=-1)


def temperature_loss(
    log_alpha: jax.Array, entropy: Float[Array, "*B"], target_entropy: float | Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """log α · (H(π(·|s)) − H̄): α falls while the entropy exceeds its target.

    The paper has α in place of log α (Haarnoja et al. 2018b, eq. 18); implementations, and this one, use log α,
    whose gradient does not vanish with α. `entropy` may be a sample −log π(a|s).
    """
    return log_alpha * jax.lax.stop_gradient(entropy - target_entropy)


def behaviour_cloning_weight(q: Float[Array, " B"], alpha: float) -> jax.Array:
    """λ = α / mean|Q|, which balances TD3's −λQ against the cloning term (Fujimoto & Gu 2021, eq. 5)."""
    return alpha / jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-6)
