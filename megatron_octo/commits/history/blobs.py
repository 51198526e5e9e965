"""Contents of blobs through ``git cat-file --batch``, hashed again and decoded."""

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from megatron_octo.commits.history.git import neutral, start

State = Literal["ok", "missing", "damaged", "too_large", "binary", "undecodable"]
MOST_BYTES = 1 << 20  # of a file
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Content:
    """A blob's text, or why there is none.

    Attributes:
        size: bytes; 0 where it is not known.
    """

    state: State
    text: str | None = None
    size: int = 0


_MISSING, _DAMAGED = Content("missing"), Content("damaged")


def decode(data: bytes) -> Content:
    """Decode a file: text is UTF-8 without NUL bytes."""
    if b"\0" in data:
        return Content("binary", size=len(data))
    try:
        return Content("ok", data.decode("utf-8"), len(data))
    except UnicodeDecodeError:
        return Content("undecodable", size=len(data))


def blob_id(data: bytes, digits: int = 40) -> str:
    """Return git's id of a file's bytes: by SHA-1 for 40 hex digits, by SHA-256 for 64."""
    state = hashlib.sha1(usedforsecurity=False) if digits == 40 else hashlib.sha256()
    state.update(b"blob %d\0" % len(data))
    state.update(data)
    return state.hexdigest()


class BlobReader:
    """Reader of many blobs of one repository; inside a ``with`` block.

    Args:
        directory: the git directory.
        most_bytes: larger blobs are not decoded.
    """

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES):
        self._directory, self._most = directory, most_bytes
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def _open(self, digits: int) -> None:
        self._close()
        place = self._stack.enter_context(neutral(self._directory, digits))
        self._process = start(place, "cat-file", "--batch")
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._stack.close()

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, ids: Sequence[str]) -> Iterator[Content]:
        """Yield the contents of blobs in the order of their ids.

        At most a thousand ids: they must fit into a pipe, since nothing is read meanwhile.
        """
        assert len(ids) <= 1000
        left = list(ids)
        if left and self._process is None:
            self._open(len(left[0]))
        self._ask(left)
        while left:
            found = self._answer(left[0])
            if found is None:  # git ended: it does so at objects that it cannot unpack
                self._open(len(left[0]))
                found = _DAMAGED
                self._ask(left[1:])
            left.pop(0)
            yield found

    def _ask(self, ids: Sequence[str]) -> None:
        if ids:
            self._requests.write(("\n".join(ids) + "\n").encode("ascii"))
            self._requests.flush()

    def _answer(self, wanted: str) -> Content | None:
        """Read one answer; None if git ended."""
        head = self._answers.readline().split()
        if len(head) == 2 and head[1] == b"missing":
            return _MISSING
        if len(head) != 3:
            return None
        size = int(head[2])
        if size > self._most or head[1] != b"blob":
            return Content("too_large", size=size) if self._skip(size + 1) else None
        data = self._answers.read(size)
        if len(data) != size or self._answers.read(1) != b"\n":
            return None
        return decode(data) if blob_id(data, len(wanted)) == wanted else _DAMAGED

    def _skip(self, size: int) -> bool:
        while size and (chunk := self._answers.read(min(size, _CHUNK))):
            size -= len(chunk)
        return not size
