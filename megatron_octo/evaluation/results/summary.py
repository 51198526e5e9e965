"""Scores of an evaluation's directory: pass@k with intervals, kinds of ends, and what was cut."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import write_json
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.tasks import Task, all_tasks
from megatron_octo.evaluation.records import Kind, ScoredSample
from megatron_octo.evaluation.results.pass_at_k import Interval, bootstrap, per_problem

KS = (1, 10, 100)


@dataclass(frozen=True)
class TaskScore:
    """Scores of one task.

    Attributes:
        problems: with samples; ``samples`` of them in all.
        scores: by k: those of 1, 10, 100 for which every problem has enough samples.
        kinds: number of samples by how they ended; ``cuts`` by what was cut from them.
        levels: number of samples by level of their verdict.
        counts: by problem: samples and correct ones.
    """

    task: Task
    problems: int
    samples: int
    scores: Mapping[int, Interval]
    kinds: Mapping[str, int]
    cuts: Mapping[str, int]
    levels: Mapping[str, int]
    counts: Mapping[int, tuple[int, int]] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "problems": self.problems,
            "samples": self.samples,
            **{
                f"pass@{k}": {"value": score.value, "low": score.low, "high": score.high}
                for k, score in self.scores.items()
            },
            "kinds": dict(self.kinds),
            "cuts": dict(self.cuts),
            "levels": dict(self.levels),
        }


def score_task(task: Task, verdicts: Mapping[tuple[int, int], ScoredSample]) -> TaskScore:
    """Count the verdicts of a task.

    Raises:
        OctoError: programs were not judged, which is no failure of theirs.
    """
    kinds = Counter(str(scored.verdict.kind) for scored in verdicts.values())
    if unjudged := kinds[str(Kind.INFRASTRUCTURE)]:
        raise OctoError(
            f"{task.name}: {unjudged} samples could not be judged", where="evaluate report", hint="score them again"
        )
    counts: dict[int, list[int]] = {}
    for scored in verdicts.values():
        count = counts.setdefault(scored.problem, [0, 0])
        count[0] += 1
        count[1] += scored.verdict.kind is Kind.PASSED
    pairs = {problem: (count[0], count[1]) for problem, count in sorted(counts.items())}
    least = min(samples for samples, _ in pairs.values())
    scores = {k: bootstrap(per_problem(list(pairs.values()), k)) for k in KS if k <= least}
    cuts = Counter(scored.cut for scored in verdicts.values())
    levels = Counter(str(scored.verdict.level) for scored in verdicts.values())
    return TaskScore(task, len(pairs), len(verdicts), scores, kinds, cuts, levels, pairs)


def mean_of(scores: Sequence[TaskScore], k: int) -> Interval:
    """Return the mean of languages. A problem is the same in all of them: it is drawn with all its languages.

    Args:
        scores: of one scenario.
        k: of pass@k.
    """
    shared = sorted(set.intersection(*(set(score.counts) for score in scores)))
    columns = [per_problem([score.counts[number] for number in shared], k) for score in scores]
    found = bootstrap(np.mean(columns, axis=0)) if shared else Interval(0.0, 0.0, 100.0)
    return replace(found, value=float(np.mean([score.scores[k].value for score in scores])))


def summarize(output: Path) -> dict[str, TaskScore]:
    """Return the scores of all tasks of a directory that have verdicts, by name.

    Raises:
        OctoError: none has.
    """
    found = {}
    for task in all_tasks():
        if verdicts := records.read_verdicts(output, task.name):
            found[task.name] = score_task(task, verdicts)
    if not found:
        raise OctoError("no verdicts here", where=output, hint="evaluate score writes them")
    return found


def write_scores(output: Path, scores: Mapping[str, TaskScore]) -> None:
    """Write ``scores.json``."""
    tasks = {name: score.record() for name, score in scores.items()}
    write_json(output / records.SCORES, {"format": 1, "tasks": tasks, "header": records.read_header(output)})
