"""Free memory of this machine, or of the part of it that a job may use."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes that can still be taken; None where that is not known (not Linux).

    It is the least of what the kernel reports as available and of what each control group above this process leaves
    (version 2 or 1; SLURM limits a job's memory so). A group's cached file pages count as free.
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
    for line in groups:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            free = _left_under(cgroup, own, free, ("memory.max", "memory.current", ""))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            free = _left_under(cgroup / "memory", own, free, names)
    return free


def _left_under(root: Path, own: str, free: int, names: tuple[str, str, str]) -> int:
    """Return what a group and those above it leave.

    Args:
        root: of the hierarchy.
        own: the group's path in it.
        free: bytes without limits.
        names: of the files of limit and use, and the prefix of the counts of cached pages.
    """
    path = root / own.strip("/")
    while True:
        free = min(free, _left_in(path, free, *names))
        if path in (root, path.parent):
            return free
        path = path.parent


def _left_in(group: Path, unlimited: int, limit_file: str, used_file: str, prefix: str) -> int:
    try:
        limit = int((group / limit_file).read_text())
        used = int((group / used_file).read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no such group here, or "max"
        return unlimited
    counts = {name: int(value) for name, value in (line.split() for line in lines)}
    cached = sum(counts.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return max(0, limit - used + cached)
