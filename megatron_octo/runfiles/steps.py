"""Lines of ``metrics.jsonl`` and ``validation.jsonl``, and which of them count after restarts. Imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import TypeAdapter

from megatron_octo.common import jsonl
from megatron_octo.common.files import regular
from megatron_octo.common.records import Number, Report, Words, ignore
from megatron_octo.runfiles.attempts import METRICS, VALIDATION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


class _Optional(TypedDict, total=False):
    loss: float | None
    grad_norm: float | None
    lr: float | None
    tokens_per_s: float | None
    tflops_per_gpu: float | None
    mfu: float | None
    memory_gib: float | None
    fill: float | None
    targets: float | None
    step_s: float | None
    data_s: float | None
    attempt: Number | None
    skipped: Words | None


class StepLine(_Optional):
    """Metrics of one step. Former versions have fewer keys; keys that are not needed here are dropped."""

    step: Number


class _Attempt(TypedDict, total=False):
    attempt: Number | None


class ValidationLine(_Attempt):
    """Loss on one validation set after a step."""

    name: Words
    step: Number
    loss: float | None


_STEP, _VALIDATION = TypeAdapter(StepLine), TypeAdapter(ValidationLine)


def that_count(steps: "ArrayLike", attempts: "ArrayLike") -> "NDArray[np.bool_]":
    """Return which records count, given their steps and attempts in the order of writing.

    An attempt that goes back to a step voids what earlier attempts recorded from there on. A process that lost the run
    to a later attempt voids nothing, and what it still wrote does not count.
    """
    import numpy as np  # the status of a run does without

    step, attempt = np.asarray(steps, np.int64), np.asarray(attempts, np.int64)
    if not len(step):
        return np.zeros(0, bool)
    stale = attempt < np.maximum.accumulate(attempt)
    never = np.iinfo(np.int64).max
    lowest_after = np.minimum.accumulate(np.where(stale, never, step)[::-1])[::-1]
    found: NDArray[np.bool_] = ~stale & (step < np.append(lowest_after[1:], never))
    return found


def read_steps(run: Path, report: Report = ignore, *, tail: int | None = None) -> list[StepLine]:
    """Read the metrics of a run in the order of writing; with ``tail`` only so many bytes at the end of the file."""
    return jsonl.read(run / METRICS, _STEP, report, tail=tail)


def read_validation(run: Path, report: Report = ignore) -> list[ValidationLine]:
    """Read the validation losses of a run in the order of writing."""
    return jsonl.read(run / VALIDATION, _VALIDATION, report)


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps that count, in order, with all of their keys; other lines are left out."""
    path = Path(run) / METRICS
    path.stat()  # a run without metrics is an error
    records = [record for record in jsonl.read(path, jsonl.ANY) if isinstance(record.get("step"), int)]
    keep = that_count([record["step"] for record in records], [record.get("attempt", 0) for record in records])
    return [record for record, counts in zip(records, keep, strict=True) if counts]


def last_recorded_step(run: str | Path) -> int | None:
    """Return the step of the last readable line of the metrics, None if there is none."""
    lines = read_steps(Path(run), tail=jsonl.TAIL)
    return lines[-1]["step"] if lines else None


def end_last_line(path: Path) -> None:
    """Drop what a kill left of a last line that it cut short."""
    if not path.exists():
        return
    with open(regular(path), "r+b") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - jsonl.TAIL)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
