"""Samples that did not pass, put together so that a page can show each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.cutting import description
from megatron_octo.evaluation.benchmark.prompts import CHAT, load_prompt
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Judged, Kind
from megatron_octo.evaluation.results.summary import Summary


@dataclass(frozen=True)
class Failing:
    """Samples of one problem with the same program: their numbers, and the verdict of the first."""

    samples: tuple[int, ...]
    judged: Judged


@dataclass(frozen=True)
class Problem:
    """One problem with failures; ``total`` and ``passed`` count its samples."""

    number: int
    total: int
    passed: int
    failing: list[Failing]


def failures(summary: Summary, task: Task) -> list[Problem]:
    """Return the problems of a task with samples that did not pass; equal programs come once."""
    by_problem: dict[int, dict[str, list[Judged]]] = {}
    for judged in sorted(summary.judged[task.name].values(), key=lambda each: each.key):
        if judged.verdict.kind != Kind.PASSED:
            by_problem.setdefault(judged.problem, {}).setdefault(judged.program, []).append(judged)
    counts = next(score.counts for score in summary.tasks if score.task == task)
    return [
        Problem(
            number, *counts[number], [Failing(tuple(each.sample for each in same), same[0]) for same in of.values()]
        )
        for number, of in sorted(by_problem.items())
    ]


class Prompts:
    """The prompts of an evaluation, made again from its header and data."""

    def __init__(self, summary: Summary, data: str | Path | None) -> None:
        """Take the evaluation; ``data`` replaces the place of the rows that its header names."""
        run = summary.header.get("run", {})
        self._data = str(data or summary.header.get("about", {}).get("data", ""))
        self._name, self._summary = str(run.get("prompt", "")), summary
        self._rows: dict[str, dict[int, Row]] = {}
        self._make: Callable[[Task, Row, str | None], str] | None = None
        self.problem = ""
        if not self._name:
            self.problem = "no model was asked"
        elif self._name == CHAT:
            self.problem = "the tokenizer's chat template made the prompt"
        else:
            try:
                self._make = load_prompt(self._name).text
            except OctoError as error:
                self.problem = f"no prompt: {error.what}"

    def text(self, task: Task, number: int, sample: int) -> str | None:
        """Return the prompt of a sample; None if it cannot be made, and ``problem`` then says why."""
        if self._make is None:
            return None
        try:
            if task.language not in self._rows:
                self._rows[task.language] = {row.number: row for row in read_rows(self._data, task.language)}
            row = self._rows[task.language][number]
            return self._make(task, row, self._description(task, row, sample))
        except (OctoError, KeyError) as error:
            self.problem = f"no prompt: {getattr(error, 'what', error)}"
            self._make = None
            return None

    def _description(self, task: Task, row: Row, sample: int) -> str | None:
        if task.scenario != "explainsynthesize":
            return None
        name = Task("explaindescribe", task.language).name
        found = self._summary.samples.get(name, {}).get((name, row.number, sample))
        return None if found is None else description(row, found.text)
