"""Build a file exactly once across processes and hosts.

The first to take the lease makes it, the others look now and then whether it is there. The lease of a maker that died
is taken over. Should two makers meet nevertheless, they make the same thing, and the first to rename it wins.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.leases import Lease, Owner, State, Watch

HEARTBEAT = 5.0  # seconds between touches
STALE = 120.0  # network file systems show a touch up to a minute late
_POLL = 0.05, 2.0  # seconds between looks, first and at most


def lock_path(target: Path) -> Path:
    """Return the lease of ``target``."""
    return target.with_name(f".{target.name}.lock")


def _lease(target: Path) -> Lease:
    return Lease(lock_path(target), Owner.me(), HEARTBEAT)


def take_lock(target: Path) -> bool:
    """Try to become the maker of ``target``; False if there is one already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lease, watch = _lease(target), Watch(lock_path(target), STALE)
    return lease.make() or (watch.look() is State.DEAD and lease.make_after(watch))


@contextlib.contextmanager
def holding(target: Path) -> Iterator[None]:
    """Touch the lease of ``target`` until the block ends, then remove it. It may have been taken for this process."""
    lease = _lease(target)
    lease.adopt()
    lease.start()
    try:
        yield
    finally:
        lease.release()


def make_once(target: Path, make: Callable[[], None]) -> None:
    """Wait until ``target`` exists: made by ``make()`` here, or by another process.

    Raises:
        OctoError: what ``make`` raises; a maker that fails gives way to the next.
    """
    pause, watch = _POLL[0], Watch(lock_path(target), STALE)
    while not target.exists():
        if take_lock(target) or (watch.look() is State.SILENT and _lease(target).make_after(watch)):
            with holding(target):
                if not target.exists():  # it was there before the lock was free
                    make()
            if not target.exists():
                raise OctoError("it was made and is not there", where=target, hint="is the disk shared and writable?")
            return
        time.sleep(pause)
        pause = min(1.5 * pause, _POLL[1])
