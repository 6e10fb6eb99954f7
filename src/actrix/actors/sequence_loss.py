"""Objectives of answers made of tokens: the ratio of a token or of an answer, its clipping, and three averages.

Arrays are time-major, `[T, *B]`: column i holds the tokens of answer y_i, of which those that count are `valid`; rows
that are not influence nothing, whatever they hold, and have no gradient. With l_t = log π(y_t|x, y_<t) −
log π_old(y_t|x, y_<t) and the advantage Â_i of the answer at each of its tokens, what is maximised is an average over
tokens of `clipped(log_ratio, Â, …)`. GRPO and PPO: l, `per_sequence` or `per_token`; Dr.GRPO: l, `constant`; GSPO:
`sequence_log_ratio`, `per_sequence`; DAPO: l with high > low, `per_token`. The advantages are those of
`critics.groups`.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float

Tokens = Float[Array, "T *B"]
Flags = Bool[Array, "T *B"]
Number = float | Float[Array, "..."]
Scalar = Float[Array, ""]


def clipped(
    *, log_ratio: Tokens, advantage: Tokens, low: Number, high: Number, valid: Flags | None = None
) -> Tokens:
    """min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â), ρ = e^{log_ratio}, 0 where not valid; ε_low = ε_high is PPO's.

    ε_high = ∞ and ε_low = 1 clip nothing. A larger ε_high lets unlikely tokens grow further: DAPO's clip-higher, Yu et
    al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (2025), §3.1.
    """
    if valid is not None:
        log_ratio, advantage = jnp.where(valid, log_ratio, 0), jnp.where(valid, advantage, 0)
    rho, advantage = jnp.exp(log_ratio), stop_gradient(advantage)
    return jnp.minimum(rho * advantage, jnp.clip(rho, 1 - low, 1 + high) * advantage)


def sequence_log_ratio(*, log_prob: Tokens, old_log_prob: Tokens, valid: Flags) -> Tokens:
    """(1/|y_i|) Σ_t l_t at each token of y_i, 0 at rows that are not valid: the ratio is (π(y_i)/π_old(y_i))^{1/|y_i|}.

    It is the geometric mean of the tokens' ratios, and no importance weight: that of the answer is its power |y_i|.
    Zheng et al., "Group Sequence Policy Optimization" (2025), eq. 7.
    """
    total = jnp.sum(jnp.where(valid, log_prob - stop_gradient(old_log_prob), 0), axis=0)
    return jnp.where(valid, total / _lengths(valid, total), 0)


def per_token(x: Tokens, valid: Flags) -> Scalar:
    """Σ_i Σ_t x_it / Σ_i |y_i|: every token counts alike, long answers more. DAPO (§3.3), GPG; TRL's `bnpo`."""
    total = jnp.sum(jnp.where(valid, x, 0))
    return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)


def per_sequence(x: Tokens, valid: Flags) -> Scalar:
    """(1/n) Σ_i (1/|y_i|) Σ_t x_it: every answer counts alike, tokens of long ones less. GRPO as published, GSPO.

    A wrong answer then costs less per token the longer it is. n counts the columns, those without tokens among them.
    """
    total = jnp.sum(jnp.where(valid, x, 0), axis=0)
    return jnp.mean(total / _lengths(valid, total))


def constant(x: Tokens, valid: Flags, length: Number) -> Scalar:
    """(1/n) Σ_i (1/L) Σ_t x_it with one L for all, say the longest allowed: sums over tokens, as the gradient has them.

    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective" (2025), Dr.GRPO.
    """
    return jnp.mean(jnp.sum(jnp.where(valid, x, 0), axis=0)) / length


def _lengths(valid: Flags, like: Array) -> Array:
    """|y_i| of each column, at least 1."""
    return jnp.maximum(jnp.sum(valid, axis=0), 1).astype(like.dtype)
