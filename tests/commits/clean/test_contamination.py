"""Texts of benchmarks in rows: found when re-indented, re-cased or partly there, and short ones left out."""

import pytest

from benchmarks.commits_decontaminate import REWRITTEN, prompts_found
from megatron_octo.commits.clean.benchmark_texts import Text, parse_source, read_texts
from megatron_octo.commits.clean.contamination import Finder, normal
from megatron_octo.commits.rows import Row
from tests.places import SHARED

PROMPT = '''def triangle_area(width, height):
    """Return the area of a triangle whose width and height are given as numbers, in the unit of both.
    >>> triangle_area(3, 4)
    6.0
    """
'''
FINDER = Finder([Text("made/0/prompt", PROMPT), Text("made/0/solution", "return width")])


def row(new: str, **more: str) -> Row:
    return Row("a" * 40, new_contents=new, **more)  # type: ignore[arg-type]


def test_short_texts_are_left_out() -> None:
    assert FINDER.left_out == ["made/0/solution"]
    assert FINDER.hits(row("return width")) == []


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_texts_are_found(name: str) -> None:
    (hit,) = FINDER.hits(row(f"x = 1\n{REWRITTEN[name](PROMPT)}    pass\n"))
    assert (hit.where, hit.column, hit.exact) == ("made/0/prompt", "new_contents", True)


def test_all_columns_are_searched() -> None:
    found = FINDER.hits(row(PROMPT, old_contents=PROMPT, message=PROMPT))
    assert [hit.column for hit in found] == ["message", "new_contents", "old_contents"]


def test_texts_with_other_signs_are_found_by_their_words() -> None:
    text = PROMPT.replace('"""', "'''").replace(">>> ", "Example: ")
    (hit,) = FINDER.hits(row(text))
    assert not hit.exact and hit.share > 0.5


def test_half_of_the_words_is_the_limit() -> None:
    words = " ".join(f"word{number}" for number in range(40))
    finder = Finder([Text("made/1/text", words)])
    assert [hit.share for hit in finder.hits(row(" ".join(words.split()[:26])))] == [pytest.approx(17 / 31, abs=1e-3)]
    assert finder.hits(row(" ".join(words.split()[:24]))) == []


def test_normal() -> None:
    assert normal("A b\n\tC\r\n") == "abc"


def test_a_file_that_holds_nothing_of_it_stays() -> None:
    assert FINDER.hits(row("def area(width, height):\n    return width * height / 2\n" * 20)) == []


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs HumanEvalPack")
def test_all_prompts_of_humanevalpack() -> None:
    source = parse_source(f"humanevalpack={SHARED}")
    finder = Finder(list(read_texts(source)))
    for rewrite in REWRITTEN.values():
        assert prompts_found(finder, source, rewrite) == (984, 984)
