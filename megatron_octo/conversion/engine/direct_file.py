"""A file written by a thread of its own, digested on the way and past the page cache.

The page cache costs another copy and pushes out other files, and nothing of 31 GB would be read from it again. Direct
I/O needs aligned memory, offsets and lengths: the last block is padded and the file cut to its length. A file system
without direct I/O (tmpfs) gets ordinary writes.
"""

import errno
import fcntl
import mmap
import os
import queue
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_octo.checkpoint.digest import FileRecord, PieceDigest

_ALIGNMENT = 4096
_BUFFER = 1 << 24
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux; elsewhere writes go through the page cache
_BUFFERS = 2  # one is filled while the other is written


class DirectFile:
    """An output file that is on the disk after :meth:`close`.

    Raises:
        OSError: for example, the disk is full; from any method, and it names the file.
    """

    def __init__(self, path: Path):
        self.path, self.size = path, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._handle = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._handle = os.open(path, flags, 0o666)
        self._error: OSError | None = None
        self._digest = PieceDigest()
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[mmap.mmap, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(mmap.mmap(-1, _BUFFER))
        self._buffer, self._used = self._free.get(), 0
        self._thread = threading.Thread(target=self._run, name=f"write {path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview | npt.NDArray[np.uint8]) -> int:
        """Append a copy of bytes."""
        source = np.frombuffer(data, dtype=np.uint8)
        done = 0
        while done < len(source):
            count = min(len(source) - done, _BUFFER - self._used)
            target = np.frombuffer(self._buffer, np.uint8, count, self._used)
            np.copyto(target, source[done : done + count])
            done, self._used = done + count, self._used + count
            if self._used == _BUFFER:
                self._hand_over()
                self._buffer = self._free.get()
        self.size += len(source)
        return len(source)

    def flush(self) -> None:
        """Do nothing; :mod:`zipfile` calls it, and :meth:`close` flushes."""

    def _hand_over(self) -> None:
        if self._error:
            raise self._error
        self._full.put((self._buffer, self._used))
        self._used = 0

    def _run(self) -> None:
        place = 0
        while (item := self._full.get()) is not None:
            buffer, used = item
            if not self._error:  # else drain, so that write() gets its buffers back
                try:
                    self._digest.update(memoryview(buffer)[:used])
                    self._put(buffer, -(-used // _ALIGNMENT) * _ALIGNMENT, place)
                except OSError as error:
                    error.filename = str(self.path)
                    self._error = error
            place += used
            self._free.put(buffer)

    def _put(self, buffer: mmap.mmap, count: int, place: int) -> None:
        view, done = memoryview(buffer), 0
        while done < count:
            try:
                done += os.pwrite(self._handle, view[done:count], place + done)
            except OSError as error:
                direct = fcntl.fcntl(self._handle, fcntl.F_GETFL) & _DIRECT
                if error.errno != errno.EINVAL or not direct:
                    raise
                # Opened so, but not written so (some network file systems), or a short write left us unaligned.
                flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
                fcntl.fcntl(self._handle, fcntl.F_SETFL, flags & ~_DIRECT)

    def close(self) -> FileRecord:
        """Wait until all of it is on the disk; returns size and digest."""
        if self._used:
            self._hand_over()
        self._stop()
        if self._error:
            raise self._error
        os.ftruncate(self._handle, self.size)
        os.fsync(self._handle)
        os.close(self._handle)
        self._handle = -1
        return FileRecord(bytes=self.size, digest=self._digest.finish())

    def _stop(self) -> None:
        self._full.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """Close without flushing, unless it is closed."""
        if self._handle >= 0:
            self._stop()
            os.close(self._handle)
            self._handle = -1
