"""Passes over the rows of a mixture: hashes; chosen rows in pieces sorted by another hash; the merged order.

Memory: of each process a piece of a file of at most 64 MB, and later the rows of a part, which are about as much, as
objects: together up to 0.5 GB.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from megatron_octo.commits.rows import UNKNOWN
from megatron_octo.commits.rows.stage import Write
from megatron_octo.commits.sources import commit_pairs
from megatron_octo.commits.sources.code_language import language_named
from megatron_octo.commits.sources.mix_plan import NO_LANGUAGE, Scan
from megatron_octo.commits.sources.pair import Pair, content_digest
from megatron_octo.commits.sources.stage import Make, read_made
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write
from megatron_octo.data.preprocessing.sources import Piece

PART = 64 << 20  # bytes of lines in a part of the mixture


@dataclass(frozen=True)
class Reading:
    """A piece of a source and how it is read.

    Attributes:
        number: of the piece.
        source: number of the source.
        name: of the source.
        piece: of a file.
        commits: how commits become pairs.
        languages: those that stay; None for all.
        need_language: whether rows must have one.
        dedup: what makes rows equal.
        seed: of the hashes.
    """

    number: int
    source: int
    name: str
    piece: Piece
    commits: commit_pairs.Settings
    languages: frozenset[str] | None
    need_language: bool
    dedup: str
    seed: int

    def pairs(self) -> Iterator[Pair]:
        """Read the rows, commits as pairs; columns that are not those of all are left out."""
        of_commit: Make | None = None

        def make(value: Any) -> Pair:
            nonlocal of_commit
            if not isinstance(value, dict):
                raise ValueError("no object")
            if "commit" in value and "new_contents" in value:
                of_commit = of_commit or commit_pairs.Maker(self.commits)
                pair = of_commit(value)
            else:
                pair = Pair.parse(value).checked()
            pair.source, pair.signals = self.name, {}
            pair.lang = (language_named(pair.lang) or pair.lang) if pair.lang else None
            return pair

        yield from read_made(self.piece, make)

    def key(self, line: bytes) -> int:
        """Return the hash by which a row is drawn."""
        return xxhash.xxh3_64_intdigest(line, seed=_seed(self.seed, "draw"))

    def refusal(self, pair: Pair) -> str | None:
        """Return why a row may not appear; None if it may."""
        if pair.drop is not None:
            return "dropped"
        if pair.lang is None:
            return "no_language" if self.need_language else None
        return "language" if self.languages is not None and pair.lang not in self.languages else None


def line_of(pair: Pair) -> bytes:
    """Return a row as a line of JSON."""
    return orjson.dumps(pair.published(), option=orjson.OPT_SORT_KEYS)


def _seed(seed: int, use: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}/{use}".encode())


def scan(reading: Reading) -> Scan:
    """Read a piece and return the hashes of its rows.

    Raises:
        OctoError: a bad row; file and line are named.
    """
    keys, digests, langs, left = [], [], [], []
    numbers, reasons = {NO_LANGUAGE: 0}, Counter[str]()
    for pair in reading.pairs():
        keys.append(reading.key(line_of(pair)))
        if reading.dedup != "none":
            texts = (pair.inputs,) if reading.dedup == "inputs" else (pair.inputs, pair.outputs)
            digests.append(content_digest(*texts))
        name = NO_LANGUAGE if pair.lang in (None, UNKNOWN) else str(pair.lang)
        langs.append(numbers.setdefault(name, len(numbers)))
        refusal = reading.refusal(pair)
        left.append(refusal is None)
        if refusal is not None:
            reasons[refusal] += 1
    return Scan(
        reading.source,
        np.array(keys, np.uint64),
        np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2),
        np.array(langs, np.int32),
        list(numbers),
        np.array(left, bool),
        dict(reasons),
    )


@dataclass(frozen=True)
class Spilling:
    """The rows of a piece that appear, and where they are put."""

    reading: Reading
    keys: NDArray[np.uint64]
    copies: NDArray[np.int32]
    folder: Path


def spill(job: Spilling) -> int:
    """Write the chosen rows of a piece, sorted by the hash that makes the order of the mixture; returns the bytes.

    Raises:
        OctoError: the file is no longer what it was when the hashes were made.
    """
    seed = _seed(job.reading.seed, "order")
    # Packed: an object for each line would take a kilobyte, whose rest the allocator does not get back.
    data, ends, keys, rows = bytearray(), array("q", [0]), array("Q"), array("q")
    for number, pair in enumerate(job.reading.pairs()):
        line = line_of(pair)
        if number >= len(job.keys) or job.reading.key(line) != int(job.keys[number]):
            raise _changed(job)
        for copy in range(int(job.copies[number])):
            state = xxhash.xxh3_64(line, seed=seed)
            state.update(copy.to_bytes(4, "little"))
            keys.append(state.intdigest())
            rows.append(number)
        if job.copies[number]:
            data += line
        ends.append(len(data))
    if len(ends) - 1 != len(job.keys):
        raise _changed(job)
    sorted_keys = np.array(keys, np.uint64)
    order = np.argsort(sorted_keys, kind="stable")
    chosen, edges = np.array(rows, np.int64)[order], np.array(ends, np.int64)
    sizes = np.diff(edges)[chosen]
    paths = spill_paths(job.folder, job.reading.number)
    with atomic_write(paths[0]) as file:
        file.writelines(data[ends[row] : ends[row + 1]] for row in chosen.tolist())
    for path, values in ((paths[1], sorted_keys[order]), (paths[2], np.cumsum(np.concatenate([[0], sizes])))):
        with atomic_write(path) as file:
            np.save(file, values.astype(np.uint64 if path == paths[1] else np.int64))
    return int(sizes.sum())


def _changed(job: Spilling) -> OctoError:
    return OctoError("the file changed while it was read", where=job.reading.piece.source.path, hint="start again")


def spill_paths(folder: Path, number: int) -> tuple[Path, Path, Path]:
    """Return where the chosen rows of a piece lie: lines, hashes, ends of the lines."""
    return tuple(folder / f"piece-{number:05d}.{what}" for what in ("lines", "keys.npy", "ends.npy"))  # type: ignore[return-value]


@dataclass(frozen=True)
class Part:
    """Rows whose hash lies in a range: one part of the mixture.

    Attributes:
        folder: of the chosen rows.
        pieces: how many there are.
        number: of the part, from 0.
        parts: how many there are.
        read: number of rows that were read, said by the first part.
        notes: of the manifest, said by the first part.
    """

    folder: Path
    pieces: int
    number: int
    parts: int
    read: int
    notes: tuple[dict[str, Any], ...]

    def __call__(self, write: Write) -> dict[str, Any]:
        """Merge the rows of all pieces in the order of their hashes."""
        rows = sorted(row for piece in range(self.pieces) for row in self._rows(piece))
        sources, languages = Counter[str](), Counter[str]()
        for _, line in rows:
            pair = Pair.parse(orjson.loads(line))
            sources[str(pair.source)] += 1
            languages[pair.lang or "none"] += 1
            write(pair)
        return {
            "rows_in": 0 if self.number else self.read,
            "notes": [] if self.number else list(self.notes),
            "counts": {"sources": sources, "languages": languages},
        }

    def _rows(self, piece: int) -> Iterator[tuple[int, bytes]]:
        paths = spill_paths(self.folder, piece)
        keys, ends = (np.load(path, mmap_mode="r") for path in paths[1:])
        start, end = (self._edge(keys, number) for number in (self.number, self.number + 1))
        if start == end:
            return
        with open(paths[0], "rb") as file:
            file.seek(int(ends[start]))
            for place in range(start, end):
                yield int(keys[place]), file.read(int(ends[place + 1] - ends[place]))

    def _edge(self, keys: NDArray[np.uint64], number: int) -> int:
        edge = -(-number * 2**64 // self.parts)
        return len(keys) if edge >= 2**64 else int(np.searchsorted(keys, np.uint64(edge)))
