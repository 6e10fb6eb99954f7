"""Distributions of returns: C51's projection and loss, and the quantile Huber loss of QR-DQN and IQN.

Arrays have any leading axes `*B`. Gradients flow: callers put `stop_gradient` on their targets.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def categorical_projection(
    support: Float[Array, " M"],
    probs: Float[Array, "*B M"],
    reward: Float[Array, "*B"],
    discount: Float[Array, "*B"],
) -> Float[Array, "*B M"]:
    """The distribution of r + γ_t Z on the support z_0 … z_{M−1} of Z, which must be evenly spaced by Δz.

    p′_i = Σ_j p_j max(0, 1 − |T z_j − z_i|/Δz),  T z_j = clip(r + γ_t z_j, z_0, z_{M−1})

    Each atom's mass is split between its two neighbours: none is lost, and the mean is kept unless an end
    clips it. Bellemare, Dabney & Munos, "A Distributional Perspective on Reinforcement Learning" (2017), eq.
    7. Computed by adding to the neighbours as in the paper's Algorithm 1 (on a CPU the double sum above takes
    2 to 4 times as long), but the algorithm as printed loses an atom that falls exactly on the support. A NaN
    among the arguments leaves a NaN. Raises ValueError for fewer than two atoms or axes that differ.
    """
    _check_axes(probs=jnp.shape(probs)[:-1], reward=jnp.shape(reward), discount=jnp.shape(discount))
    size = jnp.shape(probs)[-1]
    if size < 2 or jnp.shape(support) != (size,):
        raise ValueError(
            f"support {jnp.shape(support)} and probs {jnp.shape(probs)} must have the same M ≥ 2 atoms."
        )
    dtype = jnp.result_type(support, probs, reward, discount)
    support = jnp.asarray(support, dtype)
    spacing = (support[-1] - support[0]) / (size - 1)

    def project(probs: Array, reward: Array, discount: Array) -> Array:
        position = jnp.clip((reward + discount * support - support[0]) / spacing, 0, size - 1)
        below = jnp.floor(position)
        index, upper = below.astype(jnp.int32), position - below
        out = jnp.zeros_like(probs).at[index].add(probs * (1 - upper))
        return out.at[index + 1].add(probs * upper)  # the last atom adds nothing, beyond the end

    rows = (jnp.asarray(x, dtype) for x in (probs, reward, discount))
    return jnp.vectorize(project, signature="(m),(),()->(m)")(*rows)


def categorical_loss(logits: Float[Array, "*B M"], target: Float[Array, "*B M"]) -> Float[Array, "*B"]:
    """Cross-entropy −Σ_i p_i log softmax(logits)_i with the target's probabilities p.

    It is KL(p ‖ softmax(logits)) plus the entropy of p: the gradient is the same, the value is not 0 at the
    minimum. Bellemare, Dabney & Munos (2017), Algorithm 1. Raises ValueError if the shapes differ.
    """
    _check_axes(logits=jnp.shape(logits), target=jnp.shape(target))
    return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def midpoints(n: int) -> Float[Array, " n"]:
    """τ̂_i = (2i + 1)/(2n), i < n: the levels whose quantiles are the n equal atoms nearest to a distribution.

    Nearest in the 1-Wasserstein distance: Dabney et al., "Distributional Reinforcement Learning with Quantile
    Regression" (2018a), Lemma 2. Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    return (2 * jnp.arange(n, dtype=float) + 1) / (2 * n)


def smallest(x: Float[Array, "*B M"], kept: int) -> Float[Array, "*B K"]:
    """The K = `kept` smallest of the last axis, in the order in which they stand.

    XLA:CPU sorts by calling a comparison for each pair: where few are dropped, finding those takes a tenth of the time.
    """
    if (dropped := x.shape[-1] - kept) == 0:
        return x
    numbered = lambda count: jax.lax.broadcasted_iota(jnp.int32, (*x.shape[:-1], count), x.ndim - 1)
    at = jnp.sort(jax.lax.top_k(x, dropped)[1], axis=-1)
    # The j-th that is kept stands behind those dropped at d_0 < d_1 < … of which d_m − m ≤ j.
    behind = (at - numbered(dropped))[..., None, :] <= numbered(kept)[..., None]
    return jnp.take_along_axis(x, numbered(kept) + jnp.sum(behind, axis=-1), axis=-1)


def quantile_huber_loss(
    quantiles: Float[Array, "*B N"],
    taus: Float[Array, "*B N"],
    target: Float[Array, "*B M"],
    kappa: float = 1.0,
) -> Float[Array, "*B"]:
    """Σ_i mean_j |τ_i − 1{u_ij < 0}| L_κ(u_ij)/κ,  u_ij = target_j − quantile_i.

    L_κ(u) is ½u² for |u| ≤ κ, else κ(|u| − ½κ): the sum over predicted quantiles i, the mean over target
    samples j. κ = 0 is the limit |τ − 1{u<0}| |u|, whose minimiser is the τ-quantile; κ > 0 pulls it towards
    the mean. Dabney et al. (2018a), eq. 10, where L_κ is not divided by κ (alike at κ = 1); the division is
    Dabney et al., "Implicit Quantile Networks for Distributional Reinforcement Learning" (2018b), eq. 3.
    The result has the dtype of `quantiles`. Raises ValueError if κ < 0 or axes differ.
    """
    if not kappa >= 0:
        raise ValueError(f"kappa={kappa} must be at least 0.")
    _check_axes(quantiles=jnp.shape(quantiles), taus=jnp.shape(taus))
    _check_axes(quantiles=jnp.shape(quantiles)[:-1], target=jnp.shape(target)[:-1])
    quantiles = jnp.asarray(quantiles)
    taus, target = (jnp.asarray(x, quantiles.dtype) for x in (taus, target))
    u = target[..., None, :] - quantiles[..., :, None]
    weight = jnp.abs(taus[..., :, None] - (u < 0))
    loss = jnp.abs(u)
    if kappa > 0:
        inside = jnp.minimum(loss, kappa)
        loss = inside * (loss - 0.5 * inside) / kappa
    return jnp.sum(jnp.mean(weight * loss, axis=-1), axis=-1)


def _check_axes(**shapes: tuple[int, ...]) -> None:
    """Refuse axes that would broadcast by accident."""
    if len(set(shapes.values())) > 1:
        raise ValueError(f"arrays of one batch must have the same axes, not {shapes}.")
