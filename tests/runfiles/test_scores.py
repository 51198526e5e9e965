"""Scores of saved models: what is read back, what counts after restarts, and what is passed over."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.runfiles import scores
from megatron_octo.runfiles.scores import Score, ScoreLine, TaskScores


def a_line(step: int, attempt: int = 1, value: float = 50.0) -> ScoreLine:
    found = TaskScores({"1": Score(value, value - 10, value + 10)}, problems=5, samples=10)
    return ScoreLine(step=step, attempt=attempt, kind="weights", time=1.0, seconds=2.0, tasks={"a-python": found})


def test_lines_are_read_back(tmp_path: Path) -> None:
    lines = [a_line(10), a_line(20, value=60.0)]
    for line in lines:
        scores.append_scores(tmp_path, line)
    assert scores.read_scores(tmp_path) == lines
    assert scores.task_names(lines) == ["a-python"]
    assert str(lines[0].tasks["a-python"].passes["1"]) == "50.0 % [40.0, 60.0]"
    assert scores.read_scores(tmp_path / "none") == []


def test_a_save_that_a_later_attempt_replaced_does_not_count(tmp_path: Path) -> None:
    lines = [a_line(10), a_line(20), a_line(30), a_line(20, attempt=2), a_line(30, attempt=2)]
    for order in (lines, lines[::-1]):  # whatever was scored first
        kept = [(line.step, line.attempt) for line in scores.scores_that_count(order)]
        assert kept == [(10, 1), (20, 2), (30, 2)]
    assert scores.scores_that_count([]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": "x"},
        {"kind": "<b>"},
        {"seconds": float("nan")},
        {"tasks": {"t": {"passes": {"1": {"value": 101, "low": 0, "high": 0}}, "problems": 1, "samples": 1}}},
        {"tasks": {"t": {"passes": {"one": {"value": 1, "low": 0, "high": 2}}, "problems": 1, "samples": 1}}},
        {"tasks": [1]},
    ],
)
def test_bad_lines_are_passed_over(tmp_path: Path, change: dict[str, object]) -> None:
    scores.append_scores(tmp_path, a_line(10))
    record = json.loads((tmp_path / "scores.jsonl").read_text())
    with open(tmp_path / "scores.jsonl", "a") as file:
        file.write(json.dumps({**record, **change}) + "\n" + '{"step": 1')
    said: list[str] = []
    assert [line.step for line in scores.read_scores(tmp_path, said.append)] == [10]
    assert len(said) == 1 and "scores.jsonl: 1 line passed over" in said[0]
    scores.append_scores(tmp_path, a_line(20))  # behind a line that a kill cut short
    assert [line.step for line in scores.read_scores(tmp_path)] == [10, 20]


def test_result_of_the_stage(tmp_path: Path) -> None:
    assert scores.read_result(tmp_path) == {}
    path = tmp_path / "evaluation" / "scores.json"
    path.parent.mkdir()
    score = {"value": 20.0, "low": 3.5, "high": 62.5}
    path.write_text(json.dumps({"tasks": {"a-python": {"pass@1": score, "problems": 5}, "b-python": {"problems": 2}}}))
    assert scores.read_result(tmp_path) == {"a-python": Score(**score)}
    found = scores.task_scores({"pass@1": score, "pass@10": score, "problems": 5, "samples": 9, "kinds": {}}, path)
    assert list(found.passes) == ["1", "10"] and (found.problems, found.samples) == (5, 9)
    with pytest.raises(OctoError, match="not a valid record"):
        scores.task_scores({"pass@1": score}, path)
    said: list[str] = []
    for text in ("{", "[]", '{"tasks": 3}', '{"tasks": {"a": {"pass@1": {"value": "x"}}}}'):
        path.write_text(text)
        assert scores.read_result(tmp_path, said.append) == {}
    assert len(said) == 4
