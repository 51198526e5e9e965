"""Sizes of the library's files, functions and folders, and a docstring in each folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.places import PROJECT

LIBRARY = PROJECT / "megatron_octo"
FILES = sorted(LIBRARY.rglob("*.py"))
# A parser is a flat list of options; cutting it in two would only hide that.
LONG_LISTS = {"build_parser"}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and lines of each function, without its docstring and signature."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_files_are_short() -> None:
    assert len(FILES) > 200
    assert [str(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []


def test_functions_are_short() -> None:
    found = [(path.name, name, lines) for path in FILES for name, lines in functions(path)]
    assert len(found) > 1000
    assert [each for each in found if each[2] > 60 and each[1] not in LONG_LISTS] == []


def test_folders_are_small_and_say_what_they_hold() -> None:
    # Scripts that other interpreters run are data of the library, in folders named support.
    folders = {path.parent for path in FILES if "support" not in path.parts}
    for folder in folders:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 15, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
