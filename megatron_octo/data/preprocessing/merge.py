"""Merge of shards into one data set: in order, without duplicates, or shuffled; in bounded memory."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.ragged import row_sums, take_rows
from megatron_octo.common.splitmix import mix
from megatron_octo.data.dataset.writer import IndexedWriter
from megatron_octo.data.preprocessing.shards import Shard

_BUCKET = 2_000_000  # hashes that are sorted in memory
_PART = 96 << 20  # bytes of tokens that are shuffled in memory
_FILES = 256  # at most, at once
_CHUNK = 1 << 20  # tokens that are gathered in one go


@dataclass
class Documents:
    """Documents in memory: tokens [N], lengths [S], sequences of each document [D], modes [S]."""

    tokens: NDArray[np.integer]
    lengths: NDArray[np.int32]
    counts: NDArray[np.int32]
    modes: NDArray[np.int8]

    def take(self, rows: NDArray[np.int64]) -> "Documents":
        """Return the documents ``rows``, in that order."""
        sizes = row_sums(self.lengths, self.counts)
        ends = np.cumsum(sizes[rows])
        tokens = np.empty(int(ends[-1]) if len(rows) else 0, self.tokens.dtype)
        # Gathering takes eight bytes per token at its peak.
        cuts = [0, *np.searchsorted(ends, np.arange(_CHUNK, len(tokens), _CHUNK)).tolist(), len(rows)]
        done = 0
        for first, last in pairwise(cuts):
            found = take_rows(self.tokens, sizes, rows[first:last])
            tokens[done : done + len(found)] = found
            done += len(found)
        return Documents(
            tokens,
            take_rows(self.lengths, self.counts, rows),
            self.counts[rows],
            take_rows(self.modes, self.counts, rows),
        )


def merge(shards: Sequence[Shard], writer: IndexedWriter, scratch: Path, *, dedup: bool, shuffle: int | None) -> int:
    """Write the documents of all shards; returns the number of duplicates that were left out.

    Args:
        shards: in the order of the input; their hashes are needed for ``dedup``.
        writer: takes the documents.
        scratch: a directory for what does not fit into memory.
        dedup: keep the first of documents with the same content only.
        shuffle: seed of a random order; None keeps that of the input.
    """
    try:
        kept = _first_ones(shards, scratch / "hashes") if dedup else None
        done = 0
        if shuffle is None:
            for shard in shards:
                lengths, counts, modes, _ = shard.arrays()
                keep = None if kept is None else kept[done : done + shard.documents]
                done += shard.documents
                if keep is None or keep.all():
                    writer.add_block(shard.token_chunks(), lengths, modes, counts)
                else:
                    part = _load(shard, writer.dtype).take(np.flatnonzero(keep))
                    writer.add_block(part.tokens.tobytes(), part.lengths, part.modes, part.counts)
        else:
            total = sum(shard.token_bytes for shard in shards)
            documents = sum(shard.documents for shard in shards)
            keyed = _keyed(shards, writer.dtype, kept, shuffle)
            for part in _shuffled(keyed, total, documents, 64, scratch / "order"):
                writer.add_block(part.tokens.tobytes(), part.lengths, part.modes, part.counts)
        return sum(shard.documents for shard in shards) - writer.documents
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _load(shard: Shard, dtype: np.dtype) -> Documents:
    lengths, counts, modes, _ = shard.arrays()
    data = bytearray()
    for chunk in shard.token_chunks():
        data += chunk
    return Documents(np.frombuffer(data, dtype), lengths, counts, modes)


def _first_ones(shards: Sequence[Shard], folder: Path) -> NDArray[np.bool_]:
    """Return whether each document is the first of its content, bool [D]; hashes are sorted in buckets."""
    total = sum(shard.documents for shard in shards)
    folder.mkdir(parents=True, exist_ok=True)
    count = min(max(total // _BUCKET, 1), _FILES)
    record = np.dtype([("low", "<u8"), ("high", "<u8"), ("number", "<u8")])
    files = [open(folder / f"{bucket}", "wb") for bucket in range(count)]  # noqa: SIM115
    try:
        done = 0
        for shard in shards:
            hashes = shard.arrays()[3]
            records = np.empty(len(hashes), record)
            records["low"], records["high"] = hashes[:, 0], hashes[:, 1]
            records["number"] = np.arange(done, done + len(hashes))
            done += len(hashes)
            for bucket, rows in _by_bucket(hashes[:, 1], count):
                files[bucket].write(records[rows].tobytes())
    finally:
        for file in files:
            file.close()
    # One byte per document, in a file: the kernel writes it back when memory is short.
    kept = np.memmap(folder / "kept", np.bool_, "w+", shape=(max(total, 1),))
    kept[:] = True
    for bucket in range(count):
        records = np.fromfile(folder / f"{bucket}", record)
        # A stable sort: of equal ones the first in the input stays first.
        records = records[np.lexsort((records["low"], records["high"]))]
        same = (records["low"][1:] == records["low"][:-1]) & (records["high"][1:] == records["high"][:-1])
        kept[records["number"][1:][same]] = False
    return kept[:total]


def _by_bucket(keys: NDArray[np.uint64], count: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the rows of each bucket, in order; the buckets are equal ranges of the keys."""
    width = np.uint64(-(-(2**64) // count)) if count > 1 else None
    buckets = np.zeros(len(keys), np.int64) if width is None else (keys // width).astype(np.int64)
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(count + 1))
    for bucket in np.unique(buckets).tolist():
        yield bucket, order[bounds[bucket] : bounds[bucket + 1]]


Keyed = tuple[NDArray[np.uint64], Documents]


def _keyed(shards: Iterable[Shard], dtype: np.dtype, kept: NDArray[np.bool_] | None, seed: int) -> Iterator[Keyed]:
    """Yield documents with sort keys: a random permutation of the 64-bit numbers, at the document's number."""
    done = 0
    for shard in shards:
        part = _load(shard, dtype)
        numbers = np.arange(done, done + shard.documents, dtype=np.uint64)
        if kept is not None:
            rows = np.flatnonzero(kept[done : done + shard.documents])
            part, numbers = part.take(rows), numbers[rows]
        done += shard.documents
        yield mix(mix(numbers, seed), seed), part


def _shuffled(source: Iterable[Keyed], total: int, documents: int, bits: int, folder: Path) -> Iterator[Documents]:
    """Yield documents in the order of their keys. ``total``: bytes of tokens; ``bits``: of the keys still unsorted."""
    if total <= _PART or documents <= 1 or bits <= 8:
        found = list(source)
        order = np.argsort(np.concatenate([keys for keys, _ in found]))
        yield _join([part for _, part in found]).take(order)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # 256 buckets, whatever the size, so that each level uses up eight bits.
    sizes, counts = np.zeros(_FILES, np.int64), np.zeros(_FILES, np.int64)
    shift, low = np.uint64(bits - 8), np.uint64(_FILES - 1)
    files: dict[int, IO[bytes]] = {}
    try:
        for keys, part in source:
            buckets = ((keys >> shift) & low).astype(np.int64)
            order = np.argsort(buckets, kind="stable")
            bounds = np.searchsorted(buckets[order], np.arange(_FILES + 1))
            sorted_part = part.take(order)
            for bucket in np.unique(buckets).tolist():
                rows = np.arange(bounds[bucket], bounds[bucket + 1])
                some = sorted_part.take(rows)
                arrays = (keys[order[rows]], some.counts, some.lengths, some.modes, some.tokens)
                head = np.array([array.nbytes for array in arrays], "<u8")
                if bucket not in files:
                    files[bucket] = open(folder / f"{bucket}", "wb")  # noqa: SIM115
                files[bucket].write(b"".join([head.tobytes(), *(array.tobytes() for array in arrays)]))
                sizes[bucket] += some.tokens.nbytes
                counts[bucket] += len(rows)
    finally:
        for file in files.values():
            file.close()
    for bucket in sorted(files):
        path, size, count = folder / f"{bucket}", int(sizes[bucket]), int(counts[bucket])
        yield from _shuffled(_stored(path, part.tokens.dtype), size, count, bits - 8, folder / f"{bucket}.d")
        path.unlink()


def _stored(path: Path, dtype: np.dtype) -> Iterator[Keyed]:
    with open(path, "rb") as file:
        while head := file.read(40):
            sizes = np.frombuffer(head, "<u8").tolist()
            kinds: list[np.dtype[Any]] = [
                np.dtype("<u8"),
                np.dtype("<i4"),
                np.dtype("<i4"),
                np.dtype("i1"),
                dtype,
            ]
            keys, counts, lengths, modes, tokens = (
                np.frombuffer(file.read(size), kind) for size, kind in zip(sizes, kinds)
            )
            yield keys, Documents(tokens, lengths, counts, modes)


def _join(parts: Sequence[Documents]) -> Documents:
    return Documents(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.modes for part in parts]),
    )
