"""Scores of an evaluation: pass@k per task with intervals, how samples ended, and what is missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import write_json
from megatron_octo.evaluation.benchmark.tasks import SCENARIOS, Task, all_tasks, task_named
from megatron_octo.evaluation.records import (
    Judged,
    Key,
    Kind,
    Sample,
    read_header,
    read_samples,
    read_verdicts,
    samples_file,
    verdicts_file,
)
from megatron_octo.evaluation.results.intervals import Interval, interval
from megatron_octo.evaluation.results.numbers import parse_ranges, ranges
from megatron_octo.evaluation.results.pass_at_k import pass_at_k

KS = (1, 10, 100)
SCORES = "scores.json"


@dataclass(frozen=True)
class Estimate:
    """A score between 0 and 1, with its interval of 95 %."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class TaskScore:
    """Score of one task.

    Attributes:
        samples: number of samples with a verdict; ``n``: of the problem that has the fewest.
        counts: samples and passed samples by problem.
        estimates: pass@k by k.
        kinds: samples by how they ended; ``cuts``: by what cutting did to the answer.
        levels: samples by the level of their verdicts; 2: the program cannot forge it.
        missing: problems without a verdict, of those that the evaluation is about.
        cpu_s: CPU seconds inside sandboxes, when the programs ran.
    """

    task: Task
    samples: int
    n: int
    counts: dict[int, tuple[int, int]]
    estimates: dict[int, Estimate]
    kinds: dict[str, int]
    cuts: dict[str, int]
    levels: dict[int, int]
    missing: tuple[int, ...]
    cpu_s: float

    def by_problem(self, k: int = 1) -> dict[int, float]:
        """Return pass@k of each problem."""
        numbers = sorted(self.counts)
        n, c = zip(*(self.counts[number] for number in numbers), strict=True)
        return dict(zip(numbers, pass_at_k(n, c, k).tolist(), strict=True))


@dataclass(frozen=True)
class Mean:
    """Mean of pass@1 over the languages of a scenario."""

    scenario: str
    languages: tuple[str, ...]
    estimate: Estimate


@dataclass(frozen=True)
class Summary:
    """Everything that reports show.

    Attributes:
        output: folder of the evaluation; ``header``: its header.
        tasks: scores, in the order of the tasks.
        means: over languages, for scenarios with several.
        judged: verdicts by task; ``samples``: generated samples by task.
    """

    output: Path
    header: dict[str, Any]
    tasks: list[TaskScore]
    means: list[Mean]
    judged: dict[str, dict[Key, Judged]] = field(repr=False)
    samples: dict[str, dict[Key, Sample]] = field(repr=False)


def summarize(output: Path, ks: Sequence[int] = KS) -> Summary:
    """Read an evaluation and compute its scores.

    Args:
        output: folder of the evaluation.
        ks: of pass@k; those that exceed the number of samples of a problem are left out.

    Raises:
        OctoError: no evaluation, or nothing was scored.
    """
    header = read_header(output)
    judged, samples = {}, {}
    for task in all_tasks():
        samples[task.name] = read_samples(samples_file(output, task.name))
        verdicts = read_verdicts(verdicts_file(output, task.name))
        if samples[task.name]:  # a sample that was made anew has no verdict yet
            verdicts = {key: each for key, each in verdicts.items() if key in samples[task.name]}
        if verdicts:
            judged[task.name] = verdicts
    if not judged:
        raise OctoError("nothing was scored", where=output, hint="evaluate score")
    tasks = [task_score(task_named(name), list(found.values()), header, ks) for name, found in judged.items()]
    return Summary(output, header, tasks, _means(tasks), judged, samples)


def task_score(task: Task, judged: Sequence[Judged], header: Mapping[str, Any], ks: Sequence[int] = KS) -> TaskScore:
    """Compute the score of one task from its verdicts."""
    counts: dict[int, tuple[int, int]] = {}
    for each in judged:
        n, c = counts.get(each.problem, (0, 0))
        counts[each.problem] = (n + 1, c + (each.verdict.kind == Kind.PASSED))
    pairs = np.array([counts[number] for number in sorted(counts)])
    least = int(pairs[:, 0].min())
    estimates = {}
    for k in ks:
        if k <= least:
            values = pass_at_k(pairs[:, 0], pairs[:, 1], k)
            estimates[k] = Estimate(float(values.mean()), interval(values))
    kinds = Counter(each.verdict.kind.value for each in judged)
    return TaskScore(
        task=task,
        samples=len(judged),
        n=least,
        counts=dict(sorted(counts.items())),
        estimates=estimates,
        kinds={kind.value: kinds[kind.value] for kind in Kind if kinds[kind.value]},
        cuts=dict(Counter(each.cut for each in judged).most_common()),
        levels=dict(sorted(Counter(each.verdict.level for each in judged).items())),
        missing=tuple(sorted(set(expected_problems(header, task.language)) - counts.keys())),
        cpu_s=sum(each.verdict.compile_cpu_s + each.verdict.run_cpu_s for each in judged),
    )


def expected_problems(header: Mapping[str, Any], language: str) -> list[int]:
    """Return the problems of a language that an evaluation is about; none if its header does not say."""
    text = header.get("run", {}).get("problems", {}).get(language, "")
    return parse_ranges(text, "evaluation.json: run.problems")


def write_scores(summary: Summary) -> Path:
    """Write ``scores.json`` and return its path."""
    path = summary.output / SCORES
    tasks = {score.task.name: _plain(score) for score in summary.tasks}
    means = {
        mean.scenario: {"languages": list(mean.languages), "pass@1": _estimate(mean.estimate)} for mean in summary.means
    }
    write_json(path, {"tasks": tasks, "means": means, "header": summary.header})
    return path


def _plain(score: TaskScore) -> dict[str, Any]:
    return {
        "problems": len(score.counts),
        "samples": score.samples,
        "samples_per_problem": score.n,
        **{f"pass@{k}": _estimate(estimate) for k, estimate in score.estimates.items()},
        "kinds": score.kinds,
        "cuts": score.cuts,
        "levels": {str(level): count for level, count in score.levels.items()},
        "missing": ranges(score.missing),
        "cpu_s": round(score.cpu_s, 3),
        "passed": {str(number): list(counts) for number, counts in score.counts.items()},
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, **asdict(estimate.interval)}


def _means(tasks: Sequence[TaskScore]) -> list[Mean]:
    """Average languages. A problem is the same in all of them: it is drawn with all its languages."""
    found = []
    for scenario in SCENARIOS:
        of = [score for score in tasks if score.task.scenario == scenario]
        if len(of) < 2:
            continue
        columns = [score.by_problem() for score in of]
        numbers = sorted(set.intersection(*(set(column) for column in columns)))
        values = np.array([[column[number] for number in numbers] for column in columns]).mean(axis=0)
        mean = float(np.mean([score.estimates[1].value for score in of]))
        bounds = interval(values) if numbers else Interval(0.0, 1.0, "none")
        found.append(Mean(scenario, tuple(score.task.language for score in of), Estimate(mean, bounds)))
    return found
