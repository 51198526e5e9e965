"""Read jsonl files, plain, gzip or zstandard, in blocks of whole lines and bounded memory."""

import gzip
import zlib
from collections.abc import Iterator
from typing import IO, Any

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import Lines

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BLOCK = 1 << 20


def packing(path: str) -> str | None:
    """How a file is packed: ``gzip``, ``zstd``, or not at all. Its first bytes say so, not its name."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic[:2] == GZIP_MAGIC:
        return "gzip"
    return "zstd" if magic == ZSTD_MAGIC else None


def read_range(path: str, number: int, start: int, end: int, block: int = BLOCK) -> Iterator[Lines]:
    """The lines of a plain file that begin at ``start`` or later, and before ``end``.

    Ranges that meet share no line and leave none out, wherever they are cut. Blocks are of about
    ``block`` bytes; a longer line stays whole.
    """
    with open(path, "rb") as file:
        place = start
        if start > 0:  # the line that goes over the start belongs to the range before
            place = start - 1
            file.seek(place)
            while chunk := file.read(min(block, end - place)):
                newline = chunk.find(b"\n")
                if newline >= 0:
                    place += newline + 1
                    break
                place += len(chunk)
            else:
                return
            if place >= end:
                return
            file.seek(place)
        for offset, data in _whole_lines(_until(file, place, end, block), place):
            yield Lines(path, number, offset, data, 1 if offset == 0 else None)


def _until(file: IO[bytes], place: int, end: int, block: int) -> Iterator[bytes]:
    """Chunks up to the end of the line that holds byte ``end - 1``."""
    while place < end - 1 and (chunk := file.read(min(block, end - 1 - place))):
        place += len(chunk)
        yield chunk
    while chunk := file.read(block):
        line, newline, _ = chunk.partition(b"\n")
        yield line + newline
        if newline:
            return


def _whole_lines(chunks: Iterator[bytes], place: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of blocks of whole lines, without the newline of the last."""
    rest: list[bytes] = []  # the tail of a block, in parts: a very long line costs no quadratic copying
    for chunk in chunks:
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            continue
        data = b"".join([*rest, head])
        yield place, data
        place += len(data) + 1
        rest = [tail]
    if last := b"".join(rest):
        yield place, last


def read_packed(path: str, number: int, kind: str, block: int = BLOCK) -> Iterator[tuple[Lines, int]]:
    """All lines of a packed file, and how many of its bytes on disk were read so far.

    Raises:
        OctoError: it is damaged or cut short (file and line are named), or the library is missing.
    """
    with open(path, "rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if kind == "gzip" else _zstd(raw, path)
        line = 1

        def chunks() -> Iterator[bytes]:
            while chunk := _read(stream, path, line, block, kind):
                yield chunk

        for place, data in _whole_lines(chunks(), 0):
            yield Lines(path, number, place, data, line), raw.tell()
            line += data.count(b"\n") + 1


def _zstd(raw: IO[bytes], path: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise OctoError(
            "a zstandard file needs the zstandard library",
            where=path,
            hint="pip install 'megatron-octo[zstd]'",
        ) from None
    return _Zstd(raw, zstandard)


class _Zstd:
    """Frames one after the other; the library's own reader takes a file that is cut short for its end."""

    def __init__(self, raw: IO[bytes], library: Any):
        self._raw, self._library = raw, library
        self._decoder, self._packed = library.ZstdDecompressor().decompressobj(), b""
        self._fresh = True

    def read(self, size: int) -> bytes:
        while True:
            self._packed = self._packed or self._raw.read(min(size, 1 << 17))
            if not self._packed:
                if not self._fresh:
                    raise EOFError("the file ends inside a frame")
                return b""
            try:
                data: bytes = self._decoder.decompress(self._packed)
            except self._library.ZstdError as error:
                raise EOFError(str(error)) from None
            self._fresh, self._packed = False, b""
            if self._decoder.eof:
                self._packed = self._decoder.unused_data
                self._decoder, self._fresh = self._library.ZstdDecompressor().decompressobj(), True
            if data:
                return data


def _read(stream: Any, path: str, line: int, size: int, kind: str) -> bytes:
    try:
        return bytes(stream.read(size))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OctoError(
            f"damaged {kind} file: {error}",
            where=f"{path}, after line {line}",
            hint="copy or download it again",
        ) from None
