"""The error class of the project, and the wrapper that every command runs under."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from megatron_octo.common.terminal import printable

USER_ERROR = 2  # the user's mistake: bad input, bad recipe, no disk space
REQUEUE = 75  # EX_TEMPFAIL: state is saved, start the same command again
FAULT = 76  # a rank died or hung: start the same command again, it resumes from the last checkpoint


class OctoError(Exception):
    """A mistake that the user can fix.

    Args:
        what: the mistake.
        where: the place: a file, ``file:line``, a recipe key, a document number.
        hint: what to do about it.

    ``code`` is the exit code of the command.
    """

    code = USER_ERROR
    kind = "error"  # of the record that a run keeps
    lone = False  # known to this rank alone, though the ranks have not met

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None):
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.hint is not None:
            lines.append(f"  hint:  {self.hint}")
        return "\n".join(lines)


class MachineError(OctoError):
    """A failure of a machine, a link or a peer: a restart from the last checkpoint may succeed."""

    code = FAULT


class BadNodeError(MachineError):
    """A node that is not fit for the run: the same command may be started again, on others."""


def disk_full(error: OSError) -> OctoError:
    """Return the error for a full disk or quota."""
    return OctoError(
        f"no space left on the device ({os.strerror(error.errno or 0)})",
        where=error.filename or "the output directory",
        hint="free some space or point the output elsewhere; nothing that was complete is lost",
    )


# Refusals of the operating system that the user can resolve, and how.
_REFUSALS = {
    errno.ENOENT: ("no such file or directory", "check the path"),
    errno.EACCES: ("permission denied", "check owner and mode"),
    errno.EPERM: ("permission denied", "check owner and mode"),
    errno.EISDIR: ("this is a directory, a file was expected", "check the path"),
    errno.ENOTDIR: ("a part of this path is no directory", "check the path"),
    errno.EEXIST: ("this exists already and is no directory", "remove it or choose another name"),
    errno.ELOOP: ("a symbolic link that leads to itself", "remove it"),
    errno.ENXIO: ("a pipe, socket or device, a file was expected", "remove it or check the path"),
    errno.EROFS: ("read-only file system", "point the output elsewhere"),
    errno.ENAMETOOLONG: ("file name too long", "check the path"),
    errno.EFBIG: ("file too large", "raise the limit (ulimit -f) or point the output elsewhere"),
}


def users_mistake(error: OSError) -> OctoError | None:
    """Return the user error for an error of the operating system; None if it is a bug."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OctoError(
            f"too many open files ({os.strerror(error.errno)})",
            where=error.filename and str(error.filename),
            hint="raise the limit: ulimit -n 65536",
        )
    if error.errno not in _REFUSALS or error.filename is None:
        return None
    what, hint = _REFUSALS[error.errno]
    return OctoError(what, where=str(error.filename), hint=hint)


# A disk or a file server that fails.
_REMOTE = getattr(errno, "EREMOTEIO", errno.EIO)  # Linux only
_FILE_SYSTEM = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, _REMOTE, errno.ENOTCONN)


def machines_failure(error: BaseException | None) -> MachineError | None:
    """Return the error for a failure that a restart may fix; None for other errors."""
    if isinstance(error, OSError) and error.errno in _FILE_SYSTEM:
        text = error.strerror or str(error)
        return MachineError(f"the file system failed: {text}", where=error.filename, hint="look at dmesg")
    return error if isinstance(error, MachineError) else None


def _fail(error: OctoError) -> NoReturn:
    # Under torchrun or srun every rank meets the same mistake before the process group
    # exists: one message is enough. Later a mistake may belong to one rank alone.
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    distributed = sys.modules.get("torch.distributed")
    talking = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if rank == "0" or talking or error.lone:
        prefix = f"[rank {rank}] " if rank.isdecimal() and rank != "0" else ""
        text = printable(error, keep="\n\t")  # a name in it may be anything
        print(f"{prefix}error: {text}", file=sys.stderr, flush=True)
    raise SystemExit(error.code)


def run_command(command: Callable[[], int | None]) -> NoReturn:
    """Run a command's ``main`` and exit: 0 if it is done, 2 with a message for a user's mistake.

    A missing file or a full disk is a user's mistake, too. Anything else is a bug and keeps its traceback.
    """
    try:
        code = command() or 0
    except OctoError as error:
        _fail(error)
    except OSError as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        _fail(mistake)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "annot allocate memory" not in str(error):
            raise
        _fail(OctoError(f"out of memory: {error}", hint="free some memory, or raise the limit (ulimit -v)"))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)
