"""Packed files as streams of bytes: gzip, bzip2, xz and zstandard, in bounded memory, cut-short files refused."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, Literal

from megatron_octo.common.errors import OctoError

Packing = Literal["gzip", "bzip2", "xz", "zstd"]
_MAGIC: tuple[tuple[bytes, Packing], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_FEED = 1 << 13  # packed bytes decoded in one go: what they expand to lies in memory
_WINDOW = 1 << 27  # of zstd: what its command line takes without --long
_MEMORY = 1 << 28  # of xz
_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError)


def find_packing(head: bytes) -> Packing | None:
    """Return how a file that begins with ``head`` is packed, None if it is not. Names do not matter."""
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def open_packed(raw: IO[bytes], kind: Packing, path: str) -> Callable[[int], bytes]:
    """Return a function that reads the next unpacked bytes, about as many as it is told; ``b""`` at the end.

    It raises an OctoError where the file is damaged, cut short, or followed by something else.
    """
    if kind == "gzip":
        read: Callable[[int], bytes] = gzip.GzipFile(fileobj=raw).read
    elif kind == "zstd":
        read = _Frames(raw, _zstd(path), b"").read
    elif kind == "xz":
        read = _Frames(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY), b"\0").read
    else:
        read = _Frames(raw, bz2.BZ2Decompressor, b"").read

    def checked(size: int) -> bytes:
        try:
            return bytes(read(size))
        except MemoryError:
            raise
        except (*_ERRORS, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the format
                raise
            raise OctoError(f"damaged {kind} file: {error}", where=path, hint="copy or download it again") from None

    return checked


def _zstd(path: str) -> Callable[[], Any]:
    try:
        import zstandard
    except ImportError:
        raise OctoError(
            "a zstandard file needs the zstandard library",
            where=path,
            hint="pip install 'megatron-octo[zstd]'",
        ) from None

    class Decoder:
        """A frame; the library's errors become those of the other formats."""

        def __init__(self) -> None:
            self._decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

        def decompress(self, data: bytes, _: int) -> bytes:
            try:
                return bytes(self._decoder.decompress(data))
            except zstandard.ZstdError as error:
                if "too much memory" in str(error):
                    raise OctoError(
                        f"this zstd file needs a window of more than {_WINDOW >> 20} MiB in memory",
                        where=path,
                        hint="pack it again without --long, or with --long=27",
                    ) from None
                raise ValueError(str(error)) from None

    return Decoder


class _Frames:
    """Frames one after the other; libraries' own readers take a file that is cut short for its end.

    Args:
        make: a decoder of one frame.
        padding: byte that may stand between and behind frames.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any], padding: bytes):
        self._raw, self._make, self._padding = raw, make, padding
        self._decoder, self._packed, self._fresh = make(), b"", True

    def read(self, size: int) -> bytes:
        """Return some unpacked bytes; ``b""`` at the end."""
        while True:
            if not self._packed and getattr(self._decoder, "needs_input", True):
                self._packed = self._raw.read(_FEED)
                if self._fresh and self._padding:
                    self._packed = self._packed.lstrip(self._padding)
                    if not self._packed and self._raw.peek(1):  # type: ignore[attr-defined]
                        continue
                if not self._packed:
                    if not self._fresh:
                        raise EOFError("the file ends inside a frame")
                    return b""
            data: bytes = self._decoder.decompress(self._packed, size)
            self._fresh, self._packed = False, b""
            if self._decoder.eof:
                self._packed = (
                    self._decoder.unused_data.lstrip(self._padding) if self._padding else (self._decoder.unused_data)
                )
                self._decoder, self._fresh = self._make(), True
            if data:
                return data
