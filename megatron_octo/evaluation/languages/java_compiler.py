"""A Java compiler that stays: one sandboxed machine compiles all programs."""

import os
import select
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.evaluation.sandbox.box import Sandbox, Session
from megatron_octo.evaluation.sandbox.limits import Limits, Mount

if TYPE_CHECKING:
    from megatron_octo.evaluation.sandbox.levels import Level

_SLOT = 800  # of its own; workers count from 0
_WALL_S = 60.0
_LIMITS = Limits(cpu_s=1e6, wall_s=1e6, memory_bytes=3 << 30, address_bytes=0, processes=128)
_TICKS = os.sysconf("SC_CLK_TCK")
_LARGEST = 64 << 20


class CompilerGoneError(Exception):
    """Raised when the compiler ended, ran out of memory or time; the next program gets a new one."""


class JavaCompiler:
    """Compiles ``Main.java`` texts; safe for several threads, which take turns.

    Args:
        java: the interpreter's path.
        classes: folder with OctoCompiler.class.
        options: of the virtual machine.
        mounts: what the virtual machine needs besides ``/usr``.
    """

    def __init__(self, java: str, classes: Path, options: Sequence[str], mounts: Sequence[Mount]) -> None:
        self._argv = [java, *options, "-cp", "/k", "OctoCompiler"]
        self._mounts = [Mount(classes, "/k"), *mounts]
        self._lock = threading.Lock()
        self._box: Sandbox | None = None
        self._session: Session | None = None
        self._ticks = 0

    def compile(self, source: str, level: "Level") -> tuple[dict[str, bytes] | None, str, float]:
        """Return classes by name, or None and the compiler's messages; and CPU seconds.

        Raises:
            CompilerGoneError: the compiler ended or let the time pass.
        """
        with self._lock:
            if self._session is None:
                self._box = Sandbox(level, _SLOT)
                self._session = self._box.start(self._argv, mounts=self._mounts, limits=_LIMITS)
                self._ticks = 0
            try:
                return self._exchange(self._session, source.encode(errors="replace"))
            except (OSError, CompilerGoneError) as error:
                self._close()
                raise CompilerGoneError(str(error)) from None

    def _exchange(self, session: Session, source: bytes) -> tuple[dict[str, bytes] | None, str, float]:
        deadline = time.monotonic() + _WALL_S
        view = memoryview(struct.pack(">i", len(source)) + source)
        while view:
            view = view[session.stdin.write(view) or 0 :]
        classes, messages = None, ""
        if _number(session, deadline):
            classes = {}
            for _ in range(_number(session, deadline)):
                name = _text(session, deadline)
                classes[name] = _bytes(session, _number(session, deadline), deadline)
        else:
            messages = _text(session, deadline)
        before, self._ticks = self._ticks, struct.unpack(">q", _bytes(session, 8, deadline))[0]
        return classes, messages, (self._ticks - before) / _TICKS

    def _close(self) -> None:
        if self._session:
            self._session.kill()
            self._session.close()
        if self._box:
            self._box.close()
        self._session = self._box = None

    def close(self) -> None:
        """End the compiler."""
        with self._lock:
            self._close()


def _bytes(session: Session, count: int, deadline: float) -> bytes:
    if not 0 <= count <= _LARGEST:
        raise CompilerGoneError("it sent nonsense")
    found = b""
    while len(found) < count:
        ready, _, _ = select.select([session.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise CompilerGoneError("time")
        block = os.read(session.stdout.fileno(), count - len(found))
        if not block:
            raise CompilerGoneError("it ended")
        found += block
    return found


def _number(session: Session, deadline: float) -> int:
    found: int = struct.unpack(">i", _bytes(session, 4, deadline))[0]
    return found


def _text(session: Session, deadline: float) -> str:
    return _bytes(session, _number(session, deadline), deadline).decode(errors="replace")
