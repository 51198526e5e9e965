"""Files of raw tensors, read in pieces: no byte twice, digested on the way, and none of it kept in memory.

Memory that is mapped to a file counts as the process's own, and plain reading fills the page cache with what is never
asked for again. Who converts 31 GB on a small machine wants neither: here bytes go into the caller's buffer, and a
streaming reader tells the kernel to forget them.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash

from megatron_octo.checkpoint.digest import NAME as PIECES
from megatron_octo.checkpoint.digest import PieceDigest
from megatron_octo.checkpoint.tensor_writer import DTYPE_NAMES
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import DIGEST_NAME

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
_CHUNK = 1 << 23


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: row-major from byte ``start`` on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def finish(self) -> str: ...


class _Xxh3:
    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()
        self.update = self._state.update

    def finish(self) -> str:
        return f"{DIGEST_NAME}:{self._state.hexdigest()}"


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def finish(self) -> str:
        return f"crc32:{self._value:08x}"


_DIGESTS: dict[str, Callable[[], Digest]] = {DIGEST_NAME: _Xxh3, PIECES: PieceDigest, "crc32": _Crc32}


class Span:
    """A range of a file and the digest that its bytes should have, computed while they are read.

    Args:
        start, end: bytes.
        expected: ``NAME:hex``; the name says how it is computed.
    """

    def __init__(self, start: int, end: int, expected: str):
        self.start, self.end, self.expected = start, end, expected
        self.position = start  # up to here it was digested
        self.digest = _DIGESTS[expected.partition(":")[0]]()


class TensorFile:
    """An opened file and the tensors in it.

    Args:
        tensors: name -> where it is.
        spans: ranges with a known digest, disjoint.
        stream: every byte is wanted once: the page cache need not keep it.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Stored], spans: Iterable[Span] = (), stream: bool = False
    ):
        self.path, self.tensors, self._stream = path, tensors, stream
        self._spans = list(spans)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the object

    def read(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``start`` on.

        Raises:
            OctoError: the file ends before.
        """
        self._fetch(start, out)
        end = start + len(out)
        for span in self._spans:
            if span.start < end and start < span.end:
                self._digest_to(span, start)
                low, high = max(start, span.position), min(end, span.end)
                if low < high:
                    span.digest.update(out[low - start : high - start])
                    span.position = high

    def _fetch(self, start: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            count = os.preadv(self._file.fileno(), [out[done:]], start + done)
            if not count:
                raise OctoError(f"damaged file: it ends at byte {start + done}", where=self.path)
            done += count
        if self._stream and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), start, len(out), os.POSIX_FADV_DONTNEED)

    def _digest_to(self, span: Span, end: int) -> None:
        """Digest what was passed over: a digest takes its bytes in order."""
        if span.position >= min(end, span.end):
            return
        buffer = memoryview(bytearray(min(_CHUNK, span.end - span.position)))
        while (count := min(end, span.end) - span.position) > 0:
            piece = buffer[: min(count, len(buffer))]
            self._fetch(span.position, piece)
            span.digest.update(piece)
            span.position += len(piece)

    def finish(self) -> None:
        """Read what was not read yet of all spans, and compare.

        Raises:
            OctoError: the bytes are not those that were written.
        """
        for span in self._spans:
            self._digest_to(span, span.end)
            if span.digest.finish() != span.expected:
                inside = [name for name, tensor in self.tensors.items() if span.start == tensor.start]
                what = f"{inside[0]} in {self.path.name}" if inside else self.path.name
                raise OctoError(
                    f"damaged: {what} has changed since it was written (digest differs)", where=self.path
                )
        self._spans = []


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file.

    Raises:
        OctoError: it is none, or it is damaged or truncated.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(_HEADER_LIMIT, size - 8):
            raise OctoError("damaged model file: this is no safetensors header", where=path)
        try:
            tree: dict[str, Any] = json.loads(file.read(length))
            tree.pop("__metadata__", None)
            found = {name: _stored(item, 8 + length) for name, item in tree.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OctoError(f"damaged model file: bad header ({error})", where=path) from None
    end = max((tensor.start + tensor.size for tensor in found.values()), default=8 + length)
    if end != size:
        raise OctoError(f"damaged model file: it has {size} bytes, its header says {end}", where=path)
    return found


def _stored(item: dict[str, Any], base: int) -> Stored:
    start, end = item["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *item["shape"])):
        raise ValueError("an offset or a shape is no whole number")
    if item["dtype"] not in DTYPES:
        raise ValueError(f"dtype {item['dtype']} is unknown here")
    tensor = Stored(DTYPES[item["dtype"]], tuple(item["shape"]), base + start)
    if end - start != tensor.size:
        raise ValueError("offsets and shape of a tensor differ")
    return tensor


def open_safetensors(path: Path, digest: str | None = None, stream: bool = False) -> TensorFile:
    """Open a safetensors file; with ``digest``, :meth:`TensorFile.finish` compares the whole file with it.

    Raises:
        OctoError: it is missing, damaged or truncated.
    """
    try:
        tensors = read_header(path)
    except FileNotFoundError:
        raise OctoError("a file of the model is missing", where=path) from None
    if digest is not None and digest.partition(":")[0] not in _DIGESTS:
        raise OctoError(
            f"its digest is said to be {digest[:60]!r}, known are {', '.join(_DIGESTS)}",
            where=path,
            hint="the record of digests is damaged, or was made by a newer version",
        )
    spans = [Span(0, path.stat().st_size, digest)] if digest else []
    return TensorFile(path, tensors, spans, stream)
