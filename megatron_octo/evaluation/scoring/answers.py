"""Answers that no model wrote: the benchmark's own solutions, or those in a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task, task_named
from megatron_octo.evaluation.scoring.score import Work

KNOWN = ("canonical", "buggy", "empty")
SCENARIOS = {"declaration": "fixtests", "prompt": "synthesize"}  # scenario whose answers continue a base


def known_answers(kind: str, base: str, rows: Mapping[str, Sequence[Row]]) -> list[Work]:
    """Return the answers of a kind to all problems.

    Args:
        kind: ``canonical``, ``buggy`` or ``empty``.
        base: ``declaration`` or ``prompt``: what the answer continues.
        rows: by language.
    """
    works = []
    for language, problems in rows.items():
        task = Task(SCENARIOS[base], language)
        works += [Work(task, row, 0, _text(kind, row)) for row in problems]
    return works


def file_answers(path: Path, base: str, rows: Mapping[str, Sequence[Row]]) -> list[Work]:
    """Read answers from lines of JSON.

    A line has ``task_id`` (``Python/0``) and ``completion``, which continues the base, as in HumanEval; or ``task``,
    ``problem``, ``sample`` and ``text``, as ``evaluate generate`` writes them.

    Raises:
        OctoError: a line that is neither, or of a problem that the data do not have; names file and line.
    """
    by_id = {row.task_id: row for problems in rows.values() for row in problems}
    by_number = {(row.language, row.number): row for row in by_id.values()}
    counts: dict[str, int] = {}
    works = []
    for where, line in _lines(path):
        if isinstance(line.get("task_id"), str) and isinstance(line.get("completion"), str):
            row = by_id.get(line["task_id"])
            sample = counts.get(line["task_id"], 0)
            counts[line["task_id"]] = sample + 1
            if row is not None:
                works.append(Work(Task(SCENARIOS[base], row.language), row, sample, line["completion"]))
        elif isinstance(line.get("task"), str) and isinstance(line.get("text"), str):
            task = task_named(line["task"])
            row = by_number.get((task.language, _number(line, "problem", where)))
            if row is not None:
                works.append(Work(task, row, _number(line, "sample", where), line["text"]))
        else:
            raise OctoError(
                "neither task_id and completion nor task, problem, sample and text",
                where=where,
                hint='{"task_id": "Python/0", "completion": "..."}',
            )
        if row is None:
            raise OctoError("no such problem in the data", where=where, hint="check --data, --languages and --limit")
    keys = [work.key for work in works]
    if len(set(keys)) != len(keys):
        raise OctoError("the same sample comes twice", where=path)
    if not works:
        raise OctoError("no answers", where=path)
    return works


def _text(kind: str, row: Row) -> str:
    if kind == "empty":
        return ""
    return "\n" + (row.canonical_solution if kind == "canonical" else row.buggy_solution)


def _number(line: dict[str, Any], name: str, where: str) -> int:
    value = line.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise OctoError(f"{name} is not a number", where=where)
    return value


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OctoError("no such file", where=path, hint=f"--solutions {'|'.join(KNOWN)} or a file") from None
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
