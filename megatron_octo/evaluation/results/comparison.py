"""Two evaluations side by side, task by task."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import differences
from megatron_octo.evaluation.results.difference import Difference, difference
from megatron_octo.evaluation.results.summary import Summary


@dataclass(frozen=True)
class Compared:
    """One task of both: pass@1 of each and the paired difference, second minus first."""

    task: Task
    first: float
    second: float
    difference: Difference


def compare(first: Summary, second: Summary) -> list[Compared]:
    """Compare the tasks that both evaluations have.

    Raises:
        OctoError: there is none.
    """
    others = {score.task: score for score in second.tasks}
    found = []
    for score in first.tasks:
        other = others.get(score.task)
        if other is not None and score.counts.keys() & other.counts.keys():
            one, two = score.by_problem(), other.by_problem()
            value = difference(one, two)
            found.append(Compared(score.task, score.estimates[1].value, other.estimates[1].value, value))
    if not found:
        raise OctoError("no task in common", where=f"{first.output}, {second.output}", hint="compare runs of the same tasks")
    return found


def unlike(first: Summary, second: Summary) -> Sequence[str]:
    """Return in what the headers differ, one line each: what else than the model may explain a difference."""
    return differences(first.header, second.header)
