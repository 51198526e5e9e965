"""Meeting of the ranks of a run, which names the ranks that do not come."""

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from megatron_octo.common.errors import MachineError

_POLL_SECONDS = 0.2
_NAMED = 8  # missing ranks in a message


class NoMainRankError(MachineError):
    """Raised when rank 0 cannot be reached, so that every rank reports it itself."""

    lone = True


def meet(timeout: timedelta) -> dist.Store:
    """Return the store through which all ranks have met; torch's environment variables are set.

    Raises:
        MachineError: on every rank that came, with the ranks that are missing.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _open_store(rank, timeout)
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        store.set("missing", ",".join(map(str, _wait_for(world, store, timeout))))
    try:
        store.wait(["missing"], timeout + timedelta(seconds=30))
        missing = store.get("missing").decode()
    except dist.DistError as error:
        raise NoMainRankError(f"rank 0 was there and is gone: {_first_line(error)}", where=_address()) from None
    if missing:
        ranks = missing.split(",")
        more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
        raise MachineError(
            f"rank {', '.join(ranks[:_NAMED])}{more} of {world} did not come within {timeout.total_seconds():.0f} s",
            where=_address(),
            hint="look at their logs: a process that ended, a host that cannot reach this address, fewer tasks "
            "than WORLD_SIZE",
        )
    return store


def _open_store(rank: int, timeout: timedelta) -> dist.Store:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent has one already, and restarts workers in the same one.
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(host, port, is_master=rank == 0 and not agent, timeout=timeout, wait_for_workers=False)
    except dist.DistError as error:
        what = "cannot listen" if rank == 0 and not agent else f"rank 0 did not answer rank {rank}"
        raise NoMainRankError(
            f"{what}: {_first_line(error)}",
            where=_address(),
            hint="is MASTER_ADDR rank 0's host, can it be reached, and is MASTER_PORT free?",
        ) from None
    return dist.PrefixStore(f"octo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for(world: int, store: dist.Store, timeout: timedelta) -> list[int]:
    deadline = time.monotonic() + timeout.total_seconds()
    missing = list(range(world))
    while True:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(_POLL_SECONDS)


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
