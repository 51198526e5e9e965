"""Samples that did not pass, put together so that a page can show each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.cutting import description
from megatron_octo.evaluation.benchmark.prompts import CHAT, load_prompt
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind, Sample, ScoredSample


@dataclass(frozen=True)
class Failing:
    """Samples of one problem with the same program: their numbers, and the verdict of the first."""

    samples: tuple[int, ...]
    scored: ScoredSample


@dataclass(frozen=True)
class Problem:
    """One problem with failures; ``total`` and ``passed`` count its samples."""

    number: int
    total: int
    passed: int
    failing: tuple[Failing, ...]


def failures(output: Path, task: Task) -> list[Problem]:
    """Return the problems of a task with samples that did not pass; equal programs come once."""
    counts: dict[int, list[int]] = {}
    programs: dict[int, dict[str, list[ScoredSample]]] = {}
    for _, scored in sorted(records.read_verdicts(output, task.name).items()):
        count = counts.setdefault(scored.problem, [0, 0])
        count[0] += 1
        if scored.verdict.kind is Kind.PASSED:
            count[1] += 1
        else:
            programs.setdefault(scored.problem, {}).setdefault(scored.program, []).append(scored)
    found = []
    for number, of in programs.items():
        failing = tuple(Failing(tuple(each.sample for each in same), same[0]) for same in of.values())
        found.append(Problem(number, counts[number][0], counts[number][1], failing))
    return found


class Prompts:
    """The prompts of an evaluation, made again from its header and the benchmark's rows.

    Attributes:
        problem: why there are none; empty while there are.
    """

    def __init__(self, output: Path, header: Mapping[str, Any], data: str | None) -> None:
        """Take an evaluation.

        Args:
            output: its directory.
            header: of it.
            data: where the rows are; None: not known.
        """
        self._output, self._data = output, data
        self._rows: dict[str, dict[int, Row]] = {}
        self._described: dict[str, dict[tuple[int, int], Sample]] = {}
        self._make: Callable[[Task, Row, str | None], str] | None = None
        name, self.problem = str(header.get("generation", {}).get("prompt", "")), ""
        if not name:
            self.problem = "no model was asked"
        elif name == CHAT:
            self.problem = "the prompt was made by the chat template of the model's tokenizer"
        elif data is None:
            self.problem = "evaluate report --data DIR shows prompts"
        else:
            try:
                self._make = load_prompt(name).text
            except OctoError as error:
                self.problem = f"no prompt: {error.what}"

    def text(self, task: Task, number: int, sample: int) -> str | None:
        """Return the prompt of a sample; None if it cannot be made, and ``problem`` then says why."""
        if self._make is None or self._data is None:
            return None
        try:
            if task.language not in self._rows:
                self._rows[task.language] = {row.number: row for row in read_rows(self._data, task.language)}
            row = self._rows[task.language][number]
            return self._make(task, row, self._description(task, row, sample))
        except (OctoError, KeyError) as error:
            self.problem = f"no prompt: {error.what if isinstance(error, OctoError) else f'no problem {number}'}"
            self._make = None
            return None

    def _description(self, task: Task, row: Row, sample: int) -> str | None:
        if task.scenario != "explainsynthesize":
            return None
        name = Task("explaindescribe", task.language).name
        if name not in self._described:
            self._described[name] = records.read_samples(self._output, name)
        found = self._described[name].get((row.number, sample))
        return None if found is None else description(row, found.text)
