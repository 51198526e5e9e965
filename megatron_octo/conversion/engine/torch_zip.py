"""Files of ``torch.save`` without running what is in them, and without holding it.

Format: a zip archive of stored (not compressed) records: ``NAME/data.pkl``, a pickle in which tensors are references
to records, and ``NAME/data/0``, ``NAME/data/1``, ... with the bytes of the storages. Every record has a CRC-32.
"""

import collections
import errno
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.tensor_file import Span, Stored, TensorFile
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.direct_file import DirectFile
from megatron_octo.conversion.engine.sinks import Announced, OutTensor, block_bytes

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip record; then its name and extra field
_ALIGNMENT = 64
_OLD_FORMAT = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # how its files begin
_ARCHIVE = "model_optim_rng"
# What Megatron keeps beside the weights (arguments, enumerations, random states): nothing that we need, so each of
# these names stands for an object that holds what it is given and does nothing.
_INERT = ("argparse.Namespace", "numpy.ndarray", "numpy.dtype", "numpy.core.", "numpy._core.", "megatron.")


class Inert:
    """Stands for an object that is not made."""

    def __init__(self, *arguments: Any, **_: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


@dataclass(frozen=True)
class _Record:
    """One file of the archive: its name below the archive's own, its bytes, and their digest ("": not known)."""

    name: str
    start: int
    end: int
    digest: str


class TorchFile:
    """What a file of ``torch.save`` holds; its tensors are mapped and not read.

    Attributes:
        tree: what was saved.

    Raises:
        OctoError: it is no such file, it is damaged, or its pickle asks for objects that weights do not need. None of
            them is made, and nothing in the file is run.
    """

    def __init__(self, path: Path):
        self.path = path
        _check_format(path)
        try:
            records = _records(path)
            _check_small(path, records)
            self._records = {record.start: record for record in records}
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if refused := [name for name in foreign if not name.startswith(_INERT)]:
                raise OctoError(
                    f"its pickle asks for {', '.join(sorted(refused))}, which no checkpoint needs",
                    where=path,
                    hint="it may be an attack; nothing of it was run. Convert from a copy that you trust",
                )
            stand_ins: list[Any] = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in foreign]
            with torch.serialization.safe_globals(stand_ins):
                self.tree: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except OctoError:
            raise
        except Exception as error:  # bytes that nobody meant can raise anything
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # the disk's, and not the file's
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise OctoError(f"no file of torch.save, or a damaged one: {reason}", where=path) from None
        self._mapped = _mappings()

    def place(self, name: str, tensor: Tensor) -> Stored:
        """Where a tensor of the tree is in the file.

        Raises:
            OctoError: it is not one piece of it.
        """
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            raise OctoError(f"{name} is not stored as one piece", where=self.path)
        address = tensor.untyped_storage().data_ptr()
        mapped = next((each for each in self._mapped if each[0] <= address < each[1]), None)
        if mapped is None:
            raise OctoError(f"{name} is not mapped from this file", where=self.path)
        base = mapped[0] - mapped[2]
        record = self._records.get(address - base)
        if record is None:
            raise OctoError(f"{name} is not stored as one piece", where=self.path)
        stored = Stored(tensor.dtype, tuple(tensor.shape), tensor.data_ptr() - base)
        if stored.start + stored.size > record.end:
            raise OctoError(f"damaged: {name} is larger than its record", where=self.path)
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
                "this is torch.save's format from before torch 1.6, whose tensors cannot be mapped",
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
    return found


def _check_small(path: Path, records: Sequence[_Record]) -> None:
    """The records that torch reads without comparing their checksums: shapes and arguments are among them."""
    with open(path, "rb") as file:
        for record in records:
            if record.name.startswith("data/"):
                continue
            file.seek(record.start)
            data = file.read(record.end - record.start)
            if record.digest and f"crc32:{zlib.crc32(data):08x}" != record.digest:
                raise OctoError(
                    f"damaged: {record.name} has changed since it was written (checksum differs)", where=path
                )
            if record.name == "byteorder" and data != b"little":
                raise OctoError(
                    f"its numbers are stored {data[:20].decode(errors='replace')}-endian, only little is read",
                    where=path,
                    hint="save it again on a machine of the usual byte order",
                )


def _mappings() -> list[tuple[int, int, int]]:
    """First and last address, and place in its file, of all that is mapped from a file into this process.

    An address inside says where in the file it is. (torch says places only under its fake tensors, and these leave
    marks in a process that are felt by its training.)
    """
    found, maps = [], Path("/proc/self/maps")
    if not maps.exists():
        raise OctoError("files of torch.save are read and written in place on Linux only", where=maps)
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, offset, _, inode = line.split(maxsplit=5)[:5]
        first, _, last = addresses.partition("-")
        if inode != "0":
            found.append((int(first, 16), int(last, 16), int(offset, 16)))
    return found


_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
}


@dataclass(frozen=True)
class _Storage:
    """A record that will be written; the pickle refers to it."""

    key: str
    dtype: torch.dtype
    count: int


class _Pickler(pickle.Pickler):
    """Writes announced tensors the way torch.save writes tensors."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", _STORAGES[obj.dtype], obj.key, "cpu", obj.count)
        return None


class _Reference:
    """A tensor of which the pickle holds dtype, shape and record."""

    def __init__(self, tensor: OutTensor, key: str):
        self._tensor, self._key = tensor, key

    def __reduce__(self) -> Any:
        shape = self._tensor.shape
        strides: list[int] = [1]
        for extent in reversed(shape[1:]):
            strides.insert(0, strides[0] * extent)
        storage = _Storage(self._key, self._tensor.dtype, torch.Size(shape).numel())
        hooks: collections.OrderedDict[str, Any] = collections.OrderedDict()
        return torch._utils._rebuild_tensor_v2, (storage, 0, shape, tuple(strides), False, hooks)


class TorchZipSink:
    """A file that ``torch.load`` reads, written tensor by tensor.

    Args:
        tree: what is saved, given the tensors by their keys.
    """

    def __init__(
        self, path: Path, tensors: Sequence[OutTensor], tree: Callable[[dict[str, Any]], dict[str, Any]]
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._announced = Announced(tensors)
        self._file = DirectFile(path)
        target: Any = self._file  # it cannot seek: checksums follow the records
        self._archive = zipfile.ZipFile(target, "w", zipfile.ZIP_STORED)
        self._tensors = list(tensors)
        self._number = 0
        self._record: Any = None
        pickled = io.BytesIO()
        references = {tensor.key: _Reference(tensor, str(number)) for number, tensor in enumerate(tensors)}
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

    def write(self, key: str, block: Tensor) -> None:
        if self._record is None:
            info = self._info(f"data/{self._number}", self._tensors[self._number].size, wide=True)
            self._record = self._archive.open(info, "w", force_zip64=True)
        complete = self._announced.take(key, block)
        self._record.write(block_bytes(block))
        if complete:
            self._record.close()
            self._record = None
            self._number += 1

    def close(self) -> FileRecord:
        self._announced.check_complete()
        self._put("version", b"3\n")
        self._archive.close()
        return self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.fp = None  # given up: it has nothing more to write
        self._file.__exit__(kind, error, trace)
