"""Intervals of 95 %. Problems are what is drawn: samples of one problem are not independent."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
_Z = 1.959963984540054  # quantile of the normal distribution that leaves 2.5 % above
_BLOCK = 1 << 22  # numbers drawn at once

type Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Bounds of an estimate, and how they were found: ``bootstrap``, ``Wilson`` or ``none``."""

    low: float
    high: float
    method: str


def _means(values: Values, resamples: int, seed: int) -> Values:
    """Return the means of resamples of the last axis, shape (resamples, ...)."""
    count = values.shape[-1]
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // count)
    found = []
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, count, (min(rows, resamples - start), count), dtype=np.int32)
        found.append(values[..., chosen].mean(axis=-1))
    return np.concatenate(found, axis=-1)


def bootstrap(values: Values, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Return the interval of a mean over problems, by percentiles of resampled means.

    The values are spread by sqrt(n / (n - 1)) around their mean: percentiles alone are too narrow for few problems.

    Args:
        values: one per problem, shape (problems,).
        resamples: number of resamples.
        seed: of the draws: equal values give equal intervals.
    """
    if values.size < 2:
        return Interval(0.0, 1.0, "none")
    mean = float(values.mean())
    spread = math.sqrt(values.size / (values.size - 1))
    low, high = np.quantile(_means(values, resamples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean + spread * (float(low) - mean), mean + spread * (float(high) - mean), "bootstrap")


def wilson(passed: int, total: int) -> Interval:
    """Return Wilson's interval of a share, for one sample per problem: it holds near 0 and 1, too (Wilson 1927)."""
    if total == 0:
        return Interval(0.0, 1.0, "none")
    share, square = passed / total, _Z * _Z / total
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return Interval(max(0.0, middle - half), min(1.0, middle + half), "Wilson")


def interval(values: Values) -> Interval:
    """Return the interval of a mean of pass@k over problems: Wilson's where each is 0 or 1, else by bootstrap."""
    if np.all((values == 0) | (values == 1)):
        return wilson(int(values.sum()), values.size)
    found = bootstrap(values)
    return Interval(max(0.0, found.low), min(1.0, found.high), found.method)
