"""SplitMix64: 64-bit words that look random, from counters. Integer arithmetic alone, so the same everywhere."""

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15  # step between counters
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # shift, factor
LAST_SHIFT = 31


def finalize(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each word; a permutation of the 64-bit numbers."""
    for shift, factor in ROUNDS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(LAST_SHIFT))


def mix(numbers: NDArray[np.uint64], seed: int = 0) -> NDArray[np.uint64]:
    """Map numbers to words that look random, another permutation for each seed."""
    return finalize(numbers + np.uint64(GOLDEN * (seed + 1) & (2**64 - 1)))
