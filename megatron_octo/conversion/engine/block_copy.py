"""Copies from a source into files, block by block: everything is read once, and memory stays at a few blocks.

A conversion is planned as files, the tensors in each, and the boxes of our tensors that make up each tensor. Files
that cut the same tensors (one per tensor rank) are written side by side. The kernel reads ahead and the files write
behind (:mod:`~megatron_octo.conversion.engine.direct_file`).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.source import BLOCK, Source
from megatron_octo.checkpoint.tensor_writer import Specs, TensorSink, TensorSpec, spec_bytes
from megatron_octo.conversion.engine.rounding import Rounding


@dataclass(frozen=True)
class Box:
    """Rows and columns of one of our tensors, seen as a matrix."""

    name: str
    kind: str
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: boxes one under the other, all of one width."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @property
    def spec(self) -> TensorSpec:
        """Return dtype and shape."""
        return self.dtype, self.shape

    @property
    def size(self) -> int:
        """Return its bytes."""
        return spec_bytes(self.spec)


@dataclass(frozen=True)
class PlannedFile:
    """A file to write and its tensors in order."""

    name: str
    tensors: tuple[PlannedTensor, ...]

    @property
    def size(self) -> int:
        """Return the bytes of its tensors."""
        return sum(tensor.size for tensor in self.tensors)


Group = tuple[PlannedFile, ...]  # written side by side
OpenSink = Callable[[Path, Specs], TensorSink]


@dataclass(frozen=True)
class _Taker:
    """A file that takes (some columns of) a block."""

    file: int
    tensor: PlannedTensor
    columns: tuple[int, int]


@dataclass(frozen=True)
class _Block:
    name: str
    kind: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    takers: tuple[_Taker, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


def _blocks(group: Group, source: Source) -> Iterator[_Block]:
    """Yield the blocks to read, so that every file gets its tensors in order."""
    wanted: dict[str, list[tuple[int, PlannedTensor]]] = {}
    for number, file in enumerate(group):
        for tensor in file.tensors:
            wanted.setdefault(tensor.key, []).append((number, tensor))
    for tensors in wanted.values():
        for part in range(len(tensors[0][1].boxes)):
            together: dict[tuple[str, str, tuple[int, int]], list[_Taker]] = {}
            for number, tensor in tensors:
                box = tensor.boxes[part]
                taker = _Taker(number, tensor, box.columns)
                together.setdefault((box.name, box.kind, box.rows), []).append(taker)
            for (name, kind, (first, last)), takers in together.items():
                left = min(taker.columns[0] for taker in takers)
                right = max(taker.columns[1] for taker in takers)
                step = max(1, BLOCK // ((right - left) * source.dtype(name, kind).itemsize))
                for row in range(first, last, step):
                    rows = (row, min(last, row + step))
                    yield _Block(name, kind, rows, (left, right), tuple(takers))


def write_group(
    source: Source,
    directory: Path,
    group: Group,
    open_sink: OpenSink,
    rounding: Rounding,
    progress: Callable[[int], None],
) -> dict[str, FileRecord]:
    """Write the files of one group and flush them to the disk.

    ``progress`` is called with the number of bytes that were written since the last call.

    Raises:
        OctoError: the source is damaged or incomplete, or a value does not fit the dtype.
        OSError: for example, the disk is full; the caller removes the files of the group.
    """
    with ExitStack() as stack:
        sinks: list[TensorSink] = []
        for file in group:
            announced = {tensor.key: tensor.spec for tensor in file.tensors}
            sinks.append(stack.enter_context(open_sink(directory / file.name, announced)))
        buffer = torch.empty(0, dtype=torch.uint8)
        for block in _blocks(group, source):
            dtype = source.dtype(block.name, block.kind)
            if buffer.numel() < block.size * dtype.itemsize:
                buffer = torch.empty(max(BLOCK, block.size * dtype.itemsize), dtype=torch.uint8)
            matrix = buffer[: block.size * dtype.itemsize].view(dtype).view(block.shape)
            source.rows(block.name, block.kind, block.rows, block.columns, matrix)
            converted: dict[torch.dtype, Tensor] = {}
            written = 0
            for taker in block.takers:
                wanted = taker.tensor.dtype
                if wanted not in converted:
                    converted[wanted] = rounding.convert(block.name, matrix, wanted)
                left, right = (column - block.columns[0] for column in taker.columns)
                part = converted[wanted][:, left:right]
                sinks[taker.file].write(taker.tensor.key, part)
                written += part.numel() * part.itemsize
            progress(written)
        return {file.name: sink.close() for file, sink in zip(group, sinks)}
