"""Progress of scoring: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from megatron_octo.evaluation.records import Kind, Verdict

_INTERVAL = 10.0  # seconds between plain lines


class Meter:
    """Counter of verdicts.

    Args:
        total: number of samples.
        title: before the numbers.
        quiet: show nothing.
    """

    def __init__(self, total: int, title: str = "score", *, quiet: bool = False) -> None:
        self.total, self.done, self.executed, self.cpu_s = total, 0, 0, 0.0
        self.compile_cpu_s = self.run_cpu_s = 0.0
        self.kinds: Counter[Kind] = Counter()
        self._title, self._quiet = title, quiet
        self._start = self._last = time.monotonic()
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn(title),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  {task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, text="")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def passed(self) -> int:
        """Number of samples that passed."""
        return self.kinds[Kind.PASSED]

    def update(self, verdict: Verdict) -> None:
        """Count a verdict; the caller holds a lock."""
        self.done += 1
        self.kinds[verdict.kind] += 1
        if not verdict.cached:
            self.executed += 1
            self.compile_cpu_s += verdict.compile_cpu_s
            self.run_cpu_s += verdict.run_cpu_s
            self.cpu_s = self.compile_cpu_s + self.run_cpu_s
        text = f"{self.passed} passed, {self.executed} executed, {self.cpu_s:.0f} CPU s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=text)
        elif not self._quiet and (now := time.monotonic()) - self._last >= _INTERVAL and self.done < self.total:
            self._last = now
            left = self.seconds * (self.total - self.done) / self.done
            line = f"{self._title}: {self.done}/{self.total}  {text}  ETA {left:.0f} s"
            print(line, file=sys.stderr, flush=True)

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
