"""Lines of ``metrics.jsonl`` and ``validation.jsonl``, checked while they are read. Imports no torch."""

from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter

from megatron_octo.common import jsonl
from megatron_octo.common.records import Number, Report, Words, ignore
from megatron_octo.runfiles.attempts import METRICS, VALIDATION


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


def read_steps(run: Path, report: Report = ignore, *, tail: int | None = None) -> list[StepLine]:
    """Read the metrics of a run in the order of writing; with ``tail`` only so many bytes at the end of the file."""
    return jsonl.read(run / METRICS, _STEP, report, tail=tail)


def read_validation(run: Path, report: Report = ignore) -> list[ValidationLine]:
    """Read the validation losses of a run in the order of writing."""
    return jsonl.read(run / VALIDATION, _VALIDATION, report)
