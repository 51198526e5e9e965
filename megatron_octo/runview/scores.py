"""Scores of a run's saved models as curves and as rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_octo.runfiles.scores import K, Score, ScoreLine, task_names
from megatron_octo.runview.charts import Series

_CURVES = 4  # the style sheet has so many colours; the table has all tasks


@dataclass(frozen=True)
class Row:
    """Score of one save on one task."""

    step: int
    kind: str
    task: str
    score: Score
    problems: int
    samples: int


def rows(lines: Sequence[ScoreLine]) -> list[Row]:
    """Return pass@1 of every save and task, by step."""
    return [
        Row(line.step, line.kind, task, found.passes[K], found.problems, found.samples)
        for line in lines
        for task, found in line.tasks.items()
        if K in found.passes
    ]


def series(lines: Sequence[ScoreLine]) -> list[Series]:
    """Return pass@1 over the steps with its interval as a band, for the first tasks."""
    found = []
    for task in task_names(lines)[:_CURVES]:
        mine = [row for row in rows(lines) if row.task == task]
        points = np.array([(row.step, row.score.value, row.score.low, row.score.high) for row in mine], float)
        x, value, low, high = points.reshape(-1, 4).T
        found.append(Series(task, x, value, (low, high)))
    return found
