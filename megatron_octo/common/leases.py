"""Exclusive work on a path: leases that other hosts can see, and advisory locks of this machine's processes.

A lease is a file that exists while its owner works. ``link`` makes it in one step with all its content, on network
file systems, too, and its owner touches it every few seconds. An owner is gone if it was a process of this host that
does not run any more, or if nothing touched its file for ``stale`` seconds by the clock of the process that waits
(clocks of hosts differ). An owner that slept meanwhile finds that the lease is lost, and has to stop before it writes.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from megatron_octo.common.errors import MachineError, OctoError
from megatron_octo.common.files import atomic_write, beside, create, remove_leftovers
from megatron_octo.common.records import Number, Words, checked

_SETTLE = 0.1  # seconds after which a takeover is looked at again


@dataclass(frozen=True)
class Owner:
    """A process that holds a lease, and the job and attempt it belongs to.

    Attributes:
        boot: identity of the host's start; another one means that the host was down since.
        space: the process's pid name space: pids of another one (a container's) mean nothing here.
        started: the process's start in clock ticks since the boot: a pid may be given again.
    """

    host: Words
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    job: Words | None
    attempt: Number
    boot: str
    space: str
    started: str

    @classmethod
    def me(cls, attempt: int = 0) -> "Owner":
        """Return this process."""
        job = os.environ.get("SLURM_JOB_ID")
        return cls(socket.gethostname(), os.getpid(), job, attempt, _boot(), _space(), _start_of(os.getpid()))

    def is_gone(self) -> bool:
        """Return whether the owner is known to be gone. False may also mean that it is not known."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot():
            return True
        return self.space == _space() and self.started != _start_of(self.pid)

    def is_dead(self) -> bool:
        """Return whether the owner is known to be gone, or is this process, which may take its own lease again."""
        return self.is_gone() or (self.host, self.pid, self.space) == (
            socket.gethostname(),
            os.getpid(),
            _space(),
        )

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        attempt = f", attempt {self.attempt}" if self.attempt else ""
        return f"process {self.pid} on {self.host}{job}{attempt}"


_OWNER = TypeAdapter(Owner)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return the start of a live process in the kernel's ticks; empty if there is none, or a zombie."""
    try:
        # The command's name, in parentheses, may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except (OSError, IndexError, ValueError):
        return ""


def _open_and_read(path: Path, again: bool = True) -> tuple[int, bytes]:
    try:
        with open(path, "rb") as file:  # opening asks the server: no stale attributes
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except OSError as error:
        # Removed between open and read, as network file systems report it, or a server that was away.
        if error.errno != errno.ESTALE or not again:
            raise
        return _open_and_read(path, again=False)


Seen = tuple[Owner | None, int]


def look(path: Path) -> Seen | None:
    """Return the owner (None: not readable) and the time of the last touch in ns; None if the lease is free.

    Raises:
        OSError: the file system does not answer: the file may be there or not.
    """
    try:
        touched, text = _open_and_read(path)
    except FileNotFoundError:
        return None
    try:
        return checked(_OWNER, text, path), touched
    except OctoError:
        return None, touched


class State(Enum):
    """What a :class:`Watch` finds."""

    FREE, DEAD, SILENT, TOUCHED, UNKNOWN = range(5)


class Watch:
    """The lease of another process over some time: whether it is free, or whether its owner lives.

    Args:
        stale: seconds without a touch after which the owner is taken for dead.
        dead: tells which owners need no waiting.
    """

    def __init__(self, path: Path, stale: float, dead: Callable[[Owner], bool] = Owner.is_gone):
        self.path, self.stale, self.dead = path, stale, dead
        self.seen: Seen | None = None
        self._since = time.monotonic()

    @property
    def owner(self) -> Owner | None:
        """The owner that was seen last."""
        return self.seen[0] if self.seen else None

    def look(self) -> State:
        """Look again. TOUCHED: since the last look, so the owner lives; UNKNOWN: look once more later."""
        before, self.seen = self.seen, look(self.path)
        if self.seen is None:
            return State.FREE
        if self.owner and self.dead(self.owner):
            return State.DEAD
        if self.seen != before:
            self._since = time.monotonic()
            return State.TOUCHED if before else State.UNKNOWN
        return State.SILENT if time.monotonic() - self._since > self.stale else State.UNKNOWN

    def take_away(self) -> bool:
        """Remove the lease as it was seen last; of several processes that try, one succeeds.

        It is renamed before it is removed: what turns out to be another one is put back.
        """
        aside = beside(self.path)
        try:
            if look(self.path) != self.seen:
                return False
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            if look(aside) == self.seen:
                return True
            with contextlib.suppress(OSError):  # another one is there already
                os.link(aside, self.path)
            return False
        finally:
            aside.unlink(missing_ok=True)


class Lease:
    """A lease of this process, or one that is to become so.

    Args:
        path: the file.
        owner: its content.
        heartbeat: seconds between touches.
        lost: the message and the hint of the error for an owner that lost it.
    """

    def __init__(self, path: Path, owner: Owner, heartbeat: float, lost: tuple[str, str] = ("lease lost", "")):
        self.path, self.owner, self.heartbeat, self.lost = path, owner, heartbeat, lost
        self._text = json.dumps(asdict(owner))
        self._done = threading.Event()
        self._is_lost = False
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def make(self) -> bool:
        """Make the file; False if there is one."""
        return create(self.path, self._text)

    def make_after(self, watch: Watch) -> bool:
        """Take away the lease that ``watch`` saw, and make the file; False if another process was faster."""
        if not watch.take_away() or not self.make():
            return False
        # One that was about to take the same lease away may have taken this one instead.
        time.sleep(_SETTLE)
        return self.is_ours()

    def adopt(self) -> None:
        """Write this owner into a file that another process made for it."""
        with contextlib.suppress(FileNotFoundError), atomic_write(self.path, "w") as file:
            file.write(self._text)

    def start(self) -> None:
        """Begin to touch the file."""
        self._thread.start()

    def _beat(self) -> None:
        while not self._done.wait(self.heartbeat):
            try:
                if self.is_ours():
                    os.utime(self.path)
                else:
                    self._is_lost = True
                    return
            except OSError:
                continue  # a file server that is away; a takeover meanwhile is seen at the next beat

    def is_ours(self) -> bool:
        """Return whether the file still has this owner.

        Raises:
            OSError: the file system does not answer.
        """
        found = look(self.path)
        return found is not None and found[0] == self.owner

    def check(self, *, now: bool = False) -> None:
        """Stop a process that lost its lease. Costs nothing, unless it is to look ``now``.

        Raises:
            MachineError: another process took over, because this one did not touch the file in time.
            OSError: asked to look, and the file system does not answer.
        """
        if self._is_lost or (now and not self.is_ours()):
            raise MachineError(self.lost[0], where=self.path, hint=self.lost[1])

    def release(self) -> None:
        """Stop touching the file, and remove it if it still has this owner."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):  # it gets stale by itself
            if self.is_ours():
                remove_leftovers(self.path.parent, self.path.name)
                self.path.unlink(missing_ok=True)


def flock(path: Path, busy: OctoError | None, *, shared: bool = False) -> int:
    """Take the advisory lock of a file or a directory, which ends with the process; a missing file is made.

    Args:
        path: the file or directory.
        busy: raised if another process has the lock; None to wait for it.
        shared: allow other shared locks beside this one.

    Returns:
        Descriptor to close. Where the file system has no locks it is open all the same.

    Raises:
        OctoError: ``busy``, if another process has it.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if busy is None else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        assert busy is not None
        raise busy from None
    except OSError:
        pass
    return handle
