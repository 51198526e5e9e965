"""A thread in every rank that ends the run when a rank dies or hangs, and says which.

The main thread may be stuck where no exception reaches it, in a collective or on the GPU: the thread writes the stacks
and leaves the process itself.
"""

import contextlib
import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from megatron_octo.common.errors import MachineError
from megatron_octo.runfiles import attempts as records
from megatron_octo.training.supervision.coordinator import Hub, Lines, Verdict, sleep_between
from megatron_octo.training.supervision.diagnosis import (
    PHASES,
    Phase,
    Status,
    current_frame,
    stacks,
    waiting_in,
)

# What may take longer than a step: reading all data and a checkpoint at the start, writing one.
SLOW_PHASES = {"start": 6.0, "saving": 6.0, "validation": 6.0, "end": 6.0}
_SILENCE_SECONDS = 60.0
_BEAT_SECONDS = 1.0
_LEAVING_SECONDS = 60.0


def longest_wait(timeout_minutes: float) -> float:
    """Seconds that the process groups' own time-outs have to be above, so that the watch speaks first."""
    return 60 * timeout_minutes * max(SLOW_PHASES.values()) + 2 * _SILENCE_SECONDS


class Watch:
    """This rank's connection to the hub; ``at`` tells where the main thread stands.

    Args:
        timeout_minutes: without progress in a phase, six times that in those of SLOW_PHASES.
    """

    def __init__(self, rank: int, world: int, timeout_minutes: float):
        self.rank, self._world = rank, world
        self._place: tuple[int, Phase, float] = (0, "start", time.monotonic())
        self.done = 0  # steps
        self._failing: Verdict | None = None
        self.before_leaving: Callable[[], None] = lambda: None  # what has to be given back
        self._host = socket.gethostname()
        self._run: tuple[Path, int] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        limit = 60 * timeout_minutes
        self._silence, self._beat = min(_SILENCE_SECONDS, limit), min(_BEAT_SECONDS, limit / 10)
        self._limit = limit
        self._connect({phase: limit * SLOW_PHASES.get(phase, 1.0) for phase in PHASES})

    def _connect(self, limits: Mapping[str, float]) -> None:
        about: list[tuple[int, str] | None] = [None]
        self._hub_thread: threading.Thread | None = None
        if self.rank == 0:
            token = secrets.token_hex(16)
            hub = Hub(self._world, token, limits, self._silence, self._beat)
            self._hub_thread = threading.Thread(target=hub.run, name="hub", daemon=True)
            self._hub_thread.start()
            about = [(hub.port, token)]
        dist.broadcast_object_list(about, src=0)
        assert about[0] is not None
        port, token = about[0]
        address = "localhost" if self.rank == 0 else os.environ["MASTER_ADDR"]
        try:
            connection = socket.create_connection((address, port), timeout=self._silence)
            self._lines = Lines(connection)
            self._lines.send(rank=self.rank, host=self._host, token=token)
        except OSError as error:
            raise MachineError(
                f"rank {self.rank} on {self._host} cannot reach rank 0: {error}",
                where=f"{address}:{port}",
                hint="the ranks of a run need TCP connections to each other on any port",
            ) from None
        os.register_at_fork(after_in_child=connection.close)  # see Hub
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self._thread.start()

    def run_is_open(self, path: Path, attempt: int) -> None:
        """From now on there is a place for records."""
        self._run = (path, attempt)

    def at(self, step: int, phase: Phase) -> None:
        """The main thread has come to a phase of a step."""
        self._place = (step, phase, time.monotonic())

    def _status(self) -> Status:
        step, phase, since = self._place
        age = time.monotonic() - since
        status = Status(self.rank, self._host, step, phase, age)
        if age < self._limit / 2:  # the rest costs a little, and nobody asks for it
            return status
        collective, waits, started = waiting_in()
        return Status(
            self.rank, self._host, step, phase, age, collective, waits or age, started, current_frame()
        )

    def _listen(self) -> None:
        heard = now = time.monotonic()
        told = 0.0
        while not self._ended.is_set():
            before = now
            ready, _, _ = select.select([self._lines.socket], [], [], self._beat / 2)
            messages = self._lines.receive() if ready else []
            now = time.monotonic()
            if slept := sleep_between(before, now, self._silence):
                step, phase, since = self._place
                self._place, heard = (step, phase, since + slept), heard + slept
            if messages:
                heard = now
            for message in messages or ():
                if "verdict" in message:
                    self._leave(Verdict.from_json(message["verdict"]))
                if "bye" in message:
                    return
            if messages is None or now - heard > self._silence:
                if self._ended.wait(self._beat):  # this very process is on its way out
                    return
                why = (
                    "its process has ended"
                    if messages is None
                    else f"no word from it for {self._silence:.0f} s"
                )
                host = os.environ["MASTER_ADDR"]
                lost = Verdict(records.LOST_RANK, (0,), f"rank 0 ({host}); {why}")
                self._leave(self._failing or lost, hub_is_gone=True)
            if now - told >= self._beat:
                told = now
                with contextlib.suppress(OSError), self._lock:  # the end of the hub is heard above
                    self._lines.send(status=self._status().to_json())

    def _leave(self, verdict: Verdict, hub_is_gone: bool = False) -> NoReturn:
        """Record what this rank was doing, and end the process."""
        # A file system that hangs, too, must not hold this up.
        last_resort = threading.Timer(_LEAVING_SECONDS, os._exit, (verdict.code,))
        last_resort.daemon = True
        last_resort.start()
        if verdict.kind in (records.HANG, records.LOST_RANK) and not self._failing:
            self._record(verdict)
        if self.rank == 0 or hub_is_gone:  # one voice for all ranks, while it is there
            prefix = f"[rank {self.rank}] " if self.rank else ""
            what = verdict.what.replace("; ", "\n  ")
            text = verdict.text or f"{prefix}error: {verdict.kind}: {what}{self._where()}"
            print(text, file=sys.stderr, flush=True)
        if self._hub_thread:
            self._hub_thread.join()
        with contextlib.suppress(OSError):
            self.before_leaving()  # last: until here a thread of this rank may be writing to the run
        leave_process(verdict.code)

    def _where(self) -> str:
        if self._run is None:
            return ""
        return (
            f"\n  where: {records.error_path(*self._run, self.rank).parent} has the stacks of the ranks that ran"
            "\n  hint:  start the same command again, it resumes from the last checkpoint"
        )

    def _record(self, verdict: Verdict, **more: Any) -> None:
        if self._run is None:
            return
        step, phase, _ = self._place
        path, attempt = self._run
        more = {"collective": waiting_in()[0], "traceback": stacks(), **more}
        records.write_error(
            path,
            attempt=attempt,
            rank=self.rank,
            kind=verdict.kind,
            step=step,
            phase=phase,
            what=verdict.what,
            culprit=self.rank in verdict.culprits,
            **more,
        )
        records.end_attempt(
            path,
            attempt,
            reason=verdict.kind,
            exit_code=verdict.code,
            last_step=self.done,
            detail=verdict.what,
            culprits=verdict.culprits,
        )

    def fail(self, verdict: Verdict, **record: Any) -> NoReturn:
        """This rank cannot go on: record it, tell the others, who end with the same code, and leave.

        Args:
            record: ``traceback``, ``where`` and ``hint`` of the error record.
        """
        self._failing = verdict
        self._record(verdict, **record)
        with contextlib.suppress(OSError), self._lock:
            self._lines.send(failure=verdict.to_json())
        # The verdict comes back to this rank, too, and ends it.
        self._thread.join()
        leave_process(verdict.code)

    def wait_for_verdict(self) -> None:
        """A collective failed in this rank: give the hub the time to find out why. Returns if it does not."""
        self._thread.join(self._silence + _BEAT_SECONDS)

    def close(self) -> None:
        """All ranks are done. Collective: a barrier comes before it."""
        with contextlib.suppress(OSError), self._lock:
            self._lines.send(bye=True)
        self._thread.join(self._silence)
        self._ended.set()
        if self._hub_thread:
            self._hub_thread.join(self._silence)
        self._lines.socket.close()


def leave_process(code: int) -> NoReturn:
    """End at once: threads and process groups that are stuck must not hold the process back."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
