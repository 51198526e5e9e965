from pathlib import Path

import pytest

from megatron_octo.evaluation.languages import go
from megatron_octo.evaluation.languages.go import Go
from megatron_octo.evaluation.records import Kind
from tests.evaluation.languages.compiled_rows import RIGHT, TESTS, judge, judge_of, row

# What testify's Equal says of pairs of values.
EQUAL = (
    "[]byte{1}, []byte{1}",
    "[]int{1}, []int{1}",
    "nil, nil",
    "map[int]int{1: 2}, map[int]int{1: 2}",
    "[]byte{}, []byte{}",
)
UNEQUAL = (
    "1, int64(1)",
    "nil, []int(nil)",
    "[]int{}, []int(nil)",
    "[]byte{}, []byte(nil)",
    "[]byte{1}, []int{1}",
    "Greet, Greet",
)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(go, "_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GO", raising=False)
    toolchain = Go(tmp_path / "cache").toolchain()
    assert (toolchain.found, toolchain.missing) == (False, ("apt: golang-go",))


def test_solutions_cannot_import_what_tests_are_made_with() -> None:
    judging = judge_of("go")
    if not judging.toolchain().found:
        pytest.skip("no toolchain for go")
    folder = judging.compiler(judging.program(row("go"), RIGHT["go"])).shared
    solution, test = ((folder / name).read_text().splitlines() for name in ("solution.cfg", "main.cfg"))
    names = [{line.split("=")[0].removeprefix("packagefile ") for line in lines} for lines in (solution, test)]
    assert names[1] - names[0] == {"assert", "testing", "solution"}
    assert {"strings", "math/rand"} <= names[0]


@pytest.mark.slow
def test_equality_is_that_of_testify() -> None:
    if not judge_of("go").toolchain().found:
        pytest.skip("no toolchain for go")

    def kind(pair: str) -> Kind:
        test = TESTS["go"].replace('"hello a", Greet("a")', pair)
        return judge("go", RIGHT["go"], test=test).kind

    assert [pair for pair in EQUAL if kind(pair) != Kind.PASSED] == []
    assert [pair for pair in UNEQUAL if kind(pair) != Kind.WRONG] == []
