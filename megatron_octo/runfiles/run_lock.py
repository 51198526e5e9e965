"""Lock of a run directory: one attempt at a time trains in it. Only rank 0 holds it."""

import time
from collections.abc import Callable
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.leases import Lease, Owner, State, Watch, _boot, _space, look

__all__ = ["HEARTBEAT", "LOCK", "STALE", "Owner", "RunLock", "_boot", "_space", "owner_of", "sign_of_life"]

LOCK = "lock"
HEARTBEAT = 3.0  # seconds between touches
STALE = 30.0  # without a touch for so long the owner is gone
_POLL = 0.5


def owner_of(run: Path) -> Owner | None:
    """Return the owner of a run's lock, dead or alive; None if it is free or not readable."""
    found = look(run / LOCK)
    return found[0] if found else None


def sign_of_life(run: Path) -> tuple[Owner | None, float]:
    """Return the process that trains in a run and the seconds since its last touch; None if none does.

    The age is by this host's clock, so a lock counts until it is twice as old as one that may be taken over.
    """
    try:
        found = look(run / LOCK)
    except OSError:
        return None, 0.0
    if found is None or found[0] is None or found[0].is_dead():
        return None, 0.0
    age = max(0.0, time.time() - found[1] / 1e9)
    return (found[0], age) if age < 2 * STALE else (None, age)


class RunLock(Lease):
    """The right to train in a run directory.

    Args:
        path: the lock file.
        owner: its content.
    """

    def __init__(self, path: Path, owner: Owner):
        what = "another attempt took over this run: this process was taken for dead, and leaves without saving"
        hint = f"a process has to touch this file within {STALE:.0f} s; was it stopped, or the disk away?"
        super().__init__(path, owner, HEARTBEAT, (what, hint))

    @classmethod
    def acquire(cls, run: Path, attempt: int, say: Callable[[str], None] = print) -> "RunLock":
        """Take the lock of a run; waits, after saying so, while it is not known whether its owner lives.

        Raises:
            OctoError: another process trains here.
            OSError: the lock file cannot be read.
        """
        lock = cls(run / LOCK, Owner.me(attempt))
        run.mkdir(parents=True, exist_ok=True)
        watch, waits = Watch(lock.path, STALE, Owner.is_dead), False
        while not lock.make():
            state, owner = watch.look(), watch.owner
            if state in (State.DEAD, State.SILENT):
                why = "its owner is gone" if state is State.DEAD else f"no sign of life for {STALE:.0f} s"
                if lock.make_after(watch):
                    say(f"taking over the lock of the run directory: {why} ({owner or 'owner unknown'})")
                    break
            # A node that the cluster lost may live on for a while: its ranks end when their peers are missing.
            elif state is State.TOUCHED and not (owner and owner.job and owner.job == lock.owner.job):
                raise OctoError(
                    f"another process trains in this run directory: {owner or 'its name is not readable'}",
                    where=lock.path,
                    hint="wait for it or end it; a second run needs another run_dir",
                )
            elif state is not State.FREE and not waits:
                waits = True
                say(f"the run directory is locked by {owner or 'an unknown process'}: checking whether it is alive")
            time.sleep(_POLL if state is State.UNKNOWN else _POLL / 10)
        # The takeover of former versions: whatever became of its process, the lock is ours.
        lock.path.with_name(f".{LOCK}.gate").unlink(missing_ok=True)
        lock.start()
        return lock
