"""Scores of answers that no model wrote: the benchmark's own solutions, or those in a file."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task, task_named
from megatron_octo.evaluation.progress import Meter
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.scoring.judge import Job, Judge
from megatron_octo.evaluation.scoring.score import Tally
from megatron_octo.evaluation.scoring.self_check import KNOWN, known_answer

BASES = {"declaration": "fixtests", "prompt": "fixdocs"}  # scenario whose answers continue it


@dataclass(frozen=True)
class Answer:
    """An answer to a problem, and its number among the answers to it."""

    task: Task
    row: Row
    number: int
    text: str


def known_answers(which: str, rows: Sequence[Row], base: str) -> list[Answer]:
    """Return the answers ``canonical``, ``buggy`` or ``empty`` to rows, as a model would give them."""
    return [Answer(Task(BASES[base], row.language), row, 0, known_answer(row, which)) for row in rows]


def score_answers(answers: Sequence[Answer], judge: Judge, title: str) -> tuple[Tally, list[tuple[Answer, Verdict]]]:
    """Cut and judge answers; returns the tally, and each answer with its verdict in the order of the answers."""
    tally, found, started = Tally(), dict[int, Verdict](), time.monotonic()

    def jobs() -> Iterator[Job[int]]:
        for place, answer in enumerate(answers):
            made = cut(answer.task, answer.row, answer.text, compat=judge.compat)
            yield Job(place, answer.row, made.solution)

    with Meter(f"score {title}", len(answers)) as meter:
        for judged in judge.all(jobs()):
            tally.add(judged.verdict)
            found[judged.job.key] = judged.verdict
            meter.add(f"{tally.kinds[Kind.PASSED]:,} passed")
    tally.wall_s = time.monotonic() - started
    return tally, [(answer, found[place]) for place, answer in enumerate(answers)]


def file_answers(path: Path, rows: Mapping[str, Sequence[Row]], base: str) -> list[Answer]:
    """Read answers from lines of JSON.

    A line has ``task_id`` (``Python/0``) and ``completion``, which continues the base, as in HumanEval; or ``task``,
    ``problem`` and ``text``.

    Raises:
        OctoError: a line that is neither, or of a problem that the data do not have; names file and line.
    """
    by_id = {row.task_id: row for found in rows.values() for row in found}
    by_number = {(row.language, row.number): row for row in by_id.values()}
    counts: dict[tuple[Task, int], int] = {}
    answers = []
    for where, line in _lines(path):
        if isinstance(line.get("task_id"), str) and isinstance(line.get("completion"), str):
            row, text = by_id.get(line["task_id"]), line["completion"]
            task = Task(BASES[base], row.language) if row else None
            if row and task:  # an answer begins where the head ends without its blanks
                head = task.base(row)
                text = head[len(head.rstrip()) :] + text
        elif isinstance(line.get("task"), str) and isinstance(line.get("text"), str):
            task, text = task_named(line["task"]), line["text"]
            number = line.get("problem")
            row = by_number.get((task.language, number)) if isinstance(number, int) else None
        else:
            raise OctoError(
                "neither task_id and completion, nor task, problem and text",
                where=where,
                hint='{"task_id": "Python/0", "completion": "..."}',
            )
        if row is None or task is None:
            raise OctoError("no such problem in the data", where=where, hint="check --data, --tasks and --limit")
        place = counts.get((task, row.number), 0)
        counts[task, row.number] = place + 1
        answers.append(Answer(task, row, place, text))
    if not answers:
        raise OctoError("no answers", where=path)
    return answers


@dataclass
class Totals:
    """Counts over languages and bases; ``faults``: known answers that did not end as they should."""

    answers: int = 0
    passed: int = 0
    faults: int = 0


def score_known(
    source: str, rows: Mapping[str, Sequence[Row]], bases: Sequence[str], judge: Judge, totals: Totals
) -> Iterator[str]:
    """Score known answers, or those of a file; yields lines for the user, one per base and language.

    Args:
        source: ``canonical``, ``buggy``, ``empty`` or a file.
        rows: by language.
        bases: of BASES.
        judge: for the programs.
        totals: counted up.
    """
    for base in bases:
        given = [] if source in KNOWN else file_answers(Path(source), rows, base)
        for name, found in rows.items():
            answers = [answer for answer in given if answer.row.language == name]
            if source in KNOWN:
                answers = known_answers(source, found, base)
            if not answers:
                continue
            tally, verdicts = score_answers(answers, judge, f"{source}, {name}, {base}")
            passed = tally.kinds[Kind.PASSED]
            totals.answers, totals.passed = totals.answers + len(answers), totals.passed + passed
            head = f"{name:7} {base:12} {source} {passed}/{len(answers)}"
            yield f"{head}  ({tally.words}); {tally.cached} from the cache; {tally.seconds}"
            for answer, verdict in verdicts:
                if source in KNOWN and (verdict.kind is Kind.PASSED) != (source == "canonical"):
                    totals.faults += 1
                    yield f"  {answer.row.task_id}: {verdict.kind}: {verdict.detail[:200].replace(chr(10), ' ')}"
    yield f"{source} {totals.passed}/{totals.answers}"


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OctoError("no such file", where=path, hint=f"{', '.join(KNOWN)}, or a file of answers") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OctoError(f"cannot be read: {error}", where=path) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise OctoError(f"not JSON: {error}", where=where) from None
        if not isinstance(value, dict):
            raise OctoError("not a JSON object", where=where)
        yield where, value
