"""The objectives of the sequence lab: what each makes of a group's rewards, of lengths, of ratios, of a batch.

The gradient of each is (1/G) Σ_i a_i Σ_t w_t ∇log π(y_t): a_i is the advantage times the weight of the answer's length,
w_t is what differentiating the library's objective in log π(y_t) leaves at the token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from actrix.actors import sequence_loss
from actrix.critics import groups, returns
from actrix.lab.exact.answers import Answers
from actrix.lab.exact.groups import Classes, Moments, group_moments, varied

Array = np.ndarray


class Setting(NamedTuple):
    """What an advantage and a length's weight may know beside the group: its size and expectations under the policy."""

    n: int
    """G, answers of a group."""
    batch: int
    """B, groups of a batch; their prompts are drawn uniformly."""
    success: float
    """E[r|x] of the prompt."""
    average: float
    """E[r] over all prompts."""
    length: float
    """E[|y|] over all prompts."""


Advantage = Callable[[Setting], Array]
"""Â [G+1, 2] of a wrong and of a right answer of a group with k = 0 … G right ones."""


def of_groups(form: Callable[[Any], Any]) -> Advantage:
    """The advantages of one of the library's functions of rewards [P, G]."""

    @functools.cache
    def table(n: int, dtype: Any) -> Array:
        rewards = np.arange(n) < np.arange(n + 1)[:, None]
        found = np.asarray(form(jnp.asarray(rewards[:, None], dtype)))[:, 0]
        return np.stack([found[:, -1], found[:, 0]], axis=1)

    return lambda s: table(s.n, jnp.result_type(float))


def minus(baseline: Callable[[Setting], float]) -> Advantage:
    """r − b, with a b that knows nothing of the group."""
    return lambda s: np.tile(np.array([0.0, 1.0]) - baseline(s), (s.n + 1, 1))


def imitated(s: Setting) -> Array:
    """G/k for right answers: the mean of log π over the right answers of the group, nothing if there are none."""
    k = np.arange(s.n + 1)
    return np.stack([np.zeros(s.n + 1), s.n / np.maximum(k, 1)], axis=1)


def best(s: Setting) -> Array:
    """G times the chance to be the best of the group, ties drawn: 1/k if right, 1/G of each if all are wrong."""
    return imitated(s) + np.outer(np.arange(s.n + 1) == 0, [1, 0])


Weight = Callable[[Array, Array, Setting], Array]
"""The weight of an answer of `length` in a group of L tokens; 1 if every answer has the mean length."""


def summed(length: Array, total: Array, s: Setting) -> Array:
    """1: `sequence_loss.constant`, times its constant."""
    return np.ones(np.broadcast_shapes(np.shape(length), np.shape(total)))


def by_answer(length: Array, total: Array, s: Setting) -> Array:
    """E|y|/|y_i|: `sequence_loss.per_sequence`."""
    return s.length / np.maximum(length, 1) + 0 * total


def by_token(length: Array, total: Array, s: Setting) -> Array:
    """G·E|y|/Σ_j|y_j|: `sequence_loss.per_token` of a group."""
    return s.n * s.length / np.maximum(total, 1) + 0 * length


Batch = Callable[[Moments, float, int], Moments]
"""The moments of a batch, from those of one group, the share of groups that vary, and B."""


def every(group: Moments, share: float, batch: int) -> Moments:
    """The mean of all B groups."""
    return Moments(group.mean, float(group.mean @ group.mean) + group.variance / batch)


def redrawn(group: Moments, share: float, batch: int) -> Moments:
    """DAPO's dynamic sampling: B groups that vary, others are drawn again."""
    return every(_varying(group, share), share, batch)


def rescaled(group: Moments, share: float, batch: int) -> Moments:
    """GPG's α: the mean of those of the B groups that vary, V ~ Bin(B, share) of them; 0 if V = 0."""
    kept, v = _varying(group, share), np.arange(1, batch + 1)
    chance = binom.pmf(v, batch, share)
    whole = chance.sum()
    square = whole * (kept.mean @ kept.mean) + kept.variance * np.sum(chance / v)
    return Moments(kept.mean * whole, float(square))


def _varying(group: Moments, share: float) -> Moments:
    """Given that the group varies, where it is 0 otherwise."""
    return Moments(group.mean / share, group.square / share)


Tokens = Callable[[Answers, Any], Array]
"""w_t [X, T, N]."""


def score(answers: Answers, theta: Any) -> Array:
    """1: Σ_t ∇log π(y_t)."""
    return np.broadcast_to(answers.valid, (answers.sizes.prompts, *answers.valid.shape)).astype(float)


def critic(lam: float) -> Tokens:
    """GAE's advantage of each token with the exact V(x, y_<t); a_i is then 1."""

    def weights(answers: Answers, theta: Any) -> Array:
        v, ends = answers.prefix_values(theta), _ends(answers)
        rows: dict[str, Any] = {
            "terminated": ends, "truncated": ends & False, "valid": answers.valid, "gamma": 1.0, "lam": lam,
        }  # fmt: skip
        one = lambda v, r: returns.gae(reward=ends * r, value=v[:-1], next_value=v[1:], **rows)
        return np.stack([np.asarray(one(*x)) for x in zip(v, answers.reward, strict=True)])

    return weights


def _ends(answers: Answers) -> Array:
    return np.arange(len(answers.valid))[:, None] == answers.length - 1


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of the table."""

    advantage: Advantage
    weight: Weight = summed
    batch: Batch = every
    tokens: Tokens = score
    one: bool = False
    """One answer of the group is taken, drawn with the advantage / G."""

    def moments(self, classes: Classes, s: Setting) -> Moments:
        """Of one group of answers to one prompt."""
        table = self.advantage(s)

        def coefficient(right: Array, length: Array, k: Array, total: Array) -> Array:
            return table[k, right] * self.weight(length, total, s)

        return group_moments(classes, s.n, coefficient, one=self.one)


def batch_moments(objective: Objective, found: list[Classes], settings: list[Setting]) -> Moments:
    """Of a batch of groups whose prompts are drawn uniformly, each prompt with its answers and setting."""
    each = [objective.moments(c, s) for c, s in zip(found, settings, strict=True)]
    group = Moments(np.mean([m.mean for m in each], axis=0), float(np.mean([m.square for m in each])))
    share = float(np.mean([varied(s.success, s.n) for s in settings]))
    return objective.batch(group, share, settings[0].batch)


RLOO, MEAN, STD = (of_groups(f) for f in (groups.leave_one_out, groups.group_mean, groups.group_standardised))
POPULATION = of_groups(lambda r: groups.group_standardised(r, ddof=0))


def ones(s: Setting) -> Array:
    """1 whatever the reward: the tokens' weights hold the advantage."""
    return np.ones((s.n + 1, 2))


OBJECTIVES = {
    "REINFORCE": Objective(minus(lambda s: 0.0)),
    "r − moving average": Objective(minus(lambda s: s.average)),
    "r − V(x)": Objective(minus(lambda s: s.success)),
    "critic, GAE λ = 1": Objective(ones, tokens=critic(1.0)),
    "critic, GAE λ = 0": Objective(ones, tokens=critic(0.0)),
    "leave-one-out (RLOO)": Objective(RLOO),
    "group mean (Dr.GRPO)": Objective(MEAN),
    "GPG": Objective(MEAN, batch=rescaled),
    "mean, dynamic sampling": Objective(MEAN, batch=redrawn),
    "std of the sample": Objective(STD),
    "std of the population": Objective(POPULATION),
    "mean, per token": Objective(MEAN, by_token),
    "mean, per sequence": Objective(MEAN, by_answer),
    "GRPO: std, per sequence": Objective(STD, by_answer),
    "DAPO: std, per token, dynamic": Objective(STD, by_token, redrawn),
    "best of G": Objective(best, one=True),
    "expert iteration": Objective(imitated),
}
"""Name → objective, at the policy that drew the answers: every ratio is 1 and nothing is clipped."""


def surrogate(low: float = 1.0, high: float = np.inf) -> Callable[..., Any]:
    """Σ_t min(ρ_t Â, clip(ρ_t) Â) with the tokens' ratios."""
    return lambda new, old, sign, valid: sequence_loss.clipped(
        log_ratio=new - old, advantage=sign, valid=valid, low=low, high=high
    )


def gspo(low: float = 1.0, high: float = np.inf) -> Callable[..., Any]:
    """The same with the geometric mean of the answer's ratios at each of its tokens."""

    def tokens(new: Any, old: Any, sign: Any, valid: Any) -> Any:
        log_ratio = sequence_loss.sequence_log_ratio(log_prob=new, old_log_prob=old, valid=valid)
        return sequence_loss.clipped(log_ratio=log_ratio, advantage=sign, valid=valid, low=low, high=high)

    return tokens


RATIOS = {
    "whole answer": lambda new, old, sign, valid: jnp.exp(jnp.sum(new - old, axis=0)) * sign[0],
    "no ratio": lambda new, old, sign, valid: new * sign,
    "token": surrogate(),
    "token, clip 0.2": surrogate(0.2, 0.2),
    "token, clip-higher 0.2, 0.28": surrogate(0.2, 0.28),
    "GSPO": gspo(),
    "GSPO, clip 3e-4, 4e-4": gspo(3e-4, 4e-4),
}
"""Name → the objective [T, N] (or [N]) of answers of an older policy, for Â = ±1, as a function of log π(y_t)."""


def ratio_weights(form: Callable[..., Any], answers: Answers, theta: Any, old: Any) -> Array:
    """w_t [X, T, N] of answers drawn by `old`, for Â of the reward's sign: + for right answers, − for wrong ones.

    Where rewards are 0 and 1 this is the sign of every group's advantage, and |Â| only scales: no clipped objective
    needs sampling.
    """
    new, before = answers.taken(theta), answers.taken(old)
    out = []
    for x, reward in enumerate(answers.reward):
        sign = jnp.broadcast_to(jnp.asarray(2 * reward - 1), answers.valid.shape)
        total = lambda log_prob, x=x, sign=sign: jnp.sum(form(log_prob, before[x], sign, answers.valid))
        out.append(np.asarray(jax.grad(total)(new[x]) * sign))
    return np.where(answers.valid, np.stack(out), 0)
