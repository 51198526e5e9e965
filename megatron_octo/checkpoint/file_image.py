"""A safetensors file in host memory: filled from tensors at once, written to the disk later by another thread."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from megatron_octo.checkpoint.digest import FileRecord, PieceDigest
from megatron_octo.checkpoint.page_lock import page_locked
from megatron_octo.checkpoint.tensor_writer import TensorSpec, header, spec_bytes

CHUNK = 1 << 26  # locked at once, while the GPU's other work waits
_WRITE = 1 << 24  # a cancelled writer stops after so many bytes
_FLUSH = 1 << 30  # dirty pages go to the disk in portions: other processes write there, too


class CancelledSave(Exception):  # noqa: N818 - no error
    """Raised when the save of this file was given up."""


class FileImage:
    """The bytes of one safetensors file in chunks, reused for every save.

    Args:
        specs: name -> (dtype, shape), in the order of the file.
        pin: take page-locked memory, to which a GPU copies while it computes.

    Raises:
        RuntimeError: see :func:`page_locked`.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], pin: bool = False):
        self.specs = dict(specs)
        self._header = header(self.specs)
        size = sum(spec_bytes(spec) for spec in self.specs.values())
        sizes = [min(CHUNK, size - start) for start in range(0, size, CHUNK)]
        self._chunks = [page_locked(n) if pin else torch.empty(n, dtype=torch.uint8) for n in sizes]

    def fill(self, tensors: Iterable[Tensor]) -> None:
        """Copy tensors, in the order of ``specs``, rounded to its dtypes.

        Copies from a GPU are queued on the current stream and complete when that stream is.

        Raises:
            ValueError: a tensor has another shape than announced, or there are more or fewer of them.
        """
        place = 0
        for (name, (dtype, shape)), tensor in zip(self.specs.items(), tensors, strict=True):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: announced {shape}, got {tuple(tensor.shape)}")
            data = tensor.detach().to(dtype).contiguous()
            if data.is_cuda:
                data.record_stream(torch.cuda.current_stream(data.device))  # it may be freed before it was copied
            rest = data.view(-1).view(torch.uint8)
            while rest.numel():
                number, start = divmod(place, CHUNK)
                count = min(rest.numel(), CHUNK - start)
                self._chunks[number][start : start + count].copy_(rest[:count], non_blocking=True)
                rest, place = rest[count:], place + count

    def write(self, path: Path, cancelled: threading.Event) -> FileRecord:
        """Write the file and flush it to the disk; its long calls release the interpreter.

        Raises:
            CancelledSave: ``cancelled`` was set.
            OSError: for example, the disk is full.
        """
        digest, unflushed = PieceDigest(), 0
        with open(path, "wb", buffering=0) as file:
            for rest in (memoryview(self._header), *(memoryview(chunk.numpy()) for chunk in self._chunks)):
                while len(rest):
                    if cancelled.is_set():
                        raise CancelledSave
                    count = file.write(rest[:_WRITE])
                    digest.update(rest[:count])
                    rest, unflushed = rest[count:], unflushed + count
                    if unflushed >= _FLUSH:
                        os.fsync(file.fileno())
                        unflushed = 0
            os.fsync(file.fileno())
            return FileRecord(bytes=file.tell(), digest=digest.finish())
