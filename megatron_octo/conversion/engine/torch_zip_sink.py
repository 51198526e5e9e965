"""Writes files that ``torch.load`` reads, tensor by tensor; the format is in :mod:`torch_zip`."""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_octo.checkpoint.tensor_writer import Specs, TensorSink, TensorSpec, spec_bytes
from megatron_octo.conversion.engine.direct_file import DirectFile
from megatron_octo.conversion.engine.torch_zip import LOCAL_HEADER, STORAGES

_ALIGNMENT = 64
_ARCHIVE = "model_optim_rng"


@dataclass(frozen=True)
class _Written:
    """A record that will be written; the pickle refers to it."""

    key: str
    dtype: torch.dtype
    count: int


class _Pickler(pickle.Pickler):
    """Writes announced tensors the way torch.save writes tensors."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Written):
            kind = next(name for name, dtype in STORAGES.items() if dtype == obj.dtype)
            return ("storage", getattr(torch, kind), obj.key, "cpu", obj.count)
        return None


class _Reference:
    """A tensor of which the pickle holds dtype, shape and record."""

    def __init__(self, spec: TensorSpec, key: str):
        self._dtype, self._shape, self._key = *spec, key

    def __reduce__(self) -> Any:
        strides = tuple(math.prod(self._shape[axis + 1 :]) for axis in range(len(self._shape)))
        storage = _Written(self._key, self._dtype, math.prod(self._shape))
        hooks: collections.OrderedDict[str, Any] = collections.OrderedDict()
        return torch._utils._rebuild_tensor_v2, (storage, 0, self._shape, strides, False, hooks)


class TorchZipSink(TensorSink):
    """A file that ``torch.load`` reads.

    Args:
        tree: makes the saved object from the tensors by their names.
    """

    def __init__(self, path: Path, specs: Specs, tree: Callable[[dict[str, Any]], dict[str, Any]]):
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(DirectFile(path), specs)
        target: Any = self._file  # it cannot seek: checksums follow the records
        self._archive = zipfile.ZipFile(target, "w", zipfile.ZIP_STORED)
        self._numbers = {name: number for number, name in enumerate(specs)}
        self._record: Any = None
        pickled = io.BytesIO()
        references = {name: _Reference(spec, str(self._numbers[name])) for name, spec in specs.items()}
        _Pickler(pickled, protocol=2).dump(tree(references))
        self._put("data.pkl", pickled.getvalue())
        self._put("byteorder", b"little")

    def _info(self, name: str, size: int, wide: bool) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(f"{_ARCHIVE}/{name}", (1980, 1, 1, 0, 0, 0))
        info.file_size = size
        # Padding in the extra field, so that a storage begins where a memory map of it would be aligned.
        before = self._file.size + LOCAL_HEADER.size + len(info.filename) + (20 if wide else 0) + 4
        padding = -before % _ALIGNMENT
        info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        return info

    def _put(self, name: str, data: bytes) -> None:
        with self._archive.open(self._info(name, len(data), wide=False), "w") as record:
            record.write(data)

    def _append(self, name: str, data: memoryview, complete: bool) -> None:
        if self._record is None:
            info = self._info(f"data/{self._numbers[name]}", spec_bytes(self._specs[name]), wide=True)
            self._record = self._archive.open(info, "w", force_zip64=True)
        self._record.write(data)
        if complete:
            self._record.close()
            self._record = None

    def _complete(self) -> None:
        self._put("version", b"3\n")
        self._archive.close()

    def __exit__(self, *error: Any) -> None:
        self._archive.fp = None  # given up: it writes nothing more
        super().__exit__(*error)
