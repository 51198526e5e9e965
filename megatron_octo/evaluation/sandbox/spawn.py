"""Processes with chosen descriptors, started without forking this one."""

import contextlib
import fcntl
import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_HIGH = 200  # our own copies of descriptors lie above those that a child gets


def high(descriptor: int) -> int:
    """Move a descriptor out of the range of a child's; closed by exec."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    return copy


def pipe() -> tuple[int, int]:
    """Return the ends of a pipe, for reading and for writing."""
    read, write = os.pipe()
    return high(read), high(write)


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory, at its begin."""
    descriptor = high(os.memfd_create(name))
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def spawn(argv: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Start a process in a group of its own; return its number.

    Args:
        argv: the command, by its path.
        environment: of the process.
        descriptors: the child's, and which of ours each is. Others are closed.

    Raises:
        OSError: it cannot be started.
    """
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()]
    return os.posix_spawn(
        argv[0], list(argv), dict(environment), file_actions=actions, setpgroup=0, setsigdef=[signal.SIGPIPE]
    )


@dataclass
class Streams:
    """What a process wrote, by descriptor of ours, and the limit that ended it here: ``wall``, ``output`` or None."""

    found: dict[int, bytearray] = field(default_factory=dict)
    limit: str | None = None
    wall_s: float = 0.0


class Follower:
    """Reads what a process writes until it ends, and ends it at its limits.

    Args:
        pid: the process, a child of this one that leads its group.
        reads: descriptors to read, each with its cap in bytes. They are closed at the end, as is that of ``write``.
        write: a descriptor, and the bytes that the process reads from it; or None.
    """

    def __init__(self, pid: int, reads: Mapping[int, int], write: tuple[int, bytes] | None) -> None:
        """Watch the descriptors."""
        self._pid, self._caps = pid, dict(reads)
        self.streams = Streams({source: bytearray() for source in reads})
        self._ended = os.pidfd_open(pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._open = {self._ended, *reads}
        self._left, self._target = memoryview(write[1] if write else b""), write[0] if write else -1
        for source in reads:
            os.set_blocking(source, False)
            self._selector.register(source, selectors.EVENT_READ)
        if write:
            self._open.add(self._target)
            os.set_blocking(self._target, False)
            self._selector.register(self._target, selectors.EVENT_WRITE)

    def follow(self, wall_s: float) -> Streams:
        """Return when the process has ended; it was not waited for yet. After ``wall_s`` seconds it is killed."""
        started = time.monotonic()
        try:
            while True:
                left = None if self.streams.limit else max(0.0, started + wall_s - time.monotonic())
                events = self._selector.select(left)
                if not events and self.streams.limit is None and time.monotonic() >= started + wall_s:
                    self._end("wall")
                for key, _ in events:
                    if key.fd != self._ended:
                        self._serve(key.fd)
                if any(key.fd == self._ended for key, _ in events):
                    break
            for source in self._caps:
                if source in self._open:
                    self._take(source)
        finally:
            self._selector.close()
            for descriptor in self._open:
                os.close(descriptor)
        self.streams.wall_s = time.monotonic() - started
        return self.streams

    def _end(self, limit: str) -> None:
        self.streams.limit = limit
        kill_group(self._pid)

    def _serve(self, descriptor: int) -> None:
        if descriptor == self._target:
            self._send()
        elif descriptor in self._open:
            self._take(descriptor)

    def _close(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        self._open.remove(descriptor)
        os.close(descriptor)

    def _take(self, source: int) -> None:
        found = self.streams.found[source]
        with contextlib.suppress(BlockingIOError):
            while len(found) <= self._caps[source]:
                block = os.read(source, 1 << 16)
                if not block:
                    self._close(source)
                    return
                found += block
            del found[self._caps[source] :]
            self._close(source)
            if self.streams.limit is None:
                self._end("output")

    def _send(self) -> None:
        try:
            self._left = self._left[os.write(self._target, self._left[: 1 << 16]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]
        if not self._left:
            self._close(self._target)


def kill_group(pid: int) -> None:
    """Kill a process and its group, if they are still there."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
