"""Files that take tensors block by block: safetensors here, torch's own format in :mod:`torch_zip`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.tensor_writer import header
from megatron_octo.conversion.engine.direct_file import DirectFile


@dataclass(frozen=True)
class OutTensor:
    """A tensor as it is announced to a file."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Sink(Protocol):
    """Takes the announced tensors in their order, each as blocks of whole rows."""

    def write(self, key: str, block: Tensor) -> None: ...
    def close(self) -> FileRecord: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Announced:
    """Which tensor comes next, and how much of it is still to come."""

    def __init__(self, tensors: Sequence[OutTensor]):
        self._tensors = [tensor for tensor in tensors if tensor.size]
        self._number, self._left = 0, self._tensors[0].size if self._tensors else 0

    def take(self, key: str, block: Tensor) -> bool:
        """Count a block; returns whether its tensor is complete now.

        Raises:
            ValueError: this is not what was announced.
        """
        size = block.numel() * block.itemsize
        wanted = self._tensors[self._number] if self._number < len(self._tensors) else None
        if wanted is None or key != wanted.key or block.dtype != wanted.dtype or size > self._left:
            raise ValueError(
                f"expected {wanted} ({self._left} bytes of it), got {key} {block.dtype}, {size} bytes"
            )
        self._left -= size
        if self._left:
            return False
        self._number += 1
        if self._number < len(self._tensors):
            self._left = self._tensors[self._number].size
        return True

    def check_complete(self) -> None:
        """Raises:
        ValueError: something was announced and never came.
        """
        if self._number < len(self._tensors):
            raise ValueError(f"never written: {self._tensors[self._number]}")


def block_bytes(block: Tensor) -> memoryview:
    """A block's bytes; columns of a wider matrix are laid together first."""
    return memoryview(block.contiguous().view(-1).view(torch.uint8).numpy())


class SafetensorsSink:
    """A safetensors file."""

    def __init__(self, path: Path, tensors: Sequence[OutTensor], metadata: Mapping[str, str] | None = None):
        self._announced = Announced(tensors)
        self._file = DirectFile(path)
        self._file.write(header({tensor.key: (tensor.dtype, tensor.shape) for tensor in tensors}, metadata))

    def write(self, key: str, block: Tensor) -> None:
        self._announced.take(key, block)
        self._file.write(block_bytes(block))

    def close(self) -> FileRecord:
        self._announced.check_complete()
        return self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)
