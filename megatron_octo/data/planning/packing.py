"""Best-fit decreasing, in bulk: documents into rows of equal capacity, a hundred million in half a minute.

Everything here is a pure function of its arguments, on every machine and with every version of numpy: random
numbers are the raw output of the Philox generator, whose stream numpy guarantees, and every order is a sort of
words that are all different or interchangeable (``Generator.permutation`` has no such guarantee, and a sort of
words is several times faster than a stable sort of indices).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.ragged import running_sum

ALGORITHM = 2  # part of every plan's key: raise it when the rows of the same input change
STEP = 1 << 20  # words that are computed in one go: small enough for malloc to use the same memory again


def random_stream(*key: str | int) -> np.random.Philox:
    """Return the stream of random words named by ``key``; ``random_raw(n)`` continues where it stopped."""
    return np.random.Philox(key=xxhash.xxh3_128("/".join(map(str, key)).encode()).intdigest())


def permutation(count: int, *key: str | int) -> NDArray[np.uint32]:
    """Return a random order of 0 .. count-1, uint32 [count], drawn from the stream named by ``key``."""
    low = np.uint64(max(count - 1, 1).bit_length())
    words: NDArray[np.uint64] = random_stream(*key).random_raw(count)
    words = (words >> low << low) | np.arange(count, dtype=np.uint64)
    words.sort()
    return (words & _mask(int(low))).astype(np.uint32)


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


class _Rows:
    """Rows by remaining capacity."""

    def __init__(self) -> None:
        self._of: dict[int, list[NDArray[np.uint32]]] = {}
        self._nonempty = 0  # bit r: there are rows with r positions left

    def put(self, left: int, rows: NDArray[np.uint32]) -> None:
        if left and len(rows):
            self._of.setdefault(left, []).append(rows)
            self._nonempty |= 1 << left

    def tightest(self, need: int) -> tuple[int, NDArray[np.uint32]] | None:
        """Take out the smallest remaining capacity of at least ``need``, with all its rows."""
        fitting = self._nonempty >> need
        if not fitting:
            return None
        left = need + (fitting & -fitting).bit_length() - 1
        self._nonempty ^= 1 << left
        return left, np.concatenate(self._of.pop(left))


def best_fit(counts: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.uint32], int]:
    """Assign items to rows by best-fit decreasing.

    One after the other, from the largest, each item goes to the fullest row that it fits in. Items of one size are
    placed together: once a row takes one of them it stays the fullest that fits until no more fit, so filling row
    after row is the same as going item by item.

    Args:
        counts: items of each size, int64 [capacity+1]; there is none of size 0.
        capacity: positions in a row.

    Returns:
        The row of each item, from the largest to the smallest, uint32 [N], and the number of rows.
    """
    row_of = np.empty(int(counts.sum()), np.uint32)
    rows, count, item = _Rows(), 0, 0
    for size in map(int, np.flatnonzero(counts)[::-1]):
        end = item + int(counts[size])
        while item < end:
            found = rows.tightest(size)
            if found is None:
                new = -(-(end - item) // (capacity // size))
                found = capacity, np.arange(count, count + new, dtype=np.uint32)
                count += new
            left, candidates = found
            each = left // size
            filled = min(len(candidates), (end - item) // each)
            row_of[item : item + filled * each] = np.repeat(candidates[:filled], each)
            item += filled * each
            rows.put(left - each * size, candidates[:filled])
            if filled < len(candidates):  # the items run out in this row
                rest = end - item
                row_of[item:end] = candidates[filled]
                item = end
                rows.put(left - rest * size, candidates[filled : filled + 1])
                rows.put(left, candidates[filled + 1 :])
    return row_of, count


class Packing:
    """Items in rows, and rows in random order.

    Args:
        items: number and size of items, uint32 or int64 [n] each, in parts; an item may come several times.
        total: one more than the largest number.
        count: items in all parts together.
        capacity: positions in a row; sizes are 1 .. capacity.
        key: names the random stream (seed, epoch). Items of equal size are in random order.

    Attributes:
        rows: how many there are.
        items: numbers of the items from the largest to the smallest, uint32 [N]; taken out by :meth:`arrange`.
        row_of: the row of each of them, uint32 [N].
        counts: items of each size, int64 [capacity+1].

    Raises:
        OctoError: more than 2**32 items, or rows of more than 2**24 positions.
    """

    def __init__(
        self,
        items: Iterable[tuple[np.ndarray, np.ndarray]],
        total: int,
        count: int,
        capacity: int,
        *key: str | int,
    ):
        # Each 64-bit word: what is missing to a full row, random bits, number of the item.
        low, high = max(total - 1, 1).bit_length(), capacity.bit_length()
        if low > 32 or high > 25:
            raise OctoError(
                f"{total} documents in rows of {capacity} are too many",
                hint="plan ranges of them (START:END)",
            )
        stream = random_stream(*key, "ties")
        words = np.empty(count, np.uint64)
        self.counts = np.zeros(capacity + 1, np.int64)
        done = 0
        for numbers, sizes in items:
            part = slice(done, done + len(numbers))
            words[part] = stream.random_raw(len(numbers)) >> np.uint64(low + high) << np.uint64(low)
            words[part] |= (capacity - sizes.astype(np.int64)).astype(np.uint64) << np.uint64(64 - high)
            words[part] |= numbers.astype(np.uint64)
            self.counts += np.bincount(sizes, minlength=capacity + 1)
            done += len(numbers)
        words.sort()
        self._words, self._key, self._capacity = words, key, capacity
        self._low, self._high = _mask(low), np.uint64(64 - high)
        self.row_of, self.rows = best_fit(self.counts, capacity)

    def largest(self, places: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return numbers and rows of the items at ``places``, counted from the largest, int64 each."""
        return (self._words[places] & self._low).astype(np.int64), self.row_of[places].astype(np.int64)

    def steps(self) -> Iterator[tuple[slice, NDArray[np.uint32], NDArray[np.int64]]]:
        """Yield the items from the largest to the smallest, in parts: slice, numbers and sizes."""
        for start in range(0, len(self._words), STEP):
            part = slice(start, min(start + STEP, len(self._words)))
            words = self._words[part]
            yield (
                part,
                (words & self._low).astype(np.uint32),
                self._capacity - (words >> self._high).astype(np.int64),
            )

    def used(self) -> NDArray[np.int64]:
        """Return the used positions of each row, int64 [R]."""
        used = np.zeros(self.rows, np.int64)
        for part, _, sizes in self.steps():
            np.add.at(used, self.row_of[part].astype(np.intp), sizes)
        return used

    def arrange(
        self, extra: NDArray[np.uint32], extra_rows: NDArray[np.int64], drop: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Put rows in random order; frees what the packing held on the way.

        Args:
            extra: more items, uint32 [E].
            extra_rows: the rows that take them, int64 [E].
            drop: rows that are left out with all their items, int64 [X].

        Returns:
            order: items row after row, uint32 [N]; offsets: where each row starts in it, int64 [R+1].
        """
        stays = np.ones(self.rows, bool)
        stays[drop] = False
        new = np.full(self.rows, np.iinfo(np.uint32).max, np.uint32)
        new[stays] = permutation(int(stays.sum()), *self._key, "rows")
        words = self._words
        for part, numbers, _ in self.steps():
            words[part] = (new[self.row_of[part]].astype(np.uint64) << np.uint64(32)) | numbers
        self.row_of = np.empty(0, np.uint32)
        if len(extra):
            words = np.append(words, (new[extra_rows].astype(np.uint64) << np.uint64(32)) | extra)
        self._words = np.empty(0, np.uint64)
        words.sort()
        words = words[: np.searchsorted(words, np.uint64(np.iinfo(np.uint32).max) << np.uint64(32))]
        count = int(stays.sum())
        order = np.empty(len(words), np.uint32)
        pieces = np.zeros(count, np.int64)
        for start in range(0, len(words), STEP):
            part = slice(start, start + STEP)
            order[part] = words[part] & _mask(32)
            rows = (words[part] >> np.uint64(32)).astype(np.int64)
            first = int(rows[0])
            found = np.bincount(rows - first)
            pieces[first : first + len(found)] += found
        return order, running_sum(pieces)
