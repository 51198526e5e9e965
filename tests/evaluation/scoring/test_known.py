"""Tests of scoring answers that no model wrote."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.scoring.known import BASES, Totals, file_answers, score_known
from tests.evaluation.scoring.conftest import MakeJudge


@pytest.fixture
def rows(benchmark: Path) -> dict[str, list[Row]]:
    return {name: read_rows(benchmark, name) for name in ("python", "cpp")}


@pytest.mark.parametrize("which,passed", [("canonical", 12), ("buggy", 0), ("empty", 0)])
@pytest.mark.slow
def test_known_answers_end_as_they_should(
    rows: dict[str, list[Row]], make_judge: MakeJudge, which: str, passed: int
) -> None:
    totals = Totals()
    lines = list(score_known(which, rows, tuple(BASES), make_judge(), totals))
    assert (totals.answers, totals.passed, totals.faults) == (12, passed, 0)
    assert lines[-1] == f"{which} {passed}/12"


def test_faults_are_named(rows: dict[str, list[Row]], make_judge: MakeJudge) -> None:
    import dataclasses

    broken = {
        "python": [dataclasses.replace(row, canonical_solution="    return None\n") for row in rows["python"][:1]]
    }
    totals = Totals()
    lines = list(score_known("canonical", broken, ("prompt",), make_judge(), totals))
    assert totals.faults == 1 and "Python/0: wrong" in lines[1]


def test_answers_come_from_a_file(rows: dict[str, list[Row]], make_judge: MakeJudge, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines: list[dict[str, object]] = [
        {"task_id": row.task_id, "completion": row.canonical_solution} for row in rows["python"]
    ]
    lines += [{"task_id": "Python/0", "completion": "    return 3 * x\n"}]
    lines += [{"task": "humanevalfixtests-cpp", "problem": 1, "text": "\n" + rows["cpp"][1].canonical_solution}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    totals = Totals()
    printed = list(score_known(str(path), rows, ("prompt",), make_judge(), totals))
    assert (totals.answers, totals.passed, totals.faults) == (5, 4, 0)
    assert len(printed) == 3


@pytest.mark.parametrize(
    "line,what",
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"task_id": "Python/0"}', "neither task_id and completion"),
        ('{"task_id": "Python/9", "completion": ""}', "no such problem"),
        ('{"task": "humanevalsynthesize-python", "problem": "x", "text": ""}', "no such problem"),
        ('{"task": "humaneval-python", "problem": 0, "text": ""}', "unknown task"),
        ("", "no answers"),
    ],
)
def test_bad_files_are_refused(rows: dict[str, list[Row]], tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(OctoError, match=what):
        file_answers(path, rows, "prompt")
    with pytest.raises(OctoError, match="no such file"):
        file_answers(tmp_path / "missing", rows, "prompt")
