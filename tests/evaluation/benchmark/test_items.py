"""Tests of items."""

import pytest

from megatron_octo.evaluation.benchmark.items import items, needed
from megatron_octo.evaluation.benchmark.syntax import parse

TEXTS = {
    "python": (
        "import a.b, c as d\nfrom e import f as g, h\nx = y = 1\np, q = 1, 2\nz: int = 3\n"
        "@w\ndef i(): pass\nclass J: pass\nk()\n",
        [{"a", "d"}, {"g", "h"}, {"x", "y"}, {"p", "q"}, {"z"}, {"i"}, {"J"}],
    ),
    "js": ("function a() {}\nconst b = 1, {c, d: e} = x;\nclass F {}\ng();\n", [{"a"}, {"b", "c", "e"}, {"F"}]),
    "go": (
        "func a() {}\ntype B struct{}\nfunc (b B) c() {}\nconst D, E = 1, 2\nvar (\n f int\n g = 1\n)\n",
        [{"a"}, {"B"}, set(), {"D", "E"}, {"f", "g"}],
    ),
    "cpp": (
        "#include <x>\nint a(int b) { return 1; }\nstruct C { int d; };\ntemplate<class T> T e(T f) { return f; }\n"
        "int g = 1, *h;\n"
        "typedef int I;\nusing J = int;\n#define K 1\nvector<int> *l() { return 0; }\n",
        [set(), {"a"}, {"C"}, {"e"}, {"g", "h"}, {"I"}, {"J"}, {"K"}, {"l"}],
    ),
    "rust": (
        "use a::{b, c as d};\nfn e() {}\n#[derive(Debug)]\nstruct F;\nimpl F {}\nconst G: i32 = 1;\nmod h {}\n",
        [{"b", "d"}, {"e"}, {"F"}, set(), {"G"}, {"h"}],
    ),
    "java": ("class A { int b; }\ninterface C {}\nimport d.E;\n", [{"A"}, {"C"}, set()]),
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_declared_names(language: str) -> None:
    text, wanted = TEXTS[language]
    found = items(language, parse(language, text.encode()).children, stop=True)
    assert [set(item.declared) for item in found.found] == wanted
    assert found.other == (language in ("python", "js"))


def test_stops_at_prose_if_asked() -> None:
    root = parse("go", b"func a() {}\nThis is prose.\nfunc b() {}\n")
    assert len(items("go", root.children, stop=True).found) == 1
    assert len(items("go", root.children, stop=False).found) == 2


def test_a_class_has_its_semicolon_and_a_type_its_attribute() -> None:
    source = b"struct A {} ;\nint b;"
    first, _ = items("cpp", parse("cpp", source).children, stop=True).found
    assert source[first.start : first.end] == b"struct A {} ;"
    source = b"#[a]\n#[b]\nstruct C;\n"
    (only,) = items("rust", parse("rust", source).children, stop=True).found
    assert source[only.start : only.end] == source.rstrip()


def test_needed_follows_uses() -> None:
    text = b"func a() { b() }\nfunc b() { c() }\nfunc c() {}\nfunc d() { a() }\nfunc (x E) f() {}\ntype E struct{}\n"
    found = items("go", parse("go", text).children, stop=True).found
    kept = needed(found, {"a"}, set())
    assert [set(item.declared) for item in kept] == [{"a"}, {"b"}, {"c"}]
    assert needed(found, {"a"}, {"a"}) == []
    assert len(needed(found, {"E"}, set())) == 2
