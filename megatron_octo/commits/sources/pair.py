"""The row of a mixture: what is given, what is learned, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import xxhash

from megatron_octo.commits.rows.row import text_bytes

COLUMNS = ("id", "inputs", "outputs", "source", "lang", "license")
# Names of the columns in the files of others; the first pair that a row has is taken.
NAMES = (
    ("inputs", "outputs"),
    ("inputs", "targets"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),
)
_DROPPED = ("drop", "drop_why")


@dataclass(slots=True)
class Pair:
    """A question and its answer.

    Attributes:
        inputs: what is given.
        outputs: what is learned.
        id: of the row where it comes from, else a digest of both texts.
        source: name of the data set.
        lang: display name of the programming language; None if none is known.
        license: SPDX id, or None.
        signals: further columns by name.
        drop: name of the first rule that dropped the row; None for a row that is kept.
        drop_why: what that rule found.
    """

    inputs: str
    outputs: str
    id: str = ""
    source: str | None = None
    lang: str | None = None
    license: str | None = None
    signals: dict[str, Any] = field(default_factory=dict)
    drop: str | None = None
    drop_why: str | None = None

    def __post_init__(self) -> None:
        """Give the row an id, if it has none."""
        if not self.id:
            self.id = content_digest(self.inputs, self.outputs).hex()

    @property
    def name(self) -> str:
        """Names the row in errors."""
        return f"row {self.id}"

    @property
    def content_bytes(self) -> int:
        """Bytes of both texts, in UTF-8."""
        return text_bytes(self.inputs) + text_bytes(self.outputs)

    @property
    def size(self) -> int:
        """Bytes of both texts."""
        return self.content_bytes

    def mark(self, rule: str, why: str = "") -> Self:
        """Drop the row by a rule, unless an earlier one did; returns the row."""
        if self.drop is None:
            self.drop, self.drop_why = rule, why or None
        return self

    def checked(self) -> Self:
        """Drop a row of which one text is blank; returns the row."""
        if not self.inputs.strip():
            return self.mark("empty_input")
        return self if self.outputs.strip() else self.mark("empty_output")

    def published(self) -> dict[str, Any]:
        """Return the columns that hold a value, the two texts first."""
        found: dict[str, Any] = {"inputs": self.inputs, "outputs": self.outputs}
        for name in ("source", "lang", "license", "id"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        found.update((name, value) for name, value in self.signals.items() if value is not None)
        found.update((name, value) for name in _DROPPED if (value := getattr(self, name)) is not None)
        return found

    @classmethod
    def parse(cls, columns: Mapping[str, Any]) -> "Pair":
        """Make a row of columns, by any of the usual names; unknown ones become signals.

        An ``input`` beside an ``instruction`` follows it on a line of its own.

        Raises:
            ValueError: there are no two texts, or a known column is not text.
        """
        rest = dict(columns)
        texts = [rest.pop(name) for name in _texts(rest)]
        if "instruction" in columns and texts[0] is columns["instruction"] and (more := rest.pop("input", None)):
            texts = [f"{texts[0]}\n{more}" if isinstance(more, str) else more, texts[1]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a column of the pair is not text")
        known = {name: rest.pop(name, None) for name in ("id", "source", "lang", "license", *_DROPPED)}
        for name, value in known.items():
            if name == "id" and isinstance(value, int) and not isinstance(value, bool):
                known["id"] = str(value)
            elif value is not None and not isinstance(value, str):
                raise ValueError(f"column {name!r} holds {type(value).__name__}, not text")
        number = known.pop("id") or ""
        return cls(texts[0], texts[1], number, signals=rest, **known)


def _texts(columns: Mapping[str, Any]) -> tuple[str, str]:
    for names in NAMES:
        if all(name in columns for name in names):
            return names
    wanted = ", ".join(f"{one} and {other}" for one, other in NAMES)
    has = ", ".join(map(repr, columns)) or "none"
    raise ValueError(f"no pair of columns, which are {wanted}; the row has {has}")


def content_digest(*texts: str) -> bytes:
    """Return sixteen bytes by which texts are known again."""
    state = xxhash.xxh3_128()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
