"""Languages by file name."""

import pytest

from megatron_octo.commits.tables.languages import language_of, languages, slug


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "Python"),
        ("x.cmake.in", "CMake"),
        ("x.cmake", "CMake"),
        ("deep/Dockerfile", "Dockerfile"),
        ("Makefile", "Makefile"),
        ("a.C", "C++"),
        ("a.c", "C"),
        ("a.ML", "Standard ML"),
        ("notes", "unknown"),
        ("a.nothing", "unknown"),
        ("MyDockerfileX", "unknown"),
    ],
)
def test_lookups(path: str, language: str) -> None:
    assert language_of(path) == language


def test_the_table() -> None:
    table = languages()
    assert len(table) == 358
    endings = [ending for found in table.values() for ending in found]
    assert len(endings) == len(set(endings)) == 853
    assert slug("Common Lisp") == "common-lisp" and slug("Cap'n Proto") == "capn-proto"
