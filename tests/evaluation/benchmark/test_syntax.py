"""Tests of syntax trees."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark import syntax
from megatron_octo.evaluation.benchmark.syntax import block_end, body_end, bound, leaves, names, parse, text_of
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import BODIES, HEADS


@pytest.mark.parametrize("language", LANGUAGES)
def test_leaves_are_the_text(language: str) -> None:
    source = (HEADS[language] + BODIES[language]).encode()
    place, found = 0, b""
    for leaf in leaves(parse(language, source)):
        assert leaf.start_byte >= place
        place = leaf.end_byte
        found += leaf.text
    assert b"".join(found.split()) == b"".join(source.split())


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "python"])
def test_bodies_end_at_their_brace(language: str) -> None:
    head, body = HEADS[language].encode(), BODIES[language].rstrip().encode()
    end = body_end(language, head + body + b"\n}}}", len(head))
    assert end == len(head + body) - (2 if language == "java" else 0)  # without the class
    assert body_end(language, head + body.rstrip(b"}\n "), len(head)) is None


def test_blocks_end_in_column_0() -> None:
    head = b"def f(x):\n"
    for body, rest in (
        (b"    return 1\n\n", b"x = 1"),
        (b"    s = '''\nx\n'''\n    return s\n", b"print(1)"),
        (b"# a\n    return [\n1]\n", b"# b\n# c\nx"),
        (b"    return 1", b""),
    ):
        assert block_end(head + body + rest, len(head)) == len(head + body)


def test_names() -> None:
    assert names(parse("js", b"f(a.b, `${c}`, 'd') // e")) == {"f", "a", "c"}
    source = b"def f(x):\n    global G\n    G = y = 1\n    def g(z): pass\n    for i, j in u: h(i)\n"
    assert bound("python", source, 10) == {"y", "g", "z", "i", "j"}


def test_each_thread_has_its_parser() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: text_of(parse("go", b"func f%d() {}" % number)), range(400)))
    assert found == [f"func f{number}() {{}}" for number in range(400)]


def test_a_missing_grammar_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    syntax._grammar.cache_clear()
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(OctoError, match="tree-sitter-go is not installed"):
        parse("go", b"")
    syntax._grammar.cache_clear()
