"""Comments and literals blanked out, so that code can be searched for words."""

import re
from collections.abc import Iterator

_QUOTED = r'"(?:\\.|[^"\\])*(?:"|\Z)'
_LINE = r"//[^\n]*"
_BLOCK = r"/\*.*?(?:\*/|\Z)"
_RULES = {
    "cpp": re.compile(
        rf"//(?:\\\n|[^\n])*|{_BLOCK}"
        r'|\bu?8?[uUL]?R"(?P<fence>[^()\\\s"]{0,16})\(.*?(?:\)(?P=fence)"|\Z)'
        r"""|(?P<kept>\b\d[\w'.]*)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?""",
        re.DOTALL,
    ),
    "go": re.compile(rf"{_LINE}|{_BLOCK}|`[^`]*(?:`|\Z)|{_QUOTED}|'(?:\\.|[^'\\\n])+'", re.DOTALL),
    "rust": re.compile(
        rf"{_LINE}|(?P<nested>/\*)"
        r'|\bb?r(?P<fence>\#*)"(?:.*?"(?P=fence)|.*\Z)'
        rf"|b?{_QUOTED}|b?'(?:\\(?:u\{{[^}}]*\}}|x\w\w|.)|[^'\\\n])'",
        re.DOTALL,
    ),
}
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_VISIBLE = re.compile(r"[^\n]")


def masked(language: str, text: str) -> str:
    """Return a text of the same length and lines in which comments, strings and characters are spaces.

    Args:
        language: ``cpp``, ``go`` or ``rust``.
        text: source; what is not closed runs to its end.
    """
    pieces, done = [], 0
    for start, end in _spans(language, text):
        pieces += [text[done:start], _VISIBLE.sub(" ", text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def _spans(language: str, text: str) -> Iterator[tuple[int, int]]:
    rule, place = _RULES[language], 0
    while match := rule.search(text, place):
        groups = match.groupdict()
        place = _end_of_nested(text, match.end()) if groups.get("nested") else match.end()
        if not groups.get("kept"):
            yield match.start(), place


def _end_of_nested(text: str, place: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, place)
        if edge is None:
            return len(text)
        depth += 1 if edge.group() == "/*" else -1
        place = edge.end()
    return place


def end_of_block(masked_text: str, start: int) -> int | None:
    """Return the place after the brace that closes the first one from ``start`` on; None if it stays open."""
    depth = 0
    for match in re.compile(r"[{}]").finditer(masked_text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.end()
        if depth < 0:
            return None
    return None
