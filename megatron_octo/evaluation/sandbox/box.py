"""A sandbox for foreign programs."""

import contextlib
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.sandbox import bubblewrap, cgroups, spawn
from megatron_octo.evaluation.sandbox.folders import make_folder
from megatron_octo.evaluation.sandbox.levels import Level, Number
from megatron_octo.evaluation.sandbox.limits import Limits, Mount, Outcome
from megatron_octo.evaluation.sandbox.seccomp import build_filter
from megatron_octo.evaluation.sandbox.supervisor import supervisor

_REPORT_BYTES, _CHANNEL_BYTES = 1 << 12, 1 << 16
_DEFAULT = Limits()
_EMPTY: Mapping[str, bytes] = {}
_NO_VARIABLES: Mapping[str, str] = {}


@dataclass
class _Started:
    """A process: its number, our ends of its pipes by name, and its folder where there is no sandbox."""

    pid: int
    streams: dict[str, int]
    folder: Path | None = None

    def reap(self) -> tuple[int, bytes]:
        """Wait for its end; returns wait()'s status, and a report in the supervisor's place where there is none."""
        _, status, usage = os.wait4(self.pid, 0)
        spawn.kill_group(self.pid)  # what it may have left where there is no sandbox
        if self.folder is None:
            return status, b""
        shutil.rmtree(self.folder, ignore_errors=True)
        spent = round(1e6 * (usage.ru_utime + usage.ru_stime))
        return status, f"started\nend {status} {spent} {usage.ru_maxrss * 1024} -\n".encode()


class Sandbox:
    """Runs processes of one slot, one at a time. Several slots may be used by several threads at once."""

    def __init__(self, level: Level, slot: int = 0) -> None:
        """Make the control group of the slot, if the level has one.

        Args:
            level: of :func:`levels.probe_level`.
            slot: from 0; gives the user number under root and the name of the control group.
        """
        self.level, self.slot = level, slot
        self._group = cgroups.make_group(slot) if level.number == Number.FULL else None
        self._at_close: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def at_close(self, end: Callable[[], None]) -> None:
        """Call ``end`` before this sandbox is closed: it ends a session."""
        self._at_close.append(end)

    def close(self) -> None:
        """End what was to end with it, and remove the control group."""
        while self._at_close:
            self._at_close.pop()()
        if self._group:
            self._group.remove()
            self._group = None

    def run(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, bytes] = _EMPTY,
        mounts: Sequence[Mount] = (),
        limits: Limits = _DEFAULT,
        environment: Mapping[str, str] = _NO_VARIABLES,
        stdin: bytes = b"",
        channel: bool = True,
    ) -> Outcome:
        """Run a command to its end.

        Args:
            argv: the command, as it is inside.
            files: contents by name, read-only under ``/w``. The current directory is ``/tmp``.
            mounts: what it sees of the host besides ``/usr``.
            limits: of this run.
            environment: variables besides PATH, HOME and LANG.
            stdin: what it reads.
            channel: whether descriptor 7 is open.
        """
        with contextlib.ExitStack() as stack:
            try:
                started = self._start(stack, argv, files, mounts, limits, environment, channel)
            except OSError as error:
                return Outcome(None, None, b"", b"", b"", 0.0, 0.0, trouble=f"cannot start: {error}")
            ours = started.streams
            stack.pop_all()  # the descriptors are the follower's now
            caps = {ours["stdout"]: limits.output_bytes, ours["stderr"]: limits.output_bytes}
            caps |= {ours["channel"]: _CHANNEL_BYTES, ours["report"]: _REPORT_BYTES}
            kills = self._group.kills() if self._group else 0
            follower = spawn.Follower(started.pid, caps, (ours["stdin"], stdin))
            streams = follower.follow(limits.wall)
            status, report = started.reap()
            found = {name: bytes(streams.found.get(number, b"")) for name, number in ours.items()}
            found["report"] += report
            limit = streams.limit
            if limit is None and self._group and self._group.kills() > kills:
                limit = "memory"
        return outcome_of(found, status, limit, streams.wall_s, limits)

    def start(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, bytes] = _EMPTY,
        mounts: Sequence[Mount] = (),
        limits: Limits = _DEFAULT,
        environment: Mapping[str, str] = _NO_VARIABLES,
    ) -> "Session":
        """Start a command that stays, with pipes to its standard input and output; arguments as :meth:`run`'s."""
        with contextlib.ExitStack() as stack:
            started = self._start(stack, argv, files, mounts, limits, environment, channel=False)
            stack.pop_all()
        return Session(started, limits)

    def _start(
        self,
        stack: contextlib.ExitStack,
        argv: Sequence[str],
        files: Mapping[str, bytes],
        mounts: Sequence[Mount],
        limits: Limits,
        environment: Mapping[str, str],
        channel: bool,
    ) -> _Started:
        """Start it; our descriptors are closed by ``stack``, the child's at once."""
        theirs: dict[int, int] = {}
        ours: dict[str, int] = {}

        def give(number: int, descriptor: int) -> None:
            theirs[number] = descriptor

        with contextlib.ExitStack() as child:

            def both(name: str, number: int, writes: bool) -> None:
                read, write = spawn.pipe()
                kept, given = (read, write) if writes else (write, read)
                stack.callback(os.close, kept)
                child.callback(os.close, given)
                ours[name] = kept
                give(number, given)

            both("stdin", 0, writes=False)
            both("stdout", 1, writes=True)
            both("stderr", 2, writes=True)
            both("channel", bubblewrap.CHANNEL, writes=True)
            both("report", bubblewrap.REPORT, writes=True)
            if not channel:
                del theirs[bubblewrap.CHANNEL]
            elif os.getuid() == 0 and self.level.number != Number.NONE:
                # Runtimes without descriptors of other numbers (Java) open /dev/fd/7, as the slot's user.
                user = bubblewrap.UNPRIVILEGED + self.slot
                os.fchown(theirs[bubblewrap.CHANNEL], user, user)
            folder = None
            if self.level.number == Number.NONE:
                folder = make_folder("unsafe")
                words = _unprotected(folder, argv, files, mounts, limits, environment)
            else:
                contents = [build_filter(), *files.values()]
                for place, content in enumerate(contents, start=bubblewrap.REPORT + 1):
                    descriptor = spawn.memory_file("sandbox", content)
                    child.callback(os.close, descriptor)
                    give(place, descriptor)
                if self._group:
                    self._group.set_limits(limits.memory_bytes + (32 << 20), limits.processes + 8)
                watcher = supervisor()
                if watcher is None:
                    raise OctoError("no C compiler for the sandbox's supervisor", hint="apt: gcc")
                seen = bubblewrap.view(files, mounts, limits, environment)
                members = self._group.members if self._group else ()
                words = bubblewrap.command(argv, seen, limits, watcher, self.slot, members)
            return _Started(spawn.spawn(words, {"PATH": "/usr/bin:/bin"}, theirs), ours, folder)


def _unprotected(
    folder: Path,
    argv: Sequence[str],
    files: Mapping[str, bytes],
    mounts: Sequence[Mount],
    limits: Limits,
    environment: Mapping[str, str],
) -> list[str]:
    """Return a command that runs as this user, with limits alone; places inside become those outside."""
    inside = folder / "w"
    inside.mkdir()
    places = {"/w": str(inside), **{mount.inside: str(mount.host) for mount in mounts}}
    named = re.compile(rb"/w/(%s)\b" % b"|".join(re.escape(name).encode() for name in files) if files else rb"(?!)")
    for name, content in files.items():
        (inside / name).write_bytes(named.sub(lambda found: str(inside / found[1].decode()).encode(), content))

    def outside(word: str) -> str:
        for place, real in places.items():
            word = re.sub(rf"(?<![\w./-]){re.escape(place)}(?![\w.-])", real, word)
        return word

    address = limits.memory_bytes if limits.address_bytes is None else limits.address_bytes
    seconds = math.ceil(limits.cpu_s)
    words = ["/usr/bin/prlimit", f"--cpu={seconds}:{seconds + 1}", f"--fsize={limits.file_bytes}", "--core=0"]
    words += [f"--as={address}"] if address else []
    variables = [f"{name}={outside(value)}" for name, value in environment.items()]
    place = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(folder)]
    return [*place, *words, "/usr/bin/env", f"HOME={folder}", "LANG=C.UTF-8", *variables, *map(outside, argv)]


def outcome_of(found: Mapping[str, bytes], status: int, limit: str | None, wall_s: float, limits: Limits) -> Outcome:
    """Return the end of a run from what was read and from wait()'s status of the outermost process."""
    cpu, number, trouble = 0.0, None, None
    code: int | None = None
    lines = found["report"].decode(errors="replace").splitlines()
    missing = next((line.partition(" ")[2] for line in lines if line.startswith("missing ")), None)
    end = next((line.split() for line in reversed(lines) if line.startswith("end ")), None)
    if end and len(end) == 5:
        inner, cpu = int(end[1]), int(end[2]) / 1e6
        code = os.waitstatus_to_exitcode(inner)
        limit = limit or (None if end[4] == "-" else end[4])
    elif limit is None:
        # Killed from inside (it is of the same user), or never begun.
        code = os.waitstatus_to_exitcode(status)
        if "started" not in lines:
            trouble = found["stderr"].decode(errors="replace").strip()[:500] or f"the sandbox ended with {code}"
    if code is not None and code < 0:
        number, code = -code, None
    if missing:
        trouble = missing
    if limit is None and number == signal.SIGXCPU:
        limit = "cpu"
    return Outcome(code, number, found["stdout"], found["stderr"], found["channel"], cpu, wall_s, limit, trouble)


class Session:
    """A command that stays. ``stdin`` and ``stdout`` are binary pipes of its own."""

    def __init__(self, started: _Started, limits: Limits) -> None:
        """Take over a started process."""
        self._started, self._pid, self._limits, self._made = started, started.pid, limits, time.monotonic()
        ours = started.streams
        self.stdin: IO[bytes] = os.fdopen(ours["stdin"], "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(ours["stdout"], "rb", buffering=0)
        self._stderr, self._report = ours["stderr"], ours["report"]
        os.close(ours["channel"])
        self._outcome: Outcome | None = None

    def ended(self) -> bool:
        """Return whether it has ended."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        """End it at once."""
        spawn.kill_group(self._pid)

    def close(self, wait_s: float = 5.0) -> Outcome:
        """Close its input, wait for its end, and kill it after ``wait_s`` seconds; return how it ended."""
        if self._outcome is None:
            with contextlib.suppress(OSError):
                self.stdin.close()
            self.stdout.close()
            caps = {self._stderr: self._limits.output_bytes, self._report: _REPORT_BYTES}
            streams = spawn.Follower(self._pid, caps, None).follow(wait_s)
            status, report = self._started.reap()
            found = {"stdout": b"", "channel": b"", "stderr": bytes(streams.found[self._stderr])}
            found["report"] = bytes(streams.found[self._report]) + report
            wall = time.monotonic() - self._made
            self._outcome = outcome_of(found, status, streams.limit, wall, self._limits)
        return self._outcome
