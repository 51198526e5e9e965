"""Text of users and of records made safe for a terminal."""

import unicodedata

_JOINERS = "\u200c\u200d"  # of Persian and Indic scripts, and of emoji
_HIDDEN = {
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
}  # controls, direction marks, bytes that are not UTF-8, line separators


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _JOINERS


def is_plain(text: str, keep: str = "") -> bool:
    """Return whether a text has no character that moves a cursor, hides or reorders, except for those of ``keep``."""
    return text.isprintable() or not any(_is_hidden(char) and char not in keep for char in text)


def printable(text: object, keep: str = "") -> str:
    r"""Return text in which characters that move a cursor, hide or reorder are written as ``\x1b`` and the like.

    Args:
        text: anything.
        keep: control characters that stay, such as a newline.
    """
    text = str(text)
    if is_plain(text, keep):
        return text
    hidden = {char for char in set(text) if _is_hidden(char) and char not in keep}
    escapes = {ord(char): char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in hidden}
    return text.translate(escapes)
