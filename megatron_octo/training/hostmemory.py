"""How much memory this machine, or the part of it that a job was given, has left."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can still be taken; None if the system does not say (not Linux).

    The least of what the kernel calls available and of what each control group above this process leaves (version 2;
    SLURM limits a job's memory so). File pages that a group has cached count as free: they go when memory is needed.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return free
    own = next((line.removeprefix("0::") for line in groups if line.startswith("0::")), "/")
    path = cgroup / own.strip("/")
    while True:
        free = min(free, _left_in(path, free))
        if path in (cgroup, path.parent):
            return free
        path = path.parent


def _left_in(group: Path, unlimited: int) -> int:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no such group here, or "max"
        return unlimited
    counts = {name: int(value) for name, value in (line.split() for line in lines)}
    cached = counts.get("active_file", 0) + counts.get("inactive_file", 0)
    return max(0, limit - used + cached)
