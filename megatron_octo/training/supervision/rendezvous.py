"""Meeting of the ranks of a run, which names the ranks that do not come."""

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from megatron_octo.common.errors import MachineError
from megatron_octo.runfiles.signals import StopRequest

_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 15.0  # per attempt to reach rank 0: a signal is seen between two attempts
_AFTER_A_SIGNAL = 5.0
_NAMED = 8  # missing ranks in a message


class NoMainRankError(MachineError):
    """Raised when rank 0 cannot be reached, so that every rank reports it itself."""

    lone = True


class Patience:
    """Time that a rank waits for the others: ``timeout``, or a few seconds once it was asked to stop.

    Others that got the same signal earlier may have left before they could remember it.
    """

    def __init__(self, timeout: timedelta, stop: StopRequest) -> None:
        """Begin now."""
        self.timeout = timeout
        self._end = time.monotonic() + timeout.total_seconds()
        self._stop = stop

    def left(self) -> float:
        """Return seconds, negative when it is over."""
        if self._stop.reason:
            self._end = min(self._end, time.monotonic() + _AFTER_A_SIGNAL)
        return self._end - time.monotonic()


def meet(timeout: timedelta, stop: StopRequest) -> dist.Store:
    """Return the store through which all ranks have met; torch's environment variables are set.

    Raises:
        MachineError: on every rank that came, with the ranks that are missing.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    patience = Patience(timeout, stop)
    store = _open_store(rank, patience)
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        store.set("missing", ",".join(map(str, _wait_for(world, store, patience))))
    try:
        store.wait(["missing"], timeout + timedelta(seconds=30))
        missing = store.get("missing").decode()
    except dist.DistError as error:
        raise NoMainRankError(f"rank 0 was there and is gone: {_first_line(error)}", where=_address()) from None
    if missing:
        ranks = missing.split(",")
        more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
        when = f"before {stop.reason}" if stop.reason else f"within {timeout.total_seconds():.0f} s"
        raise MachineError(
            f"rank {', '.join(ranks[:_NAMED])}{more} of {world} did not come {when}",
            where=_address(),
            hint="look at their logs: a process that ended, a host that cannot reach this address, fewer tasks "
            "than WORLD_SIZE",
        )
    return store


def _open_store(rank: int, patience: Patience) -> dist.Store:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent has one already, and restarts workers in the same one.
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    main = rank == 0 and not agent
    while True:
        wait = timedelta(seconds=max(0.1, patience.left() if main else min(_CONNECT_SECONDS, patience.left())))
        try:
            store = dist.TCPStore(host, port, is_master=main, timeout=wait, wait_for_workers=False)
            break
        except dist.DistError as error:
            if not main and patience.left() > 0:
                continue
            raise NoMainRankError(
                f"{'cannot listen' if main else f'rank 0 did not answer rank {rank}'}: {_first_line(error)}",
                where=_address(),
                hint="is MASTER_ADDR rank 0's host, can it be reached, and is MASTER_PORT free?",
            ) from None
    store.set_timeout(patience.timeout)
    return dist.PrefixStore(f"octo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for(world: int, store: dist.Store, patience: Patience) -> list[int]:
    missing = list(range(world))
    while True:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing or patience.left() < 0:
            return missing
        time.sleep(_POLL_SECONDS)


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
