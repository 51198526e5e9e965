"""Control groups that bound the memory and the number of processes of one sandbox, where this user may make them."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.evaluation.sandbox.folders import remove_orphans

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """Directories of one group: one under version 2, one per controller under version 1."""

    folders: tuple[Path, ...]

    @property
    def members(self) -> list[Path]:
        """Files into which a process is entered."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        """Set the limits of the next run."""
        for folder in self.folders:
            for name, value in (
                ("memory.swappiness", 0),
                ("memory.limit_in_bytes", memory_bytes),
                ("memory.max", memory_bytes),
                ("memory.swap.max", 0),
                ("memory.oom.group", 1),
                ("pids.max", processes),
            ):
                with contextlib.suppress(OSError):
                    if (folder / name).exists():
                        (folder / name).write_text(str(value))

    def kills(self) -> int:
        """Return how many processes the kernel has killed for lack of memory in this group."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError, StopIteration):
                    lines = (line.split() for line in (folder / name).read_text().splitlines())
                    return int(next(line[1] for line in lines if line[0] == "oom_kill"))
        return 0

    def remove(self) -> None:
        """Remove the group; its processes have ended."""
        for folder in self.folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def make_group(slot: int) -> Group | None:
    """Make the group of a slot of this process; None if this user may not, or the controllers are missing."""
    name = f"octo-{os.getpid()}-{slot}"
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if (_ROOT / "cgroup.controllers").exists():
        return _make([(_ROOT / own.get("", "/").lstrip("/") / name, ("memory.max", "pids.max"))])
    return _make(
        [
            (_ROOT / "memory" / own.get("memory", "/").lstrip("/") / name, ("memory.limit_in_bytes",)),
            (_ROOT / "pids" / own.get("pids", "/").lstrip("/") / name, ("pids.max",)),
        ]
    )


def _make(wanted: list[tuple[Path, tuple[str, ...]]]) -> Group | None:
    made: list[Path] = []
    for folder, files in wanted:
        remove_orphans(folder.parent.glob("octo-*-*"), Path.rmdir)
        with contextlib.suppress(OSError):
            folder.mkdir()
        if not folder.is_dir() or not all(os.access(folder / file, os.W_OK) for file in (*files, "cgroup.procs")):
            Group((*made, folder)).remove()
            return None
        made.append(folder)
    return Group(tuple(made))
