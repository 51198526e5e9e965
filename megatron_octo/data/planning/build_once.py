"""Build a file exactly once across processes and hosts, using a lock file with a heartbeat.

The first to create a lock file makes it, the others look now and then whether it is there. The maker touches its lock
every few seconds. A lock that is untouched for ``STALE`` seconds, by the clock of the waiting process (clocks of
hosts differ), belongs to a dead process and is taken over; on the host of the dead process, at once. Should
two makers meet nevertheless, they make the same thing, and the first to rename it wins.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, create, remove_leftovers

HEARTBEAT = 5.0  # seconds between touches
STALE = 120.0  # network file systems show a touch up to a minute late
_POLL = 0.05, 2.0  # seconds between looks, first and at most


def lock_path(target: Path) -> Path:
    """Return the lock file of ``target``."""
    return target.with_name(f".{target.name}.lock")


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()}\n"


def _is_dead(lock: Path) -> bool:
    """Return whether the maker was a process of this host that has ended."""
    try:
        host, pid = lock.read_text(encoding="utf-8").split()
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # no lock any more, one that is being written, or a process of another user
        return False
    return False


def take_lock(target: Path) -> bool:
    """Try to become the maker of ``target``; False if there is one already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_dead(lock_path(target)):
        lock_path(target).unlink(missing_ok=True)
    # Created with its content: others would wait long for a maker killed before it wrote its name.
    return create(lock_path(target), _me())


@contextlib.contextmanager
def holding(target: Path) -> Iterator[None]:
    """Touch the lock of ``target`` until the block ends, then remove it. It may have been taken for this process."""
    lock, done = lock_path(target), threading.Event()

    def touch() -> None:
        while not done.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(lock)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        # Missing: another process considered this maker dead and removed its files.
        with contextlib.suppress(FileNotFoundError), atomic_write(lock, "w") as file:
            file.write(_me())
        yield
    finally:
        done.set()
        thread.join()
        remove_leftovers(lock.parent, lock.name)
        lock.unlink(missing_ok=True)


def _touched(lock: Path) -> int | None:
    try:
        return lock.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def make_once(target: Path, make: Callable[[], None]) -> None:
    """Wait until ``target`` exists: made by ``make()`` here, or by another process.

    Raises:
        OctoError: what ``make`` raises; a maker that fails gives way to the next.
    """
    pause = _POLL[0]
    seen, since = None, time.monotonic()
    while not target.exists():
        if take_lock(target):
            with holding(target):
                if not target.exists():  # it was there before the lock was free
                    make()
            if not target.exists():
                raise OctoError(
                    "it was made and is not there", where=target, hint="is the disk shared and writable?"
                )
            return
        touched = _touched(lock_path(target))
        if touched != seen:
            seen, since = touched, time.monotonic()
        elif touched is not None and time.monotonic() - since > STALE:
            lock_path(target).unlink(missing_ok=True)
            continue
        time.sleep(pause)
        pause = min(1.5 * pause, _POLL[1])
