"""The share of problems that one of k samples solves, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_LEVEL = 0.95
_BLOCK = 2000  # draws at once: megabytes, however many problems there are


@dataclass(frozen=True)
class Interval:
    """A value in per cent, and its interval."""

    value: float
    low: float
    high: float


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Estimate without bias the chance that one of ``k`` samples is correct, from ``correct`` of ``samples``.

    The formula is that of Chen et al. 2021 (arXiv 2107.03374): 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: fewer samples than ``k``, or more correct ones than samples.
    """
    if not 0 < k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples")
    if samples - correct < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def per_problem(counts: Sequence[tuple[int, int]], k: int) -> NDArray[np.float64]:
    """Return pass@k of each problem, float64 [P], from (samples, correct)."""
    return np.array([pass_at_k(samples, correct, k) for samples, correct in counts], np.float64)


def bootstrap(values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean in per cent with a 95 % interval, by drawing problems with replacement.

    Problems are the unit, not samples: the samples of a problem are not independent of each other. Where all problems
    have 0 or 1 (one sample each), the mean is a proportion, and Wilson's interval is taken, which is right near 0 and
    100 %, too.

    Args:
        values: per problem, 0 to 1, float64 [P].
        seed: of the draws.
        resamples: number of draws.
    """
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        low, high = wilson(int(values.sum()), len(values))
    else:
        means = draw_means(values, seed, resamples)
        low, high = (float(edge) for edge in np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]))
    return Interval(100 * mean, 100 * low, 100 * high)


def draw_means(values: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the means of ``resamples`` draws of as many problems as there are, float64 [resamples]."""
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        places = generator.integers(0, len(values), (min(_BLOCK, resamples - start), len(values)))
        means.append(values[places].mean(axis=1))
    return np.concatenate(means)


def wilson(correct: int, of: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion."""
    z = 1.959963984540054
    share, weight = correct / of, 1 + z * z / of
    middle = (share + z * z / (2 * of)) / weight
    half = z * float(np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))) / weight
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(first: NDArray[np.float64], second: NDArray[np.float64], seed: int = 0) -> Interval:
    """Return mean(second) - mean(first) in per cent with a 95 % interval; problems are drawn in pairs.

    Args:
        first: per problem, float64 [P].
        second: of the same problems in the same order, float64 [P].
        seed: of the draws.
    """
    means = draw_means(second - first, seed, RESAMPLES)
    low, high = (float(edge) for edge in np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]))
    return Interval(100 * float((second - first).mean()), 100 * low, 100 * high)
