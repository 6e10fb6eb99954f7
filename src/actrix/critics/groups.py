"""Advantages of answers that are compared with the other answers to the same prompt.

Every function takes the rewards r of G answers to each of P prompts, `[P, G]` (leading axes in front are batches of
such arrays), and gives the advantage Â of each answer, of the same shape and dtype; whoever trains gives it to every
token of the answer. Gradients flow through the rewards: callers put `stop_gradient` on their advantages. All raise
ValueError for groups of one answer, which has nothing to be compared with. A group without variance, all right or all
wrong, has Â = 0 in each of them.

**Expected scale.** For independent answers, E[(1/G) Σ_i Â_i ∇log π(y_i)] = c·∇E[r], and c is given below: by what a
step is longer or shorter than the true gradient. For `leave_one_out` c = 1, for `group_mean` c = 1 − 1/G, whatever the
rewards. For the others c is a number only where rewards take two values (the direction is the true one then), and
depends on how often an answer is right: with success rate p, and k right answers of G,

c = E_{k~Bin(G, p)}[(k/G)(1 − k/G)·f(k)] / (p(1 − p)),   Â = f(k)·(r − k/G).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Rewards = Float[Array, "*B P G"]


def group_mean(rewards: Rewards) -> Rewards:
    """Â_i = r_i − (1/G) Σ_j r_j: the group's mean, the answer's own reward in it. c = 1 − 1/G.

    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective" (2025), Dr.GRPO.
    """
    _compared(rewards)
    return rewards - jnp.mean(rewards, axis=-1, keepdims=True)


def group_standardised(rewards: Rewards, *, ddof: int = 1, eps: float = 0.0) -> Rewards:
    """Â_i = (r_i − mean_j r_j) / (std_j r_j + ε), 0 in a group without variance. f(k) = 1/(std + ε).

    `ddof` = 1 is the sample's standard deviation, √(Σ(r − mean)²/(G − 1)), 0 the population's, √(Σ(r − mean)²/G); the
    paper says neither. Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
    Models" (2024), §4.1.2. Code adds ε = 1e-4 (TRL) or 1e-6 (verl) to the sample's; the paper has none. Groups without
    variance are told by their rewards, not by a deviation that rounding may leave above 0. Raises ValueError for
    another `ddof`.
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 (of the population) or 1 (of the sample), not {ddof}.")
    centred = group_mean(rewards)
    square = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (rewards.shape[-1] - ddof)
    varied = varies(rewards)[..., None]
    deviation = jnp.sqrt(jnp.where(varied, square, 1))
    return jnp.where(varied, centred / (deviation + eps), 0)


def leave_one_out(rewards: Rewards) -> Rewards:
    """Â_i = r_i − (1/(G−1)) Σ_{j≠i} r_j: the mean of the others, independent of the answer. c = 1.

    It is `group_mean` times G/(G − 1). Kool, van Hoof & Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"
    (2019); Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback
    in LLMs" (2024), RLOO.
    """
    n = _compared(rewards)
    return group_mean(rewards) * (n / (n - 1))


def gpg(rewards: Rewards) -> Rewards:
    """Â_i = α·(r_i − mean_j r_j), α = P/(P − M), M of the P groups without variance; 0 if all are.

    The average over P groups becomes one over the P − M groups that have a gradient. For one success rate in all
    prompts and many of them c → (1 − 1/G)/(1 − p^G − (1−p)^G). Chu et al., "GPG: A Simple and Strong Reinforcement
    Learning Baseline for Model Reasoning" (2025), eq. 6 (Â) and 7 (α = B/(B − M), of the objective in eq. 8), with
    F_norm = 1; as three summaries give them, not read in the paper itself. Its threshold β_th, below which more groups
    are drawn until enough of them vary, is a matter of the data, not here. Others' code (verl) takes for α the number
    of answers over that of answers with a reward other than 0: it counts wrong answers where the paper counts groups.
    """
    centred = group_mean(rewards)
    varied = jnp.sum(varies(rewards), axis=-1)[..., None, None]
    return centred * (rewards.shape[-2] / jnp.maximum(varied, 1)).astype(centred.dtype)


def varies(rewards: Rewards) -> Array:
    """Whether the answers of each group have different rewards, `[*B, P]`: max_j r_j ≠ min_j r_j.

    Groups that do not are what DAPO's dynamic sampling draws again. Yu et al., "DAPO: An Open-Source LLM Reinforcement
    Learning System at Scale" (2025), §3.2.
    """
    _compared(rewards)
    return jnp.max(rewards, axis=-1) != jnp.min(rewards, axis=-1)


def until_full(rewards: Float[Array, "P G"], keep: int | None) -> tuple[Array, Array]:
    """(which of the P groups are kept `[P]`, how many had to be drawn): the first `keep` that vary, in their order.

    DAPO's dynamic sampling draws group after group, drops those without variance and stops once the batch has `keep`
    groups. All are drawn from one policy, so that drawing P at once and taking the first `keep` that vary gives batches
    of the same distribution, wherever so many vary; where fewer do, the paper goes on drawing and this batch is smaller
    (the bound, P groups). Drawn counts those up to the one that filled the batch, or P. None keeps all that vary.
    """
    varied = varies(rewards)
    number = jnp.cumsum(varied)
    keep = len(varied) if keep is None else keep
    full = varied & (number == keep)
    drawn = jnp.where(jnp.any(full), jnp.argmax(full) + 1, len(varied))
    return varied & (number <= keep), drawn


def _compared(rewards: Rewards) -> int:
    """G, the answers of a group."""
    if rewards.ndim < 2 or rewards.shape[-1] < 2:
        raise ValueError(
            f"rewards must be [prompts, answers] with at least 2 answers of each prompt, not {rewards.shape}."
        )
    return int(rewards.shape[-1])
