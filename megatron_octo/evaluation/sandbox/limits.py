"""Limits of a sandboxed process, what it sees of the host, and how it ended."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Limits of one run.

    Attributes:
        cpu_s: CPU seconds of all processes of the run.
        wall_s: seconds of time; None: ten times ``cpu_s`` plus five. Only a net: load must not change a verdict.
        memory_bytes: resident memory of all processes together.
        address_bytes: address space per process; None: ``memory_bytes``; 0: no limit, for runtimes that reserve much.
        processes: processes and threads.
        file_bytes: size of one file; ``tmp_bytes`` of all in ``/tmp``.
        output_bytes: standard output and error together.
    """

    cpu_s: float = 5.0
    wall_s: float | None = None
    memory_bytes: int = 1 << 30
    address_bytes: int | None = None
    processes: int = 64
    file_bytes: int = 64 << 20
    tmp_bytes: int = 64 << 20
    output_bytes: int = 1 << 20

    @property
    def wall(self) -> float:
        """Seconds of time after which the run is ended."""
        return 10 * self.cpu_s + 5 if self.wall_s is None else self.wall_s


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that the process sees as ``inside``, read-only unless ``writable``."""

    host: Path
    inside: str
    writable: bool = False


@dataclass(frozen=True)
class Outcome:
    """End of a run.

    Attributes:
        exit_code: of the program; None if a signal ended it. ``signal``: that signal's number, or None.
        channel: what the program wrote to descriptor 7.
        cpu_s: CPU seconds of all processes inside, measured inside; ``wall_s``: seconds of time.
        limit: the limit that ended it: ``cpu``, ``wall``, ``memory`` or ``output``; or None.
        trouble: why the sandbox itself failed; None if it worked.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    channel: bytes
    cpu_s: float
    wall_s: float
    limit: str | None = None
    trouble: str | None = None
