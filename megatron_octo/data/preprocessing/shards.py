"""Shards: the documents of one piece of the input, in one file that is complete or absent.

Tokens, lengths of sequences, sequences of documents, modes and hashes lie one behind the other, and
a JSON object behind them holds the number of each.
"""

import errno
import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import beside
from megatron_octo.data.preprocessing.encode import FIRST_CHECKED, Block, EncodeOptions, Encoder
from megatron_octo.data.preprocessing.sources import Piece

_END = struct.Struct("<Q8s")  # length of the JSON object, magic
_MAGIC = b"octoshrd"
_STEP = 1 << 22
_DAMAGED = "remove this file and start the same command again"


@dataclass(frozen=True)
class Shard:
    """Header of a shard file: counts and digests."""

    path: Path
    input: int
    start: int
    end: int
    last: bool
    tokens: int
    token_bytes: int
    tokens_digest: str
    rest_digest: str
    sequences: int
    documents: int
    hashed: bool
    text_bytes: int
    checked: int
    source_digest: str
    source_stamp: str
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def token_chunks(self) -> Iterator[bytes]:
        """Yield the tokens as they are on disk.

        Raises:
            OctoError: they are not what was written.
        """
        state, left = xxhash.xxh3_128(), self.token_bytes
        with open(self.path, "rb", buffering=0) as file:
            while left and (chunk := file.read(min(_STEP, left))):
                state.update(chunk)
                left -= len(chunk)
                yield chunk
        if left or state.hexdigest() != self.tokens_digest:
            raise OctoError("a damaged shard", where=self.path, hint=_DAMAGED)

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int8], NDArray[np.uint64]]:
        """Read lengths [S], sequences per document [D], modes [S] and hashes [D, 2] (or [0, 2]).

        Raises:
            OctoError: they are not what was written.
        """
        with open(self.path, "rb") as file:
            file.seek(self.token_bytes)
            size = 5 * self.sequences + (20 if self.hashed else 4) * self.documents
            data = file.read(size)
        if xxhash.xxh3_128_hexdigest(data) != self.rest_digest:
            raise OctoError("a damaged shard", where=self.path, hint=_DAMAGED)
        first, second = 4 * self.sequences, 4 * (self.sequences + self.documents)
        third = second + self.sequences
        return (
            np.frombuffer(data[:first], "<i4"),
            np.frombuffer(data[first:second], "<i4"),
            np.frombuffer(data[second:third], "i1"),
            np.frombuffer(data[third:], "<u8").reshape(-1, 2),
        )


def shard_path(folder: Path, number: int, start: int) -> Path:
    """Return the path of the shard of a piece."""
    return folder / f"{number:06d}-{start:015d}.shard"


def open_shard(path: Path) -> Shard | None:
    """Open a shard; None if there is no such file.

    Raises:
        OctoError: the file is damaged.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _END.size, 0))
            length, magic = _END.unpack(file.read(_END.size))
            if magic != _MAGIC or length > size:
                raise ValueError
            file.seek(size - _END.size - length)
            shard = Shard(path=path, **json.loads(file.read(length)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, struct.error):
        raise OctoError("a damaged shard", where=path, hint=_DAMAGED) from None
    rest = 5 * shard.sequences + (20 if shard.hashed else 4) * shard.documents
    if size != shard.token_bytes + rest + length + _END.size:
        raise OctoError("a damaged shard", where=path, hint=_DAMAGED)
    return shard


class ShardMaker:
    """Encodes pieces of the input and writes their shards into a directory.

    Args:
        options: of the encoding.
        folder: where shards lie; one that fits the input is kept.
        proven: whether another process has found that the fast path fits the tokenizer.
        check_only: refuse a shard that does not fit, do not make it again.
    """

    def __init__(self, options: EncodeOptions, folder: Path, proven: bool = False, check_only: bool = False):
        self.folder, self._encoder, self._dedup = folder, Encoder(options, proven), options.dedup
        self._check_only = check_only

    def __call__(self, piece: Piece) -> Shard:
        """Encode a piece; its shard appears when it is complete."""
        path = shard_path(self.folder, piece.input, piece.start)
        try:
            return self._kept(path, piece) or self._made(path, piece)
        except OSError as error:
            # A failed read or write does not name its file.
            written = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
            error.filename = error.filename or str(path if written else piece.source.path)
            raise

    def _kept(self, path: Path, piece: Piece) -> Shard | None:
        """Open the shard of an earlier run, if the input still holds the bytes that it was made from."""
        shard = open_shard(path)
        if shard is None or (shard.source_digest == self._source_digest(piece) and shard.end == piece.end):
            return shard
        if self._check_only:
            raise OctoError(
                f"the shard that starts at {piece.start:,} was made from other bytes than this input has now",
                where=piece.source.path,
                hint="run its task again before --merge",
            )
        return None

    def _source_digest(self, piece: Piece) -> str:
        state = xxhash.xxh3_128()
        for rows in piece.rows(self._encoder.columns):
            state.update(rows.raw)
        return state.hexdigest()

    def _made(self, path: Path, piece: Piece) -> Shard:
        aside = beside(path)
        try:
            with open(aside, "wb", buffering=0) as file:
                shard = self._fill(file, piece, path)
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return shard

    def _fill(self, file: object, piece: Piece, path: Path) -> Shard:
        write = file.write  # type: ignore[attr-defined]
        state, source, written, documents, checked, text_bytes = (
            xxhash.xxh3_128(),
            xxhash.xxh3_128(),
            0,
            0,
            0,
            0,
        )
        skipped, notes = Counter[str](), Counter[str]()
        kept: list[Block] = []
        is_first = piece.input == piece.start == 0
        for rows in piece.rows(self._encoder.columns):
            source.update(rows.raw)
            block = self._encoder(rows, max(FIRST_CHECKED - documents, 0) if is_first else 0)
            _write_all(write, block.tokens)
            state.update(block.tokens)
            written += len(block.tokens)
            documents += len(block.counts)
            checked += block.checked
            text_bytes += block.text_bytes
            skipped += block.skipped
            notes += block.notes
            block.tokens = b""
            kept.append(block)
        lengths = [block.lengths for block in kept]
        if any(len(part) and part.max() >= 2**31 for part in lengths):
            raise OctoError("a sequence is too long for the format (2**31 tokens)", where=piece.source.path)
        rest = b"".join(
            [
                *(part.astype("<i4").tobytes() for part in lengths),
                *(block.counts.astype("<i4").tobytes() for block in kept),
                *(block.modes.astype("i1").tobytes() for block in kept),
                *(block.hashes.astype("<u8").tobytes() for block in kept),
            ]
        )
        shard = Shard(
            path=path,
            input=piece.input,
            start=piece.start,
            end=piece.end,
            last=piece.last,
            tokens=sum(int(part.sum()) for part in lengths),
            token_bytes=written,
            tokens_digest=state.hexdigest(),
            rest_digest=xxhash.xxh3_128_hexdigest(rest),
            sequences=sum(map(len, lengths)),
            documents=documents,
            hashed=self._dedup,
            text_bytes=text_bytes,
            checked=checked,
            source_digest=source.hexdigest(),
            source_stamp=piece.source.stamp,
            skipped=dict(skipped),
            notes=dict(notes),
        )
        about = json.dumps({key: value for key, value in asdict(shard).items() if key != "path"}).encode()
        _write_all(write, rest + about + _END.pack(len(about), _MAGIC))
        return shard


def _write_all(write: object, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(view) :]  # type: ignore[operator]
