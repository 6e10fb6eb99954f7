"""Mean and variance of gradient estimates from groups of answers, by sums over what a group may hold.

Of G independent answers to one prompt the estimate is ĝ = (1/G) Σ_i a_i e(y_i), where e(y) is a vector of the answer
alone (its score Σ_t w_t ∇log π(y_t), with the weights w_t the objective gives its tokens) and the number a_i depends on
the group through k, how many answers are right, and L, how many tokens there are. With answers sorted into classes c of
one reward and length, m_c = E[e; c] and q_c = E[‖e‖²; c],

E ĝ = Σ_c m_c E[a(c)],   E‖ĝ‖² = (1/G) Σ_c q_c E[a(c)²] + (1 − 1/G) Σ_{c,c'} m_c·m_c' E[a(c) a(c')],

where the expectations are over (k, L) of the other G − 1 or G − 2 answers: where only k matters, binomial sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray
Coefficient = Callable[[Array, Array, Array, Array], Array]
"""a(right, length, k, L): of an answer that is `right` (0 or 1) and has `length` tokens, in a group of k and L."""


class Classes(NamedTuple):
    """The answers to one prompt, by reward (0 or 1) and length."""

    right: Int[np.ndarray, "C"]
    length: Int[np.ndarray, "C"]
    probability: Float[np.ndarray, "C"]
    mean: Float[np.ndarray, "C P"]
    """E[e; c], the expectation over the answers of the class, not conditional on it."""
    square: Float[np.ndarray, "C"]
    """E[‖e‖²; c]."""

    @classmethod
    def of(cls, probability: Array, right: Array, length: Array, vectors: Array) -> Classes:
        """From all answers: π(y) [N], rewards [N] of 0 and 1, lengths [N], e(y) [N, P]."""
        found, place = np.unique(np.stack([right, length], axis=1).astype(int), axis=0, return_inverse=True)
        member = (place.ravel() == np.arange(len(found))[:, None]) * probability
        square = member @ np.sum(np.square(vectors), axis=1)
        return cls(found[:, 0], found[:, 1], member.sum(axis=1), member @ vectors, square)

    def counts(self, n: int) -> Float[np.ndarray, "K L"]:
        """P(k right answers, L tokens) of n independent answers, by adding one after the other."""
        longest = int(self.length.max())
        out = np.zeros((n + 1, n * longest + 1))
        out[0, 0] = 1
        for _ in range(n):
            before, out = out, np.zeros_like(out)
            for r, length, p in zip(self.right, self.length, self.probability, strict=True):
                k, tokens = out.shape[0] - r, out.shape[1] - length
                out[r:, length:] += p * before[:k, :tokens]
        return out


class Moments(NamedTuple):
    """E ĝ and E‖ĝ‖² of an estimate."""

    mean: Float[np.ndarray, "P"]
    square: float

    @property
    def variance(self) -> float:
        """Σ_i Var(ĝ_i)."""
        return float(self.square - self.mean @ self.mean)


def group_moments(classes: Classes, n: int, coefficient: Coefficient, *, one: bool = False) -> Moments:
    """E ĝ and E‖ĝ‖² of one group of n ≥ 2 answers.

    With `one`, a single answer of the group is drawn and a_i = n for it, 0 for the others; `coefficient` is then n
    times the probability that it is the answer drawn.
    """
    r, size = classes.right, classes.length
    first = _expected(
        classes,
        n - 1,
        r,
        size,
        lambda k, tokens: coefficient(r[:, None, None], size[:, None, None], k, tokens),
    )
    if one:
        return Moments(first @ classes.mean, float(first @ classes.square))

    def product(k: Array, tokens: Array) -> Array:
        a = [coefficient(x[..., None, None], y[..., None, None], k, tokens)
             for x, y in ((r[:, None], size[:, None]), (r[None], size[None]))]  # fmt: skip
        return a[0] * a[1]

    own = lambda k, tokens: np.square(coefficient(r[:, None, None], size[:, None, None], k, tokens))
    second = _expected(classes, n - 1, r, size, own)
    crossed = _expected(classes, n - 2, r[:, None] + r, size[:, None] + size, product)
    between = np.sum((classes.mean @ classes.mean.T) * crossed)
    return Moments(first @ classes.mean, float(second @ classes.square / n + (1 - 1 / n) * between))


def _expected(
    classes: Classes, others: int, right: Array, length: Array, f: Callable[[Array, Array], Array]
) -> Array:
    """E f(k, L) over the other answers, to which `right` and `length` of those at hand are added."""
    counts = classes.counts(others)
    k, tokens = np.arange(counts.shape[0])[:, None], np.arange(counts.shape[1])
    return np.sum(counts * f(right[..., None, None] + k, length[..., None, None] + tokens), axis=(-2, -1))


def varied(success: float, n: int) -> float:
    """P(0 < k < n), k ~ Bin(n, p): the share of groups that have a variance."""
    return 1 - success**n - (1 - success) ** n
