"""Tests of the check of a language before its scores count."""

import dataclasses
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import read_rows
from megatron_octo.evaluation.scoring.self_check import check_language, require
from tests.evaluation.scoring.conftest import MakeJudge


@pytest.mark.parametrize("language", ["python", "cpp"])
@pytest.mark.slow
def test_right_solutions_pass_and_buggy_ones_do_not(benchmark: Path, make_judge: MakeJudge, language: str) -> None:
    check = check_language(read_rows(benchmark, language), make_judge())
    assert (check.passed, check.forgiven, check.of) == (3, 0, 3)
    require(language, check)


def test_a_language_that_judges_wrongly_is_refused(benchmark: Path, make_judge: MakeJudge) -> None:
    rows = [
        dataclasses.replace(row, canonical_solution=row.buggy_solution, buggy_solution=row.canonical_solution)
        for row in read_rows(benchmark, "python")
    ]
    check = check_language(rows, make_judge())
    assert (check.passed, check.forgiven) == (0, 3)
    with pytest.raises(OctoError, match="python is not scored: 0 of 3 right solutions pass and 3 buggy ones"):
        require("python", check)
