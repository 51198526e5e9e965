"""Arguments of bubblewrap: what a sandboxed process sees of the machine."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_octo.evaluation.sandbox.limits import Limits, Mount

CHANNEL, REPORT, _FILTER, _FILES = 7, 8, 9, 10  # descriptors; the supervisor closes those from 9 on
UNPRIVILEGED = 2_000_000_000  # first user number of the slots when root starts them; no system gives it to a user
_SUPERVISOR = "/.supervisor"
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Links of Debian's alternatives, and the cache of the dynamic linker: nothing else of /etc is there.
_ETC = ("/etc/alternatives", "/etc/ld.so.cache")


def view(
    files: Mapping[str, bytes], mounts: Sequence[Mount], limits: Limits, environment: Mapping[str, str]
) -> list[str]:
    """Return the arguments that build the file system; descriptors of ``files`` count up from 10, in order."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for path in map(Path, _ETC):
        words += ["--ro-bind-try", str(path), str(path)]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(1 << 20), "--tmpfs", "/dev/shm"]
    words += ["--perms", "0755", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp"]
    words += ["--perms", "0755", "--dir", "/w"]
    for number, name in enumerate(files):
        words += ["--perms", "0644", "--file", str(_FILES + number), f"/w/{name}"]
    for mount in mounts:
        words += ["--bind" if mount.writable else "--ro-bind", str(mount.host), mount.inside]
    for place in ("/dev", "/proc", "/"):
        words += ["--remount-ro", place]
    words += ["--clearenv"]
    for name, value in {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **environment}.items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", "/tmp"]


def command(
    argv: Sequence[str], seen: Sequence[str], limits: Limits, supervisor: Path, slot: int, members: Sequence[Path]
) -> list[str]:
    """Return the whole command line, beginning with a path.

    Args:
        argv: what to run inside.
        seen: arguments of :func:`view`.
        limits: for the supervisor.
        supervisor: its program.
        slot: gives the user number when root starts it: the limit on processes does not bind root.
        members: files of control groups into which the process enters itself.
    """
    address = limits.memory_bytes if limits.address_bytes is None else limits.address_bytes
    numbers = [round(limits.cpu_s * 1000), limits.memory_bytes, address, limits.processes, limits.file_bytes]
    words = [
        shutil.which("bwrap") or "/usr/bin/bwrap",
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        *seen[:3],
        *("--ro-bind", str(supervisor), _SUPERVISOR),
        *seen[3:],
        *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *("--seccomp", str(_FILTER), "--", _SUPERVISOR, *map(str, numbers), *argv),
    ]
    if os.getuid() == 0:
        user = str(UNPRIVILEGED + slot)
        words = ["/usr/bin/setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", *words]
    if members:
        enter = "".join(f'echo $$ > "{path}"; ' for path in members)
        words = ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *words]
    return words
