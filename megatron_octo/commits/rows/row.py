"""The row of a commit: CommitPack's ten columns, blob ids, persons and date, signals, and why it was dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, get_args

# The columns of CommitPack, in its order.
PUBLISHED = (
    "commit",
    "old_file",
    "new_file",
    "old_contents",
    "new_contents",
    "subject",
    "message",
    "lang",
    "license",
    "repos",
)
_ORIGIN = ("old_blob", "new_blob", "author", "committer", "date")
_DROPPED = ("drop", "drop_why")
COLUMNS = (*PUBLISHED, *_ORIGIN)  # texts; behind them the signals and the reason of the drop
FIXED = (*COLUMNS, *_DROPPED)
UNKNOWN = "unknown"  # a language or a licence that was looked for and not found

Kind = Literal["bool", "int", "float", "text", "texts", "ints"]  # of a signal's values; each may be null
KINDS: tuple[Kind, ...] = get_args(Kind)


class Item(Protocol):
    """What writers take: a row of texts, of signals, and with the reason why it was dropped."""

    signals: dict[str, Any]

    @property
    def drop(self) -> str | None:
        """Name of the first rule that dropped it."""

    @property
    def name(self) -> str:
        """Names it in errors."""

    @property
    def content_bytes(self) -> int:
        """Bytes that the counts of a stage sum."""

    @property
    def size(self) -> int:
        """About the bytes of all its texts."""

    def published(self) -> dict[str, Any]:
        """Return the columns of jsonl."""
        ...


@dataclass(slots=True)
class Row:
    r"""One file of one commit, before and after.

    Attributes:
        commit: id, hex.
        old_file: path before; a byte that is not UTF-8 is written as ``\xff``.
        new_file: path after.
        old_contents: text before; an empty file is ``""``, a missing one None.
        new_contents: text after.
        subject: first line of the message.
        message: all of it.
        lang: display name of the table of languages, ``unknown``, or None if it was not looked up.
        license: SPDX id in lower case, several sorted and joined by commas, ``unknown``, or None.
        repos: distinct names, sorted and joined by commas.
        old_blob: git's id of the old contents, hex.
        new_blob: of the new ones.
        author: ``Name <address>``.
        committer: the same.
        date: of the commit, ISO 8601 with its offset.
        signals: further columns by name.
        drop: name of the first rule that dropped the row; None for a row that is kept.
        drop_why: what that rule found.
    """

    commit: str
    old_file: str = ""
    new_file: str = ""
    old_contents: str | None = None
    new_contents: str | None = None
    subject: str = ""
    message: str = ""
    lang: str | None = None
    license: str | None = None
    repos: str = ""
    old_blob: str | None = None
    new_blob: str | None = None
    author: str | None = None
    committer: str | None = None
    date: str | None = None
    signals: dict[str, Any] = field(default_factory=dict)
    drop: str | None = None
    drop_why: str | None = None

    @property
    def kept(self) -> bool:
        """Whether no rule dropped the row."""
        return self.drop is None

    @property
    def name(self) -> str:
        """Names the row in errors."""
        return f"commit {self.commit}"

    @property
    def content_bytes(self) -> int:
        """Bytes of the contents before and after, in UTF-8."""
        return text_bytes(self.old_contents) + text_bytes(self.new_contents)

    @property
    def size(self) -> int:
        """Bytes of the contents and of the message."""
        return self.content_bytes + text_bytes(self.message)

    @property
    def repo_names(self) -> list[str]:
        """Return the distinct repositories, sorted."""
        return split_names(self.repos)

    def mark(self, rule: str, why: str = "") -> Self:
        """Drop the row by a rule, unless an earlier one did; returns the row."""
        if self.drop is None:
            self.drop, self.drop_why = rule, why or None
        return self

    def mapping(self) -> dict[str, Any]:
        """Return all columns, those of CommitPack first, signals before the reason of the drop."""
        found = {name: getattr(self, name) for name in (*PUBLISHED, *_ORIGIN)}
        found.update(self.signals)
        found["drop"], found["drop_why"] = self.drop, self.drop_why
        return found

    def published(self) -> dict[str, Any]:
        """Return CommitPack's columns, and those of the others that hold a value."""
        found = {name: getattr(self, name) for name in PUBLISHED}
        found.update((name, value) for name in _ORIGIN if (value := getattr(self, name)) is not None)
        found.update((name, value) for name, value in self.signals.items() if value is not None)
        found.update((name, value) for name in _DROPPED if (value := getattr(self, name)) is not None)
        return found

    @classmethod
    def parse(cls, columns: Mapping[str, Any]) -> "Row":
        """Make a row of columns; unknown ones become signals.

        Raises:
            ValueError: a column of a commit is not text.
        """
        values: dict[str, Any] = {}
        signals: dict[str, Any] = {}
        for name, value in columns.items():
            if name not in _FIXED:
                signals[name] = value
            elif name == "repos":
                values[name] = join_names(_names(value))
            elif value is None:
                if name in _NEVER_NULL:
                    values[name] = ""
            elif isinstance(value, str):
                values[name] = value
            else:
                raise ValueError(f"column {name!r} holds {type(value).__name__}, not text")
        if not values.get("commit"):
            raise ValueError("no column 'commit' with an id")
        return cls(**values, signals=signals)


_FIXED = frozenset(FIXED)
_NEVER_NULL = frozenset(("commit", "old_file", "new_file", "subject", "message"))


def text_bytes(text: str | None) -> int:
    """Return the bytes of a text in UTF-8; 0 for None."""
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return split_names(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise ValueError("column 'repos' holds neither text nor a list of texts")


def split_names(text: str) -> list[str]:
    """Return the distinct parts of a text that commas join, sorted."""
    if "," not in text:
        return [text] if text else []
    return sorted({part for each in text.split(",") if (part := each.strip())})


def join_names(names: list[str]) -> str:
    """Join distinct names by commas, sorted."""
    return names[0] if len(names) == 1 else ",".join(sorted(set(names)))


def kind_of(value: Any) -> Kind | None:
    """Return the kind of a signal's value; None for null, and for an empty list.

    Raises:
        ValueError: no column holds such a value.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        kinds = {kind_of(each) for each in value}
        if kinds == {"text"} or kinds == {"int"}:
            return "texts" if kinds == {"text"} else "ints"
        raise ValueError("a list of neither texts nor whole numbers")
    for kind, types in (("bool", bool), ("int", int), ("float", float), ("text", str)):
        if isinstance(value, types):
            return kind  # type: ignore[return-value]
    raise ValueError(f"a value of type {type(value).__name__}")


def join_kinds(one: Kind | None, other: Kind | None) -> Kind | None:
    """Return the kind of a column that holds values of both.

    Raises:
        ValueError: there is none.
    """
    if one == other or other is None:
        return one
    if one is None:
        return other
    if {one, other} == {"int", "float"}:
        return "float"
    raise ValueError(f"values of kind {one} and of kind {other}")
