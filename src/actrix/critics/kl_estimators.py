"""Estimates of KL(π‖π_ref) from log-probabilities of what π drew, and its exact value over a vocabulary.

With the log ratio l = log π(a) − log π_ref(a), a ~ π, of one token or, summed over its tokens, of a whole answer. As a
*value* and as a *loss* (its gradient in π's parameters, the draw held fixed) they are different things:

| | E[value] | E[gradient] |
|---|---|---|
| `k1` = l | KL(π‖π_ref) | 0 |
| `k2` = l²/2 | above or below; equal to second order | ∇KL(π‖π_ref) |
| `k3` = e^{−l} − 1 + l | KL(π‖π_ref) | ∇KL(π_ref‖π) |
| `exact` = Σ_v π log(π/π_ref) | KL(π‖π_ref) | ∇KL(π‖π_ref) |

The gradients are those where l is of everything that was drawn. Token by token along an answer, a loss leaves out that
a token changes which tokens follow: the sum over tokens of k2 or of the exact values is then no estimate of the
gradient of the answers' KL, while k1 as a (negative) *reward* is: E[k1·∇log π] = ∇KL(π‖π_ref).

Schulman, "Approximating KL Divergence" (2020), names them so; its ratio is e^{−l}.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from actrix.core.distributions import Categorical
from actrix.core.rows import masked_mean

LogProbs = Float[Array, "*B"]


def k1(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """k1 = log π(a) − log π_ref(a): unbiased, of either sign; its gradient is 0 on average."""
    return log_prob - reference


def k2(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """k2 = ½(log π(a) − log π_ref(a))²: biased, never negative; its gradient is that of KL(π‖π_ref)."""
    return 0.5 * jnp.square(log_prob - reference)


def k3(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """k3 = π_ref(a)/π(a) − 1 − log(π_ref(a)/π(a)): unbiased, never negative; its gradient is that of KL(π_ref‖π).

    What GRPO adds to its loss. Shao et al., "DeepSeekMath" (2024), eq. 4.
    """
    l = reference - log_prob
    return jnp.expm1(l) - l


def exact(log_probs: Float[Array, "*B V"], reference: Float[Array, "*B V"]) -> LogProbs:
    """Σ_v π(v)(log π(v) − log π_ref(v)) over the vocabulary, from normalised log-probabilities `[*B, V]`."""
    return Categorical(log_probs).kl(Categorical(reference))


def approx_kl(
    log_prob: LogProbs, old_log_prob: LogProbs, valid: Bool[Array, "*B"] | None = None
) -> Float[Array, ""]:
    """Mean of (ρ − 1) − log ρ over valid rows, ρ = π/π_old: k3 of KL(π_old ‖ π), from π_old's actions."""
    return masked_mean(k3(old_log_prob, log_prob), valid)
