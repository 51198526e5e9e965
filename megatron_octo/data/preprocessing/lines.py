"""Reading of jsonl files, plain or packed, in blocks of whole lines and bounded memory."""

from collections.abc import Iterator
from typing import IO

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import Lines
from megatron_octo.data.preprocessing.packed import Packing, open_packed

BLOCK = 1 << 20


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


def read_packed(path: str, number: int, kind: Packing, block: int = BLOCK) -> Iterator[tuple[Lines, int]]:
    """Yield all lines of a packed file, and how many of its bytes on disk were read so far.

    Raises:
        OctoError: it is damaged or cut short (file and line are named), or the library is missing.
    """
    with open(path, "rb") as raw:
        read = open_packed(raw, kind, path)
        line = 1

        def chunks() -> Iterator[bytes]:
            try:
                while chunk := read(block):
                    yield chunk
            except OctoError as error:
                raise OctoError(error.what, where=f"{path}, after line {line}", hint=error.hint) from None

        for place, data in _whole_lines(chunks(), 0):
            yield Lines(path, number, place, data, line), raw.tell()
            line += data.count(b"\n") + 1
