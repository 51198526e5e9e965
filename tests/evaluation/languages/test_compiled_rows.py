"""Rows of the benchmark in compiled languages: those that need a rule of their own, and some others."""

import dataclasses

import pytest

from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from tests.evaluation.languages.compiled_rows import judge_of
from tests.places import SHARED

# Missing helpers, unused imports, a body in the declaration, items after the function, libraries, random numbers.
NUMBERS = {
    "cpp": (0, 22, 23, 38, 94, 137, 162),
    "go": (10, 27, 32, 38, 50, 72, 90, 158, 162),
    "rust": (32, 38, 50, 91, 137, 145, 162),
}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared is not here")
@pytest.mark.parametrize("language", ["cpp", "go", "rust"])
def test_right_solutions_pass_and_others_do_not(language: str) -> None:
    judging = judge_of(language)
    if not judging.toolchain().found:
        pytest.skip(f"no toolchain for {language}")
    rows: list[Row] = [row for row in read_rows(SHARED, language) if row.number in NUMBERS[language]]
    declared, documented = Task("fixtests", language), Task("fixdocs", language)
    with Sandbox(probe_level(), slot=8) as box:

        def passes(row: Row, solution: str) -> bool:
            verdict = judging.judge(judging.program(row, solution), box, Limits())
            assert verdict.kind != Kind.INFRASTRUCTURE, verdict.detail
            return verdict.kind == Kind.PASSED

        found = [
            (
                row.number,
                passes(row, declared.base(row) + row.canonical_solution),
                passes(row, documented.base(row) + row.canonical_solution),
                passes(row, declared.base(row) + row.buggy_solution),
            )
            for row in rows
        ]
        assert not passes(rows[0], declared.base(rows[0]))
    assert found == [(number, True, True, False) for number in NUMBERS[language]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared is not here")
@pytest.mark.parametrize("language", ["cpp", "go", "rust"])
def test_every_row_makes_a_program_and_none_is_taken_for_a_trick(language: str) -> None:
    judging = judge_of(language)
    for row in read_rows(SHARED, language):
        for solution in (row.canonical_solution, row.buggy_solution, ""):
            for base in (row.declaration, row.prompt):
                program = judging.program(row, base + solution)
                assert judging.tampering(program) is None, row.task_id
        assert program.digest != judging.program(dataclasses.replace(row, test=f"{row.test} "), base).digest
