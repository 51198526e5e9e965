"""Pairs of commits, by the templates that preprocessing knows, with their control tokens spelled out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from megatron_octo.commits.rows import Row
from megatron_octo.commits.sources.pair import Pair
from megatron_octo.commits.tables.languages import language_of
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.data.dataset.indexed import CONTEXT
from megatron_octo.data.text.template import Chance, End, Field, Part, Stretch, Template, Text, Token, load_template
from megatron_octo.data.text.template import template_path as find_template

INSTRUCT = "instruct"


@dataclass(frozen=True)
class Settings:
    """How commits become pairs.

    Attributes:
        format: of preprocessing, the path of a template, or ``instruct``: subject and old contents, new contents.
        digest: of the template.
        seed: of what a template leaves to chance.
        source: name in the column ``source``.
    """

    format: str = INSTRUCT
    digest: str = ""
    seed: int = 42
    source: str = "commits"


def template_path(name: str) -> Path:
    """Return the file of a template.

    Raises:
        OctoError: there is none.
    """
    return Path(__file__).with_name("instruct.yaml") if name == INSTRUCT else find_template(name)


def settings_of(name: str, seed: int, source: str) -> Settings:
    """Return settings with the template's digest.

    Raises:
        OctoError: there is no such template, or it makes no pairs.
    """
    spells_tokens(name)
    return Settings(name, digest_file(template_path(name)), seed, source)


def spells_tokens(name: str) -> bool:
    """Return whether pairs of a format hold control tokens as text, which preprocessing has to be told of.

    Raises:
        OctoError: the template makes no pairs.
    """
    return any(isinstance(part, Token) for _, parts in _pair_of(_load(name)) for part in _all(parts))


def _load(name: str) -> Template:
    return load_template(template_path(name))


def _all(parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Chance):
            yield from _all(part.parts)
        else:
            yield part


def _pair_of(template: Template) -> list[tuple[int, tuple[Part, ...]]]:
    found: list[tuple[int, tuple[Part, ...]]] = []
    for entry in template.entries:
        if not isinstance(entry, Stretch):
            raise OctoError("a template of conversations makes no pairs of commits", where=template.path)
        found.append((entry.mode, entry.parts))
    modes = [mode == CONTEXT for mode, _ in found]
    if modes != sorted(modes, reverse=True) or all(modes) or not any(modes):
        raise OctoError("a pair is made of context, and of targets behind it", where=template.path)
    return found


class Maker:
    """Makes a pair of a commit."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._template = settings, _load(settings.format)
        self._entries = _pair_of(self._template)

    def __call__(self, value: Any) -> Pair:
        """Make a pair of a commit; one that was dropped before stays so.

        Raises:
            ValueError: the value is no commit, or lacks a column of the template.
        """
        if not isinstance(value, Mapping):
            raise ValueError("no object")
        row = Row.parse(value)
        columns = {name: each or "" for name, each in row.mapping().items() if isinstance(each, str | None)}
        columns["subject"] = columns["subject"] or row.message.strip()
        texts = ["", ""]
        for mode, parts in self._entries:
            texts[mode != CONTEXT] += "".join(self._texts(parts, columns, row.commit))
        pair = Pair(texts[0], texts[1], row.commit, self._settings.source, row.lang or language_of(row.new_file))
        pair.license, pair.drop, pair.drop_why = row.license, row.drop, row.drop_why
        pair.signals = {"file": row.new_file or row.old_file, "repos": row.repos}
        return pair.mark("no_contents") if row.new_contents is None else pair.checked()

    def _texts(self, parts: Iterable[Part], columns: Mapping[str, str], commit: str) -> Iterator[str]:
        for part in parts:
            if isinstance(part, Text):
                yield part.text
            elif isinstance(part, Token):
                yield part.token
            elif isinstance(part, Field):
                name = next((name for name in part.names if name in columns), None)
                if name is None:
                    raise ValueError(f"no column {' or '.join(map(repr, part.names))} of text")
                text = PurePosixPath(columns[name]).name if part.basename else columns[name]
                yield text.strip() if part.strip else text
            elif isinstance(part, Chance):
                drawn = f"{self._settings.seed}/{self._template.seed}/{part.number}/{commit}/{columns['new_file']}"
                if xxhash.xxh3_64_intdigest(drawn.encode("utf-8", "surrogatepass")) / 2**64 < part.probability:
                    yield from self._texts(part.parts, columns, commit)
            else:
                assert isinstance(part, End)  # preprocessing writes it
