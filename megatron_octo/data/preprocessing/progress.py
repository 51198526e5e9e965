"""Progress of preprocess: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_INTERVAL = 10.0  # seconds between plain lines


class Meter:
    """Counter of bytes, documents and tokens that shows rates (MB/s of text) and the time left.

    Args:
        total: bytes of the input files on disk.
    """

    def __init__(self, total: int):
        self.total, self.position = total, 0
        self.text_bytes = self.documents = self.tokens = 0
        self._skipped = 0
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("preprocess"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[rates]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, rates="")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def rates(self) -> str:
        """Text, documents and tokens per second."""
        seconds = self.seconds
        return (
            f"{self.text_bytes / 1e6 / seconds:.1f} MB/s, {self.documents / seconds:,.0f} documents/s, "
            f"{self.tokens / seconds:,.0f} tokens/s"
        )

    @property
    def summary(self) -> str:
        """Work done since the start, and its rates."""
        return f"{self.text_bytes / 1e6:.1f} MB in {self.seconds:.1f} s: {self.rates}"

    def skip(self, disk: int) -> None:
        """Count ``disk`` bytes of input done by an earlier run toward progress, not toward the rate."""
        self._skipped += disk
        self.position += disk

    def update(self, disk: int, text_bytes: int, documents: int, tokens: int) -> None:
        """Add finished work: bytes of input on disk, bytes of text, documents, tokens."""
        self.position += disk
        self.text_bytes += text_bytes
        self.documents += documents
        self.tokens += tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.position, rates=self.rates)
        elif (now := time.monotonic()) - self._last >= _INTERVAL and 0 < self.position < self.total:
            self._last = now
            left = self.seconds * (self.total - self.position) / max(self.position - self._skipped, 1)
            share = 100 * self.position / max(self.total, 1)
            print(f"preprocess: {share:.0f} %  {self.rates}  ETA {left:.0f} s", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
