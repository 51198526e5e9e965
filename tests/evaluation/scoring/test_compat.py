"""Tests of scoring as the original harness does: its faults are there, and only in this mode."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.scoring.compat import compat_language, compat_texts
from megatron_octo.evaluation.scoring.judge import Job
from megatron_octo.evaluation.scoring.known import Totals, known_answers, score_answers, score_known
from tests.evaluation.benchmark.examples import needs_rows, unrepaired
from tests.evaluation.scoring.conftest import MakeJudge

_JS = Row(
    language="js",
    number=0,
    task_id="JavaScript/0",
    prompt="\nconst doubled = (x) => {\n",
    declaration="\nconst doubled = (x) => {\n",
    canonical_solution="  return 2 * x;\n}\n\n",
    buggy_solution="  return 3 * x;\n}\n\n",
    bug_type="",
    failure_symptoms="",
    entry_point="doubled",
    signature="",
    docstring="",
    instruction="",
    test="const testDoubled = () => {\n  console.assert(doubled(1) === 2);\n}\n\ntestDoubled()\n",
    example_test="",
)


def _kinds(make_judge: MakeJudge, row: Row, bodies: Sequence[str], *, compat: bool) -> list[Kind]:
    jobs = [Job(number, row, row.declaration.rstrip() + body) for number, body in enumerate(bodies)]
    found = {judged.job.key: judged.verdict for judged in make_judge(compat=compat).all(jobs)}
    return [found[number].kind for number in range(len(bodies))]


def test_python_runs_to_its_end_in_one_interpreter(benchmark: Path, make_judge: MakeJudge) -> None:
    row = read_rows(benchmark, "python")[0]
    bodies = [
        "\n" + row.canonical_solution,
        "\n" + row.buggy_solution,
        "\n    raise SystemExit(0)\n",
        "\n    import os; os._exit(0)\n",
        "\n    class Any(int):\n        def __eq__(self, other): return True\n    return Any()\n",
        "\n    print('x' * 5000)\n    return 2 * x\n",
        "\n    import subprocess; subprocess.Popen(['true'])\n",
    ]
    kinds = _kinds(make_judge, row, bodies, compat=True)
    assert kinds[:3] == [Kind.PASSED, Kind.WRONG, Kind.EXCEPTION]
    assert kinds[3:] == [Kind.EXCEPTION, Kind.PASSED, Kind.PASSED, Kind.EXCEPTION]
    # Equality of one's own is a fault of the original alone.
    assert _kinds(make_judge, row, bodies[4:5], compat=False) != [Kind.PASSED]


def test_javascript_passes_if_it_prints_nothing(make_judge: MakeJudge) -> None:
    bodies = ["\n" + _JS.canonical_solution, "\n" + _JS.buggy_solution, "\n  console.log(1); return 2 * x;\n}\n"]
    bodies += ["\n  process.exit(3);\n}\n"]
    kinds = _kinds(make_judge, _JS, bodies, compat=True)
    assert kinds == [Kind.PASSED, Kind.WRONG, Kind.EXCEPTION, Kind.PASSED]


@pytest.mark.slow
def test_compiled_programs_pass_by_their_exit_code(benchmark: Path, make_judge: MakeJudge) -> None:
    row = read_rows(benchmark, "cpp")[0]
    bodies = ["\n" + row.canonical_solution, "\n" + row.buggy_solution, "\n    exit(0);\n}\n", "\n    return\n}\n"]
    kinds = _kinds(make_judge, row, bodies, compat=True)
    assert kinds == [Kind.PASSED, Kind.WRONG, Kind.PASSED, Kind.COMPILE_ERROR]


def test_programs_are_those_of_all_answers_together() -> None:
    row = dataclasses.replace(
        _JS, language="go", task_id="Go/0", test_setup='package main\n\nimport (\n    "testing"\n)\n', test="// test\n"
    )
    alone = compat_texts(row, ["func A() {}"])[0]
    after = compat_texts(row, ['import "testing"\nfunc B() {}', "func A() {}"])[1]
    assert alone.digest != after.digest


def test_the_toolchain_is_told_apart_from_default_scoring(tmp_path: Path) -> None:
    from megatron_octo.evaluation.languages import language

    own, compat = language("python", tmp_path), compat_language("python", tmp_path)
    assert own.toolchain().digest != compat.toolchain().digest
    own.close()
    compat.close()


# What canonical solutions reach by the original's rules: numbers of the problems that fail.
_LOST = {
    ("python", "declaration"): set(),
    ("python", "prompt"): set(),
    ("js", "declaration"): set(),
    ("js", "prompt"): set(),
    ("go", "declaration"): {10, 32, 38, 50, 72, 90, 158},
    ("go", "prompt"): {27, 72, 90, 158},
    ("cpp", "declaration"): {38},
    ("cpp", "prompt"): set(),
    ("rust", "declaration"): {137, 145},
    ("rust", "prompt"): {137, 145},
}


@needs_rows
@pytest.mark.slow
@pytest.mark.parametrize("language,base", _LOST)
def test_canonical_solutions_reach_the_original_maxima(make_judge: MakeJudge, language: str, base: str) -> None:
    """The problems that fail, and of each language's others one in twenty."""
    lost = _LOST[language, base]
    rows = [row for row in unrepaired(language) if row.number in lost or row.number % 20 == 1]
    _, verdicts = score_answers(known_answers("canonical", rows, base), make_judge(compat=True), language)
    assert {answer.row.number for answer, verdict in verdicts if verdict.kind is not Kind.PASSED} == lost


@needs_rows
@pytest.mark.slow
def test_a_bug_of_cpp_passes_because_the_library_has_a_function_of_its_name(make_judge: MakeJudge) -> None:
    rows = {"cpp": [row for row in unrepaired("cpp") if row.number in (22, 23, 24)]}
    totals = Totals()
    lines = list(score_known("buggy", rows, ("declaration",), make_judge(compat=True), totals))
    assert totals.passed == totals.faults == 1 and any("CPP/23: passed" in line for line in lines)
