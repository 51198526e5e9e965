"""Scores of a run's saved models: ``RUN/scores.jsonl``, a line per save, and the result of the stage ``evaluate``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from megatron_octo.common import jsonl
from megatron_octo.common.records import Moment, Number, Report, Words, checked, ignore, or_none, read_record
from megatron_octo.runfiles.steps import that_count

SCORES = "scores.jsonl"
EVALUATION = "evaluation"  # directory of the stage's evaluation in the run
RESULT = "scores.json"  # in it
K = "1"  # of pass@k that is shown
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_K = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}$")]


@dataclass(frozen=True)
class Score:
    """A pass@k in per cent with its 95 % interval."""

    value: _Percent
    low: _Percent
    high: _Percent

    def __str__(self) -> str:
        return f"{self.value:.1f} % [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task.

    Attributes:
        passes: pass@k by k, in digits.
        problems: number of problems; ``samples`` of all of them.
    """

    passes: dict[_K, Score]
    problems: Number
    samples: Number


@dataclass(frozen=True)
class ScoreLine:
    """Scores of one save.

    Attributes:
        step: of the save; ``attempt``: that made it. Both name the save: a later attempt may save the step again.
        kind: folder that it was taken from.
        time: Unix time of the end of the evaluation.
        seconds: that the evaluation took.
        tasks: scores by the task's name.
    """

    step: Number
    attempt: Number
    kind: Literal["weights", "checkpoints"]
    time: Moment
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    tasks: dict[Words, TaskScores]


_LINE, _RESULT = TypeAdapter(ScoreLine), TypeAdapter(dict[str, object])
_TASKS = TypeAdapter(dict[Words, dict[Words, object]])
_SCORE = TypeAdapter(Score)


def append_scores(run: Path, line: ScoreLine) -> None:
    """Append the scores of a save."""
    jsonl.append(run / SCORES, _LINE.dump_python(line, mode="json"))


def read_scores(run: Path, report: Report = ignore) -> list[ScoreLine]:
    """Read all lines in the order of writing; those that are not valid are reported and passed over."""
    return jsonl.read(run / SCORES, _LINE, report)


def scores_that_count(lines: Sequence[ScoreLine]) -> list[ScoreLine]:
    """Return the scores of saves that no later attempt replaced, by step."""
    ordered = sorted(lines, key=lambda line: (line.attempt, line.step))
    keep = that_count([line.step for line in ordered], [line.attempt for line in ordered])
    return [line for line, counts in zip(ordered, keep, strict=True) if counts]


def task_names(lines: Sequence[ScoreLine]) -> list[str]:
    """Return the names of the tasks of some lines, in the order in which they come."""
    return list(dict.fromkeys(name for line in lines for name in line.tasks))


def read_result(run: Path, report: Report = ignore) -> dict[str, Score]:
    """Return pass@1 by task, of the stage ``evaluate``; empty if there is none, or a bad one."""
    path = run / EVALUATION / RESULT
    if not path.exists():
        return {}
    return or_none(lambda: _result(path), report) or {}


def _result(path: Path) -> dict[str, Score]:
    tasks = checked(_TASKS, read_record(path, _RESULT).get("tasks"), path)
    found = {name: values.get(f"pass@{K}") for name, values in tasks.items()}
    return {name: checked(_SCORE, value, path) for name, value in found.items() if value is not None}


def task_scores(record: Mapping[str, object], where: Path) -> TaskScores:
    """Return the scores of a task of ``scores.json``.

    Raises:
        OctoError: it is not valid.
    """
    passes = {name.removeprefix("pass@"): value for name, value in record.items() if name.startswith("pass@")}
    values = {"passes": passes, "problems": record.get("problems"), "samples": record.get("samples")}
    return checked(TypeAdapter(TaskScores), values, where)
