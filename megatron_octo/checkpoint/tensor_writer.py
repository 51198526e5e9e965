"""Safetensors written tensor by tensor or block by block, so that memory stays at the size of one block.

Format: https://huggingface.co/docs/safetensors: an 8-byte little-endian header length, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the raw bytes.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from megatron_octo.checkpoint.digest import FileRecord, PieceDigest
from megatron_octo.common.torch_dtypes import DTYPE_NAMES

_ALIGNMENT = 8

TensorSpec = tuple[torch.dtype, tuple[int, ...]]
Specs = Mapping[str, TensorSpec]


def spec_bytes(spec: TensorSpec) -> int:
    """Return the bytes that a tensor takes."""
    return math.prod(spec[1]) * spec[0].itemsize


def header(specs: Specs, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes before the tensors': length and JSON, padded to a multiple of 8 bytes."""
    tree: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, spec in specs.items():
        end = offset + spec_bytes(spec)
        tree[name] = {"dtype": DTYPE_NAMES[spec[0]], "shape": list(spec[1]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


class OutputFile(Protocol):
    """A file that is written from its start to its end."""

    size: int

    def write(self, data: bytes | memoryview) -> Any:
        """Append bytes."""

    def close(self) -> FileRecord:
        """Flush to the disk; returns size and digest."""

    def abandon(self) -> None:
        """Close without flushing, unless it is closed."""


class BufferedFile:
    """An ordinary file, digested while it is written; the caller sees to atomicity."""

    def __init__(self, path: Path):
        self.size, self._digest = 0, PieceDigest()
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close() or abandon()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> FileRecord:
        """Flush to the disk; returns size and digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(bytes=self.size, digest=self._digest.finish())

    def abandon(self) -> None:
        """Close without flushing, unless it is closed."""
        self._file.close()


class TensorSink:
    """A file that takes announced tensors in their order, each whole or as blocks of whole rows.

    Args:
        file: where the bytes go.
        specs: name -> (dtype, shape), in the order of the file.
    """

    def __init__(self, file: OutputFile, specs: Specs):
        self._file, self._specs = file, dict(specs)
        self._expected = [name for name, spec in specs.items() if spec_bytes(spec)]
        self._left = 0  # bytes to come of the tensor that was begun

    def write(self, name: str, block: Tensor) -> None:
        """Append a tensor, or rows of it (as a matrix); a GPU's are copied to the host first.

        Raises:
            ValueError: out of order, or not of the announced dtype and shape.
        """
        size = block.numel() * block.itemsize
        if not size and name in self._specs:
            return
        wanted = self._expected[0] if self._expected else None
        dtype, shape = self._specs[wanted] if wanted else (None, ())
        left = self._left or (spec_bytes(self._specs[wanted]) if wanted else 0)
        rows = block.shape[1:] in (shape[1:], (math.prod(shape[1:]),))
        if name != wanted or block.dtype != dtype or not rows or size > left:
            raise ValueError(
                f"expected tensor {wanted!r} (announced as {dtype}, {shape}; {left} bytes are to come), "
                f"got {name!r} ({block.dtype}, {tuple(block.shape)})"
            )
        self._left = left - size
        if not self._left:
            self._expected.pop(0)
        # Columns of a wider matrix are laid together; one element may keep any stride.
        data = block.detach().contiguous().cpu().as_strided((block.numel(),), (1,)).view(torch.uint8)
        self._append(name, memoryview(data.numpy()), complete=not self._left)

    def _append(self, name: str, data: memoryview, complete: bool) -> None:
        self._file.write(data)

    def _complete(self) -> None:
        """Write what follows the tensors."""

    def close(self) -> FileRecord:
        """Flush to the disk; returns the file's size and digest.

        Raises:
            ValueError: a tensor was announced and never written.
        """
        if self._expected:
            raise ValueError(f"never written: {self._expected[:3]}")
        self._complete()
        return self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.abandon()


class SafetensorsWriter(TensorSink):
    """A safetensors file.

    Args:
        metadata: free strings for the header.
        open_file: makes the file below.
    """

    def __init__(
        self,
        path: str | Path,
        specs: Specs,
        metadata: Mapping[str, str] | None = None,
        open_file: Callable[[Path], OutputFile] = BufferedFile,
    ):
        super().__init__(open_file(Path(path)), specs)
        self._file.write(header(specs, metadata))
