"""Encoder of rows into blocks of tokens: the work of one process of preprocess."""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.common.ragged import interleave, row_sums
from megatron_octo.common.splitmix import mix
from megatron_octo.data.dataset.indexed import token_dtype
from megatron_octo.data.preprocessing.input_rows import INPUT_BITS, Rows
from megatron_octo.data.text.formats import Draft, FormatName, Keys, RowError, draft_maker, wanted_columns
from megatron_octo.data.text.tokenizer import Backend, Tokenizer

SPELLED = "documents that spell a control token"
LOSSY = "documents with characters that the vocabulary cannot express, and that are lost"
FIRST_CHECKED = 50  # documents at the start of the first input that are always compared with the reference
CHECKED_EVERY = 1000  # and one in so many of all the others, by a hash of their numbers
NOT_ROWS = {"broken JSON", "invalid UTF-8", "not an object"}  # reasons by which a file may be no jsonl at all
CHECKED_TOKENS = 1 << 18  # longer ones are not: the reference needs some 150 bytes of memory a token


@dataclass(frozen=True)
class EncodeOptions:
    """Options of the encoding, all of which are recorded in the manifest."""

    tokenizer: str
    format: FormatName = "finetune"
    keys: Keys = field(default_factory=Keys)
    eod_token: str | None = None
    control_text: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    backend: Backend = "auto"
    dedup: bool = False
    shuffle: int | None = None

    def identity(self) -> dict[str, Any]:
        """Return what the tokens depend on: the options, with files by their content."""
        values = {key: value for key, value in asdict(self).items() if key != "shuffle"}
        values["tokenizer"] = digest_file(self.tokenizer)
        if Path(self.format).is_file():
            values["format"] = digest_file(self.format)
        return values


@dataclass
class Block:
    """Documents of some rows, as :meth:`megatron_octo.data.dataset.writer.IndexedWriter.add_block` takes them.

    ``hashes`` are 128 bits of each document's content, uint64 [D, 2]; empty unless they are needed.
    """

    tokens: bytes
    lengths: NDArray[np.int64]
    modes: NDArray[np.int8]
    counts: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    checked: int = 0  # documents that were compared with the reference
    text_bytes: int = 0


class Encoder:
    """Turns rows into a block.

    Raises:
        OctoError: the tokenizer does not fit the format; when called: a bad row with
            ``on_error="stop"``, or a document that the fast path encodes differently, as ``file:line``.
    """

    def __init__(self, options: EncodeOptions, proven: bool = False):
        self.options = options
        self.tokenizer = Tokenizer(options.tokenizer, options.eod_token, options.control_text, options.backend, proven)
        self._draft = _numbered(draft_maker(options.format, options.keys, self.tokenizer))
        self._dtype = token_dtype(self.tokenizer.vocab_size)
        self.wanted = wanted_columns(options.format, options.keys)
        self.columns = list(dict.fromkeys(name for group in self.wanted for name in group))
        self._names = [orjson.dumps(name) for name in self.columns]

    def __call__(self, rows: Rows, check_first: int = 0) -> Block:
        """Encode rows; the first ``check_first`` documents are compared with the reference in any case."""
        skipped: Counter[str] = Counter()
        drafts: list[Draft] = []
        places: list[int] = []
        hashes: list[bytes] = []
        base = rows.input << INPUT_BITS
        for place, row in rows:
            try:
                if isinstance(row, RowError):
                    raise row
                content = parse_row(row, self._names) if isinstance(row, bytes) else row
                draft = self._draft(content, base | place)
                if self.options.dedup:
                    # With its random choices fixed: the same content is the same document everywhere.
                    hashes.append(_content_hash(self._draft(content, 0)))
            except RowError as error:
                if self.options.on_error == "stop":
                    raise OctoError(
                        str(error),
                        where=rows.where(place),
                        hint="fix the row, or leave such rows out with --on-error skip",
                    ) from None
                skipped[error.reason] += 1
            else:
                drafts.append(draft)
                places.append(place)
        block = self._encode(drafts, self._sample(base, places, check_first), lambda index: rows.where(places[index]))
        block.hashes = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
        block.skipped, block.text_bytes = skipped, rows.text_bytes
        return block

    def _sample(self, base: int, places: list[int], first: int) -> list[int]:
        """Choose the documents to compare with the reference: the first ones, and some by a hash of their numbers."""
        if self.tokenizer.fast is None:
            return []
        numbers = np.array(places, np.uint64) | np.uint64(base)
        drawn = mix(numbers) % np.uint64(CHECKED_EVERY) == 0
        drawn[:first] = True
        return np.flatnonzero(drawn).tolist()

    def _encode(self, drafts: list[Draft], sample: list[int], where: Callable[[int], str]) -> Block:
        sequences = [sequence for draft in drafts for sequence in draft]
        segments = [segment for _, parts in sequences for segment in parts]
        texts = [segment for segment in segments if isinstance(segment, str)]
        ids, lengths = self.tokenizer.encode_flat(texts)
        is_control = np.fromiter((isinstance(segment, int) for segment in segments), bool, len(segments))
        control = np.array([segment for segment in segments if isinstance(segment, int)], ids.dtype)
        ids, lengths = interleave(is_control, (control, np.ones(len(control), np.int64)), (ids, lengths))
        per_sequence = row_sums(lengths, np.array([len(parts) for _, parts in sequences], np.int64))
        counts = np.array([len(draft) for draft in drafts], np.int64)
        tokens = ids.astype(self._dtype)
        ends = np.cumsum(row_sums(per_sequence, counts))
        checked = 0
        for index in sample:
            begin = int(ends[index - 1]) if index else 0
            if ends[index] - begin > CHECKED_TOKENS or _characters(drafts[index]) > 4 * CHECKED_TOKENS:
                continue
            checked += 1
            self._compare(drafts[index], ids[begin : int(ends[index])], where, index)
        return Block(
            tokens=tokens.tobytes(),
            lengths=per_sequence,
            modes=np.array([mode for mode, _ in sequences], np.int8),
            counts=counts,
            hashes=np.empty((0, 2), np.uint64),
            notes=self._notes(drafts),
            checked=checked,
        )

    def _notes(self, drafts: list[Draft]) -> Counter[str]:
        def count(holds: Callable[[str], bool]) -> int:
            texts = ((part for _, parts in draft for part in parts if isinstance(part, str)) for draft in drafts)
            return sum(any(map(holds, parts)) for parts in texts)

        notes = Counter({SPELLED: count(self.tokenizer.holds_control)})
        if self.tokenizer.loses.lossy:
            notes[LOSSY] = count(self.tokenizer.loses)
        return notes

    def _compare(self, draft: Draft, found: NDArray[np.integer], where: Callable[[int], str], index: int) -> None:
        parts = [part for _, parts in draft for part in parts]
        encoded = iter(self.tokenizer.encode([part for part in parts if isinstance(part, str)]))
        wanted = chain.from_iterable(next(encoded) if isinstance(part, str) else [part] for part in parts)
        if found.tolist() != list(wanted):
            raise OctoError(
                f"the fast tokenizer ({self.tokenizer.backend}) encodes this document differently",
                where=where(index),
                hint="run again with --tokenizer-backend reference, and report the document",
            )


def _numbered(make: Callable[..., Draft]) -> Callable[[Mapping[str, Any], int], Draft]:
    """Adapt a format that takes the row alone to one that also takes the document's number."""
    if len(inspect.signature(make).parameters) >= 2:
        return make
    return lambda row, number: make(row)


def _characters(draft: Draft) -> int:
    return sum(len(part) for _, parts in draft for part in parts if isinstance(part, str))


def _content_hash(draft: Draft) -> bytes:
    state = xxhash.xxh3_128()
    for mode, parts in draft:
        state.update(b"\xfe%d" % mode)  # bytes that UTF-8 never has keep the parts apart
        for part in parts:
            state.update(b"\xff" + part.encode() if isinstance(part, str) else b"\xfd%d" % part)
    return state.digest()


def parse_row(line: bytes, names: Sequence[bytes] = ()) -> Mapping[str, Any]:
    """Parse a line as a JSON object.

    Args:
        line: UTF-8; a byte order mark in front is left out.
        names: keys that matter, as JSON; none of them may come twice.

    Raises:
        RowError: it is none, or a key comes twice.
        MemoryError: there is not enough memory for it.
    """
    line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _bad_json(line, error) from None
    if not isinstance(row, dict):
        raise RowError("not an object", f"the line is a JSON {type(row).__name__}, not an object")
    if any(line.count(name) > 1 for name in names):
        keys = json.loads(line, object_pairs_hook=_Pairs, parse_int=str, parse_float=str).keys
        for name in map(orjson.loads, names):
            if keys.count(name) > 1:
                raise RowError("key given twice", f"the key {name!r} is given twice")
    found: Mapping[str, Any] = row
    return found


class _Pairs:
    """Keys of a JSON object, in order."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        self.keys = [key for key, _ in pairs]


def _bad_json(line: bytes, error: orjson.JSONDecodeError) -> Exception:
    """Say what is wrong with a line. The library reports everything as an error of syntax, a lack of memory too."""
    if "memory" in error.msg:
        return MemoryError(f"a row of {len(line):,} bytes needs more memory")
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return RowError("invalid UTF-8", f"not UTF-8 at byte {wrong.start} of the line")
    reasons = {"depth": "nested too deeply", "ecursion": "nested too deeply", "surrogate": "lone surrogate"}
    reason = next((reason for word, reason in reasons.items() if word in error.msg), "broken JSON")
    return RowError(reason, f"not valid JSON: {error}")
