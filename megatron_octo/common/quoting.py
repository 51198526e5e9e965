"""Text of users and of runs made safe for a shell, an ``#SBATCH`` line, a page, or a record that others read."""

import html
import re
import shlex

from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import is_plain, printable


def check_plain(text: object, where: str) -> str:
    """Return the text of a name or a path without hidden characters.

    Raises:
        OctoError: it holds a control character, an invisible one, or bytes that are not UTF-8.
    """
    text = str(text)
    if not is_plain(text):
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


# A name that ends in one of these, or a value of one of these forms, is a secret.
_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|SIGNATURE|(^|API|ACCESS|PRIVATE|[_.-])KEY)S?$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?<=://)[^/@\s]+(?=@)"  # of a URL
    r"|\b(hf|gh[opsu]|glpat|sk|pk|xox[abp]|AKIA|ASIA|eyJ|ya29|npm|pypi|dckr_pat|github_pat)[-_.]?[A-Za-z0-9_.-]{16,}"
    r"|\b(?=[A-Za-z0-9+]*[0-9])(?=[A-Za-z0-9+]*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}(?![A-Za-z0-9+/_.-])"
    r"|(?<=[Bb]earer )\S+"
)
MASK = "***"


def masked(text: object) -> str:
    """Return text in which everything that has the form of a secret is replaced by ``***``."""
    return _SECRET_VALUE.sub(MASK, str(text))


def masked_value(name: str, value: object) -> str:
    """Return a value, or ``***`` if its name is that of a secret; what looks like one inside of it is masked, too."""
    return MASK if _SECRET_NAME.search(name.strip("-")) else masked(value)


def masked_words(words: list[str]) -> list[str]:
    """Return the words of a command with the values of ``--token X``, ``a.token=X`` and the like masked."""
    found: list[str] = []
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        before = words[number - 1] if number else ""
        if equals and not name.startswith("/"):
            found.append(f"{name}={masked_value(name, value)}")
        else:
            found.append(masked_value(before, word) if before.startswith("--") else masked(word))
    return found
