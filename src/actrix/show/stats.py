"""Statistics over seeds: interquartile mean, bootstrap intervals, and curves brought onto one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MIN_SEEDS = 5
"""Below this many seeds an IQM and its interval say little; every seed is listed instead."""

Curve = tuple[ArrayLike, ArrayLike]


def amount(count: int, of: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count} {of}{'s' * (count != 1)}"


def iqm(x: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of what remains when ⌊n/4⌋ values are dropped at each end.

    This is `scipy.stats.trim_mean(x, 0.25)`, the convention of rliable (Agarwal et al. 2021): whole values
    are dropped, none is weighted by a fraction, so 5 seeds give the mean of the middle 3 and n < 4 the
    plain mean. A NaN anywhere makes the result NaN (sorting would else trim a failed run as if it were the
    best).

    Args:
        x: values; `axis` runs over them, None flattens.
    Returns: a float, or an array without `axis`.
    Raises: `ValueError` if there are no values.
    """
    x = np.asarray(x, dtype=float)
    if axis is None:
        x, axis = x.ravel(), 0
    n = x.shape[axis]
    if n == 0:
        raise ValueError("the interquartile mean of no values is undefined")
    ordered = np.moveaxis(np.sort(x, axis=axis), axis, 0)
    mean = ordered[n // 4 : n - n // 4].mean(axis=0)
    mean = np.where(np.isnan(ordered[-1]), np.nan, mean)
    return float(mean) if mean.ndim == 0 else mean


def bootstrap_interval(
    x: ArrayLike,
    statistic: Callable[..., Any] = iqm,
    confidence: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Percentile bootstrap interval of `statistic` over axis 0 of `x` (the seeds).

    Seeds are drawn with replacement `n` times, whole curves at once, so a band over a curve is smooth. The
    percentile method is what rliable uses; with few seeds it is narrower than it should be.

    Args:
        x: `[seeds]` or `[seeds, ...]`.
        statistic: takes an array and `axis`, e.g. `iqm`, `np.mean`, `np.median`.
        confidence: coverage in (0, 1).
        n: number of resamples.
        seed: of the resampling, so a figure made twice is the same.
    Returns: (low, high), floats or arrays `[...]`; NaN where `x` has one.
    Raises: `ValueError` with fewer than two seeds, or for `confidence` outside (0, 1).
    """
    x = np.asarray(x, dtype=float)
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values, got {x.size}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    rows = np.random.default_rng(seed).integers(0, len(x), size=(n, len(x)))
    # Blocks keep a long curve's resamples from filling memory.
    block = max(1, 2_000_000 // x.size)
    drawn = [np.asarray(statistic(x[rows[i : i + block]], axis=1)) for i in range(0, n, block)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail], axis=0)
    unknown = np.isnan(x).any(axis=0)
    low, high = np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Returns over seeds; `str()` gives the sentence to print."""

    values: tuple[float, ...]
    """One return per seed."""
    seeds: tuple[int, ...] | None
    """The seeds, in the order of `values`, where known."""
    mean: float
    std: float
    """Sample standard deviation between seeds (n−1); NaN for one seed."""
    iqm: float | None = None
    """Interquartile mean; None below `MIN_SEEDS` seeds."""
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    def __str__(self) -> str:
        bad = sum(not np.isfinite(v) for v in self.values)
        if bad:
            return f"undefined: {bad} of {self._seeds()} not finite ({self._listed()})"
        if self.iqm is not None:
            interval = f"{100 * self.confidence:g}% interval {self.low:.1f} to {self.high:.1f}"
            return f"IQM {self.iqm:.1f} ({interval}, {self._seeds()})"
        if self.n == 1:
            return f"{self.mean:.1f} ({self._seeds()})"
        return f"{self.mean:.1f} ± {self.std:.1f} (mean ± std of {self._seeds()}: {self._listed()})"

    def _seeds(self) -> str:
        return amount(self.n, "seed")

    def _listed(self) -> str:
        return ", ".join(f"{v:.1f}" for v in self.values)


def summarize(
    returns_per_seed: Mapping[int, Any] | Sequence[Any] | np.ndarray,
    confidence: float = 0.95,
) -> Summary:
    """Summarise one return per seed: IQM and bootstrap interval from `MIN_SEEDS` seeds on, else mean ± std.

    Args:
        returns_per_seed: a value per seed, or the returns of its episodes (averaged first, so that every seed
            counts alike); as a mapping, the keys are the seeds.
        confidence: of the bootstrap interval.
    Raises: `ValueError` if there is no seed, or a seed has no episodes.
    """
    seeds = None
    if isinstance(returns_per_seed, Mapping):
        seeds = tuple(int(s) for s in returns_per_seed)
        returns_per_seed = list(returns_per_seed.values())
    if len(returns_per_seed) == 0:
        raise ValueError("no seeds to summarise")
    episodes = [np.asarray(r, dtype=float) for r in returns_per_seed]
    empty = [i for i, r in enumerate(episodes) if r.size == 0]
    if empty:
        raise ValueError(f"seed {seeds[empty[0]] if seeds else empty[0]} has no episodes")
    values = np.array([r.mean() for r in episodes])
    finite = bool(np.isfinite(values).all())
    std = float(values.std(ddof=1)) if len(values) > 1 and finite else float("nan")
    listed = tuple(float(v) for v in values)
    if len(values) < MIN_SEEDS:
        return Summary(listed, seeds, float(values.mean()), std, confidence=confidence)
    low, high = bootstrap_interval(values, confidence=confidence) if finite else (float("nan"),) * 2
    middle = iqm(values) if finite else float("nan")
    return Summary(listed, seeds, float(values.mean()), std, middle, low, high, confidence)


def clean(steps: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """A curve without its non-finite points, sorted by step, the last value kept where a step repeats."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"a curve needs steps and values of one length, got shapes {x.shape} and {y.shape}")
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    last = np.append(x[1:] != x[:-1], True)[: len(x)]
    return x[last], y[last]


def align(curves: Sequence[Curve], grid: ArrayLike) -> np.ndarray:
    """Curves with different steps, linearly interpolated on one grid: `[curves, len(grid)]`.

    A curve says nothing before its first step or after its last one: NaN there, never a held or guessed
    value.

    Args:
        curves: (steps, values) pairs, each 1-D of one length; NaN values are skipped.
        grid: steps to evaluate at.
    """
    grid = np.asarray(grid, dtype=float)
    out = np.full((len(curves), len(grid)), np.nan)
    for row, curve in zip(out, curves, strict=True):
        x, y = clean(*curve)
        if len(x):
            row[:] = np.interp(grid, x, y, left=np.nan, right=np.nan)
    return out


def common_grid(curves: Sequence[Curve], points: int = 200) -> np.ndarray:
    """`points` equal steps over the range that all curves share; empty if they share none."""
    spans = [clean(*c)[0] for c in curves]
    if not spans or any(len(x) == 0 for x in spans):
        return np.empty(0)
    start, stop = max(x[0] for x in spans), min(x[-1] for x in spans)
    return np.linspace(start, stop, points) if start < stop else np.empty(0)
