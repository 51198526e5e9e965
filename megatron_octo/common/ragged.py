"""Rows of different lengths that lie end to end in one array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ragged = tuple[NDArray[Any], NDArray[np.int64]]  # values end to end, and the length of each row


def interleave(choice: NDArray[np.bool_], chosen: Ragged, others: Ragged) -> Ragged:
    """Merge two sets of rows.

    Args:
        choice: bool [R]: whether row r of the result is the next one of ``chosen`` or of ``others``.
        chosen: values and lengths of one set.
        others: values and lengths of the other.
    """
    lengths = np.empty(len(choice), np.int64)
    lengths[choice], lengths[~choice] = chosen[1], others[1]
    from_chosen = np.repeat(choice, lengths)
    values = np.empty(len(from_chosen), others[0].dtype)
    values[from_chosen] = chosen[0]
    values[~from_chosen] = others[0]
    return values, lengths


def running_sum(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Sum the values before each place, and all of them: where rows of these lengths start, int64 [R+1]."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def row_sums(values: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Sum the values of each row (0 for an empty one), int64 [R]."""
    return np.diff(running_sum(values)[running_sum(lengths)])


def take_rows[T: np.generic](values: NDArray[T], lengths: NDArray[np.integer], rows: NDArray[np.integer]) -> NDArray[T]:
    """Gather the values of the rows ``rows``, end to end in that order."""
    picked = lengths[rows].astype(np.int64)
    into = running_sum(picked)
    where = np.repeat(running_sum(lengths)[rows] - into[:-1], picked)
    where += np.arange(into[-1])
    taken: NDArray[T] = values[where]
    return taken
