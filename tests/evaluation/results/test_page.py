"""Tests of the page: nothing from a model runs or is loaded, and each failing sample is there."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megatron_octo.evaluation import records
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.results import page as pages
from megatron_octo.evaluation.results.difference import compare
from megatron_octo.evaluation.results.page import page
from megatron_octo.evaluation.results.summary import summarize
from tests.evaluation.small import scored, write_verdicts

_TASK = "humanevalsynthesize-python"
_EVIL = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[31m\0\" onclick='x'"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.depth = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names.update(name for name, _ in attrs)
        self.depth += tag == "details"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _made(output: Path) -> tuple[str, _Tags]:
    text = "".join(page(output, summarize(output), records.read_header(output)))
    tags = _Tags()
    tags.feed(text)
    return text, tags


def test_what_a_model_wrote_stays_text(tmp_path: Path) -> None:
    bad = scored(0, 0, Kind.WRONG, solution=_EVIL, cut=_EVIL)
    bad = records.ScoredSample(**{**vars(bad), "verdict": Verdict(Kind.WRONG, 2, _EVIL)})
    write_verdicts(tmp_path, _TASK, [bad])
    records.open_header(tmp_path, "generation", {"model": _EVIL})
    text, tags = _made(tmp_path)
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(tags.tags)
    assert not {"onclick", "onerror", "src", "href", "style"} & tags.names
    assert tags.depth == 0
    assert not re.search("[\x00\x1b\u202e]", text)
    assert "".join(tags.text).count("<script>alert(1)</script>") == 4  # program, cut, output, header


def test_the_policy_allows_one_style_sheet_and_nothing_else(tmp_path: Path) -> None:
    write_verdicts(tmp_path, _TASK, [scored(0, 0)])
    text, _ = _made(tmp_path)
    assert "default-src &#x27;none&#x27;" in text and "unsafe" not in text
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "prefers-color-scheme" in text or "color-scheme: light dark" in text


def test_each_failing_program_is_shown_once_with_the_numbers_of_its_samples(tmp_path: Path) -> None:
    same = [scored(3, number, Kind.WRONG, program="p", solution="def same(): pass") for number in (0, 2)]
    write_verdicts(tmp_path, _TASK, [*same, scored(3, 1), scored(3, 3, Kind.CPU_LIMIT), scored(4, 0)])
    text, _ = _made(tmp_path)
    assert text.count("def same(): pass") == 1
    assert "sample 0, 2;" in text and "problem 3" in text and "1 of 4 passed" in text
    assert "cpu limit" in text and "problem 4" not in text


def test_a_page_stays_small_enough_for_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [scored(number, 0, Kind.WRONG, solution="x" * 5000) for number in range(20)]
    write_verdicts(tmp_path, _TASK, many)
    monkeypatch.setattr(pages, "BUDGET", 30_000)
    text, tags = _made(tmp_path)
    assert len(text) < 50_000 and "The rest is in verdicts/" in text and tags.depth == 0


def test_differences_have_a_table(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "a", _TASK, [scored(0, 0, Kind.WRONG), scored(1, 0)])
    write_verdicts(tmp_path / "b", _TASK, [scored(0, 0), scored(1, 0)])
    first, second = summarize(tmp_path / "a"), summarize(tmp_path / "b")
    text = "".join(page(tmp_path / "a", first, {}, compare(first, second)))
    assert "Difference of two evaluations" in text and "+50.0" in text
