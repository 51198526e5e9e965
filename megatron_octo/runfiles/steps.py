"""Records of steps: which of them count after restarts, and how far they go. Imports no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_octo.common.files import regular
from megatron_octo.runfiles.attempts import METRICS

_TAIL_BYTES = 1 << 20


def that_count(steps: ArrayLike, attempts: ArrayLike) -> NDArray[np.bool_]:
    """Return which records count, given their steps and attempts in the order of writing.

    An attempt that goes back to a step voids what earlier attempts recorded from there on. A process that lost the run
    to a later attempt voids nothing, and what it still wrote does not count.
    """
    step, attempt = np.asarray(steps, np.int64), np.asarray(attempts, np.int64)
    if not len(step):
        return np.zeros(0, bool)
    stale = attempt < np.maximum.accumulate(attempt)
    never = np.iinfo(np.int64).max
    lowest_after = np.minimum.accumulate(np.where(stale, never, step)[::-1])[::-1]
    found: NDArray[np.bool_] = ~stale & (step < np.append(lowest_after[1:], never))
    return found


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps that count, in order; a line that a kill cut short is left out."""
    with open(regular(Path(run) / METRICS), encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.endswith("\n")]
    keep = that_count(
        [record["step"] for record in records], [record.get("attempt", 0) for record in records]
    )
    return [record for record, counts in zip(records, keep, strict=True) if counts]


def last_recorded_step(run: str | Path) -> int | None:
    """Return the step of the last readable line of the metrics, None if there is none."""
    try:
        with open(regular(Path(run) / METRICS), "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, LookupError, TypeError):
            continue
    return None


def end_last_line(path: Path) -> None:
    """Drop what a kill left of a last line that it cut short."""
    if not path.exists():
        return
    with open(regular(path), "r+b") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - _TAIL_BYTES)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
