"""Rows of one input for the encoder: lines of jsonl, or rows of a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_octo.data.text.formats import RowError

INPUT_BITS = 40  # a document's number is input << 40 | place; the place is a byte offset or a row


class Rows(Protocol):
    """Some rows of an input."""

    @property
    def input(self) -> int:
        """Number of the input."""

    @property
    def text_bytes(self) -> int:
        """Bytes of text, for rates."""

    @property
    def raw(self) -> bytes:
        """Bytes that the rows were made from."""

    def __iter__(self) -> Iterator[tuple[int, bytes | Mapping[str, Any] | RowError]]:
        """Yield the place of each row, and the row: a line of JSON, the row itself, or why it cannot be read."""
        ...

    def where(self, place: int) -> str:
        """Describe the place of a row in an error: file and line or row."""
        ...


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file.

    Attributes:
        path: the file.
        input: its number.
        start: offset of the first line, unpacked.
        data: the lines; the newline of the last one may be missing.
        first: number of the first line, from 1; None: it has to be counted.
    """

    path: str
    input: int
    start: int
    data: bytes
    first: int | None = None

    @property
    def text_bytes(self) -> int:
        """Bytes of the lines."""
        return len(self.data)

    @property
    def raw(self) -> bytes:
        """The lines."""
        return self.data

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        place = self.start
        for line in self.data.split(b"\n"):
            if line and not line.isspace():
                yield place, line
            place += len(line) + 1

    def where(self, place: int) -> str:
        """Return ``FILE:LINE`` of the line at an offset."""
        first = self.first
        if first is None:
            first, left = 1, self.start
            with open(self.path, "rb") as file:
                while left and (chunk := file.read(min(left, 1 << 22))):
                    first += chunk.count(b"\n")
                    left -= len(chunk)
        return f"{self.path}:{first + self.data.count(b'\n', 0, place - self.start)}"


@dataclass(frozen=True)
class TableRows:
    """Rows of a table, from row ``start`` (the first of the table is 0); ``raw`` holds them as Arrow does."""

    path: str
    input: int
    start: int
    rows: Sequence[Mapping[str, Any] | RowError]
    raw: bytes

    @property
    def text_bytes(self) -> int:
        """Characters of all texts."""
        rows = (row for row in self.rows if not isinstance(row, RowError))
        values = (value for row in rows for value in row.values() if isinstance(value, str))
        return sum(map(len, values))

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
        return enumerate(self.rows, self.start)

    def where(self, place: int) -> str:
        """Return file and number of a row."""
        return f"{self.path}, row {place} (from 0)"
