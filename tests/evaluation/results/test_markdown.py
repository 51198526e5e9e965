"""Tests of the Markdown report."""

from pathlib import Path

from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES, Kind
from megatron_octo.evaluation.results.difference import compare
from megatron_octo.evaluation.results.markdown import markdown, published_rows, score_rows, table
from megatron_octo.evaluation.results.summary import summarize
from tests.evaluation.small import scored, write_verdicts


def test_a_cell_cannot_end_its_column() -> None:
    assert table(("a", "b"), [["x|y", "1"]]).splitlines()[-1] == "| x\\|y | 1 |"


def test_six_languages_have_a_mean_with_an_interval_and_five_have_none(tmp_path: Path) -> None:
    for language in LANGUAGES:
        kinds = [Kind.PASSED if number % 2 else Kind.WRONG for number in range(10)]
        verdicts = [scored(number, 0, kind) for number, kind in enumerate(kinds)]
        write_verdicts(tmp_path, Task("synthesize", language).name, verdicts)
    scores = summarize(tmp_path)
    (row,) = score_rows(scores, 1)
    assert row[0] == "synthesize" and row[-1] == row[1] == "50.0 (23.7 to 76.3)"
    del scores["humanevalsynthesize-go"]
    (row,) = score_rows(scores, 1)
    assert row[-1] == row[1 + LANGUAGES.index("go")] == ""


def test_published_rows_have_all_columns() -> None:
    rows = published_rows()
    assert {len(row) for row in rows} == {3 + len(LANGUAGES)}
    assert ["synthesize", "GPT-4", "86.6", "82.9", "81.7", "72.6", "78.7", "67.1", "78.3"] in rows


def test_everything_is_in_the_report(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "a", "humanevalfixdocs-go", [scored(0, 0, Kind.MEMORY, cut="fence")])
    write_verdicts(tmp_path / "b", "humanevalfixdocs-go", [scored(0, 0)])
    first, second = summarize(tmp_path / "a"), summarize(tmp_path / "b")
    text = markdown(first, {"generation": {"prompt": "octocoder"}}, compare(first, second))
    for part in ("memory", "1 fence", "+100.0", "| generation.prompt | octocoder |", "Published"):
        assert part in text
