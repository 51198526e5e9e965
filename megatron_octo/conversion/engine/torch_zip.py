"""Files of ``torch.save``, read without running or holding their contents.

Format: a zip archive of stored (not compressed) records: ``NAME/data.pkl``, a pickle in which tensors are references
to records, and ``NAME/data/0``, ``NAME/data/1``, ... with the bytes of the storages. Every record has a CRC-32.
"""

import collections
import errno
import io
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_octo.checkpoint.tensor_file import Span, Stored, TensorFile
from megatron_octo.common.errors import OctoError

LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip record; then its name and extra field
_OLD_FORMAT = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # the first bytes of its files
_DICT = "collections.OrderedDict"
_REBUILD = "torch._utils._rebuild_"  # how names of calls begin that make tensors
_DENSE = f"{_REBUILD}tensor_v2"
_PARAMETER = f"{_REBUILD}parameter"
STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "BFloat16Storage": torch.bfloat16,
    "HalfStorage": torch.float16,
}
# Objects that checkpoints hold: weights, and what Megatron keeps beside them (arguments, enumerations, random states).
_KNOWN = re.compile(
    r"collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|bytearray|complex)|_codecs\.encode"
    r"|argparse\.Namespace|numpy\.(ndarray|dtype.*|_?core\..+)|megatron\..+"
    r"|torch\.(Size|device|Tensor|(storage\.)?\w+Storage|_utils\._rebuild_\w+|nn\.parameter\.Parameter"
    r"|serialization\._get_layout|u?int\d+|b?float\d\w*|complex\d+|bool|q\w+)"
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
        if not _KNOWN.fullmatch(full):
            raise _RefusedError(full)
        return collections.OrderedDict if full == _DICT else type("Inert", (Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        return _Storage(*pid)


class _RefusedError(Exception):
    """A pickle names an object that no checkpoint needs."""


class _Storage:
    """A reference to a record: ``("storage", type, key, device, elements)``."""

    def __init__(self, kind: Any, type_: Any, key: Any, *_: Any):
        dtype = STORAGES.get(str(getattr(type_, "name", "")).removeprefix("torch."))
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
    """Contents of a file of ``torch.save``; its tensors are not read, and nothing in it is run.

    Attributes:
        tree: the saved object, with :class:`Inert` for every object in it.

    Raises:
        OctoError: another kind of file, it is damaged, or its pickle names objects that weights do not need.
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
        try:
            if _kind(value) == _PARAMETER:
                value = value.arguments[0]
            if not _kind(value).startswith(_REBUILD):
                return None
            if _kind(value) != _DENSE:
                raise OctoError(f"{name!r} is not stored as one piece", where=self.path)
            storage, offset, shape, strides = value.arguments[:4]
            record = self._records.get(f"data/{storage.key}")
            whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
            expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            dense = all(want == have or size == 1 for want, have, size in zip(expected, strides, shape, strict=True))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise OctoError(f"damaged: {name!r} is not a tensor", where=self.path) from None
        if record is None or storage.dtype is None or not (whole and dense):
            raise OctoError(f"{name!r} is not stored as one piece", where=self.path)
        stored = Stored(storage.dtype, tuple(shape), record.start + offset * storage.dtype.itemsize)
        if stored.start + stored.size > record.end:
            raise OctoError(f"damaged: {name!r} is larger than its record", where=self.path)
        return stored


def _kind(value: Any) -> str:
    return str(type(value).name) if isinstance(value, Inert) else ""


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
            *_, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            start = info.header_offset + LOCAL_HEADER.size + name + extra
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
