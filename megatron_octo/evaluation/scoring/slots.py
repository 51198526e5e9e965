"""Numbers of sandboxes: two evaluations on one machine must not share the user of a sandbox."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.leases import flock
from megatron_octo.evaluation.sandbox.supervisor import cache_root

SLOTS = 512
_LOCKS = Path("/run/lock/megatron_octo")  # of root, whose sandboxes' users are the same whatever the cache


def slots_folder() -> Path:
    """Return where the numbers of this machine and user are locked; it does not depend on ``--cache``."""
    return _LOCKS if os.getuid() == 0 and _LOCKS.parent.is_dir() else cache_root() / "slots"


@contextlib.contextmanager
def take_slots(count: int, folder: Path) -> Iterator[list[int]]:
    """Take the lowest free numbers, which other processes then do not get; a kill frees them.

    Args:
        count: how many.
        folder: of the lock files; one per machine.

    Raises:
        OctoError: all are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = OctoError("taken")
    handles: list[int] = []
    taken: list[int] = []
    try:
        for number in range(SLOTS):
            if len(taken) == count:
                break
            with contextlib.suppress(OctoError):
                handles.append(flock(folder / f"{number}.lock", busy))
                taken.append(number)
        if len(taken) < count:
            raise OctoError(
                f"{len(taken)} of {count} sandboxes are free", where=folder, hint="other evaluations run: lower --jobs"
            )
        yield taken
    finally:
        for handle in handles:
            os.close(handle)
