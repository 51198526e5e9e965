"""Syntax trees of the six languages: leaves, braces and names, also in text that does not parse."""

import functools
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from megatron_octo.common.errors import OctoError

_MODULES = {"js": "tree_sitter_javascript"}
_OPEN, _CLOSE = frozenset({"{", "${"}), "}"
_NAMES = frozenset(
    (
        *("identifier", "type_identifier", "namespace_identifier", "field_identifier"),
        *("shorthand_property_identifier", "shorthand_property_identifier_pattern"),
    )
)
_BINDING = frozenset({"parameters", "lambda_parameters", "pattern_list", "tuple_pattern"})
_parsers = threading.local()  # a parser serves one thread


@functools.cache
def _grammar(language: str) -> Any:
    name = _MODULES.get(language, f"tree_sitter_{language}")
    try:
        from tree_sitter import Language

        return Language(importlib.import_module(name).language())
    except ImportError:
        raise OctoError(
            f"the package {name.replace('_', '-')} is not installed",
            where=f"answers in {language}",
            hint="pip install 'megatron-octo[evaluate]'",
        ) from None


def parse(language: str, source: bytes) -> Any:
    """Return the root of the tree of a text; faults in it are nodes of type ``ERROR``.

    Raises:
        OctoError: the language's grammar is not installed.
    """
    grammar = _grammar(language)
    parser = getattr(_parsers, language, None)
    if parser is None:
        from tree_sitter import Parser

        parser = Parser(grammar)
        setattr(_parsers, language, parser)
    return parser.parse(source).root_node


def without_surrogates(text: str) -> str:
    """Return a text that has an encoding: halves of surrogate pairs become question marks."""
    return text.encode(errors="replace").decode()


def leaves(node: Any) -> Iterator[Any]:
    """Yield the leaves of a tree from left to right."""
    cursor = node.walk()
    while True:
        if cursor.goto_first_child():
            continue
        yield cursor.node
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return


def text_of(node: Any) -> str:
    """Return the text of a node."""
    return str(node.text.decode(errors="replace"))


def names(node: Any) -> set[str]:
    """Return the identifiers of a tree, except those in comments and texts."""
    return {text_of(leaf) for leaf in leaves(node) if leaf.type in _NAMES}


def bound(language: str, source: bytes, start: int) -> set[str]:
    """Return the names that a Python function binds behind a place, given in bytes; they mean nothing outside of it."""
    found: set[str] = set()
    outer: set[str] = set()
    if language == "python":
        for leaf in leaves(parse(language, source)):
            if leaf.type != "identifier" or leaf.start_byte < start:
                continue
            above = leaf.parent
            if above.type == "global_statement":
                outer.add(text_of(leaf))
            elif above.type in _BINDING or any(above.child_by_field_name(name) == leaf for name in _bound_by(above)):
                found.add(text_of(leaf))
    return found - outer


def _bound_by(node: Any) -> tuple[str, ...]:
    return {"function_definition": ("name",), "class_definition": ("name",)}.get(
        node.type, ("left",) if node.type in ("assignment", "for_statement", "for_in_clause") else ()
    )


def has_code(language: str, source: bytes, start: int) -> bool:
    """Return whether anything except comments begins at or behind a place, given in bytes."""
    return any(
        leaf.start_byte >= start and leaf.type != "comment" and leaf.end_byte > leaf.start_byte
        for leaf in leaves(parse(language, source))
    )


def body_end(language: str, source: bytes, head: int) -> int | None:
    """Return where the function ends that is open at a place.

    Args:
        language: one with braces.
        source: of the program.
        head: place from which on the braces of the body are counted, in bytes; the function is open there.

    Returns:
        Place behind its closing brace, or None.
    """
    depth, wanted = 0, None
    for leaf in leaves(parse(language, source)):
        if wanted is None and leaf.start_byte >= head:
            wanted = depth - 1
        if leaf.type in _OPEN:
            depth += 1
        elif leaf.type == _CLOSE and not leaf.is_missing:
            depth -= 1
            if wanted is not None and depth == wanted:
                return int(leaf.end_byte)
    return None


def block_end(source: bytes, head: int) -> int:
    """Return where a Python function ends: at the first line in column 0 that is no comment and not inside of a token.

    Args:
        source: of the program.
        head: end of the function's head, in bytes.

    Returns:
        Place of that line, or the end of the text.
    """
    inside: list[tuple[int, int]] = []
    depth, brackets = 0, []
    for leaf in leaves(parse("python", source)):
        if leaf.type == "string_content" and leaf.start_point[0] != leaf.end_point[0]:
            inside.append((leaf.start_byte, leaf.end_byte))
        if leaf.type in ("(", "[", "{"):
            depth += 1
            brackets.append((leaf.start_byte, depth))
        elif leaf.type in (")", "]", "}"):
            depth = max(depth - 1, 0)
            brackets.append((leaf.start_byte, depth))
    place, first = head, None
    while (place := source.find(b"\n", place) + 1) > 0 and place < len(source):
        char = source[place : place + 1]
        if char in b" \t\r\n":
            if char in b" \t" and source[place:].split(b"\n", 1)[0].strip():
                first = None  # an indented line after comments in column 0: they belong to the body
            continue
        if any(start < place <= end for start, end in inside) or source[:place].rstrip(b"\n").endswith(b"\\"):
            continue
        if next((value for start, value in reversed(brackets) if start < place), 0):
            continue
        if char != b"#":
            return first if first is not None else place
        first = place if first is None else first
    return first if first is not None else len(source)
