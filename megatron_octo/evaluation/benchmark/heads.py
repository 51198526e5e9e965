"""Heads of functions, which answers continue."""

import functools
from dataclasses import dataclass

from megatron_octo.evaluation.benchmark.items import Item, items
from megatron_octo.evaluation.benchmark.syntax import names, parse


@dataclass(frozen=True)
class Head:
    """Head of a function.

    Attributes:
        text: as the solution begins, without blanks at its end; ``before``: the part before the function.
        name: of the function; ``taken``: names that are declared before it; ``used``: names in it.
    """

    text: str
    before: str
    name: str
    taken: frozenset[str]
    used: frozenset[str]


@functools.lru_cache(maxsize=2048)
def head_of(language: str, text: str) -> Head:
    """Take the head of a function apart.

    Args:
        language: of the text.
        text: the head, which ends inside of the function.
    """
    closed = text + {"python": "\n    pass", "java": "\n}\n}"}.get(language, "\n}")
    root = parse(language, closed.encode())
    found = list(items(language, root.children, stop=False).found)
    around: frozenset[str] = frozenset()
    if language == "java" and found:
        around, found = found[-1].declared, members_of(found[-1])
    if not found:
        return Head(text, "", "", frozenset(), frozenset(names(root)))
    before, last = found[:-1], found[-1]
    taken = around.union(*(item.declared for item in before))
    start = text.encode()[: last.start].decode()
    return Head(text, start, min(last.declared, default=""), taken, last.used)


def members_of(item: Item) -> list[Item]:
    """Return the members of a class of Java."""
    body = item.node.child_by_field_name("body")
    return list(items("java", body.named_children, stop=False).found) if body is not None else []
