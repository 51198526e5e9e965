"""Rows to look at, drawn by a hash of their commits, and their edits as lines."""

import difflib
import heapq
from collections.abc import Iterator
from itertools import islice

import xxhash

from megatron_octo.commits.report.counts import short
from megatron_octo.commits.rows import Row
from megatron_octo.common.terminal import printable

_BYTES = 64 << 10  # rows with more are no samples
_LINES, _WIDTH = 200, 400  # of a diff
_SUBJECT = 400  # characters
_NO_END = "\\ no newline at the end"


class Samples:
    """The rows with the smallest hashes of commit and file, whatever their order.

    Holds at most ``most`` rows of 64 KiB.

    Args:
        most: number of rows.
        seed: of the hash.
    """

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._seed = most, seed
        self._chosen: list[tuple[int, int, Row]] = []
        self._seen = 0

    def offer(self, row: Row) -> None:
        """Take a row, if it is among the chosen ones so far."""
        if not self._most or row.new_contents is None or row.size > _BYTES:
            return
        self._seen += 1
        key = "\0".join((row.commit, row.old_file, row.new_file)).encode("utf-8", "surrogatepass")
        order = -xxhash.xxh3_64_intdigest(key, self._seed)
        if len(self._chosen) < self._most:
            heapq.heappush(self._chosen, (order, -self._seen, lean(row)))
        elif (order, -self._seen) > self._chosen[0][:2]:
            heapq.heapreplace(self._chosen, (order, -self._seen, lean(row)))

    @property
    def rows(self) -> list[Row]:
        """The chosen rows in the order of their hashes."""
        return [row for _, _, row in sorted(self._chosen, reverse=True)]


def lean(row: Row) -> Row:
    """Return a row with what a sample shows."""
    shown = Row(
        row.commit, subject=row.subject[:_SUBJECT], old_contents=row.old_contents, new_contents=row.new_contents
    )
    for name in ("lang", "license", "repos", "new_file"):
        setattr(shown, name, short(getattr(row, name) or ""))
    return shown


def about(row: Row) -> str:
    """Return the line that names a sample."""
    return printable(" · ".join(filter(None, (row.lang, row.license, row.repos, short(row.commit)[:12], row.new_file))))


def edit(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the lines of a row's edit, fit to print, each with its kind: ``old``, ``new``, ``place``, or nothing.

    A carriage return is a character of its line, and a missing newline at the end is said, so each edit shows.
    """
    diff = difflib.unified_diff(_lines(row.old_contents), _lines(row.new_contents), n=3, lineterm="")
    shown = islice(diff, 2, 2 + _LINES + 1)  # without the two lines of names
    for number, line in enumerate(shown):
        if number == _LINES:
            yield "place", "..."
            return
        kind = {"+": "new", "-": "old", "@": "place"}.get(line[:1], "")
        cut = "..." if len(line) > _WIDTH else ""
        yield kind, printable(line[:_WIDTH], keep="\t") + cut


def _lines(text: str | None) -> list[str]:
    if not text:
        return []
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else [*lines, _NO_END]
