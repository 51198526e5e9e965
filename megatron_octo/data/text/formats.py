"""Documents of context and targets from rows of jsonl. Control tokens are inserted here only.

The shapes of documents are templates (:mod:`megatron_octo.data.text.template`); this module makes a function of one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import xxhash

from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.indexed import CONTEXT, TARGET
from megatron_octo.data.text.template import FORMATS as FORMATS
from megatron_octo.data.text.template import (
    Chance,
    End,
    Field,
    Part,
    Stretch,
    Template,
    Text,
    Token,
    Turns,
    load_template,
)
from megatron_octo.data.text.template import template_path as template_path
from megatron_octo.data.text.tokenizer import Tokenizer

FormatName = str  # of a template that comes with the project, or the path of one

Segment = str | int  # text to encode, or the id of a control token
Draft = list[tuple[int, list[Segment]]]  # mode and segments of each sequence
Row = Mapping[str, Any]


class RowError(Exception):
    """Raised for a row that cannot become a document; skipped rows are counted by ``reason``."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Keys:
    """Names of the columns that templates call ``inputs``, ``outputs`` and ``text``."""

    input: str = "inputs"
    output: str = "outputs"
    text: str = "text"

    def name(self, column: str) -> str:
        """Return the name in the rows of a template's column."""
        return {"inputs": self.input, "outputs": self.output, "text": self.text}.get(column, column)


def draft_maker(name: FormatName, keys: Keys, tokenizer: Tokenizer) -> Callable[[Row, int], Draft]:
    """Build the function that turns a row, and the number of its document, into the draft of the document.

    The number decides what is left to chance, together with the template's seed, and nothing else. The function
    raises :class:`RowError` on a row without the wanted columns, or without anything to learn.

    Raises:
        OctoError: there is no such template, it is wrong, or the tokenizer lacks a control token of it.
    """
    template = load_template(name)
    return _Maker(template, keys, tokenizer, name if name in FORMATS else str(template.path))


def wanted_columns(name: FormatName, keys: Keys) -> list[tuple[str, ...]]:
    """List the columns that a format reads: groups of alternatives, of which a row needs one."""
    found: list[tuple[str, ...]] = []

    def add(parts: Iterable[Part]) -> None:
        for part in parts:
            if isinstance(part, Field):
                found.append(tuple(map(keys.name, part.names)))
            elif isinstance(part, Chance):
                add(part.parts)

    for entry in load_template(name).entries:
        if isinstance(entry, Turns):
            found.append((entry.field,))
        else:
            add(entry.parts)
    return list(dict.fromkeys(found))


def is_pretraining(name: FormatName) -> bool:
    """Return whether documents of a format are running text, not pairs for fine-tuning."""
    return load_template(name).pretraining


class _Maker:
    def __init__(self, template: Template, keys: Keys, tokenizer: Tokenizer, name: str):
        self._template, self._keys, self._name = template, keys, name
        self._eod, self._eod_token = tokenizer.eod_id, tokenizer.eod_token
        sequences = [
            sequence
            for entry in template.entries
            for sequence in (entry.roles.values() if isinstance(entry, Turns) else [entry])
        ]
        self._alone = len(sequences) == 1
        self._ids: dict[str, int] = {}
        for token in _tokens(part for sequence in sequences for part in sequence.parts):
            try:
                self._ids[token.token] = tokenizer.control_id(token.token, f"format {name}")
            except OctoError as error:
                raise OctoError(error.what, where=f"{error.where}, wanted by {token.where}", hint=error.hint) from None

    def __call__(self, row: Row, number: int = 0) -> Draft:
        draft: Draft = []
        for entry in self._template.entries:
            if isinstance(entry, Turns):
                for sequence, turn in self._turns(entry, row):
                    self._add(draft, sequence, turn, number)
            else:
                self._add(draft, entry, row, number)
        if not any(mode == TARGET for mode, _ in draft):
            raise RowError("nothing to learn", f"no part of the row is learned {self._place()}")
        return draft

    def _place(self, part: Field | Turns | None = None) -> str:
        line = f", line {part.where.rpartition(':')[2]}" if part else ""
        return f"(format {self._name}{line})"

    def _turns(self, entry: Turns, row: Row) -> Iterable[tuple[Stretch, Row]]:
        turns = self._value(entry.field, row, entry)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise RowError("not a list", f"the value of {entry.field!r} is not a list of objects {self._place(entry)}")
        for place, turn in enumerate(turns):
            role = turn.get(entry.role)
            if not isinstance(role, str) or role not in entry.roles:
                known = ", ".join(entry.roles)
                raise RowError(
                    "unknown role",
                    f"{entry.field}[{place}]: {entry.role} is {role!r}, known are {known} {self._place(entry)}",
                )
            yield entry.roles[role], turn

    def _value(self, name: str, row: Row, part: Field | Turns) -> Any:
        if name not in row:
            has = ", ".join(map(repr, row)) or "none"
            raise RowError("missing key", f"no key {name!r}; the row has {has} {self._place(part)}")
        return row[name]

    def _add(self, draft: Draft, sequence: Stretch, row: Row, number: int) -> None:
        segments: list[Segment] = []
        learned = False
        names: list[str] = []
        parts = sequence.parts
        last = parts[-2] if len(parts) > 1 and isinstance(parts[-1], End) else parts[-1]
        for part in self._chosen(parts, number):
            if isinstance(part, Field):
                name, text = self._text(part, row)
                # Rows made for OctoPack spell out the end token themselves.
                if sequence.mode == TARGET and part is last:
                    text = text.removesuffix(self._eod_token)
                learned = learned or bool(text)
                names.append(name)
                _append(segments, text)
            elif isinstance(part, Text):
                _append(segments, part.text)
            else:
                segments.append(self._ids[part.token] if isinstance(part, Token) else self._eod)
        if sequence.mode == TARGET and not learned:
            reason = "empty document" if self._alone else "empty output"
            raise RowError(reason, f"{' and '.join(map(repr, names))} is empty: there is nothing to learn")
        # Context behind context is one sequence, so that its text is tokenised as one.
        if sequence.mode == CONTEXT and draft and draft[-1][0] == CONTEXT:
            for segment in segments:
                _append(draft[-1][1], segment)
        elif segments:
            draft.append((sequence.mode, segments))

    def _chosen(self, parts: Iterable[Part], number: int) -> Iterable[Text | Token | End | Field]:
        for part in parts:
            if not isinstance(part, Chance):
                yield part
            elif _draw(self._template.seed, number, part.number) < part.probability:
                yield from self._chosen(part.parts, number)

    def _text(self, part: Field, row: Row) -> tuple[str, str]:
        for column in part.names:
            name = self._keys.name(column)
            if name in row:
                text = row[name]
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise RowError("not a string", f"the value of {name!r} is {kind}, not a string {self._place(part)}")
                if part.basename:
                    text = PurePosixPath(text).name
                return name, text.strip() if part.strip else text
        wanted = " or ".join(repr(self._keys.name(column)) for column in part.names)
        has = ", ".join(map(repr, row)) or "none"
        raise RowError("missing key", f"no key {wanted}; the row has {has} {self._place(part)}")


def _append(segments: list[Segment], segment: Segment) -> None:
    """Append a segment; adjacent texts become one, so that template and row are tokenised together."""
    if segment == "":
        return
    if isinstance(segment, str) and segments and isinstance(last := segments[-1], str):
        segments[-1] = last + segment
    else:
        segments.append(segment)


def _tokens(parts: Iterable[Part]) -> Iterable[Token]:
    for part in parts:
        if isinstance(part, Token):
            yield part
        elif isinstance(part, Chance):
            yield from _tokens(part.parts)


def _draw(seed: int, number: int, choice: int) -> float:
    """Return a number in [0, 1) for one choice of one document."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{number}/{choice}".encode()) / 2**64
