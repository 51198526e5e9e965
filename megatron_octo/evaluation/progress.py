"""Progress of an evaluation: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_INTERVAL = 10.0  # seconds between plain lines


class Meter:
    """Counter of samples."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        """Begin to count.

        Args:
            what: is done: ``score``.
            total: samples in all.
            done: by earlier starts.
        """
        self.what, self.total, self.done, self._before = what, total, done, done
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
            self._bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console
            )
            self._task = self._bar.add_task("", total=total, completed=done, words="")

    def add(self, words: str = "", count: int = 1) -> None:
        """Count samples; ``words`` are shown beside them."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done, words=words)
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            rate = (self.done - self._before) / (self._last - self._start)
            left = (self.total - self.done) / rate if rate else 0.0
            line = f"{self.what}: {self.done:,} of {self.total:,} samples, {rate:.1f} per second, {left:.0f} s left"
            print(f"{line}{f'; {words}' if words else ''}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
