"""One-step targets of Q-learning and its relatives: the value V(s′) that each reads off Q(s′, ·).

Action values are `[*B, A]` with any leading axes, values `[*B]`, in the dtype of Q. `mask` `[*B, A]` says which
actions are legal, with the rules of `core.distributions.legal_actions`: what Q holds at illegal actions (NaN included)
influences nothing, and a row that allows nothing counts as one that allows everything. Gradients flow: callers
put `stop_gradient` on their targets.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

from actrix.core.distributions import ILLEGAL, greedy_action, legal_actions, positive
from actrix.critics import returns

Number = float | Float[Array, "..."]
Mask = Bool[Array, "*B A"]


def greedy_value(q: Float[Array, "*B A"], mask: Mask | None = None) -> Float[Array, "*B"]:
    """V(s′) = max_a Q(s′, a) over the legal actions.

    Watkins & Dayan, "Q-Learning" (1992); with a target network's Q it is Mnih et al., "Human-Level Control
    through Deep Reinforcement Learning" (2015).
    """
    q = jnp.asarray(q)
    return jnp.max(jnp.where(legal_actions(q, mask), q, -jnp.inf), axis=-1)


def double_value(
    q_online: Float[Array, "*B A"], q_target: Float[Array, "*B A"], mask: Mask | None = None
) -> Float[Array, "*B"]:
    """V(s′) = Q⁻(s′, argmax_a Q(s′, a)): one Q picks the legal action, the other values it.

    Online and target network: van Hasselt, Guez & Silver, "Deep Reinforcement Learning with Double
    Q-Learning" (2016). Two tables, of which a coin picks the one to update: its target is this function of
    (that table, the other one); van Hasselt, "Double Q-Learning" (2010).
    """
    return sarsa_value(q_target, greedy_action(q_online, mask))


def expected_value(q: Float[Array, "*B A"], probs: Float[Array, "*B A"]) -> Float[Array, "*B"]:
    """V(s′) = Σ_a π(a|s′) Q(s′, a), expected SARSA.

    Where π(a|s′) is exactly 0, Q(s′, a) may be anything (±∞, NaN): it adds 0, and so do the gradients (of
    π(a|s′), too, where the formula's would be Q(s′, a)). van Seijen et al., "A Theoretical and Empirical
    Analysis of Expected Sarsa" (2009).
    """
    q = jnp.asarray(q)
    return jnp.sum(jnp.asarray(probs, q.dtype) * jnp.where(probs > 0, q, 0), axis=-1)


def sarsa_value(q: Float[Array, "*B A"], action: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """V(s′) = Q(s′, a′) with the action that was taken. Rummery & Niranjan (1994); NaN beyond the last action."""
    action = jnp.asarray(action, jnp.int32)
    return jnp.take_along_axis(jnp.asarray(q), action[..., None], axis=-1)[..., 0]


def soft_value(
    q: Float[Array, "*B A"],
    temperature: Number,
    mask: Mask | None = None,
    log_prior: Float[Array, "*B A"] | None = None,
) -> Float[Array, "*B"]:
    """V(s′) = τ log Σ_a π̄(a|s′) exp(Q(s′, a)/τ) = max_π Σ_a π(a|s′) Q(s′, a) − τ KL(π ‖ π̄).

    π̄ is exp(`log_prior`) normalised over the legal actions, uniform by default; actions it gives
    probability 0 (−∞ or ILLEGAL) count as illegal. The limits are max_a Q for τ → 0 (also at τ = 0) and
    Σ_a π̄ Q for τ → ∞, and both are reached without loss of digits. With the entropy α H(π) in place of the KL
    the value is larger by α log |legal|: Haarnoja et al., "Reinforcement Learning with Deep Energy-Based
    Policies" (2017). Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning"
    (2017), has this form.
    """
    q = jnp.asarray(q)
    prior = jnp.zeros_like(q) if log_prior is None else jnp.asarray(log_prior, q.dtype)
    possible = prior > 0.5 * ILLEGAL
    legal = legal_actions(q, possible if mask is None else jnp.asarray(mask, bool) & possible)
    prior = jax.nn.log_softmax(jnp.where(legal, prior, ILLEGAL), axis=-1)
    tau = positive(jnp.broadcast_to(jnp.asarray(temperature, q.dtype), q.shape[:-1]))
    best = stop_gradient(jnp.max(jnp.where(legal, q, -jnp.inf), axis=-1))
    below = jnp.where(legal, q - best[..., None], 0) / tau[..., None]
    # log Σ π̄ e^x twice: from 1 + Σ π̄ (e^x − 1) where that is near 1 (large τ), else as it stands.
    shift = jnp.sum(jnp.exp(prior) * jnp.expm1(below), axis=-1)
    near = shift > -0.5
    log_mean = jnp.where(near, jnp.log1p(jnp.where(near, shift, 0)), jax.nn.logsumexp(prior + below, axis=-1))
    return best + tau * log_mean


Q_TARGETS: dict[str, Callable[..., Array]] = {
    "q-learning": greedy_value,
    "double": double_value,
    "expected-sarsa": expected_value,
    "sarsa": sarsa_value,
    "soft": soft_value,
}
"""V(s′) by the name of the target."""


def q_target(
    *,
    reward: Float[Array, "*B"],
    next_value: Float[Array, "*B"],
    terminated: Bool[Array, "*B"],
    gamma: Number,
) -> Float[Array, "*B"]:
    """r + γ(1 − terminated)V(s′), the TD(0) target; V(s′) is not read where the episode terminated.

    For an n-step target `reward` is Σ_{k<n} γ^k r_{t+k} and `gamma` is γ^n, which may differ by row. Raises
    ValueError if the shapes differ.
    """
    return returns.td_target(reward=reward, next_value=next_value, terminated=terminated, gamma=gamma)
