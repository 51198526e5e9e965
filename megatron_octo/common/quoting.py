"""Text of users and of runs made safe for where it goes: a terminal, a shell, an ``#SBATCH`` line, a page."""

import html
import shlex

from megatron_octo.common.errors import OctoError


def printable(text: object, keep: str = "") -> str:
    r"""Return text in which characters that move a cursor, hide or reorder are written as ``\x1b`` and the like.

    Args:
        text: anything.
        keep: control characters that stay, such as a newline.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def check_plain(text: object, where: str) -> str:
    """Return the text of a name or a path if every character of it is printable.

    Raises:
        OctoError: it holds a control character, an invisible one, or bytes that are not UTF-8.
    """
    text = str(text)
    if not text.isprintable():
        raise OctoError(
            f"control characters in {printable(text)!r}",
            where=where,
            hint="use letters, digits and punctuation",
        )
    return text


def shell(word: object) -> str:
    """Quote one word for a POSIX shell."""
    return shlex.quote(str(word))


def sbatch(value: object, option: str) -> str:
    """Quote the value of an ``#SBATCH`` option.

    Raises:
        OctoError: the value would not stay on its line.
    """
    return shell(check_plain(value, f"sbatch --{option}"))


def markup(text: object) -> str:
    """Quote text for HTML and SVG, between tags and inside of attributes."""
    return html.escape(printable(text, keep="\n\t"))
