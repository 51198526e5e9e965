"""Inputs of preprocess, cut into independent pieces for processes or nodes.

Where the cuts lie follows from the inputs only, so that the pieces of a run that was killed, or of another
task of the same job, fit.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import Lines, Rows
from megatron_octo.data.preprocessing.lines import BLOCK, read_packed, read_range
from megatron_octo.data.preprocessing.packed import Packing, find_packing
from megatron_octo.data.preprocessing.recognize import check_rows
from megatron_octo.data.preprocessing.tables import (
    PREFIX,
    column_names,
    is_saved_dataset,
    open_dataset,
    parquet_groups,
    read_dataset,
    read_parquet,
)

_SMALLEST, _LARGEST, _PIECES = 1 << 20, 64 << 20, 128
_PACKED_LARGEST = 8 << 20  # pieces of packed files travel to the processes through memory
Kind = Literal["lines", "gzip", "bzip2", "xz", "zstd", "parquet", "dataset"]


@dataclass(frozen=True)
class Input:
    """One input: a file, or a data set of the datasets library.

    Attributes:
        size: bytes on disk.
        identity: what mostly changes when the content does, without reading it: size and time of change.
        stamp: inode and the system's own time of change, which programs cannot set; empty if there is none.
    """

    path: str
    kind: Kind
    size: int
    identity: str
    stamp: str = field(default="", compare=False)

    @property
    def packing(self) -> Packing | None:
        """How a file of lines is packed."""
        return self.kind if self.kind in get_args(Packing) else None  # type: ignore[return-value]

    @property
    def is_file(self) -> bool:
        """Whether the input is one file."""
        return self.kind != "dataset"


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` .. ``end`` of an input, in byte offsets (unpacked) or row numbers.

    Attributes:
        disk: its share of the bytes on disk.
        data: the unpacked lines of a packed file, None for other inputs, which :meth:`rows` reads itself.
        line: number of the first of these lines.
    """

    input: int
    source: Input
    start: int
    end: int
    last: bool
    disk: int
    data: bytes | None = None
    line: int | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[Rows]:
        """Read the rows of the piece, in blocks; of a table, ``columns`` only."""
        path = self.source.path
        if self.data is not None:
            yield from _blocks(Lines(path, self.input, self.start, self.data, self.line))
        elif self.source.kind == "lines":
            yield from read_range(path, self.input, self.start, self.end)
        elif self.source.kind == "parquet":
            yield from read_parquet(path, self.input, self.start, self.end, columns)
        else:
            yield from read_dataset(path, self.input, self.start, self.end, columns)


def open_input(path: str) -> Input:
    """Find out what an input is.

    Raises:
        OctoError: there is nothing, or nothing that can be read.
    """
    if path.startswith(PREFIX) or (Path(path).is_dir() and is_saved_dataset(path)):
        source = path if path.startswith(PREFIX) else f"{PREFIX}{path}"
        data = open_dataset(source)
        files = [Path(each["filename"]).stat() for each in data.cache_files]
        stamp = " ".join(f"{file.st_ino} {file.st_ctime_ns}" for file in files)
        return Input(source, "dataset", data.data.nbytes, f"{len(data)} rows, {data._fingerprint}", stamp)
    if not Path(path).exists():
        raise OctoError("no such file", where=path, hint="check --input")
    if not Path(path).is_file():
        raise OctoError("not a file", where=path, hint="name the .jsonl files, for example with a shell pattern")
    found = Path(path).stat()
    with open(path, "rb") as file:
        head = file.read(8)
    kind: Any = "parquet" if head.startswith(b"PAR1") else find_packing(head) or "lines"
    stamp = f"{found.st_ino} {found.st_ctime_ns}"
    return Input(path, kind, found.st_size, f"{found.st_size} bytes of {found.st_mtime_ns}", stamp)


def check_input(source: Input, wanted: Sequence[Sequence[str]]) -> None:
    """Refuse an input that does not hold rows with the columns of a format.

    Args:
        source: the input.
        wanted: groups of columns; a row needs one of each group.

    Raises:
        OctoError: it is another kind of file, damaged from the start, or a table without a column.
    """
    if source.kind not in ("parquet", "dataset"):
        check_rows(source.path, source.packing)
        return
    names = column_names(source.kind, source.path) or []
    for group in wanted:
        if not any(name in names for name in group):
            raise OctoError(
                f"no column {' or '.join(map(repr, group))}; it has {', '.join(map(repr, names)) or 'none'}",
                where=source.path,
                hint="choose another --format, or name the columns with --input-key, --output-key or --text-key",
            )


def piece_size(inputs: Sequence[Input]) -> int:
    """Choose the bytes of a piece: enough pieces to distribute, not too many for a directory."""
    total = sum(source.size for source in inputs)
    return max(min(max(total // _PIECES, _SMALLEST), _LARGEST), total // (_PIECES * _PIECES))


def pieces(inputs: Sequence[Input], size: int, only: Container[int] | None = None) -> Iterator[Piece]:
    """Cut inputs into pieces of about ``size`` bytes, in order. Packed files are unpacked on the way.

    Args:
        inputs: all of them.
        size: bytes of a piece.
        only: numbers of the inputs to cut; None for all.
    """
    for number, source in enumerate(inputs):
        if only is not None and number not in only:
            continue
        if source.kind == "lines":
            for start in range(0, max(source.size, 1), size):
                end = min(start + size, source.size)
                yield Piece(number, source, start, end, end == source.size, end - start)
        elif source.kind == "parquet":
            yield from _groups(number, source, parquet_groups(source.path), size)
        elif source.kind == "dataset":
            count = len(open_dataset(source.path))
            step = max(count * size // max(source.size, 1), 1)
            steps = [(min(step, count - first), source.size * step // count) for first in range(0, count, step)]
            yield from _groups(number, source, steps, 0)
        else:
            yield from _packed(number, source, min(size, _PACKED_LARGEST))


def _groups(number: int, source: Input, groups: Sequence[tuple[int, int]], size: int) -> Iterator[Piece]:
    """Join groups of rows into pieces of at least ``size`` bytes."""
    start = end = amount = 0
    for place, (rows, held) in enumerate(groups, 1):
        end, amount = end + rows, amount + held
        if amount >= size or place == len(groups):
            share = source.size // len(groups)
            yield Piece(number, source, start, end, place == len(groups), share)
            start, amount = end, 0
    if not groups:
        yield Piece(number, source, 0, 0, True, source.size)


def _packed(number: int, source: Input, size: int) -> Iterator[Piece]:
    """Cut a packed file. A piece is held back until it is known whether it is the last."""
    start, held, line, lines, on_disk = 0, 0, 1, 0, 0
    packing = source.packing
    assert packing is not None
    parts: list[bytes] = []

    def piece(last: bool) -> Piece:
        share = position - on_disk
        return Piece(number, source, start, start + held, last, share, b"\n".join(parts), line)

    position = 0
    ready = False
    for block, at in read_packed(source.path, number, packing):
        if ready:
            yield piece(False)
            start, held, line, lines, on_disk, parts = start + held, 0, line + lines, 0, position, []
        position = at
        parts.append(block.data)
        held += len(block.data) + 1
        lines += block.data.count(b"\n") + 1
        ready = held >= size
    position = source.size
    yield piece(True)


def _blocks(lines: Lines) -> Iterator[Lines]:
    """Split lines into blocks of about a megabyte."""
    begin, number = 0, lines.first or 1
    while begin < len(lines.data):
        newline = lines.data.find(b"\n", min(begin + BLOCK, len(lines.data)) - 1)
        end = newline if newline >= 0 else len(lines.data)
        data = lines.data[begin:end]
        yield Lines(lines.path, lines.input, lines.start + begin, data, number)
        number += data.count(b"\n") + 1
        begin = end + 1
