"""How well this machine can hold foreign programs: a ladder of levels, each found by running it."""

import functools
import os
import platform
import shutil
from dataclasses import dataclass
from enum import IntEnum

from megatron_octo.common.errors import OctoError

NAMES = {
    3: "full: namespaces, system-call filter, limits, control groups",
    2: "namespaces, system-call filter, limits; memory is measured, not bounded by the kernel",
    0: "none: programs run as this user with limits alone",
}


class Number(IntEnum):
    """Levels; there is nothing between namespaces and none."""

    NONE = 0
    NAMESPACES = 2
    FULL = 3


@dataclass(frozen=True)
class Level:
    """What was found.

    Attributes:
        number: of the ladder.
        missing: what a higher level lacks, with the way to get it.
    """

    number: Number
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Description in words."""
        return NAMES[self.number]


@functools.cache
def probe_level() -> Level:
    """Run a command in a sandbox, and return the highest level at which that works."""
    from megatron_octo.evaluation.sandbox import box, cgroups
    from megatron_octo.evaluation.sandbox.limits import Limits
    from megatron_octo.evaluation.sandbox.supervisor import supervisor

    if platform.system() != "Linux":
        return Level(Number.NONE, ("Linux",))
    missing = [f"apt: {package}" for tool, package in (("bwrap", "bubblewrap"),) if not shutil.which(tool)]
    if supervisor() is None:
        missing.append("apt: gcc")
    if missing:
        return Level(Number.NONE, tuple(missing))
    group = cgroups.make_group(999)
    if group:
        group.remove()
    candidate = Level(
        Number.FULL if group else Number.NAMESPACES,
        () if group else ("control groups that this user may write (root, or a delegated group)",),
    )
    with box.Sandbox(candidate, slot=999) as sandbox:
        script = "exec 9<>/dev/null; test -e /root && exit 3; test $$ -lt 9 && echo ok >&7"
        outcome = sandbox.run(["/bin/sh", "-c", script], limits=Limits(cpu_s=2, wall_s=20))
    if outcome.trouble or outcome.exit_code != 0 or outcome.channel != b"ok\n":
        why = outcome.trouble or outcome.stderr.decode(errors="replace").strip() or f"exit code {outcome.exit_code}"
        hint = "" if os.getuid() == 0 else " (sysctl kernel.unprivileged_userns_clone=1, or user.max_user_namespaces)"
        return Level(Number.NONE, (f"user namespaces: {why}{hint}",))
    return candidate


def refuse_below(level: Level, unsafe: bool) -> None:
    """Refuse to run foreign programs without a sandbox unless the user insists.

    Raises:
        OctoError: there are no namespaces, and ``unsafe`` is false.
    """
    if level.number < Number.NAMESPACES and not unsafe:
        raise OctoError(
            f"no sandbox on this machine: {'; '.join(level.missing)}",
            where="evaluate score",
            hint="install what is missing (evaluate doctor), or run programs of models as this user with --unsafe",
        )
