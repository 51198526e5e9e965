"""What the rules look at: a row, and its subject as the steps before left it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from megatron_octo.commits.rows import Row
from megatron_octo.commits.tables.languages import language_of, slug
from megatron_octo.common.strict_yaml import parse_yaml


@functools.cache
def word_lists() -> dict[str, Any]:
    """Return the lists of ``words.yaml``."""
    text = resources.files("megatron_octo.commits.filters").joinpath("words.yaml").read_text(encoding="utf-8")
    return dict(parse_yaml(text, "words.yaml", fractions=False))


@dataclass(slots=True)
class Look:
    """A row under the rules.

    Attributes:
        row: the row.
        subject: its subject; steps that clean it replace it.
        lower: the subject in lower case.
        words: the subject's words.
    """

    row: Row
    subject: str
    lower: str
    words: list[str]

    @classmethod
    def of(cls, row: Row) -> "Look":
        """Look at a row."""
        return cls(row, row.subject, row.subject.lower(), row.subject.split())

    def replace(self, subject: str) -> None:
        """Take another subject."""
        if subject != self.subject:
            self.subject, self.lower, self.words = subject, subject.lower(), subject.split()

    @property
    def old(self) -> str:
        """Contents before; a missing file counts as empty, as in the original's rows."""
        return self.row.old_contents or ""

    @property
    def new(self) -> str:
        """Contents after."""
        return self.row.new_contents or ""

    @property
    def language(self) -> str:
        """Slug of the language, looked up by the file's name where the row has none."""
        return slug(self.row.lang or language_of(self.row.new_file))


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: the reason of a drop, in the column ``drop``.
        purpose: which rows it keeps, for ``--list``.
        test: returns what is wrong with a row, and None if it may stay. A cleaning step always returns None.
    """

    name: str
    purpose: str
    test: Callable[[Look], str | None]
