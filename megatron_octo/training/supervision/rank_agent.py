"""Thread in every rank that ends the run when a rank dies or hangs, and names it; also after a second Ctrl-C.

The main thread may be stuck where no exception reaches it, in a collective or on the GPU: the thread writes the stacks
and ends the process itself.
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
from megatron_octo.runfiles.signals import INTERRUPTED, StopRequest
from megatron_octo.training.supervision.coordinator import Hub, Lines, Verdict, sleep_between
from megatron_octo.training.supervision.diagnosis import (
    PHASES,
    Phase,
    Status,
    current_frame,
    stacks,
    waiting_in,
)

# Factors on the time-out of phases that take longer than a step: reading data and a checkpoint, writing one.
SLOW_PHASES = {"start": 6.0, "saving": 6.0, "validation": 6.0, "end": 6.0}
_SILENCE_SECONDS = 60.0
_BEAT_SECONDS = 1.0
_LEAVING_SECONDS = 60.0


def longest_wait(timeout_minutes: float) -> float:
    """Return seconds for the process groups' own time-outs, above all of the watch, which reports more."""
    return 60 * timeout_minutes * max(SLOW_PHASES.values()) + 2 * _SILENCE_SECONDS


class Watch:
    """This rank's connection to the coordinator; ``at`` notes the step and phase of the main thread.

    Args:
        timeout_minutes: without progress in a phase; more in those of SLOW_PHASES.
        stop: requests to stop; a second SIGINT ends the process at once.

    Attributes:
        done: number of steps done.
        before_leaving: called before the process ends itself, to release what it holds.
    """

    def __init__(self, rank: int, world: int, timeout_minutes: float, stop: StopRequest | None = None):
        self.rank, self.world, self._stop = rank, world, stop
        self._place: tuple[int, Phase, float] = (0, "start", time.monotonic())
        self.done = 0
        self._interrupts = 0
        self._failing: Verdict | None = None
        self.before_leaving: Callable[[], None] = lambda: None
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
            hub = Hub(self.world, token, limits, self._silence, self._beat)
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
        if self._stop:
            self._stop.watched = True
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self._thread.start()

    def run_is_open(self, path: Path, attempt: int) -> None:
        """Note where records of this attempt go."""
        self._run = (path, attempt)

    def at(self, step: int, phase: Phase) -> None:
        """Note that the main thread has come to a phase of a step."""
        self._place = (step, phase, time.monotonic())

    def _status(self) -> Status:
        step, phase, since = self._place
        age = time.monotonic() - since
        status = Status(self.rank, self._host, step, phase, age)
        if age < self._limit / 2:  # the rest costs a little, and is needed for a rank that hangs
            return status
        collective, waits, started = waiting_in()
        return Status(self.rank, self._host, step, phase, age, collective, waits or age, started, current_frame())

    def _listen(self) -> None:
        heard = now = time.monotonic()
        told = 0.0
        while not self._ended.is_set():
            before = now
            sources: list[Any] = [self._lines.socket, *([self._stop.wakeup] if self._stop else [])]
            ready, _, _ = select.select(sources, [], [], self._beat / 2)
            messages = self._lines.receive() if self._lines.socket in ready else []
            if self._stop and self._stop.wakeup in ready:
                self._interrupted(self._stop.interrupts())
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
                if self._ended.wait(self._beat):  # this process is leaving anyway
                    return
                why = "its process has ended" if messages is None else f"no message from it for {self._silence:.0f} s"
                host = os.environ["MASTER_ADDR"]
                lost = Verdict(records.LOST_RANK, (0,), f"rank 0 ({host}); {why}")
                self._leave(self._failing or lost, hub_is_gone=True)
            if now - told >= self._beat:
                told = now
                with contextlib.suppress(OSError), self._lock:  # the end of the hub is noticed above
                    self._lines.send(status=self._status().to_json())

    def _interrupted(self, count: int) -> None:
        """Explain a first Ctrl-C; after a second one record the end and ask all ranks to leave at once."""
        before, self._interrupts = self._interrupts, self._interrupts + count
        if before == 0 < self._interrupts and self.rank == 0:
            print(
                "Ctrl-C: saving after this step, then leaving; Ctrl-C again leaves at once",
                file=sys.stderr,
                flush=True,
            )
        if before < 2 <= self._interrupts and not self._failing:
            what = "interrupted twice, left at once without saving"
            text = f"{what}; the same command goes on from the last checkpoint"
            self._failing = Verdict("signal SIGINT", (self.rank,), what, INTERRUPTED, text)
            self._record_end(self._failing)
            with contextlib.suppress(OSError), self._lock:
                self._lines.send(failure=self._failing.to_json())  # the verdict comes back to this rank, too

    def _leave(self, verdict: Verdict, hub_is_gone: bool = False) -> NoReturn:
        """Record what this rank was doing, and end the process."""
        # Not even a file system that hangs may hold this up.
        last_resort = threading.Timer(_LEAVING_SECONDS, os._exit, (verdict.code,))
        last_resort.daemon = True
        last_resort.start()
        if verdict.kind in (records.HANG, records.LOST_RANK) and not self._failing:
            self._record(verdict)
        if self.rank == 0 or hub_is_gone:  # only rank 0 prints, unless its server is gone
            prefix = f"[rank {self.rank}] " if self.rank else ""
            what = verdict.what.replace("; ", "\n  ")
            text = (
                verdict.text or f"{prefix}error: {verdict.kind}: {what}{self._where(verdict.kind == records.LOST_RANK)}"
            )
            print(text, file=sys.stderr, flush=True)
        if self._hub_thread:
            self._hub_thread.join()
        with contextlib.suppress(OSError):
            self.before_leaving()  # last: until here a thread of this rank may be writing to the run
        leave_process(verdict.code)

    def _where(self, lost: bool) -> str:
        if self._run is None:
            return ""
        killed = (
            "\n         a rank that ends without a message was killed, most often by the kernel for lack of memory: "
            "look at dmesg, or at the job's memory limit"
        )
        return (
            f"\n  where: {records.error_path(*self._run, self.rank).parent} has the stacks of the ranks that ran"
            "\n  hint:  start the same command again, it resumes from the last checkpoint" + (killed if lost else "")
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
        self._record_end(verdict)

    def _record_end(self, verdict: Verdict) -> None:
        if self._run is None:
            return
        records.end_attempt(
            *self._run,
            reason=verdict.kind,
            exit_code=verdict.code,
            last_step=self.done,
            detail=verdict.what,
            culprits=verdict.culprits,
        )

    def fail(self, verdict: Verdict, **record: Any) -> NoReturn:
        """Record that this rank cannot go on, tell the others, which end with the same code, and leave.

        Args:
            verdict: kind, text and exit code.
            record: ``traceback``, ``where`` and ``hint`` of the error record.
        """
        self._failing = verdict
        self._record(verdict, **record)
        with contextlib.suppress(OSError), self._lock:
            self._lines.send(failure=verdict.to_json())
        # The coordinator sends the verdict to this rank, too, and that ends it.
        self._thread.join()
        leave_process(verdict.code)

    def wait_for_verdict(self) -> None:
        """Wait after a failed collective until the coordinator has found out why; return if it does not."""
        self._thread.join(self._silence + _BEAT_SECONDS)

    def close(self) -> None:
        """End the watch when all ranks are done. Collective: a barrier comes before it."""
        with contextlib.suppress(OSError), self._lock:
            self._lines.send(bye=True)
        self._thread.join(self._silence)
        self._ended.set()
        if self._hub_thread:
            self._hub_thread.join(self._silence)
        self._lines.socket.close()


def leave_process(code: int) -> NoReturn:
    """End the process at once, whatever its other threads and process groups are stuck in."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
