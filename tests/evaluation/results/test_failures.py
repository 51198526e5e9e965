"""Tests of the samples that did not pass, and of the prompts that led to them."""

from pathlib import Path

import pytest

from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.results.failures import Prompts, failures
from tests.evaluation.small import scored, write_benchmark, write_samples, write_verdicts

_TASK = Task("synthesize", "python")


def test_equal_programs_of_a_problem_come_once(tmp_path: Path) -> None:
    verdicts = [scored(1, number, Kind.WRONG, program="same") for number in (0, 2)]
    verdicts += [scored(1, 1), scored(1, 3, Kind.MEMORY), scored(0, 0), scored(2, 0, Kind.WRONG, program="same")]
    write_verdicts(tmp_path, _TASK.name, verdicts)
    first, second = failures(tmp_path, _TASK)
    assert (first.number, first.total, first.passed) == (1, 4, 1)
    assert [each.samples for each in first.failing] == [(0, 2), (3,)]
    assert (second.number, second.total, second.passed) == (2, 1, 0)


def test_prompts_are_made_again_with_the_description_of_their_sample(tmp_path: Path) -> None:
    data = write_benchmark(tmp_path / "data")
    write_samples(tmp_path / "e", data, lambda row, number: f" Number {number}.", {"explaindescribe": 2})
    prompts = Prompts(tmp_path / "e", records.read_header(tmp_path / "e"), str(data))
    shown = prompts.text(Task("explainsynthesize", "python"), 0, 1)
    assert shown is not None and "Number 1." in shown and shown.endswith("def doubled(x: int) -> int:")
    assert prompts.text(_TASK, 0, 0) is not None and not prompts.problem


@pytest.mark.parametrize(
    "prompt,data,problem",
    [
        ("", "x", "no model was asked"),
        ("chat", "x", "chat template"),
        ("octocoder", None, "--data DIR shows prompts"),
        ("octocoder", "/nowhere", "no prompt: no rows"),
        ("nothing.yaml", "x", "no prompt"),
    ],
)
def test_why_there_is_no_prompt_is_said(tmp_path: Path, prompt: str, data: str | None, problem: str) -> None:
    prompts = Prompts(tmp_path, {"generation": {"prompt": prompt}}, data)
    assert prompts.text(_TASK, 0, 0) is None and problem in prompts.problem
