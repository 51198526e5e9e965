"""Tests of the comparison of two evaluations."""

from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.results.difference import compare
from megatron_octo.evaluation.results.summary import TaskScore, summarize
from tests.evaluation.small import scored, write_verdicts


def _scores(
    output: Path, passed: set[int], problems: int = 20, task: str = "synthesize-python"
) -> dict[str, TaskScore]:
    kinds = {number: Kind.PASSED if number in passed else Kind.WRONG for number in range(problems)}
    write_verdicts(output, f"humaneval{task}", [scored(number, 0, kind) for number, kind in kinds.items()])
    return summarize(output)


def test_gains_and_losses_are_named(tmp_path: Path) -> None:
    first, second = _scores(tmp_path / "a", {0, 1, 2}), _scores(tmp_path / "b", {1, 2, 3, 4})
    (found,) = compare(first, second)
    assert (found.gained, found.lost, found.problems) == ((3, 4), (0,), 20)
    assert found.change.value == pytest.approx(5.0) and not found.is_clear


def test_a_run_equals_itself(tmp_path: Path) -> None:
    scores = _scores(tmp_path, {0, 5})
    (found,) = compare(scores, scores)
    assert (found.change.value, found.change.low, found.change.high) == (0.0, 0.0, 0.0)
    assert not found.gained and not found.lost and not found.is_clear


def test_only_shared_problems_count(tmp_path: Path) -> None:
    first, second = _scores(tmp_path / "a", set(), 5), _scores(tmp_path / "b", set(range(20)), 20)
    (found,) = compare(first, second)
    assert found.problems == 5 and found.change.value == 100.0 and found.is_clear


def test_evaluations_of_other_tasks_cannot_be_compared(tmp_path: Path) -> None:
    first, second = _scores(tmp_path / "a", {0}), _scores(tmp_path / "b", {0}, task="fixdocs-go")
    with pytest.raises(OctoError, match="share no task"):
        compare(first, second)
