"""Tests of repairs."""

from dataclasses import asdict

import pytest

from megatron_octo.evaluation.benchmark.heads import head_of
from megatron_octo.evaluation.benchmark.repairs import repaired_row, repairs
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import needs_rows, published, row, unrepaired


def test_leaves_other_texts_alone() -> None:
    assert repaired_row(row("java")) == row("java")
    assert repaired_row(row("rust", example_test="None")).example_test == ""


def test_each_has_a_reason() -> None:
    for (language, number), entries in repairs().items():
        assert language in LANGUAGES
        assert number == "all" or int(number) in range(164)
        assert all(len(entry["reason"]) > 10 for entry in entries)


@needs_rows
def test_each_changes_its_field_and_nothing_else() -> None:
    wanted = {
        (language, number, entry["field"]) for (language, number), entries in repairs().items() for entry in entries
    }
    found = {
        (language, "all" if name == "example_test" else before.number, name)
        for language in LANGUAGES
        for before, after in zip(unrepaired(language), published(language), strict=True)
        for name in asdict(before)
        if getattr(before, name) != getattr(after, name)
    }
    assert found == wanted


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
def test_entry_points_are_names_of_functions(language: str) -> None:
    for found in published(language):
        for scenario in ("fixtests", "fixdocs"):
            assert head_of(language, Task(scenario, language).base(found).rstrip()).name == found.entry_point
