"""Tests of scores: counts, intervals over problems, means over languages."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.results.summary import mean_of, score_task, summarize, write_scores
from tests.evaluation.small import scored, write_verdicts

_TASK = Task("synthesize", "python")


def _verdicts(passed: dict[int, int], samples: int) -> dict[tuple[int, int], object]:
    return {
        (problem, number): scored(problem, number, Kind.PASSED if number < count else Kind.WRONG)
        for problem, count in passed.items()
        for number in range(samples)
    }


def test_pass_at_1_is_the_mean_share_and_ks_beyond_the_samples_are_left_out(tmp_path: Path) -> None:
    score = score_task(_TASK, _verdicts({0: 10, 1: 0, 2: 5}, 10))  # type: ignore[arg-type]
    assert score.scores[1].value == pytest.approx(50.0)
    assert set(score.scores) == {1, 10}
    assert score.scores[10].value == pytest.approx(100 * 2 / 3)
    assert score.counts == {0: (10, 10), 1: (10, 0), 2: (10, 5)}
    assert score.kinds == {"passed": 15, "wrong": 15} and score.levels == {"2": 30}


def test_problems_with_unlike_numbers_of_samples_weigh_the_same() -> None:
    verdicts = _verdicts({0: 4}, 4) | _verdicts({1: 0}, 1)
    assert score_task(_TASK, verdicts).scores[1].value == pytest.approx(50.0)  # type: ignore[arg-type]


def test_what_was_not_judged_gives_no_score() -> None:
    with pytest.raises(OctoError, match="1 samples could not be judged"):
        score_task(_TASK, {(0, 0): scored(0, 0, Kind.INFRASTRUCTURE)})


def test_the_mean_of_languages_draws_a_problem_with_all_its_languages() -> None:
    verdicts = _verdicts({number: number % 2 for number in range(40)}, 1)
    one = score_task(_TASK, verdicts)  # type: ignore[arg-type]
    two = score_task(Task("synthesize", "go"), verdicts)  # type: ignore[arg-type]
    mean = mean_of([one, two], 1)
    # The same problems fail in both: the mean is no surer than one of them.
    assert mean == one.scores[1]


def test_scores_are_written_with_the_header(tmp_path: Path) -> None:
    write_verdicts(tmp_path, _TASK.name, [scored(0, 0), scored(1, 0, Kind.MEMORY)])
    scores = summarize(tmp_path)
    write_scores(tmp_path, scores)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["tasks"][_TASK.name]["pass@1"]["value"] == 50.0
    assert written["tasks"][_TASK.name]["kinds"] == {"passed": 1, "memory": 1}
    assert written["header"]["scoring"] == {"compat": False}


def test_a_directory_without_verdicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no verdicts"):
        summarize(tmp_path)
