"""Fill the gaps that best fit leaves, with long documents that are cut anyway.

Where few documents are shorter than a row, no arrangement of whole pieces is full: a commit of two thirds of a row
leaves a third that nothing fits. So a few full pieces are cut into slices of the size of the largest gaps, which
saves their rows. Only pieces of which every label is learned are cut, and only as many as it takes to reach
``FILL``, because a slice sees less context. A slice of a window is a window of its own: it repeats the input.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_octo.data.planning.packing import Packing, permutation
from megatron_octo.data.planning.windows import PIECE, frame

FILL = 0.9992  # used positions / all positions: a little more than is promised
_SMALLEST = 256  # a gap below 1/256 of a row is left alone
_LOOK = 4096  # pieces that are looked at in one go


@dataclass(frozen=True)
class Poured:
    """Slices (PIECE [S]), the row of each (int64 [S]), and the rows of the cut pieces (int64 [X])."""

    slices: np.ndarray
    into: NDArray[np.int64]
    drop: NDArray[np.int64]


class _Gaps:
    """Gaps of rows, from the largest to the smallest that is worth filling."""

    def __init__(self, used: NDArray[np.int64], capacity: int):
        self.smallest = max(capacity // _SMALLEST, 1)
        rows = np.flatnonzero(capacity - used >= self.smallest)
        order = np.argsort(used[rows], kind="stable")
        self._rows, self._sizes = rows[order].tolist(), (capacity - used[rows][order]).tolist()
        self.at = 0, self._sizes[0] if self._sizes else 0

    def current(self) -> tuple[int, int] | None:
        """Return row and size of the next gap, None if there is none."""
        number, size = self.at
        return (self._rows[number], size) if number < len(self._rows) else None

    def fill(self, size: int) -> None:
        number, left = self.at[0], self.at[1] - size
        if left < self.smallest:
            number += 1
            left = self._sizes[number] if number < len(self._sizes) else 0
        self.at = number, left


def _slices(piece: np.void, inputs: int, gaps: _Gaps) -> tuple[list[tuple[int, ...]], list[int]] | None:
    """Cut a piece into slices for the next gaps; returns slices and rows, None if the gaps are too small."""
    label = int(piece["first"] + piece["skip"]) + 1
    end = int(piece["first"] + piece["length"]) + 1
    found: list[tuple[int, ...]] = []
    into: list[int] = []
    while label < end:
        gap = gaps.current()
        if gap is None:
            return None
        row, size = gap
        context, skip = frame(size, inputs, label) if inputs else (0, 0)
        count = min(size - context - skip, end - label)
        if inputs and label > inputs:  # what is left of the gap at the end of the piece shows more of what was before
            skip = min(size - context - count, label - 1 - inputs)
        found.append((context, label - 1 - skip, skip + count, skip, count))
        into.append(row)
        gaps.fill(context + skip + count)
        label += count
    return found, into


def _full(packing: Packing, pieces: np.ndarray, base: int, capacity: int, *key: str | int) -> Iterator[tuple[int, int]]:
    """Yield item and row of pieces that fill a row and learn every label, in random order."""
    order = permutation(int(packing.counts[capacity]), *key, "pour")
    for start in range(0, len(order), _LOOK):
        numbers, rows = packing.largest(order[start : start + _LOOK])
        cut = numbers >= base
        numbers, rows = numbers[cut], rows[cut]
        found = pieces[numbers - base]
        good = found["labels"] == found["length"] - found["skip"]
        yield from zip(numbers[good].tolist(), rows[good].tolist(), strict=True)


def pour(
    packing: Packing, pieces: np.ndarray, inputs: NDArray[np.int32], base: int, capacity: int, *key: str | int
) -> Poured:
    """Cut full pieces into the gaps of other rows.

    Args:
        packing: rows of items.
        pieces: PIECE [P].
        inputs: tokens of the input that a piece repeats, 0 for a plain piece, int32 [P].
        base: item ``base + i`` is ``pieces[i]``, smaller ones are whole documents.
        capacity: positions in a row.
        key: names the random stream that chooses the pieces.
    """
    used = packing.used()
    total, rows = int(used.sum()), packing.rows
    gaps = _Gaps(used, capacity)
    slices: list[np.ndarray] = []
    into: list[int] = []
    drop: list[int] = []
    for number, row in _full(packing, pieces, base, capacity, *key):
        if total >= FILL * rows * capacity:
            break
        piece, before = pieces[number - base], gaps.at
        cut = _slices(piece, int(inputs[number - base]), gaps)
        if cut is None:
            gaps.at = before
            break
        made = np.repeat(piece[None], len(cut[0]))
        for place, name in enumerate(("context", "first", "length", "skip", "labels")):
            made[name] = [values[place] for values in cut[0]]
        slices.append(made)
        into += cut[1]
        drop.append(row)
        rows -= 1
        total += int(made["context"].sum() + made["length"].sum()) - capacity
    return Poured(
        np.concatenate(slices) if slices else np.empty(0, PIECE),
        np.array(into, np.int64),
        np.array(drop, np.int64),
    )
