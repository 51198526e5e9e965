"""Scores of a run's saved models: ``scores.jsonl``, a line per save and task, written by ``evaluate watch``."""

from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter

from megatron_octo.common import jsonl
from megatron_octo.common.records import Number, Report, Words, ignore

SCORES = "scores.jsonl"


class ScoreLine(TypedDict):
    """Score of a save on one task: pass@1 in per cent with its 95 % interval; ``save`` is the save's digest."""

    step: Number
    save: Words
    task: Words
    value: float
    low: float
    high: float


_LINE = TypeAdapter(ScoreLine)


def append_score(run: Path, line: ScoreLine) -> None:
    """Append a line so that it survives a power cut."""
    jsonl.append(run / SCORES, dict(line))


def read_scores(run: Path, report: Report = ignore) -> list[ScoreLine]:
    """Read the scores of a run in the order of steps; of equal step and task the last line counts."""
    found = {(line["step"], line["task"]): line for line in jsonl.read(run / SCORES, _LINE, report)}
    return [line for _, line in sorted(found.items())]
