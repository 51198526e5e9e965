"""Files of ``torch.save``, read without running or holding their contents, and written tensor by tensor.

Format: a zip archive of stored (not compressed) records: ``NAME/data.pkl``, a pickle in which tensors are references
to records, and ``NAME/data/0``, ``NAME/data/1``, ... with the bytes of the storages. Every record has a CRC-32.
"""

import collections
import errno
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_octo.checkpoint.tensor_file import Span, Stored, TensorFile
from megatron_octo.checkpoint.tensor_writer import Specs, TensorSink, TensorSpec, spec_bytes
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.direct_file import DirectFile

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip record; then its name and extra field
_ALIGNMENT = 64
_OLD_FORMAT = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # the first bytes of its files
_ARCHIVE = "model_optim_rng"
_DICT = "collections.OrderedDict"
_REBUILD = "torch._utils._rebuild_"  # how names of calls begin that make tensors
_DENSE = f"{_REBUILD}tensor_v2"
_PARAMETER = f"{_REBUILD}parameter"
_STORAGES = {
    "FloatStorage": torch.float32,
    "BFloat16Storage": torch.bfloat16,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
}
# Objects that checkpoints hold: weights, and what Megatron keeps beside them (arguments, enumerations, random states).
_TORCH = {
    *("Size", "device", "Tensor", "nn.parameter.Parameter"),
    *("storage.UntypedStorage", "serialization._get_layout"),
    *(f"{each}Storage" for each in ("Bool", "Char", "Short", "ComplexFloat", "ComplexDouble")),
    *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)),
    *_STORAGES,
}
_KNOWN = {
    *(_DICT, "_codecs.encode", "collections.Counter", "collections.defaultdict"),
    *(f"builtins.{name}" for name in ("set", "bytearray", "complex")),
    *(f"__builtin__.{name}" for name in ("set", "bytearray", "complex")),
    *(f"torch.{name}" for name in _TORCH),
}
_KNOWN_PREFIXES = (
    _REBUILD,
    "argparse.Namespace",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.",
    "numpy._core.",
    "megatron.",
)


class Inert:
    """Stands for any object or call of a pickle: it keeps its arguments and does nothing."""

    name = ""

    def __init__(self, *arguments: Any, **_: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle._Unpickler):
    """Reads a pickle without making its objects: every name except OrderedDict is a fresh kind of :class:`Inert`.

    The pure Python class: the one in C takes memory for whatever memo index the bytes name.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _KNOWN and not full.startswith(_KNOWN_PREFIXES):
            raise _RefusedError(full)
        return collections.OrderedDict if full == _DICT else type("Inert", (Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        return _Storage(*pid)


class _RefusedError(Exception):
    """A pickle names an object that no checkpoint needs."""


class _Storage:
    """A reference to a record: ``("storage", type, key, device, elements)``."""

    def __init__(self, kind: Any, type_: Any, key: Any, *_: Any):
        dtype = _STORAGES.get(str(getattr(type_, "name", "")).removeprefix("torch."))
        if kind != "storage" or not isinstance(key, str):
            raise pickle.UnpicklingError("a reference to an unknown kind of record")
        self.dtype, self.key = dtype, key


@dataclass(frozen=True)
class _Record:
    """One file of the archive: its name below the archive's own, its bytes, and their digest ("": unknown)."""

    name: str
    start: int
    end: int
    digest: str


class TorchFile:
    """Contents of a file of ``torch.save``; its tensors are not read.

    Attributes:
        tree: the saved object, with :class:`Inert` for every object in it.

    Raises:
        OctoError: another kind of file, it is damaged, or its pickle names objects that weights do not need. None of
            them is made, and nothing in the file is run.
    """

    def __init__(self, path: Path):
        self.path = path
        _check_format(path)
        try:
            records = _records(path)
            small = _small(path, records)
            self._records = {record.name: record for record in records}
            self.tree: Any = _Unpickler(io.BytesIO(small["data.pkl"]), encoding="utf-8").load()
        except OctoError:
            raise
        except _RefusedError as error:
            raise OctoError(
                f"its pickle asks for {str(error)!r}, which no checkpoint needs",
                where=path,
                hint="it may be an attack; nothing of it was run. Convert from a copy that you trust",
            ) from None
        except Exception as error:  # arbitrary bytes can raise anything
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # the disk failed, not the file
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise OctoError(f"no file of torch.save, or a damaged one: {reason!r}", where=path) from None

    def place(self, name: str, value: Any) -> Stored | None:
        """Return the place of a tensor of the tree in the file; None if the value is not a tensor.

        Raises:
            OctoError: it is not one piece of the file.
        """
        while isinstance(value, Inert) and value.name == _PARAMETER and value.arguments:
            value = value.arguments[0]
        if not isinstance(value, Inert) or not value.name.startswith(_REBUILD):
            return None
        if value.name != _DENSE:
            raise OctoError(f"{name!r} is not stored as one piece", where=self.path)
        try:
            storage, offset, shape, strides = value.arguments[:4]
            record = self._records.get(f"data/{storage.key}")
            whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
            expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            dense = all(
                want == have or size == 1 for want, have, size in zip(expected, strides, shape, strict=True)
            )
        except (AttributeError, TypeError, ValueError):
            raise OctoError(f"damaged: {name!r} is not a tensor", where=self.path) from None
        if record is None or storage.dtype is None or not (whole and dense):
            raise OctoError(f"{name!r} is not stored as one piece", where=self.path)
        stored = Stored(storage.dtype, tuple(shape), record.start + offset * storage.dtype.itemsize)
        if stored.start + stored.size > record.end:
            raise OctoError(f"damaged: {name!r} is larger than its record", where=self.path)
        return stored


def open_records(path: Path, tensors: Mapping[str, Stored], stream: bool) -> TensorFile:
    """Open some tensors of a file of ``torch.save``; streamed, the checksums of their records are compared."""
    spans: dict[int, Span] = {}
    for record in _records(path) if stream else ():
        if record.digest and any(record.start <= tensor.start < record.end for tensor in tensors.values()):
            spans[record.start] = Span(record.start, record.end, record.digest)
    return TensorFile(path, tensors, spans.values(), stream)


def _check_format(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
            raise OctoError(
                "this is torch.save's format from before torch 1.6, which is one pickle of everything",
                where=path,
                hint="where you trust the file and have what wrote it, save it again: "
                "torch.save(torch.load(FILE, map_location='cpu', weights_only=False), FILE)",
            )


def _records(path: Path) -> list[_Record]:
    found = []
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"{info.filename} is compressed")
            file.seek(info.header_offset)
            *_, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = info.header_offset + _LOCAL_HEADER.size + name + extra
            # torch may be told to leave the checksums out (torch.serialization.set_crc32_options).
            digest = f"crc32:{info.CRC:08x}" if info.CRC else ""
            found.append(_Record(info.filename.partition("/")[2], start, start + info.file_size, digest))
    if len({record.name for record in found}) < len(found):
        raise zipfile.BadZipFile("a record is there twice")
    return found


def _small(path: Path, records: list[_Record]) -> dict[str, bytes]:
    """Return the records beside the tensors (shapes and arguments are among them), their checksums compared."""
    found = {}
    with open(path, "rb") as file:
        for record in records:
            if record.name.startswith("data/"):
                continue
            file.seek(record.start)
            data = found[record.name] = file.read(record.end - record.start)
            if record.digest and f"crc32:{zlib.crc32(data):08x}" != record.digest:
                raise OctoError(
                    f"damaged: {record.name} has changed since it was written (checksum differs)", where=path
                )
            if record.name == "byteorder" and data != b"little":
                raise OctoError(
                    f"its byte order is {data[:20].decode(errors='replace')!r}, only little-endian is read",
                    where=path,
                    hint="save it again on a machine of the usual byte order",
                )
    return found


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
            kind = next(name for name, dtype in _STORAGES.items() if dtype == obj.dtype)
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
        before = self._file.size + _LOCAL_HEADER.size + len(info.filename) + (20 if wide else 0) + 4
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
