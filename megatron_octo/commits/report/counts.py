"""Counts in bounded memory: of names that rows spell, of sizes, and of rows with their bytes and tokens."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

OTHERS = "(others)"
LENGTH = 80  # characters of a name; the rest is cut
BINS = 24  # of a histogram: the n-th counts sizes from 2^(n-1) to 2^n - 1


@dataclass(slots=True)
class Amount:
    """Rows, bytes of their contents, and tokens of those whose tokens were counted.

    Attributes:
        rows: number of rows.
        size: bytes of the contents, in UTF-8.
        tokens: sum over the counted rows.
        counted: rows whose tokens were counted.
    """

    rows: int = 0
    size: int = 0
    tokens: int = 0
    counted: int = 0

    def note(self, size: int, tokens: int | None) -> None:
        """Count a row."""
        self.rows += 1
        self.size += size
        if tokens is not None:
            self.tokens += tokens
            self.counted += 1

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.rows + other.rows,
            self.size + other.size,
            self.tokens + other.tokens,
            self.counted + other.counted,
        )


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum."""
    return sum(amounts, Amount())


class Names:
    """Names as they are counted: cut, and :data:`OTHERS` for all that come behind the first ``most``.

    Args:
        most: number of names.
    """

    def __init__(self, most: int) -> None:
        self._most, self._known = most, set[str]()

    def __call__(self, name: str) -> str:
        """Return what to count a name as."""
        name = short(name)
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHERS
            self._known.add(name)
        return name


class Counts(Counter[str]):
    """Numbers of rows by a name. Where there are too many names, the rare half becomes :data:`OTHERS`.

    The sum stays the number of rows. A name that was rare when it was folded is counted anew from then on.
    """

    most = 100_000

    def note(self, name: str) -> None:
        """Count a row."""
        self[short(name)] += 1
        if len(self) > self.most:
            kept = self.most_common(self.most // 2)
            others = self.total() - sum(count for _, count in kept)
            self.clear()
            self.update(dict(kept))
            self[OTHERS] += others


def short(name: str) -> str:
    """Return a name, cut where it is long."""
    return name if len(name) <= LENGTH else f"{name[: LENGTH - 3]}..."


class Histogram(list[int]):
    """Numbers of rows by a size, in powers of two."""

    def __init__(self) -> None:
        super().__init__([0] * BINS)

    def note(self, size: int) -> None:
        """Count a row."""
        self[min(max(size, 0).bit_length(), BINS - 1)] += 1


def least(place: int) -> int:
    """Return the least size that a bin counts."""
    return 0 if place == 0 else 1 << (place - 1)
