"""Samples: the same rows whatever the order, few bytes of them, and each edit shows."""

import dataclasses
import random

import pytest

from megatron_octo.commits.report.samples import Samples, about, edit, lean
from megatron_octo.commits.rows import Row
from tests.commits.report.made import EVIL, made_row


def chosen(rows: list[Row], most: int = 5, seed: int = 0) -> list[str]:
    samples = Samples(most, seed)
    for row in rows:
        samples.offer(row)
    return [row.commit for row in samples.rows]


def test_the_choice_depends_on_commits_and_seed_alone() -> None:
    rows = [made_row(number) for number in range(1, 300)]
    five = chosen(rows)
    assert len(set(five)) == 5
    assert chosen(random.Random(0).sample(rows, len(rows))) == five
    assert chosen(rows, 9)[:5] == five and chosen(rows, seed=1) != five
    assert chosen(rows, 0) == [] and len(chosen(rows[:3], 5)) == 3


def test_large_rows_and_rows_without_contents_are_no_samples() -> None:
    large, without = made_row(1), made_row(2)
    large.message, without.new_contents = "x" * 70_000, None
    assert chosen([large, without]) == []


def test_a_chosen_row_holds_what_is_shown() -> None:
    row = dataclasses.replace(
        made_row(1), repos="r," * 10**6, signals={"inputs": "x" * 10**6}, author="a" * 10**6, subject="s" * 10**4
    )
    assert sum(len(str(value)) for value in dataclasses.asdict(lean(row)).values()) < 1000
    assert len(about(row)) > 10**6 > 1000 > len(about(lean(row)))


def lines(old: str | None, new: str | None) -> list[tuple[str, str]]:
    return [each for each in edit(Row("a", old_contents=old, new_contents=new)) if each[0] != "place"]


def test_edits() -> None:
    assert lines("a\nb\n", "a\nc\n") == [("", " a"), ("old", "-b"), ("new", "+c")]
    assert lines(None, "a\n") == [("new", "+a")] and lines("a\n", "") == [("old", "-a")]
    assert lines("a\n", "a\n") == []
    assert lines("-- x\n", "++ y\n") == [("old", "--- x"), ("new", "+++ y")]


@pytest.mark.parametrize(
    ("old", "new"), [("a\r\n", "a\n"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\x0cb\n", "a\nb\n"), ("a\u2028b", "ab")]
)
def test_each_change_shows(old: str, new: str) -> None:
    shown = lines(old, new)
    assert {kind for kind, _ in shown} & {"old", "new"}
    assert "\r" not in str(shown) and "\u2028" not in str(shown)


def test_long_edits_and_lines_are_cut() -> None:
    shown = list(edit(Row("a", old_contents="x\n" * 1000, new_contents="y" * 5000 + "\n" + EVIL)))
    assert len(shown) == 201 and shown[-1] == ("place", "...")
    assert max(len(line) for _, line in shown) <= 403
    assert all(line.isprintable() for _, line in shown)
