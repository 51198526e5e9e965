"""Safetensors written one tensor at a time, so that memory stays at the size of one tensor.

Format: https://huggingface.co/docs/safetensors — an 8-byte little-endian header length, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the raw bytes. Files are read with the safetensors library.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from megatron_octo.checkpoint.digest import PieceDigest

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_ALIGNMENT = 8

TensorSpec = tuple[torch.dtype, tuple[int, ...]]


def spec_bytes(spec: TensorSpec) -> int:
    size = spec[0].itemsize
    for extent in spec[1]:
        size *= extent
    return size


def header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """What stands before the tensors' bytes: length and JSON, padded to a multiple of 8 bytes."""
    tree: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, spec in specs.items():
        end = offset + spec_bytes(spec)
        tree[name] = {"dtype": DTYPE_NAMES[spec[0]], "shape": list(spec[1]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


class SafetensorsWriter:
    """Writes the tensors announced in ``specs``, in that order, and digests the file on the way.

    Args:
        path: the file; the caller sees to atomicity (it is written inside a temporary directory).
        specs: name -> (dtype, shape).
        metadata: free strings for the header.
    """

    def __init__(
        self, path: str | Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
    ):
        self.path = Path(path)
        self.specs = dict(specs)
        self._left = list(self.specs)
        self._digest = PieceDigest()
        self._file = open(self.path, "wb")  # noqa: SIM115 - closed by close()
        self.size = 0
        self._put(header(self.specs, metadata))

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor; a GPU tensor is copied to the host first.

        Raises:
            ValueError: out of order, or not of the announced dtype and shape.
        """
        if not self._left or name != self._left[0]:
            raise ValueError(f"expected tensor {self._left[:1]}, got {name!r}")
        if (tensor.dtype, tuple(tensor.shape)) != self.specs[name]:
            raise ValueError(
                f"{name}: announced {self.specs[name]}, got {tensor.dtype}, {tuple(tensor.shape)}"
            )
        self._left.pop(0)
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        if flat.numel():
            self._put(memoryview(flat.view(torch.uint8).numpy()))

    def close(self) -> str:
        """Flush to disk and return the digest of the whole file.

        Raises:
            ValueError: a tensor was announced and never written.
        """
        if self._left:
            raise ValueError(f"{self.path}: never written: {self._left[:3]}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
