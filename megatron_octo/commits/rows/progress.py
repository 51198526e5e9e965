"""Progress of a stage: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_INTERVAL = 10.0  # seconds between plain lines


class Meter:
    """Counter of rows, and of the share of the work that is done.

    Args:
        what: name of the stage.
        total: the work, in any unit: bytes of files, repositories.
    """

    def __init__(self, what: str, total: int):
        self.what, self.total = what, max(total, 1)
        self.done = self.rows = self._skipped = 0
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}"))
            timers = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
            self._bar = Progress(*columns, *timers, console=console)
            self._task = self._bar.add_task("", total=self.total, words="")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._start, 1e-9)

    def skip(self, share: int) -> None:
        """Count work of an earlier start, which does not belong to the rate."""
        self._skipped += share
        self.done += share

    def add(self, share: int, rows: int) -> None:
        """Count finished work, and the rows that it gave."""
        self.done += share
        self.rows += rows
        words = f"{self.rows:,} rows, {self.rows / self.seconds:,.0f} per second"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, words=words)
        elif (now := time.monotonic()) - self._last >= _INTERVAL and 0 < self.done < self.total:
            self._last = now
            left = self.seconds * (self.total - self.done) / max(self.done - self._skipped, 1)
            share_done = 100 * self.done / self.total
            print(f"{self.what}: {share_done:.0f} %, {words}, {left:.0f} s left", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
