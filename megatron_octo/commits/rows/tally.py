"""Counts of rows: how many, how many are kept, and how many each rule dropped."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from megatron_octo.commits.rows.row import Item, Row


@dataclass
class Tally:
    """Counts that add up: ``rows = kept + the sum of dropped``.

    Attributes:
        kept: rows that no rule dropped.
        dropped: rows by the rule that dropped them.
        content_bytes: contents of all rows, in UTF-8.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    content_bytes: int = 0

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self.kept + self.dropped.total()

    def count(self, row: Item) -> None:
        """Count a row."""
        self.content_bytes += row.content_bytes
        if row.drop is None:
            self.kept += 1
        else:
            self.dropped[row.drop] += 1

    def add(self, other: Self) -> None:
        """Add the counts of other rows."""
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.content_bytes += other.content_bytes

    def record(self) -> dict[str, Any]:
        """Return the counts for a manifest."""
        dropped = dict(sorted(self.dropped.items()))
        return {"rows": self.rows, "kept": self.kept, "dropped": dropped, "content_bytes": self.content_bytes}

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Tally":
        """Read the counts of a manifest."""
        return cls(int(record["kept"]), Counter(record["dropped"]), int(record["content_bytes"]))

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {rule}" for rule, count in sorted(self.dropped.items()))
        return f"{self.rows:,} rows, {self.kept:,} kept{f', dropped: {reasons}' if reasons else ''}"


def said(manifest: Mapping[str, Any], output: object) -> str:
    """Return the line that a command ends with: rows in and out, and what this stage dropped."""
    reasons = ", ".join(f"{count:,} {rule}" for rule, count in manifest["dropped_here"].items())
    dropped = f"; dropped here: {reasons}" if reasons else "; nothing dropped here"
    return f"{output}: {manifest['rows_in']:,} rows in, {manifest['kept']:,} kept{dropped}; {manifest['seconds']:.1f} s"


def plain(value: Any) -> Any:
    """Return JSON values of paths and the like."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def each_kept(function: Callable[[Row], Row], rows: Iterable[Row]) -> Iterator[Row]:
    """Apply a function to the rows that are not dropped, and pass the others on in their places."""
    return (function(row) if row.drop is None else row for row in rows)
