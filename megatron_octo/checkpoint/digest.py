"""Digests of files that are too large for one thread.

    xxh3-128-64m:<32 hex digits>

is the XXH3-128 of the XXH3-128 digests (16 bytes each) of a file's pieces of 64 MiB, the last one shorter. Writers
and readers digest bytes on the way; a check apart from reading gives the pieces to several threads. XXH3 finds
accidents (a truncated copy, a flipped bit) at memory speed; it does not protect against an attacker.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import xxhash

from megatron_octo.common.files import DIGEST_NAME, digest_file, regular

PIECE = 1 << 26
NAME = "xxh3-128-64m"
_READ = 1 << 22
_THREADS = min(8, os.cpu_count() or 1)  # mostly waiting for the disk


class FileRecord(TypedDict):
    """A file in a manifest."""

    bytes: int
    digest: str


class PieceDigest:
    """The digest of bytes that come in order."""

    def __init__(self) -> None:
        self._whole, self._piece = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._left = PIECE

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        rest = memoryview(data)
        while len(rest):
            part, rest = rest[: self._left], rest[self._left :]
            self._piece.update(part)
            self._left -= len(part)
            if not self._left:
                self._next_piece()

    def _next_piece(self) -> None:
        self._whole.update(self._piece.digest())
        self._piece, self._left = xxhash.xxh3_128(), PIECE

    def finish(self) -> str:
        """Return ``xxh3-128-64m:<32 hex digits>``; nothing may be added afterwards."""
        if self._left < PIECE:
            self._next_piece()
        return f"{NAME}:{self._whole.hexdigest()}"


def _piece_of(path: Path, start: int) -> bytes:
    state, buffer = xxhash.xxh3_128(), memoryview(bytearray(_READ))
    with open(regular(path), "rb", buffering=0) as file:
        file.seek(start)
        left = PIECE
        while left and (count := file.readinto(buffer[: min(left, _READ)])):
            state.update(buffer[:count])
            left -= count
    return state.digest()


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return digests of files, each read once, by several threads.

    Raises:
        OSError: a file cannot be read.
    """
    found = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as pool:
        pieces = {
            path: [pool.submit(_piece_of, path, start) for start in range(0, path.stat().st_size, PIECE)]
            for path in paths
        }
        for path, parts in pieces.items():
            whole = xxhash.xxh3_128(b"".join(part.result() for part in parts))
            found[path] = f"{NAME}:{whole.hexdigest()}"
    return found


def differing(expected: dict[Path, str]) -> list[Path]:
    """Return the files whose digest is not the expected one (``xxh3-128-64m`` or ``xxh3-128``).

    Raises:
        OSError: a file cannot be read.
    """
    plain = {path for path, digest in expected.items() if digest.startswith(f"{DIGEST_NAME}:")}
    found = digests(path for path in expected if path not in plain)
    found |= {path: digest_file(path) for path in plain}
    return [path for path in expected if found[path] != expected[path]]
