"""Whether a generation may end: its function is whole, and nothing that it calls is still to come."""

import builtins
import re

from megatron_octo.evaluation.benchmark.heads import Head, head_of
from megatron_octo.evaluation.benchmark.items import items, needed
from megatron_octo.evaluation.benchmark.syntax import (
    block_end,
    body_end,
    has_code,
    leaves,
    names,
    parse,
    text_of,
    without_surrogates,
)

_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_LINE_IN_COLUMN_0 = re.compile(r"\n[^ \t\r\n#]")
_TEXTS = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'|`[^`]*`|//[^\n]*""")
_CALLS = {"python": "call", "java": "method_invocation"}
_TYPES = ("type_declaration", "struct_item", "enum_item")  # methods may follow them
_METHODS = (b"impl", b"func (")
_BEFORE = (b"#", b"@", b"//", b"/*")  # comments and attributes of what is to come


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_BUILT_IN = {
    "python": frozenset(dir(builtins)),
    "go": _words(
        "append cap clear close complex copy delete imag len make max min new panic print println real recover",
        "any bool byte error float32 float64 int int8 int16 int32 int64 rune string uint uint8 uint16 uint32 uint64",
    ),
    "js": _words(
        "Array BigInt Boolean Date Error Map Number Object Promise RangeError RegExp Set String Symbol TypeError ",
        "isFinite isNaN parseFloat parseInt require structuredClone",
    ),
    "rust": _words("Box Err None Ok Some Vec String drop"),
}


def finished(language: str, base: str, text: str) -> bool:
    """Return whether the answer is whole, so that its generation may end.

    A function that calls what is not declared yet waits for the declaration, or for anything else that follows. In C++
    a declaration comes before its use, so the closing brace decides.

    Args:
        language: of the answer.
        base: head of the function, which the prompt ends with.
        text: what was generated so far.
    """
    fences = len(_FENCE.findall(text))
    if fences >= 2:
        return True
    if fences or not _may_be_whole(language, text):
        return False
    head = head_of(language, base.rstrip())
    start, source = len(head.text.encode()), (head.text + without_surrogates(text)).encode()
    end = _end(language, source, start)
    if end is None:
        return False
    if language in ("java", "cpp"):
        return True
    return _nothing_to_come(language, head, source, end)


def _may_be_whole(language: str, text: str) -> bool:
    """Return False for almost every unfinished answer, without parsing it: this runs once per token."""
    if language == "python":
        return _LINE_IN_COLUMN_0.search(text) is not None
    bare = _TEXTS.sub("", text)
    return bare.count("}") - bare.count("{") >= (2 if language == "java" else 1)


def _end(language: str, source: bytes, start: int) -> int | None:
    """Return where the function ends (in Java its class), or None."""
    if language == "python":
        end = block_end(source, start)
        if end >= len(source):
            return None
        return end if has_code("python", source[:end], start) else None
    end_of_body = body_end(language, source, start)
    if language != "java" or end_of_body is None:
        return end_of_body
    opening = b"class Solution {"
    closed = body_end("java", opening + source[end_of_body:], len(opening))
    return None if closed is None else end_of_body + closed - len(opening)


def _nothing_to_come(language: str, head: Head, source: bytes, end: int) -> bool:
    taken = head.taken | {head.name}
    missing, used = _missing(language, source[:end]) - taken, names(parse(language, source[:end]))
    rest = source[end:]
    found = items(language, parse(language, rest).children, stop=True)
    ended = language != "python" and rest.rstrip().endswith((b"}", b";"))  # the last item might go on otherwise
    whole = [item for item in found.found if not item.node.has_error and (ended or item.end < len(rest.rstrip()))]
    kept = needed(found.found, used | head.used, taken)
    if any(item not in whole for item in kept):
        return False
    if len(kept) < len(whole):
        return True  # something else has begun
    for item in kept:
        missing |= _missing(language, rest[item.start : item.end]) - taken
    missing -= {name for item in kept for name in item.declared}
    has_type = bool(kept) and (kept[-1].node.type in _TYPES or not kept[-1].declared)
    follows = rest[max((item.end for item in kept), default=0) :]
    if not missing and not has_type:
        return language != "python" or bool(follows.strip())
    line, newline, _ = follows.lstrip(b" \t\r\n;").partition(b"\n")
    if not newline or line.startswith(_BEFORE) or (has_type and line.startswith(_METHODS)):
        return False
    return not missing & set(re.findall(r"\w+", line.decode(errors="replace")))


def _missing(language: str, source: bytes) -> set[str]:
    """Return names that are called or used as a type, and occur in no other way."""
    called: set[str] = set()
    other: set[str] = set()
    for leaf in leaves(parse(language, source)):
        if leaf.type not in ("identifier", "type_identifier"):
            continue
        above = leaf.parent
        is_call = above is not None and above.type == _CALLS.get(language, "call_expression")
        is_type = leaf.type == "type_identifier" and (
            (language == "go" and above.type != "type_spec") or above.type == "struct_expression"
        )
        if is_type or (is_call and above.child_by_field_name("function") == leaf):
            called.add(text_of(leaf))
        else:
            other.add(text_of(leaf))
    return called - other - _BUILT_IN.get(language, frozenset())
