"""The programming language of an answer, by the word behind its first code fence."""

import functools
from importlib import resources

from megatron_octo.commits.tables.languages import languages
from megatron_octo.common.strict_yaml import parse_yaml

_FENCE = "```"


@functools.cache
def _table() -> tuple[dict[str, str], int, str, tuple[str, ...]]:
    file = resources.files("megatron_octo.commits.sources").joinpath("code_languages.yaml")
    found = parse_yaml(file.read_text(encoding="utf-8"), "code_languages.yaml", fractions=False)
    return found["aliases"], found["longest"], found["characters"], tuple(found["beginnings"])


@functools.cache
def _names() -> dict[str, str]:
    return {name.lower(): name for name in languages()}


def code_language(text: str) -> str | None:
    """Return the display name of the language that the first code fence of a text names; None if it names none.

    As the original counts: later fences are not looked at, and a fence without a line behind it loses its last
    character.
    """
    fence = text.find(_FENCE)
    if fence < 0:
        return None
    word = text[fence + len(_FENCE) : text.find("\n", fence + len(_FENCE))].strip().lower()
    aliases, longest, characters, beginnings = _table()
    if not word or len(word) > longest or word.startswith(beginnings) or any(each in word for each in characters):
        return None
    return _names().get(aliases.get(word, word))


def language_named(word: str) -> str | None:
    """Return the display name of a language that a user writes in any case or by an alias; None if there is none."""
    word = word.strip().lower()
    return _names().get(word) or _names().get(_table()[0].get(word, word))
