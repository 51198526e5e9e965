"""Items of a program (functions, types, constants, imports): what they declare, and which of them a function needs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from megatron_octo.evaluation.benchmark.syntax import names, text_of

_COMMENTS = frozenset({"comment", "line_comment", "block_comment"})
_NOTHING = frozenset({";", "empty_statement", "empty_declaration", "\n"})
_SPECS = (
    "const_spec",
    "var_spec",
    "type_spec",
    "type_alias",
    "const_spec_list",
    "var_spec_list",
    "variable_declarator",
)
_VARIABLES = ("lexical_declaration", "variable_declaration")
_FUNCTIONS = (
    *("function_definition", "decorated_definition", "template_declaration", "function_item", "method_declaration"),
    *("function_declaration", "generator_function_declaration", "arrow_function", "function_expression"),
)
_ALWAYS = {"cpp": ("preproc_include", "using_declaration"), "java": ("import_declaration",)}
_LAST_OF_USE = re.compile(r"(\w+)\s*(?=[,;}])")


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        start: of its text in bytes, with its attributes; ``end``: behind it.
        declared: names that it gives; ``attached``: types that it belongs to (methods); ``used``: names in it.
        always: whether it is needed wherever it stands, as an include.
        node: its tree.
    """

    start: int
    end: int
    declared: frozenset[str]
    attached: frozenset[str]
    used: frozenset[str]
    always: bool
    node: Any


@dataclass(frozen=True)
class Items:
    """Items of a text, and whether it also holds what is none (prose, a broken item, statements)."""

    found: tuple[Item, ...]
    other: bool


def items(language: str, nodes: Iterable[Any], *, stop: bool) -> Items:
    """Return the items among sibling nodes.

    Args:
        language: of the text.
        nodes: the children of a root or of a class's body.
        stop: end at the first node with a syntax error, which prose is; otherwise leave such nodes out.
    """
    found: list[Item] = []
    other, attribute = False, None
    for node in nodes:
        if node.type in _COMMENTS and not node.has_error:
            continue
        if node.type in _NOTHING or node.type == ")":
            if node.type == ";" and found and found[-1].node.next_sibling == node:
                found[-1] = _with_end(found[-1], node.end_byte)
            continue
        if _is_broken(node):
            other = True
            if stop:
                break
            continue
        if node.type == "attribute_item":
            attribute = node if attribute is None else attribute
            continue
        item = _item(language, node, attribute)
        attribute = None
        other = other or item is None
        if item is not None:
            found.append(item)
    return Items(tuple(found), other or attribute is not None)


def is_function(item: Item) -> bool:
    """Return whether an item is a function, a method, or a constant that is a function of JavaScript."""
    if item.node.type not in _VARIABLES:
        return item.node.type in _FUNCTIONS
    values = [child.child_by_field_name("value") for child in item.node.named_children]
    return any(value is not None and value.type in _FUNCTIONS for value in values)


def needed(candidates: Iterable[Item], used: Iterable[str], taken: Iterable[str]) -> list[Item]:
    """Return the items that used names lead to, directly or through other items, in their order.

    Args:
        candidates: items of an answer.
        used: names that the function uses.
        taken: names that are declared elsewhere; an item that only gives these again is left out.
    """
    candidates, wanted, given = list(candidates), set(used), set(taken)
    kept: dict[int, Item] = {}
    changed = True
    while changed:
        changed = False
        for index, item in enumerate(candidates):
            if index in kept:
                continue
            new = item.declared - given
            if item.always or new & wanted or (item.attached & (given | wanted) and not item.declared):
                kept[index] = item
                wanted |= item.used
                given |= item.declared
                changed = True
    return [kept[index] for index in sorted(kept)]


def _is_broken(node: Any) -> bool:
    """Return whether a node is no whole item. A fault in a body with both braces may be the grammar's (``typeid``)."""
    body = node.child_by_field_name("body")
    if node.type == "function_declaration" and body is None:  # Go's, whose body is still to come
        return True
    if node.is_missing or not node.has_error:
        return bool(node.is_missing)
    if node.is_error or body is None or not body.children:
        return True
    last = body.children[-1]
    outside = any(child.has_error for child in node.children if child != body)
    return outside or last.type != "}" or last.is_missing


def _with_end(item: Item, end: int) -> Item:
    return Item(item.start, end, item.declared, item.attached, item.used, item.always, item.node)


def _item(language: str, node: Any, attribute: Any) -> Item | None:
    declared = frozenset(_declared(language, node))
    attached = frozenset(_attached(language, node))
    always = node.type in _ALWAYS.get(language, ())
    if not (declared or attached or always):
        return None
    start = node.start_byte if attribute is None else attribute.start_byte
    return Item(start, node.end_byte, declared, attached, frozenset(names(node)), always, node)


def _attached(language: str, node: Any) -> set[str]:
    if language == "rust" and node.type == "impl_item":
        return names(node.child_by_field_name("type"))
    if language == "go" and node.type == "method_declaration":
        return names(node.child_by_field_name("receiver"))
    return set()


def _declared(language: str, node: Any) -> set[str]:
    kind = node.type
    if kind in ("decorated_definition", "template_declaration"):
        return _declared(language, node.named_children[-1])
    if kind == "method_declaration" and language == "go":
        return set()
    if kind == "use_declaration":
        return set(_LAST_OF_USE.findall(text_of(node)))
    if kind in ("import_statement", "import_from_statement") and language == "python":
        return {_imported(name) for name in node.children_by_field_name("name")}
    if kind == "expression_statement" and language == "python":
        return _assigned(node.named_children[0]) if node.named_children else set()
    if language == "cpp" and (declarators := node.children_by_field_name("declarator")):
        return {text for declarator in declarators if (text := _innermost(declarator))}
    if (name := node.child_by_field_name("name")) is not None and not kind.startswith(("package", "import")):
        return {text_of(name)}
    found: set[str] = set()
    for child in node.children:
        if child.type in _SPECS:
            own = child.children_by_field_name("name")
            found |= {name for node in own for name in names(node)} if own else _declared(language, child)
    return found


def _imported(name: Any) -> str:
    alias = name.child_by_field_name("alias")
    return text_of(alias) if alias is not None else text_of(name).partition(".")[0]


def _assigned(node: Any) -> set[str]:
    found: set[str] = set()
    while node is not None and node.type == "assignment":
        left = node.child_by_field_name("left")
        if left.type in ("identifier", "pattern_list", "tuple_pattern"):
            found |= names(left)
        node = node.child_by_field_name("right")
    return found


def _innermost(node: Any) -> str:
    while (inner := node.child_by_field_name("declarator")) is not None:
        node = inner
    return text_of(node) if node.type in ("identifier", "type_identifier") else ""
