"""Language of a file by its name."""

import functools
from importlib import resources

from megatron_octo.commits.rows.row import UNKNOWN


@functools.cache
def languages() -> dict[str, tuple[str, ...]]:
    """Return the display names of all languages with the endings of their files."""
    text = resources.files("megatron_octo.commits.tables").joinpath("languages.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines() if line and not line.startswith("# "))
    return {name: tuple(endings.split(" ")) for name, endings in pairs}


@functools.cache
def _by_ending() -> dict[str, str]:
    return {ending: name for name, endings in languages().items() for ending in endings}


def slug(language: str) -> str:
    """Return the name of a language's directory, as CommitPack writes it: ``Graphviz (DOT)`` is ``graphviz-dot``."""
    return language.lower().translate(_PLAIN)


_PLAIN = {ord(" "): "-", ord("("): None, ord(")"): None, ord("'"): None}


def language_of(path: str) -> str:
    """Return the language of a file: by its whole name, else by its longest known ending; else ``unknown``.

    Case matters: ``.C`` is C++, ``.c`` is C.
    """
    return _language_of_name(path.rpartition("/")[2])


@functools.lru_cache(maxsize=1 << 16)
def _language_of_name(name: str) -> str:
    table = _by_ending()
    if name in table and not name.startswith("."):
        return table[name]
    place = name.find(".")
    while place >= 0:
        if found := table.get(name[place:]):
            return found
        place = name.find(".", place + 1)
    return UNKNOWN
