"""One attempt at a time in a run directory: a lock with its owner's name and a heartbeat.

The lock is a file that exists or not: ``link`` makes it in one step with all its content, on network file systems, too.
Its owner touches it every few seconds. Who finds it taken looks at the owner: a process of this host that is gone has
left it behind, and so has an owner whose heart does not beat for ``STALE`` seconds, by the watch of the one who waits
(clocks of hosts differ). A live owner keeps it; one that comes back after a long sleep finds that it is not the owner
any more, and stops before it writes.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_octo.common.errors import MachineError, OctoError
from megatron_octo.common.files import create

LOCK = "lock"
HEARTBEAT = 3.0  # seconds between touches
STALE = 30.0  # no touch for so long: the owner is gone
_POLL = 0.5


@dataclass(frozen=True)
class Owner:
    """Who trains: the process, and the job and attempt it belongs to.

    Attributes:
        boot: identity of the host's start; another one means that the host was down since.
        space: the process's pid name space: pids of another one (a container's) say nothing here.
        started: the process's start in clock ticks since the boot: a pid may be given again.
    """

    host: str
    pid: int
    job: str | None
    attempt: int
    boot: str
    space: str
    started: str

    @classmethod
    def me(cls, attempt: int) -> "Owner":
        job = os.environ.get("SLURM_JOB_ID")
        return cls(socket.gethostname(), os.getpid(), job, attempt, _boot(), _space(), _start_of(os.getpid()))

    def is_dead(self) -> bool:
        """Whether the owner is known to be gone (or is this process). False may also mean that nobody can tell."""
        if self.host != socket.gethostname():
            return False  # its heart will tell
        if self.boot != _boot():
            return True
        return self.space == _space() and (self.pid == os.getpid() or self.started != _start_of(self.pid))

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, attempt {self.attempt}"


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
    """Start of a live process, in the kernel's ticks; empty if there is none (a zombie is none, either)."""
    try:
        # The command's name, in parentheses, may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except (OSError, IndexError, ValueError):
        return ""


def _look_at(path: Path) -> tuple[int, str]:
    for again in (True, False):
        try:
            with open(path, encoding="utf-8") as file:  # opening asks the server: no stale attributes
                return os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError as error:
            # Removed between open and read, as network file systems say it, or a server that was away.
            if error.errno != errno.ESTALE or not again:
                raise
    raise AssertionError("not reached")


def _read(path: Path) -> tuple[Owner | None, int] | None:
    """The owner (None: not readable) and the time of the last touch in ns; None if the lock is free.

    Raises:
        OSError: the file system does not say: the lock may be there or not.
    """
    try:
        touched, text = _look_at(path)
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(text)), touched
    except (ValueError, TypeError):
        return None, touched


def owner_of(run: Path) -> Owner | None:
    """Who has the lock of a run now, dead or alive; None if nobody has (or left no name)."""
    found = _read(run / LOCK)
    return found[0] if found else None


class RunLock:
    """The right to train in a run directory. Only rank 0 holds one.

    Args:
        path: the lock file.
        owner: what it says.
    """

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._done = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)

    @classmethod
    def acquire(cls, run: Path, attempt: int, say: Callable[[str], None] = print) -> "RunLock":
        """Take the lock of a run; waits while it cannot tell whether its owner lives.

        Raises:
            OctoError: another process trains here.
            OSError: the lock file cannot be read.
        """
        lock = cls(run / LOCK, Owner.me(attempt))
        run.mkdir(parents=True, exist_ok=True)
        seen, since = None, time.monotonic()
        while not lock._make():
            found = _read(lock.path)
            if found is None:  # released meanwhile
                time.sleep(_POLL / 10)
                continue
            owner, touched = found
            if owner and owner.is_dead():
                lock._take_over(found, f"its owner is gone ({owner})", say)
            elif seen is None:
                seen, since = touched, time.monotonic()
                say(f"the run directory is locked by {owner or 'somebody'}: looking whether it lives")
            elif touched != seen and owner and owner.job and owner.job == lock.owner.job:
                # A node that the cluster lost may live on for a while: its ranks end when their peers are missing.
                seen, since = touched, time.monotonic()
            elif touched != seen:
                raise OctoError(
                    f"another process trains in this run directory: {owner or 'one that left no name'}",
                    where=lock.path,
                    hint="wait for it or end it; a second run needs another run_dir",
                )
            elif time.monotonic() - since > STALE:
                lock._take_over(found, f"no sign of life for {STALE:.0f} s ({owner or 'owner unknown'})", say)
            else:
                time.sleep(_POLL)
        lock._thread.start()
        return lock

    def _make(self) -> bool:
        return create(self.path, json.dumps(asdict(self.owner)))

    def _take_over(self, found: tuple[Owner | None, int], why: str, say: Callable[[str], None]) -> None:
        # Of several who find it stale, one at a time removes it, and only if it still is what it saw.
        gate = self.path.with_name(f".{LOCK}.gate")
        try:
            os.close(os.open(gate, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # of one that died at the gate, long ago
                if time.time() - gate.stat().st_mtime > 10 * STALE:
                    gate.unlink()
            time.sleep(_POLL)
            return
        try:
            if _read(self.path) == found:
                self.path.unlink()
                say(f"taking over the lock of the run directory: {why}")
        finally:
            gate.unlink()

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT):
            try:
                if self._is_ours():
                    os.utime(self.path)
                else:
                    self._lost = True
                    return
            except OSError:
                continue  # a file server that is away; whoever takes over meanwhile is seen at the next beat

    def _is_ours(self) -> bool:
        found = _read(self.path)
        return found is not None and found[0] == self.owner

    def check(self, *, now: bool = False) -> None:
        """Stop a process that lost its lock. Costs nothing, unless it is to look ``now``.

        Raises:
            MachineError: somebody took over, because this process showed no sign of life.
            OSError: asked to look, and the file system does not say.
        """
        if self._lost or (now and not self._is_ours()):
            raise MachineError(
                "another attempt took over this run: this process was thought dead, and leaves without saving",
                where=self.path,
                hint=f"a process has to touch this file within {STALE:.0f} s; was it stopped, or the disk away?",
            )

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # it gets stale by itself
            if self._is_ours():
                self.path.unlink(missing_ok=True)
