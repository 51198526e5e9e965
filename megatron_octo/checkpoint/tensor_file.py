"""Files of raw tensors, read in pieces and digested on the way.

Mapped memory counts as the process's own, and plain reading fills the page cache. Converting 31 GB on a small machine
allows neither: here bytes go into the caller's buffer, and a streaming reader tells the kernel to drop its pages.
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
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import DIGEST_NAME, regular
from megatron_octo.common.torch_dtypes import NAMED_DTYPES

_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
_CHUNK = 1 << 23


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, row-major from byte ``start`` on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Return its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Digest(Protocol):
    """A digest of bytes that come in order."""

    def update(self, data: memoryview, /) -> None:
        """Add bytes."""

    def finish(self) -> str:
        """Return ``NAME:hex``."""


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
        expected: ``NAME:hex``; the name tells how it is computed.
    """

    def __init__(self, start: int, end: int, expected: str):
        self.start, self.end, self.expected = start, end, expected
        self.position = start  # digested up to here
        self.digest = _DIGESTS[expected.partition(":")[0]]()

    def update(self, data: memoryview) -> None:
        """Add the bytes at ``position``."""
        self.digest.update(data)
        self.position += len(data)


class TensorFile:
    """An opened file and the tensors in it.

    Args:
        tensors: name -> its place.
        spans: disjoint ranges with a known digest. Bytes that are read in order are digested on the way.
        stream: every byte will be read once, more or less in order: bytes that were passed over are read for the
            digest at once, and the page cache keeps none of them.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], spans: Iterable[Span] = (), stream: bool = False):
        self.path, self.tensors, self._stream = path, tensors, stream
        self._spans = list(spans)
        self._file = open(regular(path), "rb", buffering=0)  # noqa: SIM115 - closed with the object

    @property
    def digested(self) -> int:
        """Return the number of bytes that were digested so far."""
        return sum(span.position - span.start for span in self._spans)

    def read(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``start`` on.

        Raises:
            OctoError: the file ends before.
        """
        self._fetch(start, out)
        end = start + len(out)
        for span in self._spans:
            if span.start < end and start < span.end:
                if self._stream:
                    self._digest_to(span, start)
                low, high = max(start, span.position), min(end, span.end)
                if low == span.position and low < high:
                    span.update(out[low - start : high - start])

    def tensor(self, name: str) -> torch.Tensor:
        """Read a whole tensor.

        Raises:
            OctoError: there is none of this name, or the file ends before.
        """
        if name not in self.tensors:
            raise OctoError(f"damaged: there is no {name!r}", where=self.path)
        stored = self.tensors[name]
        out = torch.empty(stored.shape, dtype=stored.dtype)
        self.read(stored.start, memoryview(out.view(-1).view(torch.uint8).numpy()))
        return out

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
        """Digest bytes that were passed over: a digest takes its bytes in order."""
        end = min(end, span.end)
        buffer = memoryview(bytearray(max(0, min(_CHUNK, end - span.position))))
        while (count := end - span.position) > 0:
            piece = buffer[: min(count, len(buffer))]
            self._fetch(span.position, piece)
            span.update(piece)

    def finish(self) -> None:
        """Read the rest of all spans and compare their digests.

        Raises:
            OctoError: a span's bytes are not those that were written.
        """
        for span in self._spans:
            self._digest_to(span, span.end)
            if span.digest.finish() != span.expected:
                inside = [name for name, tensor in self.tensors.items() if span.start == tensor.start]
                what = f"{inside[0]} in {self.path.name}" if inside else self.path.name
                raise OctoError(f"damaged: {what} has changed since it was written (digest differs)", where=self.path)
        self._spans = []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in tree if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return tree


def read_header(path: Path) -> tuple[dict[str, Stored], bytes]:
    """Return the tensors of a safetensors file and the bytes before theirs.

    As in the safetensors library, tensors lie one after the other: none overlaps another, and there is no gap.

    Raises:
        OctoError: another kind of file, or it is damaged or truncated.
    """
    with open(regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(_HEADER_LIMIT, size - 8):
            raise OctoError("damaged model file: no safetensors header", where=path)
        head = prefix + file.read(length)
    try:
        tree: dict[str, Any] = json.loads(head[8:], object_pairs_hook=_unique)
        metadata = tree.pop("__metadata__", {})
        if not all(isinstance(each, str) for each in metadata.values()):
            raise ValueError("__metadata__ holds more than strings")
        found = {name: _stored(item, len(head)) for name, item in tree.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise OctoError(f"damaged model file: bad header ({reason})", where=path) from None
    end = len(head)
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != end:
            how = "overlaps the tensor before it" if tensor.start < end else "follows a gap"
            raise OctoError(f"damaged model file: {name!r} {how}", where=path)
        end += tensor.size
    if end != size:
        raise OctoError(f"damaged model file: it has {size} bytes, its header describes {end}", where=path)
    return found, head


def _stored(item: dict[str, Any], base: int) -> Stored:
    start, end = item["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *item["shape"])):
        raise ValueError("an offset or a shape is not a whole number")
    if item["dtype"] not in NAMED_DTYPES:
        raise ValueError(f"dtype {item['dtype']!r} is unknown here")
    tensor = Stored(NAMED_DTYPES[item["dtype"]], tuple(item["shape"]), base + start)
    if end - start != tensor.size:
        raise ValueError("offsets and shape of a tensor differ")
    return tensor


def open_safetensors(path: Path, digest: str | None = None, stream: bool = False) -> TensorFile:
    """Open a safetensors file; with ``digest``, :meth:`TensorFile.finish` compares the whole file with it.

    Raises:
        OctoError: it is missing, damaged or truncated.
    """
    try:
        tensors, head = read_header(path)
    except FileNotFoundError:
        raise OctoError("a file of the model is missing", where=path) from None
    if digest is not None and digest.partition(":")[0] not in _DIGESTS:
        raise OctoError(
            f"its digest is recorded as {digest[:60]!r}, known are {', '.join(_DIGESTS)}",
            where=path,
            hint="the record of digests is damaged, or was made by a newer version",
        )
    spans = [Span(0, path.stat().st_size, digest)] if digest else []
    for span in spans:
        span.update(memoryview(head))
    return TensorFile(path, tensors, spans, stream)
