"""Programs among authors: by name, by address, and by the subject where no author is known."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import Row
from megatron_octo.commits.tables.bots import bot_reason, is_bot


@pytest.mark.parametrize(
    ("person", "bot"),
    [
        ("dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>", True),
        ("GitHub Actions <41898282+github-actions@users.noreply.github.com>", True),
        ("renovate-bot <a@b.c>", True),
        ("Renovate Bot", True),
        ("  bors  <a@b.c>  ", True),
        ("Anna <12+renovate@users.noreply.github.com>", True),
        ("Anna <a> <b@c.d>", False),
        ("Anna <a>b>", False),
        ("x" + " " * 300_000 + "y", False),  # in linear time
        ("Abbot Costello <a@b.c>", False),
        ("Bottger <bot@firm.example>", False),
        ("", False),
    ],
)
def test_persons(person: str, bot: bool) -> None:
    assert is_bot(person) is bot


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(alphabet="a@<>+[] \n", max_size=20), st.text(max_size=40))
def test_odd_persons_raise_nothing(author: str, committer: str, subject: str) -> None:
    found = bot_reason(Row("a", subject=subject, author=author, committer=committer))
    assert found is None or isinstance(found, str)


def test_the_subject_decides_only_without_an_author() -> None:
    subject = "Bump lodash from 4.17.15 to 4.17.19"
    assert bot_reason(Row("a", subject=subject)) is not None
    assert bot_reason(Row("a", subject=subject, author="Anna <a@b.c>")) is None
    assert bot_reason(Row("a", subject="Add a parser", committer="k8s-ci-robot <x@y.z>")) is not None


def test_the_command_drops_them(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"commit": "a", "author": "pre-commit-ci[bot] <x@y.z>"}, {"commit": "b", "author": "Anna <a@b.c>"}]
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["bots", str(source), "--output", str(target)]) == 0
    assert [json.loads(line).get("drop") for line in target.read_text().splitlines()] == ["bot", None]
